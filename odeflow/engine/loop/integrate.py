"""The integration loop."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.recorder import Outputs
from odeflow.engine.output.solution import Solution, SolveError, Stats
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import UNOBSERVED, Observer, Segment


def run(
    stages: Stages,
    control: StepControl,
    y0: Tensor,
    t: Tensor | Sequence[float],
    observer: Observer = UNOBSERVED,
    jump_ts: Sequence[float] = (),
) -> Solution:
    """The solution at the times t, by the contract of `Solver.integrate`. Steps also end at the times `jump_ts`.

    With a mesh the solution contains all rows; `Solution.select_outputs` selects the requested ones. The stages use
    the observer's quadrature.
    """
    stats = Stats()
    tape, jump = observer.tape, observer.jump
    outputs = Outputs(t, y0, observer.mesh)
    times = outputs.times
    breaks = {time for time in jump_ts if min(times) <= time <= max(times)}
    jumps = {time: number for number, time in enumerate(times) if number} if jump else {}
    now, y = times[0], y0
    try:
        stages.window = _window(now, times[-1], breaks, y0.dtype)
        control.start(stages, now, y, times[-1])
        outputs.start(stages)
        stops = {*jumps, *breaks, *(times if stages.ends_at_outputs else times[-1:])} - {now}
        for stop in sorted(stops, reverse=times[-1] < times[0]):
            stages.window = _window(now, stop, breaks, y0.dtype)
            while now != stop and not outputs.stopped:
                end = control.propose(now, stop)
                h = end - now
                y1 = stages.step(now, h, y)
                if not control.accepts(stages, y, h, y1):
                    stats.rejected += 1
                    continue
                stats.count_step(abs(h))
                stats.suggested_step = stats.suggested_step or control.next_size
                stages.add_quadrature(h)
                rows = outputs.step(stages, now, end, y1)
                if tape is not None:
                    rerun = partial(_rerun, stages.traced, stages.window, now, h, rows.places)
                    dense = stages.interpolant() if tape.dense else None
                    tape.append(Segment(y, rerun, rows.inside, rows.end, (now, end), rows.places, dense))
                stages.advance()
                now, y = end, y1
            if jump and stop in jumps:
                y = jump(jumps[stop], y)
                control.forget_state()
                stages.forget_slope()
            if stop in breaks:
                stages.forget_slope()
    except SolveError as error:
        error.partial = outputs.partial(now, y, stats)
        raise
    finally:
        stats.nfe_forward, stats.stiffness = stages.evaluations, control.stiffness
    return outputs.solution(stats)


def _window(start: float, stop: float, breaks: Collection[float], dtype: torch.dtype) -> tuple[float, float] | None:
    """The times between which the field is evaluated from `start` to `stop`: within any discontinuities at the ends."""
    if start not in breaks and stop not in breaks:
        return None
    ends = torch.tensor((start, stop), dtype=dtype)
    inner = torch.nextafter(ends, ends.flip(0)).tolist()
    first = inner[0] if start in breaks else start
    last = inner[1] if stop in breaks else stop
    return min(first, last), max(first, last)


def _rerun(
    stages_over: Callable[[Field], Stages],
    window: tuple[float, float] | None,
    t: float,
    h: float,
    places: Sequence[float],
    field: Field,
    y: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Reruns the step from (t, y): (state at its end, states at the inner points θ, if any)."""
    stages = stages_over(field)
    stages.window = window
    y1 = stages.step(t, h, y)
    return y1, stages.dense(places) if places else None
