"""Laws of planar layers: they can be inverted, whatever they learn, and know their determinant."""

import pytest
import torch
from torch import Tensor

import odeflow as of

DOUBLE = torch.float64


def layer(product: float, dim: int = 3) -> of.Planar:
    """A layer with wᵀu as given, before it is made invertible."""
    torch.manual_seed(0)
    planar = of.Planar(dim).double()
    with torch.no_grad():
        planar.b += 0.3
        planar.u += (product - planar.w @ planar.u) * planar.w / planar.w.square().sum()
    return planar


@pytest.mark.parametrize("product", [-50.0, -1.0, 0.0, 3.0, 40.0])
def test_the_determinant_is_that_of_the_jacobian(product: float) -> None:
    """In closed form and by autograd it is the same, also where wᵀu alone would fold space."""
    planar, z = layer(product), torch.randn(5, 3, dtype=DOUBLE)
    _, log_dets = planar(z)
    for point, log_det in zip(z, log_dets, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda y: planar(y[None])[0][0], point)
        assert isinstance(jacobian, Tensor)
        sign, expected = torch.linalg.slogdet(jacobian)
        assert sign == 1
        assert torch.allclose(log_det, expected, atol=1e-9)


@pytest.mark.parametrize(("product", "tolerance"), [(-50.0, 1e-11), (-1.0, 1e-13), (0.0, 1e-13), (40.0, 1e-13)])
def test_the_inverse_is_exact(product: float, tolerance: float) -> None:
    """Z comes back to rounding, times 1e4 where the slope is as small as it may be; the determinants are opposite."""
    planar, z = layer(product), 4 * torch.randn(200, 3, dtype=DOUBLE)
    x, forward = planar(z)
    again, backward = planar.inverse(x)
    assert (again - z).abs().max() < tolerance * 4
    assert torch.allclose(forward, -backward, atol=1e-7)


def test_the_inverse_carries_gradients() -> None:
    """Of z and log-determinant, to x and all parameters: as finite differences."""
    planar, x = layer(-0.8), torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    names, values = zip(*planar.named_parameters(), strict=True)

    def inverse(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        with torch.nn.utils.stateless._reparametrize_module(planar, dict(zip(names, parameters, strict=True))):
            return planar.inverse(x)

    assert torch.autograd.gradcheck(inverse, (x, *values))


def test_a_planar_flow_is_a_density() -> None:
    """Samples come with what log_prob says of them, in either precision, and the integral is 1."""
    torch.manual_seed(0)
    cnf = of.CNF([of.Planar(2) for _ in range(3)], (2,))
    with torch.no_grad():
        for planar in cnf.transforms:
            planar.u *= 0.5  # for a density that a grid can resolve
    x, log_prob = cnf().sample_and_log_prob((500,))
    assert torch.allclose(cnf().log_prob(x), log_prob, atol=2e-3)
    cnf.double()
    x, log_prob = cnf().sample_and_log_prob((500,))
    assert torch.allclose(cnf().log_prob(x), log_prob, atol=1e-9)
    assert cnf.inconsistency(x) < 1e-12
    at = torch.linspace(-8, 8, 240, dtype=DOUBLE)
    with torch.no_grad():
        total = cnf().log_prob(torch.cartesian_prod(at, at)).exp().sum() * (at[1] - at[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_it_learns_by_maximum_likelihood() -> None:
    """Trained on samples by way of its inverse, it comes closer to two far Gaussians than the best single one."""
    torch.manual_seed(0)
    x = torch.randn(200, 1) * 0.5 + 2 * torch.randint(0, 2, (200, 1)) * 2 - 2
    cnf = of.CNF([of.Planar(1) for _ in range(4)], (1,))
    optimizer = torch.optim.Adam(cnf.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss = -cnf().log_prob(x).mean()
        loss.backward()
        optimizer.step()
    single = -torch.distributions.Normal(x.mean(), x.std()).log_prob(x).mean()
    assert loss < single - 0.3
