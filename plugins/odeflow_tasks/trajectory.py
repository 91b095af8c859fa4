"""Trajectory: fits a vector field to observed trajectories."""

from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_dynamics import OwnClock
from odeflow_tasks import batch as batches
from odeflow_tasks import trajectory_figures
from odeflow_tasks.segments import LearnedStates, Segments


class Trajectory(of.Task):
    """Learns dy/dt = f(t, y) from trajectories: solves from the first observation and compares with the others.

    With `segment` a trajectory is divided into segments, each with its own initial state (multiple shooting). This
    keeps the gradients of long or chaotic trajectories bounded, and all segments are solved in parallel. For noisy
    observations the initial states can be learned; the penalty `continuity` then joins the segments.

    A test forecasts: it solves from the first state of its batch, or from its learned estimate if it is the end of the
    training trajectories. It logs the mean absolute error over all later times as `test/forecast_mae`, and that of the
    persistence forecast as `test/persistence_mae`.

    Source: multiple shooting: Bock (1983), "Recent advances in parameter identification techniques for O.D.E.".

    Args:
        dynamics: The vector field; its width is d plus the augmented dimensions, which are not compared.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow; its times are those of the data.
        distance: "mae", the mean absolute error, or "mse", the mean square error.
        segment: Number of observations in a segment; the last one is the first of the next segment. By default the
            whole trajectory is one segment.
        initial: The initial states: "observed", or "learned" together with the field, for which every batch must
            contain the same trajectories.
        continuity: Weight of the mean square gap between consecutive segments in the loss, with learned states.
        extrapolate: Time up to which a test draws the forecast of its first trajectory.

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
        distance: Literal["mae", "mse"] = "mae",
        segment: int | None = None,
        initial: Literal["observed", "learned"] = "observed",
        continuity: float = 1.0,
        extrapolate: float | None = None,
    ) -> None:
        super().__init__()
        flow.refuse("Trajectory", **dict.fromkeys(("t0", "t1", "steer"), "the times are those of the data"))
        if distance not in ("mae", "mse"):
            raise of.SettingError(f"Trajectory: distance must be 'mae' or 'mse'; got {distance!r}")
        if initial not in ("observed", "learned"):
            raise of.SettingError(f"Trajectory: initial must be 'observed' or 'learned'; got {initial!r}")
        if segment is not None and segment < 2:
            raise of.SettingError(f"Trajectory: a segment needs two observations; got segment={segment}")
        if not continuity >= 0:
            raise of.SettingError(f"Trajectory: continuity must not be negative; got {continuity}")
        field = dynamics if segment is None else OwnClock(dynamics)
        self.flow = of.Flow(field, solver, gradient, flow)
        self.distance, self.segment, self.continuity, self.extrapolate = distance, segment, continuity, extrapolate
        self.learned = LearnedStates() if initial == "learned" else None
        self.tested: of.Trajectories | None = None

    def forward(self, y0: Tensor, t: Tensor) -> Tensor:
        """The predicted trajectories.

        Args:
            y0: (B, d), the states at t[0].
            t: (T,), the times.

        Returns:
            (T, B, d).
        """
        y = self.flow.trajectory(y0, t).y
        return y[:, :, : y0.shape[1]]

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The distance between prediction and observation, averaged over times, samples and dimensions.

        Raises:
            DataError: The batch is not a `Trajectories` with monotone times and all states observed.
        """
        batch = self._checked(batch)
        if stage == "test":
            return self._forecast(batch)
        segments, states = self._cut(batch)
        solved = self._solved(segments, states[:-1])
        loss = self._distance((solved - batch.y[segments.rows])[segments.inside])
        if self.learned is not None:
            loss = loss + self.continuity * (solved[-1] - states[1:]).square().mean()
        return loss

    def _checked(self, batch: Any) -> of.Trajectories:
        return batches.trajectories(type(self).__name__, batch, self.flow)

    def _cut(self, batch: of.Trajectories) -> tuple[Segments, Tensor]:
        """The segments of a batch, and (S + 1, B, d), their initial states and the final state of the last one."""
        t, y = batch
        segments = Segments.cut(t, self.segment or len(t))
        observed = torch.cat([y[segments.rows[0]], y[-1:]])
        return segments, observed if self.learned is None else self.learned(observed)

    def _distance(self, error: Tensor) -> Tensor:
        return error.abs().mean() if self.distance == "mae" else error.square().mean()

    def _solved(self, segments: Segments, states: Tensor) -> Tensor:
        """(L, S, B, d), the solution of the segments from their initial states (S, B, d)."""
        count, size, width = states.shape
        if count == 1:
            return segments.gather(self(states[0], segments.starts + segments.grid).unsqueeze(1))
        clocks = segments.clocks(states.dtype).repeat_interleave(size)[:, None]
        y = self.flow.trajectory(states.flatten(0, 1), segments.grid, context=clocks).y
        return segments.gather(y[:, :, :width].unflatten(1, (count, size)))

    def _forecast(self, batch: of.Trajectories) -> Tensor:
        """The test loss, logged together with the persistence baseline."""
        self.tested, y = batch, batch.y
        predicted, size = self._predicted(batch), self.sample_count(batch)
        for name, forecast in (("forecast", predicted), ("persistence", y[:1])):
            self.log(f"test/{name}_mae", (forecast - y)[1:].abs().mean(), batch_size=size, sync_dist=True)
        return self._distance(predicted - y)

    def _predicted(self, batch: of.Trajectories) -> Tensor:
        """(T, B, d), from the best estimate of the initial states."""
        y0 = batch.y[0]
        t, rows = batch.t.unique_consecutive(return_inverse=True)
        return self(y0 if self.learned is None else self.learned.best(y0), t)[rows]

    def sample_count(self, batch: of.Trajectories) -> int:
        return batch.y.shape[1]

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(T, B, d), the predicted trajectories."""
        return self._predicted(self._checked(batch))

    def restored(self, prediction: Tensor, units: of.Units) -> Tensor:
        return units.restored(prediction)

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Truth beside prediction, segment by segment, over time and in phase space, and the learned field."""
        batch = self._checked(batch)
        segments, states = self._cut(batch)
        solved, predicted = self._solved(segments, states[:-1]), torch.empty_like(batch.y)
        predicted[segments.rows[segments.inside]] = solved[segments.inside]
        return {"phase_portrait": trajectory_figures.portrait(self.flow, batch, predicted)}

    def test_figures(self) -> dict[str, Figure]:
        """The forecast beside the truth, and with `extrapolate` its continuation."""
        if self.tested is None:
            return {}
        batch = self.tested
        with torch.no_grad():
            drawn = {"forecast": trajectory_figures.forecast(batch, self._predicted(batch))}
            if self.extrapolate is not None:
                t = torch.linspace(
                    float(batch.t[0]), self.extrapolate, trajectory_figures.MOMENTS, device=batch.t.device
                )
                course = of.Trajectories(t, self._predicted(of.Trajectories(t, batch.y[:1])))
                drawn["extrapolation"] = trajectory_figures.course(batch, course)
        return drawn
