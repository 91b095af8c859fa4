"""StochasticLorenz: Lorenz's attractor with noise, simulated."""

from collections.abc import Sequence

import torch
from torch import Tensor

import odeflow as of
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData, scaled
from odeflow_data.shares import Shares
from odeflow_sde.euler_maruyama import EulerMaruyama

STEPS = 50
"""Number of steps between two observations."""


class StochasticLorenz(SeriesData):
    """Noisy observations of dX = Lorenz's field dt + b X dW (diagonal, Itô), from X(0) ~ N(0, I).

    Lorenz's field has σ = 10, ρ = 28, β = 8/3. Values are standardised by mean and standard deviation of all series and
    times, then observed with noise. The defaults are those of the paper; the code released with it has b = (0.1, 0.28,
    0.3) and 100 times on [0, 2].

    Source: Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations", section 7.2.

    Args:
        count: Number of series.
        times: Number of equidistant times, from 0.
        t1: The last of them.
        diffusion: b, one number or three.
        noise: Standard deviation of the observation noise, of standardised values.
        seen: The seen values and the targets.
        batch_size: Number of series in a batch; the last one may be smaller.
        split: The fractions of the series for validation and testing.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        count: int = 1024,
        times: int = 41,
        t1: float = 1.0,
        diffusion: Sequence[float] = (0.15,),
        noise: float = 0.01,
        seen: Seen = Seen(share=1.0),
        batch_size: int = 256,
        split: Shares = Shares(),
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        of.check_least(self, 3, count=count)
        of.check_least(self, 2, times=times)
        of.check_range(self, "(0, inf)", t1=t1)
        of.check_least(self, 0, noise=noise, diffusion=diffusion)
        if len(diffusion) not in (1, 3):
            raise of.SettingError(f"StochasticLorenz: diffusion must hold one number or three; got {list(diffusion)}")
        self.dim = 3
        self.count, self.times, self.t1, self.noise, self.split = count, times, t1, noise, split
        self.diffusion = tuple(diffusion)

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        y = self.simulated(self.count, self.seed)
        mean, std = y.mean((0, 1)), y.std((0, 1))
        self.units = self.units or of.Units(tuple(mean.tolist()), tuple(std.tolist()))
        t = torch.linspace(0.0, self.t1, self.times).expand(self.count, -1)
        whole = scaled(of.Series.observed(t, y), self.units)
        whole = whole._replace(y=whole.y + self.noise * torch.randn(y.shape, generator=generator))
        self.divide(whole, self.split)

    def simulated(self, count: int, seed: int) -> Tensor:
        """(count, T, 3), series without observation noise, in the file's units.

        Args:
            count: Number of series.
            seed: Seed of their starts and noise.
        """
        scale = torch.tensor(self.diffusion, dtype=torch.float64)
        start = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        equation = of.SDE(_lorenz, lambda t, y: scale * y)
        times = torch.linspace(0.0, self.t1, self.times, dtype=torch.float64)
        solver = EulerMaruyama(num_steps=STEPS * (self.times - 1))
        with torch.no_grad():
            y = of.solve(equation, start, times, solver=solver, noise=seed).y
        return y.movedim(0, 1).float()


def _lorenz(t: Tensor, y: Tensor) -> Tensor:
    """(B, 3) ↦ (B, 3)."""
    x, v, z = y.unbind(-1)
    return torch.stack((10 * (v - x), x * (28 - z) - v, x * v - 8 / 3 * z), -1)
