"""Laws of the divergence: the exact trace, estimates that are right in the mean, and the determinant of a flow."""

import math

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin import registry
from odeflow_dynamics import MLP, ConvNet
from odeflow_solvers import RK4, Dopri5

registry.discover()
ZERO = torch.zeros((), dtype=torch.float64)
ESTIMATES = [of.Hutchinson(), of.Hutchinson("gaussian", probes=2), of.HutchPlusPlus(), of.HutchPlusPlus(2)]


def divergence(way: of.Divergence, field: nn.Module, y: Tensor) -> Tensor:
    """(B,), by one of the ways."""
    with torch.enable_grad():
        state = y.clone().requires_grad_()
        return way.along(y)(field, ZERO, state, field(ZERO, state)).detach()


def traces(field: nn.Module, y: Tensor) -> Tensor:
    """(B,), from the whole Jacobian of each sample."""
    found: list[Tensor] = []
    for sample in y:
        jacobian = torch.autograd.functional.jacobian(lambda x: field(ZERO, x[None])[0], sample)
        assert isinstance(jacobian, Tensor)
        found.append(jacobian.reshape(sample.numel(), -1).trace())
    return torch.stack(found)


class System(nn.Module):
    """dy/dt = yAᵀ."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.t()


@pytest.mark.parametrize(("field", "shape"), [(MLP(5), (3, 5)), (MLP(1), (3, 1)), (ConvNet(4), (2, 4, 3, 2))])
def test_the_exact_trace_is_that_of_the_jacobian(field: nn.Module, shape: tuple[int, ...]) -> None:
    """Of vectors and of images, to 1e-10 in float64."""
    torch.manual_seed(0)
    y = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(divergence(of.Exact(), field.double(), y), traces(field, y), rtol=0, atol=1e-10)


def test_a_closed_form_is_used() -> None:
    """A dynamics that knows its divergence is asked for it, and no product is computed."""

    class Shrinking(of.Dynamics):
        width = 3

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y.detach()  # nothing that autograd could follow

        def divergence(self, t: Tensor, y: Tensor) -> Tensor:
            return -3 * torch.ones_like(y[:, 0])

    assert torch.equal(divergence(of.Exact(), Shrinking(), torch.randn(4, 3)), torch.full((4,), -3.0))
    assert torch.equal(divergence(of.Hutchinson(), Shrinking(), torch.randn(4, 3)), torch.zeros(4))


@pytest.mark.parametrize("way", ESTIMATES, ids=lambda way: f"{type(way).__name__}-{way.probes}")
def test_estimates_are_right_in_the_mean(way: of.Divergence) -> None:
    """The mean over many samples of one state is the trace, within four standard errors."""
    torch.manual_seed(1)
    field, count = MLP(6).double(), 6000
    y = torch.randn(1, 6, dtype=torch.float64)
    found = divergence(way, field, y.expand(count, 6).contiguous())
    assert abs(found.mean() - traces(field, y)[0]) < 4 * found.std() / math.sqrt(count)


@pytest.mark.parametrize("probes", [1, 3])
def test_the_variance_is_the_known_one(probes: int) -> None:
    """2 (‖S‖² − Σ Sᵢᵢ²) / K for signs and 2 ‖S‖² / K for normal numbers, within five of its standard errors."""
    torch.manual_seed(0)
    matrix, count = torch.randn(5, 5, dtype=torch.float64), 20_000
    symmetric = (matrix + matrix.t()) / 2
    whole, diagonal = symmetric.square().sum().item(), symmetric.diag().square().sum().item()
    y = torch.zeros(count, 5, dtype=torch.float64)
    for noise, expected in (("rademacher", 2 * (whole - diagonal)), ("gaussian", 2 * whole)):
        found = divergence(of.Hutchinson(noise, probes), System(matrix), y)
        spread = (found - found.mean()).square().std().item() / math.sqrt(count)
        assert abs(found.var().item() - expected / probes) < 5 * spread


def test_hutch_plus_plus_is_exact_in_enough_directions() -> None:
    """With as many directions as dimensions nothing is left to estimate; where one direction holds the trace, one will do."""
    torch.manual_seed(0)
    matrix, y = torch.randn(4, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    found = divergence(of.HutchPlusPlus(4), System(matrix), y)
    assert torch.allclose(found, matrix.trace().expand(3), atol=1e-10)
    single = torch.outer(matrix[0], matrix[0])
    found = divergence(of.HutchPlusPlus(1), System(single), y)
    assert torch.allclose(found, single.trace().expand(3), atol=1e-10)


def test_the_integral_is_the_determinant_of_the_flow() -> None:
    """∫ tr ∂f/∂y dt = log |det ∂y(t₁)/∂y₀|, forwards and backwards in time, at every time asked for."""
    torch.manual_seed(0)
    flow = of.Flow(MLP(3, hidden=(16,)).double(), Dopri5(1e-10, 1e-10))
    y0 = torch.randn(2, 3, dtype=torch.float64)
    for times in ((0.0, 0.4, 1.0), (1.0, 0.3, 0.0)):
        _, log_dets = flow.trajectory(y0, times, divergence=of.Exact()).y
        for row, time in list(enumerate(times))[1:]:
            for number, sample in enumerate(y0):
                jacobian = torch.autograd.functional.jacobian(
                    lambda x, end=time, start=times[0]: flow.trajectory(x[None], (start, end)).y[-1, 0], sample
                )
                assert isinstance(jacobian, Tensor)
                assert log_dets[row, number].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-7)


def test_a_linear_system_has_the_determinant_of_its_matrix_exponential() -> None:
    """On dy/dt = Ay it is t · tr A, by every way, where A is a multiple of the identity."""
    flow = of.Flow(System(0.7 * torch.eye(3, dtype=torch.float64)), RK4(num_steps=2))
    y0 = torch.randn(2, 3, dtype=torch.float64)
    for way in (of.Exact(), of.Hutchinson(), of.HutchPlusPlus(3)):
        _, log_dets = flow.trajectory(y0, (0.0, 2.0), divergence=way).y
        assert torch.allclose(log_dets[-1], torch.full((2,), 4.2, dtype=torch.float64))


def _gradients(gradient: of.Gradient, way: of.Divergence) -> list[Tensor]:
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    flow = of.Flow(field, Dopri5(1e-9, 1e-9), gradient)
    torch.manual_seed(1)
    y, log_dets = flow.trajectory(y0, (1.0, 0.0), divergence=way).y
    loss = y[-1].square().sum() + log_dets[-1].sum()
    return list(torch.autograd.grad(loss, (y0, *field.parameters())))


@pytest.mark.parametrize("way", [of.Exact(), of.Hutchinson(probes=2), of.HutchPlusPlus()])
@pytest.mark.parametrize("name", registry.plugins("gradient"))
def test_every_gradient_carries_the_divergence(name: str, way: of.Divergence) -> None:
    """∂L/∂y₀ and ∂L/∂θ of states and log-determinants agree with plain autograd: the noise is fixed in the solve."""
    gradient = registry.look_up("gradient", name)()
    assert isinstance(gradient, of.Gradient)
    for found, expected in zip(_gradients(gradient, way), _gradients(of.Backprop(), way), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_divergence_needs_no_autograd_around_it() -> None:
    """Under `no_grad` the values are those with it, and nothing requires a gradient."""
    flow = of.Flow(MLP(3), RK4(num_steps=3))
    y0 = torch.randn(4, 3)
    _, expected = flow.trajectory(y0, (0.0, 1.0), divergence=of.Exact()).y
    with torch.no_grad():
        _, found = flow.trajectory(y0, (0.0, 1.0), divergence=of.Exact()).y
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize("way", [of.Exact(), of.Hutchinson()])
def test_inference_mode_gives_the_same(way: of.Divergence) -> None:
    """In `torch.inference_mode`, where there is no autograd at all, the log-determinants are the same."""
    flow = of.Flow(MLP(4), RK4(num_steps=3))
    y0, context = torch.randn(5, 3), torch.randn(5, 1)
    found: list[Tensor] = []
    for mode in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(0)
        with mode():
            inputs = (y0 * 1, torch.tensor([0.0, 1.0]), context * 1)
            found.append(flow.trajectory(*inputs[:2], divergence=way, context=inputs[2]).y[1])
    assert found[0].abs().max() > 1e-3
    assert torch.equal(found[0], found[1])


def test_a_context_changes_the_field_and_gets_a_gradient() -> None:
    """With a context the field sees [y, c]; ∂L/∂c agrees with finite differences."""
    torch.manual_seed(0)
    flow = of.Flow(MLP(5, hidden=(8,)).double(), RK4(num_steps=4))
    y0, context = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        y, log_dets = flow.trajectory(y0, (0.0, 1.0), divergence=of.Exact(), context=context).y
        return y[-1].sum() + log_dets[-1].sum()

    assert flow.trajectory(y0, (0.0, 1.0), context=context).y.shape == (2, 2, 3)
    (found,) = torch.autograd.grad(loss(), context)
    with torch.no_grad():
        context[0, 1] += 1e-5
        above = loss()
        context[0, 1] -= 2e-5
        assert found[0, 1].item() == pytest.approx(((above - loss()) / 2e-5).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: of.Hutchinson("uniform"), of.SettingError, "noise must be 'rademacher' or 'gaussian'; got 'uniform'"),
        (lambda: of.Hutchinson(probes=0), of.SettingError, "Hutchinson: probes must be at least 1; got 0"),
        (lambda: of.HutchPlusPlus(0), of.SettingError, r"HutchPlusPlus: probes must be at least 1; got 0"),
        (
            lambda: of.Flow(MLP(4), RK4(num_steps=1), options=of.FlowOptions(augment=1)).trajectory(
                torch.zeros(2, 3), (0.0, 1.0), divergence=of.Exact()
            ),
            of.StateError,
            "the density of a flow needs a state of its input's shape: no tuple, no augmentation",
        ),
    ],
)
def test_mistakes_are_explained(call: object, error: type[Exception], message: str) -> None:
    """What makes no sense is refused with what was wanted."""
    with pytest.raises(error, match=message):
        call()
