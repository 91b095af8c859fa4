"""The covariates of a batch of series as the external input of a flow."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_tasks.batch import require_finite
from odeflow_tasks.interpolation import Interpolation


def inputs_of(batch: of.Series, interpolation: Interpolation, copies: int = 1) -> of.Path | None:
    """The covariates at all times, followed by the static ones; None if the series have neither.

    Args:
        batch: The series.
        interpolation: Of the covariates.
        copies: Number of repetitions of the batch, which gives (copies · B, c + s).
    """
    parts: list[of.Path] = []
    if batch.covariates is not None:
        parts.append(interpolation.path(batch.t, batch.covariates))
    if batch.static is not None:
        parts.append(of.paths.Constant(batch.static))
    return of.paths.Repeated(of.paths.Joined(*parts), copies) if parts else None


def over_time(batch: of.Series) -> Tensor | None:
    """(B, T, c + s), the covariates and, at the same times, static ones, nan where unknown; None if there are none."""
    if batch.static is None:
        return batch.covariates
    again = batch.t.diff(dim=1, prepend=batch.t[:, :1] - 1) == 0  # padding
    static = batch.static[:, None].expand(-1, batch.t.shape[1], -1).masked_fill(again[..., None], torch.nan)
    return static if batch.covariates is None else torch.cat([batch.covariates, static], dim=2)


def count_of(owner: str, dynamics: of.Dynamics, num_covariates: int | None) -> tuple[int, int]:
    """The number of covariates of a model, and how many of them the width of its dynamics counts.

    Args:
        owner: The task, for messages.
        dynamics: The field.
        num_covariates: The number of covariates of the data; None if it is unknown.

    Raises:
        SettingError: The named inputs of the dynamics are not as many, or the width leaves nothing for a state.
    """
    named = len(dynamics.inputs)
    count = named if num_covariates is None else num_covariates
    if named and count != named:
        raise of.SettingError(
            f"{owner}: {type(dynamics).__name__} has the inputs {', '.join(dynamics.inputs)}, but the data have "
            f"num_covariates={count}"
        )
    counted = count - named
    if not 0 <= counted < dynamics.width:
        raise of.SettingError(
            f"{owner}: the width of the dynamics is that of the state plus num_covariates={count}, so it must be at "
            f"least {count + 1}; {type(dynamics).__name__} has {dynamics.width}"
        )
    return count, counted


def filled(batch: of.Series, interpolation: Interpolation) -> of.Series:
    """The batch whose covariates are (B, T, c + s), static ones included, with interpolated values where unknown."""
    path = inputs_of(batch, interpolation)
    if path is None:
        return batch
    return batch._replace(covariates=torch.stack([path(t) for t in batch.t.unbind(1)], dim=1), static=None)


def checked(owner: str, batch: of.Series, count: int | None, dtype: torch.dtype) -> of.Series:
    """The batch with covariates in a dtype.

    Args:
        owner: The task, for messages.
        batch: The series.
        count: The number of covariates of the model; None if the task does not support them.
        dtype: The dtype.

    Raises:
        DataError: The covariates do not have the shapes of `Series`, are not numbers, or are not as many.
    """
    size = len(batch.t)
    wanted = {"covariates": (batch.covariates, tuple(batch.t.shape)), "static": (batch.static, (size,))}
    found: dict[str, Tensor | None] = {}
    for name, (x, lead) in wanted.items():
        if x is not None and (x.shape[:-1] != lead or not x.is_floating_point()):
            raise of.DataError(
                f"{owner}: {name} must be floating-point numbers of shape {(*lead, '…')}; got {tuple(x.shape)}, "
                f"{x.dtype}"
            )
        found[name] = None if x is None else x.to(dtype)
    if found["static"] is not None:
        require_finite(owner, "static covariates", found["static"])
    given = sum(x.shape[-1] for x in found.values() if x is not None)
    if count is None and given:
        raise of.DataError(
            f"{owner} does not support covariates; these series have {given}. Use LatentODE, or give them among the "
            "values"
        )
    if count is not None and given != count:
        raise of.DataError(
            f"{owner}(num_covariates={count}) expects series with as many covariates, static ones included; these have "
            f"{given}. Set num_covariates={given}, and a dynamics that is {given} wider than the state"
        )
    return batch._replace(**found)
