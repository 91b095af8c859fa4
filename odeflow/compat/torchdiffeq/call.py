"""Call: the checked arguments of torchdiffeq's functions, and their solve."""

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

HORIZON = 1e9  # the last time of an event search
CALLBACKS = ("step", "accept_step", "reject_step")
NO_CALLBACKS = Callbacks(lambda y: y)


@dataclass(frozen=True)
class Call:
    """The checked arguments of a call of `odeint`.

    Attributes:
        func: The vector field.
        y0: The initial state.
        t: (T,), the times.
        packing: The packing of a tuple state; None for a tensor.
        rtol: Relative tolerance, for the packed state.
        atol: Absolute tolerance, for the packed state.
        method: Name of the method.
        options: Options of the method.
        event_fn: (t, y) ↦ value that is zero at the event; None without an event.
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
            SettingError: An argument is invalid.
            StateError: The state is unsupported.
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
        check_method(call.method, call.options, t, event_fn is not None)
        return call

    def norm(self) -> Norm:
        """The norm on the solver's states."""
        user: Callable[[Any], Tensor | float] | None = self.options.get("norm")
        packing = self.packing
        if packing is None:
            return user or _rms
        return lambda packed: (user or _mixed)(packing.unpack(packed.reshape(-1)))

    def run(self, gradient: Gradient, params: tuple[Tensor, ...] | None) -> Any:
        """The solution, or (event time, solution)."""
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
        """The states at the times t, linearly interpolated between the grid points."""
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
        """(event time, states at the start and at the event)."""
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
        """The solution up to the event.

        Raises:
            SolveError: The event did not occur.
        """
        start = float(self.t[0])
        far = float(self.options["step_size"]) * MOST_STEPS if is_fixed(self.method) else HORIZON
        end = start + math.copysign(far, float(self.t[1] - self.t[0]))
        bounded = replace(self, options=bounded_options(self.method, self.options))

        def negative_after(t: Tensor, y: Any) -> Tensor:
            """Moves the event of a value that remains zero to the time at which it becomes zero."""
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
        """The adjoint gradient whose backward solve uses this method and these options.

        Args:
            params: The tensors to differentiate with respect to.
            state_norm: The norm of the forward solve.
        """
        options = dict(self.options)
        norm = options.pop("norm", None)
        check_method(self.method, options, self.t)
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
            """The grids of all intervals between output times."""
            whole = grid_of(self.func, self.y0, options)
            pieces = [whole(t[number : number + 2]) for number in range(len(t) - 1)]
            return torch.cat((t[:1], *(piece[1:] for piece in pieces)))

        callbacks = _callbacks(self.func, self.method, "_adjoint", view)
        solver = solver_of(self.method, options, self.rtol, self.atol, norm=size, grid=grid, callbacks=callbacks)
        return Adjoint(solver, "full" if everything else "seminorm")


def combined(event_fn: EventFn, t0: Tensor, y0: State) -> Callable[[Tensor, Any], Tensor]:
    """A scalar event function that is positive until the first event value becomes zero."""
    values = numeric(event_fn)
    with torch.no_grad():
        signs = torch.sign(values(t0, y0))
    return lambda t, y: (values(t, y) * signs).min()


def numeric(event_fn: EventFn) -> Callable[[Tensor, Any], Tensor]:
    """The event function with floating-point values; the event of a boolean value is where it changes."""

    def values(t: Tensor, y: Any) -> Tensor:
        value = torch.as_tensor(event_fn(t, y))
        if value.dtype == torch.bool:
            value = 2 * value.to(t.dtype) - 1
        return value if value.is_floating_point() else value.to(t.dtype)

    return values


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt() if value.numel() else value.new_zeros(())


def _mixed(leaves: Sequence[Tensor]) -> float:
    """The largest root mean square among several tensors."""
    return max((float(_rms(leaf)) for leaf in leaves), default=0.0)


def _itself(y: Tensor) -> Tensor:
    return y


def _callbacks(func: object, method: str, suffix: str, view: Callable[[Tensor], object]) -> Callbacks:
    """The field's callbacks that the method supports."""
    own = {name: getattr(func, f"callback_{name}{suffix}", None) for name in CALLBACKS}
    if is_fixed(method):
        never = [f"callback_{name}{suffix}" for name in CALLBACKS[1:] if own.pop(name) is not None]
        if never:
            warnings.warn(f"{method!r} accepts all its steps and does not call {', '.join(never)}", stacklevel=5)
    return Callbacks(view, **own)


def _check_times(t: object, event: bool) -> None:
    """Rejects invalid times.

    Raises:
        SettingError: `t` is not a one-dimensional floating-point tensor, or has the wrong length.
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
    """A scalar tolerance, or one per entry of the packed state."""
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
