"""Checks of the batches that tasks receive."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import odeflow as of


def inputs(batch: Any) -> Any:
    """The inputs of a batch with or without targets."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def pair(owner: str, wanted: str, batch: Any) -> tuple[Any, Any]:
    """Inputs and targets.

    Args:
        owner: The task, for messages.
        wanted: What the pair should be, for messages.
        batch: The batch.

    Raises:
        DataError: The batch is not a pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise of.DataError(
            f"{owner} expects batches ({wanted}); got {_described(batch)}. Choose data with targets, or another task"
        )
    return batch[0], batch[1]


def floating(owner: str, name: str, x: Any, module: nn.Module) -> Tensor:
    """Finite real numbers in the dtype of a module's parameters, if any.

    Args:
        owner: The task, for messages.
        name: Name of the numbers, for messages.
        x: The numbers.
        module: The module that computes with them.

    Raises:
        DataError: `x` is not a tensor of finite real numbers.
    """
    x = _tensor(owner, name, x)
    if not x.is_floating_point():
        raise of.DataError(
            f"{owner}: {name} must be floating-point numbers; got {x.dtype}. Convert them by .float(), bytes of images "
            "by .float() / 255"
        )
    dtypes = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    x = x.to(next(dtypes, x.dtype))
    require_finite(owner, name, x)
    return x


def require_finite(owner: str, name: str, x: Tensor, advice: str = "Leave these samples out, or fill them in") -> None:
    """Rejects numbers that are not finite.

    Raises:
        DataError: `x` contains inf or nan.
    """
    wrong = ~x.isfinite()
    if bool(wrong.any()):
        first = tuple(wrong.nonzero()[0].tolist())
        raise of.DataError(
            f"{owner}: {name} must be finite in {x.dtype}; {int(wrong.sum()):,} of {x.numel():,} values are not, the "
            f"first of them {float(x[first])} at {list(first)}. {advice}"
        )


def labels(owner: str, label: Any, count: int, num_classes: int) -> Tensor:
    """(B,), class indices for torch's losses.

    Args:
        owner: The task, for messages.
        label: The labels.
        count: B.
        num_classes: Number of classes.

    Raises:
        DataError: The labels are not class indices of shape (B,).
    """
    label = _tensor(owner, "labels", label)
    if label.shape != (count,):
        raise of.DataError(
            f"{owner} expects labels of shape ({count},), a class for each sample; got {tuple(label.shape)}. "
            "Convert (B, 1) by .squeeze(1), one-hot vectors by .argmax(1)"
        )
    if label.is_floating_point() or label.is_complex():
        raise of.DataError(f"{owner}: labels must be whole numbers; got {label.dtype}. Convert them by .long()")
    low, high = (int(label.min()), int(label.max())) if count else (0, 0)
    if low < 0 or high >= num_classes:
        hint = "Subtract 1 from them" if (low, high) == (1, num_classes) else "Count them from 0, or set num_classes"
        raise of.DataError(
            f"{owner}(num_classes={num_classes}): labels must lie between 0 and {num_classes - 1}; got {low} to "
            f"{high}. {hint}"
        )
    return label.long()


def outcomes(owner: str, outcome: Any, count: int, num_outputs: int, module: nn.Module) -> Tensor:
    """(B, num_outputs), the outcomes of series in the dtype of a module's parameters.

    Args:
        owner: The task, for messages.
        outcome: The outcomes.
        count: B.
        num_outputs: Number of outcomes of a series.
        module: The module that computes with them.

    Raises:
        DataError: The outcomes are not finite numbers of shape (B, num_outputs).
    """
    outcome = floating(owner, "outcomes", outcome, module)
    if outcome.shape != (count, num_outputs):
        raise of.DataError(
            f"{owner}(num_outputs={num_outputs}) expects outcomes of shape ({count}, {num_outputs}); got "
            f"{tuple(outcome.shape)}. Convert (B,) by [:, None]; num_outputs is the number of outcomes that the "
            "regressor predicts of a series"
        )
    return outcome


def series(owner: str, batch: Any, dim: int | None = None) -> of.Series:
    """A batch of series whose parts have the right shapes.

    Args:
        owner: The task, for messages.
        batch: The batch; times may be integers.
        dim: Length d of an observation; any by default.

    Raises:
        DataError: The batch is not a `Series`, or of other shapes.
    """
    if not isinstance(batch, of.Series):
        raise of.DataError(
            f"{owner} expects batches that are odeflow.Series, such as odeflow.Series.observed(t, y); got "
            f"{_described(batch)}"
        )
    t, y = _tensor(owner, "times", batch.t), _tensor(owner, "values", batch.y)
    if y.dim() != 3 or t.shape != y.shape[:2] or dim not in (None, y.shape[2]):
        raise of.DataError(
            f"{owner} expects times (B, T) and values (B, T, {dim or 'd'}); got {tuple(t.shape)} and {tuple(y.shape)}"
        )
    for name, mask in (("seen", batch.seen), ("target", batch.target)):
        if mask.dtype != torch.bool or mask.shape != y.shape:
            raise of.DataError(
                f"{owner}: {name} must be a bool mask {tuple(y.shape)} as the values are; got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
    return batch._replace(t=t if t.is_floating_point() else t.double())


def trajectories(owner: str, batch: Any, module: nn.Module, states: Sequence[str]) -> of.Series:
    """Trajectories at monotone times, all ascending or all descending, possibly with repetitions.

    Args:
        owner: The task, for messages.
        batch: The batch; times may be integers.
        module: The module that computes with it.
        states: The names of the d states.

    Raises:
        DataError: The batch is not a `Series` of these states with monotone times, or something was never observed.
    """
    batch = series(owner, batch)
    dim = batch.y.shape[2]
    if dim != len(states):
        raise of.DataError(
            f"{owner}: the dynamics have the {len(states)} states {', '.join(states)}; the data have {dim}. Choose the "
            "columns of the data in this order by --data.states, and name those that were not measured by --data.hidden"
        )
    _check_times(owner, batch.t)
    observed = batch.seen | batch.target
    empty = (~observed.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise of.DataError(
            f"{owner}: nothing was observed of {len(empty)} of {len(batch.t)} trajectories, the first of them number "
            f"{empty[0]}. Leave them out"
        )
    return batch._replace(y=floating(owner, "states", batch.y.where(observed, 0), module))


def _check_times(owner: str, t: Tensor) -> None:
    """Raises unless times (B, T) are finite, in order, and several in each row."""
    require_finite(owner, "times", t.double())
    if t.shape[1] < 2:
        raise of.DataError(f"{owner}: a trajectory needs two observations at least; got {t.shape[1]}")
    steps = t.diff(dim=1)
    ordered = (steps >= 0).all(1) | (steps <= 0).all(1)
    if not bool(ordered.all()):
        wrong = t[int(ordered.int().argmin())]
        raise of.DataError(
            f"{owner}: times must be in order, forwards or backwards; got {_begun(wrong)}. Sort both by "
            "order = t.argsort(), as t[order] and y[order]"
        )
    still = (t[:, 0] == t[:, -1]).nonzero()[:, 0].tolist()
    if still:
        raise of.DataError(f"{owner}: a trajectory needs different times; got {_begun(t[still[0]])}")
    if len((t[:, -1] > t[:, 0]).unique()) > 1:
        raise of.DataError(f"{owner}: some trajectories run forwards in time and others backwards; give all alike")


def _tensor(owner: str, name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise of.DataError(f"{owner}: {name} must be a tensor; got {_described(x)}")
    return x


def _begun(t: Tensor) -> str:
    """The first few times."""
    return f"[{', '.join(f'{float(time):g}' for time in t[:5])}{', …' if len(t) > 5 else ''}]"


def _described(batch: Any) -> str:
    """A short description of a value."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return type(batch).__name__
