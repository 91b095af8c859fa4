"""Options of the commands that Lightning does not run."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from odeflow.errors import OdeflowError
from odeflow.plugin import registry


class Options(argparse.ArgumentParser):
    """A parser of options alone, whose mistakes are errors of odeflow's.

    Args:
        command: The command's name.
        description: What it does, for its help.
        epilog: What stands below the options in its help.
    """

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(f"odeflow {command}", description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises what the command line prints.

        Raises:
            OdeflowError: Always.
        """
        raise OdeflowError(message)

    def read(self, words: list[str], known: Iterable[str]) -> argparse.Namespace:
        """The options in the words after the command.

        Args:
            words: Those words.
            known: The options' names, for the message about one that is none.

        Raises:
            OdeflowError: A word is no option, an option is unknown, or its value makes no sense.
        """
        options, stray = self.parse_known_args(words)
        if stray and not stray[0].startswith("-"):
            raise OdeflowError(f"{self.prog} takes options only; got {stray[0]!r}")
        if stray:
            raise OdeflowError(registry.unknown("option", stray[0].partition("=")[0].lstrip("-"), known))
        return options


def count(text: str) -> int:
    """Reads a positive number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def run_of(ckpt_path: Path) -> Path | None:
    """The folder of the run whose checkpoint it is, if it lies where a run left it."""
    for folder in (ckpt_path.parent, ckpt_path.absolute().parent):
        if folder.name == "checkpoints":
            return folder.parent
    return None
