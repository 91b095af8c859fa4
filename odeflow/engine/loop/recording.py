"""Recording: fixed steps as straight code, for `torch.compile`, `torch.export` and `torch.jit.trace`."""

from collections.abc import Sequence

from torch import Tensor

from odeflow.engine.equation.field import autocasts
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.solver import Solver


def dependence(solver: Solver) -> str | None:
    """In what the operations of a solve depend on the values of tensors, and what to do; None if they do not."""
    name = type(solver).__name__
    if not isinstance(solver, Stepper) or not solver.straight:
        return f"the operations of {name} depend on values: use an explicit solver with num_steps, as RK4(num_steps=20)"
    if not isinstance(solver.control, Fixed):
        return f"the steps of {name} depend on values: fix them, as {name}(num_steps=20)"
    return None


def obstacle(solver: Solver, t: Tensor | Sequence[float], like: Tensor) -> str | None:
    """Why a solve cannot be recorded; None if it can.

    Args:
        solver: The solver.
        t: The times.
        like: A state.

    Returns:
        A reason, and what to do.
    """
    if isinstance(solver, Stepper) and solver.compiled is not None:
        return f"{type(solver).__name__}(compile=True) compiles its solves itself: leave compile out"
    if reason := dependence(solver):
        return reason
    if solver.jump_ts:
        return "steps that end at jumps are not recorded: leave out jump_ts, or take a path without breaks"
    if isinstance(t, Tensor) or any(isinstance(time, Tensor) for time in t):
        return "the times must be numbers, as in t=[0.0, 0.5, 1.0], not tensors"
    if autocasts(like.device.type):
        return "autocast is enabled, in which solves keep full precision: leave it"
    return None
