"""Controller: the size of the next step from the errors of previous steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from odeflow.engine.equation.clock import arithmetic
from odeflow.errors import SettingError

SAFETY = 0.9
LARGEST_GAIN = 10.0
LARGEST_GROWTH = 10.0
LARGEST_SHRINKAGE = 0.2
GAINS: dict[str, tuple[float, ...]] = {"I": (1.0,), "PI": (0.7, -0.4), "PID": (1 / 18, 1 / 9, 1 / 18)}

Gains = Literal["I", "PI", "PID"] | Sequence[float]
"""A controller by name, or one to three gains (β₁, β₂, β₃)."""
History = tuple[Any, ...]
"""The ratios r of accepted steps, latest first."""


@dataclass(frozen=True)
class Controller:
    """Step size control by a digital filter of the scaled errors e of previous steps.

        hₙ₊₁ = hₙ rₙ^β₁ rₙ₋₁^β₂ rₙ₋₂^β₃,        rₙ = 0.9 eₙ^(−1/(q + 1))

    "I" uses only the last error. "PI", Söderlind's PI.3.4, gives smoother step sizes when stability rather than
    accuracy bounds them. "PID", his H312PID, gives the smoothest, for nonsmooth fields. Until enough steps are
    accepted, and after a rejected step, the controller is "I".

    Source: Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, II.4, and Hairer & Wanner, II, IV.2;
    Söderlind (2003), "Digital filters in adaptive time-stepping", ACM Trans. Math. Softw. 29, 1–26, table III.

    Attributes:
        gains: A name or the gains, which replace the name.
        order: Order q of the error estimate O(h^(q+1)).

    Raises:
        SettingError: The name is unknown, there are not one to three gains, or the first gain is not positive.
    """

    gains: Gains
    order: float

    def __post_init__(self) -> None:
        gains = self.gains
        if isinstance(gains, str):
            if gains not in GAINS:
                raise SettingError(f"controller must be one of {', '.join(GAINS)}, or the gains; got {gains!r}")
            gains = GAINS[gains]
        if not 1 <= len(gains) <= 3:
            raise SettingError(f"a controller has one to three gains (β₁, β₂, β₃); got {list(gains)}")
        if not gains[0] > 0:
            raise SettingError(
                f"a controller's first gain must be positive, so that large errors shorten steps; got {gains[0]}"
            )
        if not all(abs(gain) <= LARGEST_GAIN for gain in gains):
            raise SettingError(f"a controller's gains are of size {LARGEST_GAIN:g} at most; got {list(gains)}")
        object.__setattr__(self, "gains", tuple(gains))

    @property
    def exponent(self) -> float:
        """The exponent of the error."""
        return -1 / (self.order + 1)

    @property
    def unknown(self) -> History:
        """The history before the first step."""
        return (math.nan,) * (len(self.gains) - 1)

    def factor(self, error: Any, cut: Any, past: History) -> tuple[Any, History]:
        """The factor from the last step size to the next, and the history for the step after.

        Args:
            error: The scaled error of the last step, accepted if at most 1; may be inf or nan. A tensor if the step
                sizes are tensors.
            cut: Whether the step was truncated by a stop, so that its error is uninformative about the proposed size.
            past: The ratios r of the accepted steps before, latest first, one less than the gains; nan if unknown.
        """
        on, finite = arithmetic(error), error < math.inf
        ratio = SAFETY * on.maximum(on.where(finite, error, 1.0), 1e-30) ** self.exponent
        factor = ratio
        if self.gains != (1.0,):
            informative, (first, *others) = (error <= 1) & (cut ^ True), self.gains
            factor = ratio**first
            for gain, each in zip(others, past, strict=True):
                factor = factor * each**gain
            factor = on.where(informative & (factor == factor), factor, ratio)  # not nan
            recent = zip((ratio, *past), past, strict=False)
            past = tuple(on.where(informative, new, old) for new, old in recent)
        bounded = on.minimum(on.maximum(factor, LARGEST_SHRINKAGE), LARGEST_GROWTH)
        return on.where(finite, bounded, LARGEST_SHRINKAGE), past
