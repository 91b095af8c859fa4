"""ImplicitRungeKutta: diagonally implicit methods, for stiff equations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.implicit_function import attach
from odeflow.engine.equation.jacobian import Factors, Jacobian, Linearisation
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature
from odeflow.plugin.plugin import required

SIMPLIFIED_ITERATIONS = 15
FULL_ITERATIONS = 25
FIXED_TOLERANCE = 1e-10  # of Newton's iteration with fixed steps
LARGEST_PART = 0.03  # of the tolerances of adaptive steps


@dataclass(frozen=True)
class Newton:
    """When Newton's iteration has converged: its error is at most atol + rtol·|y|, entry by entry.

    Attributes:
        rtol: Relative to the state at the step's start.
        atol: In the state's unit.
        full: Whether to go on with a Jacobian at every iterate where one Jacobian a step does not lead to convergence.
    """

    rtol: float
    atol: float
    full: bool

    def scale(self, y: Tensor) -> Tensor:
        """The error that is allowed, as far as the dtype allows it too."""
        least = 10 * torch.finfo(y.dtype).eps
        return self.atol + max(self.rtol, least) * y.detach().abs() + least**2


class ImplicitStages(MemoryStages):
    """The stages of a diagonally implicit method: each solves k = f(t + ch, z + hγk) for its slope k.

    Newton's iteration uses one Jacobian and one factorisation a step. Autograd sees what is implicitly defined, not
    the iteration.

    Args:
        tableau: The method.
        field: The vector field.
        newton: When its iteration has converged.
        quadrature: Takes the integrals of the field's side results, if there are any.
        jacobian: Differentiates the field; what it learned of the field is used again.
    """

    def __init__(
        self,
        tableau: Tableau,
        field: Field,
        newton: Newton,
        quadrature: Quadrature | None = None,
        jacobian: Jacobian | None = None,
    ) -> None:
        super().__init__(tableau.order, field, quadrature)
        self.tableau, self.newton = tableau, newton
        self.jacobian = Jacobian() if jacobian is None else jacobian
        self.slopes: list[Tensor] = []
        self.sides: list[Sequence[Tensor | None]] = []
        self.converged = True
        self.linearised: tuple[Tensor, Linearisation] | None = None  # the state where, and the derivatives there

    @property
    def traced(self) -> Callable[[Field], "ImplicitStages"]:
        return partial(ImplicitStages, self.tableau, newton=self.newton, jacobian=self.jacobian)

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        tableau = self.tableau
        self.slopes, self.sides, self.converged = [], [], True
        factors: dict[float, Factors] = {}
        for number, row in enumerate(tableau.a):
            time, base = t + tableau.c[number] * h, self._combine(y, row[:number])
            if len(row) == number:
                slope = self.evaluate(time, base) if number else self.first_slope(t, y)
            else:
                weight = h * row[number]
                if weight not in factors:
                    factors[weight] = self._linearise(t, y).factors(weight)
                found = self._solved(time, base, weight, factors[weight])
                if found is None:
                    self.converged = False
                    return self.finish(y)
                slope = self._attached(time, base, weight, found)
            self.slopes.append(slope)
            if self.quadrature is not None:
                self.evaluate(time, self._combine(y, row))
                self.sides.append(self.quadrature.integrand)
        if tableau.stiffly_accurate:
            self.last = self.slopes[-1]
        return self.finish(self._combine(y, tableau.b))

    def _combine(self, y: Tensor, weights: Sequence[float]) -> Tensor:
        """The sum y + h Σ w k."""
        total = y
        for weight, slope in zip(weights, self.slopes, strict=False):
            if weight:
                total = total.add(slope, alpha=self.h * weight)
        return total

    def _linearise(self, t: float, y: Tensor) -> Linearisation:
        """The derivatives at the step's start, once for all attempts from there."""
        if self.linearised is None or self.linearised[0] is not y:
            self.linearised = y, self._derivatives(t, y)
        return self.linearised[1]

    def _derivatives(self, t: float, y: Tensor) -> Linearisation:
        before = self.jacobian.evaluations
        linear = self.jacobian.at(self.field, self.inside(t), y)
        self.evaluations += self.jacobian.evaluations - before
        return linear

    def _solved(self, t: float, base: Tensor, weight: float, factors: Factors) -> Tensor | None:
        """The slope k = f(t, base + weight·k) without a graph, or None if the iteration does not converge.

        Raises:
            SolveError: It does not converge, and no smaller step is taken.
        """
        with torch.no_grad():
            start = self.slopes[-1].detach() if self.slopes else torch.zeros_like(base)
            found = self._iterated(t, base, weight, start, factors)
            if found is None and self.newton.full:
                found = self._iterated(t, base, weight, start, None)
        if found is None and self.newton.full:
            raise SolveError(
                f"Newton's iteration did not converge at t = {t:g} with steps of {abs(self.h):.3g}: take smaller steps "
                "(step_size or num_steps), or an adaptive implicit solver such as Kvaerno5, and look for inf and nan "
                "in the field"
            )
        return found

    def _iterated(self, t: float, base: Tensor, weight: float, slope: Tensor, factors: Factors | None) -> Tensor | None:
        """Newton's iteration from a slope, with these factors or, without, with new ones each time."""
        scale, last = self.newton.scale(self.y), math.inf
        count = SIMPLIFIED_ITERATIONS if factors else FULL_ITERATIONS
        for number in range(count):
            state = base.add(slope, alpha=weight)
            residual = self.evaluate(t, state) - slope
            change = (factors or self._derivatives(t, state).factors(weight)).solve(residual)
            slope = slope + change
            size = abs(weight) * float((change.abs() / scale).max()) if change.numel() else 0.0
            if not math.isfinite(size):
                return None
            rate = size / last if number else 0.5
            if size <= 0.01 or (number and (size <= 0.1 or (rate < 1 and size * rate / (1 - rate) <= 1))):
                return slope
            if factors and number > 1 and (rate >= 1 or size * rate ** (count - number) > 1):
                return None  # at this rate it will not converge in time
            last = size
        return None

    def _attached(self, t: float, base: Tensor, weight: float, slope: Tensor) -> Tensor:
        """The slope that was found, with a graph where autograd is enabled."""
        if not torch.is_grad_enabled():
            return slope
        value = self.evaluate(t, base.add(slope, alpha=weight))
        state = base.detach().add(slope, alpha=weight)
        solve_transposed = partial(_solve_transposed, self.jacobian, self.field, self.inside(t), state, weight)
        return attach(value, slope, solve_transposed)

    def error(self) -> Tensor:
        if not self.converged:
            return torch.full_like(self.y1.detach().reshape(-1), math.inf)
        weights = self.tableau.error_weights or ()
        with torch.no_grad():
            return torch.stack(self.slopes).view(len(weights), -1).t() @ self.slopes[0].new_tensor(weights)

    @property
    def degree(self) -> int:
        return super().degree if self.tableau.quartic is None else 4

    def dense(self, theta: Sequence[float]) -> Tensor:
        if self.tableau.quartic is None:
            return super().dense(theta)
        powers = torch.tensor(theta, dtype=torch.float64)[:, None].expand(-1, 4).cumprod(1)
        slopes = torch.stack(self.slopes)
        weights = (powers @ torch.tensor(self.tableau.quartic, dtype=torch.float64).t()).to(slopes)
        return self.y + self.h * torch.tensordot(weights, slopes, 1)

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is not None:
            for weight, side in zip(self.tableau.b, self.sides, strict=True):
                if weight:
                    self.quadrature.add(h * weight, side)

    def advance(self) -> None:
        super().advance()
        self.linearised = None


def _solve_transposed(jacobian: Jacobian, field: Field, t: float, y: Tensor, weight: float, value: Tensor) -> Tensor:
    """(I − weight·J)⁻ᵀ value, with the Jacobian at (t, y). No method: stages hold the graph that this is a part of."""
    return jacobian.at(field, t, y).factors(weight).solve(value, adjoint=True)


class ImplicitRungeKutta(Stepper):
    """A diagonally implicit Runge–Kutta method. Subclasses set `tableau`, and that is all.

    Embedded weights let it adapt its steps: where Newton's iteration does not converge, the step is taken again with a
    smaller size. Float64 is recommended.
    """

    tableau: ClassVar[Tableau] = required()
    supports = ("newton_tol",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "tableau" in vars(cls):
            cls.order, cls.error_order = cls.tableau.order, cls.tableau.error_order
        super().__init_subclass__(**kwargs)

    @property
    def newton(self) -> Newton:
        """When the iteration has converged."""
        control, tolerance = self.control, self.newton_tol
        if isinstance(control, Fixed) or tolerance is not None:
            tolerance = FIXED_TOLERANCE if tolerance is None else tolerance
            return Newton(tolerance, tolerance, full=isinstance(control, Fixed))
        part = min(LARGEST_PART, max(control.rtol, 1e-12) ** 0.5)
        return Newton(part * control.rtol, part * control.atol, full=False)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> ImplicitStages:
        return ImplicitStages(self.tableau, field, self.newton, quadrature)
