"""Laws of the density task: a likelihood that is one, in training as in tests, and pictures of it."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_data import ToyDensity
from odeflow_dynamics import MLP, Linear, PlanarCNF, UNet
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Chain, Density, Dequantisation

DOUBLE = torch.float64
SCALES = torch.tensor([0.5, -1.0], dtype=DOUBLE)


def gaussian(tolerance: float = 1e-10) -> Density:
    """A normal density carried along dy/dt = Ay + b with A = diag(a): normal too, of the scales exp(a)."""
    field = Linear(2)
    task = Density(field, Dopri5(tolerance, tolerance)).double().eval()
    with torch.no_grad():
        field.layer.weight.copy_(SCALES.diag())
        field.layer.bias.copy_(torch.tensor([1.0, -2.0]))
    return task


def stacked(solver: of.Solver | None = None, **options: Any) -> Density:
    """Three flows with batch norms that have seen data, in evaluation mode."""
    torch.manual_seed(0)
    chain = Chain(**{"num_flows": 3, "batch_norm": True, **options})
    flow = of.FlowOptions(t1=0.5)
    task = Density(MLP(2, hidden=(16,)), solver or Dopri5(1e-8, 1e-8), flow=flow, chain=chain).double()
    with torch.no_grad():
        for flow in (part for part in task.cnf.transforms if isinstance(part, of.Flow)):
            flow.dynamics.layers[-1].weight *= 3
        task.train().log_prob(torch.randn(50, 2, dtype=DOUBLE) * 1.3 + 0.5)
    return task.eval()


def integral(task: Density, reach: float = 10.0, size: int = 160) -> float:
    """∫ exp(log_prob) over a square, by the midpoint rule."""
    width = 2 * reach / size
    at = torch.arange(-reach + width / 2, reach, width, dtype=DOUBLE)
    with torch.no_grad():
        return (task.log_prob(torch.cartesian_prod(at, at)).exp().sum() * width**2).item()


def test_a_linear_flow_makes_the_gaussian_that_it_should() -> None:
    """With A = diag(a) the log-density is that of N((e^a − 1) b / a, e^2a), in training mode and in evaluation."""
    task = gaussian()
    mean = (SCALES.exp() - 1) / SCALES * torch.tensor([1.0, -2.0], dtype=DOUBLE)
    truth = Independent(Normal(mean, SCALES.exp()), 1)
    x = 2 * torch.randn(50, 2, dtype=DOUBLE)
    for mode in (True, False):
        assert torch.allclose(task.train(mode).log_prob(x), truth.log_prob(x), atol=1e-6)


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_the_loss_is_the_mean_of_minus_log_p(stage: str) -> None:
    """For every stage, and whether a batch has labels or not; what is predicted is log p."""
    task, x = gaussian(1e-5), torch.randn(9, 2, dtype=DOUBLE)
    log_prob = task.log_prob(x)
    for batch in (x, (x, torch.zeros(9)), [x]):
        assert torch.equal(task.loss(batch, stage), -log_prob.mean())
        assert torch.equal(task.predict_step(batch, 0), log_prob)
    assert torch.equal(task(x), log_prob)
    assert task.sample_count(x) == 9


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_density_integrates_to_one(batch_norm: bool) -> None:
    """∫ p(x) dx = 1, with stacked flows and batch norms too."""
    assert integral(stacked(Dopri5(1e-5, 1e-5), batch_norm=batch_norm, num_flows=2)) == pytest.approx(1, abs=1e-3)


def test_samples_come_with_their_density() -> None:
    """The log-densities that samples come with are those that log_prob gives, and no gradient hangs on them."""
    task = stacked()
    torch.manual_seed(1)
    samples = task.sample(20)
    assert samples.keys() == {"x", "log_prob"}
    assert samples["x"].shape == (20, 2)
    assert not samples["x"].requires_grad
    assert torch.allclose(task.log_prob(samples["x"]), samples["log_prob"], atol=1e-5)


def test_stacked_flows_and_norms_can_be_inverted() -> None:
    """Norms stand around and between the flows, each flow has parameters of its own, and all can be undone."""
    task, x = stacked(), torch.randn(10, 2, dtype=DOUBLE)
    names = [type(part).__name__ for part in task.cnf.transforms]
    assert names == ["MovingBatchNorm", "Flow"] * 3 + ["MovingBatchNorm"]
    first, second, _ = (part.dynamics for part in task.cnf.transforms if isinstance(part, of.Flow))
    assert not torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert task.cnf.inconsistency(x) < 1e-6
    again = build(task.spec)
    again.load_state_dict(task.state_dict())
    assert torch.allclose(again.double().eval().log_prob(x), task.log_prob(x))


def test_noise_is_for_training_alone() -> None:
    """By Hutchinson's estimate the training loss changes from call to call, the others do not, unless it is wanted."""
    x = torch.randn(9, 2, dtype=DOUBLE)
    task = Density(MLP(2), RK4(num_steps=2), divergence=of.Hutchinson("gaussian")).double()
    assert task.loss(x, "train") != task.loss(x, "train")
    exact = Density(MLP(2), RK4(num_steps=2)).double()
    exact.load_state_dict(task.state_dict())
    assert torch.equal(task.eval().loss(x, "val"), exact.loss(x, "val"))
    noisy = Density(MLP(2), RK4(num_steps=2), eval_divergence=of.Hutchinson("gaussian")).double().eval()
    assert noisy.loss(x, "val") != noisy.loss(x, "val")


def test_inference_mode_changes_nothing() -> None:
    """Where Lightning tests and predicts, densities are as elsewhere, although a trace needs a gradient."""
    task, x = stacked(), torch.randn(9, 2, dtype=DOUBLE)
    truth = task.log_prob(x).detach()
    with torch.inference_mode():
        assert torch.equal(task.log_prob(x), truth)
        assert torch.equal(task.predict_step(x.clone(), 0), truth)
        samples = task.sample(5)
    assert torch.allclose(task.log_prob(samples["x"]), samples["log_prob"], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
def test_penalties_and_losses_are_logged(tmp_path: Any) -> None:
    """Training logs the loss in nats apart from the penalties, whose sum is minimised; a test finds what it should."""
    torch.manual_seed(0)
    task = Density(
        PlanarCNF(2, 4),
        RK4(num_steps=2),
        flow=of.FlowOptions(regularizers=[of.Kinetic(0.1), of.JacobianNorm(0.1)], steer=0.3),
    )
    loader = DataLoader(TensorDataset(torch.randn(40, 2)), batch_size=20)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=2, logger=False, accelerator="cpu", default_root_dir=tmp_path, **options)
    trainer.fit(task, loader, loader)
    logged = trainer.callback_metrics
    assert logged.keys() >= {"train/loss", "train/loss_epoch", "train/kinetic", "train/jacobian_norm", "val/loss"}
    assert logged["train/kinetic"] > 0
    (result,) = trainer.test(task, loader, verbose=False)
    with torch.no_grad():
        truth = sum(task.eval().loss(batch, "test") for batch in loader) / 2
    assert result["test/loss"] == pytest.approx(truth.item(), abs=1e-5)


def test_maximum_likelihood_finds_a_gaussian() -> None:
    """A linear flow trained on samples of N(1, ½²) comes within a hundredth of their entropy."""
    torch.manual_seed(0)
    task = Density(Linear(1), RK4(num_steps=2), shape=(1,))
    x = 1 + 0.5 * torch.randn(300, 1)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        task.loss(x, "train").backward()
        optimizer.step()
    best = -Normal(x.mean(), x.std()).log_prob(x).mean()
    assert task.eval().loss(x, "val").item() == pytest.approx(best.item(), abs=0.01)


def test_a_trained_density_is_one() -> None:
    """After a training on two moons p integrates to 1, samples come with their density, and x returns from the base."""
    torch.manual_seed(0)
    task = Density(MLP(2, hidden=(32, 32), time="concat_squash"), RK4(num_steps=3), of.Backprop())
    data = ToyDensity("two_moons", samples=25_000, batch_size=256)
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-2)
    for x in data.train_dataloader():
        optimizer.zero_grad()
        task.loss(x, "train").backward()
        optimizer.step()
    (flow,) = (part for part in task.double().eval().cnf.transforms if isinstance(part, of.Flow))
    flow.solver = Dopri5(1e-6, 1e-6)
    data.setup("test")
    test = data.test[:500].double()
    with torch.no_grad():
        assert task.loss(test, "test") < 2.7  # of a single Gaussian at best 3.2
        assert integral(task, reach=6, size=90) == pytest.approx(1, abs=1e-3)
        drawn = task.sample(200)
        assert torch.allclose(task.log_prob(drawn["x"]), drawn["log_prob"], atol=1e-4)
        assert task.cnf.inconsistency(test) < 1e-4


def titles(task: Density, x: Tensor) -> dict[str, list[str]]:
    with torch.no_grad():
        return {name: [axes.get_title() for axes in figure.axes] for name, figure in task.figures(x).items()}


def test_figures_of_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples beside data, the density, the way of density and samples from base to data, and the data in the base."""
    monkeypatch.setattr("odeflow_tasks.density_figures.FINE", 20)
    monkeypatch.setattr("odeflow_tasks.density_figures.COARSE", 10)
    x = torch.randn(30, 2, dtype=DOUBLE)
    steps = [f"{percent} % of the way" for percent in (0, 20, 40, 60, 80, 100)]
    for task in (gaussian(1e-5), stacked(Dopri5(1e-3, 1e-3))):
        state = torch.get_rng_state()
        found = titles(task, x)
        assert torch.equal(state, torch.get_rng_state())
        assert found["samples"] == ["30 data", "30 samples"]
        nll = -task.log_prob(x).mean().item()
        assert found["density"][:2] == ["density", f"log-density; data (dots): {nll:.3f} nats"]
        assert found["evolution"] == steps + [""] * 7  # below them, and the colour bar
        assert found["flow_lines"] == ["samples on their way, coloured by direction"]
        assert found["base"] == ["data, coloured by direction", "the same in the base"]


def test_the_density_between_base_and_data_is_that_of_a_shorter_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 % of the way of dy/dt = Ay + b the scales are exp(0.6 a)."""
    monkeypatch.setattr("odeflow_tasks.density_figures.COARSE", 41)
    task = gaussian(1e-7)
    with torch.no_grad():
        task.cnf.transforms[0].dynamics.layer.bias.zero_()
        figure = task.figures(torch.randn(30, 2, dtype=DOUBLE))["evolution"]
    for number, panel in enumerate(figure.axes[:6]):
        (image,) = panel.get_images()
        peak = 1 / (2 * math.pi * (0.2 * number * SCALES.sum()).exp())
        assert image.get_array().max() == pytest.approx(peak.item(), rel=1e-5)


@pytest.mark.parametrize(("dim", "shown"), [(1, 1), (3, 3), (8, 5)])
def test_other_data_show_their_marginals(dim: int, shown: int) -> None:
    """Apart from the plane, each pair of the first five features is drawn, data and samples."""
    (figure,) = Density(MLP(dim), RK4(num_steps=2)).eval().figures(torch.randn(30, dim)).values()
    assert len(figure.axes) == shown**2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "samples"]


def test_other_tasks_draw_no_samples() -> None:
    """A task says so if it cannot sample."""

    class Other(of.Task):
        def loss(self, batch: Any, stage: str) -> Tensor:
            return torch.zeros(())

    with pytest.raises(of.OdeflowError, match="Other does not implement sampling"):
        Other().sample(3)


def test_errors() -> None:
    """What does not fit is refused with the numbers that came."""
    with pytest.raises(of.SettingError, match="num_flows must be at least 1; got 0"):
        Chain(num_flows=0)
    with pytest.raises(of.SettingError, match="Chain: marginals must be at least 0; got -1"):
        Chain(marginals=-1)
    with pytest.raises(of.SettingError, match="are for vectors with a density"):
        Density(MLP(2), RK4(num_steps=2), chain=Chain(marginals=8), dequantisation=Dequantisation(4))
    with pytest.raises(of.SettingError, match=r"data of shape \(3,\) need dynamics of width 3; got 2"):
        Density(MLP(2), RK4(num_steps=2), shape=(3,))
    with pytest.raises(of.SettingError, match=r"shape \(1, 4, 4\) need dynamics of width 1, .*, or 16, .*; got 2"):
        Density(MLP(2), RK4(num_steps=2), shape=[1, 4, 4])
    with pytest.raises(of.SettingError, match="levels must be at least 2; got 1"):
        Dequantisation(levels=1)
    with pytest.raises(of.DataError, match=r"Density expects data of shape \(B, 2\); got \(4, 3\)"):
        Density(MLP(2), RK4(num_steps=2)).log_prob(torch.zeros(4, 3))


def images(**options: Any) -> Density:
    """A flow of grey images of four levels, whose field sees images."""
    torch.manual_seed(0)
    field, levels = UNet(1, hidden=4, depth=1, groups=2), Dequantisation(4, alpha=1e-3)
    task = Density(field, RK4(num_steps=2), shape=(1, 4, 4), dequantisation=levels, **options).double().eval()
    task.log = lambda *args, **kwargs: None
    return task


def test_images_have_a_density_between_zero_and_one() -> None:
    """Samples are images whose log-density is what log_prob says, a little beyond [0, 1] at most."""
    task = images(chain=Chain(batch_norm=True))
    drawn = task.sample(6)
    assert drawn["x"].shape == (6, 1, 4, 4)
    assert -2e-3 < drawn["x"].min() < drawn["x"].max() < 1 + 2e-3
    assert torch.allclose(task.log_prob(drawn["x"]), drawn["log_prob"], atol=1e-2)
    assert task.figures(drawn["x"]).keys() == {"samples"}


def test_fields_on_vectors_see_images_as_such() -> None:
    """A field as wide as all values gives each image the density of its vector."""
    task = Density(MLP(18), RK4(num_steps=2), shape=(2, 3, 3)).eval()
    x = torch.randn(4, 2, 3, 3)
    assert torch.equal(task.log_prob(x), task.cnf().log_prob(x.flatten(1)))
    assert task.sample(5)["x"].shape == (5, 2, 3, 3)


def test_noise_fills_the_steps_between_levels() -> None:
    """(kx + u)/(k + 1): each value gets the cell of its own, and bits per dimension follow from the loss."""
    task, logged = images(), {}
    task.log = lambda name, value, **options: logged.update({name: value})
    levels = torch.arange(4, dtype=DOUBLE).repeat_interleave(4).view(1, 1, 4, 4) / 3
    spread = task.dequantisation(levels.repeat(500, 1, 1, 1))
    assert torch.equal((spread * 4).floor() / 3, levels.expand_as(spread))
    assert (spread.mean(0) - (levels[0] * 3 + 0.5) / 4).abs().max() < 0.02
    loss = task.loss(levels, "val")
    assert logged["val/bits_per_dim"].item() == pytest.approx((loss.item() / 16 + math.log(4)) / math.log(2))


def test_bits_per_dimension_bound_the_entropy_of_the_levels() -> None:
    """Uniform pixels of four levels take two bits, which no model beats and a trained one comes near."""
    torch.manual_seed(0)
    task = Density(Linear(1), RK4(num_steps=2), dequantisation=Dequantisation(4, alpha=1e-2))
    logged: dict[str, Tensor] = {}
    task.log = lambda name, value, **options: logged.update({name: value})
    x = torch.randint(0, 4, (4000, 1)) / 3
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(x, "train").backward()
        optimizer.step()
    assert 2 <= logged["train/bits_per_dim"] < 2.1
