"""torchdiffeq's interface on odeflow's engine: `from odeflow.compat import odeint_adjoint as odeint` is the migration.

`odeint`, `odeint_adjoint` and `odeint_event` take what those of torchdiffeq 0.2.5 take and return what they return.
What differs:

- steps never reach beyond the last time, and an event is found to rounding rather than to `atol`;
- an unknown option is an error, where torchdiffeq warns;
- errors are `odeflow.OdeflowError`, where torchdiffeq raises AssertionError: those about arguments are ValueError,
  those about a solve that cannot go on RuntimeError;
- complex states are refused: solve for `torch.view_as_real` of them.

"dopri5", "dopri8", "bosh3", "adaptive_heun", "euler", "midpoint", "heun2" and "rk4" are odeflow's methods of the same
coefficients. The others run in torchdiffeq itself, by the plugin `TorchDiffEq`, without events and callbacks.

Source: Chen (2018), https://github.com/rtqichen/torchdiffeq, README and FURTHER_DOCUMENTATION of version 0.2.5.
"""

from odeflow.compat.event import odeint_event
from odeflow.compat.odeint import odeint, odeint_adjoint

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]
