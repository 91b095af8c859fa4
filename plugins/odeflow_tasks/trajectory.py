"""Trajectory: fits a vector field to observed trajectories."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

import odeflow as of
from odeflow_dynamics import OwnClock
from odeflow_tasks import batch as batches
from odeflow_tasks import estimates, missing, trajectory_figures
from odeflow_tasks.covariates import checked, count_of, inputs_of
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.initial_states import Initial, InitialStates
from odeflow_tasks.interpolation import Interpolation, Linear
from odeflow_tasks.levenberg_marquardt import LevenbergMarquardt
from odeflow_tasks.occasional import log_occasional
from odeflow_tasks.segments import Segments
from odeflow_tasks.sensitivity import Entry, linearised

if TYPE_CHECKING:
    import polars as pl

Distance = Literal["mae", "mse", "nll"]


class Trajectory(of.Task):
    """Learns dy/dt = f(t, y) from trajectories: solves from the first time and compares with the observations.

    A batch is a `Series`. Each trajectory has its own times; missing values are not compared. A state that is never
    observed is a column of missing values. The initial states are observed, known, or learned.

    With `segment` a trajectory is divided into segments, each with its own initial state (multiple shooting). This
    keeps the gradients of long or chaotic trajectories bounded, and all segments are solved in parallel. For noisy
    observations the initial states can be learned; the penalty `continuity` then joins the segments.

    With `distance="nll"` the observations have Gaussian noise with a standard deviation for each state, and the
    parameters are maximum likelihood estimates. The `Coefficient`s of the dynamics are logged as `param/<name>`, and
    tabulated at the end of training with their standard errors, see `parameters`.

    A test forecasts: it solves from what was learned for the trajectory, or from the first state of its batch. It logs
    the mean absolute error over all values that were not seen as `test/forecast_mae`, and that of the last seen values,
    the persistence forecast, as `test/persistence_mae`.

    Source: multiple shooting: Bock (1983), "Recent advances in parameter identification techniques for O.D.E.".

    Args:
        dynamics: The vector field; its width is d plus the augmented dimensions, which are not compared, plus
            `num_covariates`, which `Equations` names as its inputs instead.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow; its times are those of the data.
        distance: "mae", the mean absolute error; "mse", the mean square error; or "nll", the negative log-likelihood of
            an observation in nats, which does not depend on the columns' units but for a constant.
        noise: The standard deviation of the noise of each state, for "nll"; by default it is estimated.
        segment: Number of observations in a segment; the last one is the first of the next segment. By default the
            whole trajectory is one segment.
        initial: How the initial states are determined: observed, known, or learned.
        continuity: Weight of the mean square gap between consecutive segments in the loss, with learned states, in
            units of the standard deviation of the observations.
        extrapolate: Time up to which a test draws the forecast of its first trajectory.
        covariates: How covariates, the external inputs of the field, are interpolated in time; `Linear()` by default.
        num_covariates: Number of covariates of the trajectories, static ones included; the command line takes it from
            the data.

    Raises:
        SettingError: An option is out of range.
    """

    carries_data = True
    noise_std: Tensor

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        distance: Distance = "mae",
        noise: list[float] | None = None,
        segment: int | None = None,
        initial: Initial = Initial(),
        continuity: float = 1.0,
        extrapolate: float | None = None,
        covariates: Interpolation | None = None,
        num_covariates: int | None = None,
    ) -> None:
        super().__init__()
        flow.refuse("Trajectory", **dict.fromkeys(("t0", "t1", "steer"), "the times are those of the data"))
        if segment is not None and segment < 2:
            raise of.SettingError(f"Trajectory: a segment needs two observations; got segment={segment}")
        of.check_least(self, 0, continuity=continuity)
        self.flow = of.Flow(OwnClock(dynamics), solver, gradient, flow)
        self.distance: Distance = distance
        self.segment, self.continuity, self.extrapolate = segment, continuity, extrapolate
        self.interpolation = covariates or Linear()
        self.num_covariates, self.counted = count_of("Trajectory", dynamics, num_covariates)
        width = flow.input_width(dynamics.width - self.counted)
        self.states = tuple(dynamics.states[:width]) or tuple(f"y_{number + 1}" for number in range(width))
        self.initial = InitialStates(self.states, initial)
        self._set_noise(noise)
        self.fitted: of.Series | None = None
        self.tested: of.Series | None = None
        self.forecasts = nn.ModuleDict({f"{name}_mae": MeanMetric() for name in ("forecast", "persistence")})

    def _set_noise(self, noise: Sequence[float] | None) -> None:
        self.estimates_noise = noise is None
        given = [1.0] * len(self.states) if noise is None else list(noise)
        if len(given) != len(self.states) or not all(each > 0 for each in given):
            raise of.SettingError(
                f"Trajectory: noise must be a positive number for each of the states {', '.join(self.states)}; got "
                f"{given}"
            )
        if noise is not None and self.distance != "nll":
            raise of.SettingError(f"Trajectory: noise is for distance='nll'; got distance={self.distance!r}")
        self.register_buffer("noise_std", torch.tensor(given))

    def setup(self, stage: str) -> None:
        """As `Task`, and checks that states of the data are in the order of the dynamics, if they have the same names.

        Raises:
            DataError: They are in another order.
        """
        super().setup(stage)
        features = () if self.units is None else self.units.features
        if sorted(features) == sorted(self.states) and features != self.states:
            raise of.DataError(
                f"Trajectory: the dynamics have the states {', '.join(self.states)}, in this order; the data have "
                f"{', '.join(features)}. Set --data.states [{','.join(self.states)}]"
            )
        if stage == "fit" and self._data is not None and self.trainer.world_size > 1:
            self._begin_alike(self._data)

    def _begin_alike(self, data: of.DataModule) -> None:
        """Begins the initial states before training, alike in all processes, which cannot begin them in its course."""
        self.trainer.precision_plugin.convert_module(self)  # states begin in the precision in which they are trained
        batch: Any = next(iter(data.train_dataloader()))
        batch = self._checked(batch)
        self.initial.prepare(batch)
        with torch.no_grad():
            self.cut(batch)
        if not self.initial.free.numel():
            self.initial.free.requires_grad_(False)

    def forward(self, y0: Tensor, t: Tensor, batch: of.Series | None = None) -> Tensor:
        """The predicted trajectories.

        Args:
            y0: (B, d), the states at t[0].
            t: (T,), the times.
            batch: B series, whose covariates are the input of the field; required if there are covariates.

        Returns:
            (B, T, d).
        """
        inputs = None if batch is None else inputs_of(batch, self.interpolation)
        if inputs is not None:
            inputs = of.paths.Joined(inputs, of.paths.Constant(y0.new_zeros(len(y0), 1)))  # the start of `OwnClock`
        y = self.flow.trajectory(y0, t, context=inputs).y
        return y[:, :, : y0.shape[1]].movedim(0, 1)

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The distance between prediction and observation, averaged over all observed values.

        Raises:
            DataError: The batch is not a `Series` of monotone times, or not of the states.
        """
        batch = self._checked(batch)
        if stage == "test":
            return self._forecast(batch)
        if stage == "val" and self._forecasts(batch):
            return self._distance(self._predicted(batch) - batch.y, self._compared(batch))
        if stage == "train":
            self.initial.prepare(batch)
        segments, states = self.cut(batch)
        solved = self.solved(segments, states)
        error = solved - segments.of(batch.y)
        compared = segments.of(self._compared(batch)) & segments.inside[..., None, None]
        if stage == "train":
            self.fitted = batch
            self.initial.keep(solved[-1, -1])
            self._estimate_noise(error, compared)
        loss = self._distance(error, compared)
        if self.initial.learned and len(states) > 1:
            loss = loss + self.continuity * self._gaps(batch, segments, states, solved).square().mean()
        return loss

    def _checked(self, batch: Any) -> of.Series:
        name = type(self).__name__
        if self.counted and isinstance(batch, of.Series) and batch.y.shape[-1] != len(self.states):
            size = batch.y.shape[-1] + self.flow.options.augment + self.counted
            raise of.DataError(
                f"{name}: the width of the dynamics must be {size}: {batch.y.shape[-1]} states, augment="
                f"{self.flow.options.augment} and num_covariates={self.counted}; it is {self.flow.dynamics.width}"
            )
        batch = batches.trajectories(name, batch, self.flow, self.states)
        batch = checked(name, batch, self.num_covariates, batch.y.dtype)
        if batch.jump is not None and self.flow.options.augment:
            raise of.DataError("Trajectory does not support jumps of the states with augmented dimensions")
        return batch

    def cut(self, batch: of.Series, whole: bool = False) -> tuple[Segments, Tensor]:
        """The segments of a training batch, or of any batch one segment each, and (S, B, d), their initial states."""
        length = batch.t.shape[1]
        if whole:
            return Segments.cut(batch.t, length).driven(batch, self.interpolation), self.initial.best(batch)[None]
        segments = Segments.cut(batch.t, self.segment or length).driven(batch, self.interpolation)
        return segments, self.initial(batch, torch.cat([segments.rows[0], segments.rows.new_tensor([length - 1])]))

    def _compared(self, batch: of.Series) -> Tensor:
        """(B, T, d), the values that are compared: of a likelihood without those that are initial states."""
        if self.distance != "nll" or self.initial.learned:
            return batch.target
        compared = batch.target.clone()
        compared[:, 0] &= ~batch.seen[:, 0]
        return compared

    def _distance(self, error: Tensor, compared: Tensor) -> Tensor:
        """(), the distance of errors (…, d) where they are compared; 0 if none is, as in one of several processes.

        Where the noise is estimated, the negative log-likelihood is Σ n log σ(θ) up to a constant, at the σ of the
        largest likelihood (the concentrated likelihood), whose gradient in training is that of the weighted squares.
        """
        if self.distance == "mae":
            each = error.abs()
        elif self.distance == "mse":
            each = error.square()
        else:
            std = self.noise_std.to(error)
            each = 0.5 * (error / std).square() + std.log() + 0.5 * torch.tensor(2 * torch.pi).log()
        chosen = each[compared]
        return chosen.mean() if len(chosen) else chosen.sum()

    def _estimate_noise(self, error: Tensor, compared: Tensor) -> None:
        """Sets the noise to the root mean square error of each state."""
        if self.distance != "nll" or not self.estimates_noise:
            return
        count = self.summed(compared.flatten(0, -2).sum(0))
        total = self.summed(error.detach().where(compared, 0.0).flatten(0, -2).square().sum(0))
        square = total / count.clamp(min=1)
        floor = torch.finfo(error.dtype).eps * self.initial.scale
        self.noise_std = torch.where(count > 0, square.sqrt().maximum(floor), self.noise_std.to(error))

    def solved(self, segments: Segments, states: Tensor) -> Tensor:
        """(L, S, B, d), the solution of the segments from their initial states (S, B, d)."""
        count, size, width = states.shape
        grid, context = segments.grid, segments.context(states.dtype)
        if context is None:
            grid = grid + segments.starts[0, 0]
        cuts, jump = {0, len(grid) - 1}, segments.jump
        if jump is not None:
            cuts |= set(jump.flatten(1).any(1).nonzero()[:, 0].tolist())
        y, rows = states.flatten(0, 1), [states.flatten(0, 1)[None]]
        for first, last in pairwise(sorted(cuts)):
            start = y if jump is None else y + jump[first].flatten(0, 1)
            piece = self.flow.trajectory(start, grid[first : last + 1], context=context).y[:, :, :width]
            y = piece[-1]
            rows.append(piece[1:])
        return segments.gather(torch.cat(rows).unflatten(1, (count, size)))

    def _forecasts(self, batch: of.Series) -> bool:
        """Whether trajectories are predicted as a whole: targets are unseen, or initial states were not learned."""
        return bool((batch.target & ~batch.seen).any()) or not self.initial.applies(batch)

    def _predicted(self, batch: of.Series) -> Tensor:
        """(B, T, d), from the best estimate of the initial states."""
        segments, states = self.cut(batch, whole=True)
        return segments.whole(self.solved(segments, states))

    def _forecast(self, batch: of.Series) -> Tensor:
        """The test loss; notes the errors of the forecast and of the persistence baseline."""
        self.tested = batch
        predicted, last = self._predicted(batch), missing.filled(missing.observed(batch))[:, -1:]
        unseen = batch.target & ~batch.seen
        for name, forecast, compared in (
            ("forecast", predicted, unseen),
            ("persistence", last.expand_as(predicted), unseen & ~last.isnan()),
        ):
            if bool(compared.any()):
                metric = self.forecasts[f"{name}_mae"]
                assert isinstance(metric, MeanMetric)
                metric.update((forecast - batch.y)[compared].abs())
        return self._distance(predicted - batch.y, self._compared(batch))

    def on_test_epoch_end(self) -> None:
        log_occasional(self, self.forecasts, "test")

    # Parameters

    def residuals(self, batch: of.Series) -> Tensor:
        """(R,), the errors of all compared values in units of their noise, followed by the gaps between segments.

        Half the sum of their squares is the loss "nll" times the number of values, but for a constant.
        """
        segments, states = self.cut(batch)
        return self.residuals_of(batch, segments, states, self.solved(segments, states), batch.y)

    def residuals_of(self, batch: of.Series, segments: Segments, states: Tensor, solved: Tensor, y: Tensor) -> Tensor:
        """(R,), the residuals of a solution of segments; with y = 0 they are linear in states and solution."""
        compared = segments.of(self._compared(batch)) & segments.inside[..., None, None]
        error = ((solved - segments.of(y)) / self.noise_std.to(solved))[compared]
        if len(states) == 1 or not self.initial.learned:
            return error
        gaps = self._gaps(batch, segments, states, solved)
        weight = 2 * self.continuity * len(error) / gaps.numel()
        return torch.cat([error, weight**0.5 * gaps])

    def _gaps(self, batch: of.Series, segments: Segments, states: Tensor, solved: Tensor) -> Tensor:
        """(G,), the gaps at the starts of segments within the trajectories, in units of the observations' deviation."""
        within = segments.starts[1:] != batch.t[:, -1]
        return ((solved[-1, :-1] - states[1:]) / self.initial.scale.to(solved))[within].flatten()

    def linearised(self, batch: of.Series, entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
        """(R,) and (R, P), the residuals and their derivatives with respect to P entries of parameters, in float64."""
        return linearised(self, batch, entries)

    def parameters_table(self, batch: Any = None) -> "pl.DataFrame":
        """The estimates of the dynamics' coefficients and of learned initial states, with standard errors.

        The covariance is that of the linearised model: (JᵀJ)⁻¹ with the Jacobian J of the errors of whole trajectories,
        in units of the noise, with respect to all parameters jointly. Estimated variances of the noise are divided by
        the degrees of freedom. `lower` and `upper` are the ends of an interval of 95 %, inside the bounds of the
        parameter. Without a likelihood, distance="nll", and with parameters of networks, there are no standard errors.

        Source: Seber & Wild (1989), "Nonlinear Regression", section 2.1.2.

        Args:
            batch: The observations; by default those of the last training step.

        Returns:
            A row for each parameter: name, estimate, std_error, lower, upper, unit.

        Raises:
            DataError: Nothing was trained yet, and there is no batch.
        """
        batch = self.fitted if batch is None else self._checked(batch)
        if batch is None:
            raise of.DataError("Trajectory: there is no training batch yet; train, or give parameters_table a batch")
        if self.fitted is None and not self.initial.applies(batch):
            self.initial.prepare(batch)
            self.cut(batch)
        found = list(estimates.estimates(self, self.initial, "initial"))
        names = [each.tensor for each in found]
        others = [name for name, part in self.named_parameters() if part.requires_grad and name not in names]
        networks = any(not name.startswith("initial.") for name in others)
        if self.distance != "nll" or networks or not found:
            return estimates.table(found)
        entries = [(each.tensor, each.number) for each in found]
        errors, jacobian = linearised(self, batch, entries, whole=True)
        compared = self._compared(batch).movedim(0, 1).nonzero()  # as residuals are ordered, (T, B, d)
        column = compared[:, -1] if self.estimates_noise else None
        return estimates.table(found, *estimates.covariance(errors, jacobian, column))

    def tables(self) -> dict[str, "pl.DataFrame"]:
        named = self.fitted is not None and estimates.coefficients(self)
        return {"parameters": self.parameters_table()} if named else {}

    def on_train_epoch_end(self) -> None:
        """Logs the coefficients by name."""
        for name, coefficient in estimates.coefficients(self).items():
            self.log(f"param/{name}", coefficient().detach(), sync_dist=True)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """As Lightning, but gives itself to `LevenbergMarquardt`."""
        inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
        if isinstance(inner, LevenbergMarquardt):
            inner.problem = self
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    # Results

    def sample_count(self, batch: of.Series) -> int:
        """Number of compared values; those at the ends of segments count twice."""
        compared = self._compared(batch)
        if self.segment is None:
            return int(compared.sum())
        segments = Segments.cut(batch.t, self.segment)
        return int((segments.of(compared) & segments.inside[..., None, None]).sum())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, T, d), the predicted trajectories."""
        return self._predicted(self._checked(batch))

    def restored(self, prediction: Tensor, units: of.Units) -> Tensor:
        return units.restored(prediction)

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Truth beside prediction, segment by segment, over time and in phase space, and the learned field."""
        batch = self._checked(batch)
        if self._forecasts(batch):
            predicted = self._predicted(batch)
        else:
            segments, states = self.cut(batch)
            predicted = segments.whole(self.solved(segments, states))
        file, states = self._file()
        return {"phase_portrait": trajectory_figures.portrait(self.flow, states, batch, predicted, file)}

    def _file(self) -> tuple[FileUnits, list[str]]:
        """The units of figures, and the states' names in the file, or else in the dynamics."""
        file = FileUnits.known(self.units, self._data)
        return file, file.names(len(self.states), self.states)

    def test_figures(self) -> dict[str, Figure]:
        """The forecast beside the truth, and with `extrapolate` its continuation."""
        if self.tested is None:
            return {}
        batch, (file, states) = self.tested, self._file()
        with torch.no_grad():
            drawn = {"forecast": trajectory_figures.forecast(states, batch, self._predicted(batch), file)}
            if self.extrapolate is not None:
                first = batch.take(slice(1))
                t = torch.linspace(
                    float(batch.t[0, 0]), self.extrapolate, trajectory_figures.MOMENTS, device=batch.t.device
                )
                course = of.Series.observed(t, self(self.initial.best(first), t, first))
                drawn["extrapolation"] = trajectory_figures.course(states, batch, course, file)
        return drawn
