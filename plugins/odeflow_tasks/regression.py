"""Regression: a flow from inputs to targets."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow.analysis.measure import components
from odeflow_tasks.batch import floating, inputs, pair
from odeflow_tasks.drawing import limits, numbers
from odeflow_tasks.fitted_baselines import regressions
from odeflow_tasks.head import Head

MOST_CURVES, MOST_POINTS = 100, 1000
"""Maximum numbers of samples in a figure."""
GREY = "0.75"


class Regression(of.Task):
    """Vectors to vectors by mean square error: the features φ(x) at the flow's end, or what a head makes of them.

    A flow is a homeomorphism of its state space: it preserves the order of points on a line, and cannot move a ball out
    of a shell. `augment` removes this limitation (Dupont, Doucet & Teh 2019).

    The loss is in the units of batches. Where targets are standardised, validation and test also log the mean absolute
    error in the file's units: `mae`, or `mae_<target>` of each of several targets. Where the data offer their training
    part, they log both for its mean and its linear model of least squares, too: `loss_mean`, `loss_linear`, `mae_mean`
    and so on.

    Args:
        dynamics: The vector field; its width is d + augment.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow.
        num_outputs: Number k of values of a target.
        head: Maps the features φ(x) to the prediction, such as `Perceptron`: without hidden layers a linear map. If
            there is none, the prediction is the first k features.

    Raises:
        SettingError: An option is out of range.
    """

    carries_data = True

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        num_outputs: int = 1,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        width = dynamics.width
        flow.input_width(width)
        of.check_least(self, 1, num_outputs=num_outputs)
        if head is None and num_outputs > width:
            raise of.SettingError(
                f"the dynamics' width {width} has no num_outputs={num_outputs} features to compare; "
                "widen and augment them, or give a head, such as Perceptron"
            )
        if head is not None:
            head.build(width, num_outputs)
        self.head = head
        self.num_outputs = num_outputs
        self.flow = of.Flow(dynamics, solver, gradient, flow)

    def forward(self, x: Tensor) -> Tensor:
        """The prediction.

        Args:
            x: (B, d).

        Returns:
            (B, num_outputs).
        """
        features = self.flow(x)
        return features[:, : self.num_outputs] if self.head is None else self.head(features)

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The mean square error of (inputs, targets).

        Raises:
            DataError: The batch is not a pair of finite tensors, or the targets are not (B, num_outputs).
        """
        x, targets = self._checked(batch)
        prediction = self(x)
        if prediction.shape != targets.shape:
            raise of.DataError(
                f"Regression(num_outputs={self.num_outputs}) wants targets of shape {tuple(prediction.shape)}; got "
                f"{tuple(targets.shape)}: num_outputs is the number of values of one target, 1 where it is a number"
            )
        if stage != "train":
            self._log_errors(prediction, targets, stage)
        return F.mse_loss(prediction, targets)

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """The mean of the targets, and the linear model of least squares."""
        return regressions(*self._checked(part))

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs the errors of the baselines."""
        x, targets = self._checked(batch)
        for name, baseline in self.baselines.items():
            values, end = baseline(x), f"_{name}"
            self.log(f"{stage}/loss{end}", F.mse_loss(values, targets), batch_size=len(targets), sync_dist=True)
            self._log_errors(values, targets, stage, end)

    def _log_errors(self, prediction: Tensor, targets: Tensor, stage: str, end: str = "") -> None:
        """Logs the mean absolute error of each target in the file's unit, by its name where there are several."""
        units = None if self.units is None else self.units.target
        if units is None:
            return
        errors = (units.restored(prediction) - units.restored(targets)).abs().mean(dim=0)
        names = units.features or [str(number) for number in range(self.num_outputs)]
        for name, error in zip(names, errors, strict=True):
            label = f"{stage}/mae" if self.num_outputs == 1 else f"{stage}/mae_{name}"
            self.log(label + end, error.float(), batch_size=len(targets), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, num_outputs), the prediction."""
        return self(floating("Regression", "inputs", inputs(batch), self))

    def restored(self, prediction: Tensor, units: of.Units) -> Tensor:
        return (units.target or of.Units()).restored(prediction)

    def _checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        x, targets = pair("Regression", "inputs, targets", batch)
        return floating("Regression", "inputs", x, self), floating("Regression", "targets", targets, self)

    def figures(self, batch: Any) -> dict[str, Figure]:
        """The flow of the inputs, coloured by their targets: as curves over time, or as points in space."""
        x, targets = self._checked(batch)
        if x.shape[1] == 1:
            return {"trajectories": self._draw_trajectories(x[:MOST_CURVES], targets[:MOST_CURVES])}
        return {"features": self._draw_features(x[:MOST_POINTS], targets[:MOST_POINTS])}

    def _draw_trajectories(self, x: Tensor, targets: Tensor) -> Figure:
        """The first feature over time, above its direction field, and states with more features in the plane."""
        options = self.flow.options
        t = torch.linspace(options.t0, options.t1, 61, device=x.device)
        y = self.flow.trajectory(x, t).y
        wide = y.shape[2] > 1
        figure = Figure(figsize=(11 if wide else 6.2, 4.4), layout="constrained")
        panels = figure.subplots(1, 1 + wide, squeeze=False)[0]
        times, wanted = numbers(t), numbers(targets[:, 0])
        colours = _colours(wanted)
        first = numbers(y[:, :, 0])
        values = first.ravel() if self.head is not None else np.concatenate([first.ravel(), wanted])
        self._draw_directions(panels[0], t, y, *limits(values))
        for number, colour in enumerate(colours.to_rgba(wanted)):
            panels[0].plot(times, first[:, number], color=colour, linewidth=1.8)
            panels[0].plot(times[:1], first[:1, number], "o", color=colour, markersize=6, clip_on=False, zorder=3)
        if self.head is None:
            ends = np.full_like(wanted, times[-1])
            marks = {"marker": "X", "s": 70, "edgecolors": "black", "linewidths": 0.6, "clip_on": False, "zorder": 4}
            panels[0].scatter(ends, wanted, c=colours.to_rgba(wanted), **marks)
            panels[0].scatter([], [], c="0.5", label="target", **marks)
        panels[0].plot([], [], color=GREY, label="field, other features at their mean" if wide else "learned field")
        panels[0].legend(fontsize="small", loc="upper center", ncols=2)
        panels[0].set(xlabel="$t$", ylabel="$y_1$", title="trajectories over time")
        if wide:
            _draw_plane(panels[1], y, colours.to_rgba(wanted))
        figure.colorbar(colours, ax=panels[-1], label="target")
        return figure

    def _draw_directions(self, axes: Any, t: Tensor, y: Tensor, low: np.ndarray, high: np.ndarray) -> None:
        """The direction field of the first feature over (t, y₁), the other features at their mean at each time."""
        heights = np.linspace(low, high, 25)
        dynamics = self.flow.dynamics
        assert isinstance(dynamics, of.Dynamics)
        columns: list[np.ndarray] = []
        for time, states in zip(t[::2], y[::2], strict=True):
            points = states.mean(0).repeat(len(heights), 1)
            points[:, 0] = torch.from_numpy(heights).to(points)
            columns.append(numbers(dynamics.leave(dynamics(time, dynamics.enter(points)))[:, 0]))
        moments = numbers(t[::2])
        directions = np.stack(columns, axis=1)
        if moments[-1] < moments[0]:
            moments, directions = moments[::-1], directions[:, ::-1]
        along = np.ones_like(directions)
        axes.streamplot(moments, heights, along, directions, color=GREY, linewidth=0.8, density=1.1, arrowsize=0.8)
        axes.set(xlim=moments[[0, -1]], ylim=(low, high))

    def _draw_features(self, x: Tensor, targets: Tensor) -> Figure:
        """The inputs beside the flow's outputs, in the plane and, if the state has more features, in space."""
        y = self.flow(x)
        wide = y.shape[1] > 2
        figure = Figure(figsize=(14 if wide else 9.5, 4.4), layout="constrained")
        colours = _colours(numbers(targets[:, 0]))
        style: dict[str, Any] = {"c": numbers(targets[:, 0]), "cmap": colours.cmap, "norm": colours.norm, "s": 7}
        panels: list[Any] = [figure.add_subplot(1, 2 + wide, number) for number in (1, 2)]
        for axes, points, letter, title in zip(panels, (x, y), "xy", ("input", "end of the flow"), strict=True):
            axes.scatter(*numbers(points[:, :2]).T, **style)
            axes.set(xlabel=f"${letter}_1$", ylabel=f"${letter}_2$", title=title)
            axes.set_aspect("equal", "datalim")
        if wide:
            panels.append(figure.add_subplot(1, 3, 3, projection="3d"))
            points, names = _projected(y, 3)
            panels[2].scatter(*points.T, **style)
            panels[2].set(**dict(zip(("xlabel", "ylabel", "zlabel"), names, strict=True)), title="end, in space")
            panels[2].zaxis.labelpad = 8
        figure.colorbar(colours, ax=panels, label="target", pad=0.03)
        return figure


def _colours(targets: np.ndarray) -> ScalarMappable:
    """A colour map from the smallest target to the largest."""
    return ScalarMappable(Normalize(targets.min(), targets.max()), "coolwarm")


def _projected(y: Tensor, count: int) -> tuple[np.ndarray, list[str]]:
    """States (…, width) projected to at most `count` dimensions, and the names of these.

    The dimensions are the features if there are at most `count`, otherwise the first principal components.
    """
    width = y.shape[-1]
    if width <= count:
        return numbers(y), [f"$y_{number + 1}$" for number in range(width)]
    found = components(y, count)
    return numbers(found.scores), found.names


def _draw_plane(axes: Any, y: Tensor, colours: np.ndarray) -> None:
    """Trajectories (T, B, width) in the plane of two features, or of the first two principal components."""
    points, names = _projected(y, 2)
    for path, colour in zip(points.swapaxes(0, 1), colours, strict=True):
        axes.plot(*path.T, color=colour, linewidth=1.8)
        axes.plot(*path[0], "o", color=colour, markersize=6)
        axes.plot(*path[-1], "s", color=colour, markersize=6)
    axes.plot([], [], "o", color="0.5", label="start")
    axes.plot([], [], "s", color="0.5", label="end")
    axes.legend(fontsize="small")
    axes.set(xlabel=names[0], ylabel=names[1], title="trajectories in the plane")
