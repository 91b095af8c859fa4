"""Stiff problems of Hairer & Wanner (1996), "Solving Ordinary Differential Equations II", section IV.10."""

from functools import partial

import torch
from initial_value import D, InitialValueProblem
from torch import Tensor


def robertson(t: Tensor, y: Tensor) -> Tensor:
    """Three reactions, with rates from 0.04 to 3e7."""
    a, b, c = y.unbind(-1)
    slow, fast = -0.04 * a + 1e4 * b * c, 3e7 * b**2
    return torch.stack((slow, -slow - fast, fast), -1)


def van_der_pol(rate: float, t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's oscillator with μ = `rate`."""
    q, p = y.unbind(-1)
    return torch.stack((p, rate * (1 - q**2) * p - q), -1)


def hires(t: Tensor, y: Tensor) -> Tensor:
    """High irradiance responses, eight reactions."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    bound = 280 * f * h - 1.81 * g
    rates = (
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * (f + g),
        0.69 * d + 1.71 * e - 0.43 * f - 280 * f * h + 0.69 * g,
        bound,
        -bound,
    )
    return torch.stack(rates, -1)


def problems() -> list[InitialValueProblem]:
    """Robertson's, Van der Pol's with μ = 1000, and HIRES."""
    return [
        InitialValueProblem("Robertson", robertson, torch.tensor((1, 0, 0), dtype=D), 1e4, 1e-6),
        InitialValueProblem("Van der Pol, μ = 1000", partial(van_der_pol, 1e3), torch.tensor((2, 0), dtype=D), 1000.0),
        InitialValueProblem("HIRES", hires, torch.tensor((1, 0, 0, 0, 0, 0, 0, 0.0057), dtype=D), 321.8122, 1e-2),
    ]
