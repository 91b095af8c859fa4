"""torchdiffeq's methods and their options, by name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from odeflow.compat.torchdiffeq.control import (
    Callbacks,
    GridSteps,
    Norm,
    ReportedSteps,
    Tolerance,
    TolerantSteps,
    check_option,
)
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.fixed import MOST_FIXED, FixedSteps, check_count
from odeflow.engine.loop.integrate import run
from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.step.large import stages_of
from odeflow.engine.tape import UNOBSERVED, Jump, Observer
from odeflow.errors import SettingError
from odeflow.plugin.registry import find, unknown

OURS = {
    "dopri8": "Dopri8",
    "dopri5": "Dopri5",
    "bosh3": "Bosh3",
    "adaptive_heun": "HeunEuler",
    "euler": "Euler",
    "midpoint": "Midpoint",
    "heun2": "Heun",
    "rk4": "RK38",
}
"""odeflow's solvers with the same coefficients."""

ADAPTIVE = (
    "first_step", "min_step", "max_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "max_num_steps", "dtype",
    "norm",
)  # fmt: skip
FIXED = ("step_size", "grid_constructor", "interp", "perturb", "norm")
ADAMS = (*FIXED, "max_order", "max_iters")

THEIRS = {
    "fehlberg2": ADAPTIVE,
    "heun3": FIXED,
    "explicit_adams": ADAMS,
    "implicit_adams": ADAMS,
    "fixed_adams": ADAMS,
    "scipy_solver": ("solver", "min_step", "max_step", "norm"),
}
"""The methods that run in torchdiffeq itself, with their options."""

MOST_STEPS = 20_000  # of an event search, as in torchdiffeq with fixed step size
FORMER = {"grid_points": "step_t or jump_t", "eps": "jump_t", "step_locations": "step_t", "jump_locations": "jump_t"}
"""Options of earlier versions of torchdiffeq, and their replacements."""

Grid = Callable[[Tensor], Tensor]


class _Driven(Solver):
    """A Runge–Kutta method with a given step size control.

    Args:
        method: The method.
        control: (T,), the times of a solve ↦ the control.
        jump_ts: (T,), the times of a solve ↦ the times at which the field may be discontinuous.
    """

    shows_steps = True

    def __init__(
        self,
        method: RungeKutta,
        control: Callable[[Tensor], StepControl],
        jump_ts: Callable[[Tensor], tuple[float, ...]],
    ) -> None:
        self.method, self.control, self.jumps = method, control, jump_ts
        self.order = method.order

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        t = t.detach()
        control, tableau = self.control(t), self.method.tableau
        if observer.jump is not None and isinstance(control, ReportedSteps):
            observer = replace(observer, jump=_noted(observer.jump, control))
        stages = stages_of(tableau, field, y0, observer.quadrature)
        return run(stages, control, y0, t, observer, self.jumps(t))


def _noted(jump: Jump, control: ReportedSteps) -> Jump:
    """A jump that also updates the state for the callbacks."""

    def noted(number: int, y: Tensor) -> Tensor:
        control.y = jump(number, y)
        return control.y

    return noted


def is_fixed(method: str) -> bool:
    """Whether a method has a fixed grid."""
    if method in THEIRS:
        return "step_size" in THEIRS[method]
    return _class(method).error_order is None


@cache
def _class(method: str) -> type[Any]:
    return find("solver", OURS[method])


def check_method(method: str, options: Mapping[str, Any], t: Tensor, event: bool = False) -> None:
    """Rejects unknown methods and options.

    Args:
        method: Name of the method.
        options: Options of the method.
        t: (T,), the times of the solve.
        event: Whether an event is requested. The last time is then unknown.

    Raises:
        SettingError: The method or an option is unknown, or the method does not support events.
    """
    if method not in OURS and method not in THEIRS:
        raise SettingError(f"Invalid method: {unknown('method', method, (*OURS, *THEIRS))}")
    accepted = THEIRS[method] if method in THEIRS else FIXED if is_fixed(method) else ADAPTIVE
    for name in options:
        if name not in accepted:
            now = f" Since torchdiffeq 0.2 it is {FORMER[name]}." if name in FORMER else ""
            raise SettingError(unknown(f"option of {method}", name, accepted) + now)
    check_option("step_size", options.get("step_size"))
    if options.get("step_size") is not None and options.get("grid_constructor") is not None:
        raise SettingError("step_size and grid_constructor are mutually exclusive; give one of them")
    if options.get("step_size") is not None and not event:
        span = float((t[-1] - t[0]).detach().abs())
        check_count(span, float(options["step_size"]), MOST_FIXED, "take larger ones, or give grid_constructor")
    if options.get("interp", "linear") not in ("linear", "cubic"):
        raise SettingError(f"interp must be 'linear' or 'cubic'; got {options['interp']!r}")
    if event and method == "scipy_solver":
        raise SettingError("scipy_solver does not support events: use another method")
    if event and is_fixed(method) and options.get("step_size") is None:
        raise SettingError(f"an event needs options={{'step_size': …}} with the method {method!r}")


def bounded_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for an event search, with a default bound on the number of steps."""
    return dict(options) if is_fixed(method) else {"max_num_steps": MOST_STEPS, **options}


def solver_of(
    method: str,
    options: Mapping[str, Any],
    rtol: float | Tensor,
    atol: float | Tensor,
    *,
    norm: Norm,
    grid: Grid | None,
    callbacks: Callbacks,
) -> Solver:
    """The solver of a method.

    Args:
        method: Name of the method.
        options: Checked options of the method.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        norm: The error norm on the solver's states, for adaptive methods.
        grid: (T,), the times of a solve ↦ the grid, for fixed methods; None for an unbounded grid of `step_size`.
        callbacks: The callbacks of each step.
    """

    def reported(control: StepControl) -> StepControl:
        return ReportedSteps(control, callbacks) if callbacks else control

    cls = _class(method)
    if is_fixed(method):

        def on_grid(t: Tensor) -> StepControl:
            if grid is not None:
                return reported(GridSteps(grid(t).tolist()))
            start, far = float(t[0]), math.copysign(MOST_STEPS * options["step_size"], float(t[-1] - t[0]))
            return reported(FixedSteps(start, start + far, MOST_STEPS))

        def jumps(t: Tensor) -> tuple[float, ...]:
            """All grid points: `perturb` distinguishes their two sides."""
            return () if grid is None or not options.get("perturb") else tuple(grid(t).tolist())

        return _Driven(cls(num_steps=1), on_grid, jumps)
    plain = {name: options[name] for name in ADAPTIVE if name in options and name not in ("norm", "dtype", "jump_t")}
    step_t = _times(plain.pop("step_t", None))
    jump_t = _times(options.get("jump_t"))
    if len({*step_t, *jump_t}) < len(step_t) + len(jump_t):
        raise SettingError("step_t and jump_t must not have any repeated elements between them")
    scalars = {name: None if value is None else float(value) for name, value in plain.items()}
    tolerance = Tolerance(rtol=rtol, atol=atol, step_t=step_t, **scalars)  # pyright: ignore[reportArgumentType]
    return _Driven(cls(), lambda t: reported(TolerantSteps(tolerance, cls.order, norm, t.tolist())), lambda t: jump_t)


def _times(times: Tensor | None) -> tuple[float, ...]:
    return () if times is None else tuple(torch.as_tensor(times).detach().tolist())


def grid_of(func: Any, y0: Any, options: Mapping[str, Any]) -> Grid:
    """The grid of a fixed method as a function of the times: from the options, by default the times themselves."""
    step, constructor = options.get("step_size"), options.get("grid_constructor")

    def grid(t: Tensor) -> Tensor:
        if constructor is not None:
            made = constructor(func, y0, t)
            steps = made.detach().diff() * (t[-1] - t[0]).detach().sign()
            if made[0] != t[0] or made[-1] != t[-1] or bool((steps < 0).any()):
                raise SettingError("the grid of grid_constructor must go from t[0] to t[-1], in that direction alone")
            return made
        if step is None:
            return t
        count = int(torch.ceil((t[-1] - t[0]).detach().abs() / step - 1e-9))
        ticks = torch.arange(max(count, 1), dtype=t.dtype, device=t.device) * step
        return torch.cat((t[0] + ticks * (t[-1] - t[0]).detach().sign(), t[-1:]))

    return grid
