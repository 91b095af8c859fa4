"""ImplicitRungeKutta and AdaptiveImplicitRungeKutta: diagonally implicit methods, for stiff equations."""

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
from odeflow.engine.loop.control import ErrorPer, Norm
from odeflow.engine.loop.controller import Gains
from odeflow.engine.loop.stepper import AdaptiveStepper, FixedStepper, Stepper
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature
from odeflow.errors import SettingError
from odeflow.plugin.plugin import required

SIMPLIFIED_ITERATIONS = 15
FULL_ITERATIONS = 25


@dataclass(frozen=True)
class Newton:
    """When Newton's iteration has converged: its error is at most atol + rtol·|y|, entry by entry.

    Attributes:
        rtol: Relative to the state at the step's start.
        atol: In the state's unit.
        full: Whether to go on with a Jacobian at every iterate where one Jacobian a step does not lead to convergence.

    Raises:
        SettingError: Both tolerances are 0, one is negative, or the relative one solves nothing.
    """

    rtol: float
    atol: float
    full: bool

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise SettingError(f"newton_tol must be positive; it makes tolerances of {self.rtol:g} and {self.atol:g}")
        if not self.rtol < 1:
            raise SettingError(f"newton_tol must be below 1; it makes a relative tolerance of {self.rtol:g}")

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


class DiagonallyImplicit(Stepper):
    """What methods with equal steps and with chosen ones share.

    Subclass `ImplicitRungeKutta` or `AdaptiveImplicitRungeKutta`.
    """

    tableau: ClassVar[Tableau] = required()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls):
            cls.order = cls.tableau.order


class ImplicitRungeKutta(DiagonallyImplicit, FixedStepper):
    """A diagonally implicit Runge–Kutta method with equal steps. Subclasses set `tableau`, and that is all.

    Float64 is recommended.

    Args:
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        newton_tol: To which error the equations of a step are solved, relative to 1 + |y|.
        jump_ts: Times at which the field jumps. A step ends at each, one more than without, and the field is evaluated
            on its own side of it throughout.

    Raises:
        SettingError: Neither or both of the first two were given, or a value is not positive.
    """

    def __init__(
        self,
        step_size: float | None = None,
        num_steps: int | None = None,
        newton_tol: float = 1e-10,
        jump_ts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(step_size, num_steps, jump_ts)
        self.newton = Newton(newton_tol, newton_tol, full=True)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> ImplicitStages:
        return ImplicitStages(self.tableau, field, self.newton, quadrature)


class AdaptiveImplicitRungeKutta(DiagonallyImplicit, AdaptiveStepper):
    """A diagonally implicit Runge–Kutta pair with error control. Subclasses set `tableau`, with embedded weights.

    Where Newton's iteration does not converge, the step is taken again with a smaller size. Float64 is recommended.

    Args:
        rtol: Relative tolerance of one step's error.
        atol: Absolute tolerance, in the state's unit.
        first_step: Size of the first step, in the field's time; chosen from the field by default.
        min_step: Smallest step; below it the solve fails. 0: as small as the time's floating point allows.
        max_step: Largest step; unbounded by default.
        max_steps: Largest number of attempted steps.
        newton_tol: To which part of the tolerances the equations of a step are solved; √rtol, at most 0.03, by default.
            Smaller makes gradients, which are those of the exact solution of these equations, more exact.
        controller: How the next step's size follows from the errors of the last: "I", "PI", "PID", or up to three gains
            (see `Controller`).
        norm: What of a step's scaled error must be at most 1: "rms", the root mean square over everything;
            "max_sample", the largest of the samples' own. The latter needs a state of one Tensor (B, d, …).
        error_per: What the tolerances bound: "step", the error of each step; "span", the errors of all steps in sum, so
            that the error at the end is about the tolerance times what the problem amplifies, or less ("error per unit
            step").
        jump_ts: Times at which the field jumps. A step ends at each, and the field is evaluated on its own side of it
            throughout.

    Raises:
        SettingError: A value is out of range.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        newton_tol: float | None = None,
        controller: Gains = "I",
        norm: Norm = "rms",
        error_per: ErrorPer = "step",
        jump_ts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(rtol, atol, first_step, min_step, max_step, max_steps, controller, norm, error_per, jump_ts)
        part = min(0.03, max(rtol, 1e-12) ** 0.5) if newton_tol is None else newton_tol
        self.newton = Newton(part * rtol, part * atol, full=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls) and cls.tableau.embedded_order is None:
            raise SettingError(f"{cls.__name__} adapts its steps, so its tableau needs b_embedded and embedded_order")

    @property
    def error_order(self) -> int:
        return min(self.order, self.tableau.embedded_order or 0)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> ImplicitStages:
        return ImplicitStages(self.tableau, field, self.newton, quadrature)
