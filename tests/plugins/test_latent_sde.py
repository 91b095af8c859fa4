"""Laws of the latent SDE: its bound, its context, its prior, and the data of its recipes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import odeflow as of
from odeflow.testing import check_data
from odeflow_data import Shares
from odeflow_dynamics import MLP, Linear
from odeflow_sde import Entrywise, EulerMaruyama, LatentSDE, Mocap, StochasticHeun, StochasticLorenz
from odeflow_sde.ahead import Ahead
from odeflow_sde.path_bound import PathBound
from odeflow_sde.posterior_sde import PosteriorSDE, PriorSDE
from odeflow_solvers import RK4
from odeflow_tasks import Gaussian, Perceptron, Readout, RNNEncoder


def series(count: int = 5, times: int = 7) -> of.Series:
    t = torch.linspace(0.0, 1.0, times)
    y = torch.sin(3 * t)[:, None] * torch.linspace(0.5, 1.5, count)[:, None, None] + torch.zeros(2)
    return of.Series.observed(t, y)


def task(**options: Any) -> LatentSDE:
    torch.manual_seed(0)
    context = options.pop("context", 4)
    settings: dict[str, Any] = {"solver": EulerMaruyama(step_size=0.05), "dim": 2, "hidden": 8} | options
    return LatentSDE(MLP(3, [8]), MLP(3 + context, [8]), **settings)


def test_context_comes_from_what_follows() -> None:
    """The path at t depends on the observations after t, at t₀ on all, and on those before not at all."""
    model, batch = task(), series()
    late, early = batch.y.clone(), batch.y.clone()
    late[:, 5] += 1
    early[:, 1] += 1
    contexts = []
    for y in (batch.y, late, early):
        found = model.inferred(batch._replace(y=y)).context
        assert found is not None
        contexts.append([found(torch.tensor(time)) for time in (0.0, 0.5, 0.99)])
    plain, after, before = contexts
    assert not torch.equal(plain[1], after[1])
    assert torch.equal(plain[2], after[2])  # what follows 0.99 is the last observation alone
    assert torch.equal(plain[1], before[1])
    assert not torch.equal(plain[0], before[0])


def test_ahead_with_times_of_each_series() -> None:
    """Each series looks up its own next time; a single one is common; the derivative is 0."""
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, 3.0]])
    values = torch.arange(6.0).view(2, 3, 1)
    path = Ahead(t, values)
    assert path(torch.tensor(0.7))[:, 0].tolist() == [1.0, 5.0]
    assert path(torch.tensor([0.7, 0.1]))[:, 0].tolist() == [1.0, 4.0]
    assert path(torch.tensor(9.0))[:, 0].tolist() == [2.0, 5.0]
    assert not path.derivative(torch.tensor(0.7)).any()


def test_divergence_of_equal_laws_is_zero() -> None:
    """Where posterior and prior drift agree, the divergence is that of z(t₀) alone."""
    prior = Linear(2, bias=False, matrix=[[-1.0, 0.0], [0.0, -2.0]])
    model = LatentSDE(prior, prior, EulerMaruyama(step_size=0.05), Entrywise(2, 4), dim=2, hidden=8)
    batch = series()
    q, p = model.inferred(batch).start, model._prior()
    wanted = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(model.paths(batch, 3).divergence, wanted.expand(3, -1))


def test_divergence_of_two_ornstein_uhlenbeck_laws() -> None:
    """The divergence along posterior paths is ½ ∫ E (θ₁ − θ₂)² X²/σ² dt, within 4 standard errors."""
    theta, other, sigma, count = 1.0, 1.8, 0.4, 20_000
    field = PosteriorSDE(
        Linear(1, bias=False, matrix=[[-theta]]),
        Linear(1, bias=False, matrix=[[-other]]),
        Entrywise(1, 2, largest=sigma, smallest=sigma - 1e-6),
        "ito",
    )
    flow = of.Flow(field, EulerMaruyama(num_steps=200))
    with torch.no_grad():
        kl = flow(torch.tensor([[1.0, 0.0]]).repeat(count, 1), noise=0)[:, 1]
    square = (1 - sigma**2 / 2) * (1 - math.exp(-2)) / 2 + sigma**2 / 2
    wanted = 0.5 * (other - theta) ** 2 / sigma**2 * square
    assert abs(float(kl.mean()) - wanted) < 4 * float(kl.std()) / count**0.5 + 5e-3 * wanted


def test_posterior_is_one_evaluation() -> None:
    """Drift and diffusion of the posterior are evaluated together, and agree with those one by one."""
    torch.manual_seed(0)
    field = PosteriorSDE(MLP(5, [8]), MLP(3, [8]), Entrywise(3, 4), "ito")
    y, t = torch.randn(4, 3 + 1 + 2), torch.tensor(0.3)
    f, g = field.both(t, y)
    torch.testing.assert_close(f, field(t, y))
    torch.testing.assert_close(g, field.diffusion(t, y))
    assert not g[:, 3:].any()
    prior = PriorSDE(field)
    assert not list(prior.parameters())  # they are the posterior's
    torch.testing.assert_close(prior(t, y[:, :3]), field.prior(t, y[:, :3]))


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed(), of.Checkpointed(every=4)])
@pytest.mark.parametrize("encoder", [None, RNNEncoder(6)])
def test_gradients_reach_every_parameter(gradient: of.Gradient, encoder: Any) -> None:
    """The bound differentiates prior, posterior, diffusion, encoder and decoder, equally by each gradient."""
    found = []
    for each in (gradient, of.Backprop()):
        model = task(gradient=each, encoder=encoder)
        torch.manual_seed(1)
        (-model.elbo(series(), samples=2).mean()).backward()
        found.append({name: param.grad for name, param in model.named_parameters() if param.requires_grad})
        model.zero_grad()
    for name, grad in found[0].items():
        assert grad is not None, name
        torch.testing.assert_close(grad, found[1][name], atol=1e-4, rtol=1e-3)


def test_it_learns() -> None:
    """The bound of noisy sines rises, and the mean of the paths reconstructs them."""
    model = task(readout=Readout(Perceptron([]), Gaussian(0.1)), bound=PathBound(anneal=20))
    batch, optimizer = series(16), torch.optim.Adam(model.parameters(), 2e-2)
    before = float(model.elbo(batch).mean().detach())
    for _ in range(80):
        optimizer.zero_grad()
        (-model.elbo(batch).mean()).backward()
        optimizer.step()
    assert float(model.elbo(batch).mean().detach()) > before + 100
    with torch.no_grad():
        assert float((model.predict(batch) - batch.y).square().mean()) < 0.05


def test_samples_and_figures() -> None:
    """Samples of the prior have the data's shape and t₀ to t₁, and each figure can be drawn."""
    model, batch = task(), series()
    drawn = model.sample(6)
    assert drawn["x"].shape == (6, 100, 2)
    assert drawn["t"][0, -1] == 1.0
    assert model.sample_at(torch.tensor([0.0, 0.3, 0.9]), 4).shape == (4, 3, 2)
    with torch.no_grad():
        assert {"series", "samples", "marginals"} <= set(model.figures(batch))
        uneven = batch._replace(t=batch.t + 0.01 * torch.arange(5)[:, None])
        assert "marginals" in model.figures(uneven)


def test_annealing() -> None:
    """The factor of the divergence rises from 0 to the weight."""
    bound = PathBound(weight=0.5, anneal=10)
    assert [bound.factor(step) for step in (0, 5, 10, 99)] == [0.0, 0.25, 0.5, 0.5]
    assert PathBound().factor(0) == 1.0


def test_bad_options_are_errors() -> None:
    """Widths that do not fit, ordinary solvers, early times and bounds out of order are refused in words."""
    with pytest.raises(of.SettingError, match=r"the posterior at least this; got 3 and 2"):
        LatentSDE(MLP(3), MLP(2), EulerMaruyama(num_steps=2), dim=2)
    with pytest.raises(of.SettingError, match=r"RK4 solves ordinary equations, and .* has diagonal noise"):
        task(solver=RK4(num_steps=2)).elbo(series())
    with pytest.raises(of.SettingError, match=r"backward in time"):
        task(flow=of.FlowOptions(t0=0.5)).elbo(series())
    with pytest.raises(of.SettingError, match=r"expects 0 ≤ smallest < largest; got 2 and 1"):
        Entrywise(2, largest=1, smallest=2)
    with pytest.raises(of.SettingError, match=r"does not support flow\.steer"):
        task(flow=of.FlowOptions(steer=0.1))
    stratonovich = task(calculus="stratonovich", solver=StochasticHeun(step_size=0.1))
    assert stratonovich.elbo(series()).shape == (5,)


def walks(folder: Path, frames: int = 12) -> Path:
    random = np.random.default_rng(0)
    parts = {"train": 16, "val": 3, "test": 4}
    arrays: dict[str, Any] = {name: random.normal(size=(count, frames, 50)) for name, count in parts.items()}
    np.savez(folder / "mocap35.npz", **arrays)
    return folder


def test_mocap(tmp_path: Path) -> None:
    """The first three frames are seen; all are targets in training, the others in evaluation."""
    data = Mocap(root=str(walks(tmp_path)), steps=2)
    data.setup("fit")
    assert data.train.target.all()
    assert data.train.seen.sum() == 16 * 3 * 50
    assert torch.equal(data.test.target, ~data.test.seen)
    assert data.test.target.sum() == 4 * 9 * 50
    assert len(list(data.train_dataloader())) == 2
    with pytest.raises(of.DataError, match=r"there is no file .*mocap35\.npz\. Wanted is .* Name its folder by"):
        Mocap(root=str(tmp_path / "nowhere")).setup("fit")
    np.savez(tmp_path / "mocap35.npz", train=np.zeros((2, 3)), val=np.zeros((2, 3)), test=np.zeros((2, 3)))
    with pytest.raises(of.DataError, match=r"train has shape \(2, 3\)"):
        data.setup("fit")


def test_windows_of_mocap(tmp_path: Path) -> None:
    """A window is a stretch of one walk, from any frame on; its first frames are seen, all are targets."""
    data = Mocap(root=str(walks(tmp_path)), steps=3, window=10, batch_size=40)
    data.setup("fit")
    torch.manual_seed(0)
    (first, *others) = list(data.train_dataloader())
    assert len(others) == 2
    assert first.y.shape == (40, 10, 50)
    assert first.target.all()
    assert first.seen.any(-1).sum(1).tolist() == [3] * 40
    assert torch.allclose(first.t[:, -1], torch.full((40,), 9 * 0.02))
    stretches = data.train.y.unfold(1, 10, 1).transpose(2, 3).flatten(0, 1)  # three of each walk
    found = torch.cdist(first.y.flatten(1), stretches.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert not found.amin(1).any()
    assert {int(place) % 3 for place in found.argmin(1)} == {0, 1, 2}
    longer = Mocap(root=str(tmp_path), window=13)
    longer.setup("fit")
    with pytest.raises(of.DataError, match="walks have 12 frames; a window can't have 13"):
        longer.train_dataloader()
    with pytest.raises(of.SettingError, match="window must be at least 4; got 3"):
        Mocap(root=str(tmp_path), window=3)


def test_speeds_of_mocap(tmp_path: Path) -> None:
    """A window is passed at a random speed, whose logarithm has the stated deviation, and stays in its walk."""
    torch.manual_seed(0)
    ramps = np.arange(300.0, dtype=np.float32)[:, None] + 1000 * np.arange(2, dtype=np.float32)[:, None, None]
    np.savez(tmp_path / "mocap35.npz", **{part: np.repeat(ramps, 50, 2) for part in ("train", "val", "test")})
    data = Mocap(root=str(tmp_path), steps=1, window=120, speed=0.1, batch_size=4000)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    y = batch.y[..., 0].double()
    steps, frames = y.diff(dim=1), y % 1000
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=5e-4)
    assert float(steps[:, 0].log().std()) == pytest.approx(0.1, rel=0.05)
    assert 0 <= float(frames.min()) < 1
    assert 298 < float(frames.max()) <= 299
    assert float((y[:, 0] > 500).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert batch.seen.any(-1).sum(1).tolist() == [3] * 4000
    tight = Mocap(root=str(tmp_path), steps=1, window=299, speed=1.0)
    tight.setup("fit")
    (batch,) = tight.train_dataloader()
    assert float((batch.y[..., 0] % 1000).max()) <= 299
    with pytest.raises(of.SettingError, match=r"Mocap: speed=0\.1 is that of windows; give window, such as 200, too"):
        Mocap(root=str(tmp_path), speed=0.1)


def test_published_mocap(shared: Path) -> None:
    """The published split has 16, 3 and 4 walks of 300 frames."""
    data = Mocap(root=str(shared / "data" / "mocap"))
    data.setup("fit")
    assert [tuple(part.y.shape) for part in (data.train, data.val, data.test)] == [(n, 300, 50) for n in (16, 3, 4)]


def test_lorenz() -> None:
    """Series are standardised, repeat from the seed, and follow Lorenz's field with noise in proportion to the state."""
    data = StochasticLorenz(count=40, times=5, split=Shares(seed=3))
    data.setup("fit")
    again = StochasticLorenz(count=40, times=5, split=Shares(seed=3))
    again.setup("fit")
    assert torch.equal(data.train.y, again.train.y)
    assert data.units is not None
    whole = torch.cat([data.train.y, data.val.y, data.test.y]).flatten(0, 1)
    assert (whole.mean(0).abs() < 0.05).all()
    assert ((whole.std(0) - 1).abs() < 0.05).all()
    quiet, loud = (StochasticLorenz(diffusion=(b,), times=5).simulated(2000, 1) for b in (0.0, 0.15))
    assert torch.equal(quiet[:, 0], loud[:, 0])
    ratio = (loud[:, 1] - quiet[:, 1])[:, 2].std() / quiet[:, 1, 2].abs().mean()
    assert 0 < float(ratio) < 0.3
    with pytest.raises(of.SettingError, match=r"diffusion must hold one number or three; got \[0\.1, 0\.2\]"):
        StochasticLorenz(diffusion=(0.1, 0.2))


def test_lorenz_keeps_the_laws_of_data() -> None:
    """The data plugin passes the checks of every data plugin."""
    check_data(StochasticLorenz(count=30, times=4))
