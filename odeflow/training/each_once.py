"""Evaluation by several processes, in which each sample counts once."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import distributed
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class EachOnce(DistributedSampler[Any]):
    """The samples of one process: number r, r + W, r + 2W, … of W processes, without repetition.

    PyTorch's own sampler gives all processes as many samples and repeats some to this end, so that means over a
    validation part depend on the number of processes. Fewer samples than processes are repeated here, too.

    Args:
        dataset: The samples.
        batch_size: The wanted number of samples in a batch.
        num_replicas: Number W of processes; by default that of the process group.
        rank: The number r of this process; by default that in the process group.

    Attributes:
        batch_size: The least number from the wanted one on by which all processes have as many batches.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.count = len(dataset)  # pyright: ignore[reportArgumentType]
        few = max(1, self.count // self.num_replicas)
        many = max(few, math.ceil(self.count / self.num_replicas))
        while math.ceil(few / batch_size) != math.ceil(many / batch_size):
            batch_size += 1
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank % max(1, self.count), self.count, self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank % max(1, self.count), self.count, self.num_replicas))


def evaluation_loader(
    dataset: Dataset[Any], batch_size: int, collate_fn: Callable[[Any], Any] | None = None
) -> DataLoader[Any]:
    """All samples in order, in batches of which the last may be smaller; several processes share them.

    Args:
        dataset: The samples.
        batch_size: Number of samples in a batch of a process, which has a few more if processes would otherwise differ
            in their number of batches.
        collate_fn: Collates the samples of a batch; torch's by default.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return DataLoader(dataset, batch_size=batch_size, collate_fn=collate_fn)
    sampler = EachOnce(dataset, batch_size)
    return DataLoader(dataset, batch_size=sampler.batch_size, sampler=sampler, collate_fn=collate_fn)
