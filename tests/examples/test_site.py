"""The site: its navigation, its reference, and the commands that its pages name."""

import re
import shlex
from pathlib import Path

import pytest

import odeflow as of
from odeflow.config import recipes

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


def commands() -> list[list[str]]:
    """The words of each `odeflow fit -c RECIPE` of the README and the site that needs no file of the reader's."""
    text = "\n".join([(ROOT / "README.md").read_text(), *PAGES.values()])
    found = re.findall(r"^(?: {4})?odeflow (fit -c .*)", text, re.MULTILINE)
    lines = {line.split("&&")[0].split(" #")[0].strip() for line in found}
    known, needs = (
        recipes.available(),
        ("--data.path", "--ckpt_path", "--plugins", "--weights", "`", "’", "…", "|", "\\"),
    )
    several = [shlex.split(line) for line in sorted(lines) if not any(part in line for part in needs)]
    return [words for words in several if words[2] in known]


@pytest.mark.slow
def test_commands_of_the_pages_can_be_built(shell, tmp_path):
    """Every training that a page names has options that exist: model, data and trainer are built."""
    found = commands()
    assert len(found) > 15
    lines = [["check", words[2], *words[3:], "--trainer.logger", "false"] for words in found]
    for words, ended in zip(found, shell(tmp_path).session(*lines), strict=True):
        assert ended.status == 0, (words, ended.err)


@pytest.mark.slow
def test_get_started_runs(shell, tmp_path):
    """Its commands run one after the other as they stand, trained for a moment, and make the files that it names."""
    page = PAGES[Path("get_started.md")]
    blocks = re.findall(r"```\n(odeflow .*?)```", page, re.DOTALL)
    lines = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    short = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--trainer.enable_progress_bar",
        "false",
    ]
    rows = (f"{60 + 7 * n % 90},{13 * n % 50},{200 + 3 * n},A" for n in range(60))
    (tmp_path / "houses.csv").write_text("\n".join(["size,age,price,street", *rows]))
    ended = shell(tmp_path).session(*(words + short if words[0] == "fit" else words for words in lines))
    for words, outcome in zip(lines, ended, strict=True):
        assert outcome.status == 0, (words, outcome.err)
    assert (tmp_path / "runs/spiral/version_0/checkpoints/best.ckpt").is_file()
    assert (tmp_path / "predictions.csv").read_text().startswith("row,price")
