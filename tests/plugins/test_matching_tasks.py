"""Laws of matching: fields in closed form are found, densities are whole, and weights serve other tasks."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributions import Independent, Normal

import odeflow as of
from odeflow.plugin.registry import build
from odeflow.testing import task_checks
from odeflow_data import ToyDensity
from odeflow_dynamics import MLP, Linear, ResidualMLP, UNet
from odeflow_matching import (
    Bridge,
    Conditional,
    FlowMatching,
    FromData,
    GaussianRing,
    Guided,
    Interpolant,
    IsotropicNormal,
    Matching,
    MinibatchOT,
    ProbabilityFlow,
    PublishedMoons,
    ReverseDiffusion,
    ScoreMatching,
    Straight,
    Target,
    Transport,
    Trigonometric,
    VESchedule,
    VPSchedule,
)
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Chain, Density, Dequantisation

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)
DOUBLE = torch.float64
MEAN, STD = 1.5, 0.6


def matching(**options: Any) -> FlowMatching:
    torch.manual_seed(0)
    return FlowMatching(MLP(2, hidden=(16,)), Dopri5(1e-5, 1e-5), **{"transport": 20, **options})


def score(**options: Any) -> ScoreMatching:
    torch.manual_seed(0)
    return ScoreMatching(MLP(2, hidden=(16,)), Dopri5(1e-5, 1e-5), **{"transport": 20, **options})


class Moments(of.Dynamics):
    """The velocity, or what else determines it, from N(0, spread²) to N(m, s²), in closed form."""

    width = 2

    def __init__(self, interpolant: Interpolant, wanted: str = "velocity") -> None:
        super().__init__()
        self.interpolant, self.wanted = interpolant, wanted
        self.scale = torch.nn.Parameter(torch.ones((), dtype=DOUBLE))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        at = self.interpolant.coefficients(t.to(y))
        a, b, da, db = (each.reshape(-1, 1) if each.dim() else each for each in (at.a, at.b, at.da, at.db))
        spread = self.interpolant.spread
        variance = (a * STD) ** 2 + (b * spread) ** 2
        away = (y - a * MEAN) / variance
        x0, x1 = b * spread**2 * away, MEAN + a * STD**2 * away
        found = {"velocity": da * x1 + db * x0, "noise": x0 / spread, "score": -away, "v": a * x0 - b * x1}
        return self.scale * found[self.wanted]


def gaussians(count: int) -> Tensor:
    return MEAN + STD * torch.randn(count, 2, dtype=DOUBLE)


# Losses


def test_the_field_of_gaussians_is_learned() -> None:
    """From N(0, 1) to N(m, s²) by straight lines: field and loss come within 1 % of their closed forms."""
    torch.manual_seed(0)
    task = FlowMatching(MLP(2, hidden=(32, 32), activation="silu"), Dopri5())
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
    for _ in range(1200):
        loss = task.training_loss(gaussians(512).float(), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    truth = Moments(Straight())
    with torch.no_grad():
        draw = task.draw(gaussians(20_000).float(), None)
        best = truth(draw.t.double(), draw.x.double())
        found = task.evaluated(task.flow.dynamics, draw.t, draw.x, None)
        least = (best - draw.velocity).square().mean()
        assert (found - best).square().mean() < 0.01 * best.square().mean()
        assert (task.compare(draw) - least) / least < 0.01


@pytest.mark.parametrize(
    "interpolant", [Straight(), Target(0.1), Trigonometric(), VPSchedule(), VESchedule(sigma_max=100.0)]
)
def test_the_flow_of_the_best_field_ends_in_the_data(interpolant: Interpolant) -> None:
    """The least squares' solution has the likelihood of the data, but for the noise that an interpolant leaves."""
    task = FlowMatching(Moments(interpolant), Dopri5(1e-8, 1e-8), interpolant=interpolant).double().eval()
    end = interpolant.coefficients(torch.ones((), dtype=DOUBLE))
    left = math.hypot(STD, end.b.item() * interpolant.spread)
    start = interpolant.coefficients(torch.zeros((), dtype=DOUBLE)).a.item()  # which the source leaves out
    x = gaussians(20)
    wanted = Independent(Normal(torch.full((2,), MEAN, dtype=DOUBLE), left), 1).log_prob(x)
    torch.testing.assert_close(task.log_prob(x), wanted, atol=1e-4 + 5 * start * MEAN / interpolant.spread, rtol=0)


def test_the_time_of_the_flow_is_free() -> None:
    """A flow over [2, 0] has the field of one over [0, 1], reversed and half as fast."""
    plain, other = matching(), matching(flow=of.FlowOptions(t0=2.0, t1=0.0))

    class Half(of.Dynamics):
        width = 2

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -plain.flow.dynamics(1 - t / 2, y) / 2

    other.flow.dynamics = Half()
    x = torch.randn(30, 2)
    for task in (plain, other):
        torch.manual_seed(1)
        task.found = task.training_loss(x, None)
    torch.testing.assert_close(plain.found, other.found)
    torch.testing.assert_close(plain.eval().log_prob(x), other.eval().log_prob(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", [matching(interpolant=Bridge(0.5)), score()], ids=["flow", "score"])
def test_the_loss_is_a_mean_over_samples(task: Matching) -> None:
    """Given what was drawn, loss and gradient of a batch are the means of those of its halves, as of two processes."""
    draw = task.draw(torch.randn(40, 2), None)

    def gradient(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(task.parameters())))

    whole = task.compare(draw)
    halves = [task.compare(draw.take(slice(start, start + 20))) for start in (0, 20)]
    torch.testing.assert_close(whole, sum(halves) / 2)
    for one, first, second in zip(gradient(whole), *map(gradient, halves), strict=True):
        torch.testing.assert_close(one, (first + second) / 2)


@pytest.mark.parametrize("prediction", ["noise", "score", "v"])
def test_all_predictions_are_the_same_flow(prediction: Any) -> None:
    """Noise, score and v in closed form make the velocity of the moments, and their loss is the least possible one."""
    interpolant = VPSchedule()
    task = ScoreMatching(Moments(interpolant, prediction), RK4(num_steps=2), prediction=prediction).double()
    y, t = torch.randn(7, 2, dtype=DOUBLE), torch.linspace(0, 1, 7, dtype=DOUBLE)
    torch.testing.assert_close(task.flow.dynamics(t, y), Moments(interpolant)(t, y))
    draw = task.draw(gaussians(2000), None)
    best = task.compare(draw)
    for factor in (0.9, 1.1):
        with torch.no_grad():
            task.flow.dynamics.dynamics.scale.fill_(factor)
        assert task.compare(draw) > best


# Options and kinds


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coupling": MinibatchOT()},
        {"interpolant": Bridge(), "chain": Chain(whitening=True)},
        {"base": GaussianRing()},
    ],
)
def test_every_law_of_tasks(options: dict[str, Any]) -> None:
    """The conformance tests hold for several options."""
    for check in task_checks(matching(**options), torch.randn(12, 2)):
        check()


def test_every_law_of_tasks_holds_for_scores() -> None:
    """The conformance tests hold for a score, with other noise, too."""
    for options in ({}, {"interpolant": VESchedule(sigma_max=5.0)}):
        for check in task_checks(score(**options), torch.randn(12, 2)):
            check()


def test_the_source_of_an_exploding_diffusion_is_as_wide() -> None:
    """Without a base, it is normal with the interpolant's spread."""
    base = matching(interpolant=VESchedule(sigma_max=7.0)).cnf.given_base
    assert isinstance(base, IsotropicNormal)
    assert base.std == 7.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": Chain(num_flows=2)}, "FlowMatching matches one flow"),
        ({"chain": Chain(batch_norm=True)}, "FlowMatching matches one flow"),
        ({"flow": of.FlowOptions(regularizers=(of.Kinetic(0.1),))}, "flow.regularizers: training solves nothing"),
        ({"flow": of.FlowOptions(steer=0.1)}, "flow.steer: training solves nothing"),
        ({"drop": 0.1}, "drop = 0.1 leaves out conditions, of which there are none"),
        ({"drop": 1.5}, "drop must lie in"),
        ({"transport": -1}, "transport must be at least 0"),
        ({"base": FromData(ToyDensity("rings")), "shape": (2,), "coupling": None, "noise": 1}, "noise"),
    ],
)
def test_unsupported_options_are_refused(options: dict[str, Any], message: str) -> None:
    """What training by matching cannot use is an error."""
    with pytest.raises((of.SettingError, of.PluginError, TypeError), match=message):
        matching(**options)


@pytest.mark.parametrize(
    ("interpolant", "prediction", "message"),
    [
        (Bridge(), "noise", "Bridge has noise of its own"),
        (Straight(), "v", r'"v" needs a² \+ b² = 1, which Straight is not'),
        (Trigonometric(), "noise", "data have no share in Trigonometric at its start"),
        (VPSchedule(), "velocity", "must be 'noise', 'score' or 'v'; got 'velocity'"),
    ],
)
def test_predictions_that_determine_no_velocity_are_refused(
    interpolant: Interpolant, prediction: Any, message: str
) -> None:
    """The error says what to use instead."""
    with pytest.raises(of.SettingError, match=message):
        ProbabilityFlow(MLP(2), interpolant, prediction)


# Sources


def test_the_ring_has_the_density_of_its_points() -> None:
    """Its entropy by samples is that by quadrature, and its spread the published one."""
    torch.manual_seed(0)
    ring = GaussianRing()
    ring.build(2)
    at = torch.linspace(-9, 9, 361)
    grid = torch.cartesian_prod(at, at)
    p = ring().log_prob(grid).exp() * 0.05**2
    assert p.sum().item() == pytest.approx(1, abs=1e-4)
    x = ring().sample(torch.Size([40_000]))
    assert -ring().log_prob(x).mean().item() == pytest.approx(-(p * ring().log_prob(grid)).sum().item(), abs=0.02)
    around = (x[:, None] - ring.centers).norm(dim=2).min(1).values
    assert around.square().mean().sqrt().item() == pytest.approx(0.562 * 2**0.5, abs=0.02)
    with pytest.raises(of.SettingError, match="of the plane; got data of length 3"):
        ring.build(3)


def test_a_data_set_is_a_source(tmp_path: Path) -> None:
    """Its rows are drawn, its density is that of the data, and a checkpoint holds the rows."""
    data, source = ToyDensity("two_moons", 64, 128, 64, 64), ToyDensity("rings", 64, 200, 64, 64)
    task = matching(base=FromData(source), transport=64)
    trainer = quiet(tmp_path)
    trainer.fit(task, data)
    rows = task.cnf.given_base.rows
    assert torch.equal(rows, source.training_part())
    x = task.cnf.base.sample(torch.Size([50]))
    assert bool((x[:, None] == rows).all(2).any(1).all())
    torch.testing.assert_close(task.cnf.base.log_prob(x), source.log_density(x))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    again: Any = of.load(tmp_path / "task.ckpt")
    assert torch.equal(again.cnf.given_base.rows, rows)
    torch.testing.assert_close(again.log_prob(x), task.eval().log_prob(x))


def test_a_source_of_unknown_density_has_no_likelihood(tmp_path: Path) -> None:
    """Evaluation then reports the loss of matching and distances; what asks for a likelihood is an error."""
    task = matching(base=FromData(PublishedMoons(64, 128, 64, 64)), transport=64)
    trainer = quiet(tmp_path)
    trainer.fit(task, ToyDensity("rings", 64, 128, 64, 64))
    found = trainer.callback_metrics
    assert found["val/loss"] == found["val/matching"]
    assert found["val/w2_squared"].isfinite()
    assert task.sample(3)["x"].shape == (3, 2)
    assert set(task.figures(torch.randn(9, 2))) == {"samples", "flow_lines", "base"}
    with pytest.raises(of.StateError, match="whose density is not known"):
        task.log_prob(torch.randn(3, 2))


def test_a_source_of_another_length_is_refused() -> None:
    """The error names both lengths."""
    with pytest.raises(of.SettingError, match=r"of the length of its data, 3; ToyDensity has the shape \(2,\)"):
        FlowMatching(MLP(3), RK4(num_steps=1), base=FromData(ToyDensity()))


def test_published_moons_are_ribbons() -> None:
    """The noise is uniform and the same in both coordinates, of both moons; conditions are the moon or x."""
    data = PublishedMoons(100, 400, 100, 100, condition="class")
    x, c = data.training_part()
    points = (x.double() + 1) / 3
    for moon in (-1.0, 1.0):
        p = points[c[:, 0] == moon]
        centre = torch.tensor([0.0, 0.0] if moon < 0 else [1.0, 0.5], dtype=DOUBLE)
        shift = torch.linspace(0, 0.2, 2001, dtype=DOUBLE)
        away = ((p[:, None] - shift[:, None] - centre).norm(dim=2) - 1).abs().min(1).values
        assert away.max() < 1e-3
    assert set(c.flatten().tolist()) == {-1.0, 1.0}
    x, c = PublishedMoons(condition="x").training_part()
    assert torch.equal(x[:, :1], c)
    with pytest.raises(of.SettingError, match="must be 'none', 'class' or 'x'; got 'y'"):
        PublishedMoons(condition="y")  # pyright: ignore


def test_published_moons_in_the_order_of_the_release() -> None:
    """The outer moon comes first, each moon by angle; shuffled points are those of the same noise, mixed."""
    data = PublishedMoons(256, 1024, seed=3, condition="class", shuffle=False)
    x, c = data.training_part()
    assert torch.equal(c[:, 0], torch.cat([-torch.ones(512), torch.ones(512)]))
    clean = x.double() / 3 + 1 / 3  # both coordinates have the same noise, so that their difference has none
    along = (clean[:, 0] - clean[:, 1])[:512]
    angle = torch.linspace(0, torch.pi, 512, dtype=DOUBLE)
    assert torch.allclose(along, angle.cos() - angle.sin(), atol=1e-5)
    mixed, _ = PublishedMoons(256, 1024, seed=3, condition="class").training_part()
    assert not torch.equal(mixed, x)
    assert torch.equal(mixed.sort(0).values, x.sort(0).values)


# Evaluation


def quiet(folder: Path, **options: Any) -> Trainer:
    silent: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=1, enable_checkpointing=False, **silent, **options
    )


@pytest.mark.parametrize("condition", ["none", "class"])
def test_evaluation_reports_likelihood_distance_and_energy(tmp_path: Path, condition: Any) -> None:
    """With what they are to be compared to: the Gaussian, other data, and the source."""
    conditions = int(condition != "none")
    task = FlowMatching(MLP(2 + conditions), RK4(num_steps=4), num_conditions=conditions, transport=100)
    trainer = quiet(tmp_path)
    trainer.fit(task, PublishedMoons(64, 128, 128, 64, condition=condition))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name in ("loss", "loss_gaussian", "matching", "w2_squared", "path_energy"):
        assert math.isfinite(found[f"val/{name}"])
    assert 0 < found["val/w2_squared_data"] < found["val/w2_squared_source"]


def test_distances_are_those_of_an_independent_program() -> None:
    """W₂² of all updates equals POT's `emd2`; more points than wanted are left out."""
    ot = pytest.importorskip("ot")
    x, y = torch.randn(70, 2, dtype=DOUBLE), 1 + torch.rand(70, 2, dtype=DOUBLE)
    metric = Transport(50)
    metric.update(x[:40], y[:40])
    assert metric.missing == 10
    metric.update(x[40:], y[40:])
    assert metric.missing == 0
    assert metric.compute().item() == pytest.approx(ot.emd2([], [], ot.dist(x[:50].numpy(), y[:50].numpy())), rel=1e-5)


def test_the_energy_of_a_translation_is_its_square() -> None:
    """A flow that moves all points by d has the path energy |d|², the least one."""
    field = Linear(2, matrix=[[0.0, 0.0], [0.0, 0.0]])
    task = FlowMatching(field, Dopri5())
    with torch.no_grad():
        field.layer.bias.copy_(torch.tensor([3.0, 4.0]))
    z = torch.randn(10, 2)
    end, energy = task.travelled(z, None)
    torch.testing.assert_close(end, z + torch.tensor([3.0, 4.0]))
    assert energy.item() == pytest.approx(25)


# Other tasks, conditions and images


def test_weights_serve_likelihood_and_back() -> None:
    """`Density` takes the weights of a matched flow, and gives the same likelihood; and the other way round."""
    matched = matching(chain=Chain(whitening=True)).eval()
    likely = Density(MLP(2, hidden=(16,)), Dopri5(1e-5, 1e-5), chain=Chain(whitening=True)).eval()
    likely.load_state_dict(matched.state_dict())
    x = torch.randn(5, 2)
    torch.testing.assert_close(likely.log_prob(x), matched.log_prob(x))
    likely.train().loss(x, "train").backward()
    matched.load_state_dict(likely.state_dict())
    by_score = score()
    field = ProbabilityFlow(MLP(2, hidden=(16,)), VPSchedule())
    same = Density(field, Dopri5(1e-5, 1e-5))
    same.load_state_dict(by_score.state_dict())
    torch.testing.assert_close(same.eval().log_prob(x), by_score.eval().log_prob(x))


def test_guidance_goes_from_the_free_field_beyond_the_given_one() -> None:
    """Scale 0 ignores the condition, 1 is the field, 2 goes as far again; training is not guided."""
    torch.manual_seed(0)
    net = MLP(5)
    y, t = torch.randn(6, 5), torch.tensor(0.3)
    free = net(t, torch.cat([y[:, :2], torch.zeros(6, 3)], 1))
    fields = {scale: Guided(net, 3, scale) for scale in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(fields[0.0].eval()(t, y), free)
    torch.testing.assert_close(fields[1.0].eval()(t, y), net(t, y))
    torch.testing.assert_close(fields[2.0].eval()(t, y), 2 * net(t, y) - free)
    torch.testing.assert_close(fields[2.0].train()(t, y), net(t, y))
    with pytest.raises(of.SettingError, match="conditions must lie in"):
        Guided(net, 5)


def test_guidance_of_a_task_is_that_of_its_field() -> None:
    """Samples of a guided task are those of the field with this scale; a field without guidance says so."""
    torch.manual_seed(0)
    condition = torch.eye(3)[torch.arange(6) % 3]

    def drawn(task: FlowMatching) -> torch.Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            return task.eval().sample(6, condition)["x"]

    net = MLP(5)
    task, stronger = (
        FlowMatching(Guided(net, 3, scale), RK4(num_steps=2), num_conditions=3, drop=0.2, coupling=Conditional())
        for scale in (1.0, 3.0)
    )
    before = drawn(task)
    task.guide(3.0)
    assert not torch.allclose(drawn(task), before)
    torch.testing.assert_close(drawn(task), drawn(stronger))
    with pytest.raises(of.SettingError, match="guidance needs dynamics that were trained as Guided"):
        FlowMatching(MLP(2), RK4(num_steps=1)).guide(2.0)


def test_dropped_conditions_are_zero() -> None:
    """The share of dropped conditions is about `drop`, and the others are unchanged."""
    task = FlowMatching(MLP(5), RK4(num_steps=1), num_conditions=3, drop=0.3, coupling=Conditional())
    condition = torch.eye(3)[torch.randint(3, (400,))]
    found = task.draw(torch.randn(400, 2), condition).condition
    assert found is not None
    dropped = (found == 0).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(found[~dropped], condition[~dropped])


def images(task_type: Any = FlowMatching, **options: Any) -> Any:
    torch.manual_seed(0)
    net = UNet(1, hidden=8, depth=1, groups=4, attention=2, embedding=16, conditions=3)
    return task_type(
        net,
        RK4(num_steps=2),
        shape=(1, 6, 6),
        by_class=True,
        num_classes=3,
        eval_divergence=of.Hutchinson(),
        dequantisation=Dequantisation(levels=256, space="linear"),
        **options,
    )


def test_images_of_classes() -> None:
    """Labels are conditions; samples, likelihoods and figures are of the images' shape."""
    task = images(drop=0.2, transport=0)
    x, label = torch.rand(5, 1, 6, 6), torch.tensor([0, 2, 1, 1, 0])
    for check in task_checks(task, (x, label)):
        check()
    assert torch.equal(task.usual_conditions(4), torch.eye(3)[[0, 1, 2, 0]])
    drawn = task.sample(4, task.usual_conditions(4))
    assert drawn["x"].shape == (4, 1, 6, 6)
    assert task.eval().predict_step((x, label), 0).shape == (5,)
    assert set(task.figures((x, label))) == {"samples"}
    with pytest.raises(of.DataError, match="labels must lie between 0 and 2; got 3 to 5"):
        task.loss((x, label + 3), "train")


def test_the_condition_of_an_image_matters_everywhere() -> None:
    """The field of a U-Net with conditions depends on them, and leaves their channels alone."""
    task = images()
    net = task.flow.dynamics
    y = torch.cat([torch.randn(2, 1, 6, 6), torch.eye(3)[:2, :, None, None].expand(2, 3, 6, 6)], 1)
    out = net(torch.tensor(0.5), y)
    assert out.shape == y.shape
    assert bool((out[:, 1:] == 0).all())
    other = torch.cat([y[:, :1], y[:, 1:].flip(0)], 1)
    assert not torch.allclose(net(torch.tensor(0.5), other)[:, :1], out[:, :1])


def test_linear_dequantisation_keeps_the_likelihood_of_uniform_bytes() -> None:
    """A flow of the uniform density on [−1, 1] would need log₂ 256 = 8 bits; any other is worse on uniform bytes."""
    levels = Dequantisation(levels=256, space="linear")
    (bijection,) = levels.transforms()
    x = levels(torch.rand(10, 1, 6, 6))
    z, log_det = bijection.inverse(x)
    assert z.abs().max() <= 1
    nll = -(-math.log(2) * 36 + log_det)
    torch.testing.assert_close(levels.bits_per_dim(nll, 36), torch.full((10,), 8.0))
    with pytest.raises(of.SettingError, match="space must be 'logit' or 'linear'; got 'log'"):
        Dequantisation(levels=2, space="log")  # pyright: ignore


@pytest.mark.parametrize("task", [matching(base=GaussianRing(), coupling=Conditional(3.0)), score(prediction="score")])
def test_specs_rebuild(task: Matching) -> None:
    """A checkpoint holds the task by its options."""
    again = build(task.spec)
    again.load_state_dict(task.state_dict())
    x = torch.randn(4, 2)
    torch.testing.assert_close(again.eval().log_prob(x), task.eval().log_prob(x))


@pytest.mark.slow
def test_two_moons_are_matched() -> None:
    """The negative log-likelihood comes within 0.02 nats of the entropy, and the density integrates to 1 ± 0.001."""
    torch.manual_seed(0)
    data = ToyDensity("two_moons", 256, 102_400)
    task = FlowMatching(ResidualMLP(2, hidden=64), Dopri5(1e-4, 1e-4), coupling=MinibatchOT(), transport=0)
    field, steps = task.flow.dynamics, 8000
    optimizer = torch.optim.Adam(task.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mean = torch.optim.swa_utils.AveragedModel(field, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    for x in itertools.islice(itertools.chain.from_iterable(iter(data.train_dataloader, None)), steps):
        loss = task.training_loss(x, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean.update_parameters(field)
    field.load_state_dict(mean.module.state_dict())
    data.setup("test")
    x, at = data.test[:3000], torch.linspace(-4, 4, 100)
    with torch.no_grad():
        excess = data.log_density(x) - task.eval().log_prob(x)
        total = task.log_prob(torch.cartesian_prod(at, at)).exp().sum() * (8 / 99) ** 2
    assert excess.mean() < 0.02 + 2 * excess.std() / len(x) ** 0.5
    assert total.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("prediction", "corrector"), [("noise", 0.0), ("score", 0.0), ("v", 0.0), ("noise", 2.0)])
def test_the_reverse_diffusion_ends_in_the_data(prediction: Any, corrector: float) -> None:
    """With the exact score, samples of the stochastic equation have the data's moments, with Langevin dynamics too."""
    from odeflow_sde import SRA1

    torch.manual_seed(0)
    interpolant, count = VPSchedule(), 4000
    flow = ProbabilityFlow(Moments(interpolant, prediction), interpolant, prediction)
    diffusion = of.Flow(ReverseDiffusion(flow, corrector), SRA1(num_steps=60))
    with torch.no_grad():
        x = diffusion(torch.randn(count, 2, dtype=DOUBLE))
    assert (x.mean(0) - MEAN).abs().max() < 5 * STD / count**0.5 + 0.01
    assert (x.std(0) - STD).abs().max() < 5 * STD / (2 * count) ** 0.5 + 0.01


def test_the_reverse_diffusion_of_another_field() -> None:
    """Only a probability flow has a score."""
    with pytest.raises(of.SettingError, match="needs the ProbabilityFlow that ScoreMatching trains; got MLP"):
        ReverseDiffusion(MLP(2))


def test_a_corrector_draws_back_what_strayed() -> None:
    """Points that begin wrongly end nearer to the data with Langevin dynamics than without."""
    from odeflow_sde import SRA1

    torch.manual_seed(0)
    flow = ProbabilityFlow(Moments(VPSchedule(), "noise"), VPSchedule())
    halfway = torch.full((2000, 2), 5.0, dtype=DOUBLE)
    off = {}
    for corrector in (0.0, 3.0):
        diffusion = of.Flow(ReverseDiffusion(flow, corrector), SRA1(num_steps=60), options=of.FlowOptions(0.5, 1.0))
        with torch.no_grad():
            off[corrector] = (diffusion(halfway).mean(0) - MEAN).abs().max()
    assert off[3.0] < 0.5 * off[0.0]


def test_samples_by_a_stochastic_solver_are_of_the_reverse_diffusion() -> None:
    """They have the data's moments behind a bijection, too, and no density, which is not known."""
    from odeflow_sde import SRA1

    torch.manual_seed(0)
    interpolant, count = VPSchedule(), 3000
    net = Moments(interpolant, "noise")
    task = ScoreMatching(net, SRA1(num_steps=60), interpolant=interpolant, chain=Chain(whitening=True)).double()
    whitening = task.cnf.transforms[1]
    assert isinstance(whitening, of.Whitening)
    whitening.fit(3 + 2 * torch.randn(100, 2))
    with torch.no_grad():
        drawn = task.sample(count)
    assert [*drawn] == ["x"]
    x, _ = whitening.inverse(drawn["x"])
    assert (x.mean(0) - MEAN).abs().max() < 5 * STD / count**0.5 + 0.01
    assert task.flow.stats is not None
    assert task.flow.stats.nfe_forward >= 60


def test_stochastic_samples_need_their_conditions() -> None:
    """As samples of the probability flow do; conditions reach the net."""
    from odeflow_sde import SRA1

    task = ScoreMatching(MLP(3, hidden=(16,)), SRA1(num_steps=2), num_conditions=1)
    with torch.no_grad():
        assert task.sample(4, torch.zeros(4, 1))["x"].shape == (4, 2)
    with pytest.raises(of.DataError, match=r"expects conditions of shape \(4, 1\); got none"):
        task.sample(4)
