"""The stages of a step: the contract, and explicit Runge–Kutta stages without and with autograd."""

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import FLOATS, Arithmetic, Number, Window
from odeflow.engine.equation.field import recorder
from odeflow.engine.equation.state import Field, check_shape
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature


@lru_cache(maxsize=256)
def _vectors(rows: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """The rows, nested or not, as tensors that are cached for the next solve."""
    with torch.inference_mode(False):
        return [torch.tensor(row, dtype=dtype, device=device) for row in rows]


def polynomials(rows: tuple[tuple[float, ...], ...], theta: Sequence[float], like: Tensor) -> Tensor:
    """(m, n), the values of n polynomials without constant term at m points θ. Row i: the coefficients of θ, θ² …."""
    if recorder():  # plain numbers: the tensors below would be kept as part of the recording
        powers = [[place**power for power in range(1, len(rows[0]) + 1)] for place in theta]
        return like.new_tensor([[sum(map(operator.mul, row, each)) for row in rows] for each in powers])
    (coefficients,) = _vectors((rows,), torch.float64, torch.device("cpu"))
    places = torch.tensor(theta, dtype=torch.float64)
    return (places[:, None].expand(-1, coefficients.shape[1]).cumprod(1) @ coefficients.t()).to(like)


def weighted_sum(y: Tensor, weights: Sequence[float], slopes: Sequence[Tensor], h: float = 1.0) -> Tensor:
    """(*state), y + h Σ w k, by a chain of in-place additions, which save no tensors."""
    total = None
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            total = y.add(slope, alpha=h * weight) if total is None else total.add_(slope, alpha=h * weight)
    return y.clone() if total is None else total


class Stages(ABC):
    """The stages of a step: the contract between a method and the integration loop.

    `Stepper.stages` makes one such object for each solve. In each step the loop calls `step`, and for error control
    `error`; a rejected step is repeated from the same state with a smaller size. For an accepted step it calls
    `add_quadrature`, `dense` as needed, and finally `advance`, which reuses the vector-field value at the end of the
    step, if evaluated, as the first stage derivative of the next step. A method whose last stage is at the end of the
    step ("first same as last", FSAL) thus evaluates it once, and other methods only if error or dense output need it.

    With autograd enabled, `step` and `dense` must be differentiable.

    To write a family, subclass `MemoryStages`, which leaves only `step` and `traced` to implement.

    Args:
        order: Order of the method.
        field: The vector field. Call it through `evaluate`.
        quadrature: Takes the integrals of the field's side results, if there are any.

    Attributes:
        evaluations: Number of evaluations of the field so far.
        window: The times between which all stages evaluate the field, if it is discontinuous somewhere.
        arithmetic: That of decisions within a step: for all samples together, or for each of them.
        h: The size of the last step.
        y: (*state), the state at its start.
        carried: What the previous step left for the current one, each of shape (*state).
    """

    h: Any
    y: Tensor

    ends_at_outputs = False
    """Whether a step ends at each output time, where no polynomial gives the state inside a step."""
    carries = False
    """Whether a step is run again from its state and what is carried, rather than from its state alone."""
    carried: tuple[Tensor, ...] = ()
    arithmetic: Arithmetic = FLOATS

    def __init__(self, order: int, field: Field, quadrature: Quadrature | None = None) -> None:
        self.order, self.field, self.quadrature = order, field, quadrature
        self.evaluations = 0
        self.window: Window | None = None

    @property
    @abstractmethod
    def degree(self) -> int:
        """Degree of the dense output, a polynomial in θ."""

    def evaluate(self, t: Any, y: Tensor) -> Tensor:
        """(*state), the vector field at (t, y), counted and checked.

        Args:
            t: In the field's time.
            y: (*state).

        Raises:
            StateError: The shape of the value differs from that of y.
        """
        self.evaluations += 1
        slope = self.field(y.new_full((), self.inside(t)), y)
        if not isinstance(slope, Tensor) or slope.shape != y.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
            check_shape(slope, y.shape)
        return slope

    def inside(self, t: float) -> float:
        """The time t, clamped to the window."""
        return t if self.window is None else min(max(t, self.window[0]), self.window[1])

    @abstractmethod
    def add_quadrature(self, h: Any) -> None:
        """Adds an accepted step of size h to the quadrature, if there is one: weight · `quadrature.integrand`s.

        The field leaves its side results in `quadrature.integrand` at every evaluation.
        """

    @property
    @abstractmethod
    def traced(self) -> Callable[[Field], "Stages"]:
        """A field of the same values ↦ new stages of the same method, by which gradients run a step again.

        It must keep nothing of this solve alive: a `partial` of the class and its coefficients, not a method of self.
        """

    @abstractmethod
    def first_slope(self, t: Any, y: Tensor) -> Tensor:
        """(*state), k₁ = f(t, y), evaluated unless the previous step provided it."""

    @abstractmethod
    def step(self, t: Any, h: Any, y: Tensor) -> Tensor:
        """(*state), y₁, the state at t + h, after a step of size h from the state y at t. It must not change y."""

    @abstractmethod
    def error(self) -> Tensor:
        """(n,), the estimate of the local error divided by h, in a new tensor that may be overwritten."""

    @abstractmethod
    def dense(self, theta: Any) -> Tensor:
        """(m, *state), the states at the m points θ in [0, 1] of the step."""

    def stiffness(self) -> Number | None:
        """h|λ| with λ the largest eigenvalue of ∂f/∂y, if the last step gives an estimate.

        Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.2, "Stiffness Detection".
        """
        differences = self.last_differences()
        if differences is None:
            return None
        of_slopes, of_stages, size = torch.stack((*differences.norm(dim=1), self.y.detach().norm())).tolist()
        return of_slopes / of_stages if of_stages * abs(self.h) > roundings(self.y) * size else None

    def last_differences(self) -> Tensor | None:
        """(2, n), two differences, of the field's values and of states divided by h, whose ratio is |λ|, if known."""
        return None

    def interpolant(self) -> Callable[[float], Tensor]:
        """θ ↦ the state at the point θ of this step. Later steps do not change it."""
        self.last_slope()
        kept = copy.copy(self)
        kept.keep()
        return lambda theta: kept.dense([theta])[0]

    @abstractmethod
    def last_slope(self) -> Tensor:
        """(*state), f(t + h, y₁), evaluated unless already done."""

    def keep(self) -> None:
        """Copies the stage derivatives if later steps would overwrite them."""
        return

    def advance(self) -> None:
        """Moves to the next step."""
        self.restore(self.carry())

    def carry(self) -> tuple[Tensor, ...]:
        """What the step leaves for the next one: the vector-field value at its end, if evaluated."""
        return ()

    @abstractmethod
    def restore(self, carried: tuple[Tensor, ...]) -> None:
        """Prepares a step with what `carry` returned after the previous one."""

    def forget_slope(self) -> None:
        """Discards the vector-field value of the state, which was replaced."""
        self.restore(())


def roundings(y: Tensor) -> float:
    """The smallest difference of two states within a step, relative to the state, that says something of the field."""
    return 10 * torch.finfo(y.dtype).eps


class ExplicitStages(Stages):
    """The stages of an explicit Runge–Kutta method: stage derivatives k and their combinations.

    Args:
        tableau: The method.
        field: The vector field.
        quadrature: Takes the integrals of the field's side results, if there are any.

    Attributes:
        t1: The time at the end of the last step.
        y1: (*state), the state there.
        slopes: The stage derivatives, the last one of which is at the end.
    """

    h: float
    t1: float
    y1: Tensor

    def __init__(self, tableau: Tableau, field: Field, quadrature: Quadrature | None = None) -> None:
        super().__init__(tableau.order, field, quadrature)
        self.tableau = tableau
        self.count = tableau.stages - tableau.fsal  # stages without the FSAL one
        self.sides: list[Sequence[Tensor | None]] = [()] * (self.count + 1)
        self.slopes: list[Tensor] = []
        self.has_first = False
        self.has_last = False

    @property
    def degree(self) -> int:
        return len(self.tableau.interpolation[0])

    def last_differences(self) -> Tensor | None:
        slopes, weights = self.flat_slopes(), self.tableau.stiffness_weights
        if slopes is None or weights is None:
            return None
        return slopes.new_tensor(weights) @ slopes[: self.tableau.stages]

    def flat_slopes(self) -> Tensor | None:
        """(≥ s, n), the stage derivatives of the last step without autograd, if stored."""
        return None

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is not None:
            for weight, side in zip(self.tableau.b, self.sides, strict=False):
                if weight:
                    self.quadrature.add(h * weight, side)

    @property
    def traced(self) -> Callable[[Field], Stages]:
        return partial(TracedStages, self.tableau)

    def _store(self, number: int, t: float, y: Tensor) -> None:
        """Evaluates the field at (t, y) as a stage derivative of this number."""
        raise NotImplementedError

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        if not self.has_first:
            self._store(0, t, y)
            self.has_first = True
        return self.slopes[0]

    def last_slope(self) -> Tensor:
        if not self.has_last:
            self._store(self.count, self.t1, self.y1)
            self.has_last = True
        return self.slopes[self.count]

    def carry(self) -> tuple[Tensor, ...]:
        return (self.slopes[self.count],) if self.has_last else ()

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        self.has_first = bool(carried)


class ValueStages(ExplicitStages):
    """Stages without autograd: the stage derivatives are rows of a matrix, so that combinations are products.

    Args:
        tableau: The method.
        field: The vector field.
        like: A state; gives shape, dtype and device.
        quadrature: Takes the integrals of the field's side results, if there are any.
    """

    def __init__(self, tableau: Tableau, field: Field, like: Tensor, quadrature: Quadrature | None = None) -> None:
        super().__init__(tableau, field, quadrature)
        self.a = _vectors(tableau.a, like.dtype, like.device)
        self.b = _vectors((tableau.b[: self.count],), like.dtype, like.device)[0]
        self.resize(like)

    def resize(self, like: Tensor) -> None:
        """Makes room for the stage derivatives of states like this one."""
        self.shape, self.t1, self.y1 = like.shape, 0.0, like
        slopes = like.new_empty((self.count + 1, *like.shape))
        self.slopes = list(slopes.unbind())
        self.matrix = slopes.view(self.count + 1, -1)
        self.columns = [self.matrix[:number].t() for number in range(self.count + 2)]

    def _store(self, number: int, t: float, y: Tensor) -> None:
        self.slopes[number].copy_(self.evaluate(t, y))
        if self.quadrature is not None:
            self.sides[number] = self.quadrature.integrand

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.first_slope(t, y)
        self.has_last = False
        flat, c = y.view(-1), self.tableau.c
        for number in range(1, self.count):
            stage = torch.addmv(flat, self.columns[number], self.a[number], alpha=h)
            self._store(number, t + c[number] * h, stage.view_as(y))
        self.t, self.h, self.y = t, h, y
        self.t1, self.y1 = t + h, torch.addmv(flat, self.columns[self.count], self.b, alpha=h).view_as(y)
        return self.y1

    def error(self) -> Tensor:
        if self.tableau.fsal:
            self.last_slope()
        weights = self.tableau.error_weights or ()
        vector = _vectors((weights,), self.matrix.dtype, self.matrix.device)[0]
        return torch.mv(self.columns[len(weights)], vector)

    def dense(self, theta: Sequence[float]) -> Tensor:
        self.last_slope()
        weights = polynomials(self.tableau.interpolation, theta, self.matrix)
        rows = torch.addmm(self.y.view(1, -1), weights, self.matrix, alpha=self.h)
        return rows.view(len(theta), *self.shape)

    def flat_slopes(self) -> Tensor | None:
        return self.matrix

    def keep(self) -> None:
        self.matrix = self.matrix.clone()

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        super().restore(carried)
        for slope in carried:
            self.slopes[0].copy_(slope)

    def advance(self) -> None:
        super().advance()
        self.sides[0] = self.sides[self.count]


class TracedStages(ExplicitStages):
    """Stages with autograd: combinations are chains of in-place additions, which save no tensors."""

    def _store(self, number: int, t: float, y: Tensor) -> None:
        self.slopes[number:] = [self.evaluate(t, y)]

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        slopes = self.slopes = [self.first_slope(t, y)]
        self.has_last = False
        tableau = self.tableau
        for number in range(1, self.count):
            slopes.append(self.evaluate(t + tableau.c[number] * h, self._combine(y, tableau.a[number], h)))
        self.t, self.h, self.y = t, h, y
        self.t1, self.y1 = t + h, self._combine(y, tableau.b[: self.count], h)
        return self.y1

    def _combine(self, y: Tensor, weights: Sequence[float], h: float) -> Tensor:
        return weighted_sum(y, weights, self.slopes, h)

    def error(self) -> Tensor:
        if self.tableau.fsal:
            self.last_slope()
        weights = self.tableau.error_weights or ()
        with torch.no_grad():
            slopes = torch.stack(self.slopes[: len(weights)]).view(len(weights), -1)
            return torch.mv(slopes.t(), slopes.new_tensor(weights))

    def dense(self, theta: Sequence[float]) -> Tensor:
        self.last_slope()
        slopes = torch.stack(self.slopes)
        weights = polynomials(self.tableau.interpolation, theta, slopes)
        rows = torch.addmm(self.y.reshape(1, -1), weights, slopes.view(len(self.slopes), -1), alpha=self.h)
        return rows.view(len(theta), *self.y.shape)

    def flat_slopes(self) -> Tensor | None:
        return torch.stack([slope.detach() for slope in self.slopes]).view(len(self.slopes), -1)

    def keep(self) -> None:
        self.slopes = list(self.slopes)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        super().restore(carried)
        self.slopes = list(carried)
