"""odeint_event, with torchdiffeq's signature."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odeflow.compat.torchdiffeq.call import EventFn, Func, combined
from odeflow.compat.torchdiffeq.odeint import odeint
from odeflow.engine.equation.state import State


def odeint_event(
    func: Func,
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFn,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Solves until an event. Gradients include the motion of the event time, by the implicit function theorem.

    If the event function has no derivative with respect to time and state, as a boolean or a threshold in time, the
    event time is treated as constant.

    Args:
        func: The vector field.
        y0: A tensor, or a tuple of tensors.
        t0: (), the first time.
        event_fn: (t, y) ↦ value that is zero at the event.
        reverse_time: Whether to integrate backward in time.
        odeint_interface: `odeint` or `odeint_adjoint`.
        **kwargs: Further arguments of `odeint_interface`.

    Returns:
        (event time, states at t0 and at the event: (2, *state) or a tuple of such tensors).

    Raises:
        SettingError: As `odeint`.
        SolveError: As `odeint`.
    """
    start = t0.reshape(-1)
    t = torch.cat((start, start.detach() + (-1.0 if reverse_time else 1.0)))
    event_t, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    rows = solution if isinstance(solution, tuple) else (solution,)
    ends = [leaf[-1] for leaf in rows]
    if not any(end.requires_grad for end in ends):
        return event_t, solution
    event = combined(event_fn, start[0], y0)
    view: Callable[[Sequence[Tensor]], Any] = tuple if isinstance(solution, tuple) else lambda leaves: leaves[0]
    velocity = func(event_t, view(ends))
    velocities = [each.detach() for each in (velocity if isinstance(velocity, tuple) else (velocity,))]
    with torch.enable_grad():
        clock = event_t.detach().requires_grad_()
        leaves = [end.detach().requires_grad_() for end in ends]
        value = event(clock, view(leaves))
        if not value.requires_grad:
            return event_t, solution
        derivatives: tuple[Any, ...] = torch.autograd.grad(value, [clock, *leaves], allow_unused=True)
        by_t, *by_y = derivatives
    pairs = list(zip(by_y, velocities, ends, strict=True))
    rate = sum(((by * velocity).sum() for by, velocity, _ in pairs if by is not None), start=value.new_zeros(()))
    rate = (rate + (0 if by_t is None else by_t)).detach()
    if rate == 0:
        return event_t, solution
    moved = sum(
        ((by * (end - end.detach())).sum() for by, _, end in pairs if by is not None), start=value.new_zeros(())
    )
    time = event_t - (moved / rate).to(event_t)
    shift = time - time.detach()
    joined = [
        torch.cat((leaf[:-1], (end + velocity * shift.to(end))[None]))
        for leaf, end, velocity in zip(rows, ends, velocities, strict=True)
    ]
    return time, view(joined)
