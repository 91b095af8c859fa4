"""The methods that run in torchdiffeq itself."""

from typing import Any

from odeflow.compat.torchdiffeq.call import Call, numeric
from odeflow.compat.torchdiffeq.method import THEIRS, bounded_options


def is_theirs(*methods: str) -> bool:
    """Whether one of the methods runs in torchdiffeq."""
    return any(method in THEIRS for method in methods)


def run_theirs(interface: str, call: Call, **arguments: Any) -> Any:
    """Runs a checked call in torchdiffeq.

    Args:
        interface: "odeint" or "odeint_adjoint".
        call: The call.
        **arguments: Further arguments of the interface.
    """
    import torchdiffeq  # imported here: it imports scipy, which takes longer than most solves

    options = call.options
    event_fn = None
    if call.event_fn is not None:
        event_fn, options = numeric(call.event_fn), bounded_options(call.method, options)
    return getattr(torchdiffeq, interface)(
        call.func, call.y0, call.t, method=call.method, options=options, event_fn=event_fn, **arguments
    )
