"""torchdiffeq's interface on odeflow's engine: `from odeflow.compat import odeint_adjoint as odeint` is the migration.

`odeint`, `odeint_adjoint` and `odeint_event` have the arguments and results of those of torchdiffeq 0.2.5. Differences:

- steps never exceed the last time, and in the adjoint the step size is kept across output times; the adjoint's ∂L/∂t
  are not under error control; times are in float64 regardless of the option "dtype";
- an event is located to rounding rather than to `atol`, by dense output of the method's order regardless of "interp". A
  boolean event function has its event where it changes, in either direction. The search ends with an error after 20,000
  steps or "max_num_steps". Under autograd the field is evaluated twice up to the event;
- rejected steps shrink regardless of "safety" and "dfactor", so that every solve terminates;
- an unknown option is an error, where torchdiffeq warns; so are step sizes that are not positive, a grid that is not
  monotone, and a single tensor as `adjoint_params`, whose rows torchdiffeq would take for parameters;
- errors are `odeflow.OdeflowError`, where torchdiffeq raises AssertionError: a ValueError for invalid arguments, a
  RuntimeError for a failed solve;
- complex states are not supported: solve for `torch.view_as_real` of them. All tensors of a tuple must share a dtype;
- results agree to the tolerances or, with fixed step size, to rounding errors, which in float32 grow with the steps;
- there is no `odeint_dense`: `odeflow.solve(…, dense=True)` supports any method and differentiates its dense output.
  Torchdiffeq's internals in the graph, such as `y.grad_fn.adjoint_options`, do not exist either.

"dopri5", "dopri8", "bosh3", "adaptive_heun", "euler", "midpoint", "heun2" and "rk4" are odeflow's methods with the same
coefficients. "heun3", "fehlberg2", "explicit_adams", "implicit_adams", "fixed_adams" and "scipy_solver" are
torchdiffeq's own: a call that uses one of them, for either pass, is checked and then runs entirely in torchdiffeq, with
its results, callbacks, warnings and errors.

Source: Chen (2018), https://github.com/rtqichen/torchdiffeq, README and FURTHER_DOCUMENTATION of version 0.2.5.
"""

from odeflow.compat.torchdiffeq.event import odeint_event as odeint_event
from odeflow.compat.torchdiffeq.odeint import odeint as odeint
from odeflow.compat.torchdiffeq.odeint import odeint_adjoint as odeint_adjoint
