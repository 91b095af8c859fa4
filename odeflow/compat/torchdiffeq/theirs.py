"""The methods that run in torchdiffeq itself: a call with one of them is torchdiffeq's own."""

from typing import Any

from odeflow.compat.torchdiffeq.call import Call, numeric
from odeflow.compat.torchdiffeq.method import THEIRS, bounded_options


def is_theirs(*methods: str) -> bool:
    """Whether one of the methods runs in torchdiffeq."""
    return any(method in THEIRS for method in methods)


def run_theirs(interface: str, call: Call, **arguments: Any) -> Any:
    """What torchdiffeq returns for a call that was checked.

    Args:
        interface: "odeint" or "odeint_adjoint".
        call: The call.
        **arguments: Those of the interface beside the call's own.
    """
    import torchdiffeq  # here, since scipy comes with it, which takes longer to import than most solves

    options = call.options
    event_fn = None
    if call.event_fn is not None:
        event_fn, options = numeric(call.event_fn), bounded_options(call.method, options)
    return getattr(torchdiffeq, interface)(
        call.func, call.y0, call.t, method=call.method, options=options, event_fn=event_fn, **arguments
    )
