"""Check: one law, applied to one plugin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from torch import Tensor

from odeflow.errors import ConformanceError

P = ParamSpec("P")

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Check:
    """A law applied to a plugin. Call it to check the law. Its `str` is the law's name, for ids of parametrised tests.

    Attributes:
        law: Name of the law.
        run: The function that checks the law.
    """

    law: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Checks the law.

        Raises:
            ConformanceError: The law is violated.
        """
        self.run()

    def __str__(self) -> str:
        return self.law


def checks_of(name: str, subject: Subject, laws: Sequence[Callable[[Subject], None]]) -> list[Check]:
    """The laws as checks of a subject.

    Args:
        name: The name of the plugin's class, with which the report of a violation begins.
        subject: What the laws are about.
        laws: The functions that check them.
    """

    def bound(law: Callable[[Subject], None]) -> Check:
        title = law.__name__.replace("_", " ")

        def run() -> None:
            try:
                law(subject)
            except ConformanceError as problem:
                raise ConformanceError(f"{name}: {title}: {problem}") from None

        return Check(title, run)

    return [bound(law) for law in laws]


def all_of(checks: Callable[P, list[Check]]) -> Callable[P, None]:
    """The function that runs the checks that another one returns, in order, up to the first that fails.

    Args:
        checks: The function that returns the checks; it documents the arguments.
    """

    def check(*args: P.args, **kwargs: P.kwargs) -> None:
        for each in checks(*args, **kwargs):
            each()

    check.__doc__ = f"""Checks all laws. Arguments as for `{checks.__name__}`.

    Raises:
        ConformanceError: A law is violated.
    """
    return check


def require(holds: bool, *, wanted: str, got: str, look: str) -> None:
    """Raises the report of a violated law.

    Raises:
        ConformanceError: `holds` is False.
    """
    if not holds:
        raise ConformanceError(f"wanted {wanted}; got {got}. Look at {look}")


def largest(difference: Tensor) -> float:
    """The largest absolute entry; 0 for an empty tensor."""
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


def relative(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖ / ‖truth‖."""
    value, truth = value.detach(), truth.detach()
    return float((value - truth).norm() / truth.norm().clamp_min(1e-300))
