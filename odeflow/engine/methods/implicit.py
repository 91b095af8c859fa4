"""ImplicitRungeKutta: diagonally implicit methods, for stiff equations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.clock import TENSORS, Truth
from odeflow.engine.equation.implicit_function import attach
from odeflow.engine.equation.jacobian import Factors, Jacobian, Linearisation
from odeflow.engine.equation.state import Field, beside
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.stages import polynomials, weighted_sum
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature
from odeflow.plugin.plugin import required

SIMPLIFIED_ITERATIONS = 15
FULL_ITERATIONS = 25
FIXED_TOLERANCE = 1e-10  # of Newton's iteration with a fixed step size
LARGEST_PART = 0.03  # of the tolerances, with an adaptive step size


@dataclass(frozen=True)
class Newton:
    """The convergence criterion of Newton's iteration: its error is at most atol + rtol·|y|, entrywise.

    Attributes:
        rtol: Tolerance relative to the state at the start of the step.
        atol: Tolerance in the unit of the state.
        full: Whether to fall back to full Newton, with a Jacobian at every iterate, if the simplified iteration fails.
    """

    rtol: float
    atol: float
    full: bool

    def scale(self, y: Tensor) -> Tensor:
        """The permitted error, bounded below by round-off."""
        least = 10 * torch.finfo(y.dtype).eps
        return self.atol + max(self.rtol, least) * y.detach().abs() + least**2


class ImplicitStages(MemoryStages):
    """The stages of a diagonally implicit method: each solves k = f(t + ch, z + hγk) for k.

    Simplified Newton iteration uses one Jacobian and one factorisation per step. Gradients are computed by the implicit
    function theorem, not through the iteration.

    Args:
        tableau: The method.
        field: The vector field.
        newton: The convergence criterion.
        quadrature: Accumulates integrals of the field's side results, if any.
        jacobian: Computes Jacobians; it is shared to reuse its knowledge of the field's structure.
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
        self.converged: Truth = True  # whether Newton's iteration did; of each sample if these have steps of their own
        self.linearised: tuple[Tensor, Linearisation] | None = None  # a state and the derivatives there

    @property
    def traced(self) -> Callable[[Field], "ImplicitStages"]:
        return partial(ImplicitStages, self.tableau, newton=self.newton, jacobian=self.jacobian)

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        tableau = self.tableau
        self.slopes, self.sides, self.converged = [], [], True
        factors: dict[float, Factors] = {}
        for number, row in enumerate(tableau.a):
            time, base = t + tableau.c[number] * h, weighted_sum(y, row[:number], self.slopes, h)
            if len(row) == number:
                slope = self.evaluate(time, base) if number else self.first_slope(t, y)
            else:
                weight = h * row[number]
                if weight not in factors:
                    factors[weight] = self._linearise(t, y).factors(weight)
                slope = self._solved(time, base, weight, factors[weight])
                if self.converged is False:  # pyright: ignore[reportUnnecessaryComparison]
                    return self.finish(y)
                slope = self._attached(time, base, weight, slope)
            self.slopes.append(slope)
            if self.quadrature is not None:
                self.evaluate(time, weighted_sum(y, row, self.slopes, h))
                self.sides.append(self.quadrature.integrand)
        if tableau.stiffly_accurate:
            self.last = self.slopes[-1]
        return self.finish(weighted_sum(y, tableau.b, self.slopes, h))

    def _linearise(self, t: float, y: Tensor) -> Linearisation:
        """The derivatives at the start of the step, reused by all attempts from there."""
        if self.linearised is None or self.linearised[0] is not y:
            self.linearised = y, self._derivatives(t, y)
        return self.linearised[1]

    def _derivatives(self, t: float, y: Tensor) -> Linearisation:
        before = self.jacobian.evaluations
        linear = self.jacobian.at(self.field, self.inside(t), y)
        self.evaluations += self.jacobian.evaluations - before
        return linear

    def _solved(self, t: float, base: Tensor, weight: float, factors: Factors) -> Tensor:
        """The solution of k = f(t, base + weight·k) without a graph, where the iteration converges.

        Raises:
            SolveError: The iteration does not converge, and the step size is fixed.
        """
        with torch.no_grad():
            start = self.slopes[-1].detach() if self.slopes else torch.zeros_like(base)
            found, converged = self._iterated(t, base, weight, start, factors)
            if self.newton.full and not converged:
                found, converged = self._iterated(t, base, weight, start, None)
        if self.newton.full and not converged:
            raise SolveError(
                f"Newton's iteration did not converge at t = {t:g} with steps of {abs(self.h):.3g}: take smaller steps "
                "(step_size or num_steps), or an adaptive implicit solver such as Kvaerno5, and look for inf and nan "
                "in the field"
            )
        self.converged = converged
        return found

    def _iterated(
        self, t: float, base: Tensor, weight: float, slope: Tensor, factors: Factors | None
    ) -> tuple[Tensor, Truth]:
        """Newton's iteration from an initial k, with the given factors or, if None, with new ones at each iterate.

        Returns:
            k and whether it converged. Samples with steps of their own stop when they converge, or fail to.
        """
        scale, last = self.newton.scale(self.y), math.inf
        active: Any = self.converged
        converged: Any = False
        largest = _largest_of_samples if self.arithmetic is TENSORS else _largest
        count = SIMPLIFIED_ITERATIONS if factors else FULL_ITERATIONS
        for number in range(count):
            state = base.add(slope, alpha=weight)
            residual = self.evaluate(t, state) - slope
            change = (factors or self._derivatives(t, state).factors(weight)).solve(residual)
            size = abs(weight) * largest(change.abs() / scale)
            rate = size / last if number else 0.5
            moved = slope + change
            slope = moved if active is True else moved.where(beside(active, base), slope)
            finite = active & (size < math.inf)
            far = (size > 0.01) & ((number == 0) | ((size > 0.1) & ((rate >= 1) | (size * rate > 1 - rate))))
            active = finite & far
            converged = converged | (finite ^ active)
            if factors and number > 1:  # otherwise it converges too slowly
                active = active & (rate < 1) & (size * self.arithmetic.minimum(rate, 1.0) ** (count - number) <= 1)
            if not (bool(active.any()) if isinstance(active, Tensor) else active):
                break
            last = size
        return slope, converged

    def _attached(self, t: float, base: Tensor, weight: float, slope: Tensor) -> Tensor:
        """The solution k, with a graph if autograd is enabled."""
        if not torch.is_grad_enabled():
            return slope
        value = self.evaluate(t, base.add(slope, alpha=weight))
        state = base.detach().add(slope, alpha=weight)
        solve_transposed = partial(_solve_transposed, self.jacobian, self.field, self.inside(t), state, weight)
        return attach(value, slope, solve_transposed)

    def error(self) -> Tensor:
        if self.converged is False:
            return torch.full_like(self.y1.detach().reshape(-1), math.inf)
        weights = self.tableau.error_weights or ()
        with torch.no_grad():
            estimate = torch.stack(self.slopes).view(len(weights), -1).t() @ self.slopes[0].new_tensor(weights)
            if isinstance(self.converged, Tensor):
                estimate.view_as(self.y)[~self.converged] = math.inf
            return estimate

    @property
    def degree(self) -> int:
        return super().degree if self.tableau.quartic is None else 4

    def dense(self, theta: Sequence[float]) -> Tensor:
        if self.tableau.quartic is None:
            return super().dense(theta)
        slopes = torch.stack(self.slopes)
        return self.y + self.h * torch.tensordot(polynomials(self.tableau.quartic, theta, slopes), slopes, 1)

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is not None:
            for weight, side in zip(self.tableau.b, self.sides, strict=True):
                if weight:
                    self.quadrature.add(h * weight, side)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        super().restore(carried)
        self.linearised = None


def _largest(value: Tensor) -> float:
    return float(value.max()) if value.numel() else 0.0


def _largest_of_samples(value: Tensor) -> Tensor:
    """(b,), the largest entry of each sample."""
    return value.flatten(1).amax(1) if value[0].numel() else value.new_zeros(len(value))


def _solve_transposed(jacobian: Jacobian, field: Field, t: float, y: Tensor, weight: float, value: Tensor) -> Tensor:
    """(I − weight·J)⁻ᵀ value, with the Jacobian at (t, y).

    Not a method: the stages hold the graph that contains it.
    """
    return jacobian.at(field, t, y).factors(weight).solve(value, adjoint=True)


class ImplicitRungeKutta(Stepper):
    """A diagonally implicit Runge–Kutta method. Subclasses only set `tableau`.

    With embedded weights it is adaptive: if Newton's iteration does not converge, the step is repeated with a smaller
    size. Float64 is recommended.
    """

    tableau: ClassVar[Tableau] = required()
    supports = ("per_sample", "newton_tol")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "tableau" in vars(cls):
            cls.order, cls.error_order = cls.tableau.order, cls.tableau.error_order
        super().__init_subclass__(**kwargs)

    @property
    def newton(self) -> Newton:
        """The convergence criterion of Newton's iteration."""
        control, tolerance = self.control, self.newton_tol
        if isinstance(control, Fixed) or tolerance is not None:
            tolerance = FIXED_TOLERANCE if tolerance is None else tolerance
            return Newton(tolerance, tolerance, full=isinstance(control, Fixed))
        part = min(LARGEST_PART, max(control.rtol, 1e-12) ** 0.5)
        return Newton(part * control.rtol, part * control.atol, full=False)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> ImplicitStages:
        return ImplicitStages(self.tableau, field, self.newton, quadrature)
