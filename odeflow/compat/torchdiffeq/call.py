"""Call: what torchdiffeq's functions are called with, checked, and how it is solved."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odeflow.compat.torchdiffeq.control import Callbacks, Norm, around
from odeflow.compat.torchdiffeq.method import MOST_STEPS, bounded_options, check_method, grid_of, is_fixed, solver_of
from odeflow.engine.equation.state import Packing, State
from odeflow.engine.gradients import Adjoint, Gradient
from odeflow.engine.output.event import Event
from odeflow.engine.output.solution import Solution, SolveError
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.errors import SettingError, StateError

Func = Callable[[Tensor, Any], Any]
EventFn = Callable[[Tensor, Any], Tensor | bool]
Tol = float | Tensor | Sequence[float | Tensor]

HORIZON = 1e9  # how far an event is looked for
CALLBACKS = ("step", "accept_step", "reject_step")
NO_CALLBACKS = Callbacks(lambda y: y)


@dataclass(frozen=True)
class Call:
    """What `odeint` was called with, checked.

    Attributes:
        func: The vector field.
        y0: The initial state.
        t: (T,), the times.
        packing: Of a tuple state.
        rtol: Relative tolerance, for the packed state.
        atol: Absolute tolerance, for the packed state.
        method: Name of the method.
        options: Its options.
        event_fn: What is zero at the event, if one is looked for.
    """

    func: Func
    y0: State
    t: Tensor
    packing: Packing | None
    rtol: float | Tensor
    atol: float | Tensor
    method: str
    options: dict[str, Any]
    event_fn: EventFn | None

    @classmethod
    def of(
        cls,
        func: Func,
        y0: State,
        t: Tensor,
        rtol: Tol,
        atol: Tol,
        method: str | None,
        options: Mapping[str, Any] | None,
        event_fn: EventFn | None,
    ) -> "Call":
        """Checks the arguments.

        Raises:
            SettingError: One has no sense.
            StateError: The state cannot be solved for.
        """
        if not isinstance(y0, (Tensor, tuple)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(f"y0 must be a Tensor or a tuple of Tensors; got {type(y0).__name__}")
        if any(leaf.is_complex() for leaf in (y0 if isinstance(y0, tuple) else (y0,))):
            raise StateError("complex states are not supported: solve for torch.view_as_real(y0)")
        _check_times(t, event_fn is not None)
        packing = Packing.of(y0) if isinstance(y0, tuple) else None
        call = cls(
            func,
            y0,
            t,
            packing,
            _tolerance("rtol", rtol, packing),
            _tolerance("atol", atol, packing),
            method or "dopri5",
            dict(options or {}),
            event_fn,
        )
        check_method(call.method, call.options, event_fn is not None)
        return call

    def norm(self) -> Norm:
        """The norm of states as solvers know them."""
        user: Callable[[Any], Tensor | float] | None = self.options.get("norm")
        packing = self.packing
        if packing is None:
            return user or _rms
        return lambda packed: (user or _mixed)(packing.unpack(packed.reshape(-1)))

    def run(self, gradient: Gradient, params: tuple[Tensor, ...] | None) -> Any:
        """The solution, or (time of the event, solution)."""
        if self.event_fn is not None:
            return self._until(self.event_fn, gradient, params)
        if len(self.t) == 1:
            return self.y0[None] if isinstance(self.y0, Tensor) else tuple(leaf[None] for leaf in self.y0)
        return self._at(self.t, self._solver(self._grid(), self._callbacks()), gradient, params)

    def _grid(self) -> Callable[[Tensor], Tensor]:
        return grid_of(self.func, self.y0, self.options)

    def _callbacks(self) -> Callbacks:
        view: Callable[[Tensor], object] = self.packing.unpack if self.packing else _itself
        return _callbacks(self.func, self.method, "", view)

    def _solver(self, grid: Callable[[Tensor], Tensor] | None, callbacks: Callbacks = NO_CALLBACKS) -> Solver:
        return solver_of(
            self.method, self.options, self.rtol, self.atol, norm=self.norm(), grid=grid, callbacks=callbacks
        )

    def _at(self, t: Tensor, solver: Solver, gradient: Gradient, params: tuple[Tensor, ...] | None) -> State:
        """The states at the times t."""
        if not is_fixed(self.method) or self.options.get("interp") == "cubic":
            return self._solve(t, solver, gradient, params)
        if self.options.get("step_size") is None and self.options.get("grid_constructor") is None:
            return self._solve(t, solver, gradient, params)
        return self._interpolated(t, gradient, params)

    def _solve(self, t: Tensor, solver: Solver, gradient: Gradient, params: tuple[Tensor, ...] | None) -> State:
        return solve(self.func, self.y0, t, solver=solver, gradient=gradient, params=params).y

    def _interpolated(self, t: Tensor, gradient: Gradient, params: tuple[Tensor, ...] | None) -> State:
        """The states at the times t, between the points of the grid by straight lines."""
        grid = self._grid()(t)
        sign = math.copysign(1.0, float(t[-1].detach() - t[0].detach()))
        places = (grid.detach() * sign).tolist()
        pairs = [around(places, sign * time) for time in t.tolist()]
        wanted = sorted({number for pair in pairs for number in pair} | {0, len(places) - 1})
        row = {number: place for place, number in enumerate(wanted)}
        solver = self._solver(lambda _: grid.detach(), self._callbacks())
        y = self._solve(grid[wanted], solver, gradient, params)

        def between(leaf: Tensor) -> Tensor:
            rows: list[Tensor] = []
            for time, (before, after) in zip(t, pairs, strict=True):
                start = leaf[row[before]]
                if before != after:
                    place = (time - grid[before]) / (grid[after] - grid[before])
                    start = start + place.to(leaf) * (leaf[row[after]] - start)
                rows.append(start)
            return torch.stack(rows)

        return between(y) if isinstance(y, Tensor) else tuple(between(leaf) for leaf in y)

    def _until(self, event_fn: EventFn, gradient: Gradient, params: tuple[Tensor, ...] | None) -> tuple[Tensor, State]:
        """(time of the event, states at the start and there)."""
        start = self.t[0]
        event = combined(event_fn, start, self.y0)
        with torch.no_grad():
            if float(event(start, self.y0)) == 0:
                return start.detach(), _twice(self.y0)
            found = self._search(event)
        event_t = found.t[-1].to(self.t)
        if not torch.is_grad_enabled():
            return event_t, found.y
        times = torch.stack((start, event_t))
        grid = None if is_fixed(self.method) else self._grid()
        return event_t, self._solve(times, self._solver(grid), gradient, params)

    def _search(self, event: Callable[[Tensor, Any], Tensor]) -> Solution[State]:
        """The solution until the event.

        Raises:
            SolveError: It was not met.
        """
        start = float(self.t[0])
        far = float(self.options["step_size"]) * MOST_STEPS if is_fixed(self.method) else HORIZON
        end = start + math.copysign(far, float(self.t[1] - self.t[0]))
        bounded = replace(self, options=bounded_options(self.method, self.options))

        def negative_after(t: Tensor, y: Any) -> Tensor:
            """A value that is zero from some time on has its event where it becomes that."""
            value = event(t, y)
            return torch.where(value == 0, -torch.finfo(value.dtype).tiny, value)

        found = solve(
            self.func,
            self.y0,
            [start, end],
            solver=bounded._solver(None, self._callbacks()),
            params=(),
            event=Event(negative_after, required=False),
        )
        if not len(found.events[0].t):
            raise SolveError(
                f"event_fn has no zero between t = {start:g} and {end:g}. Look at its values along the "
                "solution, at the direction of time, or give a larger step_size to a method that has one"
            )
        return found

    def adjoint(self, params: tuple[Tensor, ...], state_norm: Norm) -> Adjoint:
        """The gradient whose backward solve has this method and these options.

        Args:
            params: The tensors to differentiate with respect to.
            state_norm: The norm of the forward solve.
        """
        options = dict(self.options)
        norm = options.pop("norm", None)
        check_method(self.method, options)
        shape = self.y0.shape if isinstance(self.y0, Tensor) else torch.Size([sum(leaf.numel() for leaf in self.y0)])
        packing = Packing((shape, shape, *(param.shape for param in params)))
        everything = norm != "seminorm" and self.method in ("dopri5", "dopri8", "bosh3", "adaptive_heun")

        def parts(state: Tensor) -> list[Tensor]:
            return list(packing.unpack(state.reshape(-1))) if everything else list(state)

        def view(state: Tensor) -> tuple[Tensor, ...]:
            y, adjoint, *others = parts(state)
            pairs = (y,), (adjoint,)
            if self.packing is not None:
                pairs = self.packing.unpack(y), self.packing.unpack(adjoint)
            return (state.new_zeros(()), *pairs[0], *pairs[1], *others)

        def size(state: Tensor) -> float:
            if callable(norm):
                return float(norm(view(state)))  # pyright: ignore[reportArgumentType]
            y, adjoint, *others = parts(state)
            return max(float(state_norm(y)), float(state_norm(adjoint)), _mixed(others))

        def grid(t: Tensor) -> Tensor:
            """Interval by interval: each begins at an output time."""
            whole = grid_of(self.func, self.y0, options)
            pieces = [whole(t[number : number + 2]) for number in range(len(t) - 1)]
            return torch.cat((t[:1], *(piece[1:] for piece in pieces)))

        callbacks = _callbacks(self.func, self.method, "_adjoint", view)
        solver = solver_of(self.method, options, self.rtol, self.atol, norm=size, grid=grid, callbacks=callbacks)
        return Adjoint(solver, "full" if everything else "seminorm")


def combined(event_fn: EventFn, t0: Tensor, y0: State) -> Callable[[Tensor, Any], Tensor]:
    """One number that is positive until the first of the event's values becomes zero."""
    values = numeric(event_fn)
    with torch.no_grad():
        signs = torch.sign(values(t0, y0))
    return lambda t, y: (values(t, y) * signs).min()


def numeric(event_fn: EventFn) -> Callable[[Tensor, Any], Tensor]:
    """The event's values as floating-point numbers; what is true or false has its event where that changes."""

    def values(t: Tensor, y: Any) -> Tensor:
        value = torch.as_tensor(event_fn(t, y))
        if value.dtype == torch.bool:
            value = 2 * value.to(t.dtype) - 1
        return value if value.is_floating_point() else value.to(t.dtype)

    return values


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt() if value.numel() else value.new_zeros(())


def _mixed(leaves: Sequence[Tensor]) -> float:
    """The largest root mean square of a tensor among several."""
    return max((float(_rms(leaf)) for leaf in leaves), default=0.0)


def _itself(y: Tensor) -> Tensor:
    return y


def _callbacks(func: object, method: str, suffix: str, view: Callable[[Tensor], object]) -> Callbacks:
    """The callbacks that a field has, of those that the method calls."""
    own = {name: getattr(func, f"callback_{name}{suffix}", None) for name in CALLBACKS}
    if is_fixed(method):
        never = [f"callback_{name}{suffix}" for name in CALLBACKS[1:] if own.pop(name) is not None]
        if never:
            warnings.warn(f"{method!r} accepts all its steps and does not call {', '.join(never)}", stacklevel=5)
    return Callbacks(view, **own)


def _check_times(t: object, event: bool) -> None:
    """Refuses what are no times.

    Raises:
        SettingError: They are not floating-point numbers in a row, or not as many as are wanted.
    """
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise SettingError(f"t must be a floating-point Tensor, (T,); got {t.dtype if isinstance(t, Tensor) else t!r}")
    if t.dim() != 1 or not len(t):
        raise SettingError(f"t must have one dimension, (T,), and a time in it; its shape is {tuple(t.shape)}")
    if event and len(t) != 2:
        raise SettingError(f"with event_fn, t must hold the first time and the direction, (2,); got {len(t)} times")


def _twice(y0: State) -> State:
    if isinstance(y0, Tensor):
        return torch.stack((y0, y0))
    return tuple(torch.stack((leaf, leaf)) for leaf in y0)


def _tolerance(name: str, tol: Tol, packing: Packing | None) -> float | Tensor:
    """One tolerance, or one for each entry of the packed state."""
    if isinstance(tol, (int, float)):
        return float(tol)
    if isinstance(tol, Tensor):
        if tol.requires_grad:
            raise SettingError(f"{name} cannot require a gradient")
        if tol.dim() == 0:
            return float(tol)
    if packing is None:
        return torch.as_tensor(tol)
    if len(tol) != len(packing.shapes):
        raise SettingError(
            f"{name} must be one number, or one for each of the {len(packing.shapes)} tensors; got {len(tol)}"
        )
    each = [torch.as_tensor(one).expand(shape).reshape(-1) for one, shape in zip(tol, packing.shapes, strict=True)]
    return torch.cat(each)
