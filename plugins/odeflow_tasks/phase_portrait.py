"""Phase portraits: trajectories in the plane, and their vector field."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import numbers

FINENESS = 25
"""Number of grid points per axis."""


def draw_field(
    axes: Any,
    flow: of.Flow,
    rest: Tensor,
    low: np.ndarray,
    high: np.ndarray,
    units: of.Units | None = None,
    **style: Any,
) -> Any:
    """Draws the direction of a flow's field on a grid of the first two features, at its first time.

    Args:
        axes: The axes.
        flow: The flow.
        rest: (d,), a state that gives the values of the other features.
        low: (2,), the lower left corner.
        high: (2,), the upper right corner.
        units: The units of the corners and the axes; by default those of the flow.
        **style: Options of `streamplot`; by default the colour is the logarithm of the speed.

    Returns:
        The stream lines, for a colour bar.
    """
    dynamics = flow.dynamics
    assert isinstance(dynamics, of.Dynamics)
    first, second = np.meshgrid(np.linspace(low[0], high[0], FINENESS), np.linspace(low[1], high[1], FINENESS))
    units = units or of.Units()
    states = units.restored(rest.detach()).repeat(first.size, 1)
    states[:, :2] = torch.from_numpy(np.stack([first.ravel(), second.ravel()], axis=1)).to(states)
    states = units.standardised(states).to(rest)
    states, t0 = flow.augmented(states), states.new_tensor(flow.options.t0)
    directions = dynamics.leave(dynamics(t0, dynamics.enter(states)))[:, : len(rest)]
    directions = (units.restored(directions) - units.restored(torch.zeros_like(directions)))[:, :2] / units.unit
    along, up = numbers(directions).T.reshape(2, *first.shape)
    look: dict[str, Any] = {"color": np.log10(np.hypot(along, up) + 1e-3), "cmap": "viridis", "linewidth": 0.8}
    streams = axes.streamplot(first, second, along, up, **(look | style))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    return streams.lines
