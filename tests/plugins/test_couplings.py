"""Laws of couplings: they permute or draw points of the source, and cost what they should."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import plugins
from odeflow_matching import Conditional, Coupling, Independent, MinibatchOT, Reflow, Sinkhorn
from odeflow_matching.coupling import squared_distances

DOUBLE = torch.float64


def points(count: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x0 = torch.randn(count, 2, generator=random, dtype=DOUBLE)
    return x0, 3 + torch.rand(count, 2, generator=random, dtype=DOUBLE) @ torch.tensor(
        [[2.0, 1.0], [0.0, 1.0]]
    ).double()


def cost(x0: Tensor, x1: Tensor) -> float:
    return (x0 - x1).square().flatten(1).sum(1).mean().item()


def test_all_are_registered() -> None:
    """Couplings are a kind of plugin."""
    wanted = {"Independent", "MinibatchOT", "Sinkhorn", "Conditional", "Reflow"}
    assert wanted <= set(plugins("coupling"))


def test_distances_are_those_of_the_points() -> None:
    """|x − y|² of every pair, of images, too."""
    x0, x1 = torch.randn(4, 1, 3, 3).double(), torch.randn(5, 1, 3, 3).double()
    wanted = (x0[:, None] - x1).square().flatten(2).sum(2)
    torch.testing.assert_close(squared_distances(x0, x1), wanted)


@pytest.mark.parametrize(
    "coupling", [Independent(), MinibatchOT(), Sinkhorn(), Conditional()], ids=lambda each: type(each).__name__
)
def test_data_and_conditions_stay_in_place(coupling: Coupling) -> None:
    """The data of a batch keep their rows, and each x₀ is one of the source."""
    x0, x1 = points()
    condition = torch.randint(2, (64, 1), dtype=DOUBLE)
    pairs = coupling.pairs(x0, x1, condition)
    assert torch.equal(pairs.x1, x1)
    assert pairs.condition is condition
    assert bool((pairs.x0[:, None] == x0).all(2).any(1).all())


def test_the_assignment_is_the_best_of_all() -> None:
    """Of all permutations of six points none is cheaper."""
    x0, x1 = points(6)
    best = min(cost(x0[list(order)], x1) for order in itertools.permutations(range(6)))
    assert cost(MinibatchOT().pairs(x0, x1).x0, x1) == pytest.approx(best)


def test_the_cost_is_that_of_an_independent_program() -> None:
    """The mean cost equals the squared Wasserstein distance by POT's `emd2`."""
    ot = pytest.importorskip("ot")
    x0, x1 = points(200)
    wanted = ot.emd2([], [], squared_distances(x0, x1).numpy())
    assert cost(MinibatchOT().pairs(x0, x1).x0, x1) == pytest.approx(wanted, rel=1e-9)


def test_entropic_plans_equal_those_of_an_independent_program() -> None:
    """The plan is POT's, and its marginals are uniform."""
    ot = pytest.importorskip("ot")
    x0, x1 = points(40)
    found = Sinkhorn(0.5, 2000).plan(squared_distances(x0, x1))
    uniform = torch.full((40,), 1 / 40, dtype=DOUBLE)
    torch.testing.assert_close(found.sum(0), uniform)
    torch.testing.assert_close(found.sum(1), uniform, atol=1e-6, rtol=0)
    wanted = ot.sinkhorn(uniform.numpy(), uniform.numpy(), squared_distances(x0, x1).numpy(), 0.5, numItermax=5000)
    torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-6, rtol=0)


def test_sinkhorn_lies_between_the_optimal_and_the_independent_coupling() -> None:
    """A small ε gives nearly the optimal cost, a large one the mean of all."""
    torch.manual_seed(0)
    x0, x1 = points(300)
    best, mean = cost(MinibatchOT().pairs(x0, x1).x0, x1), squared_distances(x0, x1).mean().item()
    assert cost(Sinkhorn(0.02, 500).pairs(x0, x1).x0, x1) == pytest.approx(best, rel=0.02)
    assert cost(Sinkhorn(1e4).pairs(x0, x1).x0, x1) == pytest.approx(mean, rel=0.05)


def test_conditional_transport_keeps_classes() -> None:
    """With a large weight a point goes to the class that it was given; without weight it is the optimal transport."""
    x0, x1 = points(100)
    label = (x1[:, :1] > x1[:, :1].median()).to(x0)
    kept = Conditional().pairs(x0, x1, label)
    for value in (0, 1):
        rows = (label == value)[:, 0]
        wanted = MinibatchOT().pairs(x0[rows], x1[rows]).x0
        assert torch.equal(kept.x0[rows], wanted)
    assert torch.equal(Conditional(0.0).pairs(x0, x1, label).x0, MinibatchOT().pairs(x0, x1).x0)


def test_optimal_transport_biases_the_source_under_conditions() -> None:
    """The mean of x₀ depends on the class with `MinibatchOT`, and does not with `Conditional`."""
    x0, x1 = points(400)
    label = (x1[:, :1] > x1[:, :1].median()).to(x0)

    def gap(coupling: Coupling) -> float:
        found = coupling.pairs(x0, x1, label).x0[:, 0]
        return (found[label[:, 0] == 1].mean() - found[label[:, 0] == 0].mean()).item()

    assert gap(MinibatchOT()) > 1
    assert abs(gap(Conditional())) < 0.3


def test_without_conditions_there_is_no_conditional_transport() -> None:
    """The error says what to use instead."""
    with pytest.raises(of.SettingError, match="set num_conditions, or use MinibatchOT"):
        Conditional().pairs(*points())


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"iterations": 0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    """ε and the number of iterations are positive."""
    with pytest.raises(of.SettingError, match=f"{next(iter(options))} must"):
        Sinkhorn(**options)


def saved(task: of.Task, path: Path) -> str:
    torch.save(
        {"state_dict": task.state_dict(), "odeflow": {"model": task.spec}, "pytorch-lightning_version": "2.0.0"}, path
    )
    return str(path)


def test_reflow_pairs_the_ends_of_a_flow(tmp_path: Path) -> None:
    """x₁ is where the flow of the checkpoint takes x₀."""
    from odeflow_dynamics import Linear
    from odeflow_solvers import Dopri5
    from odeflow_tasks import Density

    field = Linear(2)
    task = Density(field, Dopri5(1e-6, 1e-6))
    with torch.no_grad():
        field.layer.weight.copy_(torch.tensor([0.5, -1.0]).diag())
        field.layer.bias.zero_()
    x0 = torch.randn(7, 2)
    pairs = Reflow(saved(task, tmp_path / "flow.ckpt")).pairs(x0, torch.zeros(7, 2))
    assert pairs.x0 is x0
    torch.testing.assert_close(pairs.x1, x0 * torch.tensor([0.5, -1.0]).exp(), atol=1e-5, rtol=1e-5)


def test_reflow_needs_a_flow(tmp_path: Path) -> None:
    """Another task's checkpoint is refused by its name."""
    from odeflow_dynamics import MLP
    from odeflow_solvers import RK4
    from odeflow_tasks import Regression

    path = saved(Regression(MLP(2), RK4(num_steps=1)), tmp_path / "other.ckpt")
    with pytest.raises(of.CheckpointError, match="begins with a flow; it holds a Regression"):
        Reflow(path).pairs(*points())
