"""Diagnosis: the cost of solving a flow, the difficulty of its equation, and recommended settings."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from odeflow.analysis.replay import leaves, mapped
from odeflow.engine.equation.state import State
from odeflow.engine.gradients import Adjoint, Backprop, Checkpointed, Gradient, InterpolatedAdjoint, Reversible
from odeflow.engine.loop.adaptive import STIFF, Adaptive
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.methods.implicit import ImplicitRungeKutta
from odeflow.engine.methods.rosenbrock import Rosenbrock
from odeflow.engine.output.solution import Solution, SolveError, Stats
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.errors import GradientError, OdeflowError, SettingError, StateError
from odeflow.flow.flow import Flow
from odeflow.plugin.registry import find

POWER_ITERATIONS = 30
Lines = Iterator[tuple[str, str]]
"""The title of each line of a report, if it has one, and its text."""


@dataclass(frozen=True)
class GradientReport:
    """Comparison of a gradient with that of Backprop, in float64.

    Attributes:
        error: ‖∇ − ∇*‖ / ‖∇*‖ over the initial state and all parameters; None if the gradient is unavailable.
        nfe_backward: Evaluations in the backward pass.
        refusal: Why the gradient is unavailable.
    """

    error: float | None
    nfe_backward: int = 0
    refusal: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`. Its `str` is a report with advice.

    Attributes:
        solver: The solver's class.
        implicit: Whether the solver is implicit, so that stability does not bound the step size.
        dtype: The state's dtype.
        span: (first time, last time).
        nfe: Evaluations of the field in the forward pass.
        accepted: Accepted steps; 0 for a black-box solver.
        rejected: Rejected steps.
        largest_step: The largest accepted step.
        spectral_radius: The largest |λ| of ∂f/∂y found along the solution, per unit of time.
        stiffness: h|λ|: that of `Stats`, or the largest step times `spectral_radius` if the solver does not estimate
            it; None for a black-box solver.
        reconstruction: ‖y₀ − ŷ₀‖ / ‖y₀‖, the round-trip error: ŷ₀ comes from backward integration; inf if that fails.
        error: ‖y − y*‖ / ‖y*‖ at the last time, against a much tighter solve in float64 by a solver of another class.
        wanted: The requested error.
        errors: The same error at each tolerance tried, loosest first: {rtol: (error, evaluations)}; (inf, 0) if the
            solve failed.
        enough: The loosest tolerance at which, and below which, the error is less than `wanted`; None if there is none.
        gradients: The comparison of each gradient with Backprop, by class name.
    """

    solver: str
    implicit: bool
    dtype: torch.dtype
    span: tuple[float, float]
    nfe: int
    accepted: int
    rejected: int
    largest_step: float
    spectral_radius: float
    stiffness: float | None
    reconstruction: float
    error: float
    wanted: float
    errors: dict[float, tuple[float, int]]
    enough: float | None
    gradients: dict[str, GradientReport]

    def __str__(self) -> str:
        lines = [*self._cost(), *self._difficulty(), *self._accuracy(), *self._differentiation()]
        first = f"{self.solver} from t = {self.span[0]:g} to {self.span[1]:g} in {self.dtype}"
        return "\n".join([first, *(f"{title:16}{text}" for title, text in lines)])

    def _cost(self) -> Lines:
        steps = f", {self.accepted} steps and {self.rejected} rejected" if self.accepted else "; a black-box solver"
        yield "cost", f"{self.nfe} evaluations of the field{steps}"
        if self.rejected > max(2, self.accepted // 2):
            yield "", "Many steps are rejected: the field may be discontinuous, or change abruptly."

    def _difficulty(self) -> Lines:
        scale = f"{1 / self.spectral_radius:.3g}" if self.spectral_radius else "infinite"
        yield "time scale", f"the fastest is about {scale} (spectral radius {self.spectral_radius:.3g})"
        if self.stiffness is None:
            return
        yield "stiffness", f"step × largest eigenvalue = {self.stiffness:.2g}"
        fast = self.spectral_radius * abs(self.span[1] - self.span[0])
        if self.implicit:
            return
        if not self.stiffness > STIFF:
            yield "", "Accuracy limits the steps, not stability: an explicit solver is right."
        elif fast > 50:
            yield "", "Stability limits the steps: the problem is stiff. Use an implicit solver, as Kvaerno5."
        else:
            yield "", "The steps are about as large as stability allows; a looser tolerance saves nothing."

    def _accuracy(self) -> Lines:
        yield "error", f"{self.error:.1e} at the end, against {self.wanted:.0e} requested"
        for rtol, (error, nfe) in self.errors.items():
            yield "", f"rtol {rtol:.0e}: " + (f"{error:.1e}, {nfe} evaluations" if nfe else "the solve fails")
        if self.errors and self.enough is None:
            yield "", "No tolerance that was tried is enough. Solve in float64, and check that the field is smooth."
        elif self.errors and self.error > self.wanted:
            yield "", f"Tighten the tolerance: rtol = {self.enough:.0e} is enough."
        elif self.errors:
            yield "", f"rtol = {self.enough:.0e} would be enough."
        elif self.error > self.wanted:
            steps = "The step size is fixed: halve it" if self.accepted else "Set the solver's own options tighter"
            yield "", f"{steps} until the error is small enough."
        yield "round trip", f"returns to the initial state with a relative error of {self.reconstruction:.1e}"
        if not self.reconstruction < max(100 * self.error, 1e-3):
            yield "", "Backward integration is unstable, as for contracting dynamics. Adjoint, which reconstructs the"
            yield "", "state, is wrong here: use Checkpointed or InterpolatedAdjoint."

    def _differentiation(self) -> Lines:
        yield "gradients", "against Backprop, in float64:"
        limit = max(self.wanted, 1e-6)
        for name, found in self.gradients.items():
            verdict = "" if found.error is None or found.error < limit else "  ← not good enough"
            value = found.refusal if found.error is None else f"{found.error:.1e}, {found.nfe_backward} evaluations"
            yield "", f"{name}: {value}{verdict}"
        if any(found.error is not None and not found.error < limit for found in self.gradients.values()):
            yield "", "Continuous gradients are as good as the tolerances; Checkpointed is exact at any."


def diagnose(flow: Flow, y0: State, *, wanted: float = 1e-3, seed: int = 0) -> Diagnosis:
    """Measures the cost of solving a flow and the difficulty of its equation, and recommends settings.

    The flow is not changed: float64 measurements use a copy on the CPU. Random layers of the field, such as dropout,
    are in evaluation mode.

    Args:
        flow: The flow; it is called in evaluation mode.
        y0: (B, …), typical inputs.
        wanted: Sufficient relative error at the last time.
        seed: Seed of the random loss and vectors.

    Returns:
        Diagnosis: `print` it.

    Raises:
        SettingError: `wanted` is not positive.
        SolveError: The flow cannot be solved, or its dynamics do not work in float64.
    """
    if not wanted > 0:
        raise SettingError(f"wanted must be positive, a relative error; got {wanted}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _Patient(flow, y0).diagnosis(wanted)


class _Patient:
    """The equation of a flow, in its own dtype and in float64.

    Args:
        flow: The flow.
        y0: The input of the flow.
    """

    def __init__(self, flow: Flow, y0: State) -> None:
        shared: dict[int, object] = {id(part): part for part in (flow.solver, flow.gradient)}  # not copied
        self.solver, self.span = flow.solver, (flow.options.t0, flow.options.t1)
        self.flow = copy.deepcopy(flow, shared).eval()
        self.exact = copy.deepcopy(self.flow, shared).cpu().double()
        with torch.no_grad():
            self.y0 = self.flow._entered(y0)  # pyright: ignore[reportPrivateUsage]
            self.start = self.exact._entered(mapped(_double, y0))  # pyright: ignore[reportPrivateUsage]

    def diagnosis(self, wanted: float) -> Diagnosis:
        with torch.no_grad():
            solution = self._solve(self.flow.dynamics, self.y0, self.solver)
            end = _end(solution)
            reconstruction = self._reconstruction(end)
            truth, reference = self._truth()
            errors = self._errors(truth)
        stats = solution.stats
        radius = self._spectral_radius(reference)
        enough = None
        for rtol, (error, _) in reversed(errors.items()):
            if not error < wanted:
                break
            enough = rtol
        return Diagnosis(
            solver=type(self.solver).__name__,
            implicit=isinstance(self.solver, ImplicitRungeKutta | Rosenbrock),
            dtype=leaves(self.y0)[0].dtype,
            span=self.span,
            nfe=stats.nfe_forward,
            accepted=stats.accepted,
            rejected=stats.rejected,
            largest_step=stats.largest_step,
            spectral_radius=radius,
            stiffness=_stiffness(stats, radius),
            reconstruction=reconstruction,
            error=_relative(mapped(_double, end), truth),
            wanted=wanted,
            errors=errors,
            enough=enough,
            gradients=self._gradients(reference),
        )

    def _solve(self, field: nn.Module, y0: State, solver: Solver, *, backwards: bool = False) -> Solution[State]:
        t = self.span[::-1] if backwards else self.span
        return solve(field, y0, t, solver=solver, params=())

    def _reconstruction(self, end: State) -> float:
        """The relative round-trip error; inf if backward integration fails."""
        try:
            back = self._solve(self.flow.dynamics, end, self.solver, backwards=True)
        except SolveError:
            return math.inf
        return _relative(_end(back), self.y0)

    def _references(self) -> Iterator[Solver]:
        """Solvers of other classes than the flow's, at much tighter tolerances: a nonstiff one, then a stiff one.

        They reveal the error of the flow's solver even if its error estimate is wrong.
        """
        size = math.sqrt(sum(float(leaf.square().sum()) for leaf in leaves(self.start)))
        entries = sum(leaf.numel() for leaf in leaves(self.start))
        scale = size / math.sqrt(max(entries, 1)) or 1.0
        for names, rtol in ((("Dopri8", "Dopri5"), 1e-11), (("Kvaerno5", "Rodas4"), 1e-9)):
            name = next(name for name in names if name != type(self.solver).__name__)
            own = {"per_sample": True} if self.solver.per_sample and rtol == 1e-11 else {}
            yield find("solver", name)(rtol=rtol, atol=rtol * scale / 10, jump_ts=self.solver.jump_ts, **own)  # pyright: ignore[reportReturnType]

    def _truth(self) -> tuple[State, Solver]:
        """The state at the last time in float64, and the reference solver that computed it.

        Raises:
            SolveError: All reference solvers failed.
        """
        problem: OdeflowError | None = None
        for reference in self._references():
            try:
                return _end(self._solve(self.exact.dynamics, self.start, reference)), reference
            except SolveError as refusal:
                problem = problem or refusal
            except OdeflowError:
                raise
            except (RuntimeError, TypeError) as raised:  # the dynamics may require float32
                reason = str(raised).partition(chr(10))[0]
                raise SolveError(f"the dynamics failed in float64: {reason}") from raised
        assert problem is not None
        raise problem

    def _errors(self, truth: State) -> dict[float, tuple[float, int]]:
        """(error in the flow's own dtype, evaluations) by tolerance."""
        found: dict[float, tuple[float, int]] = {}
        if not isinstance(self.solver, Stepper) or not isinstance(self.solver.control, Adaptive):
            return found
        control = self.solver.control
        proportion = control.atol / control.rtol if control.rtol else 1.0
        tightest = 1e-9 if leaves(self.y0)[0].dtype == torch.float64 else 1e-6
        for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9):
            if rtol >= tightest:
                solver = self.solver.with_control(replace(control, rtol=rtol, atol=rtol * proportion))
                try:
                    solution = self._solve(self.flow.dynamics, self.y0, solver)
                    found[rtol] = _relative(mapped(_double, _end(solution)), truth), solution.stats.nfe_forward
                except SolveError:
                    found[rtol] = math.inf, 0
        return found

    def _spectral_radius(self, reference: Solver) -> float:
        """The largest |λ| of ∂f/∂y at the start, halfway and at the end, by power iteration."""
        t0, t1 = self.span
        with torch.no_grad():
            y = solve(self.exact.dynamics, self.start, (t0, (t0 + t1) / 2, t1), solver=reference, params=()).y
        rows = [tuple(leaf[number] for leaf in leaves(y)) for number in range(3)]
        times = (t0, (t0 + t1) / 2, t1)
        return max(self._radius(time, row) for time, row in zip(times, rows, strict=True))

    def _radius(self, time: float, row: tuple[Tensor, ...]) -> float:
        field, whole = self.exact.dynamics, isinstance(self.start, tuple)
        t = torch.tensor(time, dtype=torch.float64)

        def values(*parts: Tensor) -> tuple[Tensor, ...]:
            value = field(t, parts if whole else parts[0])
            return tuple(value) if whole else (value,)

        vector = tuple(torch.randn_like(leaf) for leaf in row)
        growth: list[float] = []
        for _ in range(POWER_ITERATIONS):
            size = math.sqrt(sum(float(leaf.square().sum()) for leaf in vector))
            if size == 0:
                return 0.0
            vector = tuple(leaf / size for leaf in vector)
            _, vector = torch.autograd.functional.jvp(values, row, vector)  # pyright: ignore[reportAssignmentType]
            growth.append(math.sqrt(sum(float(leaf.square().sum()) for leaf in vector)))
        late = growth[POWER_ITERATIONS // 2 :]  # the growth factors oscillate for a pair of complex eigenvalues
        return math.exp(sum(math.log(max(each, 1e-300)) for each in late) / len(late))

    def _gradients(self, reference: Solver) -> dict[str, GradientReport]:
        """Each gradient against Backprop, computed with the reference solver if the flow's solver is a black box."""
        try:
            truth, _ = self._gradient(Backprop(), self.solver)
        except GradientError:
            truth, _ = self._gradient(Backprop(), reference)
        found: dict[str, GradientReport] = {}
        for gradient in (Checkpointed(), Adjoint(), InterpolatedAdjoint(), Reversible()):
            try:
                value, nfe = self._gradient(gradient, self.solver)
                error = float((value - truth).norm() / truth.norm().clamp_min(1e-300))
                report = GradientReport(error, nfe)
            except (GradientError, SolveError, StateError) as problem:
                report = GradientReport(None, refusal=str(problem))
            found[type(gradient).__name__] = report
        return found

    def _gradient(self, gradient: Gradient, solver: Solver) -> tuple[Tensor, int]:
        """(∂L/∂y₀ and ∂L/∂θ concatenated, backward NFE) for a random linear loss of the final state."""
        starts = [leaf.detach().clone().requires_grad_() for leaf in leaves(self.start)]
        field = self.exact.dynamics
        params = [param for param in field.parameters() if param.requires_grad]
        y0 = tuple(starts) if isinstance(self.start, tuple) else starts[0]
        solution = solve(field, y0, self.span, solver=solver, gradient=gradient)
        generator = torch.Generator().manual_seed(1)
        ends = leaves(_end(solution))
        weights = [torch.randn(end.shape, generator=generator, dtype=end.dtype) for end in ends]
        inputs = [*starts, *params]
        grads: tuple[Any, ...] = torch.autograd.grad(ends, inputs, weights, allow_unused=True)
        flat = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)]
        return torch.cat([each.flatten() for each in flat]), solution.stats.nfe_backward


def _stiffness(stats: Stats, radius: float) -> float | None:
    """The solver's own estimate; without one (few steps, fixed step size, unsuitable method) the bound by `radius`."""
    if stats.stiffness is None and stats.accepted:
        return stats.largest_step * radius
    return stats.stiffness


def _double(leaf: Tensor) -> Tensor:
    return leaf.detach().cpu().double()


def _end(solution: Solution[State]) -> State:
    return tuple(leaf[-1] for leaf in solution.y) if isinstance(solution.y, tuple) else solution.y[-1]


def _relative(value: State, truth: State) -> float:
    """‖value − truth‖ / ‖truth‖ over all leaves."""
    pairs = list(zip(leaves(value), leaves(truth), strict=True))
    error = sum(float((leaf - other).square().sum()) for leaf, other in pairs)
    return math.sqrt(error / max(sum(float(other.square().sum()) for _, other in pairs), 1e-300))
