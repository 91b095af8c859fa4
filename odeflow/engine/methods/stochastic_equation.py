"""A stochastic equation for a solve: its checks, its noise and its form on one tensor."""

import torch
from torch import Tensor

from odeflow.engine.equation.equation import (
    CALCULI,
    Equation,
    StochasticField,
    noise_shape,
    product_of,
)
from odeflow.engine.equation.state import Field, PackedField, Packing, State, check_shape
from odeflow.engine.methods.stochastic import SUGGESTED, StochasticSolver
from odeflow.engine.solver import Solver
from odeflow.errors import GradientError, SettingError, StateError
from odeflow.paths.brownian import Brownian


def check_pair(field: object, solver: Solver, noise: object = None) -> None:
    """Rejects a solver that does not solve the kind of equation.

    Args:
        field: The field.
        solver: The solver.
        noise: The noise that was given, if any.

    Raises:
        SettingError: Noise was given to a field without diffusion, or the field has one, and the solver ignores it or
            does not support its noise or calculus.
    """
    if not isinstance(field, StochasticField):
        if noise is not None:
            raise SettingError(f"noise was given, but the field, a {type(field).__name__}, has no diffusion")
        return
    name, solves = field.label, type(solver).__name__
    kind, calculus = field.noise, field.calculus
    use, meant = f"Use {SUGGESTED.get((kind, calculus), 'EulerMaruyama')}", CALCULI.get(calculus, calculus)
    if not isinstance(solver, StochasticSolver):
        sense = "" if kind == "additive" else f" in the sense of {meant}"
        raise SettingError(f"{solves} solves ordinary equations, and {name} has {kind} noise{sense}. {use}")
    if kind not in solver.strong:
        raise SettingError(f"{solves} does not support {kind} noise, which {name} has. {use}")
    if kind != "additive" and calculus not in solver.calculi:
        solved = " and ".join(CALCULI[each] for each in solver.calculi)
        raise SettingError(f"{solves} solves equations in the sense of {solved}; {name} is in that of {meant}. {use}")


def check_stochastic(field: StochasticField, t: Tensor, shows_steps: bool) -> None:
    """Rejects what stochastic equations do not have.

    Args:
        field: The equation.
        t: (T,), the t.
        shows_steps: Whether dense output or events were requested.

    Raises:
        SettingError: Dense output or events were requested, or the times decrease.
        GradientError: The times require a gradient.
    """
    name = field.label
    if shows_steps:
        raise SettingError(
            f"{name} is a stochastic equation: between the ends of its steps no polynomial gives the state, so it has "
            "no dense output and no events. Give the times that you need in t"
        )
    if t.requires_grad:
        raise GradientError(
            f"{name} is a stochastic equation, whose solutions have no derivative with respect to time: detach t"
        )
    if t.dim() == 1 and float(t[-1]) < float(t[0]):
        raise SettingError(
            f"{name} is a stochastic equation, and solved backward in time it is another one, not the inverse: give "
            f"increasing times; got t from {float(t[0]):g} to {float(t[-1]):g}"
        )


def stochastic_equation(
    field: StochasticField,
    solver: Solver,
    y0: State,
    start: Tensor,
    t: Tensor,
    packing: Packing | None,
    noise: Brownian | int | None,
) -> Equation:
    """The equation on one tensor with its Brownian path.

    Args:
        field: The drift and the diffusion.
        solver: The solver, which supports it.
        y0: The initial state.
        start: The same as one tensor.
        t: (T,), the times.
        packing: The packing of a tuple state.
        noise: As for `solve`.

    Raises:
        StateError: The diffusion has the wrong shape, or the path another shape, dtype or device than needed.
    """
    assert isinstance(solver, StochasticSolver)  # by `check_pair`
    times: list[float] = t.tolist()
    shape, matrix = noise_shape(field, times[0], y0)
    solver.check(field, times[0], y0)
    if isinstance(noise, Brownian):
        wanted, given = ((each.dtype, each.device.type) for each in (start, noise))
        if tuple(noise.shape) != tuple(shape) or wanted != given:
            raise StateError(
                f"the Brownian path of {field.label} must have shape {tuple(shape)}, {wanted[0]} on "
                f"{wanted[1]}; got {tuple(noise.shape)}, {given[0]} on {given[1]}"
            )
        path = noise
    else:
        seed = int(torch.randint(1 << 62, ())) if noise is None else noise
        path = solver.brownian(seed, shape, times, start)

    def on_packed(t: Tensor, y: Tensor) -> Tensor:
        assert packing is not None
        return field.diffusion(t, packing.unpack(y))

    def both(t: Tensor, y: Tensor) -> Tensor:
        f, g = field.both(t, y)
        check_shape(f, y.shape)
        check_shape(g, y.shape, " for the diffusion")
        return torch.stack((f, g))

    drift: Field = field if packing is None else PackedField(packing, field)
    diffusion: Field = field.diffusion if packing is None else on_packed
    stacked = both if field.shares and packing is None and field.noise == "diagonal" else None
    return Equation(drift, diffusion, field.noise, field.calculus, path, product_of(y0, matrix), stacked)
