"""The integration loop."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, Window
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.clocks import Clock, Clocks
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.recorder import Recorder
from odeflow.engine.loop.rows import Rows
from odeflow.engine.loop.sample_clocks import SampleClocks
from odeflow.engine.output.solution import Solution, SolveError
from odeflow.engine.step.carried import MemoryTape
from odeflow.engine.step.per_sample import SampleStages
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import UNOBSERVED, Observer, Segment, Tape
from odeflow.errors import StateError


def run(
    stages: Stages,
    control: StepControl,
    y0: Tensor,
    t: Tensor | Sequence[float],
    observer: Observer = UNOBSERVED,
    jump_ts: Sequence[float] = (),
) -> Solution:
    """The solution at the times t, by the contract of `Solver.integrate`. Steps also end at the times `jump_ts`.

    With `SampleStages` each sample has its own clock. With a mesh the solution contains all rows;
    `Solution.select_outputs` selects the requested ones. The stages use the observer's quadrature.
    """
    clocks = _clocks(stages, t, y0, jump_ts, jumps=observer.jump is not None)
    recorder, tape, y = Recorder(t, y0, observer.mesh, clocks), observer.tape, y0
    if tape is not None and stages.carries:
        tape = MemoryTape(tape, stages)
    own = stages if isinstance(stages, SampleStages) else None
    take = stages.step if own is None else own.attempt
    try:
        stages.window = clocks.window
        control.start(stages, clocks.t, y, clocks.last)
        recorder.start(stages, y)
        clocks.read(control.underflows(clocks.t))
        while clocks.running:
            if clocks.stuck or control.exhausted:
                raise control.failure(clocks.place(control.underflows(clocks.t)))
            if clocks.sparse:
                y = _narrowed(clocks, stages, control, y, tape)
            start, stages.window = clocks.t, clocks.window
            end = control.propose(start, clocks.stop)
            h: Any = end - start
            y1 = take(start, h, y)
            accepted = control.accepts(stages, y, h, y1)
            moved = clocks.move(end, accepted, control.next_size)
            if control.curious:
                clocks.note(stages.stiffness())
            kept = moved and observer.mesh is not None and recorder.keeps(y1)
            clocks.read(control.underflows(clocks.t), kept)
            if not moved:
                continue
            if own is not None:
                h = clocks.h
                y1 = own.accept(h, y1)
            stages.add_quadrature(h)
            rows = recorder.step(stages, y1, kept)
            if tape is not None:
                tape.append(_segment(stages, y, (start, end), h, rows, tape.dense))
            stages.advance()
            y = y1
            if observer.jump and clocks.jump is not None:
                y = observer.jump(clocks.jump, y)
                control.forget_state()
                stages.forget_slope()
            if clocks.crossed:
                stages.forget_slope()
    except SolveError as error:
        error.partial = recorder.partial(y, stages.evaluations)
        error.exhausted = error.exhausted or control.exhausted
        raise
    if tape is not None:
        if isinstance(clocks, SampleClocks) and len(y) < len(y0):
            tape.append(Segment(y, partial(_widened, clocks.ids, y0.shape), slice(0, 0), None))
        tape.close()
    return recorder.solution(stages.evaluations)


def _clocks(stages: Stages, t: Any, y0: Tensor, jump_ts: Sequence[float], jumps: bool) -> Clocks:
    """The clocks of a solve.

    Raises:
        StateError: Each sample has its own clock, and the state has no batch dimension, or the field does not support
            per-sample times.
    """
    if not isinstance(stages, SampleStages):
        return Clock(t, y0, jump_ts, jumps, stages.ends_at_outputs)
    if y0.dim() == 0 or not len(y0):
        raise StateError(f"per_sample=True needs a batch of states, (B, …) with B > 0; got shape {tuple(y0.shape)}")
    clocks = SampleClocks(t, y0, jump_ts)
    with torch.no_grad():
        _check_times_are_apart(stages, y0, clocks.t, clocks.last)
    return clocks


def _segment(stages: Stages, y: Tensor, span: tuple[Any, Any], h: Any, rows: Rows, dense: bool) -> Segment:
    """The last step, of size h from y, for the tape; with its polynomial if `dense`."""
    rerun = partial(_rerun, stages.traced, stages.window, span[0], h, rows)
    return Segment(y, rerun, rows.index, rows.end, span, stages.interpolant() if dense else None)


def _rerun(
    stages_over: Callable[[Field], Stages],
    window: Window | None,
    t: Any,
    h: Any,
    rows: Rows,
    field: Field,
    start: Tensor,
    taken: int = 0,
    left: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Reruns a step: (state at its end with `left` carried values, states at the rows inside, if any).

    Args:
        stages_over: Field ↦ stages.
        window: The times between which the field is evaluated.
        t: The time at the start.
        h: The step size.
        rows: The rows in the step.
        field: The vector field.
        start: (*state), or (1 + taken, *state) with carried values.
        taken: Number of carried values in `start`.
        left: Number of values carried to the next step.
    """
    stages = stages_over(field)
    stages.window = window
    y, *carried = start.unbind() if taken else (start,)
    if carried:
        stages.restore(tuple(carried))
    y1 = stages.step(t, h, y)
    values = rows.values(stages, y1)
    if left > len(stages.carry()):
        stages.last_slope()
    return torch.stack((y1, *stages.carry()[:left])) if left else y1, values


def _narrowed(clocks: Clocks, stages: Stages, control: StepControl, y: Tensor, tape: Tape | None) -> Tensor:
    """The states of unfinished samples, which go on alone, unless the field requires the whole batch."""
    assert isinstance(clocks, SampleClocks)
    assert isinstance(stages, SampleStages)
    keep = clocks.moving.nonzero().squeeze(1)
    if clocks.separable is None:
        with torch.no_grad():
            clocks.separable = _is_separable(stages, clocks, y, keep)
    if not clocks.separable:
        return y
    if tape is not None:
        tape.append(Segment(y, partial(_selected, keep), slice(0, 0), None))
    clocks.narrow(keep, y)
    control.narrow(keep)
    y = y[keep]
    stages.narrow(keep, y)
    return y


def _is_separable(stages: SampleStages, clocks: SampleClocks, y: Tensor, keep: Tensor) -> bool:
    """Whether the field has the same values on a subset of the samples as in the whole batch."""
    stages.window = clocks.window
    whole = stages.first_slope(clocks.t, y)
    stages.window = None if clocks.window is None else (clocks.window[0][keep], clocks.window[1][keep])
    try:
        alone = stages.evaluate(clocks.t[keep], y[keep])
    except Exception:  # any error of a field that holds data for the whole batch
        return False
    return _alike(alone, whole[keep])


def _check_times_are_apart(stages: SampleStages, y: Tensor, start: Tensor, stop: Tensor) -> None:
    """Rejects a field that broadcasts t, of shape (B,), against the last dimension of y instead of the first.

    This goes unnoticed only if the last dimension has size B too, so it is checked only then.

    Raises:
        StateError: The field broadcasts t against the last dimension.
    """
    if y.dim() < 2 or len(y) == 1 or y.shape[-1] != len(y):
        return
    times = start + (stop - start) * torch.linspace(0, 1, len(y), dtype=DTYPE, device=y.device)
    apart = stages.evaluate(times, y)[-1]
    alike = stages.evaluate(times[-1].expand(len(y)), y)[-1]
    if bool(apart.isfinite().all()) and not _alike(apart, alike):
        raise StateError(
            f"the field takes the times of the samples, t of shape {tuple(start.shape)}, for times of the entries "
            f"of the last dimension of y, {tuple(y.shape)}. Under per_sample=True write t.view(-1, 1) where t "
            "meets y, with as many dimensions as y has"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    tolerance = math.sqrt(torch.finfo(one.dtype).eps)
    return not one.numel() or bool((one - other).abs().amax() <= tolerance * other.abs().amax())


def _selected(keep: Tensor, field: Field, start: Tensor, taken: int = 0, left: int = 0) -> tuple[Tensor, None]:
    return start.index_select(1 if taken else 0, keep), None


def _widened(
    ids: Tensor, shape: torch.Size, field: Field, start: Tensor, taken: int = 0, left: int = 0
) -> tuple[Tensor, None]:
    return start.new_zeros(shape).index_copy(0, ids, start[0] if taken else start), None
