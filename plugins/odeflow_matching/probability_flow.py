"""ProbabilityFlow: the ODE of a diffusion, made of a net that knows the noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Interpolant, along

Prediction = Literal["noise", "score", "v"]


class ProbabilityFlow(of.Modifier):
    """The field E[ẋ_t | x_t = y] of an interpolant x_t = a x₁ + b σ ε, from a net that predicts its noise.

    With x̂₀ = σε̂ and x̂₁ = (y − b x̂₀)/a it is a′ x̂₁ + b′ x̂₀; in terms of the score s = −ε̂/(bσ), with g² the squared
    diffusion, the (a′/a) y + ½g²s of the literature in the direction from noise to data. The net predicts

        "noise": ε̂;    "score": s;    "v": a ε̂ − b x̂₁, which is finite where a or b vanish; for a² + b² = 1 and σ = 1.

    Source: Song et al. (2021), "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 13;
    Salimans & Ho (2022), "Progressive Distillation for Fast Sampling of Diffusion Models", for v.

    Args:
        dynamics: The net, called with t and [y, c] as the field.
        interpolant: The interpolant, whose σ is its `spread`, without noise of its own.
        prediction: What the net predicts.
        t0: The time of the noise in the flow.
        t1: The time of the data in the flow.

    Raises:
        SettingError: The interpolant does not support the prediction.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        interpolant: Interpolant,
        prediction: Prediction = "noise",
        t0: float = 0.0,
        t1: float = 1.0,
    ) -> None:
        super().__init__(dynamics)
        name, ends = type(interpolant).__name__, interpolant.coefficients(torch.tensor([0.0, 0.5, 1.0]))
        if interpolant.noisy:
            raise of.SettingError(f"ProbabilityFlow: {name} has noise of its own; use VPSchedule, or FlowMatching")
        if prediction == "v" and not bool(((ends.a**2 + ends.b**2 - 1).abs() < 1e-3).all()):
            raise of.SettingError(f'ProbabilityFlow: "v" needs a² + b² = 1, which {name} is not; use VPSchedule')
        if prediction != "v" and not bool((ends.a > 1e-6).all() and (ends.b > 0).all()):
            raise of.SettingError(
                f"ProbabilityFlow: data have no share in {name} at its start, or noise none at its end, where "
                f'"{prediction}" determines no velocity; use VPSchedule, or FlowMatching'
            )
        self.interpolant, self.prediction, self.t0, self.t1 = interpolant, prediction, t0, t1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d, …) ↦ (B, d, …), in the flow's unit of time."""
        return self.parts(t, y).velocity

    def parts(self, t: Tensor, y: Tensor) -> "Parts":
        """The velocity and the predicted noise, as of `forward`."""
        predicted, duration = self.dynamics(t, y), self.t1 - self.t0
        at = self.interpolant.coefficients((t.to(y) - self.t0) / duration)
        a, b, da, db = (along(each, y) for each in (at.a, at.b, at.da, at.db))
        if self.prediction == "v":
            x0, x1 = b * y + a * predicted, a * y - b * predicted
        else:
            spread = self.interpolant.spread
            x0 = spread * predicted if self.prediction == "noise" else -b * spread**2 * predicted
            x1 = (y - b * x0) / a
        return Parts((da * x1 + db * x0) / duration, x0)


@dataclass(frozen=True)
class Parts:
    """What a net says about points on the way.

    Attributes:
        velocity: (B, *state), the field, in the flow's unit of time.
        x0: (B, *state), where the points are expected to have started, x̂₀.
    """

    velocity: Tensor
    x0: Tensor
