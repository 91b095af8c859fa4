"""The latent path: one solve for a batch with per-sample times."""

import math

import torch
from torch import Tensor

import odeflow as of

STENCIL = 6
"""Number of nodes of the interpolating polynomial."""


def at_own_times(flow: of.Flow, z0: Tensor, t: Tensor, most: int, inputs: of.Path | None = None) -> Tensor:
    """The states at per-sample times, from one forward solve and, if needed, one backward solve.

    If the batch has at most `most` distinct times, these are the output times. Otherwise the output times are about
    `most` equidistant ones, and the states are interpolated by the polynomial through the six nearest nodes, whose
    error falls as the sixth power of the spacing.

    Args:
        flow: The flow; the states start at its t0.
        z0: (N, d), the states at t0.
        t: (N, T), the times, before or after t0.
        most: Maximum number of output times, at least 6.
        inputs: The external input of the flow, if any.

    Returns:
        (N, T, width), where the width includes the augmented dimensions.
    """
    times, places = torch.cat([t.new_full((1,), flow.options.t0), t.reshape(-1)]).unique(return_inverse=True)
    if len(times) <= most:
        return _rows(_solved(flow, z0, times, inputs), places[1:].view_as(t))
    low, high = float(times[0]) - flow.options.t0, float(times[-1]) - flow.options.t0
    step = (high - low) / (most - 1)
    first = math.floor(low / step)
    grid = flow.options.t0 + step * torch.arange(first, first + most + 1, dtype=t.dtype, device=t.device)
    return _between(_solved(flow, z0, grid, inputs), (t - flow.options.t0) / step - first)


def _solved(flow: of.Flow, z0: Tensor, times: Tensor, inputs: of.Path | None) -> Tensor:
    """(T, N, width) at ascending times that include t0."""
    start = int((times - flow.options.t0).abs().argmin())
    parts: list[Tensor] = []
    backwards: dict[str, Tensor] = {}
    if start > 0:
        parts.append(_trajectory(flow, z0, times[: start + 1].flip(0), inputs).flip(0))
        backwards = flow.penalties
    if start < len(times) - 1:
        parts.append(_trajectory(flow, z0, times[start:], inputs)[len(parts) :])  # the row of t0 once
        flow.penalties = {name: value + backwards.get(name, 0.0) for name, value in flow.penalties.items()}
    return torch.cat(parts) if parts else _trajectory(flow, z0, times.new_tensor(flow.span()), inputs)[:1]


def _trajectory(flow: of.Flow, z0: Tensor, times: Tensor, inputs: of.Path | None) -> Tensor:
    return flow.trajectory(z0, times, context=inputs).y


def _rows(y: Tensor, rows: Tensor) -> Tensor:
    """(N, T, width): the rows (N, T) of each sample of y (rows, N, width)."""
    samples = torch.arange(len(rows), device=rows.device)[:, None]
    flat = (rows * len(rows) + samples).reshape(-1)
    return y.reshape(-1, y.shape[-1]).index_select(0, flat).view(*rows.shape, -1)


def _between(y: Tensor, x: Tensor) -> Tensor:
    """(N, T, width): y (rows, N, width) at fractional row indices x (N, T), by Lagrange interpolation."""
    first = (x.floor().long() - (STENCIL // 2 - 1)).clamp(0, len(y) - STENCIL)
    nodes = torch.arange(STENCIL, dtype=x.dtype, device=x.device)
    same = torch.eye(STENCIL, dtype=torch.bool, device=x.device)
    scale = (nodes[:, None] - nodes).masked_fill(same, 1).prod(-1)
    weights = (x - first)[..., None, None].sub(nodes).masked_fill(same, 1).prod(-1) / scale
    parts = (_rows(y, first + node) * weights[..., node, None] for node in range(STENCIL))
    return torch.stack(list(parts)).sum(0)
