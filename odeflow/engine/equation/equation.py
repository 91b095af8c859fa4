"""Stochastic equations: the contract of their fields, and an equation with its noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field, State
from odeflow.errors import SettingError, StateError
from odeflow.paths.brownian import Brownian

Noise = Literal["diagonal", "scalar", "additive", "general"]
"""How a diffusion g acts on the increments of Brownian motion: see `StochasticField`."""
Calculus = Literal["ito", "stratonovich"]
"""The stochastic integral that an equation is meant in."""
CALCULI = {"ito": "Itô", "stratonovich": "Stratonovich"}
"""The names of the calculi in messages."""


class StochasticField(ABC):
    """The right-hand side of dy = f(t, y) dt + g(t, y) dW: called, it is the drift f.

    The shape of g depends on its noise, for a state y of shape (B, *state):

    - "diagonal": (B, *state). Each entry has its own Brownian motion; entry i of g depends on entry i of y alone.
    - "scalar": (B, *state). All entries of a sample share one Brownian motion.
    - "additive": g does not depend on y: (B, *state), or (B, *state, m) for m Brownian motions.
    - "general": (B, *state, m), for m Brownian motions.

    If the state is a tuple, the noise acts on its first tensor, and g has its shape.

    Attributes:
        noise: The kind of noise.
        calculus: Whether the equation is meant in the sense of Itô or of Stratonovich. With additive noise they agree.
    """

    noise: Noise = "diagonal"
    calculus: Calculus = "ito"
    shares: bool = False
    """Whether `both` is cheaper than drift and diffusion one by one. For diagonal noise and a state of one tensor."""

    @property
    def label(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    def both(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(f, g) at (t, y). Override it, and set `shares`, where they have parts in common."""
        return self(t, y), self.diffusion(t, y)

    @abstractmethod
    def __call__(self, t: Tensor, y: Any) -> Any:
        """The drift f(t, y), as of any vector field."""

    @abstractmethod
    def diffusion(self, t: Tensor, y: Any) -> Tensor:
        """The diffusion g(t, y).

        Args:
            t: (), the time.
            y: (B, *state), or a tuple of such tensors.
        """


@dataclass(frozen=True)
class SDE(StochasticField):
    """A stochastic field made of two functions.

    Attributes:
        drift: (t, y) ↦ f.
        diffuse: (t, y) ↦ g.
        noise: As in `StochasticField`.
        calculus: As in `StochasticField`.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> from odeflow_sde import EulerMaruyama
        >>> growth = of.SDE(lambda t, y: 0.05 * y, lambda t, y: 0.2 * y)
        >>> of.solve(growth, torch.ones(8, 1), [0.0, 1.0], solver=EulerMaruyama(num_steps=100), params=()).y.shape
        torch.Size([2, 8, 1])
    """

    drift: Callable[[Tensor, Any], Any]
    diffuse: Callable[[Tensor, Any], Tensor]
    noise: Noise = "diagonal"
    calculus: Calculus = "ito"

    def __call__(self, t: Tensor, y: Any) -> Any:
        return self.drift(t, y)

    def diffusion(self, t: Tensor, y: Any) -> Tensor:
        return self.diffuse(t, y)


Product = Callable[[Tensor, Tensor], Tensor]
"""(g, ΔW) ↦ g ΔW, of the shape of the (packed) state; linear in both."""


@dataclass(frozen=True)
class Equation:
    """dy = drift dt + diffusion dW on one tensor, with its Brownian path. Called, it is the drift.

    Attributes:
        drift: f.
        diffusion: g, of a shape that `product` understands.
        noise: As in `StochasticField`.
        calculus: As in `StochasticField`.
        path: W.
        product: g and an increment of W ↦ a change of the state.
        stacked: (2, *state), f and g at once; None where that saves nothing.
    """

    drift: Field
    diffusion: Field
    noise: Noise
    calculus: Calculus
    path: Brownian
    product: Product
    stacked: Field | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift at (t, y)."""
        return self.drift(t, y)


def wrapped(field: Field, wrap: Callable[[Field], Field], diffusion: bool = True) -> Field:
    """A field, or drift and diffusion of a stochastic equation, in a wrapper; without `diffusion` the drift alone."""
    if not isinstance(field, Equation):
        return wrap(field)
    stacked = None if field.stacked is None else wrap(field.stacked)
    g = wrap(field.diffusion) if diffusion else field.diffusion
    return replace(field, drift=wrap(field.drift), diffusion=g, stacked=stacked)


def first_leaf(y0: State) -> Tensor:
    """The tensor of a state that noise acts on."""
    return y0[0] if isinstance(y0, tuple) else y0


def noise_shape(field: StochasticField, t: float, y0: State) -> tuple[torch.Size, bool]:
    """The shape of a field's Brownian motion, and whether g is a matrix, from a value of g at the start.

    Raises:
        SettingError: The noise or the calculus is unknown.
        StateError: The diffusion has the wrong shape.
    """
    name, like = field.label, first_leaf(y0)
    if field.noise not in ("diagonal", "scalar", "additive", "general"):
        raise SettingError(f"{name}: noise must be 'diagonal', 'scalar', 'additive' or 'general'; got {field.noise!r}")
    if field.calculus not in CALCULI:
        raise SettingError(f"{name}: calculus must be 'ito' or 'stratonovich'; got {field.calculus!r}")
    with torch.no_grad():
        g = field.diffusion(like.new_full((), t), y0)
    shape = tuple(g.shape) if isinstance(g, Tensor) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    matrix = shape is not None and like.dim() > 0 and shape[:-1] == tuple(like.shape)
    if shape is not None and shape == tuple(like.shape) and field.noise != "general":
        return torch.Size((*shape[:1], *(1,) * (len(shape) - 1))) if field.noise == "scalar" else like.shape, False
    if matrix and field.noise in ("additive", "general"):
        assert shape is not None
        return torch.Size((shape[0], shape[-1])), True
    same, with_m = tuple(like.shape), f"({', '.join(map(str, like.shape))}, m)"
    wanted = {"general": with_m, "additive": f"{same} or {with_m}"}.get(field.noise, str(same))
    raise StateError(
        f"{name}: a diffusion with {field.noise} noise must have shape {wanted} for a state of {same}; "
        f"got {shape if shape is not None else f'a {type(g).__name__}'}"
    )


def product_of(y0: State, matrix: bool) -> Product:
    """The product of g and ΔW for states like y0.

    Args:
        y0: The state.
        matrix: Whether g is a matrix for each sample.
    """
    multiply: Product = matrix_product if matrix else torch.mul
    if isinstance(y0, Tensor):
        return multiply
    still = [leaf.new_zeros(leaf.numel()) for leaf in y0[1:]]

    def packed(g: Tensor, dw: Tensor) -> Tensor:
        return torch.cat([multiply(g, dw).reshape(-1), *still])

    return packed


def matrix_product(g: Tensor, dw: Tensor) -> Tensor:
    """(B, *state): g of shape (B, *state, m) times ΔW of shape (B, m)."""
    if g.dim() == 3:
        return torch.bmm(g, dw[..., None])[..., 0]
    return (g * dw.view(dw.shape[0], *(1,) * (g.dim() - 2), dw.shape[-1])).sum(-1)
