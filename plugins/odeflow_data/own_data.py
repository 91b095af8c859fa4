"""OwnData: user data from a file, a data frame or arrays."""

from abc import ABC
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

import odeflow as of

if TYPE_CHECKING:
    from odeflow_data.frame import Frame

SHOWN = 5
"""Maximum number of names in the summary line."""


class OwnData(of.DataModule, ABC):
    """Data read by `Frame` from `path`, the first option of a subclass, which in Python may be a data frame or arrays.

    What a file leaves open, such as which columns there are, is settled when it is first read, and kept with the
    model: a later file is read alike.
    """

    standardises = True
    tabular = True
    path: Any
    key: str | None
    frame: "Frame"
    features: list[str]
    standardise: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        given = kwargs.get("path", args[0] if args else "")
        if isinstance(given, str):
            return super().__new__(cls, *args, **kwargs)
        from odeflow_data.frame import described

        text = described(given)  # a checkpoint cannot hold a data frame, but what it was
        if "path" in kwargs:
            return super().__new__(cls, *args, **(kwargs | {"path": text}))
        return super().__new__(cls, text, *args[1:], **kwargs)

    def open(self, source: Any) -> "Frame":
        """The columns of a file, or of another source."""
        from odeflow_data.frame import Frame

        return Frame.of(source, self.key)

    def settle(self, **options: Any) -> None:
        """Stores options inferred from the file as if they had been given."""
        self.remembered_spec["init_args"] |= options

    def moments(self, y: NDArray[np.float64], rows: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and standard deviation of each column's observed values; 0 and 1 without standardisation.

        Args:
            y: (N, d), NaN where nothing was observed.
            rows: What the rows are, for the message.

        Raises:
            DataError: A column is empty or constant.
        """
        if not self.standardise:
            return (0.0,), (1.0,)
        for name, column in zip(self.features, y.T, strict=True):
            seen = column[~np.isnan(column)]
            if not len(seen) or seen.min() == seen.max():
                raise of.DataError(
                    f"{self.frame.origin}: column {name!r} is empty or constant in the training {rows}, so it cannot "
                    "be standardised. Leave it out by --data.ignore, or set --data.standardise=false"
                )
        return tuple(np.nanmean(y, axis=0).tolist()), tuple(np.nanstd(y, axis=0).tolist())

    def columns(
        self, frame: "Frame", chosen: Sequence[str] | None, roles: Sequence[str | None], option: str
    ) -> list[str]:
        """The chosen columns; by default all without another role.

        Args:
            frame: The file.
            chosen: Their names.
            roles: The columns that have another role.
            option: The option that chooses, for messages.

        Raises:
            DataError: There are none.
        """
        if chosen is not None:
            frame.require(chosen, option)
        found = [name for name in frame.names if name not in roles] if chosen is None else list(chosen)
        if not found:
            raise of.DataError(
                f"{frame.origin}: no column is left for {option}; it has {', '.join(frame.names)}. Name some by "
                f"--data.{option}"
            )
        return found

    def say(self, text: str) -> None:
        """Prints a summary line, in the first process of a run."""
        rank_zero_info(f"{type(self).__name__}: {text}")


def joined(predictions: Sequence[Tensor]) -> Tensor:
    """The predictions of several batches as one tensor, in single precision at least."""
    whole = torch.cat(list(predictions))
    return whole.float() if whole.dtype in (torch.float16, torch.bfloat16) else whole


def unused(name: str, taken: Collection[str]) -> str:
    """A name for a column beside those of the file, with a trailing underscore if the file has such a name."""
    while name in taken:
        name += "_"
    return name


def several(names: str | Sequence[str] | None) -> list[str]:
    """Names given as one, several or none."""
    return [names] if isinstance(names, str) else list(names or ())


def shortly(names: Sequence[str]) -> str:
    """Names in a line, the first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
