"""Features of a series as a whole, for simple models."""

import torch
from torch import Tensor

import odeflow as of


def features(batch: of.Series) -> Tensor:
    """Simple features of each series: seen values, in brief, and their span of time.

    Args:
        batch: The series.

    Returns:
        (B, 7d + 1): of each feature mean, spread, least, largest, first and last value, and their number, 0 if it was
        never seen; and the time from the first to the last seen value.
    """
    y, seen = batch.y.where(batch.seen, 0.0), batch.seen
    count = seen.sum(1)
    mean = y.sum(1) / count.clamp(min=1)
    spread = ((y - mean[:, None]).square().where(seen, 0.0).sum(1) / count.clamp(min=1)).sqrt()
    least, largest = y.where(seen, torch.inf).amin(1), y.where(seen, -torch.inf).amax(1)
    place = torch.arange(y.shape[1], device=y.device)[None, :, None]
    first = y.gather(1, place.where(seen, y.shape[1] - 1).amin(1, keepdim=True)).squeeze(1)
    last = y.gather(1, place.where(seen, 0).amax(1, keepdim=True)).squeeze(1)
    present = seen.any(2)
    ends = (
        batch.t.where(present, -torch.inf).amax(1, keepdim=True),
        batch.t.where(present, torch.inf).amin(1, keepdim=True),
    )
    duration = (ends[0] - ends[1]).where(present.any(1, keepdim=True), 0.0)
    found = (mean, spread, *(each.where(count > 0, 0.0) for each in (least, largest, first, last)), count.to(y))
    return torch.cat((*found, duration), 1)
