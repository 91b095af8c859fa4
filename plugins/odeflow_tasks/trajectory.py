"""Trajectory: fit a vector field to trajectories that were observed."""

from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of


class Trajectory(of.Task):
    """Learns dy/dt = f(t, y) from trajectories: solves from the first observation, and compares with the others.

    Args:
        dynamics: The vector field; its width is d + augment.
        solver: Integrates.
        gradient: How to differentiate; `Checkpointed()` by default.
        distance: "mae", the mean absolute error, or "mse", the mean square error.
        augment: Zeros appended to the state, which the dynamics' width includes; they are not compared.
        regularizers: Penalties on the flow, added to the training loss.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        distance: Literal["mae", "mse"] = "mae",
        augment: int = 0,
        regularizers: list[of.Regularizer] | None = None,
    ) -> None:
        super().__init__()
        if distance not in ("mae", "mse"):
            raise of.SettingError(f"Trajectory: distance must be 'mae' or 'mse'; got {distance!r}")
        self.flow = of.Flow(dynamics, solver, gradient, augment=augment, regularizers=regularizers or ())
        self.distance = distance

    def forward(self, y0: Tensor, t: Tensor) -> Tensor:
        """The predicted trajectories.

        Args:
            y0: (B, d), the states at t[0].
            t: (T,), the times.

        Returns:
            (T, B, d).
        """
        y = self.flow.trajectory(y0, t).y
        assert isinstance(y, Tensor)
        return y[:, :, : y0.shape[1]]

    def loss(self, batch: of.Trajectories, stage: str) -> Tensor:
        """The distance between prediction and observation, averaged over times, samples and dimensions."""
        t, y = batch
        error = self(y[0], t) - y
        return error.abs().mean() if self.distance == "mae" else error.square().mean()

    def batch_size(self, batch: of.Trajectories) -> int:
        return batch.y.shape[1]

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(T, B, d), the predicted trajectories."""
        return self(batch.y[0], batch.t)

    def figures(self, batch: of.Trajectories) -> dict[str, Figure]:
        """Truth beside prediction over time, in phase space, and the field that was learned."""
        t, truth = batch.t, batch.y[:, 0]
        prediction = self(batch.y[0], t)[:, 0]
        figure = Figure(figsize=(13, 4), layout="constrained")
        over_time, phase, field = figure.subplots(1, 3)
        times, truth, prediction = (part.float().cpu().numpy() for part in (t, truth, prediction))
        for number in range(min(truth.shape[1], 3)):
            (line,) = over_time.plot(times, truth[:, number], label=f"truth $y_{number + 1}$")
            over_time.plot(times, prediction[:, number], "--", color=line.get_color(), label="prediction")
        over_time.set(xlabel="$t$", ylabel="$y$", title="over time")
        over_time.legend(fontsize="small", loc="upper right")
        if truth.shape[1] >= 2:
            self._draw_phase(phase, truth, prediction)
            self._draw_field(field, truth)
        return {"phase_portrait": figure}

    def _draw_phase(self, axes: Any, truth: np.ndarray, prediction: np.ndarray) -> None:
        axes.plot(truth[:, 0], truth[:, 1], color="tab:green", label="truth")
        axes.plot(prediction[:, 0], prediction[:, 1], "--", color="tab:blue", label="prediction")
        axes.plot(*truth[0, :2], "o", color="black", markersize=4)
        low, high = _limits(truth)
        axes.set(xlabel="$y_1$", ylabel="$y_2$", title="phase portrait")
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.legend(fontsize="small", loc="upper right")

    def _draw_field(self, axes: Any, truth: np.ndarray) -> None:
        """The direction of the learned field on a grid of the first two dimensions, the others held at their mean."""
        low, high = _limits(truth)
        first, second = np.meshgrid(np.linspace(low[0], high[0], 25), np.linspace(low[1], high[1], 25))
        points = np.tile(truth.mean(0), (first.size, 1))
        points[:, 0], points[:, 1] = first.ravel(), second.ravel()
        states = torch.tensor(points, dtype=torch.float32, device=self.device)
        states = torch.cat([states, states.new_zeros(len(states), self.flow.augment)], dim=1)
        field = self.flow.dynamics
        assert isinstance(field, of.Dynamics)
        slopes = field.leave(field(states.new_zeros(()), field.enter(states)))[:, :2].float().cpu().numpy()
        speed = np.hypot(slopes[:, 0], slopes[:, 1]).reshape(first.shape)
        axes.streamplot(
            first,
            second,
            slopes[:, 0].reshape(first.shape),
            slopes[:, 1].reshape(first.shape),
            color=np.log10(speed + 1e-3),
            cmap="viridis",
            linewidth=0.8,
            density=1.2,
        )
        axes.set(xlabel="$y_1$", ylabel="$y_2$", title="learned field", xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _limits(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the truth's first two dimensions, with a margin."""
    low, high = truth[:, :2].min(0), truth[:, :2].max(0)
    margin = 0.15 * (high - low) + 1e-3
    return low - margin, high + margin
