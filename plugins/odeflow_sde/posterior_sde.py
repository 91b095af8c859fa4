"""The two equations of a latent SDE: posterior, with its divergence from the prior, and prior."""

import torch
from torch import Tensor, nn

import odeflow as of


class PosteriorSDE(nn.Module, of.StochasticField):
    """The posterior z with the divergence from the prior as a state without noise.

        dz = f(t, [z, u(t)]) dt + g(t, z) dW,        d KL/dt = ½ |(f − h)/g|²

    where dz = h(t, z) dt + g(t, z) dW is the prior. The state is [z, KL], followed by the context u.

    Source: Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations", section 5.

    Args:
        drift: f, of the width of [z, u].
        prior: h, of the width of z.
        spread: g, of the width of z; not 0.
        calculus: The sense of both equations.

    Raises:
        SettingError: The widths do not fit.
    """

    shares = True

    def __init__(self, drift: of.Dynamics, prior: of.Dynamics, spread: of.Dynamics, calculus: of.Calculus) -> None:
        super().__init__()
        latent = prior.width
        if spread.width != latent or drift.width < latent:
            raise of.SettingError(
                f"LatentSDE: the diffusion must have the prior's width {latent}, the posterior at least this; got "
                f"{spread.width} and {drift.width}"
            )
        self.drift, self.prior, self.spread, self.calculus = drift, prior, spread, calculus
        self.latent = latent

    def both(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z, u = y[:, : self.latent], y[:, self.latent + 1 :]
        g = self.spread(t, z)
        f = self.drift(t, torch.cat([z, u], dim=1))[:, : self.latent]
        rate = 0.5 * ((f - self.prior(t, z)) / g).square().sum(1, keepdim=True)
        return _followed(torch.cat([f, rate], dim=1), y), _followed(g, y)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.both(t, y)[0]

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return _followed(self.spread(t, y[:, : self.latent]), y)


class PriorSDE(nn.Module, of.StochasticField):
    """The prior of a posterior, which owns the parameters.

    Args:
        posterior: The posterior.
    """

    def __init__(self, posterior: PosteriorSDE) -> None:
        super().__init__()
        self.parts, self.calculus = (posterior,), posterior.calculus

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.parts[0].prior(t, y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.parts[0].spread(t, y)


def _followed(value: Tensor, like: Tensor) -> Tensor:
    """The value, followed by zeros up to the width of another tensor."""
    return torch.nn.functional.pad(value, (0, like.shape[1] - value.shape[1]))
