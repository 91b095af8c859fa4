"""The Adams–Bashforth methods."""

from collections.abc import Sequence

import odeflow as of
from odeflow_solvers.dopri8 import Dopri8
from odeflow_solvers.rk4 import RK4


class AdamsBashforth(of.Multistep):
    """Adams–Bashforth, order 1 to 8: explicit, one evaluation a step at any order.

    Its first steps are those of `RK4`, for orders above 5 of `Dopri8`. The higher the order, the smaller the step at
    which it becomes unstable.

    Source: Hairer, Nørsett & Wanner, III.1; the coefficients are computed.

    Args:
        order: Order of the method.
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        jump_ts: Times at which the field jumps. A step ends at each, one more than without, and the field is evaluated
            on its own side of it throughout.

    Raises:
        SettingError: The order is out of range, neither or both of step_size and num_steps were given, or not
            positive.
    """

    order = 4
    corrected = False

    def __init__(
        self,
        order: int = 4,
        step_size: float | None = None,
        num_steps: int | None = None,
        jump_ts: Sequence[float] | None = None,
    ) -> None:
        starter = RK4.tableau if order <= 5 else Dopri8.tableau
        super().__init__(order, starter, step_size, num_steps, jump_ts)
