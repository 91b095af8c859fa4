"""odeint and odeint_adjoint, with torchdiffeq's signatures."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from odeflow.compat.torchdiffeq.call import Call, EventFn, Func, Tol
from odeflow.compat.torchdiffeq.method import check_method
from odeflow.compat.torchdiffeq.theirs import is_theirs, run_theirs
from odeflow.engine.equation.state import State
from odeflow.engine.gradients import Backprop
from odeflow.errors import SettingError


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
) -> Any:
    """Solves dy/dt = func(t, y) with y(t[0]) = y0. Gradients are computed by backpropagation through the steps.

    Args:
        func: The vector field.
        y0: A tensor of any shape, or a tuple of tensors.
        t: (T,), strictly monotone; the first is the time of y0. With `event_fn`, two times that give the start and the
            direction.
        rtol: Relative tolerance: scalar, one per entry, or one per tensor of a tuple.
        atol: Absolute tolerance, likewise.
        method: Name of the method; "dopri5" by default.
        options: Options of the method.
        event_fn: (t, y) ↦ value that is zero at the event; of several values, the first that becomes zero counts.

    Returns:
        (T, *state), or a tuple of such tensors. With `event_fn`: (event time, states at t[0] and at the event), whose
        gradient treats the event time as constant; use `odeint_event` otherwise.

    Raises:
        SettingError: An argument is invalid; also a ValueError.
        StateError: The state, or the field's output, has the wrong shape or dtype; also a ValueError.
        SolveError: The integration failed, or the event did not occur; also a RuntimeError.
    """
    call = Call.of(func, y0, t, rtol, atol, method, options, event_fn)
    if is_theirs(call.method):
        return run_theirs("odeint", call, rtol=rtol, atol=atol)
    return call.run(Backprop(), None)


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
    adjoint_rtol: Tol | None = None,
    adjoint_atol: Tol | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, with gradients by the continuous adjoint at constant memory.

    Args:
        func: The vector field; a module unless `adjoint_params` is given.
        y0: As of `odeint`.
        t: As of `odeint`.
        rtol: As of `odeint`.
        atol: As of `odeint`.
        method: As of `odeint`.
        options: As of `odeint`.
        event_fn: As of `odeint`.
        adjoint_rtol: Relative tolerance of the backward solve; by default that of the forward one.
        adjoint_atol: Absolute tolerance of the backward solve; by default that of the forward one.
        adjoint_method: Method of the backward solve; by default that of the forward one.
        adjoint_options: Options of the backward solve; by default those of the forward one except "norm". The norm may
            be "seminorm", or a function of (t, y, adj_y, *adj_params).
        adjoint_params: The tensors to differentiate with respect to, besides y0 and t; by default the field's
            parameters.

    Returns:
        As `odeint`.

    Raises:
        SettingError: As `odeint`, or the field is a function and `adjoint_params` is missing.
        StateError: As `odeint`.
        SolveError: As `odeint`.
    """
    call = Call.of(func, y0, t, rtol, atol, method, options, event_fn)
    method_back = adjoint_method or call.method
    if method_back != call.method and options is not None and adjoint_options is None:
        raise SettingError(
            f"adjoint_method is {method_back!r} and method {call.method!r}, so that options cannot be those of both: "
            "give adjoint_options too"
        )
    forward = {name: value for name, value in call.options.items() if name != "norm"}
    options_back = forward if adjoint_options is None else dict(adjoint_options)
    check_method(method_back, options_back, t, event_fn is not None)
    params = _wanted(func, adjoint_params)
    if is_theirs(call.method, method_back):
        return run_theirs(
            "odeint_adjoint",
            call,
            rtol=rtol,
            atol=atol,
            adjoint_rtol=adjoint_rtol,
            adjoint_atol=adjoint_atol,
            adjoint_method=method_back,
            adjoint_options=options_back,
            adjoint_params=params,
        )
    backward = replace(
        call,
        method=method_back,
        options=options_back,
        rtol=_single("rtol", rtol if adjoint_rtol is None else adjoint_rtol),
        atol=_single("atol", atol if adjoint_atol is None else adjoint_atol),
    )
    solution = call.run(backward.adjoint(params, call.norm()), params)
    if event_fn is None:
        return _reaching(params, solution)
    event_t, states = solution
    event_t, *leaves = _reaching(params, (event_t, *(states if isinstance(states, tuple) else (states,))))
    return event_t, tuple(leaves) if isinstance(states, tuple) else leaves[0]


def _wanted(func: object, params: Iterable[Tensor] | None) -> tuple[Tensor, ...]:
    """The tensors to differentiate with respect to.

    Raises:
        SettingError: The parameters are unknown, or `params` is a single tensor, which would be split into its rows.
    """
    if isinstance(params, Tensor):
        raise SettingError(
            "adjoint_params must be several tensors, such as (a, b) or module.parameters(); got a Tensor"
        )
    if params is None:
        if not isinstance(func, nn.Module):
            raise SettingError(
                "func must be an nn.Module, whose parameters get gradients; else give adjoint_params=(…), possibly "
                "empty"
            )
        params = func.parameters()
    return tuple(param for param in params if param.requires_grad)


def _reaching(params: tuple[Tensor, ...], results: State) -> Any:
    """The same results, connected to all parameters; those unused by the field get zero gradients."""
    if isinstance(results, Tensor):
        return _reaching(params, (results,))[0]
    return _Reaching.apply(len(params), *params, *results)


class _Reaching(torch.autograd.Function):
    """The identity on the results, with zero gradients for the parameters."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.params = [(param.shape, param.dtype, param.device) for param in tensors[:count]]
        return tuple(result.view_as(result) for result in tensors[count:])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        zeros = (torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.params)
        return None, *zeros, *grad_outputs


def _single(name: str, tol: Tol) -> float | Tensor:
    """A scalar tolerance of the backward solve."""
    if isinstance(tol, Tensor) and tol.numel() == 1:
        return float(tol)
    if not isinstance(tol, (int, float)):
        raise SettingError(
            f"the adjoint equation has another state than the forward one, so {name} of each entry or tensor does not "
            f"serve it: give adjoint_{name}, one number"
        )
    return float(tol)
