"""Laws of the likelihood of transitions: it has the closed form where there is one, and finds coefficients by it."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.testing import check_data, check_dynamics
from odeflow_dynamics import MLP
from odeflow_sde import ExactPaths, GeometricBrownianMotion, NeuralSDE, OrnsteinUhlenbeck, TransitionLikelihood
from odeflow_sde.transition_likelihood import SEED

THETA, MU, SIGMA = 1.5, 0.5, 0.4


def paths(**options: Any) -> of.Series:
    data = ExactPaths(OrnsteinUhlenbeck(THETA, MU, SIGMA), **options)
    data.setup("fit")
    return data.observed


def exact_log_prob(batch: of.Series, theta: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """(N,), the normal transitions of an Ornstein–Uhlenbeck process."""
    x0, x1, gap = batch.y[:, :-1], batch.y[:, 1:], batch.t.diff(dim=1)[..., None]
    kept = torch.exp(-theta * gap)
    variance = sigma**2 * (1 - kept**2) / (2 * theta)
    error = x1 - mu - (x0 - mu) * kept
    return (-0.5 * (error.square() / variance + variance.log() + math.log(2 * math.pi))).flatten()


def test_density_converges_to_the_closed_form() -> None:
    """With more substeps and samples the density of transitions approaches the exact one."""
    batch = paths(count=30, times=5)
    wanted = exact_log_prob(batch, *(torch.tensor(each) for each in (THETA, MU, SIGMA)))
    errors = []
    for substeps, samples in ((1, 1), (3, 30), (12, 100)):
        model = TransitionLikelihood(OrnsteinUhlenbeck(THETA, MU, SIGMA), substeps, samples)
        with torch.no_grad():
            errors.append(float((model.log_prob(batch, 0) - wanted).abs().mean()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.04


def test_gaps_of_each_path() -> None:
    """Irregular times and missing values: transitions between values that are both seen, over their own gaps."""
    t = torch.tensor([[0.0, 0.1, 0.5], [0.0, 0.3, 0.3]])
    y = torch.tensor([[[1.0], [0.9], [0.7]], [[1.0], [0.8], [0.0]]])
    seen = torch.tensor([[[True]] * 3, [[True], [True], [False]]])[:, :, 0]
    batch = of.Series(t, y, seen.view(2, 3, 1), seen.view(2, 3, 1))
    model = TransitionLikelihood(OrnsteinUhlenbeck(THETA, MU, SIGMA), substeps=1, samples=1)
    found = model.log_prob(batch)
    h = torch.tensor([0.1, 0.4, 0.3])
    x0, x1 = torch.tensor([1.0, 0.9, 1.0]), torch.tensor([0.9, 0.7, 0.8])
    wanted = torch.distributions.Normal(x0 + THETA * (MU - x0) * h, SIGMA * h.sqrt()).log_prob(x1)
    torch.testing.assert_close(found, wanted)


def fitted(model: TransitionLikelihood, batch: of.Series, steps: int = 120) -> dict[str, dict[str, Any]]:
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(steps):
        optimizer.zero_grad()
        (-model.log_prob(batch, number).mean()).backward()
        optimizer.step()
        schedule.step()
    return {row["name"]: row for row in model.parameters_table(batch).iter_rows(named=True)}


def test_ornstein_uhlenbeck_as_by_exact_maximum_likelihood() -> None:
    """Coefficients fitted to 200 paths are within 3 standard errors of the exact maximum likelihood estimate."""
    batch = paths(times=11, t1=2.0)
    found = fitted(TransitionLikelihood(OrnsteinUhlenbeck(0.7, 0.0, 0.8), substeps=6, samples=8), batch)
    raw = torch.tensor([math.log(0.7), 0.0, math.log(0.8)], dtype=torch.float64, requires_grad=True)
    doubled = batch._replace(t=batch.t.double(), y=batch.y.double())

    def loss(raw: Tensor) -> Tensor:
        return -exact_log_prob(doubled, raw[0].exp(), raw[1], raw[2].exp()).sum()

    optimizer = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(raw)
        value.backward()
        return value.detach()

    optimizer.step(closure)
    raw = raw.detach()
    errors = torch.linalg.inv(torch.autograd.functional.hessian(loss, raw)).diagonal().sqrt()
    exact = {"theta": raw[0].exp(), "mu": raw[1], "sigma": raw[2].exp()}
    scales = {"theta": raw[0].exp(), "mu": torch.tensor(1.0), "sigma": raw[2].exp()}
    for number, name in enumerate(exact):
        error = float(errors[number] * scales[name])
        assert abs(found[name]["estimate"] - float(exact[name])) < 3 * error, name
        assert 0.7 < found[name]["std_error"] / error < 1.4, name


def test_geometric_brownian_motion() -> None:
    """Growth and volatility of 200 paths are found within 3 standard errors of the estimate by logarithms."""
    data = ExactPaths(GeometricBrownianMotion(0.2, 0.4), times=11)
    data.setup("fit")
    steps = data.observed.y[..., 0].log().diff(dim=1).double() / 0.2
    sigma = float(steps.std(correction=0) * 0.2**0.5)
    mu = float(steps.mean()) + sigma**2 / 2
    found = fitted(TransitionLikelihood(GeometricBrownianMotion(0.5, 0.8), substeps=6, samples=8), data.observed)
    assert abs(found["sigma"]["estimate"] - sigma) < 3 * sigma / (2 * 2000) ** 0.5
    assert abs(found["mu"]["estimate"] - mu) < 3 * sigma / 400**0.5


def test_simulated_paths_have_the_law_of_their_times() -> None:
    """At times of each path's own the mean is that of the process there: µ + (y₀ − µ) e^{−θt}."""
    torch.manual_seed(0)
    model = TransitionLikelihood(OrnsteinUhlenbeck(theta=1.0, mu=2.0, sigma=0.1), 20, 2)
    t = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 3.0]]).repeat(400, 1)
    y = torch.zeros(800, 3, 1)
    drawn = model.predict_step(of.Series(t, y, torch.ones_like(y, dtype=torch.bool), torch.ones_like(y).bool()), 0)
    for number in range(2):
        wanted = 2 * (1 - torch.exp(-t[number]))
        assert torch.allclose(drawn[number::2, :, 0].mean(0), wanted, atol=0.03)


@pytest.mark.parametrize("trained", [True, False])
def test_a_fit_that_has_not_ended_is_told(trained: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Estimates far from the largest likelihood, in their standard errors, are named; those at it are not."""
    exact = paths(count=200, times=20)
    model = TransitionLikelihood(OrnsteinUhlenbeck(theta=1.5, mu=0.5 if trained else 0.2, sigma=0.4), 4, 4)
    if trained:
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=40, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = -model.log_prob(exact, SEED).mean()
            value.backward()
            return value

        optimizer.step(loss)
    with caplog.at_level(logging.INFO):
        model.parameters_table(exact)
    assert ("the fit has not ended" in caplog.text) != trained
    assert trained or "mu" in caplog.text


def test_figures_and_predictions() -> None:
    """Simulated paths start at the data and have their shape, also at times of their own, which must begin together."""
    model, batch = TransitionLikelihood(OrnsteinUhlenbeck(), 2, 2), paths(count=5, times=4)
    drawn = model.predict_step(batch, 0)
    assert drawn.shape == (5, 4, 1)
    assert torch.equal(drawn[:, 0], batch.y[:, 0])
    assert set(model.figures(batch)) == {"marginals"}
    own = batch._replace(t=batch.t * torch.linspace(1, 2, 5)[:, None])
    assert torch.equal(model.predict_step(own, 0)[:, 0], batch.y[:, 0])
    assert set(model.figures(own)) == {"marginals"}
    late = batch._replace(t=batch.t + torch.arange(5)[:, None])
    assert not model.figures(late)
    with pytest.raises(of.DataError, match="paths that begin at one time"):
        model.predict_step(late, 0)
    with pytest.raises(of.DataError, match="no training batch yet"):
        model.parameters_table()


def test_bad_options_are_errors() -> None:
    """Equations without noise, of general noise or in Stratonovich's sense, and unknown closed forms are refused."""
    with pytest.raises(
        of.SettingError, match=r"expects a stochastic equation with diagonal or additive noise; got MLP"
    ):
        TransitionLikelihood(MLP(1))
    with pytest.raises(of.SettingError, match=r"got NeuralSDE"):
        TransitionLikelihood(NeuralSDE(MLP(2), MLP(4), "general"))
    with pytest.raises(of.SettingError, match=r"in the sense of Itô; NeuralSDE is in that of Stratonovich"):
        TransitionLikelihood(NeuralSDE(MLP(2), MLP(2), calculus="stratonovich"))
    with pytest.raises(of.SettingError, match=r"whose transitions are known; got MLP"):
        ExactPaths(MLP(1))


@pytest.mark.parametrize("cls", [GeometricBrownianMotion, OrnsteinUhlenbeck])
def test_plugins_keep_their_laws(cls: Any) -> None:
    """The equations pass the checks of dynamics, their data those of data."""
    check_dynamics(cls(), torch.tensor([[1.0], [2.0]]))
    check_data(ExactPaths(cls(), count=10, times=4))
