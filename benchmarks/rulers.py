"""What simple rules reach on the series of `recipes/latent`: the baselines of the tables in `docs/results.md`.

    python benchmarks/rulers.py periodic
    python benchmarks/rulers.py hopper --root shared/data/hopper
    python benchmarks/rulers.py physionet --root shared/data/physionet2012
    python benchmarks/rulers.py spirals

Mean square errors at unseen targets; of spirals root mean square errors. "Inside" and "outside" are between the first
and the last observation of a series, and before and after. "Features" is the mean over the features of the series, each
with equal weight. Where nothing of a feature was seen, the mean of the training part is predicted.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

import odeflow as of
from odeflow_data import BidirectionalSpirals, Hopper, PeriodicSeries, PhysioNet2012
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData
from odeflow_tasks import series_baselines

HALF = Seen("extrapolation", 0.5)
DEGREE = 4


def main(words: Sequence[str] | None = None) -> None:
    """Prints the errors of every rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", choices=CASES)
    parser.add_argument("--root", default=".")
    parser.add_argument("--part", choices=("val", "test"), default="test")
    options = parser.parse_args(words)
    for case, data in CASES[options.data](options.root):
        data.setup("test")
        if isinstance(data, BidirectionalSpirals):
            batch = getattr(data, options.part)
            unseen = ~batch.seen
            error = float((polynomials(batch) - batch.y)[unseen].square().mean().sqrt())
            print(f"{case:32} polynomial of degree {DEGREE}: {error:.3g}")
            continue
        for name, errors in rules(getattr(data, options.part), population(data)).items():
            shown = ", ".join(f"{kind} {error:.3g}" for kind, error in errors.items())
            print(f"{case:32} {name:12} {shown}", flush=True)


def rules(batch: of.Series, mean: Tensor) -> dict[str, dict[str, float]]:
    """The errors of each rule at unseen targets.

    Args:
        batch: The series.
        mean: (d,), predicted of features of which nothing was seen.
    """
    nothing = ~batch.seen.any(1, keepdim=True)
    found = series_baselines.predictions(batch)
    if bool((batch.seen == batch.seen[..., :1]).all()):
        found["cubic"] = monotone_cubics(batch)
    present, unseen = batch.seen.any(-1), batch.target & ~batch.seen
    inside = ((present.cumsum(1) > 0) & (present.flip(1).cumsum(1).flip(1) > 0))[..., None]
    errors: dict[str, dict[str, float]] = {}
    for name, prediction in (found | {"population": mean.expand_as(batch.y)}).items():
        square = (torch.where(nothing, mean, prediction) - batch.y).square().where(unseen, 0.0)
        places = {"all": unseen, "inside": unseen & inside, "outside": unseen & ~inside}
        errors[name] = {kind: float(square[mask].mean()) for kind, mask in places.items() if bool(mask.any())}
        errors[name]["features"] = float((square.sum(1) / unseen.sum(1).clamp(min=1)).mean())
    return errors


def population(data: SeriesData) -> Tensor:
    """(d,), the mean of each feature over the training part."""
    known = data.train.seen | data.train.target
    return (data.train.y * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)


def monotone_cubics(batch: of.Series) -> Tensor:
    """(B, T, d), the monotone cubic interpolation of series whose features are seen together; held outside."""

    def one(t: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
        return PchipInterpolator(t, y)(times.clip(t[0], t[-1])) if len(t) > 1 else y.repeat(len(times), axis=0)

    return _each(batch, one)


def polynomials(batch: of.Series) -> Tensor:
    """(B, T, d), least-squares polynomials in time of each series."""

    def one(t: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
        centre, half = (t[0] + t[-1]) / 2, (t[-1] - t[0]) / 2
        fits = [np.polynomial.Polynomial.fit(t, column, DEGREE, [centre - half, centre + half]) for column in y.T]
        return np.stack([fit(times) for fit in fits], axis=1)

    return _each(batch, one)


def _each(batch: of.Series, predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Tensor:
    """(B, T, d), predictions of each series from its seen values, averaged at equal times; 0 without any."""
    found = torch.zeros_like(batch.y)
    for row, present in enumerate(batch.seen.any(-1)):
        if not bool(present.any()):
            continue
        t, place = np.unique(batch.t[row, present].double().numpy(), return_inverse=True)
        values = batch.y[row, present].double().numpy()
        mean = np.stack([np.bincount(place, column) / np.bincount(place) for column in values.T], axis=1)
        found[row] = torch.from_numpy(predict(t, mean, batch.t[row].double().numpy()))
    return found


def _periodic(root: str) -> Iterator[tuple[str, SeriesData]]:
    for share in (0.1, 0.2, 0.3, 0.5):
        yield f"periodic, {share:.0%} seen", PeriodicSeries(seen=Seen(share=share))
    yield "periodic, second half", PeriodicSeries(seen=HALF)


def _hopper(root: str) -> Iterator[tuple[str, SeriesData]]:
    for share in (0.1, 0.2, 0.3, 0.5):
        yield f"hopper, {share:.0%} seen", Hopper(root, seen=Seen(share=share))
    yield "hopper, second half, largest", Hopper(root, seen=HALF, divisor="largest")


def _physionet(root: str) -> Iterator[tuple[str, SeriesData]]:
    for name, seen in (("half of the times", Seen(share=0.5)), ("second half", HALF)):
        yield f"physionet, {name}", PhysioNet2012(root, divisor="largest", seen=seen)


def _spirals(root: str) -> Iterator[tuple[str, SeriesData]]:
    for observations in (30, 50, 100):
        for predict in ("stretch", "beyond"):
            yield (
                f"spirals, {observations}, {predict}",
                BidirectionalSpirals(observations=observations, predict=predict),
            )


CASES: dict[str, Callable[[str], Iterator[tuple[str, SeriesData]]]] = {
    "periodic": _periodic,
    "hopper": _hopper,
    "physionet": _physionet,
    "spirals": _spirals,
}

if __name__ == "__main__":
    main()
