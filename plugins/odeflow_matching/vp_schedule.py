"""VPSchedule: the variance-preserving diffusion, from noise to data."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Coefficients, Interpolant


class VPSchedule(Interpolant):
    """x_t = α x₁ + √(1 − α²) x₀ with log α = −s²(β₁ − β₀)/4 − sβ₀/2, at the diffusion's time s = 1 − (1 − ε) t.

    The source is standard normal. At the data's end, s = ε, a noise of √(εβ₀) is left: the rate of the noise's
    amplitude is infinite at s = 0. At the other end, α = 0.0066 by default, so that the source is nearly that of
    the diffusion.

    Source: Song et al. (2021), "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 33.

    Args:
        beta_min: β₀, the rate of the diffusion at the data, in 1/(unit of its time).
        beta_max: β₁, the rate at the noise.
        end: ε, the diffusion's time at which the flow ends.

    Raises:
        SettingError: The rates are not 0 < β₀ <= β₁, or ε is not in (0, 1).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, end: float = 1e-3) -> None:
        of.check_range(self, "(0, 1)", end=end)
        if not 0 < beta_min <= beta_max:
            raise of.SettingError(f"VPSchedule: it needs 0 < beta_min <= beta_max; got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max, self.end = beta_min, beta_max, end

    def coefficients(self, t: Tensor) -> Coefficients:
        s, rise = 1 - (1 - self.end) * t, self.beta_max - self.beta_min
        log_a = -s.square() * rise / 4 - s * self.beta_min / 2
        a, b = log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()
        da = a * (1 - self.end) * (s * rise + self.beta_min) / 2
        zero = torch.zeros_like(t)
        return Coefficients(a, b, zero, da, -a * da / b, zero)
