"""Formula: an arithmetic expression in named quantities, such as -beta*S*I/N."""

import ast
import keyword
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import CodeType
from typing import Any

import torch

import odeflow as of

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "abs", "sigmoid")},
    "min": torch.minimum,
    "max": torch.maximum,
}
"""The functions of a formula, by name."""
NUMBERS = {"pi": math.pi}
OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


class Formula:
    """An expression of numbers, names, + − * / **, parentheses and the functions in `FUNCTIONS`.

    Args:
        owner: Whose it is, for messages.
        text: The expression.
        names: The names that it may contain, besides pi.

    Attributes:
        names: The names in it.

    Raises:
        SettingError: It is no such expression, or contains an unknown name.

    Example:
        >>> Formula("growth", "r * x * (1 - x / K)", {"r", "x", "K"})({"r": 2.0, "x": 1.0, "K": 2.0})
        1.0
    """

    def __init__(self, owner: str, text: str, names: set[str]) -> None:
        self.owner, self.text = owner, str(text)
        tree = self._parsed()
        self.names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(FUNCTIONS) - set(NUMBERS)
        for name in sorted(self.names - names):
            near = get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise of.SettingError(
                f"{owner}: no quantity is named {name!r} in {self.text!r}.{hint} There are {', '.join(sorted(names))}"
            )
        self._code: CodeType = compile(tree, owner, "eval")

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value of the expression.

        Args:
            values: The value of each name.
        """
        return eval(self._code, {"__builtins__": {}}, {**FUNCTIONS, **NUMBERS, **values})  # of checked nodes only

    def _parsed(self) -> ast.Expression:
        """The syntax tree, which contains arithmetic only."""
        wanted = f"wanted is an expression of numbers, names, + - * / ** and {', '.join(FUNCTIONS)}"
        words = [word for word in re.findall(r"[^\W\d]\w*", self.text) if keyword.iskeyword(word)]
        if words:
            raise of.SettingError(f"{self.owner}: {words[0]!r} cannot be a name in {self.text!r}. Choose another")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError) as problem:
            raise of.SettingError(f"{self.owner}: cannot read {self.text!r}; {wanted}") from problem
        for node in ast.walk(tree.body):
            if not _arithmetic(node):
                hint = " Write powers as **" if isinstance(node, ast.BitXor) else ""
                raise of.SettingError(f"{self.owner}: cannot read {self.text!r}; {wanted}.{hint}")
        return tree


def _arithmetic(node: ast.AST) -> bool:
    """Whether a node of a syntax tree belongs to an arithmetic expression."""
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
    return isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.UAdd, ast.USub, *OPERATIONS))
