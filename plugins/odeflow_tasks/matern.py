"""Matern: a likelihood whose residuals are correlated in time, so that seen values correct predictions near them."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal

import odeflow as of
from odeflow_tasks.likelihood import Gaussian, Likelihood

SMALLEST = 1e-6
"""Smallest variance of the white noise, relative to that of the process, for Cholesky factors in float32."""
MOST_SERIES = 4
"""Number of series of a batch from which the process is learned: it has few parameters, and cubic costs."""


class Matern(Likelihood):
    """y(t) = prediction(t) + r(t) + ε: a Gaussian process r of each feature with a Matérn kernel, and white noise ε.

    The kernel is s² k(|Δt| / ℓ) with k(x) = exp(−x) (smoothness 1/2), (1 + √3 x) exp(−√3 x) (3/2) or
    (1 + √5 x + 5x²/3) exp(−√5 x) (5/2). Given the seen values, r is known near them: the model says what is expected of
    a series, and its deviations from that are interpolated (regression kriging).

    The bound that trains the model has independent residuals, as `Gaussian`; otherwise the process would explain what
    the model should learn. Its variances and lengths are learned from the residuals alone, by the log-density of unseen
    targets given the seen values; so training must hide values, by the data's `seen.share` or by `masking`.

    Source: Hengl, Heuvelink & Rossiter (2007), "About regression-kriging: From equations to case studies"; Rasmussen &
        Williams (2006), "Gaussian Processes for Machine Learning", section 2.2 and equation 4.14.

    Args:
        noise_std: The standard deviation of the independent residuals of the bound.
        learn: Whether it is learned per feature, starting from `noise_std`.
        balance: Whether all features of a series have equal weight in the bound, as in `Likelihood`.
        smoothness: ν, of the process: its paths are ⌈ν⌉ − 1 times differentiable.
        length: The initial length ℓ, in the time of the batches.

    Raises:
        SettingError: An option is out of range.
    """

    log_scale: nn.Parameter
    log_length: nn.Parameter
    log_white: nn.Parameter

    def __init__(
        self,
        noise_std: float = 0.1,
        learn: bool = False,
        balance: bool = False,
        smoothness: Literal["1/2", "3/2", "5/2"] = "3/2",
        length: float = 0.1,
    ) -> None:
        super().__init__(balance)
        of.check_range(self, "(0, inf)", length=length)
        self.independent = Gaussian(noise_std, learn, balance)
        self.smoothness: Literal["1/2", "3/2", "5/2"] = smoothness
        self.length = length

    def build(self, dim: int) -> None:
        self.independent.build(dim)
        self.log_scale = nn.Parameter(torch.full((dim,), math.log(self.independent.noise_std)))
        self.log_length = nn.Parameter(torch.full((dim,), math.log(self.length)))
        self.log_white = nn.Parameter(self.log_scale.detach() - math.log(10))

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        return self.independent.log_prob(prediction, y)

    def residuals(self, prediction: Tensor, batch: of.Series) -> Tensor:
        return self.independent.residuals(prediction, batch)

    def unseen_log_prob(self, prediction: Tensor, batch: of.Series) -> Tensor:
        few = batch.take(slice(0, MOST_SERIES))
        unseen = few.target & ~few.seen
        if not bool(unseen.any()):
            own = (self.log_scale, self.log_length, self.log_white)
            return 0.0 * torch.stack(own).sum()  # several processes need a gradient of every parameter
        found = self.predictive(prediction.detach()[..., :MOST_SERIES, :, :], few)
        log_p = found.log_prob(few.y.where(unseen, 0.0))
        return log_p[..., unseen].mean()

    def predictive(self, prediction: Tensor, batch: of.Series) -> Normal:
        y, t, seen = batch.y.mT, batch.t[:, None], batch.seen.mT  # (B, d, T)
        order = seen.to(torch.uint8).argsort(dim=2, descending=True, stable=True)
        order = order[..., : max(1, int(seen.sum(2).max()))]  # (B, d, N), the seen values of each feature
        known, times = seen.gather(2, order), t.expand(y.shape).gather(2, order)
        scale, white = self.log_scale.exp(), self.log_white.exp()
        white = (white.square() + SMALLEST * scale.square())[:, None]
        among = self._kernel(times[..., :, None] - times[..., None, :]) * (known[..., :, None] & known[..., None, :])
        diagonal = white.where(known, 1.0)  # padding is independent of all
        root = torch.linalg.cholesky(among + diagonal.diag_embed())  # (B, d, N, N)
        across = self._kernel(t[..., :, None] - times[..., None, :]) * known[..., None, :]  # (B, d, T, N)
        weights = torch.cholesky_solve(across.mT, root).mT
        samples = prediction.reshape(-1, *y.mT.shape).movedim(0, -1).transpose(1, 2)  # (B, d, T, S)
        place = order[..., None].expand(*order.shape, samples.shape[-1])
        error = (y[..., None] - samples).gather(2, place).where(known[..., None], 0.0)
        mean = (samples + weights @ error).transpose(1, 2).movedim(-1, 0).reshape(prediction.shape)
        variance = scale.square()[:, None] - (weights * across).sum(-1)
        return Normal(mean, (variance.clamp(min=0) + white).sqrt().mT, validate_args=False)

    def _kernel(self, gap: Tensor) -> Tensor:
        """(B, d, …), the covariances of r over time gaps (B, d or 1, N, N)."""
        x = gap.abs() / self.log_length.exp()[:, None, None]
        variance = (2 * self.log_scale).exp()[:, None, None]
        if self.smoothness == "1/2":
            return variance * torch.exp(-x)
        if self.smoothness == "3/2":
            x = math.sqrt(3) * x
            return variance * (1 + x) * torch.exp(-x)
        x = math.sqrt(5) * x
        return variance * (1 + x + x.square() / 3) * torch.exp(-x)
