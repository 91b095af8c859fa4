"""Encoders: map the seen values of a series, read towards t₀, to a vector."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of


@dataclass(frozen=True)
class Observations:
    """The observations of each series towards t₀, without the times at which nothing is seen.

    The ones farthest from t₀ come first: if t₀ precedes all, time runs backward.

    Attributes:
        t: (B, L + 1), the times, padded with t0.
        inputs: (B, L + 1, 2d + c), the values, 0 where unseen, the mask of seen values, and the covariates; padded
            with 0.
        lengths: (B,), the numbers of observations, at most L.
    """

    t: Tensor
    inputs: Tensor
    lengths: Tensor

    @classmethod
    def towards(cls, batch: of.Series, t0: float) -> "Observations":
        """The observations of a batch, each row followed by t0, the end point of the encoders."""
        present = batch.seen.any(-1).flip(1)
        lengths = present.sum(1)
        size = int(lengths.max())
        distance = (batch.t.flip(1) - t0).abs().where(present, -1.0)
        order = distance.argsort(dim=1, descending=True, stable=True)[:, :size]
        empty = torch.arange(size, device=lengths.device) >= lengths[:, None]
        t = batch.t.flip(1).gather(1, order).masked_fill(empty, t0)
        parts = [batch.y.where(batch.seen, 0.0), batch.seen.to(batch.y)]
        parts += [] if batch.covariates is None else [batch.covariates]
        values = torch.cat(parts, dim=-1).flip(1)
        inputs = values.gather(1, order[..., None].expand(-1, -1, values.shape[-1])).masked_fill(empty[..., None], 0)
        end = t.new_full((len(t), 1), t0)
        nothing = inputs.new_zeros(len(t), 1, values.shape[-1])
        return cls(torch.cat([t, end], dim=1), torch.cat([inputs, nothing], dim=1), lengths)


class Encoder(of.Plugin, nn.Module, ABC):
    """Maps the seen values of a series to a vector. The task knows the sizes and calls `build` once, before use.

    Covariates are known at all times of the batch; the task appends static ones to them.

    Attributes:
        width: Length of the vector.
    """

    kind = "encoder"
    width: int

    @abstractmethod
    def build(self, dim: int, covariates: int = 0) -> None:
        """Builds the layers for observations of length `dim` beside this many covariates."""

    @abstractmethod
    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the encoded series at t0."""


class RNNEncoder(Encoder):
    """A GRU or LSTM over the observations towards t₀; the gap to the previous one is an additional input.

    If t₀ precedes all observations, they are read backward in time. A last step without an observation reaches t0.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5.

    Args:
        width: Length of the hidden state.
        cell: "gru" or "lstm".

    Raises:
        SettingError: The width is not positive, or `cell` is unknown.
    """

    rnn: nn.RNNBase

    def __init__(self, width: int = 25, cell: Literal["gru", "lstm"] = "gru") -> None:
        super().__init__()
        of.check_least(self, 1, width=width)
        self.width, self.cell = width, cell

    def build(self, dim: int, covariates: int = 0) -> None:
        size = 2 * dim + covariates + 1
        self.rnn = (nn.GRU if self.cell == "gru" else nn.LSTM)(size, self.width, batch_first=True)

    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the hidden state at t0."""
        seen = Observations.towards(batch, t0)
        gaps = -seen.t.diff(dim=1, prepend=seen.t[:, :1])
        steps = torch.cat([seen.inputs, gaps[..., None]], dim=-1)
        states, _ = self.rnn(steps)  # not packed: packing doubles the time of a GRU (PyTorch 2.13, CPU)
        return states[torch.arange(len(states), device=states.device), seen.lengths]


class ODERNNEncoder(Encoder):
    """A GRU over the observations towards t₀, whose hidden state follows an ODE in between.

    Source: Rubanova et al. (2019), "Latent ODEs for Irregularly-Sampled Time Series", algorithm 1.

    Args:
        dynamics: The field of the hidden state, which should be autonomous; its width is the size of that state.
        solver: The solver between observations.
    """

    cell: nn.GRUCell

    def __init__(self, dynamics: of.Dynamics, solver: of.Solver) -> None:
        super().__init__()
        self.width = dynamics.width
        self.between = Between(dynamics, solver)

    def build(self, dim: int, covariates: int = 0) -> None:
        self.cell = nn.GRUCell(2 * dim + covariates, self.width)

    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the hidden state at t0."""
        seen = Observations.towards(batch, t0)
        gaps = seen.t.diff(dim=1)
        h = gaps.new_zeros(len(gaps), self.width)
        for number in range(gaps.shape[1]):
            present = number < seen.lengths[:, None]
            h = self.cell(seen.inputs[:, number], h).where(present, h)
            h = self.between(h, gaps[:, number])
        return h


class Between(nn.Module):
    """Integrates states over per-sample time gaps: dh/ds = Δt f(h) on 0 ≤ s ≤ 1, one solve for the batch.

    The field gets s as the time, so it should be autonomous. The backward pass uses plain autograd: there are many
    gaps, and each is short.

    Args:
        dynamics: The field f.
        solver: The solver.
    """

    def __init__(self, dynamics: of.Dynamics, solver: of.Solver) -> None:
        super().__init__()
        self.flow = of.Flow(_Scaled(dynamics), solver, of.Backprop())

    def forward(self, h: Tensor, gaps: Tensor) -> Tensor:
        """(B, width), the states after the gaps.

        Args:
            h: (B, width).
            gaps: (B,), in the field's time; negative for backward integration.
        """
        y = self.flow.trajectory(h, self.flow.span(), context=gaps[:, None]).y
        return y[-1]


class _Scaled(nn.Module):
    """The field Δt f(h) on [h, Δt]."""

    def __init__(self, dynamics: of.Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        return self.dynamics(t, state[:, :-1]) * state[:, -1:]
