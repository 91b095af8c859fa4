"""CDE: a controlled differential equation reads a series."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_cde.control import Control
from odeflow_cde.driven import Driven
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout


class CDE(Autoregressive):
    """A hidden state driven by the path X through time and observations: dz = f(z) dX, with z = W X + b at first.

    Classifier and regressor read the state at the end of each series. Values are predicted online: the prediction at a
    time depends on the time and on what was seen before, which takes the path of `Rectilinear()`. Classifier and
    regressor alone, with `readout.target_weight` 0, may have any path, and read the times at which something is seen.

    The time of the solve is the number of the observation (see `Control`), so that `step_size: 1` is a step from one to
    the next, and with a `window` of log-signatures `step_size: 8` one over a window of 8.

    Source: Kidger, Morrill, Foster & Lyons (2020), "Neural Controlled Differential Equations for Irregular Time
        Series"; online prediction: Morrill, Kidger, Yang & Lyons (2021), "Neural Controlled Differential Equations for
        Online Prediction Tasks".

    Args:
        dynamics: The field on which the matrix f is built, of the width of the state, or a `Product`: see `Driven`.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        control: The path X.
        bounded: Whether the matrix ends with tanh.
        dim: Length d of an observation; the command line takes it from the data.
        readout: Decoder, likelihood, classifier and regressor.
        num_classes: Number of classes of the series; the command line takes it from the data.
        num_outputs: Number of outcomes of a series; the command line takes it from the data.
        masking: The values hidden in training.
        instance: Normalisation of each series by its own level and scale; by default none.

    Raises:
        SettingError: An option is missing or out of range, or the path would depend on the values to predict.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        control: Control = Control(),
        bounded: bool = True,
        dim: int | None = None,
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        instance: InstanceNorm = InstanceNorm(),
    ) -> None:
        super().__init__(dynamics.width, dim, readout, num_classes, masking, num_outputs)
        if self.target_weight and not control.causal:
            raise of.SettingError(
                "CDE: values are predicted from the path before them, but this path depends on later values. Use "
                "control.interpolation Rectilinear without a window; or train a classifier or regressor alone, by "
                "readout.target_weight 0"
            )
        self.control, self.instance = control, instance
        self.start = nn.Linear(control.observed(self.dim), dynamics.width)
        self.flow = of.Flow(Driven(dynamics, control.channels(self.dim), bounded), solver, gradient)

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the state at the end of each series."""
        drive = self.control(batch)
        z0 = self.start(drive.start)
        if len(drive.rows) < 2:
            return self.decoder(torch.zeros_like(z0))[:, None], z0
        if not self.target_weight:
            last = self.flow.trajectory(z0, torch.cat((drive.rows[:1], drive.end)), context=drive.path).y[-1]
            return self.decoder(last)[:, None].expand_as(batch.y), last
        before = drive.rows[1:] - 1  # time has come, and the value has not
        z = self.flow.trajectory(z0, torch.cat((drive.rows[:1], before, drive.rows[-1:])), context=drive.path).y
        first = torch.zeros_like(z0)  # nothing is known
        return self.decoder(torch.cat((first[None], z[1:-1]))).transpose(0, 1), z[-1]
