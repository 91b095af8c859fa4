"""solve(): the public entry point of the engine."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from odeflow.engine.equation.equation import StochasticField, wrapped
from odeflow.engine.equation.field import (
    SameNoise,
    entering,
    full_precision,
    mixed,
    outside_inference,
    parameters_of,
    recorder,
    transformed,
    uncompiled,
    usual,
)
from odeflow.engine.equation.state import Field, PackedField, Packing, S, State, check_dtype
from odeflow.engine.gradients import Backprop, Checkpointed, Gradient
from odeflow.engine.loop.control import SMALLEST_STEP
from odeflow.engine.loop.integrate import run
from odeflow.engine.loop.recording import dependence, obstacle
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.methods.stochastic_equation import check_pair, check_stochastic, stochastic_equation
from odeflow.engine.output.event import Event, same_event_time
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution, SolveError
from odeflow.engine.output.termination import at_events
from odeflow.engine.output.watch import Watch
from odeflow.engine.restart import each_restarted, restarted
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer
from odeflow.errors import GradientError, SettingError, StateError
from odeflow.paths.brownian import Brownian
from odeflow.plugin.plugin import check_kind

DEFAULT_GRADIENT = Checkpointed()


@uncompiled
def solve(
    field: Callable[[Tensor, Any], Any],
    y0: S,
    t: Tensor | Sequence[float],
    *,
    solver: Solver,
    gradient: Gradient | None = None,
    params: Iterable[Tensor] | None = None,
    dense: bool = False,
    event: Event | Sequence[Event] = (),
    noise: Brownian | int | None = None,
) -> Solution[S]:
    """Solves dy/dt = field(t, y), or dy = field(t, y) dt + field.diffusion(t, y) dW, from y(t[0]) = y0.

    Args:
        field: The vector field, a module or a function, called with t of shape (), or (B,) with a per-sample solver. A
            `StochasticField`, such as `SDE(drift, diffusion)`, for a stochastic equation.
        y0: (B, *state), or a tuple of such tensors, which the field then takes and returns too.
        t: (T,), at least two times, strictly increasing or strictly decreasing. A Tensor may require a gradient. With a
            per-sample solver also (B, T), per-sample times, all in the same direction.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        params: The tensors to differentiate with respect to, besides y0 and t. By default the parameters of the field
            if it is a module; `Backprop` reaches all tensors that the field uses.
        dense: Whether to compute dense output: `solution(t)` is then the state at any time. Costs the memory of a few
            states per step.
        event: The events to detect. The solve ends at the first terminal event: its time is then the last one of the
            solution, and later times are dropped. With a per-sample solver each sample ends at its own event, and its
            later rows repeat the time and state of that event.
        noise: The Brownian motion of a stochastic equation, or its seed. By default the seed is drawn from PyTorch's
            generator, so that each solve has another path and `torch.manual_seed` repeats it.

    Returns:
        Solution with y of shape (T, B, *state), or a tuple of such tensors. `events` contains the occurrences of each
        event.

    Raises:
        StateError: The state, or the field's value, has the wrong shape or dtype.
        SettingError: The times are not finite and strictly monotone, an argument has the wrong type, or the solver does
            not solve this kind of equation.
        GradientError: The gradient requires `params` and the field is a function, or the gradient does not support a
            feature of the solve, such as events.
        SolveError: The integration failed, or a terminal event did not occur. Contains the partial solution.
    """
    if (name := recorder()) is not None:
        _check_recording(name, y0, t, solver, bool(dense or event))
        return recorded(field, y0, t, solver)
    if torch.is_inference_mode_enabled():
        with outside_inference():
            y0, t = usual(y0), usual(t)
            return solve(
                field, y0, t, solver=solver, gradient=gradient, params=params, dense=dense, event=event, noise=noise
            )
    gradient = DEFAULT_GRADIENT if gradient is None else gradient
    events = tuple(event) if isinstance(event, Sequence) else (event,)
    _check_kinds(y0, solver, gradient, events)
    check_pair(field, solver, noise)
    times = checked_times(t)
    if forward_ad.unpack_dual(times).tangent is not None:
        raise GradientError(
            "derivatives in forward mode, as by jvp and jacfwd, do not reach the times of a solve: use reverse mode, "
            "such as torch.func.jacrev or torch.autograd.grad"
        )
    if times.dim() == 2:
        _check_own_times(times, y0, solver)
    params = None if params is None else _listed(params)
    if any(each.then is not None for each in events):
        leg = partial(solve, field, solver=solver, gradient=gradient, params=params, noise=noise)
        return (each_restarted if solver.per_sample else restarted)(leg, y0, times, events, dense)
    packing, packed, start, view = _packed(field, y0, solver)
    _check_resolution(times, start.dtype, solver)
    if start.is_meta and (reason := dependence(solver)):
        raise SettingError(f"a state on the meta device has no values, and {reason}")
    if isinstance(field, StochasticField):
        check_stochastic(field, times, bool(dense or events))
        packed = stochastic_equation(field, solver, y0, start, times, packing, noise)
    packed = wrapped(packed, lambda field: SameNoise(mixed(field, start)))
    if (dense or events) and not solver.shows_steps:
        raise SettingError(
            f"{type(solver).__name__} is a black box: no dense output or events. Give the times that you need in t, or "
            "use a solver of odeflow"
        )
    watch = Watch(events, view, solver.per_sample, same_event_time(start.dtype, times)) if events else None
    mesh = Mesh(dense, watch) if dense or events else None
    try:
        with full_precision(start):
            solution = _solve(packed, start, times, field, solver, gradient, params, mesh)
            _check_finite(solution)
            if watch is not None:
                solution = at_events(solution, watch)
        return (solution if dense else replace(solution, interpolant=None)).unpacked(view)
    except SolveError as error:
        if error.partial is not None:
            error.partial = error.partial.unpacked(view)
        known = parameters_of(field) if params is None and isinstance(field, nn.Module) else params or ()
        _name_the_cause(error, packing, known)
        raise
    except RuntimeError as problem:
        if transformed() and "requires_grad_" in str(problem):
            raise SettingError(
                f"{type(solver).__name__} differentiates its field by autograd, which torch.func does not transform: "
                "use an explicit solver such as Dopri5, or torch.autograd"
            ) from problem
        reason = dependence(solver) if "vmap" in str(problem) else None
        if reason is None:
            raise
        raise SettingError(
            f"torch.func.vmap maps fixed steps: {reason}, or call the flow on the whole batch instead"
        ) from problem


def _check_recording(name: str, y0: State, t: Tensor | Sequence[float], solver: Solver, shows_steps: bool) -> None:
    """Rejects what a function of torch, by its name, cannot record."""
    reason = obstacle(solver, t, y0 if isinstance(y0, Tensor) else y0[0])
    if reason is None and shows_steps:
        reason = "dense output and events depend on values: leave them out"
    if reason is not None:
        raise SettingError(f"{name} records fixed steps at fixed times. {reason[0].upper()}{reason[1:]}")


def recorded(field: Callable[[Tensor, Any], Any], y0: S, t: Tensor | Sequence[float], solver: Solver) -> Solution[S]:
    """The solution as straight code, differentiated by autograd, for functions of torch that record operations.

    It is not checked for finite values, and a random field draws new numbers at every evaluation.

    Args:
        field: As for `solve`.
        y0: As for `solve`.
        t: The times, without an `obstacle`.
        solver: The solver, without one either.
    """
    check_pair(field, solver)
    assert isinstance(solver, Stepper)
    assert not isinstance(t, Tensor)
    _, packed, start, view = _packed(field, y0, solver)
    times = [float(time) for time in t]
    sign = 1 if times[-1] > times[0] else -1
    if not all(sign * (second - first) > 0 for first, second in pairwise(times)):
        raise SettingError(f"t must be strictly increasing or strictly decreasing; it goes {times}")
    control = solver.step_control(times[0], times[-1])
    return run(solver.stages(packed, start, None), control, start, times).unpacked(view)


def _packed(
    field: Callable[[Tensor, Any], Any], y0: State, solver: Solver
) -> tuple[Packing | None, Field, Tensor, Callable[[Tensor], State]]:
    """The packing of a tuple state, the field and the initial state on one tensor, and the view of its states."""
    if isinstance(y0, tuple):
        leaves = tuple(entering(leaf) for leaf in y0)
        packing = Packing.of(leaves, solver.per_sample)
        packed, start, view = PackedField(packing, field), packing.pack(leaves), packing.unpack
    else:
        packing, packed, start, view = None, field, entering(y0).contiguous(), _identity
    check_dtype(start)
    return packing, packed, start, view


def _identity(state: Tensor) -> State:
    return state


def _name_the_cause(error: SolveError, packing: Packing | None, params: Iterable[Tensor]) -> None:
    """Adds the non-finite leaves of a tuple state and the non-finite parameters of the field to the message."""
    if packing is not None and error.broken is not None:
        leaves = enumerate(packing.unpack(error.broken))
        names = ", ".join(f"leaf {number}" for number, leaf in leaves if not bool(leaf.isfinite().all()))
        error.args = (f"{error.args[0]}. Not finite: {names}",)
    broken = [param for param in params if not bool(param.isfinite().all())]
    if broken:
        shapes = ", ".join(str(tuple(param.shape)) for param in broken[:3]) + " …" * (len(broken) > 3)
        error.args = (
            f"{len(broken)} of the field's parameters are not finite, of shape {shapes}: a gradient or an optimizer "
            f"step made them so. Lower the learning rate, clip the gradient, or check the loss. ({error.args[0]})",
        )


def _check_finite(solution: Solution) -> None:
    """Checks the solution, since fixed-step solvers do not stop at non-finite values.

    Raises:
        SolveError: The last state is not finite.
    """
    y = solution.y
    if y.is_meta:
        return
    try:
        # per-sample steps are always adaptive; 0 · y is 0 exactly where y is finite, which is the fastest test
        fine = solution.t.dim() > 1 or bool((0 * y[-1].detach()).sum() == 0)
    except RuntimeError:  # under vmap the condition is data-dependent
        return
    if fine:
        return
    finite = y.isfinite().reshape(len(y), -1).all(1)
    first = int(finite.int().argmin())
    where = f"between t = {float(solution.t[first - 1]):g} and " if first else "at "
    error = SolveError(
        f"the state is not finite: it ceases to be {where}t = {float(solution.t[first]):g}. Take smaller steps, look "
        "for inf and nan in the field, or for a solution that grows without bound",
        y[first],
    )
    error.partial = Solution(solution.t[:first], y[:first], solution.stats)
    raise error


def _solve(
    packed: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t: Tensor,
    field: object,
    solver: Solver,
    gradient: Gradient,
    params: Sequence[Tensor] | None,
    mesh: Mesh | None,
) -> Solution:
    if torch.is_grad_enabled():
        if transformed() and gradient.needs_params:
            if not (gradient.exact and gradient.compiles(mesh)):
                raise GradientError(
                    f"torch.func transforms autograd's record of a solve, and not {type(gradient).__name__}'s backward "
                    "pass: use gradient=Backprop(), or Checkpointed() without options, or torch.no_grad()"
                )
            gradient = Backprop()
        wanted = _wanted(field, gradient, params)
        if wanted or y0.requires_grad or t.requires_grad or not gradient.needs_params:
            return gradient.solve(solver, packed, y0, t, wanted, mesh)
    with torch.no_grad():
        return solver.integrate(packed, y0, t.detach(), Observer(mesh)).select_outputs(mesh)


def _wanted(field: object, gradient: Gradient, params: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The parameters that require a gradient, each once.

    Raises:
        GradientError: The parameters are unknown.
    """
    if params is None:
        if isinstance(field, nn.Module):
            params = parameters_of(field)
        elif gradient.needs_params:
            name = type(gradient).__name__
            raise GradientError(
                f"the field is a {type(field).__name__}, so {name} cannot know which tensors inside it want gradients. "
                "Pass params=(…), which may be empty, make the field an nn.Module, or use gradient=Backprop()"
            )
    return tuple({id(param): param for param in params or () if param.requires_grad}.values())


def _listed(params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of `params`.

    Raises:
        SettingError: `params` is a single tensor, which would be split into its rows, or contains other types.
    """
    if not isinstance(params, Tensor | nn.Module):
        listed = tuple(params)
        if all(isinstance(param, Tensor) for param in listed):  # pyright: ignore[reportUnnecessaryIsInstance]
            return listed
    raise SettingError(f"params wants several tensors, as (a, b) or module.parameters(); got a {type(params).__name__}")


def _check_kinds(y0: object, solver: object, gradient: object, events: Sequence[object]) -> None:
    """Rejects arguments of the wrong type."""
    check_kind("solver", solver, Solver, "Dopri5()")
    check_kind("gradient", gradient, Gradient, "Checkpointed()")
    for each in events:
        check_kind("event", each, Event, "Event(lambda t, y: y[0, 0])")
    if not all(isinstance(leaf, Tensor) for leaf in (y0 if isinstance(y0, tuple) else (y0,))):
        raise StateError(f"the state must be a Tensor or a tuple of Tensors; got {y0!r}")


def checked_times(t: Tensor | Sequence[float]) -> Tensor:
    """The times of a solve as a tensor.

    Raises:
        SettingError: They are not finite and strictly monotone.
        StateError: They are of no sample.
    """
    try:
        if isinstance(t, Tensor):
            times = t
        elif any(isinstance(each, Tensor) for each in t):
            times = torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in t])  # preserves gradients
        else:
            times = torch.tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise SettingError(f"t must hold times, in a Tensor or a list of numbers; got {t!r}") from problem
    if times.dim() not in (1, 2) or times.shape[-1] < 2:
        raise SettingError(f"t must hold at least two times, (T,); its shape is {tuple(times.shape)}")
    if not times.is_floating_point():
        times = times.double()
    if not len(times):
        raise StateError(f"a state needs at least one sample; the times are of none, {tuple(times.shape)}")
    steps = np.diff(np.array(times.tolist(), dtype=float))
    least, most = steps.min(-1), steps.max(-1)
    up, down = (least > 0) & (most < math.inf), (most < 0) & (least > -math.inf)
    if not (up.all() or down.all()):
        where, row = "", times
        if times.dim() == 2:
            number = int(np.flatnonzero(~(up if up.sum() > down.sum() else down))[0])
            where, row = f" in every row, and in all rows in the same direction; row {number}", times[number]
        raise SettingError(
            f"t must be strictly increasing or strictly decreasing, and finite{where or '; it'} "
            f"goes {', '.join(f'{time:g}' for time in row.tolist()[:6])}{' …' if len(row) > 6 else ''}"
        )
    return times


def _check_resolution(t: Tensor, dtype: torch.dtype, solver: Solver) -> None:
    """Checks that the dtype resolves the times.

    Raises:
        SettingError: The interval is too short for steps at this distance from 0, or the times overflow the dtype.
    """
    first, last = t.detach().select(-1, 0), t.detach().select(-1, -1)
    worst = int((first / (last - first)).abs().argmax()) if t.dim() > 1 else ...
    start, end = float(first[worst]), float(last[worst])
    far, span = max(abs(start), abs(end)), abs(end - start)
    if span < SMALLEST_STEP * math.ulp(far):
        raise SettingError(
            f"the solve goes from t = {start!r} to {end!r}, over {span:.3g}, but floating-point numbers there are "
            f"{math.ulp(far):.3g} apart: there is no room for steps. Measure time from a closer origin"
        )
    numbers = torch.finfo(dtype)
    if far > numbers.max:
        raise SettingError(
            f"the field gets its time in the dtype of the state, {dtype}, which ends at {numbers.max:g}; the times go "
            f"to {far:g}. Measure time in larger units, or solve in float32"
        )
    spacing = numbers.eps * max(far, numbers.tiny)
    if spacing > max(solver.time_resolution(span), 4 * numbers.eps * span):
        warnings.warn(
            f"the field gets its time in the dtype of the state, {dtype}, in which times near {far:g} are "
            f"{spacing:.3g} apart: too coarse for a solve over {span:.3g} by this {type(solver).__name__}. "
            "If the field depends on t, measure time from a closer origin"
            f"{'' if dtype == torch.float64 else ', or solve in float64'}",
            stacklevel=3,
        )


def _check_own_times(t: Tensor, y0: State, solver: Solver) -> None:
    """Rejects unsupported or malformed times (B, T)."""
    lead = (y0[0] if isinstance(y0, tuple) else y0).shape[:1]
    if not solver.per_sample:
        raise SettingError(
            f"t has the shape {tuple(t.shape)}, times of each sample's own, but {type(solver).__name__} takes the "
            "steps of all samples together. Give times (T,), or an adaptive solver per_sample=True"
        )
    if t.shape[:1] != lead:
        samples = f"the {lead[0]} samples" if lead else "several samples, and the state has none"
        raise SettingError(f"t of shape (B, T) must have a row for each of {samples}; got {tuple(t.shape)}")
