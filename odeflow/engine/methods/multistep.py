"""Multistep: Adams methods."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.large import stages_of
from odeflow.engine.step.stages import ExplicitStages, polynomials
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature
from odeflow.errors import SettingError
from odeflow.plugin.plugin import required

HIGHEST_ORDER = 8


@cache
def adams(nodes: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Row j: the coefficients of θ, θ², … of ∫₀^θ Lⱼ, where the polynomial Lⱼ is 1 at node j and 0 at the others.

    Hence y(t + θh) = y + h Σⱼ (row j)(θ) f(t + nodeⱼ h) if f is a polynomial of degree less than the number of nodes.
    Computed in exact fractions.
    """
    rows: list[tuple[float, ...]] = []
    for node in nodes:
        polynomial = [Fraction(1)]  # coefficients of 1, s, s², …
        for other in nodes:
            if other != node:
                shifted, lowered = [Fraction(0), *polynomial], [-other * each for each in polynomial]
                polynomial = [(x + y) / (node - other) for x, y in zip(shifted, [*lowered, 0], strict=True)]
        rows.append(tuple(float(each / power) for power, each in enumerate(polynomial, start=1)))
    return tuple(rows)


class MultistepStages(MemoryStages):
    """Steps of an Adams method, and of a Runge–Kutta method until enough vector-field values are available.

    Dense output is the integral of the interpolating polynomial of these values, at no additional cost.

    Args:
        order: Order of the method.
        corrected: Whether a step is predicted, evaluated and corrected.
        starter: The method of the first steps.
        field: The vector field.
        quadrature: Accumulates integrals of the field's side results, if any.
    """

    equal_steps = True

    def __init__(
        self, order: int, corrected: bool, starter: Tableau, field: Field, quadrature: Quadrature | None = None
    ) -> None:
        super().__init__(order, field, quadrature)
        self.corrected, self.starter = corrected, starter
        self.single: ExplicitStages | None = None  # the stages of the starting method, in its steps
        self.slopes: list[Tensor] = []  # at the starts of this and earlier steps
        self.sides: list[Sequence[Tensor | None]] = []  # the field's side results there
        self.rows: tuple[tuple[float, ...], ...] = ()  # weights of this step
        self.terms: list[Tensor] = []

    @property
    def traced(self) -> Callable[[Field], "MultistepStages"]:
        return partial(MultistepStages, self.order, self.corrected, self.starter)

    def carry(self) -> tuple[Tensor, ...]:
        return tuple(self.slopes[: self.order - 1])

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        self.carried, self.first, self.last = carried, None, None

    def forget_slope(self) -> None:
        super().forget_slope()
        self.sides = []

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        past = self.sides[: len(self.carried)]
        if len(self.carried) < self.order - 1:
            single = self.single = stages_of(self.starter, self.field, y, self.quadrature)
            single.window = self.window
            self.slopes = [single.first_slope(t, y).clone(), *self.carried]
            self.sides = [single.sides[0], *past]
            y1 = single.step(t, h, y)
            self.evaluations += single.evaluations
            return self.finish(y1)
        self.single, self.slopes = None, [self.first_slope(t, y), *self.carried]
        self.sides = [self._side(), *past]
        self.rows, self.terms = adams(tuple(range(0, -self.order, -1))), self.slopes
        y1 = self._sum([1.0])[0]
        if self.corrected:
            self.rows = adams(tuple(range(1, 1 - self.order, -1)))
            self.terms = [self.evaluate(t + h, y1), *self.slopes[: self.order - 1]]
            self.predicted_side = self._side()
            y1 = self._sum([1.0])[0]
        return self.finish(y1)

    def _side(self) -> Sequence[Tensor | None]:
        return () if self.quadrature is None else self.quadrature.integrand

    def _sum(self, theta: Sequence[float]) -> Tensor:
        """(m, *state), y + h Σ w(θ) k at each point θ."""
        terms = torch.stack(self.terms)
        return self.y + self.h * torch.tensordot(polynomials(self.rows, theta, terms), terms, 1)

    @property
    def degree(self) -> int:
        return max(self.order, len(self.starter.interpolation[0]))

    def dense(self, theta: Sequence[float]) -> Tensor:
        if self.single is None:
            return self._sum(theta)
        before = self.single.evaluations
        rows = self.single.dense(theta)
        self.evaluations += self.single.evaluations - before
        return rows

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is None:
            return
        if self.single is not None:
            self.single.add_quadrature(h)
            return
        sides = [self.predicted_side, *self.sides] if self.corrected else self.sides
        for row, side in zip(self.rows, sides, strict=False):
            self.quadrature.add(h * sum(row), side)


class Multistep(Stepper):
    """An Adams method with a fixed step size, which uses the vector-field values of earlier steps.

    Subclasses set `corrected`, whether a step is predicted, evaluated and corrected; their default `order`; and
    `starters`. The first sufficiently accurate starter takes the first order − 1 steps, also after a discontinuity of
    the field or a step of another size.

    Raises:
        SettingError: As in `Stepper`, or no starter of a subclass is accurate enough for its `orders`.
    """

    order: int = required()
    corrected: ClassVar[bool] = required()
    starters: ClassVar[tuple[Tableau, ...]] = required()
    orders = range(1, HIGHEST_ORDER + 1)
    straight = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "starters" in vars(cls) and max(tableau.order for tableau in cls.starters) < cls.orders[-1] - 1:
            raise SettingError(
                f"{cls.__name__}: order {cls.orders[-1]} needs first steps of order {cls.orders[-1] - 1}; "
                f"starters has {max(tableau.order for tableau in cls.starters)} at most"
            )
        super().__init_subclass__(**kwargs)

    @property
    def starter(self) -> Tableau:
        """The starting method."""
        return next(tableau for tableau in self.starters if tableau.order >= self.order - 1)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> MultistepStages:
        return MultistepStages(self.order, self.corrected, self.starter, field, quadrature)
