"""The laws of regularisers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odeflow.engine.gradients import Backprop
from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.step.tableau import Tableau
from odeflow.flow.flow import Flow
from odeflow.flow.options import FlowOptions
from odeflow.flow.regularizers import Regularizer
from odeflow.plugin.registry import build
from odeflow.testing.conformance import Check, all_of, checks_of, largest, require


class _Midpoint(RungeKutta):
    """The explicit midpoint method."""

    tableau = Tableau(order=2, c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1))


class _Field(nn.Module):
    """dy/dt = tanh(W y) cos t, which depends on all it could."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.9, -0.4, 0.2], [0.3, 0.8, -0.6], [-0.5, 0.1, 0.7]]).double())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight.T) * torch.cos(t)


@dataclass(frozen=True)
class Subject:
    """A regulariser under test.

    Attributes:
        regularizer: The regulariser.
    """

    regularizer: Regularizer

    def rate(self, y: Tensor, field: nn.Module | None = None) -> Tensor:
        """(B,), the rate at states y, with the same random numbers each time."""
        field = field or _Field()
        t, y = torch.tensor(0.3, dtype=y.dtype), y.detach().requires_grad_()
        with torch.random.fork_rng(devices=()), torch.enable_grad():
            torch.manual_seed(0)
            return self.regularizer.rate(field, t, y, field(t, y))


def _states() -> Tensor:
    """(4, 3), states of four samples."""
    return torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).sin()


def regularizer_checks(regularizer: Regularizer) -> list[Check]:
    """The laws of regularisers, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        regularizer: The regulariser, with a positive weight.
    """
    return checks_of(type(regularizer).__name__, Subject(regularizer), LAWS)


check_regularizer = all_of(regularizer_checks)
"""Checks all of them, without pytest."""


def one_rate_for_each_sample(subject: Subject) -> None:
    """The rate has shape (B,), the dtype of the state, is finite, and at least 0."""
    y = _states()
    rate = subject.rate(y)
    require(
        rate.shape == (len(y),) and rate.dtype == y.dtype,
        wanted=f"a rate of shape ({len(y)},) and {y.dtype}",
        got=f"{tuple(rate.shape)} and {rate.dtype}",
        look="the mean at its end, which is over the state, not over the batch: .flatten(1).mean(1)",
    )
    require(
        bool(rate.isfinite().all() and (rate >= 0).all()),
        wanted="finite rates, at least 0",
        got=str(rate.tolist()),
        look="divisions and roots at zero, and the sign: a penalty without a bound below can grow for ever",
    )


def states_of_any_shape(subject: Subject) -> None:
    """States may be images: the rate has shape (B,) then, too."""
    y = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 2, 2).sin().requires_grad_()
    f = torch.tanh(y) * y.mean()
    with torch.random.fork_rng(devices=()):
        rate = subject.regularizer.rate(lambda t, y: torch.tanh(y) * y.mean(), torch.zeros((), dtype=y.dtype), y, f)
    require(
        rate.shape == (2,),
        wanted="a rate of shape (2,) for states (2, 3, 2, 2)",
        got=f"shape {tuple(rate.shape)}",
        look="the dimensions that it averages over: .flatten(1).mean(1)",
    )


def gradients(subject: Subject) -> None:
    """The rate has a gradient for the parameters of the field, without which it would not change them."""
    field = _Field()
    rate = subject.rate(_states(), field)
    found = None if not rate.requires_grad else torch.autograd.grad(rate.sum(), field.weight, allow_unused=True)[0]
    require(
        found is not None and bool(found.isfinite().all()) and bool(found.any()),
        wanted="a gradient for the field's parameters",
        got="none" if found is None else str(found.tolist()),
        look="`detach`, `no_grad`, and derivatives without create_graph=True",
    )


def penalties(subject: Subject) -> None:
    """The penalty of a flow is positive, finite and proportional to the weight."""
    found: list[Tensor] = []
    for factor in (1, 2):
        regularizer = build(subject.regularizer.spec)
        regularizer.weight *= factor
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            options = FlowOptions(regularizers=[regularizer])
            flow = Flow(_Field(), _Midpoint(num_steps=4), Backprop(), options=options).train()
            flow(_states())
        found += flow.penalties.values()
    error = largest(found[1] - 2 * found[0])
    require(
        bool(found[0].isfinite()) and float(found[0].detach()) > 0 and error <= 1e-9 * float(found[1].detach()),
        wanted="a penalty that doubles with the weight",
        got=f"{float(found[0].detach()):g}, then {float(found[1].detach()):g}",
        look="`rate`, which must not contain the weight, and super().__init__(weight)",
    )


LAWS: tuple[Callable[[Subject], None], ...] = (one_rate_for_each_sample, states_of_any_shape, gradients, penalties)
