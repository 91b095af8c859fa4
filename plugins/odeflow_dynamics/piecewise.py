"""Piecewise: a set of parameters for each interval of time."""

import math

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin import registry

ROUNDING = 4  # a time so many roundings below a boundary is on it


class Piecewise(of.Modifier):
    """dy/dt = f_k(t, y) with k = ⌊K (t − t₀)/(t₁ − t₀)⌋, a field of its own on each of K equal intervals of time.

    All pieces are built alike, and initialised independently. Before t₀ the first one holds, from t₁ on the last. A
    time that equals a boundary, up to rounding, belongs to the next piece. So a `Flow` from t₀ to t₁ by
    `Euler(num_steps=K)`, which evaluates each step at its start, is a residual network of K blocks
    y ↦ y + (t₁ − t₀)/K f_k(t, y). A stage of a Runge–Kutta method that lies on a boundary sees the next piece,
    although it ends a step in the last one.

    Pieces are counted from t₀ to t₁, which may lie before it: for a flow that runs from 1 to 0, t0=1 and t1=0 make
    the residual network once more. A flow from t₁ back to t₀ evaluates Euler's steps at the other end, so that the
    last piece takes two steps and the first none.

    A piece in which the solver evaluates nothing gets no gradient. Where the field jumps from piece to piece, take
    steps that end there, and an exact gradient (`Checkpointed`, `Backprop`).

    Source: Massaroli et al. (2020), "Dissecting Neural ODEs" (stacked neural ODEs); residual networks as Euler's steps:
    Chen et al. (2018), "Neural Ordinary Differential Equations", eq. 1.

    Args:
        dynamics: The first piece; the others are built by its spec.
        pieces: Number K of pieces.
        t0: Where the first piece begins.
        t1: Where the last piece ends.

    Raises:
        SettingError: `pieces` is not positive, or t0 equals t1.
        PluginError: The dynamics cannot be built again: an argument is not plain data, or the class not registered.
    """

    def __init__(self, dynamics: of.Dynamics, pieces: int, t0: float = 0.0, t1: float = 1.0) -> None:
        if pieces < 1:
            raise of.SettingError(f"Piecewise: pieces must be at least 1; got {pieces}")
        if t0 == t1:
            raise of.SettingError(f"Piecewise: t0 and t1 must differ; both are {t0}")
        super().__init__(dynamics)
        like = next(dynamics.parameters(), torch.empty(0))
        self.others = nn.ModuleList(registry.build(dynamics.spec).to(like) for _ in range(pieces - 1))
        self.pieces, self.t0, self.t1 = pieces, t0, t1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """As of the field that is modified."""
        if t.dim():
            return self._apart(t, y)
        number = self.number(t)
        return self.others[number - 1](t, y) if number else self.dynamics(t, y)

    def _apart(self, t: Tensor, y: Tensor) -> Tensor:
        """Each sample's slope at its own time: each piece sees those samples that are in it."""
        numbers = torch.tensor([self.number(time) for time in t.detach().cpu()], device=y.device)
        places = [(numbers == number).nonzero().squeeze(1) for number in range(self.pieces)]
        pieces = [self.dynamics, *self.others]
        slopes = [piece(t[place], y[place]) for piece, place in zip(pieces, places, strict=True) if len(place)]
        return torch.cat(slopes)[torch.cat(places).argsort()]

    def number(self, t: Tensor) -> int:
        """Which piece holds at a time.

        Args:
            t: ().

        Returns:
            From 0 to pieces − 1.
        """
        scale = self.pieces / (self.t1 - self.t0)
        rounding = ROUNDING * torch.finfo(t.dtype).eps * max(abs(self.t0), abs(self.t1)) * abs(scale)
        place = (float(t.detach()) - self.t0) * scale
        return min(max(math.floor(place + min(rounding, 0.5)), 0), self.pieces - 1)

    def enter(self, y0: Tensor) -> Tensor:
        """As of the first piece; the others are told too."""
        state = self.dynamics.enter(y0)
        for piece in self.others:
            assert isinstance(piece, of.Dynamics)
            piece.enter(y0)
        return state
