"""The site: its navigation, its reference, and the commands that its pages name."""

import re
from pathlib import Path

import odeflow as of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS): page.read_text() for page in sorted(DOCS.rglob("*.md"))}


def test_every_page_is_in_the_navigation():
    """A page that the navigation does not name is a mistake; decisions are added by the hook."""
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    written = {str(page) for page in PAGES if page.parts[0] != "decisions"}
    assert sorted(listed) == sorted(set(listed))
    assert written | {"examples.md", "changelog.md"} == set(listed)


def test_every_public_name_has_a_reference_and_an_example():
    """Each is documented by one page of the reference, and used by Python on some page."""
    documented = re.findall(r"^::: odeflow\.(\w+)$", "\n".join(PAGES.values()), re.MULTILINE)
    assert sorted([*documented, "paths"]) == sorted(of.__all__)
    code = "\n".join(block for text in PAGES.values() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert set(of.__all__) - set(re.findall(r"\bof\.(\w+)", code)) == set()
