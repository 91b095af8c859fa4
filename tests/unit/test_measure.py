"""Laws of what is measured of a flow: the solves that are recorded, their errors and evaluations, components."""

import pytest
import torch
from torch import nn

import odeflow as of
from odeflow.analysis import measure
from odeflow.analysis.replay import record
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5


@pytest.fixture
def net() -> nn.Module:
    """Two flows one after the other."""
    torch.manual_seed(0)
    net = nn.Sequential(of.Flow(MLP(3), Dopri5(1e-3, 1e-3)), nn.Linear(3, 2), of.Flow(MLP(2), RK4(num_steps=2)))
    with torch.no_grad():
        for param in net.parameters():
            param *= 3  # so that there is something to solve
    return net


def test_a_solve_done_again_gives_the_same(net: nn.Module) -> None:
    """A recorded solve has the input that the flow had, and by the same solver it gives the same result."""
    y0 = torch.randn(5, 3)
    first, second = record(net, lambda: net(y0).square().mean())
    assert torch.equal(first.y0, y0)
    assert torch.equal(second.again().y[-1], net(y0))
    assert isinstance(net[0].solver, Dopri5)
    assert "trajectory" not in vars(net[0])


def test_the_cotangent_is_the_gradient_of_the_loss(net: nn.Module) -> None:
    """∂L/∂y of L = mean y² is 2y/n at the last time, and 0 at the first; for the first samples alone it is their mean's."""
    solve = record(net, lambda: net(torch.ones(6, 3)).square().mean())[1]
    y = solve.again().y
    torch.testing.assert_close(solve.cotangent[0], torch.stack([torch.zeros_like(y[1]), 2 * y[1] / 12]))
    torch.testing.assert_close(solve.leading(2).cotangent[0], 3 * solve.cotangent[0][:, :2])
    assert len(solve.leading(2).y0) == 2
    assert solve.leading(7) is solve


def test_efforts_are_the_sums_over_all_solves(net: nn.Module) -> None:
    """Evaluations of several flows add up; a tighter tolerance takes more of them, and makes a smaller error."""
    solves = record(net, lambda: net(torch.ones(4, 3)).square().mean())

    def efforts(of_these: list) -> list[measure.Effort]:
        return measure.efforts(of_these, lambda value: Dopri5(value, value), (1e-2, 1e-4, 1e-6), Dopri5(1e-9, 1e-9), 1)

    both, parts = efforts(solves), [efforts([solve]) for solve in solves]
    for number, effort in enumerate(both):
        for name in ("nfe_forward", "nfe_adjoint", "nfe_checkpointed"):
            assert getattr(effort, name) == sum(getattr(part[number], name) for part in parts) > 0
    assert both[0].nfe_forward < both[1].nfe_forward < both[2].nfe_forward
    assert both[0].error > both[1].error > both[2].error > 0
    assert both[2].error < 1e-5


def test_a_flow_of_tuples_is_measured(coupled: nn.Module) -> None:
    """A state that is a tuple is recorded, measured and shown by its first tensor."""
    flow = of.Flow(coupled, Dopri5(), options=of.FlowOptions(t1=0.5))
    (solve,) = record(
        flow, lambda: sum(leaf.sum() for leaf in flow((torch.ones(2, 3).double(), torch.ones(2).double())))
    )
    (effort,) = measure.efforts([solve], lambda value: Dopri5(value, value), [1e-4], Dopri5(1e-8, 1e-8))
    assert 0 < effort.error < 1e-3
    assert measure.activations(solve.leading(1)).y.shape == (101, 1, 3)


def test_a_flow_that_learns_nothing_is_recorded() -> None:
    """A flow whose result needs no gradient is recorded, too."""
    flow = of.Flow(MLP(2).requires_grad_(False), RK4(num_steps=1))
    (solve,) = record(flow, lambda: flow(torch.ones(1, 2)).sum())
    assert torch.equal(solve.cotangent[0], torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]]))


def test_images_are_shown_at_their_centre() -> None:
    """Of a state (B, C, H, W) the channels at (H/2, W/2) are shown, and the whole of it is kept."""

    class Still(of.Dynamics):
        width = 3

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(y)

    flow = of.Flow(Still(), RK4(num_steps=1))
    y0 = torch.randn(2, 3, 4, 5)
    (solve,) = record(flow, lambda: flow(y0).sum())
    shown = measure.activations(solve)
    assert shown.pixel == (2, 2)
    torch.testing.assert_close(shown.y, y0[:, :, 2, 2].expand(101, 2, 3))
    torch.testing.assert_close(shown.state, y0.flatten(1).expand(101, 2, 60))


def test_components_are_those_of_the_singular_values() -> None:
    """Scores and shares agree with a full singular value decomposition, up to signs."""
    torch.manual_seed(0)
    y = torch.randn(20, 5, 12).double() * 2.0 ** -torch.arange(12)
    pieces = measure.components(y)
    left, sizes, _ = torch.linalg.svd(y.flatten(0, 1) - y.mean((0, 1)), full_matrices=False)
    torch.testing.assert_close(pieces.scores.flatten(0, 1).abs(), (left * sizes)[:, :2].abs())
    torch.testing.assert_close(pieces.shares, (sizes.square() / sizes.square().sum())[:2])


@pytest.mark.parametrize(("shape", "spread"), [((4, 5, 3), 0.0), ((1, 1, 3), 1.0), ((4, 5, 1), 1.0), ((7, 600), 1.0)])
def test_components_exist_for_any_states(shape: tuple[int, ...], spread: float) -> None:
    """States that do not vary, few of them or of few values have components, of 0 where there is no variance left."""
    torch.manual_seed(0)
    y = spread * torch.randn(shape)
    pieces, again = measure.components(y, 3), measure.components(y + 0.0, 3)
    assert pieces.scores.shape == (*shape[:-1], 3)
    assert pieces.shares.shape == (3,)
    assert torch.equal(pieces.scores, again.scores)
    variance = (y - y.flatten(0, -2).mean(0)).double().square().sum()
    torch.testing.assert_close(pieces.shares * variance, pieces.scores.square().flatten(0, -2).sum(0))
    assert pieces.names[0] == f"component 1 ({100 * float(pieces.shares[0]):.3g} %)"


def test_the_liveliest_features_are_found() -> None:
    """The features that move most over time come out in their order."""
    y = torch.linspace(0, 1, 9)[:, None, None] * torch.tensor([0.0, 3.0, 1.0, -2.0])
    assert measure.liveliest(y.expand(9, 2, 4), 2) == [1, 3]
    assert measure.liveliest(y, 9) == [0, 1, 2, 3]


def test_a_module_without_a_flow_is_refused() -> None:
    """There is nothing to record where there is no flow, or none is used."""
    with pytest.raises(of.SettingError, match="Linear contains no Flow, so there is nothing to solve"):
        record(nn.Linear(1, 1), lambda: torch.zeros(()))
    with pytest.raises(of.SettingError, match="the loss of Flow solves none of its flows"):
        record(of.Flow(MLP(2), RK4(num_steps=1)), lambda: torch.zeros(()))


def test_dynamics_of_one_precision_are_told() -> None:
    """Dynamics that fail in float64 end the measurement with a line that says so."""

    class Single(of.Dynamics):
        width = 2

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return y @ torch.eye(2)

    flow = of.Flow(Single(), RK4(num_steps=1))
    solves = record(flow, lambda: flow(torch.ones(1, 2)).sum())
    with pytest.raises(of.StateError, match="measured in float64, where the dynamics failed: expected m1 and m2"):
        measure.efforts(solves, lambda value: Dopri5(value, value), [1e-3], Dopri5(1e-6, 1e-6))
