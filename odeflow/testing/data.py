"""The laws of data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeflow.plugin.registry import build
from odeflow.testing.conformance import Check, all_of, checks_of, require

if TYPE_CHECKING:
    from odeflow.training.data import DataModule

PARTS = {"train": "fit", "val": "fit", "test": "test", "predict": "predict"}
"""The parts of data, with the stage of `setup` that prepares them."""
MOST = 3
"""Number of batches of a part that are looked at."""


@dataclass(frozen=True)
class Subject:
    """Data under test.

    Attributes:
        data: The data, not set up.
    """

    data: "DataModule"

    def batches(self, part: str) -> list[Any]:
        """The first batches of a part of data that are built and set up anew."""
        data = build(self.data.spec)
        data.prepare_data()
        data.setup(PARTS[part])
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return list(islice(getattr(data, f"{part}_dataloader")(), MOST))


def data_checks(data: "DataModule") -> list[Check]:
    """The laws of data, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        data: The data; copies of it are set up.
    """
    return checks_of(type(data).__name__, Subject(data), LAWS)


check_data = all_of(data_checks)
"""Checks all of them, without pytest."""


def every_part_has_batches(subject: Subject) -> None:
    """There are batches to train, to validate, to test and to predict."""
    for part in PARTS:
        require(
            bool(subject.batches(part)),
            wanted=f"a batch from {part}_dataloader",
            got="none",
            look="the sizes of the parts, and `drop_last`",
        )


def finite_numbers(subject: Subject) -> None:
    """Batches hold tensors, and numbers that are finite; missing values are marked by a mask."""
    for part in PARTS:
        for batch in subject.batches(part):
            tensors = list(_tensors(batch))
            require(
                bool(tensors),
                wanted=f"tensors in a batch of {part}_dataloader",
                got=f"a {type(batch).__name__} without any",
                look="what the data set's `__getitem__` or `collate_fn` returns",
            )
            bad = sum(int((~each.isfinite()).sum()) for each in tensors)
            require(
                bad == 0,
                wanted=f"finite numbers in {part}_dataloader",
                got=f"{bad} that are inf or nan",
                look="missing values, which `odeflow.Series.observed` marks as neither seen nor wanted",
            )


def sizes(subject: Subject) -> None:
    """The sizes that `__init__` sets are those of the batches."""
    data, (batch, *_) = subject.data, subject.batches("train")
    dim, shape, classes = (getattr(data, name, None) for name in ("dim", "shape", "num_classes"))
    if hasattr(batch, "_fields"):  # a Series
        require(
            batch.y.shape[-1] == dim,
            wanted=f"dim = {batch.y.shape[-1]}, the length of an observation",
            got=f"dim = {dim}",
            look="the attribute `dim` that `__init__` sets",
        )
        return
    first = next(_tensors(batch))
    require(
        (dim, shape) != (None, None),
        wanted="the size of an input, dim or shape",
        got="neither",
        look="the attributes that `__init__` sets, by which the command line sizes a model",
    )
    wanted = tuple(shape) if shape is not None else (dim,)
    require(
        tuple(first.shape[1:]) == wanted,
        wanted=f"inputs (B, {', '.join(map(str, wanted))})",
        got=f"inputs {tuple(first.shape)}",
        look="the attributes `dim` and `shape` that `__init__` sets",
    )
    if classes is not None:
        labels = batch[1]
        require(
            not labels.is_floating_point() and 0 <= int(labels.min()) <= int(labels.max()) < classes,
            wanted=f"whole numbers from 0 to {classes - 1} as labels",
            got=f"{labels.dtype} from {labels.min().item():g} to {labels.max().item():g}",
            look="the attribute `num_classes`, and the type of the labels",
        )


def reproducible(subject: Subject) -> None:
    """Built again from their spec, the data evaluate on the same batches: results can be compared."""
    for part in ("val", "test"):
        pairs = zip(subject.batches(part), subject.batches(part), strict=True)
        same = all(one.equal(other) for two in pairs for one, other in zip(*map(_tensors, two), strict=True))
        require(
            same,
            wanted=f"the same batches of {part}_dataloader each time",
            got="different ones",
            look="`shuffle`, and random numbers in `setup`, which torch.Generator().manual_seed(seed) makes the same",
        )


def _tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (tuple, list)):
        for part in batch:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors(part)
    elif isinstance(batch, dict):
        yield from _tensors(tuple(batch.values()))  # pyright: ignore[reportUnknownArgumentType]


LAWS: tuple[Callable[[Subject], None], ...] = (every_part_has_batches, finite_numbers, sizes, reproducible)
