"""TableStream: a table that is larger than memory, read a piece at a time."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.reservoir import Reservoir
from odeflow_data.split import PARTS, Split
from odeflow_data.stream import Piece, Stream

if TYPE_CHECKING:
    from odeflow_data.frame import Frame
    from odeflow_data.table import Part

MOST = 1_000_000
"""Maximum number of rows in memory."""


class TableStream:
    """The parts of a table's file, piece by piece.

    Args:
        frame: The file.
        columns: The columns to read.
        read: A piece of the file ↦ its rows, in the file's units.
        split: Which rows train.
        memory: Number of bytes that may be held.
        files: The parts that are files of their own.

    Raises:
        SettingError: The split needs all rows at once.
    """

    def __init__(
        self,
        frame: "Frame",
        columns: list[str],
        read: "Callable[[Frame], Part]",
        split: Split,
        memory: float,
        files: "dict[str, Frame]",
    ) -> None:
        if split.by is not None and split.group is not None:
            raise of.SettingError(
                f"{frame.origin} is larger than the memory, so that its rows are divided by one column; got "
                f"split.by {split.by!r} and split.group {split.group!r}. Name the parts in one column of train, val "
                "and test"
            )
        for name, option in ((split.by, "split.by"), (split.group, "split.group")):
            frame.require([] if name is None else [name], option)
        self.frame, self.columns, self.read, self.split, self.files = frame, columns, read, split, files
        self.memory = memory
        self.rows = int(min(MOST, max(memory // (64 * len(columns)), 16)))  # of a buffer, in its several copies
        self.size = max(self.rows // 4, 4)

    def parts(self) -> "Iterator[tuple[int, Part]]":
        """All rows, in pieces of one part each, with its number in `PARTS`."""
        generator = np.random.default_rng(self.split.seed)
        for piece, rows, places in self._pieces():
            numbers = torch.from_numpy(self.split.drawn(piece, places, piece.count, generator, self.starts))
            for part, name in enumerate(PARTS):
                if name not in self.files:
                    yield part, rows.at(numbers == part)
        for name in self.files:
            yield from ((PARTS.index(name), rows) for rows in self.whole(self.files[name]))

    @cached_property
    def starts(self) -> "NDArray[np.float64] | None":
        """Where validation and test begin in the order of a column, exactly if memory holds it; None without one.

        Otherwise they are those of a random sample of the rows.
        """
        by = self.split.by
        if by is None or self.frame.is_text(by):
            return None
        sample = Reservoir(int(self.memory // 64), np.random.default_rng(self.split.seed))
        for piece, _, places in self._pieces():
            sample.add(self.split.placed(piece, places))
        return self.split.starts(sample.values)

    def _pieces(self) -> "Iterator[tuple[Frame, Part, NDArray[np.int64]]]":
        """The file piece by piece: its columns, its rows, and their places in it."""
        for piece in self.frame.pieces(list(dict.fromkeys([*self.columns, *self.split.columns])), self.size):
            rows = self.read(piece)
            yield piece, rows, rows.row.numpy() - piece.skipped

    def whole(self, frame: "Frame") -> "Iterator[Part]":
        """All rows of a file, in pieces."""
        return (self.read(piece) for piece in frame.pieces(self.columns, self.size))

    def of_part(self, part: int) -> "Callable[[], Iterator[Part]]":
        """Begins a pass over the rows of a part, by its number in `PARTS`."""
        return lambda: (rows for number, rows in self.parts() if number == part)

    def batches(
        self,
        pieces: "Callable[[], Iterator[Part]]",
        count: int,
        batch_size: int,
        columns: "Callable[[Part], Piece]",
        shuffle: bool = False,
    ) -> Stream:
        """The batches of rows.

        Args:
            pieces: Begins a pass over the rows.
            count: Their number.
            batch_size: Number of rows in a batch.
            columns: Rows ↦ what a batch has of them.
            shuffle: Whether they are drawn from a buffer.
        """
        return Stream(lambda: map(columns, pieces()), count, batch_size, self.rows // 2 if shuffle else 0)
