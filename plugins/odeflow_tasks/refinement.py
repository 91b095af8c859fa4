"""Refinement: Gauss–Newton steps from an amortised posterior to the Laplace approximation of the exact one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import odeflow as of

DAMPING = 1e-2
"""The initial λ of Levenberg–Marquardt, relative to the diagonal of the precision."""
LONGEST_STEP = 2.0
"""Maximum change of a latent variable in one step; a priori its standard deviation is 1."""


@dataclass(frozen=True)
class Refine(of.OptionGroup):
    """Options of the refinement of a posterior in evaluation and prediction: semi-amortised inference.

    The encoder's posterior only starts a search for the mode of p(z(t₀) | y), y the seen values, by Levenberg–Marquardt
    steps; the posterior is then the normal distribution at the mode with the inverse of the Gauss–Newton Hessian as its
    covariance (Laplace approximation). A step takes a solve of one more copies of each series than there are latent
    dimensions. Training is not refined.

    The likelihood must be right: if the model is off by more than its noise, the mode fits the seen values at the cost
    of others, and the encoder's posterior, which was trained on those, is better.

    Source: Kim, Wiseman, Miller, Sontag & Rush (2018), "Semi-Amortized Variational Autoencoders"; MacKay (1992), "A
        Practical Bayesian Framework for Backpropagation Networks", section 2, on Laplace approximations.

    Attributes:
        steps: Number of steps. 0: the posterior is the encoder's.
        starts: Number of starting points, of which the best end point counts: the encoder's mean, and samples of the
            prior. More than one helps if the mode is one of many, as of unknown frequencies.

    Raises:
        SettingError: An option is out of range.
    """

    steps: int = 0
    starts: int = 1

    def __post_init__(self) -> None:
        of.check_least(self, 0, steps=self.steps)
        of.check_least(self, 1, starts=self.starts)


def only_seen(batch: of.Series) -> of.Series:
    """The times at which values are seen, and these as targets, without covariates."""
    present = batch.seen.any(-1)
    order = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(present.sum(1).max()))]
    cells = order[..., None].expand(-1, -1, batch.y.shape[-1])
    seen = batch.seen.gather(1, cells)
    return of.Series(batch.t.gather(1, order), batch.y.gather(1, cells), seen, seen)


def laplace(residuals: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> MultivariateNormal:
    """The Laplace approximation of p(z | y) ∝ exp(−½‖r(z)‖² − ½‖z‖²) at its mode.

    Args:
        residuals: z (N, B, d) ↦ r (N, B, R), in standard deviations.
        start: (S, B, d), starting points of each of B problems.
        steps: Number of steps.
    """
    z, damping = start, torch.full_like(start[..., :1, None], DAMPING)
    cost, gradient, precision = _expanded(residuals, z)
    for _ in range(steps):
        diagonal = precision.diagonal(dim1=-2, dim2=-1)
        change = torch.linalg.solve(precision + damping * diagonal.diag_embed(), gradient)
        trial = z - change.clamp(-LONGEST_STEP, LONGEST_STEP)
        found = _expanded(residuals, trial)
        better = found[0] < cost  # False where it is not finite
        z = trial.where(better[..., None], z)
        cost = found[0].where(better, cost)
        gradient = found[1].where(better[..., None], gradient)
        precision = found[2].where(better[..., None, None], precision)
        damping = (damping * torch.where(better, 0.2, 4.0)[..., None, None]).clamp(1e-8, 1e8)
    best, each = cost.argmin(0), torch.arange(start.shape[1], device=start.device)
    root = torch.linalg.cholesky(precision[best, each].flip((-2, -1))).flip((-2, -1)).mT  # precision = rootᵀ root
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    covariance_root = torch.linalg.solve_triangular(root, eye, upper=False)
    return MultivariateNormal(z[best, each], scale_tril=covariance_root, validate_args=False)


def _expanded(residuals: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """½‖r‖² + ½‖z‖², (S, B), inf where it is not finite, its gradient (S, B, d) and Gauss–Newton Hessian (S, B, d, d).

    Args:
        residuals: As of `laplace`.
        z: (S, B, d).
    """
    size, starts = z.shape[-1], len(z)
    eye = torch.eye(size, dtype=z.dtype, device=z.device)
    step = torch.finfo(z.dtype).eps ** 0.4  # above round-off of a solve; all copies have the same steps
    r, *others = residuals(torch.cat([z[None], z + step * eye[:, None, None]]).flatten(0, 1)).split(starts)
    jacobian = (torch.stack(others) - r) / step
    cost = 0.5 * (r.square().sum(-1) + z.square().sum(-1))
    gradient = torch.einsum("isbr,sbr->sbi", jacobian, r) + z
    precision = torch.einsum("isbr,jsbr->sbij", jacobian, jacobian) + eye
    sound = cost.isfinite() & gradient.isfinite().all(-1) & precision.isfinite().all((-2, -1))
    return (
        cost.where(sound, torch.inf),
        gradient.where(sound[..., None], 0.0),
        precision.where(sound[..., None, None], eye),
    )
