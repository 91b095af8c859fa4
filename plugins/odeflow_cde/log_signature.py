"""LogSignature: a path by its increments and areas over windows."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow.paths import PiecewisePolynomial

Depth = Literal[1, 2]
NODES, WEIGHTS = (-(0.6**0.5), 0.0, 0.6**0.5), (5 / 9, 8 / 9, 5 / 9)
"""The Gauss–Legendre rule with three points on [−1, 1], which is exact for the areas of cubics."""


def log_signature_channels(channels: int, depth: Depth) -> int:
    """The length of a log-signature: c at depth 1, c + c (c − 1)/2 at depth 2.

    Args:
        channels: Number c of the channels of the path.
        depth: The depth.

    Example:
        >>> log_signature_channels(4, depth=2)
        10
    """
    return channels + (channels * (channels - 1) // 2 if depth == 2 else 0)


class LogSignature(of.Path):
    """A path whose derivative in each window is the log-signature of X there, divided by the window's length.

    A solve of dz = f(z) dX along it is the log-ODE method: few steps, as long as a window, follow a path of many
    observations. The log-signature of depth 1 is the increment X(b) − X(a); depth 2 adds the Lévy areas of each two
    channels i < j, in lexicographic order,

        ½ ∫ₐᵇ (Xᵢ − Xᵢ(a)) dXⱼ − (Xⱼ − Xⱼ(a)) dXᵢ.

    For a smooth path and a field that has the Lie brackets of its columns at the areas, the error is of order 2 in the
    window at depth 1, and of order 4 at depth 2. A learned field learns what to multiply areas by.

    Observations inside a window act at its start already: between the edges a state is not causal.

    Source: Morrill, Salvi, Kidger & Foster (2021), "Neural Rough Differential Equations for Long Time Series",
        section 3; the order: Magnus' expansion.

    Args:
        path: The path X, (B, c). Interpolations of observations must have times common to all samples; their areas are
            exact. Those of other paths are computed with three Gauss points between each two edges and breaks.
        windows: The edges of the windows, ascending, at least two; or the number of windows of equal length between the
            first and the last time of an interpolation.
        depth: 1 or 2.

    Raises:
        SettingError: There is no window, an argument has the wrong type or value, or the edges do not ascend.
        DataError: The samples have times of their own.

    Attributes:
        edges: The edges of the windows.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]])
        >>> path = LogSignature(of.paths.Linear(torch.arange(5.0), square), windows=1)
        >>> 4 * path.derivative(torch.tensor(0.0))  # back at the start, around an area of 1
        tensor([[0., 0., 1.]])
    """

    def __init__(self, path: of.Path, windows: int | Sequence[float], depth: Depth = 2) -> None:
        if depth not in (1, 2):
            raise of.SettingError(f"LogSignature: depth must be 1 or 2; got {depth!r}")
        self.depth, self.edges = depth, _edges(path, windows)
        total = _log_signatures(path, self.edges, depth)
        start = torch.zeros_like(total[:, :1])
        self.path = of.paths.Linear(
            torch.tensor(self.edges, dtype=torch.float64), torch.cat((start, total), 1).cumsum(1)
        )
        self.breaks, self.tensors = self.path.breaks, self.path.tensors

    def __call__(self, t: Tensor) -> Tensor:
        return self.path(t)

    def derivative(self, t: Tensor) -> Tensor:
        return self.path.derivative(t)


def _edges(path: of.Path, windows: int | Sequence[float]) -> tuple[float, ...]:
    if isinstance(path, PiecewisePolynomial) and len(path.knots.times) > 1:
        raise of.DataError(
            f"LogSignature needs a path with times common to all samples; the {len(path.knots.times)} samples of this "
            f"{type(path).__name__} have their own. Count the observations, as the path's parameter, and let time be a "
            "channel"
        )
    if isinstance(path, PiecewisePolynomial) and not path.continuous:
        raise of.SettingError(f"LogSignature needs a continuous path; {type(path).__name__} jumps")
    if not isinstance(windows, int):
        edges = tuple(float(edge) for edge in windows)
    elif not isinstance(path, PiecewisePolynomial):
        raise of.SettingError(
            f"LogSignature: {type(path).__name__} has no first and last time; give the windows' edges"
        )
    else:
        times = path.knots.times[0]
        edges = tuple(
            torch.linspace(float(times[0]), float(times[-1]), max(windows, 0) + 1, dtype=torch.float64).tolist()
        )
    if len(edges) < 2 or not all(a < b for a, b in pairwise(edges)):
        raise of.SettingError(f"LogSignature needs a window at least, with ascending edges; got {windows}")
    return edges


def _log_signatures(path: of.Path, edges: Sequence[float], depth: Depth) -> Tensor:
    """(B, K, …), those of each window.

    A window is divided at the kinks of the path. Chen's identity joins the areas of its parts, whose paths begin at 0.
    """
    if isinstance(path, PiecewisePolynomial):
        inner, like = path.knots.times[0].tolist(), path.ends
    else:
        inner, like = path.breaks, next(iter(path.tensors), torch.zeros(())).double()
    cuts = sorted({*edges, *(time for time in inner if edges[0] < time < edges[-1])})
    t, bounds = like.new_tensor(cuts), like.new_tensor(edges)
    window = torch.searchsorted(bounds[1:-1], t[:-1], right=True)  # of each part
    x, _ = _along(path, t)
    first = x[:, torch.searchsorted(t, bounds[:-1])]
    change, count = x.diff(dim=1), len(edges) - 1
    increment = change.new_zeros(len(x), count, x.shape[2]).index_add(1, window, change)
    if depth == 1:
        return increment
    row, column = torch.triu_indices(x.shape[2], x.shape[2], offset=1, device=x.device)

    def wedge(left: Tensor, right: Tensor) -> Tensor:
        return 0.5 * (left[..., row] * right[..., column] - left[..., column] * right[..., row])

    start = x[:, :-1]
    area = wedge(start - first[:, window], change)
    middle, half = (t[1:] + t[:-1]) / 2, t.diff() / 2
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        value, slope = _along(path, middle + node * half)
        area = area + wedge(value - start, slope) * (weight * half).to(x)[:, None]
    return torch.cat((increment, area.new_zeros(len(x), count, len(row)).index_add(1, window, area)), 2)


def _along(path: of.Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """(B, m, c) each, the values and the derivatives at times (m,)."""
    if isinstance(path, PiecewisePolynomial):
        return path.along(t)
    values, slopes = zip(*((path(time), path.derivative(time)) for time in t), strict=True)
    return torch.stack(values, 1), torch.stack(slopes, 1)
