"""Laws of the likelihood over the registry: every two of a dynamics, a trace and a gradient go together."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from choice import few
from odeflow.plugin import registry
from odeflow_dynamics import (
    MLP,
    Controlled,
    ConvNet,
    DampedPendulum,
    Equations,
    Galerkin,
    Hypernetwork,
    Normed,
    Parametric,
    Piecewise,
    PlanarCNF,
    Projectile,
    Sum,
    Transformer,
    UNet,
)
from odeflow_solvers import RK4

registry.discover()


def perceptron(dim: int = 3) -> MLP:
    return MLP(dim, hidden=(6,))


def pendulum() -> DampedPendulum:
    return DampedPendulum(1.3, 0.2)


FIELDS: dict[str, tuple[Callable[[], of.Dynamics], tuple[int, ...]]] = {
    "ConvNet": (lambda: ConvNet(4), (4, 2, 1)),
    "DampedPendulum": (pendulum, (2,)),
    "Equations": (lambda: Equations({"x": "v - 0.1*x*v", "v": "-k*sin(x)"}, {"k": 1.3}), (2,)),
    "Galerkin": (lambda: Galerkin(perceptron()), (3,)),
    "Hypernetwork": (lambda: Hypernetwork(perceptron(), hidden=(4,)), (3,)),
    "MLP": (perceptron, (3,)),
    "Normed": (lambda: Normed(perceptron()), (3,)),
    "Parametric": (lambda: Parametric(perceptron()), (3,)),
    "Piecewise": (lambda: Piecewise(perceptron(), pieces=2), (3,)),
    "PlanarCNF": (lambda: PlanarCNF(3, units=4, hidden=(4,)), (3,)),
    "Projectile": (lambda: Projectile(9.81, drag=0.1), (4,)),
    "Sum": (lambda: Sum([pendulum(), perceptron(2)]), (2,)),
    "Transformer": (lambda: Transformer(3, hidden=4, num_heads=1), (2, 3)),
    "UNet": (lambda: UNet(1, hidden=4, depth=1, groups=2), (1, 2, 2)),
}
"""How a small one is made, and the shape of its states; by default it takes vectors, and their length."""
OURS = [name for name, cls in registry.plugins("dynamics").items() if cls.__module__.startswith("odeflow_dynamics")]
for other in ("Controlled", "OwnClock", "LotkaVolterra"):  # two change their input, one blows up off the populations
    OURS.remove(other)
WAYS = {"Exact": of.Exact, "Hutchinson": of.Hutchinson, "HutchPlusPlus": of.HutchPlusPlus}
GRADIENTS = registry.plugins("gradient")


@cache
def likelihood(name: str, way: str, gradient: str) -> tuple[Tensor, Tensor]:
    """Log p of a few states, and the gradient of its mean in x and all parameters."""
    cls = registry.look_up("dynamics", name)
    make, shape = FIELDS.get(name, (lambda: cls(3), (3,)))
    torch.manual_seed(0)
    field = make().double().eval()
    chosen = registry.look_up("gradient", gradient)()
    assert isinstance(chosen, of.Gradient)
    cnf = of.CNF([of.Flow(field, RK4(num_steps=6), chosen)], shape, divergence=WAYS[way]()).double()
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    log_prob = cnf().log_prob(x)
    params = [param for param in cnf.parameters() if param.requires_grad]
    found = torch.autograd.grad(log_prob.mean(), [x, *params], allow_unused=True, materialize_grads=True)
    return log_prob.detach(), torch.cat([each.flatten() for each in found])


def pairs() -> list[Any]:
    """Combinations in which every two of a dynamics, a trace and a gradient meet; all but one of each dynamics are slow."""
    names, ways, gradients = enumerate(OURS), list(WAYS), [name for name in GRADIENTS if name != "Backprop"]
    found = [(name, ways[(row + column) % 3], each) for row, name in names for column, each in enumerate(GRADIENTS)]
    return few(found, lambda case: case[2] == gradients[OURS.index(case[0]) % len(gradients)])


@pytest.mark.parametrize(("name", "way", "gradient"), pairs())
def test_every_pair_has_the_same_likelihood(name: str, way: str, gradient: str) -> None:
    """Log p and its gradient are those of plain autograd, up to what discretising differently changes."""
    log_prob, slopes = likelihood(name, way, gradient)
    expected, expected_slopes = likelihood(name, way, "Backprop")
    assert torch.allclose(log_prob, expected, atol=1e-2)
    assert (slopes - expected_slopes).norm() < 0.05 * expected_slopes.norm()


def test_every_trace_is_among_them() -> None:
    """No divergence of the registry is left out."""
    assert WAYS.keys() == registry.plugins("divergence").keys()


def test_what_sees_its_input_all_along_has_no_density() -> None:
    """`Controlled` solves for more than its input, and is refused."""
    cnf = of.CNF([of.Flow(Controlled(MLP(4)), RK4(num_steps=2))], (2,))
    with pytest.raises(of.StateError, match="the density of a flow needs a state of its input's shape"):
        cnf().log_prob(torch.zeros(3, 2))
