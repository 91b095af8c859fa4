"""Laws of conditional densities: they are what they should be, integrate to one, and keep the units of a file."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import odeflow as of
from odeflow_data import Table
from odeflow_dynamics import MLP, Linear
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Chain, Density
from odeflow_tasks.fitted_baselines import densities

RATE = 0.7


def shifted() -> Density:
    """dy/dt = a y + B c, so that x = eᵃ z + (eᵃ − 1)/a · B c."""
    rows = [[RATE, 0, 1.0, -2.0, 0.5], [0, RATE, 0.5, 0, 3.0], *([[0.0] * 5] * 3)]
    field = Linear(5, bias=False, matrix=rows)
    return Density(field, Dopri5(rtol=1e-8, atol=1e-8), num_conditions=3).double().eval()


def of_condition(condition: Tensor) -> MultivariateNormal:
    """The density of `shifted`."""
    effect = torch.tensor([[1.0, -2.0, 0.5], [0.5, 0, 3.0]], dtype=torch.float64)
    growth = np.exp(RATE)
    return MultivariateNormal(condition @ effect.T * (growth - 1) / RATE, growth**2 * torch.eye(2).double())


def grid(reach: float, size: int) -> tuple[Tensor, float]:
    """(size², 2), points of the plane, and the area that each stands for."""
    at = torch.linspace(-reach, reach, size, dtype=torch.float64)
    return torch.cartesian_prod(at, at), (2 * reach / (size - 1)) ** 2


def test_a_linear_flow_is_a_linear_gaussian() -> None:
    """Log p(x | c) is that of N(eᵃ…, e²ᵃ I) for each row's own condition, and samples come with theirs."""
    task, x, condition = shifted(), torch.randn(9, 2).double(), torch.randn(9, 3).double()
    torch.testing.assert_close(task.log_prob(x, condition), of_condition(condition).log_prob(x), rtol=1e-6, atol=1e-6)
    drawn = task.sample(9, condition)
    torch.testing.assert_close(drawn["log_prob"], of_condition(condition).log_prob(drawn["x"]), rtol=1e-6, atol=1e-6)
    assert drawn["x"].shape == (9, 2)


@pytest.mark.parametrize("chain", [Chain(), Chain(num_flows=2, batch_norm=True)])
def test_each_condition_has_a_density(chain: Chain) -> None:
    """∫ p(x | c) dx = 1 for an untrained nonlinear flow and several c, by quadrature."""
    torch.manual_seed(0)
    task = Density(MLP(3, [16]), Dopri5(rtol=1e-6, atol=1e-6), num_conditions=1, chain=chain).double().eval()
    points, area = grid(9.0, 91)
    for value in (-2.0, 0.0, 3.0):
        with torch.no_grad():
            log_p = task.log_prob(points, torch.full((len(points), 1), value, dtype=torch.float64))
        assert float(log_p.exp().sum() * area) == pytest.approx(1, abs=2e-3)


def test_maximum_likelihood_finds_a_conditional_gaussian() -> None:
    """KL(p ‖ q) in nats is small for each c after training on x | c ~ N((c, −c), ¼ I), and large before."""
    torch.manual_seed(0)
    task = Density(MLP(3, [32], time="concat"), RK4(num_steps=2), num_conditions=1)
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    points, area = (each.float() if isinstance(each, Tensor) else each for each in grid(6.0, 81))

    def divergences() -> list[float]:
        found: list[float] = []
        for value in (-1.0, 0.0, 1.0):
            truth = MultivariateNormal(torch.tensor([value, -value]), 0.25 * torch.eye(2)).log_prob(points)
            with torch.no_grad():
                log_q = task.eval().log_prob(points, torch.full((len(points), 1), value))
            found.append(float((truth.exp() * (truth - log_q)).sum() * area))
        return found

    assert min(divergences()) > 0.3
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        condition = 1.2 * torch.randn(128, 1)
        x = torch.cat([condition, -condition], dim=1) + 0.5 * torch.randn(128, 2)
        loss = task.train().loss((x, condition), "train")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert max(divergences()) < 0.05


def rows(scale: float = 1.0) -> Any:
    """X depends on two columns, in one unit or another."""
    generator = np.random.default_rng(0)
    c = generator.normal(size=(80, 2))
    x = c @ [1.0, -1.0] + 0.3 * generator.normal(size=80)
    return {"x": scale * x + 5 * (scale - 1), "a": scale * c[:, 0], "b": c[:, 1] - scale}


def test_units_of_the_file_do_not_matter_but_for_the_volume() -> None:
    """An affine change of x and c changes log p(x | c) of every row by −log |scale| only."""
    found: list[Tensor] = []
    for scale in (1.0, 10.0):
        data = Table(rows(scale), condition=["a", "b"])
        data.setup("fit")
        torch.manual_seed(0)
        task = Density(MLP(3, [8]), RK4(num_steps=2), num_conditions=2).eval()
        data.setup("predict")
        assert data.units is not None
        with torch.no_grad():
            parts = [task.restored(task.predict_step(batch, 0), data.units) for batch in data.predict_dataloader()]
        found.append(torch.cat(parts))
    torch.testing.assert_close(found[1], found[0] - np.log(10.0), rtol=1e-4, atol=1e-4)


def test_the_gaussian_baseline_has_a_linear_mean() -> None:
    """Log p is that of x = W c + b + e with W, b of least squares and the covariance of e."""
    data = Table(rows(), condition=["a", "b"])
    data.setup("fit")
    x, condition = data.training_part()
    (found,) = densities(x, condition).values()
    features = torch.cat([condition, torch.ones_like(x)], dim=1)
    rest = x - features @ torch.linalg.lstsq(features, x).solution
    wanted = torch.distributions.Normal(0, rest.square().mean().sqrt()).log_prob(rest[:, 0])
    torch.testing.assert_close(found(torch.cat([x, condition], dim=1)), wanted, rtol=1e-4, atol=1e-4)


def test_pictures_show_conditions_beside_the_data() -> None:
    """A panel for each pair of values and conditions."""
    task = Density(MLP(4, [8]), RK4(num_steps=2), num_conditions=2).eval()
    with torch.no_grad():
        figures = task.figures((torch.randn(20, 2), torch.randn(20, 2)))
    assert figures.keys() == {"marginals"}
    assert len(figures["marginals"].axes) == 16


@pytest.mark.parametrize(
    ("width", "options", "told"),
    [
        (3, {"num_conditions": 3}, "dynamics of width 3 have no room for data beside conditions"),
        (3, {"num_conditions": 1, "shape": (3,)}, "need dynamics of width 3 and 1 more, that of the conditions; got 3"),
        (3, {"num_conditions": -1}, "num_conditions must be at least 0; got -1"),
        (3, {"by_class": True, "num_classes": 1}, "by_class needs two classes at least; the data have 1"),
    ],
)
def test_wrong_options_are_refused(width: int, options: dict[str, Any], told: str) -> None:
    """Messages name the widths."""
    with pytest.raises(of.SettingError, match=told):
        Density(MLP(width), RK4(num_steps=1), **options)


def test_wrong_conditions_are_refused() -> None:
    """A density with conditions needs one for each row, one without takes none."""
    with_one, x = Density(MLP(3), RK4(num_steps=1), num_conditions=1), torch.zeros(4, 2)
    with pytest.raises(of.DataError, match=r"expects conditions of shape \(4, 1\); got none"):
        with_one.log_prob(x)
    with pytest.raises(of.DataError, match=r"expects conditions of shape \(4, 1\); got \(4, 2\)"):
        with_one.sample(4, x)
    with pytest.raises(of.DataError, match=r"expects no conditions; got \(4, 2\)"):
        Density(MLP(2), RK4(num_steps=1)).log_prob(x, x)
