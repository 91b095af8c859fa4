"""Laws of CDE, its paths, classifiers alone and GRU-D: what may matter and what may not, and what is refused."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.testing import task_checks
from odeflow_cde import CDE, Control, LogSignature
from odeflow_data import BidirectionalSpirals, SeriesTable
from odeflow_data.seen import Seen
from odeflow_dynamics import MLP
from odeflow_solvers import Euler, Heun
from odeflow_tasks import GRUD, ODERNN, RNN, Hermite, LatentODE, Linear, NaturalCubic, Perceptron, Readout, Rectilinear
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.seen_rows import seen_rows
from odeflow_tasks.series_features import features

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)


def alone() -> Readout:
    return Readout(classifier=Perceptron(()), target_weight=0.0)


def both() -> Readout:
    return Readout(classifier=Perceptron(()))


def series(count: int = 6, length: int = 9, whole_rows: bool = True) -> of.Series:
    """Waves at times of their own, of lengths of their own, some of whose values are seen."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(count, length, generator=generator).cumsum(1)
    y = torch.stack(((3 * t).sin(), (2 * t).cos()), 2)
    lengths = torch.arange(count) % 3 + length - 2
    there = (torch.arange(length) < lengths[:, None])[..., None].expand_as(y)
    drawn = torch.rand(count, length, 1 if whole_rows else 2, generator=generator) < 0.7
    t = torch.minimum(t, t.gather(1, lengths[:, None] - 1))
    return of.Series(t, y.where(there, 0.0), drawn & there, there, torch.arange(count) % 3)


def cde(readout: Readout | None = None, **options: Any) -> CDE:
    torch.manual_seed(0)
    readout = readout or alone()
    control = options.pop("control", Control(interpolation=Rectilinear() if readout.target_weight else Linear()))
    named: dict[str, Any] = {"dim": 2, "num_classes": 3, "readout": readout, "control": control, **options}
    return CDE(MLP(5, [6], time="none"), Heun(step_size=1.0), **named)


def others() -> list[Autoregressive]:
    torch.manual_seed(0)
    field = MLP(5, [6], time="none")
    named: dict[str, Any] = {"dim": 2, "num_classes": 3}
    return [
        RNN(width=5, readout=alone(), **named),
        ODERNN(field, Euler(num_steps=1), readout=alone(), **named),
        GRUD(width=5, readout=alone(), **named),
    ]


@pytest.mark.parametrize(
    "check",
    [
        check
        for task in (
            cde(),
            cde(both()),
            cde(control=Control(window=3)),
            GRUD(dim=2, width=4, num_classes=3, readout=both()),
        )
        for check in task_checks(task, series())
    ],
    ids=str,
)
def test_they_are_tasks(check: Callable[[], None]) -> None:
    """CDE, as a classifier alone, with predictions, and with log-signatures, and GRU-D fulfil the contract of tasks."""
    check()


@pytest.mark.parametrize("counts", [False, True])
def test_online_predictions_do_not_see_what_comes_later(counts: bool) -> None:
    """Bitwise: a value changes no prediction at its own time and before, but those after, also if some are missing."""
    task, batch = cde(both(), control=Control(interpolation=Rectilinear(), counts=counts)), series(whole_rows=False)
    later = batch._replace(y=batch.y + (torch.arange(9) >= 4)[:, None] * batch.seen)
    first, second = task.predict(batch), task.predict(later)
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.equal(first[:, 5:], second[:, 5:])


@pytest.mark.parametrize("number", range(7))
def test_a_classifier_alone_reads_nothing_but_seen_values(number: int) -> None:
    """Values that are not seen change no probability, nor do padding and the rest of the batch."""
    controls = (
        Control(),
        Control(interpolation=NaturalCubic(), window=3),
        Control(interpolation=Rectilinear(), window=2),
    )
    task, batch = [cde(), *others(), *(cde(control=control) for control in controls)][number], series()
    wanted = task.predict_step(batch, 0)
    assert wanted.shape == (6, 3)
    torch.testing.assert_close(wanted.sum(1), torch.ones(6))
    other = batch._replace(y=batch.y.where(batch.seen, 7.0))
    torch.testing.assert_close(task.predict_step(other, 0), wanted)
    padded = batch._replace(
        t=torch.cat((batch.t, batch.t[:, -1:]), 1),
        **{name: torch.nn.functional.pad(getattr(batch, name), (0, 0, 0, 1)) for name in ("y", "seen", "target")},
    )
    torch.testing.assert_close(task.predict_step(padded, 0), wanted)
    for row in range(6):
        torch.testing.assert_close(task.predict_step(batch.take(slice(row, row + 1)), 0), wanted[row : row + 1])
    assert task.restored(wanted, of.Units(shift=(1.0, 2.0), scale=(2.0, 2.0))) is wanted
    assert task.figures(batch) == {}
    assert not torch.allclose(task.predict_step(batch._replace(y=batch.y + 1), 0), wanted)


def test_rows_without_seen_values_are_left_out() -> None:
    """The seen rows of each series come first, in order; its last one pads it, unseen."""
    batch = series()._replace(seen=series().seen & (torch.arange(6) != 1)[:, None, None])
    found = seen_rows(batch)
    for number, there in enumerate(batch.seen.any(2)):
        count = int(there.sum())
        assert torch.equal(found.t[number, :count], batch.t[number, there])
        assert torch.equal(found.y[number, :count], batch.y[number, there])
        assert bool(found.seen[number, :count].any(1).all())
        assert not bool(found.seen[number, count:].any())
        last = batch.t[number, there][-1] if count else batch.t[number, 0]
        assert bool((found.t[number, count:] == last).all())


# Paths


@pytest.mark.parametrize("interpolation", [Linear(), Hermite(), NaturalCubic(), None])
def test_a_path_goes_through_the_observations(interpolation: Any) -> None:
    """At the number of an observation the path has its time, values and counts; missing values are interpolated in time."""
    batch = seen_rows(series(whole_rows=False))
    drive = Control(interpolation=interpolation, counts=True, time_scale=3.0)(batch)
    assert torch.equal(drive.rows, torch.arange(batch.t.shape[1], dtype=torch.float32))
    path = (interpolation or Hermite()).path(batch.t, batch.y.masked_fill(~batch.seen, torch.nan))
    for number, s in enumerate(drive.rows):
        x = drive.path(s)
        torch.testing.assert_close(x[:, 0], 3 * batch.t[:, number])
        torch.testing.assert_close(x[:, 3:], batch.seen[:, : number + 1].sum(1).float())
        rows = batch.seen[:, number].any(1)
        torch.testing.assert_close(x[rows, 1:3], path(batch.t[:, number])[rows])
    torch.testing.assert_close(drive.start, drive.path(drive.rows[0]))


def test_a_rectilinear_path_goes_along_time_first() -> None:
    """Between two observations time proceeds, then the values change; a missing value is the last one, 0 before the first."""
    y, seen = torch.tensor([[[5.0], [7.0], [9.0]]]), torch.tensor([[[False], [True], [False]]])
    drive = Control(interpolation=Rectilinear())(of.Series(torch.tensor([[0.0, 1.0, 3.0]]), y, seen, seen))
    assert drive.rows.tolist() == [0, 2, 4]
    found = torch.cat([drive.path(torch.tensor(float(s))) for s in range(5)])
    assert found.tolist() == [[0, 0], [1, 0], [1, 7], [3, 7], [3, 7]]


@pytest.mark.parametrize("interpolation", [Linear(), Rectilinear()])
def test_windows_are_of_observations(interpolation: Any) -> None:
    """A window of 4 ends at every fourth observation, the last one after it; increments are those of the path."""
    batch = seen_rows(series())
    plain, windowed = (Control(interpolation=interpolation, window=window, depth=1)(batch) for window in (0, 4))
    assert isinstance(windowed.path, LogSignature)
    size, last = 4 * int(plain.rows[1]), int(plain.rows[-1])
    assert windowed.path.edges == tuple(range(0, last + size, size))[: len(windowed.path.edges)]
    assert last <= float(windowed.end) < last + size
    for edge in map(torch.tensor, windowed.path.edges):
        torch.testing.assert_close(
            windowed.path(edge), plain.path(edge) - plain.path(torch.tensor(0.0)), atol=1e-5, rtol=1e-5
        )


# Learning


@pytest.mark.parametrize("control", [Control(interpolation=Linear()), Control(window=4)])
def test_it_learns_the_sense_of_rotation(control: Control) -> None:
    """A few steps tell spirals that turn left from those that turn right."""
    data = BidirectionalSpirals(spirals=100, observations=20, batch_size=100)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    task = CDE(
        MLP(8, [8], time="none"), Heun(step_size=4.0 if control.window else 1.0), control=control, dim=2, num_classes=2,
        readout=alone(),
    )  # fmt: skip
    batch = batch._replace(label=_sense(batch))
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-2)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.loss(batch, "train")
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def _sense(batch: of.Series) -> Tensor:
    """(B,), whether a plane curve turns counterclockwise around 0."""
    x, y = batch.y.where(batch.seen, 0.0).unbind(2)
    area = torch.stack(
        [(a[m][:-1] * b[m][1:] - a[m][1:] * b[m][:-1]).sum() for a, b, m in zip(x, y, batch.seen.any(2), strict=True)]
    )
    return (area > 0).long()


def test_gru_d_decays_to_its_level() -> None:
    """A missing value is the last one after no time, and the level after a long one; the state decays, too."""
    task = GRUD(dim=1, width=3)
    with torch.no_grad():
        task.value_decay[0], task.level[0] = 1.0, 2.0
        task.state_decay.weight.fill_(1.0)
        task.state_decay.bias.zero_()
    y, seen = torch.tensor([[[5.0], [9.0]]]), torch.tensor([[[True], [False]]])
    batch = of.Series(torch.tensor([[0.0, 50.0]]), y, seen, ~seen)
    prediction, last = task.unroll(batch)
    torch.testing.assert_close(last, torch.zeros(1, 3))
    torch.testing.assert_close(prediction[:, 1], task.decoder(torch.zeros(1, 3)))


# Data and figures


def test_seen_times_may_be_drawn_once() -> None:
    """With redraw=False each epoch shows the same values in training, otherwise others; evaluation is the same for both."""
    shown, tested = {}, {}
    for redraw in (False, True):
        data = BidirectionalSpirals(spirals=30, observations=20, batch_size=30)
        data.seen = Seen(share=0.5, redraw=redraw)
        data.setup("fit")
        epochs = []
        for _ in range(2):
            torch.manual_seed(len(epochs))
            batch = next(iter(data.train_dataloader()))
            epochs.append({float(y[0, 0]): seen for y, seen in zip(batch.y, batch.seen, strict=True)})
        shown[redraw] = all(torch.equal(seen, epochs[1].get(key, ~seen)) for key, seen in epochs[0].items())
        tested[redraw] = data.val.seen
        assert data.training_part().seen.any()
    assert shown == {False: True, True: False}


def test_features_are_of_seen_values() -> None:
    """Mean, spread, least, largest, first and last value, number, and duration."""
    y = torch.tensor([[[3.0], [1.0], [9.0], [5.0]]])
    seen = torch.tensor([[[True], [True], [False], [True]]])
    found = features(of.Series(torch.tensor([[0.5, 1.0, 2.0, 4.0]]), y, seen, seen))
    spread = torch.tensor([3.0, 1, 5]).std(correction=0)
    torch.testing.assert_close(found, torch.tensor([[3, spread, 1, 5, 3, 5, 3, 3.5]]))
    nothing = features(of.Series(torch.zeros(1, 2), torch.ones(1, 2, 1), torch.zeros(1, 2, 1).bool(), seen[:, :2]))
    assert nothing.tolist() == [[0] * 8]


def test_own_series_are_classified(tmp_path: Any) -> None:
    """A table of series with a column of classes: baselines beside the model, and a table of probabilities."""
    import lightning as L

    rows = [
        (number, time, (1 if number % 2 else -1) * time + 0.1 * number, "ab"[number % 2])
        for number in range(20)
        for time in range(5)
    ]
    frame = pl.DataFrame(rows, schema=["id", "hour", "x", "kind"], orient="row")
    data = SeriesTable(frame, series="id", time="hour", label="kind", seen=Seen(share=1.0), batch_size=5)
    torch.manual_seed(0)
    task = CDE(
        MLP(4, [4], time="none"), Heun(step_size=1.0), dim=1, num_classes=2, readout=alone(),
        control=Control(interpolation=Linear(), time_scale=5.0),
    )  # fmt: skip
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=3, enable_model_summary=False, accelerator="cpu", log_every_n_steps=1, **options)
    trainer.fit(task, data)
    assert float(trainer.callback_metrics["val/auroc_logistic"]) == 1.0
    assert "val/auroc" in trainer.callback_metrics
    assert not any("mse" in name for name in trainer.callback_metrics)
    found = trainer.predict(task, data)
    table = data.table(found or [])
    assert table.columns == ["id", "kind", "probability_a", "probability_b", "kind_true"]
    assert table["kind_true"].to_list() == ["a", "b"] * 10
    assert len(table) == 20
    assert table["kind"].is_in(["a", "b"]).all()


# Messages


def test_what_does_not_fit_is_refused() -> None:
    """Predictions along a path that knows the values, nothing to learn, and weights of a bound are refused in words."""
    with pytest.raises(
        of.SettingError, match=r"control\.interpolation Rectilinear without a window; or train a classifier"
    ):
        cde(both(), control=Control(interpolation=Linear()))
    with pytest.raises(of.SettingError, match="target_weight=0 leaves nothing to learn; give a classifier"):
        Readout(target_weight=0.0)
    with pytest.raises(of.SettingError, match="leave target_weight out; got 0"):
        LatentODE(MLP(4), Euler(num_steps=1), dim=2, num_classes=3, readout=alone())
    with pytest.raises(of.SettingError, match=r"time_scale must .*; got 0"):
        Control(time_scale=0.0)
    with pytest.raises(of.SettingError, match="window must be at least 0; got -1"):
        Control(window=-1)
