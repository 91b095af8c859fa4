"""Laws of figures of one's own data: they have the names, the units and the dates of the file."""

from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from matplotlib.dates import num2date
from matplotlib.figure import Figure

import odeflow as of
from odeflow_data import SeriesTable, Table, Trajectories, Window
from odeflow_dynamics import MLP, Linear
from odeflow_solvers import Euler
from odeflow_tasks import ODERNN, LatentODE, Regression, Trajectory
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.head import Perceptron
from odeflow_tasks.phase_portrait import draw_field

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
DAYS = [date(2024, 3, 1) + timedelta(days=number) for number in range(20)]


def series() -> dict[str, Any]:
    """Twelve series of twenty days, of two values of different sizes."""
    y = np.random.default_rng(0).normal([20, 1000], [5, 20], (240, 2))
    return {"id": np.arange(240) // 20, "day": DAYS * 12, "warmth": y[:, 0], "pressure_$": y[:, 1]}


def drawn(task: Any, data: of.DataModule) -> dict[str, Figure]:
    """The figures of the first batch of validation, in a run."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", logger=False, max_steps=1, enable_checkpointing=False, log_every_n_steps=1, **quiet
    )
    trainer.fit(task, datamodule=data)
    with torch.no_grad():
        return task.figures(next(iter(data.val_dataloader())))


def labels(figure: Figure) -> set[str]:
    return {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())}


def days(axes: Any) -> tuple[date, date]:
    """The first and last day of the points in a panel."""
    x = np.concatenate(
        [np.asarray(line.get_xdata(), "datetime64[us]") for line in axes.lines if line.get_marker() == "o"]
    )
    return tuple(x[[x.argmin(), x.argmax()]].astype("datetime64[D]").astype(date))


def test_figures_of_series_are_of_the_file() -> None:
    """Columns are named, values are the file's, times are its dates; axes of different units have no common aspect."""
    data = SeriesTable(series(), "day", "id")
    figures = drawn(LatentODE(MLP(dim=3), Euler(num_steps=2), dim=2), data)
    for name in ("series", "plane", "samples"):
        assert {"warmth", r"pressure_\$"} <= labels(figures[name])
    first, second = figures["series"].axes[:2]
    assert days(first) == (DAYS[0], DAYS[-1])
    assert -20 < first.get_ylim()[0] < first.get_ylim()[1] < 60
    assert 900 < second.get_ylim()[0] < second.get_ylim()[1] < 1100
    assert figures["series"].axes[-1].get_xlabel() == figures["latent"].axes[0].get_xlabel() == "day"
    assert figures["plane"].axes[0].get_aspect() == "auto"
    assert num2date(figures["latent"].axes[0].get_xlim()[1]).year == 2024


def test_times_of_windows_count_from_their_start() -> None:
    """Windows have lengths in the unit of their clock, and no dates."""
    data = Window(series(), "day", "id", history=5, horizon=2, batch_size=1000)
    figure = drawn(ODERNN(MLP(dim=3), Euler(num_steps=1), dim=2), data)["series"]
    assert figure.axes[-1].get_xlabel() == "days from the start of the window"
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert max(np.max(line.get_xdata()) for line in lines if len(line.get_xdata())) == pytest.approx(6)


@pytest.mark.parametrize("standardise", [False, True])
def test_figures_of_trajectories_are_of_the_file(standardise: bool) -> None:
    """Columns are named, and truth and field are the file's, also where states are standardised."""
    table = series() | {"id": None}
    whole = {name: values[:20] for name, values in table.items() if values is not None}
    data = Trajectories(whole, "day", standardise=standardise)
    torch.manual_seed(0)
    figure = drawn(Trajectory(MLP(dim=2), Euler(num_steps=2)), data)["phase_portrait"]
    over_time, _, plane, field, _ = figure.axes
    assert {"day", "warmth", r"pressure_\$"} <= labels(figure)
    np.testing.assert_allclose(over_time.lines[0].get_ydata(), whole["warmth"], rtol=1e-5)
    assert plane.get_xlim() == field.get_xlim()
    assert 900 < plane.get_ylim()[0] < 1100


def test_a_field_is_drawn_in_the_units_of_the_file() -> None:
    """If x' = A x in batches, then y = scale · x + shift has y' = scale · A (y − shift) / scale per unit of time."""

    class Axes:
        def streamplot(self, *arrays: Any, **style: Any) -> Any:
            self.arrays = arrays
            return SimpleNamespace(lines=None)

        def set(self, **options: Any) -> None: ...

    matrix = torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    flow = of.Flow(Linear(dim=2, bias=False, matrix=matrix.tolist()), Euler(num_steps=1))
    units, axes = of.Units((20.0, 1000.0), (5.0, 30.0), unit=7.0), Axes()
    low, high = np.array([10.0, 900.0]), np.array([30.0, 1100.0])
    draw_field(axes, flow, torch.zeros(2), low, high, units)
    y, slopes = np.stack(axes.arrays[:2], axis=-1), np.stack(axes.arrays[2:], axis=-1)
    shift, scale = np.array(units.shift), np.array(units.scale)
    np.testing.assert_allclose(slopes, scale * (((y - shift) / scale) @ matrix.T.numpy()) / 7.0, rtol=1e-4, atol=1e-4)


def test_figures_of_tables_are_of_the_file() -> None:
    """Inputs and the target have their names and units."""
    table = {
        "height": np.linspace(150, 200, 40),
        "weight": np.linspace(50, 90, 40) ** 1.1,
        "age": np.linspace(20, 60, 40),
    }
    task = Regression(MLP(dim=2), Euler(num_steps=1), head=Perceptron())
    figure = drawn(task, Table(table, target="age"))["features"]
    assert {"height", "weight", "age"} <= labels(figure)
    low, high = figure.axes[0].get_xlim()
    assert 140 < low < high < 210


def test_without_a_file_features_are_numbered() -> None:
    """Names come from the file, then from the dynamics, then they are numbers; times without a clock are t."""
    none = FileUnits.known(None, None)
    assert (none.name(1), none.names(2), none.names(2, ["a", "b"])) == ("$y_{2}$", ["$y_{1}$", "$y_{2}$"], ["a", "b"])
    assert (none.time_label, FileUnits(of.Units(clock="hours"), "lasted").time_label) == ("$t$", "lasted in hours")
    assert none.times(torch.tensor([0.5])).tolist() == [0.5]
    assert none.told(0.5) == "$t$ = 0.5"
    dated = FileUnits(of.Units(clock="hours since 1970-01-01"), "day")
    assert dated.told(dated.times(torch.tensor([25.0]))[0]) == "1970-01-02"


@pytest.mark.parametrize("seconds", np.geomspace(1, 1e10, 60))
def test_dates_of_any_range_have_a_few_ticks(seconds: float) -> None:
    """From a second to three centuries there are two to eight ticks, without a warning."""
    file = FileUnits(of.Units(clock="seconds since 1970-01-01"), "at")
    figure = Figure()
    axes = figure.subplots()
    axes.plot(file.times(torch.tensor([0.0, seconds], dtype=torch.float64)), [0, 1])
    file.label_times(axes)
    figure.draw_without_rendering()
    assert 2 <= len(axes.get_xticks()) <= 8


def test_wrong_units_are_refused() -> None:
    """What a file holds in the place of units is shown beside what belongs there."""
    with pytest.raises(
        of.CheckpointError, match="stored units must be lists shift and scale, and origin and unit; got"
    ):
        of.Units.of({"shift": [0.0]})
