"""Trajectories: anyone's trajectories of one dynamical system, in a table of one row a time."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.names import listed
from odeflow_data.own_data import OwnData, joined, several, unused
from odeflow_data.reading import Reading
from odeflow_data.split import PARTS, Split

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame
    from odeflow_data.observations import Observations


class Trajectories(OwnData):
    """Trajectories of one dynamical system, one time a row: columns of ids, times, states, external inputs and doses.

    Each trajectory has its own times. Rows may be in any order; an empty cell is a value that was not observed. The
    first row of a trajectory is where it starts, even if nothing was observed there. A state that was never measured
    has no column: name it in `hidden`. Values and times are those of the file, so that parameters have its units; dates
    count from the first one.

    By default all values train, and validation repeats the training data. With `split.test` the last rows of each
    trajectory are forecast, or with `part="series"` whole trajectories are; so with `split.val`.

    `odeflow predict` takes all rows of its file, those of empty cells too. Its table has a row for each trajectory and
    time: the id, the time, the predicted states, hidden ones too, and under `_true` what was observed.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame or columns by name.
        time: The column of the times, numbers or dates.
        series: The column of the trajectories' ids, text or whole numbers; by default there is one trajectory.
        states: The states in the order of the dynamics; by default all columns without another role, and then `hidden`.
        hidden: The states that were not measured.
        covariates: The columns of external inputs u(t), in the order of the dynamics' inputs; an empty cell is
            interpolated by the model.
        doses: The columns of doses, by state: amounts that are added to the state right after their time. An empty cell
            is no dose.
        ignore: Columns to ignore, where no others are chosen.
        split: What trains, validates and tests.
        part: Whether shares are the last rows of each trajectory, "time", or whole trajectories, "series".
        read: How cells are read.
        standardise: Whether states are standardised, for networks; parameters of equations then have other units.
        batch_size: Number of trajectories in a training batch; by default all.
        steps: Number of times that an epoch repeats the data.

    Raises:
        SettingError: An option is out of range.
        DataError: A file or column does not exist, or a cell is malformed.

    Example:
        >>> table = {"day": [0, 1, 2], "infected": [3.0, 5.0, None]}
        >>> data = Trajectories(table, time="day", states=["susceptible", "infected"], hidden=["susceptible"])
        >>> data.dim
        2
    """

    def __init__(
        self,
        path: str,
        time: str,
        series: str | None = None,
        states: list[str] | None = None,
        hidden: list[str] | None = None,
        covariates: list[str] | None = None,
        doses: dict[str, str] | None = None,
        ignore: list[str] | None = None,
        split: Split = Split(val=0.0, test=0.0),
        part: Literal["time", "series"] = "time",
        read: Reading = Reading(),
        standardise: bool = False,
        batch_size: int | None = None,
        steps: int = 1,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, steps=steps)
        if batch_size is not None:
            of.check_least(self, 1, batch_size=batch_size)
        read.refuse(
            self, missing="an empty cell is a value that was not observed", memory="all trajectories are held in memory"
        )
        self.time, self.series, self.part = time, series, part
        self.hidden, self.covariates, self.doses = list(hidden or ()), list(covariates or ()), dict(doses or {})
        if self.covariates or self.doses:
            read.refuse(self, duplicates="a row with covariates or doses has a time of its own")
        self.batch_size, self.steps = batch_size, steps
        roles = {"time": [time], "series": several(series), "covariates": self.covariates}
        roles["doses"] = [*dict.fromkeys(self.doses.values())]
        measured = None if states is None else [name for name in states if name not in self.hidden]
        self.read = read
        self.open(path).require(measured or (), "states, unless hidden,")
        self.begin(path, measured, roles, None, ignore, split, read, standardise)
        self.states = [*self.features, *self.hidden] if states is None else list(states)
        self.settle(states=self.states, columns=None)
        del self.remembered_spec["init_args"]["columns"]
        self.dim = len(self.states)
        if self.covariates:
            self.num_covariates = len(self.covariates)
        self._check_names()

    def _check_names(self) -> None:
        """Checks that hidden states and doses are those of states, and measured ones columns."""
        for name in self.hidden:
            if name not in self.states:
                raise of.SettingError(f"Trajectories: hidden names {name!r}; the states are {listed(self.states)}")
            if name in self.frame.names:
                raise of.SettingError(
                    f"Trajectories: hidden names the column {name!r} of {self.frame.origin}; a hidden state has none"
                )
        for name in self.doses:
            if name not in self.states:
                raise of.SettingError(f"Trajectories: doses name {name!r}; the states are {listed(self.states)}")
        self.frame.require(self.covariates, "covariates")
        self.frame.require([*self.doses.values()], "doses")
        if self.standardise and self.hidden:
            raise of.SettingError("Trajectories: hidden states cannot be standardised; set standardise=false")

    def setup(self, stage: str) -> None:
        whole = self._read(self.frame)
        if stage == "predict":
            self.rows, everything = whole, np.zeros(len(whole.t), np.int64)
            self.predicted = self._series(self.frame, whole, everything, "train", np.arange(len(whole.t)))
            return
        order = (np.arange(len(whole.t)) - whole.offsets[whole.codes] + 1) / whole.lengths[whole.codes]
        in_time = self.part == "time" and self.split.group is None
        numbers = self.split.parts(self.frame, whole.rows, None if in_time else whole.codes, order if in_time else None)
        if self.units is None:
            self.units = self._fitted(whole, numbers == 0)
        train, val, test = (self._part(whole, numbers, name) for name in PARTS)
        if train is None:
            raise of.DataError(f"{self.frame.origin}: nothing is left to train on; set smaller shares by --data.split")
        counts = [0 if part is None else int(part.target.sum()) for part in (train, val, test)]
        self.split.check(self.frame.origin, counts, "values")
        self.train, self.val, self.test = train, train if val is None else val, test
        if stage in ("fit", "test"):
            self.say(self._summary(whole, counts, in_time))

    # Reading

    def _read(self, frame: "Frame") -> "Observations":
        """The rows of a file, sorted by trajectory and time."""
        from odeflow_data.observations import Observations

        known = None if self.units is None else replace(self.units, features=tuple(self.features))
        return Observations.of(frame, self.features, self.time, self.series, self.read, known)

    def _fitted(self, whole: "Observations", train: NDArray[np.bool_]) -> of.Units:
        """The units of the file, or with `standardise` those of the training values; dates count from the first."""
        shift, scale = self.moments(whole.y[train], self.features, "rows")
        origin = float(whole.t.min()) if whole.clock else 0.0
        return of.Units(shift, scale, origin, features=tuple(self.states), clock=whole.clock)

    def _part(self, whole: "Observations", numbers: NDArray[np.int64], name: str) -> of.Series | None:
        """The trajectories of a part, each until its last row in the part; None if there are none."""
        if name in self.split.files:
            frame = self.open(self.split.files[name])
            other = self._read(frame)
            return self._series(frame, other, np.full(len(other.t), PARTS.index(name)), name, np.arange(len(other.t)))
        inside = (numbers == PARTS.index(name)) & whole.observed
        if not inside.any():
            return None
        last = np.full(len(whole.names), -1)
        np.maximum.at(last, whole.codes[inside], np.flatnonzero(inside))
        return self._series(
            self.frame, whole, numbers, name, np.flatnonzero(np.arange(len(whole.t)) <= last[whole.codes])
        )

    def _series(
        self, frame: "Frame", whole: "Observations", numbers: NDArray[np.int64], name: str, rows: NDArray[np.int64]
    ) -> of.Series:
        """Trajectories in the units of batches, in float64.

        Args:
            frame: The file.
            whole: All its rows.
            numbers: (M,), the part of each row.
            name: The part that is to be predicted; those before it are seen.
            rows: The rows that are taken, in order.
        """
        codes, starts, lengths = np.unique(whole.codes[rows], return_index=True, return_counts=True)
        place = np.arange(lengths.max())
        index = rows[starts[:, None] + np.minimum(place, lengths[:, None] - 1)]
        exists = torch.from_numpy(place < lengths[:, None])[..., None]
        t = torch.from_numpy((whole.t - self.known.origin)[index])
        still = np.flatnonzero((t[:, 0] == t[:, -1]).numpy())
        if len(still):
            which = f" of the series {whole.names[codes[still[0]]]}" if self.series else ""
            raise of.DataError(
                f"{frame.origin}: a trajectory needs two times at least, but that{which} has one to {name} on. Leave "
                "it out"
            )
        measured = torch.from_numpy(self.known.standardised(self._measured(whole)).numpy()[index])
        target = ~measured.isnan() & exists
        part, wanted = torch.from_numpy(numbers[index])[..., None], PARTS.index(name)
        seen = target & ((part < wanted) if wanted else (part == 0))
        first = ~seen.flatten(1).any(1)
        seen[first, 0] = target[first, 0]
        return of.Series(
            t,
            measured.masked_fill(~target, 0.0),
            seen,
            target & (part == wanted),
            key=torch.tensor([zlib.crc32(whole.names[code].encode()) for code in codes]),
            covariates=self._covariates(frame, whole, index, exists),
            jump=self._jump(frame, whole, index, exists),
        )

    def _measured(self, whole: "Observations") -> Tensor:
        """(M, d), all states; nan where not observed."""
        y = np.full((len(whole.t), self.dim), np.nan)
        y[:, [self.states.index(name) for name in self.features]] = whole.y
        return torch.from_numpy(y)

    def _covariates(
        self, frame: "Frame", whole: "Observations", index: NDArray[np.int64], exists: Tensor
    ) -> Tensor | None:
        """(N, T, c), the inputs; nan where missing."""
        if not self.covariates:
            return None
        return torch.from_numpy(frame.numbers(self.covariates)[whole.rows][index]).masked_fill(~exists, torch.nan)

    def _jump(self, frame: "Frame", whole: "Observations", index: NDArray[np.int64], exists: Tensor) -> Tensor | None:
        """(N, T, d), the doses in the units of batches; 0 where there is none."""
        if not self.doses:
            return None
        amounts = np.zeros((len(whole.t), self.dim))
        for state, column in self.doses.items():
            amounts[:, self.states.index(state)] += np.nan_to_num(frame.numbers([column])[whole.rows, 0])
        scale = torch.tensor(self.known.scale, dtype=torch.float64)
        return (torch.from_numpy(amounts[index]) / scale).masked_fill(~exists, 0.0)

    def _summary(self, whole: "Observations", counts: Sequence[int], in_time: bool) -> str:
        """The trajectories of each part, their lengths, states and units, in one line."""
        verbs = zip(counts, ("train", "validate", "test"), strict=True)
        sizes = ", ".join(f"{count:,} values {verb}" for count, verb in verbs if count)
        how = (
            "in time"
            if in_time and self.split.by is None
            else "by trajectory"
            if not self.split.by
            else f"by {self.split.by}"
        )
        lengths = whole.lengths
        span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        facts = [f"{self.frame.origin}: {len(whole.names)} trajectories of {span} times, {sizes}"]
        facts[0] += f", split {how}" if any(counts[1:]) else ""
        facts += [f"states {listed(self.states)}" + (f", not measured: {listed(self.hidden)}" if self.hidden else "")]
        facts += [f"covariates {listed(self.covariates)}"] if self.covariates else []
        facts += ["doses " + ", ".join(f"{column} into {state}" for state, column in self.doses.items())] * bool(
            self.doses
        )
        missing = np.isnan(whole.y).mean()
        facts += [f"{100 * missing:.3g} % of the cells empty"] if missing else []
        facts += whole.order
        clock = f"{whole.clock}, from the first one" if whole.clock else "the file's numbers"
        facts += [f"time {self.time} in {clock}, {whole.t.min():g} to {whole.t.max():g}"]
        return "; ".join([*facts, "standardised" if self.standardise else "in the file's units"])

    # Batches

    def train_dataloader(self) -> DataLoader[Any]:
        size = self.batch_size or len(self.train.t)
        pieces = [rows for _ in range(self.steps) for rows in torch.arange(len(self.train.t)).split(size)]
        return _loader([self.train.take(rows) for rows in pieces], shuffle=self.batch_size is not None)

    def val_dataloader(self) -> DataLoader[Any]:
        return _loader([self.val])

    def test_dataloader(self) -> DataLoader[Any]:
        if self.test is None:
            self.split.refuse_test(self.frame.origin, "rows")
        return _loader([self.test])

    def predict_dataloader(self) -> DataLoader[Any]:
        return _loader([self.predicted])

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        whole, columns = self.rows, {}
        lengths = whole.lengths
        values = joined([part[:length] for batch in predictions for part, length in zip(batch, lengths, strict=True)])
        if self.series is not None:
            columns[self.series] = self.frame.as_ids(self.series, [whole.names[code] for code in whole.codes])
        columns[self.time] = self.frame.as_times(self.time, whole.t, self.read.time_unit)
        columns |= dict(zip(self.states, values.numpy().T, strict=True))
        for name, column in zip(self.features, whole.y.T, strict=True):
            true = unused(f"{name}_true", columns)
            columns[true] = pl.Series(np.ascontiguousarray(column), nan_to_null=True)
        return pl.DataFrame(columns)


def _loader(batches: list[of.Series], shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None, shuffle=shuffle)  # pyright: ignore[reportArgumentType]
