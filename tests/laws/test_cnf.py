"""Laws of continuous normalizing flows: they are densities, and both directions belong together."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

import odeflow as of
from odeflow_dynamics import MLP, ConvNet, Linear
from odeflow_solvers import RK4, Dopri5

DOUBLE = torch.float64


def cnf(*transforms: of.Flow | of.Bijection, dim: int = 2, **options: object) -> of.CNF:
    return of.CNF(transforms, (dim,), **options).double().eval()


def flow(dim: int = 2, tolerance: float = 1e-8) -> of.Flow:
    """A flow that is no identity."""
    torch.manual_seed(0)
    field = MLP(dim, hidden=(16,)).double()
    with torch.no_grad():
        field.layers[-1].weight *= 3
    return of.Flow(field, Dopri5(tolerance, tolerance))


def settled_norm(dim: int = 2) -> of.MovingBatchNorm:
    """A batch norm that has seen data, and has learned something."""
    norm = of.MovingBatchNorm(dim).double()
    norm.inverse(torch.randn(50, dim, dtype=DOUBLE) * 2 + 1)
    with torch.no_grad():
        norm.log_scale += torch.linspace(-0.3, 0.4, dim)
        norm.shift += 0.2
    return norm


STACKS = {
    "one flow": lambda: cnf(flow()),
    "stacked": lambda: cnf(flow(), flow()),
    "with norms": lambda: cnf(settled_norm(), flow(), settled_norm()),
    "into the unit square": lambda: cnf(flow(), of.Logit(0.05)),
    "of other units": lambda: cnf(flow(), of.Affine(-0.5, 3.0)),
}


@pytest.mark.parametrize("name", STACKS)
def test_both_directions_belong_together(name: str) -> None:
    """To the base and back is the identity, the log-determinants are opposite, and equal that of the Jacobian."""
    model, z = STACKS[name](), torch.randn(3, 2, dtype=DOUBLE)
    x, forward = model.from_base(z)
    again, backward = model.to_base(x)
    assert torch.allclose(again, z, atol=1e-6)
    assert torch.allclose(forward, -backward, atol=1e-6)
    for number, point in enumerate(z):
        jacobian = torch.autograd.functional.jacobian(lambda y: model.from_base(y[None])[0][0], point)
        assert isinstance(jacobian, Tensor)
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], forward[number], atol=1e-6)
    assert model.inconsistency(x) < 1e-6


@pytest.mark.parametrize("name", [name for name in STACKS if name != "into the unit square"])
def test_the_density_integrates_to_one(name: str) -> None:
    """Over a grid that holds nearly all of it, within 1e-3."""
    axis = torch.linspace(-40, 40, 300, dtype=DOUBLE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    with torch.no_grad():
        total = STACKS[name]()().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 1e-3


def test_a_density_on_a_square_integrates_to_one() -> None:
    """Where a logit ends the flow, samples lie in a square a little larger than the unit one, and so does all mass."""
    model = STACKS["into the unit square"]()
    low, high = -0.05 / 0.9, 0.95 / 0.9
    x, log_prob = model().sample_and_log_prob((2000,))
    assert low < x.min() < x.max() < high
    assert torch.allclose(model().log_prob(x), log_prob, atol=1e-5)
    axis = low + (high - low) * (torch.arange(200, dtype=DOUBLE) + 0.5) / 200
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    with torch.no_grad():
        total = model().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 1e-2


def test_samples_come_with_their_density() -> None:
    """`sample_and_log_prob` tracks what `log_prob` computes afterwards, within the tolerance."""
    model = STACKS["with norms"]()
    x, log_prob = model().sample_and_log_prob((5, 4))
    assert x.shape == (5, 4, 2)
    assert torch.allclose(model().log_prob(x), log_prob, atol=1e-6)
    assert not x.requires_grad
    assert model().sample((3,)).shape == (3, 2)
    assert model().sample().shape == (2,)


def test_a_linear_flow_of_a_gaussian_is_the_known_gaussian() -> None:
    """With dy/dt = Ay + b the density is normal with mean A⁻¹(eᴬ − 1)b and covariance eᴬ(eᴬ)ᵀ, to 1e-6."""
    torch.manual_seed(0)
    field = Linear(3).double()
    matrix, offset = field.layer.weight.detach(), field.layer.bias.detach()
    exponential = torch.linalg.matrix_exp(matrix)
    mean = torch.linalg.solve(matrix, (exponential - torch.eye(3)) @ offset)
    truth = MultivariateNormal(mean, exponential @ exponential.t())
    x = torch.randn(20, 3, dtype=DOUBLE) * 2
    model = cnf(of.Flow(field, Dopri5(1e-10, 1e-10)), dim=3)
    assert torch.allclose(model().log_prob(x), truth.log_prob(x), rtol=0, atol=1e-6)


def test_a_linear_flow_fits_a_gaussian() -> None:
    """By maximum likelihood it finds mean and covariance of its data, and so their log-density, to 1e-6."""
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=DOUBLE) @ torch.tensor([[1.0, 0.5], [0.0, 0.6]], dtype=DOUBLE) + 1
    model = cnf(of.Flow(Linear(2).double(), RK4(num_steps=16), of.Backprop()))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -model().log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    truth = MultivariateNormal(x.mean(0), x.T.cov(correction=0))
    model.transforms[0].solver = Dopri5(1e-10, 1e-10)
    assert torch.allclose(model().log_prob(x), truth.log_prob(x), rtol=0, atol=1e-6)


def test_a_flow_may_stop_on_its_way() -> None:
    """From the base at 0 to the whole at 1, each flow an equal part; bijections act when the way comes to them."""
    model, z = cnf(settled_norm(), flow(), settled_norm(), flow()), torch.randn(5, 2, dtype=DOUBLE)
    first, second = model.transforms[1], model.transforms[3]

    def at(progress: float) -> Tensor:
        return model.leading(progress).from_base(z)[0]

    assert torch.equal(at(0), z)
    normed = model.transforms[0](z)[0]
    assert torch.allclose(at(1e-9), normed)
    assert torch.allclose(at(0.2), first.trajectory(normed, (0.0, 0.4)).y[-1], atol=1e-6)
    middle = model.transforms[2](first(normed))[0]
    assert torch.allclose(at(0.5), middle, atol=1e-6)
    assert torch.allclose(at(0.75), second.trajectory(middle, (0.0, 0.5)).y[-1], atol=1e-6)
    assert torch.equal(at(1), model.from_base(z)[0])
    x, log_prob = model.leading(0.6)().sample_and_log_prob((4,))
    assert torch.allclose(model.leading(0.6)().log_prob(x), log_prob, atol=1e-5)
    layers = cnf(settled_norm(), settled_norm())
    assert torch.equal(layers.leading(0.5).from_base(z)[0], layers.transforms[0](z)[0])


def test_gradients_reach_parameters_through_density_and_samples() -> None:
    """∂/∂θ of log p(x), and of samples with fixed base noise, agree with finite differences."""
    model, x = cnf(flow()), torch.randn(4, 2, dtype=DOUBLE)
    weight = next(model.parameters())

    def likelihood() -> Tensor:
        return model().log_prob(x).mean()

    def sampled() -> Tensor:
        torch.manual_seed(3)
        return model().rsample((6,)).square().mean()

    for value in (likelihood, sampled):
        (found,) = torch.autograd.grad(value(), weight)
        with torch.no_grad():
            weight[0, 0] += 1e-4
            above = value()
            weight[0, 0] -= 2e-4
            below = value()
            weight[0, 0] += 1e-4
        assert found[0, 0].item() == pytest.approx(((above - below) / 2e-4).item(), rel=1e-3, abs=1e-6)


def test_a_context_gives_one_distribution_each() -> None:
    """`cnf(context)` has the context's batch shape, and each of its rows is what that row alone gives."""
    torch.manual_seed(0)
    model = cnf(of.Flow(MLP(5).double(), RK4(num_steps=8)))
    context = torch.randn(3, 3, dtype=DOUBLE)
    together = model(context)
    assert together.batch_shape == (3,)
    assert together.event_shape == (2,)
    assert together.sample((4,)).shape == (4, 3, 2)
    x = torch.randn(7, 1, 2, dtype=DOUBLE)
    found = together.log_prob(x)
    assert found.shape == (7, 3)
    for number in range(3):
        assert torch.allclose(model(context[number]).log_prob(x[:, 0]), found[:, number])
    assert together.expand((6, 3)).log_prob(torch.zeros(2, dtype=DOUBLE)).shape == (6, 3)


def test_the_base_may_be_chosen() -> None:
    """With the identity as flow the density is the base's."""
    base = Independent(Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])), 1)

    class Still(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return 0 * y

    model = of.CNF([of.Flow(Still(), RK4(num_steps=1))], (2,), base=base)
    x = torch.randn(5, 2)
    assert torch.allclose(model().log_prob(x), base.log_prob(x))


def test_images_have_densities_too() -> None:
    """Of channels, height and width, with estimated and exact divergence."""
    torch.manual_seed(0)
    for divergence in (of.Exact(), of.Hutchinson()):
        model = of.CNF([of.Flow(ConvNet(2), RK4(num_steps=2)), of.MovingBatchNorm(2)], (2, 4, 4), divergence=divergence)
        x = torch.randn(3, 2, 4, 4)
        loss = -model().log_prob(x).mean()
        loss.backward()
        assert all(param.grad is not None for param in model.parameters())
        assert model().sample((2,)).shape == (2, 2, 4, 4)


def test_batch_norm_follows_its_data_in_training_alone() -> None:
    """The first batch sets mean and variance, later ones move them by `decay`, evaluation leaves them alone."""
    torch.manual_seed(0)
    norm, x = of.MovingBatchNorm(2, decay=0.25), torch.randn(500, 2) * 3 + 5
    z, _ = norm.inverse(x)
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(z.var(0, correction=0), torch.ones(2), atol=1e-3)
    before = norm.mean.clone()
    norm.inverse(x + 4)
    assert torch.allclose(norm.mean, before + 1, atol=1e-5)
    norm.eval()
    norm.inverse(x + 100)
    assert torch.allclose(norm.mean, before + 1, atol=1e-5)


def test_training_draws_the_end_time_where_asked() -> None:
    """With `steer` the density differs from call to call in training, and does not in evaluation."""
    model = of.CNF([of.Flow(MLP(2), RK4(num_steps=2), options=of.FlowOptions(steer=0.5))], (2,))
    x = torch.randn(3, 2)
    assert not torch.equal(model().log_prob(x), model().log_prob(x))
    model.eval()
    assert torch.equal(model().log_prob(x), model().log_prob(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: of.CNF([], (2,)), of.SettingError, "at least one transform, each a Flow or Bijection; got none"),
        (
            lambda: of.CNF([flow()], (2,), base=Uniform(torch.zeros(2), torch.ones(2))),
            of.SettingError,
            r"the base's events have shape \(\), the data's \(2,\); make them one event",
        ),
        (lambda: cnf(flow())().log_prob(torch.zeros(3, 4)), of.StateError, r"log_prob takes \(…, 2\); got \(3, 4\)"),
        (lambda: cnf(flow())().expand((3,)), of.SettingError, "a CNF without context is a single distribution"),
        (lambda: cnf(flow()).leading(1.5), of.SettingError, r"progress must lie between 0 and 1; got 1\.5"),
        (lambda: of.Affine(0.0), of.SettingError, "scale must not be 0"),
        (lambda: of.Logit(0.6), of.SettingError, r"alpha must lie between 0 and 0\.5; got 0\.6"),
        (
            lambda: of.Logit().inverse(torch.tensor([[1.5]])),
            of.StateError,
            r"Logit needs data in \[0, 1\]; got 1\.5 to 1\.5",
        ),
        (lambda: of.MovingBatchNorm(2, decay=0.0), of.SettingError, r"decay must lie between 0 and 1; got 0"),
    ],
)
def test_mistakes_are_explained(call: Callable[[], object], error: type[Exception], message: str) -> None:
    """What makes no sense is refused with what was wanted."""
    with pytest.raises(error, match=message):
        call()
