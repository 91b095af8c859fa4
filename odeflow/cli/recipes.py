"""`odeflow recipes list | show | copy`. Does not import torch, so that it starts fast."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from odeflow.config import recipes as shelf
from odeflow.errors import RecipeError


def recipes(words: list[str]) -> int:
    """Runs the command.

    Raises:
        RecipeError: A recipe is unknown, or the target file exists.
    """
    parser = argparse.ArgumentParser("odeflow recipes", description="The experiments that come with odeflow.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name all recipes")
    actions.add_parser("show", help="print a recipe").add_argument("name")
    copy = actions.add_parser("copy", help="copy a recipe, to change it")
    copy.add_argument("name")
    copy.add_argument("file")
    given = parser.parse_args(words)
    console = Console()
    if given.action == "list":
        table = Table("recipe", "what it is", box=None, pad_edge=False)
        for name, file in (shelf.available() | shelf.sweeps()).items():
            table.add_row(name, shelf.headline(file))
        console.print(table, markup=False)
    elif given.action == "show":
        text = _text(given.name)
        if console.is_terminal:
            console.print(Syntax(text, "yaml", background_color="default"), soft_wrap=True)
        else:
            console.out(text, end="", highlight=False)
    else:
        target = Path(given.file)
        if target.exists():
            raise RecipeError(f"{target} exists already; name another file")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_text(given.name))
        how = f"wandb sweep {target}" if given.name in shelf.sweeps() else f"odeflow fit -c {target}"
        console.print(f"copied to {target}: run it by {how}")
    return 0


def _text(name: str) -> str:
    """The text of a recipe or of a sweep."""
    return shelf.text(shelf.sweeps().get(name) or shelf.find(name))
