"""Regression: a flow from inputs to targets."""

from typing import Any

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks import regression_figures
from odeflow_tasks.absolute_errors import log_absolute_errors
from odeflow_tasks.agreement import Agreement
from odeflow_tasks.batch import floating, inputs, pair
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.fitted_baselines import regressions
from odeflow_tasks.head import Head


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
        self.tested = Agreement(num_outputs, "samples")

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
                f"Regression(num_outputs={self.num_outputs}) expects targets of shape {tuple(prediction.shape)}; got "
                f"{tuple(targets.shape)}: num_outputs is the number of values of one target, 1 where it is a number"
            )
        if stage != "train":
            log_absolute_errors(self, f"{stage}/mae", prediction, targets)
        if stage == "test":
            self.tested.update(prediction, targets)
        return F.mse_loss(prediction, targets)

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """The mean of the targets, and the linear model of least squares."""
        return regressions(*self._checked(part))

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs the errors of the baselines."""
        x, targets = self._checked(batch)
        for name, baseline in self.baselines.items():
            values = baseline(x)
            self.log_mean(f"{stage}/loss_{name}", F.mse_loss(values, targets), len(targets))
            log_absolute_errors(self, f"{stage}/mae", values, targets, name)

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
        (x, targets), file = self._checked(batch), FileUnits.known(self.units, self._data)
        if x.shape[1] == 1:
            compared = self.head is None
            return {"trajectories": regression_figures.trajectories(self.flow, x, targets, file, compared)}
        return {"features": regression_figures.features(self.flow, x, targets, file)}

    def on_test_epoch_start(self) -> None:
        self.tested.reset()

    def test_figures(self) -> dict[str, Figure]:
        """The predictions of the test over the targets."""
        return {"predicted": self.tested.figure(FileUnits.known(self.units, self._data))}
