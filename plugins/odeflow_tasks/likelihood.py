"""Likelihoods: distributions of the targets of a series around their predictions."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Normal

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

    def predictive(self, prediction: Tensor, batch: of.Series) -> Normal | None:
        """The distribution (…, B, T, d) of each value given the seen ones; None if not implemented, as by default.

        Args:
            prediction: (…, B, T, d), the predictions without regard to the seen values.
            batch: The series, with times in any order.
        """
        return None

    def unseen_log_prob(self, prediction: Tensor, batch: of.Series) -> Tensor | float:
        """Mean log-density of the unseen targets given the seen values, for the parameters that only `predictive` has.

        It is maximised besides the log-density of all targets, and has no gradient with respect to the prediction. 0 by
        default: there are no such parameters.

        Args:
            prediction: (…, B, T, d).
            batch: The series.
        """
        return 0.0

    def forward(self, prediction: Tensor, batch: of.Series) -> Tensor:
        """(…, B), the weighted log-density of the targets of each series in nats.

        Args:
            prediction: (…, B, T, d).
            batch: The series.
        """
        target = batch.target
        log_p = self.log_prob(prediction.where(target, 0.0), batch.y.where(target, 0.0))
        return (log_p.where(target, 0.0) * self.weights(target)).sum((-2, -1))

    def residuals(self, prediction: Tensor, batch: of.Series) -> Tensor:
        """(…, B, T, d), residuals r of the targets, 0 elsewhere: up to a constant, log p is −½‖r‖².

        Args:
            prediction: (…, B, T, d).
            batch: The series.

        Raises:
            SettingError: The likelihood is not a Gaussian, as by default.
        """
        raise of.SettingError(f"{type(self).__name__} has no residuals; use Gaussian, or refine.steps 0")

    def weights(self, target: Tensor) -> Tensor:
        """(B, 1, d), the weight of the targets of each feature."""
        counts = target.sum(1, keepdim=True)
        if not self.balance:
            return torch.ones_like(counts)
        share = counts.sum(2, keepdim=True) / (counts > 0).sum(2, keepdim=True).clamp(min=1)
        return share / counts.clamp(min=1)


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

    def predictive(self, prediction: Tensor, batch: of.Series) -> Normal:
        return Normal(prediction, self.log_noise.exp().expand_as(prediction), validate_args=False)

    def residuals(self, prediction: Tensor, batch: of.Series) -> Tensor:
        error = (batch.y - prediction).where(batch.target, 0.0) * torch.exp(-self.log_noise)
        return error * self.weights(batch.target).sqrt()

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        error = (y - prediction) * torch.exp(-self.log_noise)
        return -0.5 * error.square() - self.log_noise - 0.5 * math.log(2 * math.pi)
