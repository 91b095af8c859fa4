"""ReverseDiffusion: the stochastic equation with the marginals of a probability flow."""

from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import along
from odeflow_matching.probability_flow import ProbabilityFlow


class ReverseDiffusion(of.Stochastic):
    """dy = ((a′/a) y + g² s) dt + g dW with g² = 2σ² b ((a′/a) b − b′), from noise to data.

    At each time its distribution is that of the `ProbabilityFlow`, (a′/a) y + ½g² s, if the score s is exact. If it is
    not, noise corrects errors of earlier times, and steps must be smaller. A stochastic equation has no density here.

    A `corrector` c adds the Langevin dynamics ½cg² s dt + √c g dW, which leave that distribution as it is and draw
    towards it what has strayed: the limit of small steps of the predictor–corrector samplers, which take turns.

    Source: Anderson (1982), "Reverse-time diffusion equation models"; Song et al. (2021), "Score-Based Generative
    Modeling through Stochastic Differential Equations", eq. 6 and section 4.2; Karras et al. (2022), "Elucidating the
    Design Space of Diffusion-Based Generative Models", eq. 6.

    Args:
        dynamics: The probability flow, as `ScoreMatching` trains it.
        corrector: The rate c of the Langevin dynamics.

    Attributes:
        noise: Additive: g depends on the time alone.

    Raises:
        SettingError: The dynamics is no `ProbabilityFlow`, or the rate is negative.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> from odeflow_dynamics import MLP
        >>> from odeflow_matching import ProbabilityFlow, ReverseDiffusion, VPSchedule
        >>> from odeflow_sde import SRA1
        >>> field = ReverseDiffusion(ProbabilityFlow(MLP(2), VPSchedule()))
        >>> flow = of.Flow(field, SRA1(num_steps=50))
        >>> flow(torch.randn(5, 2)).shape
        torch.Size([5, 2])
    """

    noise = "additive"

    def __init__(self, dynamics: of.Dynamics, corrector: float = 0.0) -> None:
        super().__init__()
        of.check_least(self, 0, corrector=corrector)
        if not isinstance(dynamics, ProbabilityFlow):
            raise of.SettingError(
                f"ReverseDiffusion needs the ProbabilityFlow that ScoreMatching trains; got {type(dynamics).__name__}"
            )
        self.dynamics, self.corrector, self.width = dynamics, corrector, dynamics.width

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        parts = self.dynamics.parts(t, y)
        return parts.velocity - (1 + self.corrector) * along(self._rate(t, y), y) * parts.x0

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        b, spread = self.dynamics.interpolant.coefficients(self._time(t, y)).b, self.dynamics.interpolant.spread
        g = spread * (2 * (1 + self.corrector) * b * self._rate(t, y)).sqrt()
        return along(g, y).expand_as(y)

    def _rate(self, t: Tensor, y: Tensor) -> Tensor:
        """(), (a′/a) b − b′, in the flow's unit of time."""
        at = self.dynamics.interpolant.coefficients(self._time(t, y))
        return (at.da / at.a * at.b - at.db) / (self.dynamics.t1 - self.dynamics.t0)

    def _time(self, t: Tensor, y: Tensor) -> Tensor:
        return (t.to(y) - self.dynamics.t0) / (self.dynamics.t1 - self.dynamics.t0)
