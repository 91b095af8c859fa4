"""Call: what torchdiffeq's functions are called with, checked, and how it is solved."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.compat.control import Callbacks, Norm, around
from odeflow.compat.method import check_method, grid_of, is_fixed, solver_of
from odeflow.errors import SettingError, StateError
from odeflow.event import Event
from odeflow.flow import solve
from odeflow.gradient import Adjoint, Gradient
from odeflow.solver import Solver
from odeflow.state import Packing, State

Func = Callable[[Tensor, Any], Any]
EventFn = Callable[[Tensor, Any], Tensor]
Tol = float | Tensor | Sequence[float | Tensor]

HORIZON = 1e9  # how far an event is looked for
MOST_STEPS = 20_000  # how far with steps of equal size, as torchdiffeq
CALLBACKS = ("step", "accept_step", "reject_step")


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
    """

    func: Func
    y0: State
    t: Tensor
    packing: Packing | None
    rtol: float | Tensor
    atol: float | Tensor
    method: str
    options: dict[str, Any]

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
    ) -> "Call":
        """Checks the arguments.

        Raises:
            SettingError: One has no sense.
            StateError: The state cannot be solved for.
        """
        if not isinstance(y0, (Tensor, tuple)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(f"y0 must be a Tensor or a tuple of Tensors; got {type(y0).__name__}")
        if any(leaf.is_complex() for leaf in (y0 if isinstance(y0, tuple) else (y0,))):
            raise StateError("complex states are not solved: solve for torch.view_as_real(y0), with a field of that")
        if not isinstance(t, Tensor) or not t.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                f"t must be a floating-point Tensor, (T,); got {t.dtype if isinstance(t, Tensor) else t!r}"  # pyright: ignore[reportUnnecessaryIsInstance]
            )
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
        )
        check_method(call.method, call.options)
        return call

    def norm(self) -> Norm:
        """The norm of states as solvers know them."""
        user: Callable[[Any], Tensor | float] | None = self.options.get("norm")
        packing = self.packing
        if packing is None:
            return user or _rms
        return lambda packed: (user or _mixed)(packing.unpack(packed.reshape(-1)))

    def run(self, gradient: Gradient, params: tuple[Tensor, ...] | None, event_fn: EventFn | None) -> Any:
        """The solution, or (time of the event, solution)."""
        if event_fn is not None:
            return self._until(event_fn, gradient, params)
        if len(self.t) == 1:
            return self.y0[None] if isinstance(self.y0, Tensor) else tuple(leaf[None] for leaf in self.y0)
        return self._at(self.t, self._solver(self._grid()), gradient, params)

    def _grid(self) -> Callable[[Tensor], Tensor]:
        return grid_of(self.func, self.y0, self.options)

    def _solver(self, grid: Callable[[Tensor], Tensor] | None) -> Solver:
        view: Callable[[Tensor], object] = self.packing.unpack if self.packing else _itself
        callbacks = _callbacks(self.func, "", view)
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
        solver = self._solver(lambda _: grid.detach())
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
        if len(self.t) != 2:
            raise SettingError(
                f"with event_fn, t must hold the first time and the direction, (2,); got {len(self.t)} times"
            )
        start = self.t[0]
        event = combined(event_fn, start, self.y0)
        with torch.no_grad():
            if float(event(start, self.y0)) == 0:
                return start.detach(), _twice(self.y0)
        fixed = is_fixed(self.method)
        if fixed and self.options.get("step_size") is None:
            raise SettingError(f"an event needs options={{'step_size': …}} with the method {self.method!r}")
        far = float(self.options["step_size"]) * MOST_STEPS if fixed else HORIZON
        end = float(start.detach()) + math.copysign(far, float(self.t[1].detach() - start.detach()))
        with torch.no_grad():
            found = solve(
                self.func,
                self.y0,
                [float(start.detach()), end],
                solver=self._solver(None),
                params=(),
                event=Event(event),
            )
        event_t = found.t[-1].to(self.t)
        if not torch.is_grad_enabled():
            return event_t, found.y
        times = torch.stack((start, event_t))
        grid = None if fixed else self._grid()
        return event_t, self._solve(times, self._solver(grid), gradient, params)

    def adjoint(self, params: tuple[Tensor, ...], state_norm: Norm) -> Adjoint:
        """The gradient whose backward solve has this method and these options.

        Args:
            params: What gradients are wanted for.
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

        callbacks = _callbacks(self.func, "_adjoint", view)
        solver = solver_of(self.method, options, self.rtol, self.atol, norm=size, grid=grid, callbacks=callbacks)
        return Adjoint(solver, "full" if everything else "seminorm")


def combined(event_fn: EventFn, t0: Tensor, y0: State) -> EventFn:
    """One number that is positive until the first of the event's values becomes zero."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))
    return lambda t, y: (event_fn(t, y) * signs).min()


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt() if value.numel() else value.new_zeros(())


def _mixed(leaves: Sequence[Tensor]) -> float:
    """The largest root mean square of a tensor among several."""
    return max((float(_rms(leaf)) for leaf in leaves), default=0.0)


def _itself(y: Tensor) -> Tensor:
    return y


def _callbacks(func: object, suffix: str, view: Callable[[Tensor], object]) -> Callbacks:
    """The callbacks that a field has."""
    return Callbacks(view, **{name: getattr(func, f"callback_{name}{suffix}", None) for name in CALLBACKS})


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
