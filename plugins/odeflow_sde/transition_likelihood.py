"""TransitionLikelihood: fits a stochastic equation to observed paths."""

import math
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_sde import marginal_figures
from odeflow_sde.euler_maruyama import EulerMaruyama
from odeflow_tasks import estimates
from odeflow_tasks.batch import floating, series
from odeflow_tasks.file_units import FileUnits

if TYPE_CHECKING:
    import polars as pl

SEED = 0
"""The noise of standard errors, whose likelihood must be a smooth function."""


class TransitionLikelihood(of.Task):
    """Learns a stochastic equation from paths that are observed without noise, by simulated maximum likelihood.

    Given a value, the next one has a density without closed form. It is the mean over paths between the two, in
    `substeps` steps of Euler–Maruyama, of the densities of their steps. The paths are drawn as bridges, which end at
    the next value, and weighted:

        p(x₁ | x₀) ≈ mean over bridges z of Π N(zₘ₊₁; zₘ + f h, g² h) / q(zₘ₊₁ | zₘ, x₁)

    which converges to the density as both numbers grow. With one substep it is Euler's approximation. The loss is the
    mean of −log p per transition, in nats. `Coefficient`s of the dynamics are logged as `param/<name>`, and a table at
    the end has their standard errors, from the second derivatives of the likelihood.

    The noise must be diagonal, or additive with one Brownian motion for each entry.

    Source: Pedersen (1995), Scand. J. Statist. 22, 55–71, for the density; Durham & Gallant (2002), "Numerical
    techniques for maximum likelihood estimation of continuous-time diffusion processes", J. Bus. Econ. Statist. 20,
    297–338, for the bridges.

    Args:
        dynamics: The stochastic equation, in the sense of Itô.
        substeps: Number of steps of Euler–Maruyama between two observations.
        samples: Number of bridges of each transition.

    Raises:
        SettingError: The dynamics are not such an equation, or a number is not positive.
    """

    def __init__(self, dynamics: of.Dynamics, substeps: int = 5, samples: int = 16) -> None:
        super().__init__()
        of.check_least(self, 1, substeps=substeps, samples=samples)
        if not isinstance(dynamics, of.Stochastic) or dynamics.noise not in ("diagonal", "additive"):
            raise of.SettingError(
                "TransitionLikelihood expects a stochastic equation with diagonal or additive noise; got "
                f"{type(dynamics).__name__}"
            )
        if dynamics.noise == "diagonal" and dynamics.calculus != "ito":
            raise of.SettingError(
                f"TransitionLikelihood expects an equation in the sense of Itô; {type(dynamics).__name__} is in that "
                "of Stratonovich"
            )
        self.dynamics, self.substeps, self.samples = dynamics, substeps, samples
        self.fitted: of.Series | None = None

    def log_prob(self, batch: of.Series, noise: int | None = None) -> Tensor:
        """(N,), the log-density of each transition between observed values, in nats.

        Args:
            batch: The paths.
            noise: Seed of the bridges; by default they are drawn anew.
        """
        batch = self._checked(batch)
        chosen = _transitions(batch)
        x0, x1 = batch.y[:, :-1][chosen], batch.y[:, 1:][chosen]
        t, h = batch.t[:, :-1][chosen], batch.t.diff(dim=1)[chosen] / self.substeps
        z, end, t, h = (each.repeat(self.samples, *(1,) * (each.dim() - 1)) for each in (x0, x1, t, h))
        generator = None if noise is None else torch.Generator(z.device).manual_seed(noise)
        log_p = self._bridged(z, end, t, h, generator)
        return log_p.view(self.samples, -1).logsumexp(0) - math.log(self.samples)

    def _bridged(self, z: Tensor, end: Tensor, t: Tensor, h: Tensor, generator: torch.Generator | None) -> Tensor:
        """(N,), the log-density of one bridge from z at t to `end`, over that of drawing it; h (N,) is the step."""
        log_p, size = z.new_zeros(len(z)), h[:, None]
        for left in range(self.substeps, 0, -1):
            mean, variance = z + self.dynamics(t, z) * size, self.dynamics.diffusion(t, z).square() * size
            following = end
            if left > 1:
                normal = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
                centre, spread = z + (end - z) / left, variance * ((left - 1) / left)
                following = centre + spread.sqrt() * normal
                log_p = log_p - _log_normal(following, centre, spread)
            log_p = log_p + _log_normal(following, mean, variance)
            z, t = following, t + h
        return log_p

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """The mean of −log p per transition; remembers the training batch for standard errors."""
        if stage == "train":
            self.fitted = batch
        return -self.log_prob(batch).mean()

    def on_train_epoch_end(self) -> None:
        """Logs the coefficients by name."""
        for name, coefficient in estimates.coefficients(self.dynamics).items():
            self.log(f"param/{name}", coefficient().detach(), sync_dist=True)

    def tables(self) -> dict[str, "pl.DataFrame"]:
        named = self.fitted is not None and estimates.coefficients(self.dynamics)
        return {"parameters": self.parameters_table()} if named else {}

    def parameters_table(self, batch: of.Series | None = None) -> "pl.DataFrame":
        """The coefficients with standard errors from the observed information.

        Args:
            batch: The paths; by default the last training batch.

        Raises:
            DataError: There is no batch yet.
        """
        batch = batch or self.fitted
        if batch is None:
            raise of.DataError("TransitionLikelihood: there is no training batch yet; train, or give one")
        paths = {each: path for path, each in self.named_modules()}
        found = [
            estimates.Estimate(name, each.unit, f"{paths[each]}.raw", 0, each.of, each.raw.detach().double())
            for name, each in estimates.coefficients(self.dynamics).items()
        ]
        raws = [each.raw for each in estimates.coefficients(self.dynamics).values()]
        with torch.enable_grad():
            first = torch.autograd.grad(-self.log_prob(batch, SEED).sum(), raws, create_graph=True)
            rows = [torch.stack(torch.autograd.grad(each, raws, retain_graph=True)) for each in first]
        information, slope = torch.stack(rows).double().cpu(), torch.stack(first).detach().double().cpu()
        covariance = torch.linalg.pinv((information + information.T) / 2, hermitian=True)
        return estimates.table(found, covariance, -covariance @ slope)

    def sample_count(self, batch: of.Series) -> int:
        """Number of transitions."""
        return int(_transitions(batch).sum())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, T, d), simulated paths from the first values, at the batch's times, which must begin together."""
        batch = self._checked(batch)
        if not _begin_together(batch):
            raise of.DataError(
                "TransitionLikelihood simulates paths that begin at one time: count the times of each from its first"
            )
        t, paths = self._simulated(batch, 1)
        return paths[torch.arange(len(paths), device=t.device)[:, None], torch.searchsorted(t, batch.t.contiguous())]

    def _simulated(self, batch: of.Series, copies: int) -> tuple[Tensor, Tensor]:
        """The times of all series (T,), and paths (copies · B, T, d) from the first values at the first of them."""
        t, gaps = batch.t.unique(), batch.t.diff(dim=1)
        solver = EulerMaruyama(step_size=float(gaps[gaps > 0].median()) / self.substeps)
        flow = of.Flow(self.dynamics, solver)
        with torch.no_grad():
            return t, flow.trajectory(batch.y[:, 0].repeat(copies, 1), t).y.movedim(0, 1)

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Quantiles of simulated paths and of the data over time, if all begin at one time."""
        batch = self._checked(batch)
        if not _begin_together(batch):
            return {}
        with torch.random.fork_rng([batch.t.device] if batch.t.is_cuda else []):
            torch.manual_seed(0)
            t, drawn = self._simulated(batch, 1 + marginal_figures.SAMPLES // len(batch.t))
        return {"marginals": marginal_figures.draw(batch, t, drawn, FileUnits.known(self.units, self._data))}

    def _checked(self, batch: Any) -> of.Series:
        name = type(self).__name__
        batch = series(name, batch, self.dynamics.width)
        y = floating(name, "seen values", batch.y.where(batch.seen, 0), self)
        return batch._replace(t=batch.t.to(y), y=y)


def _begin_together(batch: of.Series) -> bool:
    return bool((batch.t[:, 0] == batch.t[0, 0]).all())


def _transitions(batch: of.Series) -> Tensor:
    """(B, T − 1), bool: the intervals between two values that are both seen."""
    present = batch.seen.all(-1)
    return present[:, 1:] & present[:, :-1] & (batch.t.diff(dim=1) > 0)


def _log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(N,), the log-density of independent normal numbers (N, d)."""
    return -0.5 * ((x - mean).square() / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
