"""Laws of fitting a known density: the loss is a divergence, the targets are densities, the flow comes close."""

import math
from typing import Any

import pytest
import torch
from scipy import integrate
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_data import StandardNormal
from odeflow_dynamics import PlanarCNF
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Variational
from odeflow_tasks.potential import POTENTIALS, Potential

DOUBLE = torch.float64


@pytest.mark.parametrize("name", POTENTIALS)
def test_targets_are_densities(name: str) -> None:
    """∫ p(x) dx = 1 by another quadrature, and a larger square holds no more."""
    target = POTENTIALS[name]

    def line(x1: float) -> float:
        x2 = torch.linspace(-9, 9, 721, dtype=DOUBLE)
        points = torch.stack([torch.full_like(x2, x1), x2], dim=1)
        return integrate.simpson(target.log_density(points).exp().numpy(), x=x2.numpy())

    total = integrate.simpson([line(x1) for x1 in torch.linspace(-9, 9, 361).tolist()], dx=18 / 360)
    assert total == pytest.approx(1, abs=1e-5)


def test_targets_are_the_published_ones() -> None:
    """The energies of table 1 at a few points, by hand."""
    x = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [3.0, -1.5]], dtype=DOUBLE)
    for point in x:
        a, b = point.tolist()
        w1, w2, w3 = (
            math.sin(2 * math.pi * a / 4),
            3 * math.exp(-0.5 * ((a - 1) / 0.6) ** 2),
            3 / (1 + math.exp((1 - a) / 0.3)),
        )
        sides = math.exp(-0.5 * ((a - 2) / 0.6) ** 2) + math.exp(-0.5 * ((a + 2) / 0.6) ** 2)
        bump = math.exp(-0.5 * ((b - w1) / 0.35) ** 2) + math.exp(-0.5 * ((b - w1 + w2) / 0.35) ** 2)
        fork = math.exp(-0.5 * ((b - w1) / 0.4) ** 2) + math.exp(-0.5 * ((b - w1 + w3) / 0.35) ** 2)
        expected = {
            "U1": 0.5 * ((math.hypot(a, b) - 2) / 0.4) ** 2 - math.log(sides),
            "U2": 0.5 * ((b - w1) / 0.4) ** 2,
            "U3": -math.log(bump),
            "U4": -math.log(fork),
        }
        for name, target in POTENTIALS.items():
            assert target.energy(point[None]).item() == pytest.approx(expected[name], abs=1e-12)


def test_the_loss_is_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL(N(0, 1) ‖ N(0, σ²)) = 2 log σ + (1/σ² − 1) where the flow does nothing; 0 for its own density."""
    task, z = (
        Variational(PlanarCNF(2, 2), RK4(num_steps=1)),
        torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        for param in task.parameters():
            param.zero_()
        for std in (1.0, 1.5):
            task.target = Potential(lambda x, std=std: x.square().sum(1) / (2 * std**2))
            expected = 2 * math.log(std) + 1 / std**2 - 1
            assert task.loss(z, "val").item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    "options", [{"planar": 4}, {"dynamics": True}, {"dynamics": True, "planar": 2}], ids=["planar", "cnf", "both"]
)
def test_samples_come_with_their_density(options: dict[str, Any]) -> None:
    """What `forward`, `sample` and `log_prob` say of the samples' densities agrees, and a spec builds it again."""
    torch.manual_seed(0)
    if "dynamics" in options:
        options = {**options, "dynamics": PlanarCNF(2, 4), "solver": Dopri5(1e-8, 1e-8)}
    task = Variational(**options).double().eval()
    x, log_q = task(torch.randn(20, 2, dtype=DOUBLE))
    assert torch.allclose(task.log_prob(x), log_q, atol=1e-6)
    drawn = task.sample(20)
    assert torch.allclose(task.log_prob(drawn["x"]), drawn["log_prob"], atol=1e-6)
    assert task.predict_step(torch.zeros(3, 2, dtype=DOUBLE), 0).shape == (3, 2)
    again = build(task.spec)
    again.load_state_dict(task.state_dict())
    assert torch.allclose(again.double().eval().log_prob(x), task.log_prob(x))


@pytest.mark.parametrize(("step", "beta"), [(0, 0.01), (30, 0.3), (100, 1.0), (250, 1.0)])
def test_training_is_annealed(step: int, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loss is E[log q + β U] + log Z, β growing from 0.01 to 1; an evaluation has none of it."""
    task, z = Variational(planar=3, anneal=100), torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Variational, "global_step", step)
    x, log_q = task(z)
    energy = task.target.energy(x)
    log_factor = -(task.target.log_density(x) + energy)
    for stage, factor in (("train", beta), ("val", 1.0)):
        expected = (log_q + factor * energy + log_factor).mean().item()
        assert task.loss(z, stage).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cnf", [False, True])
def test_flows_come_closer(cnf: bool) -> None:
    """A short training at least halves the divergence from the wave."""
    torch.manual_seed(0)
    flow: dict[str, Any] = {"dynamics": PlanarCNF(2, 8), "solver": RK4(num_steps=2)} if cnf else {"planar": 8}
    task = Variational(gradient=of.Backprop(), target="U2", **flow)
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    test = torch.randn(2000, 2)
    before = task.loss(test, "val").item()
    for _ in range(30 if cnf else 100):
        optimizer.zero_grad()
        task.loss(torch.randn(256, 2), "train").backward()
        optimizer.step()
    assert 0 < task.loss(test, "val").item() < before / 2


def test_figures_show_target_and_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both densities, and samples."""
    monkeypatch.setattr("odeflow_tasks.density_figures.FINE", 10)
    (figure,) = Variational(planar=2).figures(torch.randn(30, 2)).values()
    assert [axes.get_title() for axes in figure.axes[:3]] == ["target", "learned", "30 samples"]


def test_noise_is_standard_normal_and_settled_by_its_seed() -> None:
    """Epochs differ, validation and test do not, another seed gives other noise, and a resumed run goes on."""
    data, same, other = StandardNormal(3, 8, 20, seed=1), StandardNormal(3, 8, 20, seed=1), StandardNormal(3, 8, 20)
    for each in (data, same, other):
        each.setup("fit")

    def epoch(module: StandardNormal) -> Tensor:
        return torch.cat(list(module.train_dataloader()))

    first, second = epoch(data), epoch(data)
    assert first.shape == (20, 3)
    assert not torch.equal(first, second)
    assert torch.equal(epoch(same), first)
    resumed = StandardNormal(3, 8, 20, seed=1)
    resumed.load_state_dict(same.state_dict())
    assert torch.equal(epoch(resumed), second)
    assert torch.equal(data.test, same.test)
    assert not torch.equal(data.test, other.test)
    assert not torch.equal(data.val[:20], first)
    assert torch.allclose(data.test.mean(0), torch.zeros(3), atol=0.02)
    assert torch.allclose(data.test.T.cov(), torch.eye(3), atol=0.03)


def test_errors() -> None:
    """What makes no sense is refused with what came."""
    with pytest.raises(of.SettingError, match=r"no target 'U5'\. There are: U1, U2, U3, U4"):
        Variational(planar=1, target="U5")
    with pytest.raises(of.SettingError, match="Variational needs dynamics, or planar at least 1; got planar=0"):
        Variational()
    with pytest.raises(of.SettingError, match=r"Variational needs a solver for PlanarCNF; give model\.solver"):
        Variational(PlanarCNF(2))
    with pytest.raises(of.SettingError, match="Variational: anneal must be at least 0; got -1"):
        Variational(planar=1, anneal=-1)
    with pytest.raises(of.SettingError, match="StandardNormal: dim must be at least 1; got 0"):
        StandardNormal(dim=0)
    with pytest.raises(of.SettingError, match="StandardNormal: seed must be at least 0; got -1"):
        StandardNormal(seed=-1)
