"""The table of docs/concepts/gradients.md says which gradient supports what."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import look_up
from odeflow_dynamics import MLP
from odeflow_sde import Entrywise, EulerMaruyama, NeuralSDE
from odeflow_solvers import Dopri5, Kvaerno5

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "gradients.md"
HEAD = "| | events, dense output |"


def table() -> dict[tuple[str, str], bool]:
    """Whether the page says yes, by gradient and feature."""
    text = HEAD + PAGE.read_text().partition(HEAD)[2].partition("\n\n")[0]
    features, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines())
    return {(row[0], name): row[k] == "yes" for row in rows for k, name in enumerate(features) if name}


def solved(gradient: of.Gradient, solver: of.Solver, t: object = (0.0, 1.0), **options: object) -> Tensor:
    field = MLP(dim=2, hidden=(4,)).double()
    y0 = torch.ones(3, 2, dtype=torch.float64)
    y = of.solve(field, y0, t, solver=solver, gradient=gradient, **options).y[-1].square().sum()
    y.backward()
    return y


def second(gradient: of.Gradient) -> None:
    y0 = torch.ones(3, 2, requires_grad=True)
    y = of.solve(MLP(dim=2, hidden=(4,)), y0, [0.0, 1.0], solver=Dopri5(), gradient=gradient).y[-1].square().sum()
    (slope,) = torch.autograd.grad(y, y0, create_graph=True)
    slope.sum().backward()


def stochastic(gradient: of.Gradient) -> None:
    field = NeuralSDE(MLP(dim=2, hidden=(4,)), Entrywise(2))
    of.solve(
        field, torch.ones(3, 2), [0.0, 1.0], solver=EulerMaruyama(num_steps=4), gradient=gradient
    ).y.sum().backward()


def times() -> Tensor:
    return torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)


FEATURES: dict[str, Callable[[of.Gradient], object]] = {
    "events, dense output": lambda gradient: solved(gradient, Dopri5(), dense=True),
    "gradients of times": lambda gradient: solved(gradient, Dopri5(), times()),
    "stiff solvers": lambda gradient: solved(gradient, Kvaerno5()),
    "per-sample steps": lambda gradient: solved(gradient, Dopri5(per_sample=True)),
    "stochastic equations": stochastic,
    "second derivatives": second,
}


@pytest.mark.parametrize(("name", "feature"), table())
def test_gradients_support_what_the_table_says(name: str, feature: str) -> None:
    """Where it says yes, a backward pass runs; elsewhere an error says why, or a narrower support is named."""
    gradient = look_up("gradient", name)()
    if table()[name, feature] or (name, feature) == ("Backprop", "second derivatives"):  # by other than stiff solvers
        FEATURES[feature](gradient)
    elif (name, feature) != ("Adjoint", "per-sample steps"):
        with pytest.raises((of.OdeflowError, RuntimeError)):
            FEATURES[feature](gradient)
