"""Piecewise: separate parameters for each time interval."""

import math

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin import registry

ROUNDING = 4  # a time within this many roundings below a boundary is on it


class Piecewise(of.Modifier):
    """dy/dt = f_k(t, y) with k = ⌊K (t − t₀)/(t₁ − t₀)⌋: a separate field on each of K equal time intervals.

    All pieces have the same architecture and independent initial weights. The first one also applies before t₀, the
    last from t₁ on. A time on a boundary, up to rounding, belongs to the next piece. Hence a `Flow` from t₀ to t₁ with
    `Euler(num_steps=K)`, which evaluates each step at its start, is a residual network of K blocks
    y ↦ y + (t₁ − t₀)/K f_k(t, y). A Runge–Kutta stage on a boundary evaluates the next piece, even at the end of a
    step in the previous one.

    Pieces are counted from t₀ to t₁, and t₁ may be before t₀: for a flow from 1 to 0, t0=1 and t1=0 again give the
    residual network. A flow from t₁ back to t₀ evaluates Euler's steps at the other end, so that the last piece is
    used in two steps and the first in none.

    A piece in which the solver evaluates no stage gets no gradient. Since the field is discontinuous at the boundaries,
    use steps that end there, and an exact gradient (`Checkpointed`, `Backprop`).

    Source: Massaroli et al. (2020), "Dissecting Neural ODEs" (stacked neural ODEs); residual networks as Euler's steps:
    Chen et al. (2018), "Neural Ordinary Differential Equations", eq. 1.

    Args:
        dynamics: The first piece; the others are built from its spec.
        pieces: Number K of pieces.
        t0: Start time of the first piece.
        t1: End time of the last piece.

    Raises:
        SettingError: `pieces` is not positive, or t0 equals t1.
        PluginError: The dynamics cannot be rebuilt: an argument is not plain data, or the class is not registered.
    """

    def __init__(self, dynamics: of.Dynamics, pieces: int, t0: float = 0.0, t1: float = 1.0) -> None:
        of.check_least(self, 1, pieces=pieces)
        if t0 == t1:
            raise of.SettingError(f"Piecewise: t0 and t1 must differ; both are {t0}")
        super().__init__(dynamics)
        like = next(dynamics.parameters(), torch.empty(0))
        self.others = nn.ModuleList(registry.build(dynamics.spec).to(like) for _ in range(pieces - 1))
        self.pieces, self.t0, self.t1 = pieces, t0, t1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """As of the modified field."""
        if t.dim():
            return self._apart(t, y)
        number = self.number(t)
        return self.others[number - 1](t, y) if number else self.dynamics(t, y)

    def _apart(self, t: Tensor, y: Tensor) -> Tensor:
        """The field at per-sample times: each piece is evaluated for its samples."""
        numbers = torch.tensor([self.number(time) for time in t.detach().cpu()], device=y.device)
        places = [(numbers == number).nonzero().squeeze(1) for number in range(self.pieces)]
        pieces = [self.dynamics, *self.others]
        values = [piece(t[place], y[place]) for piece, place in zip(pieces, places, strict=True) if len(place)]
        return torch.cat(values)[torch.cat(places).argsort()]

    def number(self, t: Tensor) -> int:
        """The index of the piece at a time.

        Args:
            t: ().

        Returns:
            An index from 0 to pieces − 1.
        """
        scale = self.pieces / (self.t1 - self.t0)
        rounding = ROUNDING * torch.finfo(t.dtype).eps * max(abs(self.t0), abs(self.t1)) * abs(scale)
        place = (float(t.detach()) - self.t0) * scale
        return min(max(math.floor(place + min(rounding, 0.5)), 0), self.pieces - 1)

    def enter(self, y0: Tensor) -> Tensor:
        """As of the first piece; `enter` is called on the others too."""
        state = self.dynamics.enter(y0)
        for piece in self.others:
            assert isinstance(piece, of.Dynamics)
            piece.enter(y0)
        return state
