"""Regularisers: penalties that make learned dynamics easy to solve, integrated along trajectories."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.equation import SDE, StochasticField
from odeflow.engine.equation.state import Field
from odeflow.errors import StateError
from odeflow.plugin.plugin import Plugin, check_least

Rate = Callable[[Field, Tensor, Tensor, Tensor], Tensor]
"""(field, t, y, f(t, y) with its graph) ↦ (B,): a rate integrated along a solution."""


class Regularizer(Plugin, ABC):
    """A penalty w ∫ r(t, y) dt along each trajectory, averaged over the batch.

    All rates r are means over the entries of the state, so that weights are comparable across state sizes.

    Args:
        weight: The factor w of the penalty in the loss.

    Raises:
        SettingError: The weight is negative.
    """

    kind = "regularizer"

    def __init__(self, weight: float) -> None:
        check_least(self, 0, weight=weight)
        self.weight = weight

    @property
    def name(self) -> str:
        """The name under which the penalty is logged: jacobian_norm for `JacobianNorm`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def rate(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        """The rate r(t, y).

        Args:
            field: The vector field.
            t: (), the time.
            y: (B, *state), with `requires_grad`.
            f: (B, *state), f(t, y), with its graph.

        Returns:
            (B,), at least 0.
        """


class Kinetic(Regularizer):
    """The kinetic energy r = ‖f(t, y)‖² / n, which favours slow, straight trajectories.

    Source: Finlay et al. (2020), "How to Train Your Neural ODE", eq. 7.
    """

    def rate(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        return _mean_square(f)


class JacobianNorm(Regularizer):
    """The squared Frobenius norm r = ‖∂f/∂y‖² / n, estimated by ‖εᵀ ∂f/∂y‖² with ε ~ N(0, 1), fixed in each solve.

    Source: Finlay et al. (2020), "How to Train Your Neural ODE", eq. 10.
    """

    def rate(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        if not f.requires_grad:  # the field does not depend on the state
            return f.new_zeros(len(f))
        noise = torch.randn_like(f)
        (product,) = torch.autograd.grad(f, y, noise, create_graph=True, materialize_grads=True)
        return _mean_square(product)


class Taylor(Regularizer):
    """R_K, the squared total derivative r = ‖dᴷy/dtᴷ‖² / n of order K along the solution.

    Solvers of order K − 1 or higher take large steps where it is small. Computed by nested forward-mode products. For
    fields with `LayerNorm` or `BatchNorm` PyTorch (2.13) silently computes wrong results: the gradient for K = 2, the
    value for K ≥ 3 (https://github.com/pytorch/pytorch/issues/198017). `GroupNorm` is correct.

    Source: Kelly et al. (2020), "Learning Differential Equations that are Easy to Solve", eq. 6.

    Args:
        weight: The factor of the penalty in the loss.
        order: Order K of the derivative, at least 1. Order 1 is the kinetic energy.

    Raises:
        SettingError: The weight is negative, or the order is not positive.
    """

    def __init__(self, weight: float, order: int = 2) -> None:
        super().__init__(weight)
        check_least(self, 1, order=order)
        self.order = order

    @property
    def name(self) -> str:
        """The name under which the penalty is logged."""
        return f"taylor_{self.order}"

    def rate(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        if self.order == 1:
            return _mean_square(f)
        return _mean_square(_total_derivative(field, self.order)(t, y))


def _total_derivative(field: Field, order: int) -> Field:
    """(t, y) ↦ dᴷy/dtᴷ along the solution: the first is f, and each further one is (∂ₜ + f·∇) of the previous."""
    if order == 1:
        return field
    lower = _total_derivative(field, order - 1)

    def derivative(t: Tensor, y: Tensor) -> Tensor:
        directions = (torch.ones_like(t), field(t, y))
        return torch.func.jvp(lower, (t, y), directions)[1]

    return derivative


def _mean_square(value: Tensor) -> Tensor:
    return value.square().flatten(1).mean(1)


def with_rates(field: Field, rates: tuple[Rate, ...]) -> Any:
    """The field on (y, integrals of the rates); the integrals of a stochastic field are without noise.

    Args:
        field: The vector field.
        rates: The rates, at least one.
    """
    drift = WithRates(field, rates)
    if not isinstance(field, StochasticField):
        return drift
    return SDE(drift, lambda t, pair: field.diffusion(t, pair[0]), field.noise, field.calculus)


@dataclass(frozen=True)
class WithRates:
    """The field on (y, integrals of the rates), of shapes (B, *state) and (B, number of rates).

    Attributes:
        field: The vector field.
        rates: The rates, at least one.
    """

    field: Field
    rates: tuple[Rate, ...]

    def __call__(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(f(t, y), rates at (t, y))."""
        y, wanted = state[0], torch.is_grad_enabled()
        with torch.enable_grad():
            y = y if wanted and y.requires_grad else y.detach().requires_grad_()
            f = self.field(t, y).to(y)
            values = torch.stack([_checked(rate, rate(self.field, t, y, f), len(y)) for rate in self.rates], dim=1)
        return (f, values) if wanted else (f.detach(), values.detach())


def _checked(rate: Rate, value: Tensor, batch: int) -> Tensor:
    """The value of a rate.

    Raises:
        StateError: It is not a tensor (B,).
    """
    shape = tuple(value.shape) if isinstance(value, Tensor) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if shape != (batch,):
        name = type(getattr(rate, "__self__", rate)).__name__
        came = f"a tensor {shape}" if shape is not None else repr(value)
        raise StateError(
            f"the rate of {name} must have one value for each of the {batch} samples, shape ({batch},); got {came}. "
            "Average over the state, not over the batch: .flatten(1).mean(1)"
        )
    return value
