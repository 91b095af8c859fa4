"""Simulated: noisy observations of a given vector field."""

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import repeated


class Simulated(of.DataModule):
    """Trajectories of given dynamics from given states, observed with noise.

    Every training batch contains all trajectories, at equidistant times on [0, t1], with the same noise. Validation
    forecasts their course on the first half of [t1, forecast], test and prediction on the second half, each from the
    state at its beginning, without noise and at times as dense.

    Args:
        dynamics: The vector field.
        initial: (B, d), the states at time 0.
        t1: Last observed time.
        observations: Number of observations of each trajectory.
        forecast: Last time of the test; by default 1.5 t1.
        noise: Standard deviation of the noise.
        seed: Seed of the noise.
        steps: Number of batches in an epoch.

    Raises:
        SettingError: An option is out of range, or the states do not fit the dynamics.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        initial: Sequence[Sequence[float]],
        t1: float,
        observations: int = 100,
        forecast: float | None = None,
        noise: float = 0.0,
        seed: int = 0,
        steps: int = 50,
    ) -> None:
        super().__init__()
        if not initial or any(len(state) != dynamics.width for state in initial):
            raise of.SettingError(
                f"Simulated: initial must hold states of {type(dynamics).__name__}'s width {dynamics.width}; got "
                f"{list(initial)}"
            )
        if not t1 > 0 or (forecast is not None and not forecast > t1):
            raise of.SettingError(f"Simulated expects 0 < t1 < forecast; got t1={t1} and forecast={forecast}")
        of.check_least(self, 0, noise=noise, seed=seed)
        of.check_least(self, 1, steps=steps)
        of.check_least(self, 2, observations=observations)
        self.dim = dynamics.width
        self.dynamics, self.initial = dynamics, torch.tensor(initial, dtype=torch.float64)
        self.t1, self.observations, self.forecast, self.steps = t1, observations, forecast, steps
        self.noise, self.seed = noise, seed

    def setup(self, stage: str) -> None:
        from odeflow_solvers import Dopri5

        spacing = self.t1 / (self.observations - 1)
        forecast = 1.5 * self.t1 if self.forecast is None else self.forecast
        half = max(1, round((forecast - self.t1) / spacing / 2))  # observations of validation, and as many of the test
        last = self.observations - 1
        t = spacing * torch.arange(last + 2 * half + 1, dtype=torch.float64)
        with torch.no_grad():
            y = of.Flow(self.dynamics.double(), Dopri5(1e-10, 1e-12)).trajectory(self.initial, t).y
        t, y = t.float(), y.float().movedim(0, 1)
        seen = y[:, : self.observations]
        noise = torch.randn(seen.shape, generator=torch.Generator().manual_seed(self.seed))
        self.observed = of.Series.observed(t[: self.observations], seen + self.noise * noise)
        self.val, self.tested = (
            of.Series.observed(t[first : first + half + 1], y[:, first : first + half + 1], first_only=True)
            for first in (last, last + half)
        )

    def train_dataloader(self) -> DataLoader[object]:
        return repeated(self.observed, self.steps)

    def val_dataloader(self) -> DataLoader[object]:
        return repeated(self.val)

    def test_dataloader(self) -> DataLoader[object]:
        return repeated(self.tested)
