"""Methods and options by torchdiffeq's names."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odeflow.compat.control import Callbacks, GridSteps, Norm, ReportedSteps, Tolerance, TolerantSteps
from odeflow.errors import SettingError
from odeflow.registry import discover, look_up, unknown
from odeflow.runge_kutta import AdaptiveRungeKutta, ExplicitRungeKutta
from odeflow.solver import Jump, Quadrature, Solution, Solver, Tape
from odeflow.stages import stages_of
from odeflow.state import Field
from odeflow.stepping import FixedSteps, StepControl, run

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
"""The solver of the same coefficients."""

THEIRS = ("fehlberg2", "heun3", "explicit_adams", "implicit_adams", "fixed_adams", "scipy_solver")
"""What runs in torchdiffeq itself."""

ADAPTIVE = (
    "first_step", "min_step", "max_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "max_num_steps", "dtype",
    "norm",
)  # fmt: skip
FIXED = ("step_size", "grid_constructor", "interp", "perturb", "norm")
FORMER = {"grid_points": "step_t or jump_t", "eps": "jump_t", "step_locations": "step_t", "jump_locations": "jump_t"}
"""Options of former versions of torchdiffeq, and what took their place."""

Grid = Callable[[Tensor], Tensor]


class _Driven(Solver):
    """A Runge–Kutta method whose steps a given control chooses.

    Args:
        method: The method.
        control: (T,), the times of a solve ↦ the control.
        step_at: (T,), the times of a solve ↦ those at which the field may jump.
    """

    def __init__(
        self,
        method: ExplicitRungeKutta,
        control: Callable[[Tensor], StepControl],
        step_at: Callable[[Tensor], tuple[float, ...]],
    ) -> None:
        self.method, self.control, self.jumps = method, control, step_at
        self.order = method.order

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        *,
        tape: Tape | None = None,
        quadrature: Quadrature | None = None,
        jump: Jump | None = None,
    ) -> Solution:
        t = t.detach()
        control, tableau = self.control(t), self.method.tableau
        if jump is not None and isinstance(control, ReportedSteps):
            jump = _noted(jump, control)
        stages = stages_of(tableau, field, y0, quadrature)
        return run(stages, control, y0, t, tape=tape, jump=jump, step_at=self.jumps(t))


def _noted(jump: Jump, control: ReportedSteps) -> Jump:
    """A jump that tells the state to the callbacks."""

    def noted(number: int, y: Tensor) -> Tensor:
        control.y = jump(number, y)
        return control.y

    return noted


def is_fixed(method: str) -> bool:
    """Whether a method of ours takes the steps of a grid."""
    return method in OURS and not issubclass(_class(method), AdaptiveRungeKutta)


def _class(method: str) -> type[Any]:
    discover()
    return look_up("solver", OURS[method])


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Refuses methods and options that there are not.

    Raises:
        SettingError: There is no such method, or it has no such option.
    """
    if method not in OURS and method not in THEIRS:
        raise SettingError(f"Invalid method: {unknown('method', method, (*OURS, *THEIRS))}")
    if method in THEIRS:
        return
    accepted = FIXED if is_fixed(method) else ADAPTIVE
    for name in options:
        if name not in accepted:
            now = f" Since torchdiffeq 0.2 it is {FORMER[name]}." if name in FORMER else ""
            raise SettingError(unknown(f"option of {method}", name, accepted) + now)
    if options.get("step_size") is not None and options.get("grid_constructor") is not None:
        raise SettingError("step_size and grid_constructor are mutually exclusive; give one of them")
    if options.get("interp", "linear") not in ("linear", "cubic"):
        raise SettingError(f"interp must be 'linear' or 'cubic'; got {options['interp']!r}")


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
        method: Its name.
        options: Its options, checked.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        norm: On the solver's states, of an adaptive method's error.
        grid: (T,), the times of a solve ↦ the steps' ends, of a fixed method; None: endless, of `step_size`.
        callbacks: What is called at each step.
    """
    if method in THEIRS:
        if callbacks:
            warnings.warn(f"{method!r} runs in torchdiffeq and does not support callbacks here", stacklevel=4)
        theirs = {name: value for name, value in options.items() if name != "norm"}
        discover()
        foreign = look_up("solver", "TorchDiffEq")(method, rtol, atol, theirs or None)
        assert isinstance(foreign, Solver)
        return foreign

    def reported(control: StepControl) -> StepControl:
        return ReportedSteps(control, callbacks) if callbacks else control

    cls = _class(method)
    if is_fixed(method):

        def on_grid(t: Tensor) -> StepControl:
            if grid is not None:
                return reported(GridSteps(grid(t).tolist()))
            start = float(t[0])
            step = float(options["step_size"]) * (1 if t[-1] > t[0] else -1)
            return reported(FixedSteps(start, start + step, 1))

        def jumps(t: Tensor) -> tuple[float, ...]:
            """All points of the grid, whose two sides `perturb` tells apart."""
            return () if grid is None or not options.get("perturb") else tuple(grid(t).tolist())

        return _Driven(cls(num_steps=1), on_grid, jumps)
    plain = {name: options[name] for name in ADAPTIVE if name in options and name not in ("norm", "dtype", "jump_t")}
    step_t = _times(plain.pop("step_t", None))
    jump_t = _times(options.get("jump_t"))
    if len({*step_t, *jump_t}) < len(step_t) + len(jump_t):
        raise SettingError("step_t and jump_t must not have any repeated elements between them")
    scalars = {name: None if value is None else float(value) for name, value in plain.items()}
    tolerance = Tolerance(rtol=rtol, atol=atol, step_t=step_t, **scalars)  # pyright: ignore[reportArgumentType]
    return _Driven(cls(), lambda t: reported(TolerantSteps(tolerance, cls.order, norm)), lambda t: jump_t)


def _times(times: Tensor | None) -> tuple[float, ...]:
    return () if times is None else tuple(torch.as_tensor(times).detach().tolist())


def grid_of(func: Any, y0: Any, options: Mapping[str, Any]) -> Grid:
    """The grid of a fixed method as a function of the times: by the options, else the times themselves."""
    step, constructor = options.get("step_size"), options.get("grid_constructor")

    def grid(t: Tensor) -> Tensor:
        if constructor is not None:
            made = constructor(func, y0, t)
            if made[0] != t[0] or made[-1] != t[-1]:
                raise SettingError("the grid of grid_constructor must begin with t[0] and end with t[-1]")
            return made
        if step is None:
            return t
        count = int(torch.ceil((t[-1] - t[0]).detach().abs() / step - 1e-9))
        ticks = torch.arange(max(count, 1), dtype=t.dtype, device=t.device) * step
        return torch.cat((t[0] + ticks * (t[-1] - t[0]).detach().sign(), t[-1:]))

    return grid
