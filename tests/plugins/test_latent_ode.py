"""Laws of LatentODE and its baselines: their bounds, what may and what may not matter, their metrics and pictures."""

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_cde import CDE, Control
from odeflow_dynamics import MLP, Linear
from odeflow_solvers import RK4, Dopri5, Euler
from odeflow_tasks import (
    GRUD,
    ODERNN,
    RNN,
    Bound,
    FourierEncoder,
    Gaussian,
    LatentODE,
    Masking,
    Matern,
    ODERNNEncoder,
    Perceptron,
    Readout,
    Rectilinear,
    Refine,
    RNNEncoder,
    TrendEncoder,
)
from odeflow_tasks.encoder import Between
from odeflow_tasks.latent_path import at_own_times
from odeflow_tasks.series_task import SeriesTask


def series(count: int = 5, length: int = 12, dim: int = 2) -> of.Series:
    """Waves at random times of their own, seen and to be predicted in part, of lengths of their own, with classes."""
    generator = torch.Generator().manual_seed(3)
    t = 3 * torch.rand(count, length, generator=generator).sort(1).values
    y = torch.stack([torch.sin(2 * t + number) for number in range(dim)], dim=-1)
    seen, target = (torch.rand(y.shape, generator=generator) < 0.6 for _ in range(2))
    lengths = torch.arange(count) % 4 + length - 3
    padding = torch.arange(length) >= lengths[:, None]
    last = t.gather(1, lengths[:, None] - 1)
    seen, target = seen & ~padding[..., None], target & ~padding[..., None]
    y = y.where(seen | target, 0.0)
    return of.Series(t.where(~padding, last), y, seen, target, torch.arange(count) % 2)


def quiet(task: SeriesTask) -> dict[str, object]:
    """Notes what a task would log, by name."""
    logged: dict[str, object] = {}
    task.log = lambda name, value, **_: logged.update({name: value})
    return logged


def latent_rnn(**options: object) -> LatentODE:
    return LatentODE(MLP(4, [8]), Dopri5(), **{"dim": 2, "flow": of.FlowOptions(t1=3.0), **options})


def latent_ode_rnn(**options: object) -> LatentODE:
    return latent_rnn(encoder=ODERNNEncoder(MLP(6, [8], time="none"), Euler(num_steps=1)), **options)


def rnn(**options: object) -> RNN:
    return RNN(**{"dim": 2, "width": 6, **options})


def ode_rnn(**options: object) -> ODERNN:
    return ODERNN(MLP(6, [8], time="none"), RK4(num_steps=1), **{"dim": 2, **options})


def refined(**options: object) -> LatentODE:
    return latent_rnn(
        **{
            "encoder": FourierEncoder(8, [8], span=3.0, terms=4),
            "refine": Refine(steps=2, starts=2),
            "readout": Readout(likelihood=Matern()),
            **options,
        }
    )


def gru_d(**options: object) -> GRUD:
    return GRUD(**{"dim": 2, "width": 6, **options})


def cde(**options: object) -> CDE:
    control = Control(interpolation=Rectilinear(), counts=True)
    return CDE(MLP(6, [8], time="none"), RK4(step_size=1.0), control=control, **{"dim": 2, **options})


MODELS: list[Callable[..., SeriesTask]] = [latent_rnn, latent_ode_rnn, refined, rnn, ode_rnn, gru_d, cde]


def classes(count: int = 2, learn: bool = False) -> dict[str, object]:
    """Options of a task that classifies."""
    return {
        "num_classes": count,
        "readout": Readout(likelihood=Gaussian(learn=learn), classifier=Perceptron(), class_weight=0.5),
    }


LINEAR = ()
"""No hidden layers."""


def losses(task: SeriesTask, batch: of.Series) -> Tensor:
    """The loss in training and in evaluation, with the same random numbers each time."""
    quiet(task)
    torch.manual_seed(0)
    return torch.stack([task.loss(batch, "train"), task.loss(batch, "val")])


# The bound


class LinearGaussian:
    """z' = a z, y = c z + b + σε in each of two dimensions, whose posterior is normal with independent components."""

    def __init__(self, **options: object) -> None:
        torch.manual_seed(0)
        self.a, self.c, self.b, self.sigma = (
            torch.tensor(v).double() for v in ((-0.5, 0.3), (1.2, 0.7), (0.4, -1), 0.5)
        )
        solver = Dopri5(1e-9, 1e-9)
        self.task = LatentODE(
            Linear(2), solver, dim=2, readout=Readout(Perceptron(LINEAR), Gaussian(0.5)), **options
        ).double()
        with torch.no_grad():
            field, decoder = self.task.flow.dynamics.layer, self.task.decoder.layers[0]
            field.weight.copy_(self.a.diag())
            field.bias.zero_()
            decoder.weight.copy_(self.c.diag())
            decoder.bias.copy_(self.b)
        t = torch.tensor([[0.3, 0.9, 1.7, 2.0]]).double()
        self.gains = self.c * torch.exp(self.a * t[0, :, None])  # (T, 2)
        y = self.gains * torch.tensor([0.8, -1.1]) + self.b + 0.5 * torch.randn(4, 2).double()
        everything = torch.ones(1, 4, 2, dtype=torch.bool)
        self.batch = of.Series(t, y[None], everything, everything)
        precision = 1 + (self.gains / self.sigma).square().sum(0)
        self.mean = (self.gains * (y - self.b)).sum(0) / self.sigma**2 / precision
        self.std = precision.rsqrt()

    def log_marginal(self) -> Tensor:
        """Log p(y), of the normal density with covariance G Gᵀ + σ²."""
        total = torch.zeros(())
        for gain, value in zip(self.gains.T, (self.batch.y[0] - self.b).T, strict=True):
            covariance = gain.outer(gain) + self.sigma**2 * torch.eye(4).double()
            total = total + MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(value)
        return total

    def expected(self, mean: Tensor, std: Tensor) -> Tensor:
        """The ELBO by hand: E_q log p(y | z) − KL(q ‖ p), both in closed form."""
        error = (self.batch.y[0] - self.b - self.gains * mean).square() + (self.gains * std).square()
        likelihood = (-0.5 * error / self.sigma**2 - self.sigma.log() - 0.5 * math.log(2 * math.pi)).sum()
        return likelihood - 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum()

    def believe(self, mean: Tensor, std: Tensor) -> None:
        """Makes q = N(mean, std²), whatever is seen."""
        self.task.amortised = lambda batch: MultivariateNormal(
            mean.expand(len(batch.t), 2), scale_tril=std.diag().expand(len(batch.t), 2, 2)
        )

    def copies(self, count: int) -> of.Series:
        return of.Series(
            *(None if part is None else part.repeat(count, *[1] * (part.dim() - 1)) for part in self.batch)
        )


def test_the_bound_is_that_computed_by_hand() -> None:
    """On a linear-Gaussian model the ELBO is E_q log p(y|z) − KL in closed form; q's optimum is the log-evidence."""
    model = LinearGaussian()
    for mean, std in ((model.mean, model.std), (model.mean + 0.3, 1.5 * model.std)):
        model.believe(mean, std)
        bounds = model.task.elbo(model.copies(20_000)).detach()
        error = bounds.std() / len(bounds) ** 0.5
        assert abs(bounds.mean() - model.expected(mean, std)) < 4 * error
        assert error < 0.03
    torch.testing.assert_close(model.expected(model.mean, model.std), model.log_marginal())


def test_at_the_true_posterior_the_bound_is_the_evidence() -> None:
    """With importance weights every sample of the true posterior gives log p(y) exactly."""
    model = LinearGaussian()
    model.believe(model.mean, model.std)
    for samples in (2, 7):
        found = model.task.elbo(model.batch, samples)[0]
        torch.testing.assert_close(found, model.log_marginal(), rtol=1e-6, atol=1e-6)


def test_more_samples_tighten_the_bound() -> None:
    """In expectation: ELBO < bound of 5 samples < bound of 50 samples < log-evidence, if q is wrong."""
    model = LinearGaussian()
    model.believe(model.mean + 0.3, 1.5 * model.std)
    many = model.copies(4000)
    bounds = [model.task.elbo(many, samples).mean() for samples in (1, 5, 50)]
    ladder = [*bounds, model.log_marginal()]
    assert all(above - below > 0.005 for below, above in itertools.pairwise(ladder)), ladder


def test_the_divergence_comes_in_by_its_rate() -> None:
    """In step k of training the KL divergence counts 1 − rᵏ, in evaluation it counts whole."""
    model = LinearGaussian(bound=Bound(kl_anneal=0.9))
    model.believe(model.mean, model.std)
    logged = quiet(model.task)
    found = {}
    for stage in ("train", "val"):
        torch.manual_seed(0)
        found[stage] = model.task.loss(model.batch, stage)
    torch.testing.assert_close(found["val"] - found["train"], 0.9 * logged["val/kl"])


def test_the_likelihood_of_times_is_a_poisson_process() -> None:
    """Of a constant rate λ: N log λ − λ (last time − t₀), for each feature."""
    batch = series()
    task = latent_rnn(bound=Bound(intensity_weight=2.0), flow=of.FlowOptions(t0=0.0))
    with torch.no_grad():
        task.intensity.weight.zero_()
        task.intensity.bias.copy_(torch.tensor([0.5, -0.2]))
    found = []
    for weight in (2.0, 0.0):
        task.bound = Bound(intensity_weight=weight)
        torch.manual_seed(0)
        found.append(task.elbo(batch))
    rate = nn.functional.softplus(task.intensity.bias)
    wanted = (batch.target.sum(1) * rate.log() - rate * batch.t[:, -1:]).sum(1)
    torch.testing.assert_close(found[0] - found[1], 2 * wanted, rtol=1e-4, atol=1e-3)


def test_balanced_features_weigh_alike() -> None:
    """Balanced, each feature has the mean over its targets, times the share of all targets that is a feature's."""
    batch = series(dim=3)
    batch = batch._replace(target=batch.target & torch.tensor([True, True, False]))
    prediction = torch.randn_like(batch.y)
    balanced, plain = (
        rnn(dim=3, readout=Readout(likelihood=Gaussian(balance=on))).log_likelihood(prediction, batch)
        for on in (True, False)
    )
    for row in range(5):
        log_p = Normal(prediction[row], 0.1).log_prob(batch.y[row])
        features = [log_p[:, number][batch.target[row, :, number]] for number in range(2)]
        torch.testing.assert_close(plain[row], torch.cat(features).sum())
        mean = torch.stack([feature.mean() for feature in features]).mean()
        torch.testing.assert_close(balanced[row], mean * batch.target[row].sum())


def test_the_class_has_its_cross_entropy() -> None:
    """The classifier adds its weighted cross-entropy to the loss, and its AUROC or accuracy to the metrics."""
    batch = series(8)
    for count, metric in ((2, "auroc"), (3, "accuracy")):
        task = rnn(**classes(count))
        logged = quiet(task)
        both = task.loss(batch, "val")
        logits = task.classifier(task.unroll(batch)[1])
        plain = -task.log_likelihood(task.predict(batch), batch).mean()
        torch.testing.assert_close(both, plain + 0.5 * nn.functional.cross_entropy(logits, batch.label))
        task.on_validation_epoch_end()
        assert f"val/{metric}" in logged
    scores = logits.argmax(1)
    torch.testing.assert_close(logged["val/accuracy"].compute(), (scores == batch.label).float().mean())


# What may not matter


@pytest.mark.parametrize("model", MODELS)
def test_values_that_are_not_seen_do_not_matter(model: Callable[..., SeriesTask]) -> None:
    """Bitwise: masked values change neither loss nor prediction, even as NaN; unseen targets no prediction."""
    torch.manual_seed(0)
    batch, task = series(), model()
    for noise in (torch.randn_like(batch.y), torch.full_like(batch.y, math.nan)):
        other = batch._replace(y=batch.y.where(batch.seen | batch.target, noise))
        assert torch.equal(losses(task, other), losses(task, batch))
        hidden = batch._replace(y=batch.y.where(batch.seen, noise))
        assert torch.equal(task.predict(hidden), task.predict(batch))
    gradients = torch.autograd.grad(task.loss(other, "train"), [p for p in task.parameters() if p.requires_grad])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert not torch.equal(task.predict(batch._replace(y=batch.y + 1.0 * batch.seen)), task.predict(batch))


@pytest.mark.parametrize("model", MODELS)
def test_padding_and_order_of_series_do_not_matter(model: Callable[..., SeriesTask]) -> None:
    """More padding changes nothing; a permuted batch has permuted predictions, and the same loss."""
    torch.manual_seed(0)
    batch, task = series(), model(**classes()).double()
    batch = batch._replace(t=batch.t.double(), y=batch.y.double())
    padded = of.Series(
        torch.cat([batch.t, batch.t[:, -1:].expand(-1, 3)], dim=1),
        torch.cat([batch.y, torch.randn(len(batch.y), 3, 2)], dim=1),
        *(torch.cat([mask, torch.zeros(len(mask), 3, 2, dtype=torch.bool)], dim=1) for mask in batch[2:4]),
        batch.label,
    )
    torch.testing.assert_close(task.predict(padded)[:, :12], task.predict(batch))
    torch.testing.assert_close(losses(task, padded), losses(task, batch))
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = of.Series(*(part[order] for part in batch if part is not None))
    torch.testing.assert_close(task.predict(permuted), task.predict(batch)[order])


@pytest.mark.parametrize("model", [latent_rnn, latent_ode_rnn])
def test_a_latent_ode_may_see_nothing(model: Callable[..., LatentODE]) -> None:
    """A series of which nothing is seen has a posterior, alone and beside others."""
    batch, task = series(), model()
    blind = batch._replace(seen=batch.seen & (torch.arange(5) != 1)[:, None, None])
    alone = of.Series(*(part[1:2] for part in blind if part is not None))
    torch.testing.assert_close(task.posterior(blind).mean[1:2], task.posterior(alone).mean)
    assert bool(losses(task, alone).isfinite().all())


@pytest.mark.parametrize("model", [rnn, ode_rnn, gru_d, cde])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_baselines_do_not_see_what_comes_later(model: Callable[..., SeriesTask], cell: str) -> None:
    """Bitwise: a value has no influence on predictions at its own time and before."""
    batch, task = series(), rnn(cell=cell) if model is rnn else model()
    later = batch._replace(y=batch.y + (torch.arange(12) >= 5)[:, None] * batch.seen)
    first, second = task.predict(batch), task.predict(later)
    assert torch.equal(first[:, :6], second[:, :6])
    assert not torch.equal(first[:, 6:], second[:, 6:])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_times_without_an_observation_are_looked_at_only(cell: str) -> None:
    """What is not seen changes no later prediction of an RNN: without it the others are the same, as is the class."""
    batch, task = series(), rnn(cell=cell, **classes())
    batch = batch._replace(seen=batch.seen & (torch.arange(12) % 3 > 0)[:, None])
    kept = torch.arange(12) % 3 > 0
    fewer = of.Series(batch.t[:, kept], *(part[:, kept] for part in batch[1:4]), batch.label)
    fewer = fewer._replace(t=torch.cat([batch.t[:, :1], fewer.t], dim=1))
    fewer = fewer._replace(
        **{
            name: nn.functional.pad(part, (0, 0, 1, 0))
            for name, part in fewer._asdict().items()
            if name in ("y", "seen", "target")
        }
    )
    predictions, last = task.unroll(batch)
    again, same = task.unroll(fewer)
    torch.testing.assert_close(again[:, 1:], predictions[:, kept])
    torch.testing.assert_close(same, last)


# Encoders


def test_the_rnn_encoder_reads_backwards_in_time() -> None:
    """It is the GRU over a row's observations in reverse, with the gaps, and an empty step at t₀."""
    torch.manual_seed(0)
    batch, encoder = series(), RNNEncoder(7)
    encoder.build(2)
    found = encoder(batch, -0.5)
    for row in range(5):
        steps = batch.seen[row].any(-1).nonzero()[:, 0].flip(0)
        t = torch.cat([batch.t[row, steps], torch.tensor([-0.5])])
        gap = torch.cat([torch.zeros(1), t[:-1] - t[1:]])
        seen = torch.cat([batch.seen[row, steps], torch.zeros(1, 2, dtype=torch.bool)]).float()
        y = torch.cat([batch.y[row, steps], torch.zeros(1, 2)]) * seen
        wanted = encoder.rnn(torch.cat([y, seen, gap[:, None]], dim=1)[None])[1][0, 0]
        torch.testing.assert_close(found[row], wanted)


def test_the_rnn_encoder_reads_towards_its_time() -> None:
    """For a time after all observations it reads them forward: the series mirrored in time, backward, with opposite gaps."""
    torch.manual_seed(0)
    batch, encoder = series(), RNNEncoder(7)
    encoder.build(2)
    with torch.no_grad():
        encoder.rnn.weight_ih_l0[:, -1] = 0  # gaps have another sign
    mirrored = batch._replace(t=-batch.t.flip(1), y=batch.y.flip(1), seen=batch.seen.flip(1))
    torch.testing.assert_close(encoder(batch, 4.0), encoder(mirrored, -4.0))


def test_the_fourier_encoder_finds_the_cosines() -> None:
    """It regresses each feature on cosines, from whatever times are seen; covariates are features, too."""
    torch.manual_seed(0)
    encoder = FourierEncoder(5, span=3.0, terms=6, ridge=1e-9)
    encoder.build(2, 1)
    batch, wanted = series(length=60), torch.randn(5, 3, 6).double()
    batch = batch._replace(t=batch.t.double(), seen=batch.seen & (torch.rand(5, 60, 2) < 0.8))
    cosines = torch.cos(math.pi * torch.arange(6) * (batch.t[..., None] - 0.5) / 3)
    values = torch.einsum("btk,bdk->btd", cosines, wanted)
    batch = batch._replace(y=values[..., :2].where(batch.seen, math.nan), covariates=values[..., 2:])
    found = encoder.coefficients(batch, 0.5).view(5, 3, 12)
    torch.testing.assert_close(found[..., :6], wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found[..., 6:], torch.ones_like(wanted))
    assert encoder.float()(
        batch._replace(y=batch.y.float(), t=batch.t.float(), covariates=values[..., 2:].float()), 0.5
    ).shape == (5, 5)


def test_the_fourier_encoder_of_nothing_is_nothing() -> None:
    """Without seen values all coefficients are 0, and so is what is known of them."""
    encoder = FourierEncoder(terms=4)
    encoder.build(2)
    batch = series()
    assert not encoder.coefficients(batch._replace(seen=torch.zeros_like(batch.seen)), 0.0).any()


def test_the_trend_encoder_reads_the_line_through_the_nearest_observations() -> None:
    """That of least squares, by NumPy, on either side of the series; what is farther from t₀ does not matter."""
    torch.manual_seed(0)
    encoder = TrendEncoder(3, 5, [8], unit=3.0, slope_unit=2.0).eval()
    encoder.build(2)
    encoder.layers = torch.nn.Identity()
    batch = of.Series.observed(torch.linspace(0.1, 3, 8).square(), torch.randn(5, 8, 2))
    for t0, near in ((0.0, slice(None, 3)), (12.0, slice(-3, None))):
        found, t = encoder(batch, t0), batch.t[0, near].double().numpy()
        level, slope, time, unknown = found.split([2, 2, 2, 4], dim=1)
        lines = [np.polyfit(t - t.mean(), values.double().numpy(), 1) for values in batch.y[:, near]]
        np.testing.assert_allclose(slope, [line[0] / 2 for line in lines], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(level, [line[1] / 3 for line in lines], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(time, np.full((5, 2), t.mean() - t0), rtol=1e-5)
        assert not unknown.any()


def test_the_trend_encoder_says_what_it_does_not_know() -> None:
    """Of a value seen once there is no slope, of one never seen no level either; the rest stays as it is."""
    torch.manual_seed(0)
    encoder = TrendEncoder(4, 5, [8], noise=1.0, slope_noise=1.0)
    encoder.build(3)
    encoder.layers = torch.nn.Identity()
    batch = of.Series.observed(torch.linspace(0.1, 3, 8), torch.randn(5, 8, 3))
    seen = torch.zeros(8, 3, dtype=torch.bool)
    seen[:2, 0], seen[1, 1] = True, True
    batch = batch._replace(seen=batch.seen & seen)
    level, slope, time, unknown = encoder.eval()(batch, 0.0).split([3, 3, 3, 6], dim=1)
    assert unknown.tolist() == [[0, 0, 1, 0, 1, 1]] * 5
    torch.testing.assert_close(level, torch.stack([batch.y[:, :2, 0].mean(1), batch.y[:, 1, 1], torch.zeros(5)], 1))
    torch.testing.assert_close(slope[:, 0], batch.y[:, :2, 0].diff(dim=1)[:, 0] / (batch.t[0, 1] - batch.t[0, 0]))
    assert not slope[:, 1:].any()
    assert not time[:, 2].any()
    moved = encoder.train()(batch, 0.0) != encoder.eval()(batch, 0.0)
    assert moved.all(0).tolist() == [True, True, False, True, *[False] * 11]
    nothing = encoder(batch._replace(seen=torch.zeros_like(batch.seen)), 0.0)
    assert nothing.tolist() == [[0.0] * 9 + [1.0] * 6] * 5


def test_the_trend_encoder_has_noise_in_training_only() -> None:
    """Of the stated deviations: that of a level is shared by all observations, so that the slope does not feel it."""
    torch.manual_seed(0)
    encoder = TrendEncoder(3, 4, [8], unit=2.0, slope_unit=4.0, noise=0.5, slope_noise=0.2)
    encoder.build(2)
    encoder.layers = torch.nn.Identity()
    batch = of.Series.observed(torch.linspace(0.1, 3, 4), torch.randn(5, 4, 2))
    still = encoder.eval()(batch, 0.0)
    drawn = torch.stack([encoder.train()(batch, 0.0) for _ in range(2000)]) - still
    assert drawn[..., :2].std().item() == pytest.approx(0.25, rel=0.05)
    assert drawn[..., 2:4].std().item() == pytest.approx(0.05, rel=0.05)
    assert not drawn[..., 4:].any()
    assert torch.equal(encoder.eval()(batch, 0.0), still)


def test_the_trend_encoder_reads_the_nearest_covariates() -> None:
    """Those of the nearest observation; without any, zeros."""
    encoder = TrendEncoder(2, 4, [8])
    encoder.build(2, 1)
    encoder.layers = torch.nn.Identity()
    batch = of.Series.observed(torch.linspace(0.1, 3, 4), torch.randn(5, 4, 2))
    batch = batch._replace(covariates=torch.randn(5, 4, 1))
    assert batch.covariates is not None
    assert torch.equal(encoder(batch, 0.0)[:, -1:], batch.covariates[:, 0])
    assert torch.equal(encoder(batch, 5.0)[:, -1:], batch.covariates[:, -1])
    assert not encoder(batch._replace(seen=torch.zeros_like(batch.seen)), 0.0)[:, -1].any()


def test_an_ode_rnn_with_a_zero_field_is_a_gru() -> None:
    """Encoder: the GRU over a row's observations in reverse. Baseline: the GRU forwards, each state before its value."""
    torch.manual_seed(0)
    batch, still = series(), Linear(6)
    for param in still.parameters():
        param.detach().zero_()
    encoder, task = ODERNNEncoder(still, RK4(num_steps=1)), ODERNN(still, RK4(num_steps=1), dim=2)
    encoder.build(2)
    found, predictions = encoder(batch, 0.0), task.predict(batch)
    for row in range(5):
        steps = batch.seen[row].any(-1).nonzero()[:, 0]
        inputs = torch.cat([batch.y[row] * batch.seen[row], batch.seen[row].float()], dim=1)
        h = torch.zeros(6)
        for number in steps.flip(0):
            h = encoder.cell(inputs[number], h)
        torch.testing.assert_close(found[row], h)
        h = torch.zeros(6)
        for number in range(12):
            torch.testing.assert_close(predictions[row, number], task.decoder(h))
            h = task.cell(inputs[number], h) if number in steps else h


def test_gaps_are_of_each_samples_own_length() -> None:
    """States after gaps Δ of a linear field are exp(AΔ) h, also backwards."""
    field = Linear(3, bias=False).double()
    h, gaps = torch.randn(4, 3).double(), torch.tensor([0.0, 0.5, 2.0, -1.0]).double()
    found = Between(field, Dopri5(1e-10, 1e-10))(h, gaps)
    wanted = torch.stack([torch.matrix_exp(field.layer.weight * gap) @ row for gap, row in zip(gaps, h, strict=True)])
    torch.testing.assert_close(found, wanted)


# The latent path


@pytest.mark.parametrize("t0", [-2.0, 0.3, 2.0])
def test_paths_are_those_of_each_sample_alone(t0: float) -> None:
    """One solve for all times gives each sample its states at its own times, before and after t₀, in any order."""
    field = Linear(3, bias=False).double()
    flow = of.Flow(field, Dopri5(1e-10, 1e-10), options=of.FlowOptions(t0=t0, t1=t0 + 1))
    z0, t = torch.randn(5, 3).double(), 2 * torch.rand(5, 7).double() - 0.5
    wanted = torch.matrix_exp(field.layer.weight * (t - t0)[..., None, None]) @ z0[:, None, :, None]
    torch.testing.assert_close(at_own_times(flow, z0, t, 100), wanted[..., 0], rtol=1e-6, atol=1e-8)


def test_many_times_are_read_from_a_common_grid() -> None:
    """Beyond `most` times the states are interpolated, with an error that falls as the sixth power of the distance."""
    torch.manual_seed(0)
    field = MLP(3, [16], time="concat").double()
    flow = of.Flow(field, Dopri5(1e-12, 1e-12), options=of.FlowOptions(t0=0.4))
    z0, t = torch.randn(20, 3).double(), 8 * torch.rand(20, 30).double() - 2
    exact = at_own_times(flow, z0, t, 1000)
    errors = [float((at_own_times(flow, z0, t, most) - exact).abs().max().detach()) for most in (32, 63)]
    assert errors[1] < errors[0] / 2**5
    assert errors[1] < 1e-4
    assert flow.stats.nfe_forward > 0


def test_penalties_are_of_the_whole_path() -> None:
    """A regulariser's penalty is that of the solve backwards and of the one forwards."""
    flow = of.Flow(Linear(2), RK4(num_steps=4), options=of.FlowOptions(regularizers=[of.Kinetic(0.5)]))
    with torch.no_grad():
        flow.dynamics.layer.weight.zero_()
        flow.dynamics.layer.bias.copy_(torch.tensor([1.0, 3.0]))
    for times, length in (([-2.0, 3.0], 5), ([-2.0, -1.0], 2), ([1.0, 3.0], 3)):
        at_own_times(flow, torch.randn(4, 2), torch.tensor(times).expand(4, 2), 10)
        torch.testing.assert_close(flow.penalties["kinetic"], torch.tensor(0.5 * 5.0 * length))


def test_a_path_is_undone_backwards() -> None:
    """Of an autonomous field the state one unit before t₀ leads back to that at t₀, and predictions agree at t₀."""
    task = LatentODE(MLP(4, [8], time="none"), Dopri5(1e-9, 1e-9), dim=2, flow=of.FlowOptions(t1=3.0)).double()
    z0 = torch.randn(3, 4).double()
    before = task.path(z0, torch.tensor([-1.0]).double())[:, 0]
    torch.testing.assert_close(task.path(before, torch.tensor([1.0]).double())[:, 0], z0, rtol=1e-6, atol=1e-7)
    batch = series()
    batch = batch._replace(t=batch.t.double(), y=batch.y.double())
    back, ahead = (task.extrapolate(batch, until, count=5) for until in (-2.0, 6.0))
    torch.testing.assert_close(back[1][:, 0], ahead[1][:, 0])
    torch.testing.assert_close(back[0], torch.linspace(0, -2, 5).double())
    torch.testing.assert_close(task.reconstruct(batch, back[0]), back[1])


def test_samples_of_the_prior_are_paths_of_normal_states() -> None:
    """At t₀ they are decoded standard normal states; `sample` gives series from t₀ to t₁."""
    task = LatentODE(
        Linear(2), Dopri5(), dim=2, readout=Readout(Perceptron(LINEAR)), flow=of.FlowOptions(t0=1.0, t1=3.0)
    )
    drawn = task.sample(4000)
    assert {name: tuple(values.shape) for name, values in drawn.items()} == {"x": (4000, 100, 2), "t": (4000, 100)}
    assert drawn["t"][0, [0, -1]].tolist() == [1.0, 3.0]
    weight, bias = task.decoder.layers[0].weight, task.decoder.layers[0].bias
    assert torch.allclose(drawn["x"][:, 0].mean(0), bias, atol=0.06)
    assert torch.allclose(drawn["x"][:, 0].T.cov(), weight @ weight.T, atol=0.06)
    assert task.sample_at(torch.tensor([-1.0, 0.5, 7.0]), 6).shape == (6, 3, 2)


def test_posterior_samples_surround_the_mean() -> None:
    """Reconstructions of S samples are (S, B, T, d), and shrink to that of the mean as the posterior narrows."""
    batch, task = series(), latent_rnn()
    assert task.reconstruct(batch, samples=3).shape == (3, 5, 12, 2)
    with torch.no_grad():
        task.posterior_head.weight[4:] = 0
        task.posterior_head.bias[4:] = -15
    torch.testing.assert_close(task.reconstruct(batch, samples=2)[1], task.reconstruct(batch), rtol=1e-3, atol=1e-4)


# Learning


@pytest.mark.parametrize(
    "task",
    [
        latent_rnn(encoder=RNNEncoder(cell="lstm"), **classes(learn=True)),
        latent_ode_rnn(bound=Bound(samples=3, intensity_weight=1.0)),
        latent_rnn(most_times=20),
        refined(readout=Readout(likelihood=Matern(learn=True))),
        rnn(**classes(learn=True)),
        rnn(cell="lstm"),
        ode_rnn(**classes()),
    ],
)
def test_every_parameter_learns(task: SeriesTask) -> None:
    """The loss has a gradient, finite and not zero, with respect to each parameter that is to be learned."""
    quiet(task)
    task.loss(series(), "train").backward()
    for name, param in task.named_parameters():
        assert not param.requires_grad or (param.grad.isfinite().all() and param.grad.any()), name


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_predicts_the_same(model: Callable[..., SeriesTask], tmp_path: Path) -> None:
    """A task that was trained, saved and loaded by `odeflow.load` makes the predictions that it made before."""
    batch, task = series(), model(**classes())
    before = task.predict(batch)
    loader = DataLoader([batch], batch_size=None)
    switched_off = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, **switched_off)
    trainer.fit(task, loader)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = of.load(tmp_path / "it.ckpt")
    task.eval()
    assert torch.equal(again.predict(batch), task.predict(batch))
    assert not torch.equal(again.predict(batch), before)


def test_training_shows_a_window() -> None:
    """With `window` training sees a part of each series at least so long, wants all, and counts from its beginning."""
    batch = series(200)
    moved = Masking(window=0.4)(batch, 0)
    length = batch.t[:, -1] - batch.t[:, 0]
    lead = batch.t[:, 0] - moved.t[:, 0]
    torch.testing.assert_close(moved.t, batch.t - lead[:, None])
    assert bool((lead >= 0).all() and (lead <= 0.3 * length + 1e-6).all())
    assert float((lead / length).max()) > 0.25
    assert torch.equal(moved.target, batch.target)
    assert bool((moved.seen <= batch.seen).all())
    hidden = (batch.seen & ~moved.seen).any(-1)
    share = (batch.t - batch.t[:, :1]) / length[:, None]
    assert not bool((hidden & (share > 0.31) & (share < 0.69)).any())
    before, after = hidden & (share <= 0.3), hidden & (share >= 0.7)
    assert bool((moved.t < batch.t[:, :1])[before].all())
    assert bool(before.any() and after.any())


def test_training_series_grow() -> None:
    """Of each series a quarter of its span is shown and wanted at first, a growing part later, and the whole in the end."""
    batch, masking = series(50), Masking(grow=10)
    start, length = batch.t[:, :1], batch.t[:, -1:] - batch.t[:, :1]
    for epoch, share in ((0, 0.25), (4, 0.55), (10, 1.0), (30, 1.0)):
        begun = masking(batch, epoch)
        early = (batch.t <= start + share * length + 1e-6)[..., None]
        assert torch.equal(begun.seen, batch.seen & early)
        assert torch.equal(begun.target, batch.target & early)


def test_a_rollout_steps_from_its_own_predictions() -> None:
    """A target without seen values is a step like an observation of the predicted values that are marked as unseen."""
    torch.manual_seed(0)
    batch, task = series(), rnn(rollout=True)
    batch = batch._replace(seen=batch.seen & (torch.arange(12) < 5)[:, None])
    found = task.predict(batch)
    given = batch._replace(y=batch.y.where(batch.seen, found.detach()))
    steps = (batch.seen | batch.target).any(-1)
    for row in range(5):
        state, clock, step = torch.zeros(1, 6), batch.t[row, 0], torch.zeros(1, 4)
        for number in range(12):
            gap = (batch.t[row, number] - clock).view(1, 1)
            new = task.cell(torch.cat([step, gap], dim=1), state)
            torch.testing.assert_close(found[row, number], task.decoder(new)[0])
            if steps[row, number]:
                state, clock = new, batch.t[row, number]
                step = torch.cat([given.y[row, number], batch.seen[row, number].float()])[None]
    assert not torch.allclose(found, rnn().predict(batch))


def test_the_loss_is_that_of_the_window() -> None:
    """The training loss is −ELBO of the windowed series; evaluation sees everything."""
    batch, task = series(), latent_rnn(masking=Masking(window=0.5))
    quiet(task)
    torch.manual_seed(1)
    loss = task.loss(batch, "train")
    torch.manual_seed(1)
    torch.testing.assert_close(loss, -task.elbo(task.masking(batch, 0)).mean())
    torch.manual_seed(1)
    loss = task.loss(batch, "val")
    torch.manual_seed(1)
    torch.testing.assert_close(loss, -task.elbo(batch).mean())


def test_seen_values_may_be_targets_of_training() -> None:
    """With `reconstruct` the training loss is that of all values known, evaluation that of the targets."""
    batch = series()
    whole = batch._replace(target=batch.target | batch.seen)
    task, plain = latent_rnn(bound=Bound(reconstruct=True)), latent_rnn()
    task.load_state_dict(plain.state_dict())
    torch.testing.assert_close(losses(task, batch)[0], losses(plain, whole)[0])
    torch.testing.assert_close(losses(task, batch)[1], losses(plain, batch)[1])


@pytest.mark.parametrize("model", MODELS)
def test_training_hides_observations(model: Callable[..., SeriesTask]) -> None:
    """With `hide` training loses that share of the times of what is seen, and no target; evaluation loses nothing."""
    batch, task, plain = series(40), model(masking=Masking(hide=0.25)), model()
    shown = task.masking(batch, 0)
    assert torch.equal(shown.target, batch.target)
    assert bool((shown.seen <= batch.seen).all())
    present, left = batch.seen.any(-1), shown.seen.any(-1)
    assert torch.equal(shown.seen, batch.seen & left[..., None])
    assert 0.15 < 1 - left.sum() / present.sum() < 0.35
    task.load_state_dict(plain.state_dict())
    found: dict[str, Tensor] = {}
    for each, stage in itertools.product((task, plain), ("train", "val")):
        quiet(each)
        torch.manual_seed(0)
        found[f"{stage} {'hide' if each is task else 'plain'}"] = each.loss(batch, stage)
    assert torch.equal(found["val hide"], found["val plain"])
    assert not torch.equal(found["train hide"], found["train plain"])


def test_errors_are_told_of_what_they_are_of() -> None:
    """MSE of all targets, of the unseen between the observations, and of those outside; the mean over features."""
    t = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    seen = torch.tensor([[[0, 0], [1, 0], [0, 1], [0, 0]]], dtype=torch.bool)
    target = torch.tensor([[[1, 0], [1, 0], [1, 0], [1, 0]]], dtype=torch.bool)
    batch = of.Series(t, torch.tensor([[[4.0, 0], [1.0, 0], [2.0, 5.0], [3.0, 0]]]), seen, target)
    task = rnn()
    logged = quiet(task)
    task.note_errors(torch.zeros(1, 4, 2), batch, "test")
    task.on_test_epoch_end()
    found = {name: float(metric.compute()) for name, metric in logged.items()}
    wanted = {"": 30 / 4, "interpolation_": 4.0, "extrapolation_": 25 / 2}
    for kind, value in wanted.items():
        assert found[f"test/{kind}mse"] == pytest.approx(value)
        assert found[f"test/{kind}rmse"] == pytest.approx(value**0.5)
    assert found["test/feature_mse"] == pytest.approx((30 / 4 + 0) / 2)


def test_coverage_is_the_share_within_central_intervals() -> None:
    """Of a calibrated predictive distribution 50 and 90 % of the unseen targets are within its central intervals."""
    torch.manual_seed(0)
    size = (200, 50, 2)
    path, samples = torch.randn(size), torch.randn(39, *size)
    unseen = torch.rand(size) < 0.7
    noise = 0.3 * torch.randn(size)
    batch = of.Series(torch.arange(50.0).expand(200, -1), path, ~unseen, torch.ones_like(unseen))
    cases = {
        "the path is certain": (path[None], path + noise, {"coverage": 1.0}),
        "the path is uncertain": (samples, path + noise, {"coverage": 1.0}),
        "targets have no noise": (samples, path, {"path_coverage": 1.0}),
        "the noise is half as large": (path[None], path + noise / 2, {"coverage": 0.5}),
    }
    for case, (prediction, y, scales) in cases.items():
        task = latent_rnn(readout=Readout(likelihood=Gaussian(0.3)))
        logged = quiet(task)
        task.note_coverage(prediction, batch._replace(y=y.where(unseen, 1e3)), "test")
        task.on_test_epoch_end()
        for name, scale in scales.items():
            for level in (0.5, 0.9):
                wanted = math.erf(torch.special.erfinv(torch.tensor(level)).item() / scale)
                found = float(logged[f"test/{name}_{100 * level:.0f}"].compute())
                assert found == pytest.approx(wanted, abs=0.02), (case, name, level)


def test_kinds_of_targets_that_do_not_occur_are_not_told() -> None:
    """Where all targets are seen there is no error of interpolation or extrapolation."""
    batch, task = series(), rnn()
    logged = quiet(task)
    task.loss(batch._replace(seen=batch.seen | batch.target), "test")
    task.on_test_epoch_end()
    assert logged.keys() == {"test/mse", "test/rmse", "test/feature_mse"}


# Pictures


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("model", [latent_rnn, rnn])
def test_pictures_are_drawn(model: Callable[..., SeriesTask], dim: int) -> None:
    """Series over time, and in the plane if there are two features; of latent models the paths and samples, too."""
    task = model(dim=dim).eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        figures = task.figures(series(2, dim=dim))
    assert torch.equal(torch.get_rng_state(), state)
    names = {"series"} | ({"plane"} if dim == 2 else set()) | ({"latent", "samples"} if model is latent_rnn else set())
    assert figures.keys() == names
    for figure in figures.values():
        figure.savefig(io.BytesIO(), dpi=30)
    labels = [text.get_text() for text in figures["series"].legends[0].get_texts()]
    assert "seen" in labels
    assert ("90 % of the posterior" in labels) == (model is latent_rnn)


def test_the_liveliest_features_are_drawn() -> None:
    """Those whose targets move most, in the units of the model, in the order of the file; what is no target does not count."""
    batch = series(3, dim=5)
    scale = torch.tensor([0.1, 3.0, 0.2, 5.0, 2.0])
    batch = batch._replace(y=(scale * batch.y).where(batch.target, 1e6))
    with torch.no_grad():
        figures = latent_rnn(dim=5).eval().figures(batch)
    titles = [axes.get_title() for axes in figures["series"].axes[:3]]
    assert titles == ["$y_{2}$", "$y_{4}$", "$y_{5}$"]
    assert figures["samples"].axes[0].get_ylabel() == "$y_{4}$"


def test_extrapolations_are_drawn_on_both_sides() -> None:
    """Curves go half the time of the data beyond it, before and after."""
    task = latent_rnn().eval()
    batch = series(2)
    with torch.no_grad():
        figures = task.figures(batch)
    line = figures["series"].axes[0].lines[0]
    low, high = 0.0, float(batch.t.max())
    assert line.get_xdata()[[0, -1]] == pytest.approx([low - high / 2, 1.5 * high])
    labels = [text.get_text() for text in figures["plane"].legends[0].get_texts()]
    assert [label for label in labels if "extrapolated" in label] == [
        f"extrapolated {where} the data" for where in ("before", "after")
    ]


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNNEncoder(cell="elman"), "cell must be 'gru' or 'lstm'; got 'elman'"),
        (lambda: rnn(cell="elman"), "cell must be 'gru' or 'lstm'; got 'elman'"),
        (lambda: Masking(hide=1.0), r"hide must lie in \[0, 1\); got 1.0"),
        (lambda: Bound(samples=0), "samples must be at least 1; got 0"),
        (lambda: Bound(kl_anneal=1.0), r"kl_anneal must lie in \[0, 1\); got 1.0"),
        (lambda: Bound(intensity_weight=-1.0), "intensity_weight must be at least 0; got -1.0"),
        (lambda: Masking(grow=-1), "grow must be at least 0; got -1"),
        (lambda: FourierEncoder(span=0.0), r"span must lie in \(0, inf\); got 0.0"),
        (lambda: FourierEncoder(terms=0), "terms must be at least 1; got 0"),
        (lambda: TrendEncoder(observations=0), "observations must be at least 1; got 0"),
        (lambda: TrendEncoder(slope_noise=-1), "slope_noise must be at least 0; got -1"),
        (lambda: TrendEncoder(slope_unit=0), r"slope_unit must lie in \(0, inf\); got 0"),
        (lambda: Masking(hide=-0.1), r"hide must lie in \[0, 1\); got -0.1"),
        (lambda: Masking(window=0.0), r"window must lie in \(0, 1\]; got 0.0"),
        (lambda: latent_rnn(most_times=5), "most_times must be at least 6; got 5"),
        (lambda: latent_rnn(dim=None), "LatentODE needs dim, the number of values of an observation"),
        (lambda: Gaussian(noise_std=0.0), r"noise_std must lie in \(0, inf\); got 0.0"),
        (lambda: Readout(class_weight=-1.0), "class_weight must be at least 0; got -1.0"),
        (
            lambda: ode_rnn(readout=Readout(classifier=Perceptron())),
            "a classifier needs num_classes, at least 2; got None",
        ),
        (lambda: latent_rnn(flow=of.FlowOptions(t1=0.0)), "t0 and t1 must differ"),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], object], message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda batch: batch.y,
            r"expects batches that are odeflow.Series, such as .*; got a tensor of shape \(5, 12, 2\)",
        ),
        (lambda batch: batch._replace(y=batch.y[..., :1]), r"values \(B, T, 2\); got \(5, 12\) and \(5, 12, 1\)"),
        (lambda batch: batch._replace(t=batch.t[0]), r"expects times \(B, T\) .* got \(12,\) and \(5, 12, 2\)"),
        (lambda batch: batch._replace(seen=batch.seen.float()), r"seen must be a bool mask .*; got torch.float32"),
        (lambda batch: batch._replace(target=batch.target[:, :3]), r"target must be a bool mask .* \(5, 3, 2\)"),
        (lambda batch: batch._replace(t=batch.t.flip(1)), "the times of each series must rise"),
        (lambda batch: batch._replace(label=None), "the classifier needs series with labels; these have none"),
    ],
)
def test_wrong_batches_are_refused(
    model: Callable[..., SeriesTask], change: Callable[[of.Series], object], message: str
) -> None:
    """A batch that is no series of the right size is refused with what is wrong about it."""
    task = model(**classes())
    with pytest.raises(of.DataError, match=message):
        task.loss(change(series()), "train")
