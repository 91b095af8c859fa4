"""Estimates: named parameters with their standard errors, by the linearised model."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import grad

from odeflow_data.names import listed
from odeflow_dynamics import Coefficient
from odeflow_tasks.initial_states import InitialStates

if TYPE_CHECKING:
    import polars as pl

NORMAL = 1.959964
"""Half the width of the interval of 95 % of the normal distribution."""
FAR = 0.3
"""Standard errors beyond which an estimate is not that of the largest likelihood."""
SMALLEST = 1e-12
"""Smallest relative eigenvalue of the scaled information matrix of identifiable parameters."""


class Estimate(NamedTuple):
    """A named parameter, a monotone function of an entry x of a trainable tensor.

    Attributes:
        name: Its name.
        unit: Its unit.
        tensor: The name of the tensor.
        number: The index of x in the tensor, flattened.
        value: The function.
        x: The estimate of x.
    """

    name: str
    unit: str
    tensor: str
    number: int
    value: Callable[[Tensor], Tensor]
    x: Tensor


def coefficients(module: nn.Module) -> dict[str, Coefficient]:
    """The trainable coefficients of a module, by attribute, preceded by its owner's where that is not unique."""
    found = [
        (path.split("."), each)
        for path, each in module.named_modules()
        if isinstance(each, Coefficient) and each.raw.requires_grad
    ]
    ends = [path[-1] for path, _ in found]
    return {path[-1] if ends.count(path[-1]) == 1 else ".".join(path[-2:]): each for path, each in found}


def estimates(module: nn.Module, initial: InitialStates, prefix: str) -> Iterator[Estimate]:
    """The coefficients of a module, its learned shared initial states, and those of single trajectories.

    Args:
        module: The module.
        initial: The initial states in it.
        prefix: Their name in the module.
    """
    paths = {each: path for path, each in module.named_modules()}
    for name, each in coefficients(module).items():
        yield Estimate(name, each.unit, f"{paths[each]}.raw", 0, each.of, each.raw.detach().double())
    scale, centre = initial.scale.double(), initial.centre.double()
    for number in initial.shared.nonzero()[:, 0].tolist():
        x = initial.common.detach().double()[number]
        name = f"{initial.states[number]}(0)"
        yield Estimate(name, "", f"{prefix}.common", number, _affine(centre[number], scale[number]), x)
    if not initial.place.numel():
        return
    for sample, number in (initial.place[0] >= 0).nonzero().tolist():
        index = int(initial.place[0, sample, number])
        single = initial.place.shape[1] == 1
        name = f"{initial.states[number]}(0)" + ("" if single else f" of {sample + 1}")
        value = _affine(initial.begun[0, sample, number].double(), scale[number])
        yield Estimate(name, "", f"{prefix}.free", index, value, initial.free.detach().double()[index])


def _affine(shift: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: shift + scale * x


def covariance(residuals: Tensor, jacobian: Tensor, column: Tensor | None) -> tuple[Tensor, Tensor]:
    """(P, P), the covariance of least squares estimates; inf for parameters that the observations do not determine.

    And (P,), the Gauss–Newton step from them, which is 0 at the minimum.

    Args:
        residuals: (R,), in units of the assumed noise.
        jacobian: (R, P), their derivatives.
        column: (R,), the number of the noise of each residual, where noises are estimated; None where they are known.
    """
    count, size = jacobian.shape
    if column is not None:
        degrees = 1 - size / count
        for number in column.unique():
            rows = column == number
            std = (residuals[rows].square().mean() / degrees).sqrt() if degrees > 0 else residuals.new_tensor(torch.inf)
            jacobian = torch.where(rows[:, None], jacobian / std, jacobian)
            residuals = torch.where(rows, residuals / std, residuals)
    norm = jacobian.norm(dim=0).clamp(min=torch.finfo(jacobian.dtype).tiny)
    values, vectors = torch.linalg.eigh((jacobian / norm).T @ (jacobian / norm))
    weak = values < SMALLEST * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    inverse = (vectors[:, ~weak] / values[~weak]) @ vectors[:, ~weak].T
    found = inverse / norm[:, None] / norm
    step = -found @ (jacobian.T @ residuals)
    lost = (vectors[:, weak].abs() > 1e-3).any(dim=1)
    found[lost, :] = found[:, lost] = 0.0
    found[lost, lost] = torch.inf
    return found, step


def table(found: Sequence[Estimate], covariance: Tensor | None = None, step: Tensor | None = None) -> "pl.DataFrame":
    """A row for each parameter: name, estimate, std_error, lower and upper, unit.

    The interval of 95 % is symmetric in x, hence inside the bounds of the parameter. Estimates that a step of Newton's
    method would move by much of their standard error are named: they are not those of the maximum likelihood.

    Args:
        found: The P parameters.
        covariance: (P, P), the covariance of their x; None if it is unknown.
        step: (P,), the step of Newton's method, if it is known.
    """
    import polars as pl

    if covariance is not None and step is not None:
        errors = step.abs() / covariance.diagonal().sqrt()
        away = [f"{each.name} {float(by):.2g}" for each, by in zip(found, errors, strict=True) if not by <= FAR]
        if away:
            rank_zero_info(
                "the fit has not ended: in standard errors, so far is the largest likelihood from the estimates: "
                f"{listed(away)}. Train longer, or at a higher learning rate"
            )

    rows: list[dict[str, Any]] = []
    for number, each in enumerate(found):
        row: dict[str, Any] = {"name": each.name, "estimate": float(each.value(each.x))}
        row |= dict.fromkeys(("std_error", "lower", "upper"))
        if covariance is not None:
            std = covariance[number, number].sqrt()
            ends = sorted(float(each.value(each.x + sign * NORMAL * std)) for sign in (-1, 1))
            row |= {"std_error": float(grad(each.value)(each.x).abs() * std), "lower": ends[0], "upper": ends[1]}
        rows.append(row | {"unit": each.unit})
    kinds = {"name": pl.String, "unit": pl.String}
    columns = ("name", "estimate", "std_error", "lower", "upper", "unit")
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.Float64) for name in columns})
