"""LatentODE: a generative model of time series with latent ODE dynamics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import odeflow as of
from odeflow_tasks import series_figures
from odeflow_tasks.covariates import count_of, filled, inputs_of
from odeflow_tasks.encoder import Encoder, RNNEncoder
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.interpolation import Hermite, Interpolation
from odeflow_tasks.latent_path import STENCIL, at_own_times
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout
from odeflow_tasks.refinement import Refine, laplace, only_seen
from odeflow_tasks.series_task import SeriesTask

SAMPLES_T = 100
"""Number of times of a sampled series."""
SAMPLES_C = 39
"""Number of posterior samples of which coverages are computed: the central 20 and 36 of 40 ranks are 50 and 90 %."""
SAMPLES_Q = 400
"""Number of posterior samples of which quantiles are computed."""


@dataclass(frozen=True)
class Bound(of.OptionGroup):
    """Options of the evidence lower bound that a `LatentODE` maximises.

    Attributes:
        samples: Number of samples of z(t₀) in the bound.
        kl_anneal: Annealing rate r of the KL divergence: in training its factor is 1 − rᵏ in step k. 0: no annealing.
        intensity_weight: Weight of the log-likelihood of the observation times: for each feature a Poisson process with
            rate λ(z(t)), from t₀ to the series' last time; there is a λ if the weight is positive.
        reconstruct: Whether seen values are targets of training, too, where they are none: with data that are
            extrapolated, the path is then that of the whole series.

    Raises:
        SettingError: An option is out of range.
    """

    samples: int = 1
    kl_anneal: float = 0.0
    intensity_weight: float = 0.0
    reconstruct: bool = False

    def __post_init__(self) -> None:
        of.check_least(self, 1, samples=self.samples)
        of.check_range(self, "[0, 1)", kl_anneal=self.kl_anneal)
        of.check_least(self, 0, intensity_weight=self.intensity_weight)


class LatentODE(SeriesTask):
    """The latent ODE, a variational autoencoder: z(t₀) ~ N(0, I), dz/dt = f(t, z), y(t) ~ N(decoder(z(t)), σ²).

    An encoder reads the seen values of a series towards t₀, so by default backward in time, and outputs a diagonal
    normal posterior q(z(t₀)), which `refine` improves. For forecasts t₀ may be the end of what is seen. The loss is the
    mean of −ELBO per series, in nats: E_q[Σ log p(y | z)] − KL(q ‖ p), where the sum is over the targets. With several
    posterior samples it is the tighter importance-weighted bound (Burda et al. 2016). The errors, also of classes and
    outcomes, are those of predictions from the mean of q.

    Covariates, if the series have any, are an external input u(t) of the field: dz/dt = f(t, [z, u(t)]). The encoder
    reads them beside the values. Predictions use all of them, also those at times at which nothing is seen.

    A latent path is defined at all times, so that series can be reconstructed, extrapolated and sampled anywhere, also
    before t₀. Each batch is one solve, regardless of the times of its series.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5; Rubanova et al. (2019), "Latent
    ODEs for Irregularly-Sampled Time Series".

    Args:
        dynamics: The field of the latent state; its width is the latent size, plus `num_covariates`.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the latent flow: t0 is the time of the posterior and the prior, t1 the last time of samples and
            figures; all other times are those of the data.
        dim: Length d of an observation; the command line takes it from the data.
        encoder: The encoder of the seen values; `RNNEncoder()` by default.
        readout: Decoder, from the latent state to the mean of an observation, likelihood, classifier and regressor.
        num_classes: Number of classes of the series; the command line takes it from the data.
        num_outputs: Number of outcomes of a series; the command line takes it from the data.
        masking: The values hidden from the encoder in training.
        bound: Options of the ELBO.
        refine: Refinement of the encoder's posterior on the seen values, in evaluation and prediction.
        covariates: How covariates are interpolated in time; `Hermite()` by default.
        num_covariates: Number of covariates of the series, static ones included; the command line takes it from the
            data.
        most_times: Maximum number of output times. A batch with more distinct times is solved at about this number of
            equidistant times and interpolated by polynomials of degree five.
        quantiles: Levels of the quantiles of observations, such as 0.05 and 0.95, in predictions: of 400 posterior
            samples, noise included. A prediction is then a mapping, of `mean`, from the mean of q, and `q05`, `q95`.

    Raises:
        SettingError: An option is out of range, or an option required by another one is missing.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        dim: int | None = None,
        encoder: Encoder | None = None,
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        bound: Bound = Bound(),
        refine: Refine = Refine(),
        covariates: Interpolation | None = None,
        num_covariates: int | None = None,
        most_times: int = 250,
        quantiles: Sequence[float] = (),
    ) -> None:
        whole = "the latent state is all that the dynamics carry; widen them"
        flow.refuse("LatentODE", steer="the times are those of the data", augment=whole, lift=whole)
        self.num_covariates, counted = count_of("LatentODE", dynamics, num_covariates)
        latent = dynamics.width - counted
        super().__init__(latent, dim, readout, num_classes, masking, num_outputs)
        if readout.target_weight != 1:
            raise of.SettingError(
                "LatentODE: its loss is a bound in which the targets have the weight 1; weight classes and "
                "outcomes by readout.class_weight and readout.outcome_weight, and leave target_weight out; got "
                f"{readout.target_weight:g}"
            )
        of.check_least(self, STENCIL, most_times=most_times)
        of.check_range(self, "(0, 1)", quantiles=quantiles)
        self.quantiles = tuple(quantiles)
        self.encoder = encoder or RNNEncoder()
        self.encoder.build(self.dim, self.num_covariates)
        self.posterior_head = nn.Linear(self.encoder.width, 2 * latent)
        self.intensity = nn.Linear(latent, self.dim) if bound.intensity_weight else None
        field = dynamics if self.intensity is None else _Counting(dynamics, self.intensity, latent, self.dim)
        counts = self.dim if bound.intensity_weight else 0
        self.flow = of.Flow(field, solver, gradient, replace(flow, augment=counts))
        self.latent, self.bound, self.refine, self.most_times = latent, bound, refine, most_times
        self.interpolation = covariates or Hermite()

    # Inference

    def posterior(self, batch: of.Series) -> MultivariateNormal:
        """The posterior q(z(t₀)) of each series, (B, latent), from its seen values; refined as `refine` says."""
        batch = self.checked(batch)
        q = self.amortised(batch)
        return self._refined(q, batch) if self.refine.steps else q

    def amortised(self, batch: of.Series) -> MultivariateNormal:
        """The encoder's posterior, without refinement."""
        batch = self.checked(batch)
        code = self.encoder(filled(batch, self.interpolation), self.flow.options.t0)
        mean, spread = self.posterior_head(code).chunk(2, dim=-1)
        return _normal(mean, F.softplus(spread) + 1e-6)

    @torch.no_grad()
    def _refined(self, q: MultivariateNormal, batch: of.Series) -> MultivariateNormal:
        """The Laplace approximation of the exact posterior, found from q. It carries no gradient."""
        seen = only_seen(batch)

        def residuals(z0: Tensor) -> Tensor:
            return self.likelihood.residuals(self.decode(self.path(z0, seen.t, batch)), seen).flatten(-2)

        generator = torch.Generator().manual_seed(0)  # the same for each series and in each evaluation
        others = (
            torch.randn(self.refine.starts - 1, 1, self.latent, generator=generator)
            .to(q.mean)
            .expand(-1, *q.mean.shape)
        )
        return laplace(residuals, torch.cat([q.mean[None], others]), self.refine.steps)

    def elbo(self, batch: of.Series, samples: int | None = None) -> Tensor:
        """(B,), the evidence lower bound of each series in nats; with several samples the importance-weighted one.

        Args:
            batch: The series.
            samples: Number of posterior samples; by default that of training.
        """
        batch, q = self.checked(batch), self.posterior(batch)
        return self._bound(self._drawn(q, batch, samples or self.bound.samples), q, batch, 1.0)

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """−ELBO plus weighted losses of times and whole series; logs the KL divergence, in evaluation the errors."""
        batch, training = self.checked(batch), stage == "train"
        if training:
            batch = self.masking(batch, self.current_epoch)
            if self.bound.reconstruct:
                batch = batch._replace(target=batch.target | batch.seen)
        q = self.amortised(batch) if training else self.posterior(batch)
        factor = 1 - self.bound.kl_anneal ** (self.global_step + 1) if training else 1.0
        drawn = self._drawn(q, batch, self.bound.samples)
        read = drawn.z0 if training else q.mean[None]
        loss = -self._bound(drawn, q, batch, factor).mean() + self.whole_loss(read, batch, stage)
        self.log_mean(f"{stage}/kl", _divergence(q).mean(), len(batch.t))
        if training:
            return loss - self.likelihood.unseen_log_prob(drawn.prediction, batch)
        self.note_errors(self._corrected(self.decode(self.path(q.mean, batch.t, batch)), batch), batch, stage)
        self.note_coverage(self.decode(self.path(q.sample(torch.Size([SAMPLES_C])), batch.t, batch)), batch, stage)
        return loss

    def _drawn(self, q: MultivariateNormal, batch: of.Series, samples: int) -> "_Drawn":
        z0 = q.rsample(torch.Size([samples]))
        states = self._states(z0, batch.t, batch)
        return _Drawn(z0, states, self.decode(states[..., : self.latent]))

    def _bound(self, drawn: "_Drawn", q: MultivariateNormal, batch: of.Series, factor: float) -> Tensor:
        """(B,), the bound with the KL divergence scaled by a factor."""
        log_p = self.log_likelihood(drawn.prediction, batch)
        if self.intensity is not None:
            log_p = log_p + self.bound.intensity_weight * self._log_intensity(self.intensity, drawn.states, batch)
        if len(drawn.z0) == 1:
            return log_p[0] - factor * _divergence(q)
        log_ratio = Normal(0.0, 1.0).log_prob(drawn.z0).sum(-1) - q.log_prob(drawn.z0)
        return (log_p + factor * log_ratio).logsumexp(0) - math.log(len(drawn.z0))

    def _corrected(self, prediction: Tensor, batch: of.Series) -> Tensor:
        """(…, B, T, d), the predictions given the seen values, if the likelihood's residuals depend on these."""
        predictive = self.likelihood.predictive(prediction, batch)
        return prediction if predictive is None else predictive.mean

    def _log_intensity(self, intensity: nn.Module, states: Tensor, batch: of.Series) -> Tensor:
        """(S, B), log p of the targets' times: Σ log λ(t) − ∫ λ dt, summed over features."""
        z, counts = states.split([self.latent, self.dim], dim=-1)
        log_rate = F.softplus(intensity(z)).log().where(batch.target, 0.0)
        window = counts[..., -1, :] - counts[..., 0, :].clamp(max=0)  # from the earlier of t0 and the start
        return log_rate.sum((-1, -2)) - window.sum(-1)

    # Series

    def path(self, z0: Tensor, t: Tensor, batch: of.Series | None = None) -> Tensor:
        """The latent path, (…, B, T, latent).

        Args:
            z0: (…, B, latent), at t₀.
            t: (B, T), in any order, before or after t₀; or (T,), common times.
            batch: The series whose covariates are the input of the field, B of them or a single one. Required if there
                are covariates.

        Raises:
            DataError: The series do not have `num_covariates` covariates.
        """
        return self._states(z0, t, batch)[..., : self.latent]

    def decode(self, z: Tensor) -> Tensor:
        """(…, latent) ↦ (…, d), the mean of an observation."""
        return self.decoder(z)

    def predict(self, batch: of.Series) -> Tensor:
        return self.reconstruct(batch)

    def whole_state(self, batch: of.Series) -> Tensor:
        """(B, latent), the mean of q."""
        return self.posterior(batch).mean

    def predict_values(self, batch: of.Series) -> dict[str, Tensor]:
        """The predictions and those of `quantiles`, by name."""
        found = super().predict_values(batch)
        if not self.quantiles:
            return found
        q = self.posterior(batch)
        paths = self.decode(self.path(q.sample(torch.Size([SAMPLES_Q])), batch.t, batch))
        predictive = self.likelihood.predictive(paths, batch)
        if predictive is None:
            raise of.SettingError(
                f"quantiles need a predictive distribution, which {type(self.likelihood).__name__} lacks; use Gaussian"
            )
        samples = predictive.sample().sort(dim=0).values
        for level in self.quantiles:
            place = level * (SAMPLES_Q - 1)
            low = int(place)
            found[_quantile_name(level)] = torch.lerp(samples[low], samples[low + 1], place - low)
        return found

    def reconstruct(self, batch: of.Series, t: Tensor | None = None, samples: int | None = None) -> Tensor:
        """Reconstructions of the series at any times.

        Args:
            batch: The series; only seen values are used.
            t: (B, T) or (T,), times inside or outside the observed range; by default the batch's.
            samples: Number S of posterior samples; by default the posterior mean is used.

        Returns:
            (B, T, d), or (S, B, T, d).
        """
        batch, q = self.checked(batch), self.posterior(batch)
        z0 = q.mean if samples is None else q.sample(torch.Size([samples]))
        if t is None:
            return self._corrected(self.decode(self.path(z0, batch.t, batch)), batch)
        both = _followed(only_seen(batch), t)
        return self._corrected(self.decode(self.path(z0, both.t, batch)), both)[..., -t.shape[-1] :, :]

    def extrapolate(
        self, batch: of.Series, until: float, count: int = SAMPLES_T, samples: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Extrapolations of the series from t₀ to a distant time.

        Args:
            batch: The series; only seen values are used.
            until: The last time, after or before t₀.
            count: Number of equidistant times.
            samples: As in `reconstruct`.

        Returns:
            The times (count,) from t₀ to `until`, and the series at them, as of `reconstruct`.
        """
        t = torch.linspace(self.flow.options.t0, until, count, dtype=batch.t.dtype, device=batch.t.device)
        return t, self.reconstruct(batch, t, samples)

    def sample_at(self, t: Tensor, count: int, batch: of.Series | None = None) -> Tensor:
        """Samples of series from the prior, without observation noise.

        Args:
            t: (T,), any times, before or after t₀.
            count: Number of series.
            batch: `count` series, or a single one, whose covariates the samples have. Required if there are covariates.

        Returns:
            (count, T, d).
        """
        z0 = torch.randn(count, self.latent, dtype=next(self.parameters()).dtype, device=self.device)
        return self.decode(self.path(z0, t, batch))

    def sample(self, count: int, series: of.Series | None = None) -> dict[str, Tensor]:
        """Samples of series from the prior, without observation noise.

        Args:
            count: Number of samples.
            series: B series whose covariates and times the samples have. Required if there are covariates.

        Returns:
            "x", (count, 100, d), at the times "t", (count, 100), equidistant from t₀ to t₁; under given series
            (count, B, T, d) and (count, B, T), at their times.

        Raises:
            DataError: The model has covariates, whose values are unknown.
        """
        if series is None:
            times = torch.linspace(self.flow.options.t0, self.flow.options.t1, SAMPLES_T, device=self.device)
            return {"x": self.sample_at(times, count), "t": times.expand(count, -1)}
        series = self.checked(series)
        z0 = torch.randn(count, len(series.t), self.latent, dtype=series.y.dtype, device=self.device)
        return {"x": self.decode(self.path(z0, series.t, series)), "t": series.t.expand(count, -1, -1)}

    def _states(self, z0: Tensor, t: Tensor, batch: of.Series | None) -> Tensor:
        """(…, B, T, latent + d), the latent path and the expected numbers of events since t₀."""
        rows = z0.reshape(-1, self.latent)
        inputs = self._inputs(len(rows), batch)
        times = t.expand(*z0.shape[:-1], t.shape[-1]).reshape(len(rows), -1)
        states = at_own_times(self.flow, rows, times, self.most_times, inputs)
        return states.view(*z0.shape[:-1], *states.shape[1:])

    def _inputs(self, count: int, batch: of.Series | None) -> of.Path | None:
        """The covariates of a batch as the input of `count` latent paths, several for each series, or a single one."""
        if not self.num_covariates:
            return None
        if batch is None:
            raise of.DataError(
                f"LatentODE(num_covariates={self.num_covariates}) needs the covariates that drive its paths: give the "
                "series that have them, as path(z0, t, batch), sample_at(t, count, batch) or sample(count, series)"
            )
        batch = self.checked(batch)
        return inputs_of(batch, self.interpolation, 1 if len(batch.t) == 1 else count // len(batch.t))

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Reconstruction and extrapolation with posterior bands, latent paths, and samples from the prior."""
        batch = series_figures.few(self.checked(batch))
        shown = series_figures.few(batch, series_figures.MOST_SERIES)
        t, inside = series_figures.times(batch, self.flow.options.t0)
        with torch.random.fork_rng([t.device] if t.is_cuda else []):  # figures must not affect the run
            torch.manual_seed(0)
            mean, samples = self.reconstruct(shown, t), self.reconstruct(shown, t, series_figures.SAMPLES)
            path, drawn = (
                self.path(self.posterior(batch).mean, inside, batch),
                self.sample_at(inside, series_figures.MOST_PATHS, series_figures.few(batch, 1)),
            )
        curve = series_figures.Curve("posterior mean", t.expand(len(shown.t), -1), mean, samples)
        file = FileUnits.known(self.units, self._data)
        return series_figures.draw(shown, [curve], file, self._period) | {
            "latent": series_figures.draw_paths(inside, path, file),
            "samples": series_figures.draw_prior(batch, inside, drawn, file),
        }


@dataclass(frozen=True)
class _Drawn:
    """Samples of the posterior.

    Attributes:
        z0: (S, B, latent).
        states: (S, B, T, latent + d), as of `_states`.
        prediction: (S, B, T, d).
    """

    z0: Tensor
    states: Tensor
    prediction: Tensor


class _Counting(nn.Module):
    """The field of a latent state and its integrated rates with an input: d/dt (z, Λ) = (f(t, [z, u]), λ(z)).

    Args:
        dynamics: The field f.
        intensity: z ↦ the rates before the softplus.
        latent: Length of z.
        rates: Length of Λ.
    """

    def __init__(self, dynamics: of.Dynamics, intensity: nn.Module, latent: int, rates: int) -> None:
        super().__init__()
        self.dynamics, self.intensity, self.latent, self.rates = dynamics, intensity, latent, rates

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        z, u = state[:, : self.latent], state[:, self.latent + self.rates :]
        change = self.dynamics(t, torch.cat([z, u], dim=1))[:, : self.latent]
        return torch.cat([change, F.softplus(self.intensity(z))], dim=1)


def _followed(batch: of.Series, t: Tensor) -> of.Series:
    """The series followed by times, (B, T) or (T,), at which nothing is seen."""
    size = len(batch.t), t.shape[-1], batch.y.shape[-1]
    nothing = batch.seen.new_zeros(size)
    return of.Series(
        torch.cat([batch.t, t.to(batch.t).expand(size[:2])], dim=1),
        torch.cat([batch.y, batch.y.new_zeros(size)], dim=1),
        torch.cat([batch.seen, nothing], dim=1),
        torch.cat([batch.target, nothing], dim=1),
    )


def _quantile_name(level: float) -> str:
    """A level in percent with two digits before the point, which is left out: q05, q50, q975."""
    percent = f"{100 * level:g}"
    return "q" + ("0" if level < 0.1 else "") + percent.replace(".", "")


def _normal(mean: Tensor, std: Tensor) -> MultivariateNormal:
    """The diagonal normal distribution of vectors (B, latent)."""
    return MultivariateNormal(mean, scale_tril=std.diag_embed(), validate_args=False)


def _divergence(q: MultivariateNormal) -> Tensor:
    """(B,), KL(q ‖ N(0, I)) in nats."""
    return kl_divergence(q, _normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)))
