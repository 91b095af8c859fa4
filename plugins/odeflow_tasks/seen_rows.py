"""The rows of series at which something is seen."""

import torch

import odeflow as of


def seen_rows(batch: of.Series) -> of.Series:
    """The series without the rows at which nothing is seen; shorter ones are padded by their last row, unseen.

    A series of which nothing is seen keeps its first row.

    Args:
        batch: The series.

    Returns:
        The series, (B, R), without covariates; targets are the seen values.
    """
    present = batch.seen.any(2)
    count = present.sum(1, keepdim=True)
    place = torch.arange(max(1, int(count.max())), device=count.device)
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)
    order = order.gather(1, place.expand(len(order), -1).minimum((count - 1).clamp(min=0)))
    cells = order[..., None].expand(-1, -1, batch.y.shape[2])
    seen = batch.seen.gather(1, cells) & (place < count)[..., None]
    return batch._replace(
        t=batch.t.gather(1, order), y=batch.y.gather(1, cells), seen=seen, target=seen, covariates=None, jump=None
    )
