"""Coefficient: a physical parameter of an equation, learned within its bounds and reported by its name."""

import math

import torch
from torch import Tensor, nn

import odeflow as of


class Coefficient(nn.Module):
    """A scalar parameter p of an equation, as a function of an unbounded number x that is learned.

    p = s x without bounds, with the magnitude s of the initial value; p = low + exp(x) above a lower bound,
    p = high − exp(x) below an upper one, and p = low + (high − low) / (1 + exp(−x)) between two.

    Call it for its value. An attribute of a field that is a `Coefficient` has a name: the task `Trajectory` logs its
    value and tabulates it with its standard error.

    Args:
        value: The initial value.
        low: The lower bound; None if there is none.
        high: The upper bound; None if there is none.
        unit: The unit, for tables.
        trainable: Whether it is learned.

    Attributes:
        raw: (), x.

    Raises:
        SettingError: The value is not finite, or not between the bounds.

    Example:
        >>> rate = Coefficient(0.5, low=0.0, unit="1/day")
        >>> float(rate().detach())
        0.5
    """

    def __init__(
        self,
        value: float,
        low: float | None = None,
        high: float | None = None,
        unit: str = "",
        trainable: bool = True,
    ) -> None:
        super().__init__()
        at_least, at_most = -math.inf if low is None else low, math.inf if high is None else high
        if not (math.isfinite(value) and at_least < value < at_most):
            raise of.SettingError(f"a coefficient must be finite and lie between {at_least} and {at_most}; got {value}")
        self.low, self.high, self.unit, self.scale = low, high, unit, abs(value) or 1.0
        self.raw = nn.Parameter(torch.tensor(self._unbounded(float(value))), requires_grad=trainable)

    def forward(self) -> Tensor:
        """(), the value of the parameter."""
        return self.of(self.raw)

    def of(self, x: Tensor) -> Tensor:
        """The value of the parameter for any x, of the same shape."""
        if self.low is not None and self.high is not None:
            return self.low + (self.high - self.low) * x.sigmoid()
        if self.low is not None:
            return x.exp() + self.low if self.low else x.exp()
        return self.scale * x if self.high is None else self.high - x.exp()

    def _unbounded(self, value: float) -> float:
        if self.low is not None and self.high is not None:
            return math.log((value - self.low) / (self.high - value))
        if self.low is not None:
            return math.log(value - self.low)
        return value / self.scale if self.high is None else math.log(self.high - value)


def positive(owner: str, name: str, value: float, trainable: bool) -> Coefficient:
    """A positive coefficient.

    Args:
        owner: Name of the class, for messages.
        name: Name of the coefficient, for messages.
        value: The initial value.
        trainable: Whether it is learned.

    Raises:
        SettingError: `value` is not positive.
    """
    if not value > 0:
        raise of.SettingError(f"{owner}: {name} must be positive; got {value}")
    return Coefficient(value, low=0.0, trainable=trainable)
