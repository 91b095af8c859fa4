"""Pages of the site that are made of what lies elsewhere: decisions, examples, changelog and the registered plugins."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]  # odeflow need not be installed where its site is built

from odeflow.plugin import catalogue  # noqa: E402
from odeflow.plugin.description import Description, Option  # noqa: E402

EXAMPLES = {
    **{f"{file.stem}.py": file for file in sorted((ROOT / "examples").glob("*.py"))},
    **{file.name: file for file in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))},
}
PLUGINS = catalogue.imported()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the decisions, and a page for each kind of plugin, to the navigation."""
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    _fill(config.nav, "Decisions", [f"decisions/{name}" for name in decisions])
    _fill(config.nav, "All plugins", [{kind: _page_of(kind)} for kind in PLUGINS])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {"changelog.md": _changelog(), "examples.md": "\n".join(_examples())}
    pages |= {_page_of(kind): "\n".join(_kind(kind, several)) for kind, several in PLUGINS.items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to an example lead to its section; on GitHub they lead to the file."""
    return re.sub(r"\]\((?:\.\./)+examples/(?:notebooks/)?([\w.]+)\)", r"](/examples.md#\1)", markdown)


def _fill(nav: Any, title: str, pages: list[Any]) -> None:
    for entry in nav if isinstance(nav, list) else ():
        for name, below in entry.items() if isinstance(entry, dict) else ():
            if name == title:
                below.extend(pages)
            else:
                _fill(below, title, pages)


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")


def _examples() -> Iterator[str]:
    yield "# Examples\n\nScripts in plain PyTorch, and notebooks; the tests run all of them.\n"
    for name, file in EXAMPLES.items():
        yield f"## {name} {{#{name}}}\n"
        yield from _notebook(file) if file.suffix == ".ipynb" else _script(file)


def _script(file: Path) -> Iterator[str]:
    code = file.read_text()
    summary = (ast.get_docstring(ast.parse(code)) or "").splitlines()[0]
    yield f"{summary}\n\n```python\n{code}```\n"


def _notebook(file: Path) -> Iterator[str]:
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        yield f"```python\n{text}\n```\n" if cell["cell_type"] == "code" else text.replace("# ", "### ", 1) + "\n"


def _page_of(kind: str) -> str:
    return f"reference/plugins/{kind}.md"


def _kind(kind: str, several: list[Description]) -> Iterator[str]:
    yield f"# Plugins of the kind {kind}\n"
    yield f"As `odeflow plugins list {kind}` names them and `odeflow plugins show NAME` describes them.\n"
    for plugin in several:
        yield f"## {plugin.name}\n\n`{plugin.path}`\n\n{_prose(plugin.doc)}\n"
        if plugin.options:
            yield "| option | default | type | meaning |\n|---|---|---|---|"
            yield from map(_row, plugin.options)
            yield ""


def _row(option: Option) -> str:
    default = "required" if option.default is None else f"`{option.default}`"
    meaning = " ".join(option.meaning.split()).replace("|", "\\|")
    return f"| `{option.name}` | {default} | `{option.type}` | {meaning} |"


def _prose(doc: str) -> str:
    """A docstring as Markdown: its indented sections are code if they are examples, and else lists."""
    return re.sub(r"^(Example|Raises|Attributes):\n((?: {4}.*\n?|\n)+)", _section, doc, flags=re.MULTILINE)


def _section(found: re.Match[str]) -> str:
    text = re.sub(r"^ {4}", "", found[2], flags=re.MULTILINE).rstrip()
    if found[1] == "Example":
        return f"```python\n{text}\n```\n"
    return f"**{found[1]}**\n\n" + re.sub(r"^(?=\w)", "- ", text, flags=re.MULTILINE) + "\n"
