"""A family of solvers in a loose file: explicit linear two-step methods, and two methods of it.

odeflow fit -c spiral --plugins examples/two_step.py --model.solver ExtrapolatedBDF2 --model.solver.step_size 0.025
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

import odeflow as of

Pair = tuple[float, float]


class TwoStepStages(of.MemoryStages):
    """One step, y₁ = a₀ y + a₁ y₋ + h (b₀ f + b₁ f₋), from the state and slope at its start and a step before (₋).

    Where nothing is known of the step before, it is a step of the explicit midpoint method. Dense output is the
    parabola y + θ h f + θ² (y₁ − y − h f), which costs nothing.

    Args:
        a: Coefficients of the states.
        b: Coefficients of the slopes.
        field: The vector field.
        quadrature: Takes the integrals of the field's side results, if there are any.
    """

    equal_steps = True

    def __init__(self, a: Pair, b: Pair, field: of.Field, quadrature: of.Quadrature | None = None) -> None:
        super().__init__(2, field, quadrature)
        self.a, self.b = a, b

    @property
    def traced(self) -> Callable[[of.Field], "TwoStepStages"]:
        return partial(TwoStepStages, self.a, self.b)

    def carry(self) -> tuple[Tensor, ...]:
        return self.y, self.first_slope(self.t, self.y)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        super().restore(carried)
        self.first = None  # the slope that is carried is not that of this step

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        slope = self.first_slope(t, y)
        if not self.carried:
            return self.finish(y + h * self.evaluate(t + h / 2, y + h / 2 * slope))
        before, slope_before = self.carried
        states = self.a[0] * y + self.a[1] * before
        return self.finish(states + h * (self.b[0] * slope + self.b[1] * slope_before))

    @property
    def degree(self) -> int:
        return 2

    def dense(self, theta: Sequence[float]) -> Tensor:
        place = self.y.new_tensor(theta).view(-1, *(1,) * self.y.dim())
        rise = self.h * self.first_slope(self.t, self.y)
        return torch.addcmul(self.y + place * rise, place.square(), self.y1 - self.y - rise)


class TwoStep(of.Stepper):
    """An explicit linear two-step method of order 2, of fixed steps. Subclasses set `a` and `b`.

    The order conditions are a₀ + a₁ = 1, b₀ + b₁ = 1 + a₁ and a₁ − 2 b₁ = 1; it is stable for small steps if
    −1 < a₁ ≤ 1 (Hairer, Nørsett & Wanner, III.2 and III.3).

    Raises:
        TableauError: The coefficients of a subclass violate one of these.
    """

    order = 2
    a: ClassVar[Pair] = of.required()
    b: ClassVar[Pair] = of.required()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if {"a", "b"} <= vars(cls).keys():
            (a0, a1), (b0, b1) = cls.a, cls.b
            if max(abs(a0 + a1 - 1), abs(b0 + b1 - a1 - 1), abs(a1 - 2 * b1 - 1)) > 1e-12 or not -1 < a1 <= 1:
                raise of.TableauError(
                    f"{cls.__name__} must have a₀ + a₁ = 1, b₀ + b₁ = 1 + a₁, a₁ − 2 b₁ = 1 and −1 < a₁ ≤ 1; "
                    f"got a = {cls.a} and b = {cls.b}"
                )

    def stages(self, field: of.Field, y0: Tensor, quadrature: of.Quadrature | None) -> TwoStepStages:
        return TwoStepStages(self.a, self.b, field, quadrature)


class Nystrom(TwoStep):
    """Nyström's method of order 2, the explicit midpoint rule y₁ = y₋ + 2 h f: for oscillations without friction.

    Source: Nyström (1925); Hairer, Nørsett & Wanner, III.1.
    """

    a = (0.0, 1.0)
    b = (2.0, 0.0)


class ExtrapolatedBDF2(TwoStep):
    """The second backward differentiation formula, with its slope extrapolated from the two before.

    Source: Ascher, Ruuth & Wetton (1995), "Implicit-explicit methods for time-dependent partial differential
    equations", SIAM J. Numer. Anal. 32, 797–823: the explicit part of SBDF.
    """

    a = (4 / 3, -1 / 3)
    b = (4 / 3, -2 / 3)
