"""Trigonometric: a quarter of a circle from the source to the data."""

import math

import torch
from torch import Tensor

from odeflow_matching.interpolant import Coefficients, Interpolant


class Trigonometric(Interpolant):
    """x_t = sin(πt/2) x₁ + cos(πt/2) x₀, which keeps the variance if that of source and data are the same.

    Source: Albergo & Vanden-Eijnden (2023), "Building Normalizing Flows with Stochastic Interpolants", eq. 5.
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        rate, zero = math.pi / 2, torch.zeros_like(t)
        a, b = (rate * t).sin(), (rate * t).cos()
        return Coefficients(a, b, zero, rate * b, -rate * a, zero)
