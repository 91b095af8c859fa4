"""Stream: the rows of a table that is larger than memory, a piece of the file at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

import odeflow as of

Piece = tuple[Tensor, ...]
"""Rows, as many tensors (N, …) as a batch has."""


class Stream(IterableDataset[Piece | Tensor]):
    """Batches of rows that come in pieces; no more than the buffer and a piece are in memory.

    Shuffled rows are drawn from a buffer that later pieces refill: far parts of a file do not mix, so that a file in
    any order other than a random one should be shuffled once before. As torch's own shuffling, it is by a seed from the
    global generator, at the start of each pass.

    Args:
        pieces: Begins a pass.
        count: Number of rows of a pass.
        batch_size: Number of rows in a batch; the last one may be smaller.
        buffer: Number of rows among which batches are drawn at random; 0: they are in the file's order.
    """

    def __init__(self, pieces: Callable[[], Iterator[Piece]], count: int, batch_size: int, buffer: int) -> None:
        self.pieces, self.count, self.batch_size, self.buffer = pieces, count, batch_size, buffer

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Piece | Tensor]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise of.SettingError("a table larger than memory trains in one process; set --trainer.devices 1")
        generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        held: Piece | None = None
        for piece in self.pieces():
            held = piece if held is None else tuple(map(torch.cat, zip(held, piece, strict=True)))
            if len(held[0]) >= max(self.buffer, self.batch_size):
                held = self._shuffled(held, generator)
                given = (len(held[0]) // 2 if self.buffer else len(held[0])) // self.batch_size * self.batch_size
                yield from self._batches(tuple(part[:given] for part in held))
                held = tuple(part[given:] for part in held)
        if held is not None:
            yield from self._batches(self._shuffled(held, generator))

    def _shuffled(self, rows: Piece, generator: torch.Generator) -> Piece:
        if not self.buffer:
            return rows
        order = torch.randperm(len(rows[0]), generator=generator)
        return tuple(part[order] for part in rows)

    def _batches(self, rows: Piece) -> Iterator[Piece | Tensor]:
        for start in range(0, len(rows[0]), self.batch_size):
            batch = tuple(part[start : start + self.batch_size] for part in rows)
            yield batch[0] if len(batch) == 1 else batch
