"""Likelihoods: distributions of the targets of a series around their predictions."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

import odeflow as of


class Likelihood(of.Plugin, nn.Module, ABC):
    """p(y | prediction) of independent values. The task knows the sizes and calls `build` once, before use.

    Args:
        balance: Whether the targets of a series are weighted so that all of its features have equal weight, regardless
            of their number of targets. The weights of a series sum to the number of its targets.
    """

    kind = "likelihood"

    def __init__(self, balance: bool = False) -> None:
        super().__init__()
        self.balance = balance

    @abstractmethod
    def build(self, dim: int) -> None:
        """Builds the parameters for observations of length `dim`."""

    @abstractmethod
    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        """(…, B, T, d), the log-density of each value in nats.

        Args:
            prediction: (…, B, T, d).
            y: (B, T, d), the values.
        """

    def sample(self, prediction: Tensor) -> Tensor:
        """(…, d), an observation for each prediction (…, d).

        Raises:
            OdeflowError: The likelihood does not implement sampling, as by default.
        """
        raise of.OdeflowError(f"{type(self).__name__} does not implement sampling")

    def forward(self, prediction: Tensor, batch: of.Series) -> Tensor:
        """(…, B), the weighted log-density of the targets of each series in nats.

        Args:
            prediction: (…, B, T, d).
            batch: The series.
        """
        target = batch.target
        log_p = self.log_prob(prediction.where(target, 0.0), batch.y.where(target, 0.0))
        each = log_p.where(target, 0.0).sum(-2)
        if not self.balance:
            return each.sum(-1)
        counts = target.sum(1)
        share = counts.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True).clamp(min=1)
        return (each * share / counts.clamp(min=1)).sum(-1)


class Gaussian(Likelihood):
    """y ~ N(prediction, σ²), with a standard deviation for each feature.

    Args:
        noise_std: The standard deviation σ of an observation around its prediction.
        learn: Whether σ is learned per feature, starting from `noise_std`.
        balance: Whether all features of a series have equal weight, as in `Likelihood`.

    Raises:
        SettingError: `noise_std` is not positive.
    """

    log_noise: nn.Parameter

    def __init__(self, noise_std: float = 0.1, learn: bool = False, balance: bool = False) -> None:
        super().__init__(balance)
        of.check_range(self, "(0, inf)", noise_std=noise_std)
        self.noise_std, self.learn = noise_std, learn

    def build(self, dim: int) -> None:
        self.log_noise = nn.Parameter(torch.full((dim,), math.log(self.noise_std)), requires_grad=self.learn)

    def sample(self, prediction: Tensor) -> Tensor:
        return prediction + self.log_noise.exp() * torch.randn_like(prediction)

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        error = (y - prediction) * torch.exp(-self.log_noise)
        return -0.5 * error.square() - self.log_noise - 0.5 * math.log(2 * math.pi)
