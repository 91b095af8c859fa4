"""Full batches: training batches of equal size."""

import math
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

import odeflow as of


def full_batches(
    data: of.DataModule,
    dataset: Dataset[Any],
    count: int,
    batch_size: int,
    collate_fn: Callable[[Any], Any] | None = None,
) -> DataLoader[object]:
    """Reshuffled batches of equal size: samples that do not fill the last batch are left out of an epoch.

    Args:
        data: The data module, for messages.
        dataset: The samples.
        count: Their number.
        batch_size: Number of samples in a batch.
        collate_fn: Collates the samples of a batch; torch's by default.

    Raises:
        SettingError: `batch_size` is not positive.
        DataError: There are fewer samples, in each process, than fill a batch.
    """
    name = type(data).__name__
    if batch_size < 1:
        raise of.SettingError(f"{name}: batch_size must be at least 1; got {batch_size}")
    processes = 1 if data.trainer is None else data.trainer.world_size
    share = math.ceil(count / processes)
    if batch_size > share:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise of.DataError(
            f"{name}: {share:,} samples train{each}, fewer than batch_size={batch_size:,}; every training batch is "
            f"full, so that there would be none. Set --data.batch_size to {share:,} at most"
        )
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, collate_fn=collate_fn)
