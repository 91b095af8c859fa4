"""Rulers of `latent/mocap` and `sde/mocap`: forecasts of walks from training walks alone, without a model.

    python benchmarks/walks.py FOLDER

Mean square errors of all frames but the first three, in validation and test: of the training walk whose first three
frames are the nearest, and of the mean of the 20 nearest stretches, which begin at any frame of a training walk; beyond
the end of its walk a stretch goes on by the walk's period, the lag that repeats it best. The periods are printed, too.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow_sde import Mocap

NEAREST = 20
LAGS = range(60, 221)
"""Candidates for the period of a walk, in frames."""


def main(words: Sequence[str] | None = None) -> None:
    """Prints the errors and the periods."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="of mocap35.npz")
    data = Mocap(parser.parse_args(words).folder)
    data.setup("fit")
    walks, seen = data.train.y, data.frames
    for name, part in (("validation", data.val.y), ("test", data.test.y)):
        nearest = walks[distances(part[:, :seen], walks[:, :seen]).argmin(1)]
        found = error(nearest, part, seen), error(stretches(part, walks, seen), part, seen)
        periods = [period(walk) for walk in part]
        print(f"{name}: nearest walk {found[0]:.2f}, nearest stretches {found[1]:.2f}, periods {periods}")
    print(f"training: periods {[period(walk) for walk in walks]}")


def stretches(part: Tensor, walks: Tensor, seen: int) -> Tensor:
    """(B, T, d), the mean of the stretches of walks (N, T, d) whose first frames are the nearest to a series'."""
    length = part.shape[1]
    every = torch.cat([continued(walk, 2 * length).unfold(0, length, 1)[: length - seen + 1] for walk in walks]).mT
    nearest = distances(part[:, :seen], every[:, :seen]).topk(NEAREST, largest=False).indices
    return every[nearest].mean(1)


def continued(walk: Tensor, length: int) -> Tensor:
    """(length, d), a walk (T, d) that goes on by its period."""
    lag, end = period(walk), len(walk)
    place = torch.arange(length)
    return walk[torch.where(place < end, place, end - lag + (place - end) % lag)]


def period(walk: Tensor) -> int:
    """The lag by which a walk (T, d) repeats itself best, in frames."""
    return min(LAGS, key=lambda lag: (walk[lag:] - walk[:-lag]).square().mean().item())


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(B, N), the distances of series (B, T, d) and (N, T, d)."""
    return torch.cdist(x.flatten(1), y.flatten(1))


def error(found: Tensor, part: Tensor, seen: int) -> float:
    """The mean square error of the frames that were not seen."""
    return (found - part)[:, seen:].square().mean().item()


if __name__ == "__main__":
    main()
