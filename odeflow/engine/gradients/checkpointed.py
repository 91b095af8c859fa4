"""Checkpointed: the exact discrete gradient, from stored states."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import comb

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from odeflow.engine.equation.equation import wrapped
from odeflow.engine.equation.field import Counted, full_precision
from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.methods.rosenbrock import Rosenbrock
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer, Segment, Tape
from odeflow.errors import GradientError, SettingError


class Checkpointed(Gradient):
    """Discretise-then-optimise, storing only the states at accepted steps.

    The backward pass reruns the steps in reverse order, each with autograd from its stored state. The result is the
    gradient of the discrete solution, as by `Backprop`, but memory grows by one state per step rather than by the graph
    of its stages. A black-box solver is rerun as a whole.

    States that are not stored are recomputed from the last stored one: with `every`, one more evaluation of every
    stage; with `max_bytes`, the number of the binomial schedule.

    Source: Zhuang et al. (2020), "Adaptive Checkpoint Adjoint Method", ICML; Griewank & Walther (2000), "Algorithm
    799: revolve", for the schedule.

    Args:
        every: Number of steps between stored states.
        max_bytes: Maximum memory of stored states in bytes, for any number of steps; at least one state is stored.
        per_stage: Whether to hold the graph of one stage instead of a whole step, at one more evaluation per stage. Not
            for Rosenbrock methods, whose stages contain derivatives of the field. The graph of a diffusion is held.

    Raises:
        SettingError: A number is not positive, or both `every` and `max_bytes` are given.
    """

    needs_params = True
    exact = True

    def __init__(self, every: int = 1, max_bytes: int | None = None, per_stage: bool = False) -> None:
        if every < 1 or (max_bytes is not None and max_bytes < 1):
            raise SettingError(f"every and max_bytes must be positive; got {every} and {max_bytes}")
        if every > 1 and max_bytes is not None:
            raise SettingError("give every or max_bytes, not both: each says how many states are kept")
        self.every, self.max_bytes, self.per_stage = every, max_bytes, per_stage

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        if self.per_stage and isinstance(solver, Rosenbrock):
            raise GradientError(
                f"Checkpointed(per_stage=True) does not support {type(solver).__name__}, whose stages contain "
                "derivatives of the field. Use Checkpointed(), or an implicit Runge–Kutta solver such as Kvaerno5"
            )
        tape = self.tape(y0)
        with torch.no_grad():
            solution = solver.integrate(field, y0, t, Observer(mesh, tape))
        starts, tape.starts = tape.starts, []
        backward = partial(_backward, field, params, solution.stats, tape, self.per_stage)
        return with_backward(solution, backward, y0, params, *starts)

    def compiles(self, mesh: Mesh | None) -> bool:
        return self.every == 1 and self.max_bytes is None and not self.per_stage

    def tape(self, like: Tensor) -> "SparseTape":
        """An empty tape for states like `like`."""
        if self.max_bytes is None:
            return SparseTape(self.every, None)
        return SparseTape(1, max(1, self.max_bytes // max(1, like.numel() * like.element_size())))


class SparseTape(Tape):
    """A tape that stores the states of equally spaced segments only.

    Args:
        every: Number of segments between stored states.
        capacity: Maximum number of stored states; the spacing is doubled when it is exceeded.
    """

    def __init__(self, every: int, capacity: int | None) -> None:
        super().__init__()
        self.every, self.capacity = every, capacity
        self.starts: list[Tensor] = []

    def append(self, segment: Segment) -> None:
        if len(self.segments) % self.every == 0:
            if len(self.starts) == self.capacity:
                self.starts, self.every = self.starts[::2], 2 * self.every
            if len(self.segments) % self.every == 0:
                self.starts.append(segment.start)
        super().append(replace(segment, start=segment.start.new_empty(0)))


def _backward(
    field: Field,
    params: tuple[Tensor, ...],
    stats: Stats,
    tape: SparseTape,
    per_stage: bool,
    grad_y: Tensor,
    *starts: Tensor,
) -> tuple[Tensor, list[Tensor | None]]:
    """(∂L/∂y₀, ∂L/∂θ), by rerunning the segments."""
    reversal = _Reversal(field, params, per_stage, grad_y)
    for number in reversed(range(len(starts))):
        group = tape.segments[number * tape.every : (number + 1) * tape.every]
        free = len(group) if tape.capacity is None else tape.capacity - number - 1
        _reverse(group, starts[number], free, reversal.advance, reversal.visit)
    stats.nfe_backward += sum(counter.evaluations for counter in reversal.counters)
    return reversal.adjoint + grad_y[0], reversal.grads


def _evaluated_again(field: Field) -> Field:
    """The field, evaluated again in the backward pass instead of keeping its graph."""
    return partial(checkpoint, field, use_reentrant=False, preserve_rng_state=False)


class _Reversal:
    """The backward pass: reruns the segments from last to first, and accumulates the gradients.

    Args:
        field: The vector field.
        params: The tensors to differentiate with respect to.
        per_stage: Whether to hold the graph of a single stage at a time.
        grad_y: (R, *state), ∂L/∂y.
    """

    def __init__(self, field: Field, params: tuple[Tensor, ...], per_stage: bool, grad_y: Tensor) -> None:
        self.counters: list[Counted] = []
        self.params, self.grad_y = params, grad_y
        # the diffusion stays as it is, since solvers differentiate it forward
        self.field = wrapped(field, self._counted, diffusion=False)
        self.traced = wrapped(self.field, _evaluated_again, diffusion=False) if per_stage else self.field
        self.adjoint = torch.zeros_like(grad_y[0])
        self.grads: list[Tensor | None] = [None] * len(params)

    def _counted(self, field: Field) -> Field:
        self.counters.append(Counted(field))
        return self.counters[-1]

    def advance(self, segment: Segment, start: Tensor) -> Tensor:
        """The state at the segment's end."""
        with torch.no_grad(), full_precision(start):
            return segment.rerun(self.field, start)[0]

    def visit(self, segment: Segment, start: Tensor) -> None:
        """Propagates the adjoint from the segment's end to its start."""
        if segment.end_row is not None:
            state, *carried = self.adjoint.split(1) if self.adjoint.dim() > self.grad_y[0].dim() else (self.adjoint,)
            state = state + self.grad_y[segment.end_row]
            self.adjoint = torch.cat((state, *carried)) if carried else state
        with torch.enable_grad(), full_precision(start):
            leaf = start.detach().requires_grad_()
            end, rows = segment.rerun(self.traced, leaf)
            results, weights = [end], [self.adjoint]
            if rows is not None:
                results.append(rows)
                weights.append(self.grad_y[segment.rows])
            self.adjoint, *steps = torch.autograd.grad(results, (leaf, *self.params), weights, allow_unused=True)
        accumulate(self.grads, steps)


def _reverse(
    segments: Sequence[Segment],
    start: Tensor,
    free: int,
    advance: Callable[[Segment, Tensor], Tensor],
    visit: Callable[[Segment, Tensor], None],
) -> None:
    """Visits segments from last to first, storing at most `free` states besides the first segment's `start`.

    Splits follow the binomial schedule: with s free states and each segment advanced at most r times, up to C(s + r, s)
    segments can be reversed.
    """
    if free < 1 or len(segments) <= 1:
        for number in reversed(range(len(segments))):
            state = start
            for segment in segments[:number]:
                state = advance(segment, state)
            visit(segments[number], state)
        return
    repeats = next(r for r in range(len(segments)) if comb(free + 1 + r, r) >= len(segments))
    split = min(comb(free + repeats, repeats - 1), len(segments) - comb(free + repeats - 1, repeats - 1))
    state = start
    for segment in segments[:split]:
        state = advance(segment, state)
    _reverse(segments[split:], state, free - 1, advance, visit)
    del state  # no level of the recursion holds a visited state
    _reverse(segments[:split], start, free, advance, visit)
