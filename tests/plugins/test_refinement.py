"""Laws of refined posteriors, of residuals that are correlated in time, and of fields with constant parameters."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import odeflow as of
from odeflow_dynamics import MLP, Parametric
from odeflow_solvers import Dopri5
from odeflow_tasks import Gaussian, LatentODE, Likelihood, Matern, Perceptron, Readout, Refine
from odeflow_tasks.refinement import laplace, only_seen


def waves(count: int = 4, length: int = 15) -> of.Series:
    """Two waves at random times, each value seen or not."""
    generator = torch.Generator().manual_seed(0)
    t = 3 * torch.rand(count, length, generator=generator).double().sort(1).values
    y = torch.stack([torch.sin(2 * t), torch.cos(2 * t)], dim=-1)
    seen = torch.rand(y.shape, generator=generator) < 0.6
    return of.Series(t, y, seen, torch.ones_like(seen))


def latent(**options: object) -> LatentODE:
    torch.manual_seed(0)
    task = LatentODE(MLP(3, [8]), Dopri5(1e-8, 1e-8), dim=2, **{"flow": of.FlowOptions(t1=3.0), **options}).double()
    task.log = lambda *_, **__: None
    return task


# The posterior


def test_linear_problems_are_solved_exactly() -> None:
    """If residuals are linear, r = A z − b, the posterior is N(S Aᵀ b, S) with S = (AᵀA + I)⁻¹."""
    torch.manual_seed(0)
    a, b = torch.randn(3, 7, 4).double(), torch.randn(3, 7).double()
    q = laplace(lambda z: torch.einsum("bri,nbi->nbr", a, z) - b, torch.randn(2, 3, 4).double(), 6)
    covariance = (a.mT @ a + torch.eye(4)).inverse()
    torch.testing.assert_close(q.covariance_matrix, covariance)
    torch.testing.assert_close(q.mean, torch.einsum("bij,brj,br->bi", covariance, a, b), rtol=1e-5, atol=1e-6)


def test_the_refined_mean_is_the_mode() -> None:
    """There log p(seen values, z) has no gradient; the encoder's mean is elsewhere and less probable."""
    batch, task = waves(), latent(refine=Refine(steps=20), readout=Readout(likelihood=Gaussian(0.5)))
    seen = batch._replace(target=batch.seen)

    def joint(z: Tensor) -> Tensor:
        return task.likelihood(task.decode(task.path(z, batch.t)), seen).sum() - 0.5 * z.square().sum()

    mode = task.posterior(batch).mean.requires_grad_()
    start = task.amortised(batch).mean.detach().requires_grad_()
    values = {name: joint(z) for name, z in (("mode", mode), ("start", start))}
    slopes = {
        name: torch.autograd.grad(value, z)[0].norm()
        for (name, value), z in zip(values.items(), (mode, start), strict=True)
    }
    assert values["mode"] > values["start"]
    assert slopes["mode"] < 0.02 * slopes["start"]


def test_several_starts_find_the_best_of_several_modes() -> None:
    """A frequency z is found from one start only if it is near; from many starts always."""
    t = torch.linspace(0, 6, 30).double()
    truth = torch.tensor([[-1.3], [0.2], [1.7]]).double()

    def residuals(z: Tensor) -> Tensor:
        return 20 * (torch.sin((3 + z) * t) - torch.sin((3 + truth) * t))

    starts = torch.linspace(-2, 2, 9).double()[:, None, None].expand(-1, 3, -1)
    errors = [(laplace(residuals, start, 10).mean - truth).abs().max() for start in (starts[:1], starts)]
    assert errors[0] > 0.5
    assert errors[1] < 0.01


def test_steps_that_go_nowhere_are_not_taken() -> None:
    """Where residuals are not finite the start is kept, and the covariance is the prior's."""
    q = laplace(lambda z: z * math.nan, torch.ones(1, 2, 3), 3)
    assert torch.equal(q.mean, torch.ones(2, 3))
    torch.testing.assert_close(q.covariance_matrix, torch.eye(3).expand(2, -1, -1))


def test_training_is_not_refined() -> None:
    """Its loss is that of the encoder's posterior; evaluation has the refined one, as predictions have."""
    batch = waves()
    plain, task = latent(), latent(refine=Refine(steps=3))
    found: list[Tensor] = []
    for each, stage in ((plain, "train"), (task, "train"), (plain, "val"), (task, "val")):
        torch.manual_seed(1)
        found.append(each.loss(batch, stage))
    assert torch.equal(found[0], found[1])
    assert found[3] < found[2]
    assert torch.equal(plain.posterior(batch).mean, task.amortised(batch).mean)


def test_only_the_seen_times_are_left() -> None:
    """The compact series have the seen values with their times, in order."""
    batch = waves()
    short = only_seen(batch._replace(seen=batch.seen & (batch.t > 1)[..., None]))
    assert short.t.shape[1] == int((batch.seen.any(-1) & (batch.t > 1)).sum(1).max())
    for row in range(len(batch.t)):
        there = batch.seen[row].any(-1) & (batch.t[row] > 1)
        assert torch.equal(short.t[row][short.seen[row].any(-1)], batch.t[row][there])
        assert torch.equal(short.y[row][short.seen[row]], batch.y[row][there][batch.seen[row][there]])


# Correlated residuals


def matern(**options: object) -> Matern:
    likelihood = Matern(**{"noise_std": 0.4, "length": 0.7, **options})
    likelihood.build(2)
    with torch.no_grad():
        likelihood.log_length += torch.tensor([0.0, 0.5])
    return likelihood.double()


@pytest.mark.parametrize("smoothness", ["1/2", "3/2", "5/2"])
def test_predictions_are_conditional_normal_distributions(smoothness: str) -> None:
    """Mean and variance of each value given the seen ones are those of the joint normal distribution, by its formulas."""
    batch, likelihood = waves(), matern(smoothness=smoothness)
    prediction = torch.randn(3, *batch.y.shape).double()
    found = likelihood.predictive(prediction, batch)
    kernels = {
        "1/2": lambda x: torch.exp(-x),
        "3/2": lambda x: (1 + 3**0.5 * x) * torch.exp(-(3**0.5) * x),
        "5/2": lambda x: (1 + 5**0.5 * x + 5 / 3 * x**2) * torch.exp(-(5**0.5) * x),
    }
    for row in range(len(batch.t)):
        for feature in range(2):
            t, seen = batch.t[row], batch.seen[row, :, feature]
            gap = (t[:, None] - t).abs() / (0.7 * math.exp(0.5 * feature))
            process = 0.16 * kernels[smoothness](gap)
            white = (0.04**2 + 0.16e-6) * torch.eye(len(t)).double()
            gain = process[:, seen] @ (process + white)[seen][:, seen].inverse()
            error = (batch.y[row, :, feature] - prediction[:, row, :, feature])[:, seen]
            mean = prediction[:, row, :, feature] + error @ gain.T
            variance = (process + white).diagonal() - (gain @ process[seen]).diagonal()
            torch.testing.assert_close(found.mean[:, row, :, feature], mean)
            torch.testing.assert_close(
                found.variance[..., row, :, feature], variance.expand(3, -1) if found.variance.dim() == 4 else variance
            )


def test_nothing_seen_corrects_nothing() -> None:
    """The prediction stays; its standard deviation is that of process and noise together."""
    batch, likelihood = waves(), matern()
    found = likelihood.predictive(batch.y + 1, batch._replace(seen=torch.zeros_like(batch.seen)))
    torch.testing.assert_close(found.mean, batch.y + 1)
    torch.testing.assert_close(found.stddev, torch.full_like(batch.y, math.hypot(0.4, 0.04)), rtol=1e-5, atol=0)


def test_the_process_is_learned_from_residuals() -> None:
    """Amplitude and length of the residuals' process are found from unseen targets, and the prediction gets no gradient."""
    torch.manual_seed(0)
    t = 10 * torch.rand(200, 30).double().sort(1).values
    kernel = 0.25 * torch.exp(-(t[:, :, None] - t[:, None]).abs() / 2) + 0.01 * torch.eye(30)
    y = MultivariateNormal(torch.zeros(30).double(), kernel).sample()[..., None].expand(-1, -1, 2)
    seen = torch.rand(y.shape) < 0.5
    batch, likelihood = of.Series(t, y, seen, torch.ones_like(seen)), matern(smoothness="1/2", noise_std=1.0)
    prediction = torch.zeros_like(y, requires_grad=True)
    optimizer = torch.optim.Adam(likelihood.parameters(), 0.03)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood.unseen_log_prob(prediction, batch.take(torch.randperm(200)))).backward()
        optimizer.step()
    assert prediction.grad is None
    torch.testing.assert_close(likelihood.log_scale.exp(), torch.full((2,), 0.5).double(), rtol=0.15, atol=0)
    torch.testing.assert_close(likelihood.log_length.exp(), torch.full((2,), 2.0).double(), rtol=0.3, atol=0)
    unseen = ~seen
    inside = (likelihood.predictive(prediction, batch).cdf(y) - 0.5).abs()[unseen] < 0.25
    assert float(inside.double().mean()) == pytest.approx(0.5, abs=0.03)


def test_any_times_are_predicted_alike() -> None:
    """At the batch's times a reconstruction is the prediction, given as times or not, and it is near the seen values."""
    batch = waves()
    task = latent(readout=Readout(Perceptron(()), Matern(0.4, length=0.7)))
    torch.testing.assert_close(task.reconstruct(batch, batch.t), task.predict(batch), rtol=1e-5, atol=1e-6)
    error = (task.predict(batch) - batch.y).abs()
    assert (
        error[batch.seen].max()
        < 0.2 * (task.decode(task.path(task.posterior(batch).mean, batch.t)) - batch.y).abs().max()
    )


class Laplacian(Likelihood):
    """A likelihood of a user's own, without anything optional."""

    def build(self, dim: int) -> None: ...

    def log_prob(self, prediction: Tensor, y: Tensor) -> Tensor:
        return -(y - prediction).abs() - math.log(2)


def test_likelihoods_may_lack_what_is_optional() -> None:
    """Without a predictive distribution there are errors but no coverages; refinement and quantiles are refused."""
    batch, readout = waves(), Readout(likelihood=Laplacian())
    task, logged = latent(readout=readout), {}
    task.log = lambda name, value, **_: logged.update({name: value})
    task.loss(batch, "val")
    task.on_validation_epoch_end()
    assert {"val/mse", "val/path_coverage_50"} <= logged.keys()
    assert "val/coverage_50" not in logged
    with pytest.raises(of.SettingError, match=r"Laplacian has no residuals; use Gaussian, or refine\.steps 0"):
        latent(readout=readout, refine=Refine(steps=1)).predict(batch)
    with pytest.raises(of.SettingError, match="quantiles need a predictive distribution, which Laplacian lacks"):
        latent(readout=readout, quantiles=[0.1]).predict_step(batch, 0)


# Parameters of a trajectory


def test_parameters_stay_constant() -> None:
    """The last entries of the state do not change, but change the others."""
    torch.manual_seed(0)
    flow = of.Flow(Parametric(MLP(4, [8], time="none"), parameters=2), Dopri5())
    y0 = torch.randn(5, 4)
    other = torch.cat([y0[:, :2], y0[:, 2:] + 1], dim=1)
    for start in (y0, other):
        assert torch.equal(flow(start)[:, 2:], start[:, 2:])
    assert not torch.allclose(flow(y0)[:, :2], flow(other)[:, :2])


@pytest.mark.parametrize("parameters", [0, 4])
def test_something_must_move(parameters: int) -> None:
    """There must be parameters, and a state beside them."""
    with pytest.raises(of.SettingError, match=f"parameters must lie between 1 and 3, .* got {parameters}"):
        Parametric(MLP(4), parameters)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Refine(steps=-1), "steps must be at least 0; got -1"),
        (lambda: Refine(starts=0), "starts must be at least 1; got 0"),
        (lambda: Matern(length=0.0), r"length must lie in \(0, inf\); got 0.0"),
        (lambda: Matern(smoothness="2"), "smoothness must be '1/2', '3/2' or '5/2'; got '2'"),
        (lambda: Gaussian(noise_std=0.0), r"noise_std must lie in \(0, inf\); got 0.0"),
    ],
)
def test_senseless_options_are_refused(make: object, message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()
