"""torchdiffeq's interface on odeflow's engine: `from odeflow.compat import odeint_adjoint as odeint` is the migration.

`odeint`, `odeint_adjoint` and `odeint_event` take what those of torchdiffeq 0.2.5 take and return what they return.
What differs:

- steps never reach beyond the last time, and in the adjoint keep their size from one output time to the next; the
  adjoint's ∂L/∂t are under no error control; times are in float64 whatever the option "dtype" says;
- an event is found to rounding rather than to `atol`, by dense output of the method's order whatever "interp" says. A
  condition, true or false, has its event where it changes, either way. The search ends after 20,000 steps, or those of
  "max_num_steps", with an error. Under autograd the field is evaluated twice up to the event;
- rejected steps shrink whatever "safety" and "dfactor" say, so that every solve ends;
- an unknown option is an error, where torchdiffeq warns; so are sizes of steps that are not positive, a grid that turns
  back, and `adjoint_params` that is a single tensor, whose rows torchdiffeq takes for parameters;
- errors are `odeflow.OdeflowError`, where torchdiffeq raises AssertionError: those about arguments are ValueError,
  those about a solve that cannot go on RuntimeError;
- complex states are refused: solve for `torch.view_as_real` of them. The tensors of a tuple must share their dtype;
- results agree to the tolerances or, with equal steps, to rounding errors, which in float32 grow with their number;
- there is no `odeint_dense`: `odeflow.solve(…, dense=True)` takes any method and differentiates its dense output. What
  torchdiffeq keeps in the graph for itself, such as `y.grad_fn.adjoint_options`, is not there either.

"dopri5", "dopri8", "bosh3", "adaptive_heun", "euler", "midpoint", "heun2" and "rk4" are odeflow's methods of the same
coefficients. "heun3", "fehlberg2", "explicit_adams", "implicit_adams", "fixed_adams" and "scipy_solver" are
torchdiffeq's: a call with one of them, for either pass, is checked and runs as a whole in torchdiffeq, whose results,
callbacks, warnings and errors it has.

Source: Chen (2018), https://github.com/rtqichen/torchdiffeq, README and FURTHER_DOCUMENTATION of version 0.2.5.
"""

from odeflow.compat.torchdiffeq.event import odeint_event
from odeflow.compat.torchdiffeq.odeint import odeint, odeint_adjoint

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]
