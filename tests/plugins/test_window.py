"""Laws of windows: the beginning is seen, the end is forecast, and no forecast of a part has trained."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import odeflow as of
from odeflow_data import Reading, Split, Window


def series(count: int = 100, **change: Any) -> dict[str, Any]:
    """A row number at each time, in no order, with an empty cell in every ninth row of b."""
    order = np.random.default_rng(0).permutation(count)
    b = np.arange(count) ** 2.0
    b[::9] = np.nan
    return {"t": 5.0 * order + 1000, "a": 1.0 * order, "b": b[order]} | change


def ready(table: Any, stage: str = "fit", units: of.Units | None = None, **options: Any) -> Window:
    defaults: dict[str, Any] = {"time": "t", "history": 6, "horizon": 3, "split": Split(0.1, 0.2)}
    data = Window(table, **(defaults | options))
    if units is not None:
        data.adopt(units)
    data.setup(stage)
    return data


def restored(data: Window, loader: Any) -> tuple[torch.Tensor, of.Series]:
    """All windows of a part: column a in the file's units, which is the number of the row, and the batch."""
    parts = list(loader)
    batch = of.Series(*(torch.cat([part[field] for part in parts]) for field in range(4)))
    return data.known.restored(batch.y)[..., 0], batch


def test_windows_are_rows_in_order() -> None:
    """Each window is of consecutive rows; its times count from the first, and the span of a window is 1."""
    data = ready(series(), stride=2)
    rows, batch = restored(data, data.train_dataloader())
    torch.testing.assert_close(rows.diff(dim=1), torch.ones_like(rows[:, 1:]), rtol=0, atol=1e-4)
    torch.testing.assert_close(batch.t, torch.linspace(0, 1, 9).expand(len(batch.t), -1))
    assert sorted(rows[:, 0].round().tolist()) == list(range(0, 62, 2))


def test_forecasts_of_a_part_are_of_its_rows() -> None:
    """Rows 0 to 69 train, forecasts from 70 validate, from 80 test; what they see may lie before."""
    data = ready(series())
    for loader, first, last in (
        (data.train_dataloader(), 0, 69),
        (data.val_dataloader(), 70, 79),
        (data.test_dataloader(), 80, 99),
    ):
        rows, batch = restored(data, loader)
        wanted = rows[batch.target[..., 0]].round()
        assert (wanted.min(), wanted.max()) == (first, last)
    assert (batch.seen[:, :6, 0] & ~batch.seen[:, 6:, 0].any()).all()
    assert not (batch.seen & batch.target).any()


def test_several_series_have_windows_of_their_own(tmp_path: Path) -> None:
    """No window spans two series; parts are in time, whole series by groups, or a file; each series is forecast."""
    table = {name: np.concatenate([column, column[:40]]) for name, column in series().items()}
    table |= {"place": np.repeat(["north", "south"], [100, 40]), "one": np.repeat([1.0, 2.0], [100, 40])}
    options: dict[str, Any] = {"columns": ["a", "one"], "series": "place", "standardise": False}
    data = ready(table, **options)
    ends = []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        rows, batch = restored(data, loader)
        assert (batch.y[..., 1] == batch.y[:, :1, 1]).all()
        ends.append((rows[:, 6].min(), rows[:, -1].max()))
    assert ends[0][1] < ends[1][0] <= ends[1][1] < ends[2][0]
    np.savez(
        tmp_path / "test.npz",
        allow_pickle=False,
        **series() | {"place": np.repeat("east", 100), "one": np.full(100, 3.0)},
    )
    filed = ready(table, split=Split(test=str(tmp_path / "test.npz")), **options)
    (batch,) = [restored(filed, filed.test_dataloader())[1]]
    assert (len(batch.y), set(batch.y[..., 1].ravel().tolist())) == (92, {3.0})
    predicted = ready(table, "predict", data.units, **options)
    (batch,) = predicted.predict_dataloader()
    assert batch.y[:, 5, 1].tolist() == [1, 2]
    assert predicted.continued.names == ("north", "south")
    groups = {name: np.tile(column, 4) for name, column in series().items()} | {"id": np.repeat(np.arange(4), 100)}
    whole = ready(groups, series="id", columns=["a"], split=Split(0.25, 0.25, group="id"))
    assert [len(part) for part in (whole.train, whole.val, whole.test)] == [184, 92, 92]


def test_duplicates_are_averaged_on_request() -> None:
    """Rows of one time are refused, or become one of their mean."""
    table = {name: np.tile(column, 2) for name, column in series().items()}
    data = ready(table | {"a": table["a"] + np.repeat([-0.5, 0.5], 100)}, read=Reading(duplicates="mean"))
    rows, _ = restored(data, data.train_dataloader())
    torch.testing.assert_close(rows.diff(dim=1), torch.ones_like(rows[:, 1:]), rtol=0, atol=1e-4)


def test_empty_cells_are_neither_seen_nor_forecast() -> None:
    """Where a cell is empty both masks are false and the value is 0."""
    data = ready(series())
    rows, batch = restored(data, data.train_dataloader())
    empty = rows.round() % 9 == 0
    assert empty.any()
    assert not batch.target[..., 1][empty].any()
    assert (batch.y[..., 1][empty] == 0).all()
    assert batch.target[..., 1][~empty].all()


def test_units_are_those_of_the_training_rows() -> None:
    """An affine change of a column's unit leaves the batches; mean and deviation are of the first rows."""
    plain, changed = ready(series()), ready(series(a=10 * series()["a"] - 700))
    torch.testing.assert_close(plain.y, changed.y, rtol=1e-5, atol=1e-5)
    assert plain.known.shift[0] == pytest.approx(np.arange(70).mean())
    assert plain.known.unit == 40


def test_the_span_is_the_unit_of_time() -> None:
    """The last time of each window is `span`, and the file's times are restored alike."""
    data = ready(series(), span=10.0)
    _, batch = restored(data, data.val_dataloader())
    torch.testing.assert_close(batch.t, torch.linspace(0, 10, 9).expand(len(batch.t), -1))
    torch.testing.assert_close(data.units.restored_time(batch.t[0].diff()), torch.full((8,), 5.0).double())
    with pytest.raises(of.SettingError, match=r"Window: span must lie in \(0, inf\); got 0\.0"):
        ready(series(), span=0.0)


def test_a_forecast_goes_on_after_the_file() -> None:
    """Prediction sees the last rows of a file, in the units of the model, and asks for times after them."""
    units = ready(series()).known
    data = ready(series(20), "predict", units)
    (batch,) = data.predict_dataloader()
    assert units.restored(batch.y)[0, :6, 0].round().tolist() == [14, 15, 16, 17, 18, 19]
    assert not batch.seen[0, 6:].any()
    torch.testing.assert_close(data.t * units.unit, torch.arange(14.0, 23, dtype=torch.float64) * 5 + 1000)


def test_months_remain_months() -> None:
    """A forecast of monthly values is of the first days of the next months, whatever the unit of time."""
    months = np.arange(60).astype("datetime64[M]").astype("datetime64[D]")
    for unit in ("days", "years"):
        options: dict[str, Any] = {"columns": ["a"], "read": Reading(time_unit=unit)}
        data = ready(series(60, t=months), **options)
        later = ready(series(60, t=months), "predict", data.units, **options)
        written = later.table([torch.zeros(1, 9, 1)])["t"]
        assert written.to_list() == [datetime(1974 + month // 12, month % 12 + 1, 1) for month in range(6, 15)]


def test_times_count_what_they_counted_in_training() -> None:
    """Another unit, or numbers in place of dates, is refused."""
    days = np.arange(100).astype("datetime64[D]")
    units = ready(series(t=days)).units
    for table, unit in ((series(t=days), "hours"), (series(), "days")):
        with pytest.raises(of.DataError, match=r"counts .* but the model was trained on days since 1970-01-01"):
            ready(table, "predict", units, read=Reading(time_unit=unit))


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        (series(), {"time": "T"}, "no column 'T', which time names"),
        (series(), {"columns": ["c"]}, "no column 'c', which columns names"),
        (series(), {"horizon": 0}, "horizon must be at least 1"),
        (series(), {"history": 90}, "none of the 100 rows can train in windows of history=90 and horizon=3"),
        (series(a=np.ones(100)), {}, "column 'a' is empty or constant in the training rows"),
        (
            series(t=np.arange(100) // 2),
            {},
            "rows 1 and 2 have the same time; 50 rows repeat a time. Leave them out, or average them by --data.read",
        ),
        (series(a=["x"] * 100), {}, "column 'a' must hold numbers; row 1 holds 'x'"),
    ],
)
def test_wrong_series_are_named(table: dict[str, Any], options: dict[str, Any], told: str) -> None:
    """Messages name column, rows and options."""
    with pytest.raises(of.OdeflowError) as problem:
        ready(table, **options)
    assert told in str(problem.value)


def test_too_short_a_history_is_refused() -> None:
    """A forecast needs as many rows as a model sees."""
    with pytest.raises(of.DataError, match="a forecast needs history=6 rows, two at least; there are 5"):
        ready(series(5), "predict", ready(series()).units)


def test_a_run_is_told_what_its_windows_are(caplog: pytest.LogCaptureFixture) -> None:
    """One line: origin, windows of each part, rows, times, columns and units."""
    with caplog.at_level("INFO"):
        ready(series())
    (line,) = (record.message for record in caplog.records if record.message.startswith("Window"))
    assert line.startswith(
        "Window: a dict: 62 windows train, 8 windows validate, 18 windows test, split by t; each of 6 rows seen"
    )
    assert "100 rows, 1000 to 1495 in the file's numbers; 2 columns: a, b" in line
