"""ExactPaths: samples of an equation whose transitions have a closed form."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import repeated
from odeflow_sde.geometric_brownian_motion import GeometricBrownianMotion
from odeflow_sde.ornstein_uhlenbeck import OrnsteinUhlenbeck


class ExactPaths(of.DataModule):
    """Paths of a stochastic equation from one value, at equidistant times from 0, without error of discretisation.

    Every batch contains all paths; those of validation and test are others.

    Args:
        dynamics: The equation with its true coefficients: `GeometricBrownianMotion` or `OrnsteinUhlenbeck`.
        initial: The value at time 0.
        count: Number of paths.
        times: Number of times.
        t1: The last of them.
        seed: Seed of the noise.
        steps: Number of batches in an epoch.

    Raises:
        SettingError: An option is out of range, or the equation has no closed form here.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        initial: float = 1.0,
        count: int = 200,
        times: int = 21,
        t1: float = 2.0,
        seed: int = 0,
        steps: int = 20,
    ) -> None:
        super().__init__()
        if not isinstance(dynamics, GeometricBrownianMotion | OrnsteinUhlenbeck):
            raise of.SettingError(
                "ExactPaths expects GeometricBrownianMotion or OrnsteinUhlenbeck, whose transitions are known; got "
                f"{type(dynamics).__name__}"
            )
        of.check_least(self, 1, count=count, steps=steps)
        of.check_least(self, 2, times=times)
        of.check_least(self, 0, seed=seed)
        of.check_range(self, "(0, inf)", t1=t1)
        self.dim, self.dynamics, self.initial = 1, dynamics, initial
        self.count, self.times, self.t1, self.seed, self.steps = count, times, t1, seed, steps

    def setup(self, stage: str) -> None:
        self.observed, self.val, self.tested = (self._drawn(3 * self.seed + part) for part in range(3))

    @torch.no_grad()
    def _drawn(self, seed: int) -> of.Series:
        generator, h = torch.Generator().manual_seed(seed), self.t1 / (self.times - 1)
        rows: list[Tensor] = [torch.full((self.count, 1), self.initial)]
        for _ in range(self.times - 1):
            rows.append(self.dynamics.advanced(rows[-1], h, torch.randn(self.count, 1, generator=generator)))
        return of.Series.observed(h * torch.arange(self.times), torch.stack(rows, dim=1))

    def train_dataloader(self) -> DataLoader[object]:
        return repeated(self.observed, self.steps)

    def val_dataloader(self) -> DataLoader[object]:
        return repeated(self.val)

    def test_dataloader(self) -> DataLoader[object]:
        return repeated(self.tested)
