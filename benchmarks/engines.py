"""The engines to compare: odeflow, torchdiffeq, and torchode, torchdyn and diffrax where they are installed."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
import torchdiffeq
from problems import Decline, DensityFlow, Problem
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import Dopri5

Mode = Literal["forward", "backprop", "memory"]
MODES: dict[Mode, str] = {
    "forward": "forward, without autograd",
    "backprop": "gradient by backpropagation through the solver",
    "memory": "gradient that saves memory",
}
Run = Callable[[Callable[[], None]], list[Tensor]]
"""(what to call before the backward pass) ↦ [y], or [y, ∂L/∂y₀, ∂L/∂θ]."""


@dataclass(frozen=True)
class Engine:
    """One way to solve a problem.

    Attributes:
        name: As in the tables.
        mode: What it computes.
        prepare: The run that solves a problem, or None where the engine does not take it.
        visible: Whether its evaluations and tensors are PyTorch's, so that they can be counted.
    """

    name: str
    mode: Mode
    prepare: Callable[[Problem], Run | None]
    visible: bool = True


def engines(mode: Mode, compiled: bool = False) -> list[Engine]:
    """The engines of a mode; the first is torchdiffeq, to which the others are compared.

    Args:
        mode: What they compute.
        compiled: Whether odeflow's first gradient shall run with compile=True, too.
    """
    found = [_torch_engine("torchdiffeq", mode, _torchdiffeq)]
    gradients: dict[Mode, list[of.Gradient]] = {
        "forward": [of.Backprop()],
        "backprop": [of.Backprop()],
        "memory": [of.Checkpointed(), of.Adjoint(), of.InterpolatedAdjoint(), of.Reversible()],
    }
    for gradient in gradients[mode]:
        name = "odeflow" if mode == "forward" else f"odeflow {type(gradient).__name__}"
        found.append(_torch_engine(name, mode, _odeflow(gradient)))
        if compiled and gradient is gradients[mode][0]:
            found.append(_torch_engine(f"{name}, compiled", mode, _odeflow(gradient, compiled=True), visible=False))
            found.append(Engine("odeflow CNF, compiled", mode, partial(_cnf, mode, gradient, True), visible=False))
        if gradient is gradients[mode][0]:
            found.append(Engine("odeflow CNF", mode, partial(_cnf, mode, gradient, False), visible=False))
    if importlib.util.find_spec("torchode"):
        found.append(_torch_engine("torchode", mode, _torchode))
    if importlib.util.find_spec("torchdyn"):
        found.append(_torch_engine("torchdyn", mode, _torchdyn))
    if importlib.util.find_spec("diffrax") and mode != "backprop":  # its gradient by default is a checkpointed one
        found.append(Engine("diffrax (jitted)", mode, lambda problem: _diffrax(problem, mode), visible=False))
    return found


Solve = Callable[[Problem, Tensor, Mode], Tensor]


def _torch_engine(name: str, mode: Mode, solve: Solve, visible: bool = True) -> Engine:
    def prepare(problem: Problem) -> Run:
        weights, params = problem.weights(), list(problem.field.parameters())

        def run(before_backward: Callable[[], None]) -> list[Tensor]:
            if mode == "forward":
                with torch.no_grad():
                    return [solve(problem, problem.y0, mode)]
            y0 = problem.y0.clone().requires_grad_()
            y = solve(problem, y0, mode)
            before_backward()
            grad_y0, *grads = torch.autograd.grad((y * weights).sum(), (y0, *params))
            return [y.detach(), grad_y0, torch.cat([grad.flatten() for grad in grads])]

        return run

    return Engine(name, mode, prepare, visible)


def _odeflow(gradient: of.Gradient, compiled: bool = False) -> Solve:
    solver_for = cache(partial(Dopri5, compile=compiled))  # what is compiled is kept by the solver

    def solve(problem: Problem, y0: Tensor, mode: Mode) -> Tensor:
        solver = solver_for(problem.rtol, problem.atol)
        return of.solve(problem.field, y0, problem.t, solver=solver, gradient=gradient).y

    return solve


def _cnf(mode: Mode, gradient: of.Gradient, compiled: bool, problem: Problem) -> Run | None:
    """The class of normalizing flows, on the density flow, whose equation it solves from data to base."""
    if not isinstance(problem.field, DensityFlow):
        return None
    t0, t1 = problem.t.tolist()
    solver = Dopri5(problem.rtol, problem.atol, compile=compiled)
    flow = of.Flow(problem.field.net, solver, gradient, options=of.FlowOptions(t0=t1, t1=t0))
    cnf = of.CNF([flow], (2,))

    def solve(problem: Problem, y0: Tensor, mode: Mode) -> Tensor:
        z, log_det = cnf.to_base(y0[:, :2])
        return torch.stack([y0, torch.cat([z, y0[:, 2:] - log_det[:, None]], 1)])

    return _torch_engine("", mode, solve).prepare(problem)


def _torchdiffeq(problem: Problem, y0: Tensor, mode: Mode) -> Tensor:
    solve = torchdiffeq.odeint_adjoint if mode == "memory" else torchdiffeq.odeint
    return solve(problem.field, y0, problem.t, rtol=problem.rtol, atol=problem.atol, method="dopri5")


class _OneSample(nn.Module):
    """The field as torchode is to see it: a batch of one, so that all samples share their steps as elsewhere."""

    def __init__(self, field: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.field, self.shape = field, shape

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, y.reshape(self.shape)).reshape(1, -1)


def _torchode(problem: Problem, y0: Tensor, mode: Mode) -> Tensor:
    import torchode

    t, inner = problem.t, len(problem.t) > 2
    term = torchode.ODETerm(_OneSample(problem.field, y0.shape), with_stats=False)
    control = torchode.IntegralController(atol=problem.atol, rtol=problem.rtol)
    initial = torchode.InitialValueProblem(y0.reshape(1, -1), t[:1], t[-1:], t[None] if inner else None)
    if mode == "memory":
        y = torchode.JointBacksolveAdjoint(term, torchode.Dopri5(), control).solve(initial).ys[0]
    else:
        settings = {"backprop_through_step_size_control": False}
        y = torchode.AutoDiffAdjoint(torchode.Dopri5(), control, **settings).solve(initial, term).ys[0]
    return y.reshape(len(t), *y0.shape) if inner else torch.stack([y0, y[-1].reshape(y0.shape)])


def _torchdyn(problem: Problem, y0: Tensor, mode: Mode) -> Tensor:
    from torchdyn import core, numerics

    rtol, atol = problem.rtol, problem.atol
    if mode != "memory":
        return numerics.odeint(problem.field, y0, problem.t, solver="dopri5", rtol=rtol, atol=atol)[1]
    backward = {"sensitivity": "adjoint", "rtol_adjoint": rtol, "atol_adjoint": atol}
    return core.ODEProblem(problem.field, solver="dopri5", rtol=rtol, atol=atol, **backward)(y0, problem.t)[1]


def _diffrax(problem: Problem, mode: Mode) -> Run | None:
    """Compiled before it is timed. Its convolutions take seconds on a CPU, so that problem is left out."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import diffrax
    import jax

    field = _jax_field(problem)
    if field is None:
        return None
    params = [jax.numpy.asarray(param.detach().numpy()) for param in problem.field.parameters()]
    y0, t, weights = (jax.numpy.asarray(value.numpy()) for value in (problem.y0, problem.t, problem.weights()))

    def solve(y0: Any, params: Any) -> Any:
        control = diffrax.PIDController(rtol=problem.rtol, atol=problem.atol)
        term, saved = diffrax.ODETerm(field), diffrax.SaveAt(ts=t)
        return diffrax.diffeqsolve(
            term, diffrax.Dopri5(), t[0], t[-1], None, y0, params, saveat=saved, stepsize_controller=control
        ).ys

    def loss(y0: Any, params: Any) -> Any:
        y = solve(y0, params)
        return (y * weights).sum(), y

    forward = jax.jit(lambda: [solve(y0, params)])
    backward = jax.jit(lambda: jax.grad(loss, argnums=(0, 1), has_aux=True)(y0, params))

    def run(before_backward: Callable[[], None]) -> list[Tensor]:
        if mode == "forward":
            return [torch.tensor(jax.device_get(value)) for value in forward()]
        (grad_y0, grads), y = jax.device_get(backward())
        flat = torch.cat([torch.tensor(grad).flatten() for grad in grads])
        return [torch.tensor(y), torch.tensor(grad_y0), flat]

    return run


def _jax_field(problem: Problem) -> Any:
    import jax
    import jax.numpy as jnp

    def perceptron(params: Any, x: Any) -> Any:
        for number in range(0, len(params), 2):
            x = x @ params[number].T + params[number + 1]
            x = jnp.tanh(x) if number + 2 < len(params) else x
        return x

    def density(t: Any, y: Any, params: Any) -> Any:
        def velocity(z: Any) -> Any:
            value = perceptron(params, jnp.append(z, t))
            return value, value

        jacobian, value = jax.vmap(jax.jacfwd(velocity, has_aux=True))(y[:, :2])
        return jnp.concatenate([value, -jnp.trace(jacobian, axis1=1, axis2=2)[:, None]], axis=1)

    if isinstance(problem.field, DensityFlow):
        return density
    if isinstance(problem.field, MLP):
        power = problem.field.power
        return lambda t, y, params: perceptron(params, y if power == 1 else y**power)
    if isinstance(problem.field, Decline):
        return lambda t, y, params: -params[0] * y
    return None
