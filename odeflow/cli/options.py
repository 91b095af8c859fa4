"""Options of the commands that do not use LightningCLI."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from odeflow.errors import OdeflowError
from odeflow.plugin import registry


class Options(argparse.ArgumentParser):
    """A parser of options without positional arguments, which raises OdeflowError.

    Args:
        command: The command's name.
        description: The text above the options in the help.
        epilog: The text below the options in the help.
    """

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(f"odeflow {command}", description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises the parser's message as an odeflow error.

        Raises:
            OdeflowError: Always.
        """
        raise OdeflowError(message)

    def read(self, words: list[str], known: Iterable[str]) -> argparse.Namespace:
        """Parses the words after the command.

        Args:
            words: The words.
            known: The option names, for the message about an unknown one.

        Raises:
            OdeflowError: A word is not an option, an option is unknown, or its value is invalid.
        """
        options, stray = self.parse_known_args(words)
        if stray and not stray[0].startswith("-"):
            raise OdeflowError(f"{self.prog} takes options only; got {stray[0]!r}")
        if stray:
            raise OdeflowError(registry.unknown("option", stray[0].partition("=")[0].lstrip("-"), known))
        return options


def count(text: str) -> int:
    """Parses a positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def run_of(ckpt_path: Path) -> Path | None:
    """The folder of the run that wrote the checkpoint; None if the file is not in a run's folder."""
    for folder in (ckpt_path.parent, ckpt_path.absolute().parent):
        if folder.name == "checkpoints":
            return folder.parent
    return None
