"""LatentSDE: a generative model of time series with latent SDE dynamics."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torchmetrics import MeanMetric

import odeflow as of
from odeflow_sde import marginal_figures
from odeflow_sde.ahead import Ahead
from odeflow_sde.entrywise import Entrywise
from odeflow_sde.path_bound import PathBound
from odeflow_sde.posterior_sde import PosteriorSDE, PriorSDE
from odeflow_tasks import series_figures
from odeflow_tasks.encoder import Encoder
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.latent_path import at_own_times
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout
from odeflow_tasks.series_task import SeriesTask

SAMPLES_T = 100
"""Number of times of a sampled series."""
EVERY_TIME = 1 << 30
"""No bound of the number of output times: a stochastic path is not interpolated."""


class LatentSDE(SeriesTask):
    """The latent SDE: z(t₀) ~ N(m, s²), dz = h(t, z) dt + g(t, z) dW, y(t) ~ N(decoder(z(t)), σ²).

    The posterior has its own drift f(t, [z, u(t)]) and the same diffusion, so that the divergence of the two laws of
    paths is ½ ∫ |(f − h)/g|² dt, a state without noise. The context u(t) is what a GRU read of the series backward in
    time, from its end to the next observation after t; with an `encoder` it is a constant of each series instead, for
    forecasts. The loss is the mean of −ELBO per series, in nats.

    The metrics are those of `SeriesTask`, for the mean of posterior paths, and

    - `sample_mse`: the mean square error of a single posterior path, averaged over paths; `sample_mse_interval`: half
      the width of the 95 % interval of this mean by Student's t, over paths;
    - `kl`: the divergence, of z(t₀) and of the paths.

    Source: Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations", section 5.

    Args:
        dynamics: The prior drift h; its width is the latent size.
        posterior: The posterior drift f; its width is the latent size plus that of the context.
        solver: The solver, such as `EulerMaruyama(step_size=0.01)`; a step also ends at every time of the data.
        diffusion: The diffusion g, positive, of the latent size; `Entrywise` by default.
        calculus: The sense of both equations.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the latent flow: t0 is the time of z(t₀), before or at the first time of every series; t1 the
            last time of samples.
        dim: Length d of an observation; the command line takes it from the data.
        encoder: The encoder of the context, if it is constant in time. By default a GRU backward in time.
        hidden: Width of this GRU.
        readout: Decoder, likelihood, and classifier and regressor, which read z(t₀).
        num_classes: Number of classes of the series; the command line takes it from the data.
        num_outputs: Number of outcomes of a series; the command line takes it from the data.
        masking: The values hidden from the encoder in training.
        bound: Options of the ELBO.

    Raises:
        SettingError: An option is out of range, or the widths do not fit.
    """

    num_covariates = 0

    def __init__(
        self,
        dynamics: of.Dynamics,
        posterior: of.Dynamics,
        solver: of.Solver,
        diffusion: of.Dynamics | None = None,
        calculus: Literal["ito", "stratonovich"] = "ito",
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        dim: int | None = None,
        encoder: Encoder | None = None,
        hidden: int = 100,
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        bound: PathBound = PathBound(),
    ) -> None:
        whole = "the latent state is all that the dynamics carry; widen them"
        flow.refuse("LatentSDE", steer="the times are those of the data", augment=whole, lift=whole)
        super().__init__(dynamics.width, dim, readout, num_classes, masking, num_outputs)
        of.check_least(self, 1, hidden=hidden)
        self.latent, self.context = dynamics.width, posterior.width - dynamics.width
        field = PosteriorSDE(posterior, dynamics, diffusion or Entrywise(self.latent), calculus)
        self.flow = of.Flow(field, solver, gradient, flow)
        self.prior_flow = of.Flow(PriorSDE(field), solver, None, of.FlowOptions(flow.t0, flow.t1))
        self.encoder = encoder
        if encoder is None:
            self.reader = nn.GRU(2 * self.dim + 1, hidden, batch_first=True)
        else:
            encoder.build(self.dim, 0)
        width = hidden if encoder is None else encoder.width
        self.start_head = nn.Linear(width, 2 * self.latent)
        self.context_head = nn.Linear(width, self.context) if self.context else None
        self.prior_mean = nn.Parameter(torch.zeros(self.latent))
        self.prior_log_std = nn.Parameter(torch.zeros(self.latent))
        self.bound = bound
        for metrics in self.metrics.children():
            assert isinstance(metrics, nn.ModuleDict)
            metrics.update({name: MeanMetric() for name in ("sample_mse", "sample_mse_interval")})

    # Inference

    def inferred(self, batch: of.Series) -> "Inferred":
        """The posterior of z(t₀) and the context of the paths, from the seen values."""
        if self.encoder is not None:
            code = self.encoder(batch, self.flow.options.t0)
            rows = code[:, None]
        else:
            rows = self._read(batch)
            code = rows[:, 0]
        mean, spread = self.start_head(code).chunk(2, dim=-1)
        start = Normal(mean, F.softplus(spread) + 1e-4, validate_args=False)
        if self.context_head is None:
            return Inferred(start, None)
        values = self.context_head(rows)
        times = batch.t if self.encoder is None else batch.t[:, :1]
        return Inferred(start, Ahead(times, values))

    def _read(self, batch: of.Series) -> Tensor:
        """(B, T, hidden): the state of the GRU backward in time after reading each time."""
        gaps = batch.t.diff(dim=1, append=batch.t[:, -1:])[..., None]
        steps = torch.cat([batch.y.where(batch.seen, 0.0), batch.seen.to(batch.y), gaps], dim=-1)
        return self.reader(steps.flip(1))[0].flip(1)

    def paths(self, batch: of.Series, samples: int, t: Tensor | None = None) -> "Paths":
        """Posterior paths of the series.

        Args:
            batch: The series; only seen values are used.
            samples: Number S of paths of each.
            t: (T,), common times from t₀ on; by default the batch's.
        """
        batch = self.checked(batch)
        found = self.inferred(batch)
        z0 = found.start.rsample(torch.Size([samples])).flatten(0, 1)
        times = batch.t if t is None else t.to(batch.t).expand(len(batch.t), -1)
        inputs = None if found.context is None else of.paths.Repeated(found.context, samples)
        start = torch.cat([z0, z0.new_zeros(len(z0), 1)], dim=1)
        states = at_own_times(self.flow, start, times.repeat(samples, 1), EVERY_TIME, inputs)
        states = states.unflatten(0, (samples, len(batch.t)))
        divergence = kl_divergence(found.start, self._prior()).sum(-1) + states[..., -1, -1]
        return Paths(states[..., :-1], divergence)

    def _prior(self) -> Normal:
        """The prior of z(t₀)."""
        return Normal(self.prior_mean, self.prior_log_std.exp(), validate_args=False)

    def elbo(self, batch: of.Series, samples: int | None = None) -> Tensor:
        """(B,), an estimate of the evidence lower bound of each series in nats.

        Args:
            batch: The series.
            samples: Number of posterior paths; by default that of training.
        """
        batch = self.checked(batch)
        drawn = self.paths(batch, samples or self.bound.samples)
        return (self.log_likelihood(self.decode(drawn.z), batch) - drawn.divergence).mean(0)

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """−ELBO plus the weighted losses of whole series; logs the divergence, in evaluation the errors."""
        batch, training = self.checked(batch), stage == "train"
        if training:
            batch = self.masking(batch, self.current_epoch)
        drawn = self.paths(batch, self.bound.samples if training else self.bound.evaluated)
        predictions = self.decode(drawn.z)
        factor = self.bound.factor(self.global_step) if training else 1.0
        bound = self.log_likelihood(predictions, batch) - factor * drawn.divergence
        self.log_mean(f"{stage}/kl", drawn.divergence.mean(), len(batch.t))
        if not training:
            mean = predictions.mean(0)
            self.note_errors(mean, batch, stage)
            self.note_coverage(predictions, batch, stage)
            self._note_sample_errors(predictions, batch, stage)
        read = drawn.z[:, :, 0] if training else self.whole_state(batch)[None]
        return self.whole_loss(read, batch, stage) - bound.mean()

    def _note_sample_errors(self, predictions: Tensor, batch: of.Series, stage: str) -> None:
        if not bool(batch.target.any()):
            return
        errors = (predictions - batch.y)[:, batch.target].square().mean(1)
        weight = batch.target.sum()
        self._note(stage, "sample_mse", errors.mean(), weight)
        self._note(stage, "sample_mse_interval", _half_width(errors), weight)

    # Series

    def decode(self, z: Tensor) -> Tensor:
        """(…, latent) ↦ (…, d), the mean of an observation."""
        return self.decoder(z)

    def whole_state(self, batch: of.Series) -> Tensor:
        """(B, latent), the mean of the posterior of z(t₀)."""
        return self.inferred(batch).start.mean

    def predict(self, batch: of.Series) -> Tensor:
        return self.decode(self.paths(batch, self.bound.evaluated).z).mean(0)

    def sample_at(self, t: Tensor, count: int) -> Tensor:
        """Samples of series from the prior, without observation noise.

        Args:
            t: (T,), ascending times, not before t₀.
            count: Number of series.

        Returns:
            (count, T, d).
        """
        z0 = self._prior().sample(torch.Size([count]))
        path = at_own_times(self.prior_flow, z0, t.to(z0).expand(count, -1), EVERY_TIME)
        self.prior_flow.stats = None  # statistics are those of training and inference
        return self.decode(path)

    def sample(self, count: int) -> dict[str, Tensor]:
        """Samples "x" of the prior, (count, 100, d), without noise, at times "t", (count, 100), from t₀ to t₁."""
        t = torch.linspace(self.flow.options.t0, self.flow.options.t1, SAMPLES_T, device=self.device)
        return {"x": self.sample_at(t, count), "t": t.expand(count, -1)}

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Posterior paths with bands, samples of the prior, and the marginals of prior and data over time."""
        batch = self.checked(batch)
        few = series_figures.few(batch)
        shown = series_figures.few(few, series_figures.MOST_SERIES)
        t = torch.linspace(self.flow.options.t0, float(shown.t.max()), 4 * SAMPLES_T, device=batch.t.device)
        file = FileUnits.known(self.units, self._data)
        with torch.random.fork_rng([t.device] if t.is_cuda else []):  # figures must not affect the run
            torch.manual_seed(0)
            samples = self.decode(self.paths(shown, series_figures.SAMPLES, t).z)
            drawn = self.sample_at(t, marginal_figures.SAMPLES)
        curve = series_figures.Curve("posterior mean", t.expand(len(shown.t), -1), samples.mean(0), samples)
        return series_figures.draw(shown, [curve], file, self._period) | {
            "samples": series_figures.draw_prior(few, t, drawn[: series_figures.MOST_PATHS], file),
            "marginals": marginal_figures.draw(batch, t, drawn, file),
        }


@dataclass(frozen=True)
class Inferred:
    """What the encoder says of a batch.

    Attributes:
        start: (B, latent), the posterior of z(t₀).
        context: The context u(t) of the paths, if any.
    """

    start: Normal
    context: Ahead | None


@dataclass(frozen=True)
class Paths:
    """Posterior paths.

    Attributes:
        z: (S, B, T, latent).
        divergence: (S, B), KL of z(t₀) and of the path, in nats.
    """

    z: Tensor
    divergence: Tensor


def _half_width(values: Tensor) -> Tensor:
    """Half the width of the 95 % interval of the mean by Student's t."""
    from scipy.stats import t

    return values.std() * float(t.ppf(0.975, len(values) - 1)) / len(values) ** 0.5
