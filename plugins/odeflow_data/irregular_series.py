"""IrregularSeries: anyone's time series, with times of their own and gaps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import odeflow as of
from odeflow_data.archive import LARGEST, load
from odeflow_data.series import Mode, SeriesData, moments, scaled

ADVICE = (
    "Wanted is a .npz file of the arrays t (N, T), or (T,) if all series share their times; y (N, T, d), or (N, T); "
    "and, if you like, mask, of the shape of y, and label (N,). Name it by --data.path"
)


class IrregularSeries(SeriesData):
    """The series in a `.npz` file, shuffled and split into training, validation and test.

    The file holds `t`, (N, T) or (T,) if all share their times, in increasing order, its end filled by NaN where a
    series is shorter; `y`, (N, T, d) or (N, T); maybe `mask`, of the shape of `y`, true where it was observed; maybe
    `label`, (N,), whole numbers from 0 on. NaN in `y` means that nothing was observed, too.

    Args:
        path: The file.
        standardise: Whether each dimension is standardised by what was observed of the training series. A trained model
            keeps to what it was trained with, whatever this says, and so with the times.
        scale_time: Whether all times are mapped to [0, 1].
        mode: The prediction task: all values from a fraction of the times, or the end from the beginning.
        observed: The fraction seen, of the times or of each series' time span.
        batch_size: Number of series in a batch; the last one may be smaller.
        val: Fraction of the series for validation.
        test: Fraction of the series for testing.
        seed: Seed of all random numbers.

    Raises:
        SettingError: An option is out of range.
        DataError: There is no such file, or what is in it are no time series.
    """

    standardises = True

    def __init__(
        self,
        path: str,
        standardise: bool = True,
        scale_time: bool = True,
        mode: Mode = "interpolation",
        observed: float = 1.0,
        batch_size: int = 50,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, mode, observed, seed)
        self.path = Path(path).expanduser()
        self.standardise, self.scale_time = standardise, scale_time
        self.val_share, self.test_share = val, test
        arrays = load(self.path, ["t", "y"], ["label"], ADVICE)
        _check_numbers(self.path, arrays)
        self.dim = 1 if arrays["y"].ndim == 2 else arrays["y"].shape[-1]
        if "label" in arrays:
            self.num_classes = _classes(self.path, arrays["label"], len(arrays["y"]))

    def setup(self, stage: str) -> None:
        arrays = load(self.path, ["t", "y"], ["mask", "label"], ADVICE)
        t, y, exists = _checked(self.path, arrays)
        known = self.units
        units = self._clock(t) if known is None else known
        last = np.fmax.accumulate(t, axis=1)  # the padding repeats the last time
        times = torch.from_numpy((last - units.origin) / units.unit).float()
        if known is None:
            self._require_resolved(last, times)
            self._require_observed(exists)
        observed = torch.from_numpy(exists)
        values = torch.from_numpy(np.where(exists, y, 0.0))
        label = torch.from_numpy(arrays["label"].astype(np.int64)) if "label" in arrays else None
        self.divide(of.Series(times, values, observed, observed, label), self.val_share, self.test_share)
        if known is None and self.standardise:
            shift, scale = moments(self.train)
            units = replace(units, shift=tuple(shift.tolist()), scale=tuple(scale.tolist()))
        self.units = units
        parts = (scaled(part, units) for part in (self.train, self.val, self.test))
        self.train, self.val, self.test = (part._replace(y=part.y.float()) for part in parts)

    def _clock(self, t: NDArray[np.float64]) -> of.Units:
        """Units whose times are those of the batches."""
        first, last = float(np.nanmin(t)), float(np.nanmax(t))
        if first == last:
            raise of.DataError(f"{self.path}: all times are {first:g}; a time series needs different ones. {ADVICE}")
        return of.Units(origin=first, unit=last - first) if self.scale_time else of.Units()

    def _require_resolved(self, t: NDArray[np.float64], times: Tensor) -> None:
        """Raises where different times without a scale are the same in float32, as those in seconds since 1970 are."""
        lost = (np.diff(t, axis=1) > 0) & (torch.diff(times, dim=1) == 0).numpy()
        if not self.scale_time and lost.any():
            raise of.DataError(
                f"{self.path}: {lost.sum():,} steps of time vanish in float32, whose numbers near "
                f"{np.abs(t).max():g} lie {np.spacing(np.float32(np.abs(t).max())):g} apart. Subtract the first time, "
                "or set --data.scale_time=true"
            )

    def _require_observed(self, exists: NDArray[np.bool_]) -> None:
        never = np.flatnonzero(~exists.any(axis=(0, 1)))
        if len(never):
            raise of.DataError(
                f"{self.path}: nothing was ever observed of dimension {', '.join(map(str, never[:5]))} of {self.dim}, "
                "counted from 0. Leave out what is empty"
            )


def _check_numbers(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raises unless all arrays hold real numbers, and times and values are of a possible shape."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise of.DataError(f"{path}: {name} must hold real numbers; its dtype is {array.dtype}")
    t, y = arrays["t"], arrays["y"]
    if y.ndim not in (2, 3) or 0 in y.shape or t.shape not in (y.shape[:2], y.shape[1:2]):
        raise of.DataError(f"{path} holds t of shape {t.shape} and y of shape {y.shape}, which do not fit. {ADVICE}")


def _classes(path: Path, label: NDArray[Any], count: int) -> int:
    """Number of classes."""
    if label.shape != (count,) or not (label == np.abs(np.round(label.astype(np.float64)))).all():
        raise of.DataError(
            f"{path}: label must hold a whole number from 0 on for each of the {count} series; its shape is "
            f"{label.shape}, and it begins with {label.ravel()[:5].tolist()}"
        )
    return int(label.max()) + 1


def _checked(
    path: Path, arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Times (N, T) with NaN at their ends, values (N, T, d), and where they were observed."""
    _check_numbers(path, arrays)
    y = arrays["y"].astype(np.float64)
    t = np.broadcast_to(arrays["t"].astype(np.float64), y.shape[:2])
    ended = np.isnan(t)
    _refuse(
        ended[:, 0] | (ended[:, :-1] > ended[:, 1:]).any(axis=1),
        f"{path}: t may be NaN only after the last time of a series. Put NaN in y for what is missing",
    )
    _refuse(
        (np.abs(t) > LARGEST) | (np.diff(t, axis=1, prepend=t[:, :1]) < 0),
        f"{path}: the times of each series must be finite and increase. Sort t and y by np.argsort(t, axis=1)",
    )
    mask = arrays.get("mask", np.ones(arrays["y"].shape, bool))
    if mask.shape != arrays["y"].shape or not ((mask == 0) | (mask == 1)).all():
        raise of.DataError(
            f"{path}: mask must have the shape {arrays['y'].shape} of y, and be 0 or 1; its shape is {mask.shape}"
        )
    y, mask = (part[:, :, None] if part.ndim == 2 else part for part in (y, mask.astype(bool)))
    exists = mask & ~np.isnan(y) & ~ended[:, :, None]
    _refuse((np.abs(y) > LARGEST) & exists, f"{path}: y must be finite in float32. Put NaN for what is missing")
    empty = ~exists.reshape(len(y), -1).any(axis=1)
    _refuse(empty, f"{path}: something must have been observed of each series. Leave the empty ones out")
    return t, y, exists


def _refuse(wrong: NDArray[np.bool_], message: str) -> None:
    """Raises if anything (N, …) of the series is wrong, and says of which."""
    rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    if len(rows):
        raise of.DataError(
            f"{message}; wrong are {len(rows)} of {len(wrong)} series, the first of them number {rows[0]}"
        )
