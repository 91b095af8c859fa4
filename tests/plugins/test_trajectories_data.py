"""Laws of tables of trajectories: rows in any order become trajectories in the file's units, with inputs and doses."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import odeflow as of
from odeflow_data import Trajectories
from odeflow_data.reading import Reading
from odeflow_data.split import Split
from odeflow_dynamics import Equations
from odeflow_solvers import Dopri5
from odeflow_tasks import Initial, Trajectory

D = torch.float64
nan = math.nan


def rows() -> dict[str, Any]:
    """Three trajectories of 4 to 8 times, some cells empty, in no order."""
    random = np.random.default_rng(0)
    lengths = [4, 8, 6]
    number = np.repeat(np.arange(3), lengths)
    t = np.concatenate([np.sort(random.random(length)) * 10 for length in lengths])
    x = np.exp(-0.3 * t) + number
    x[[2, 7]] = nan
    order = random.permutation(len(t))
    columns = {"id": number, "t": t, "x": x, "y": 2 * t}
    return {name: column[order] for name, column in columns.items()}


def ready(table: dict[str, Any], stage: str = "fit", **options: Any) -> Trajectories:
    data = Trajectories(table, **({"time": "t"} | options))
    data.setup(stage)
    return data


def only(loader: Any) -> of.Series:
    (batch,) = loader
    return batch


def test_every_value_trains_once_in_the_units_of_the_file() -> None:
    """The batch holds each observed value at its time, in float64, and nothing else; validation repeats it."""
    table = rows()
    data = ready(table, series="id")
    batch = only(data.train_dataloader())
    assert batch.t.dtype == batch.y.dtype == D
    places = batch.target.nonzero().tolist()
    found = {
        (sample, float(batch.t[sample, row]), column, float(batch.y[sample, row, column]))
        for sample, row, column in places
    }
    wanted = {
        (int(number), float(t), column, float(value))
        for number, t, *values in zip(*table.values(), strict=True)
        for column, value in enumerate(values)
        if value == value
    }
    assert found == wanted
    assert torch.equal(batch.seen, batch.target)
    assert (batch.t.diff(dim=1) >= 0).all()
    assert torch.equal(only(data.val_dataloader()).y, batch.y)
    assert data.units.same


def test_the_order_of_rows_does_not_matter() -> None:
    """Permuted rows give the same batch."""
    table = rows()
    again = {name: column[::-1] for name, column in table.items()}
    for one, other in zip(
        only(ready(table, series="id").train_dataloader()),
        only(ready(again, series="id").train_dataloader()),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_hidden_states_are_columns_without_values() -> None:
    """States come in the order asked for, hidden ones without a value."""
    data = ready(rows(), series="id", states=["y", "z", "x"], hidden=["z"])
    batch = only(data.train_dataloader())
    assert data.dim == 3
    assert batch.target.flatten(0, 1).any(0).tolist() == [True, False, True]
    assert data.units.features == ("y", "z", "x")


def test_shares_in_time_are_the_last_rows_of_each_trajectory() -> None:
    """The last rows of each trajectory is to be forecast from what is before it, which alone trains."""
    table = rows() | {"x": np.ones(18)}
    data = ready(table, series="id", split=Split(val=0.0, test=0.28))
    train, test = only(data.train_dataloader()), only(data.test_dataloader())
    assert train.target[..., 0].sum(1).tolist() == [3, 6, 4]
    assert test.target[..., 0].sum(1).tolist() == [1, 2, 2]
    assert torch.equal(test.seen.sum(1), train.target.sum(1))
    first = [float(test.t[number][test.target[number, :, 0]].min()) for number in range(3)]
    assert all(first[number] > float(train.t[number].max()) for number in range(3))
    assert torch.equal(test.key, train.key)


def test_shares_of_trajectories_are_whole() -> None:
    """With part='series' a trajectory trains or tests; of one that tests, the first row is seen."""
    data = ready(rows(), series="id", split=Split(val=0.0, test=0.34), part="series")
    train, test = only(data.train_dataloader()), only(data.test_dataloader())
    assert (len(train.t), len(test.t)) == (2, 1)
    assert not set(train.key.tolist()) & set(test.key.tolist())
    assert (bool(test.seen[:, 0].any()), bool(test.seen[:, 1:].any())) == (True, False)


def test_a_column_says_what_trains() -> None:
    """Rows that a column of words calls test are to be predicted, the others train."""
    table = {"t": np.arange(6), "x": np.arange(6.0), "use": ["train"] * 4 + ["test"] * 2}
    data = ready(table, split=Split(val=0.0, test=0.0, by="use"))
    assert only(data.test_dataloader()).target[0, :, 0].tolist() == [False] * 4 + [True] * 2
    assert only(data.train_dataloader()).t.shape == (1, 4)


def test_dates_count_from_the_first_one() -> None:
    """Times of dates begin at 0, in the unit that is asked for; numbers are as they are."""
    days = np.array(["2024-03-01", "2024-03-03", "2024-03-08"], dtype="datetime64[D]")
    data = ready({"t": days, "x": [1.0, 2.0, 3.0]}, read=Reading(time_unit="hours"))
    assert only(data.train_dataloader()).t.tolist() == [[0, 48, 168]]
    assert only(ready({"t": [5, 6], "x": [1.0, 2.0]}).train_dataloader()).t.tolist() == [[5, 6]]


def test_batches_may_be_some_trajectories_and_repeat() -> None:
    """An epoch has all trajectories `steps` times, `batch_size` at once."""
    data = ready(rows(), series="id", batch_size=2, steps=3)
    assert sorted(len(batch.t) for batch in data.train_dataloader()) == [1, 1, 1, 2, 2, 2]


def model(equations: dict[str, str], parameters: dict[str, float], **options: Any) -> Trajectory:
    inputs = options.pop("inputs", None)
    task = Trajectory(Equations(equations, parameters, inputs=inputs), Dopri5(1e-9, 1e-10), **options).double()
    task.log = lambda *_, **__: None
    return task


@pytest.mark.parametrize("segment", [None, 3])
def test_doses_jump_right_after_their_time(segment: int | None) -> None:
    """A decaying amount is what each dose leaves of itself; at its own time a dose is not yet there."""
    t = np.array([0, 1, 2, 3, 4.0, 0, 0.5, 2.5, 4])
    dose = np.array([8, nan, 4, nan, nan, nan, 2, nan, nan])
    patient = np.repeat(["a", "b"], [5, 4])
    amount = [
        sum(
            d * math.exp(-0.7 * (now - s))
            for s, d, who in zip(t, dose, patient, strict=True)
            if s < now and who == mine and d == d
        )
        for now, mine in zip(t, patient, strict=True)
    ]
    data = ready({"who": patient, "t": t, "x": amount, "dose": dose}, series="who", doses={"x": "dose"})
    batch = only(data.train_dataloader())
    task = model({"x": "-k*x"}, {"k": 0.7}, distance="mse", segment=segment)
    assert float(task.loss(batch, "train").detach()) < 1e-12
    with torch.no_grad():
        torch.testing.assert_close(
            task.predict_step(batch, 0)[batch.target], batch.y[batch.target], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("segment", [None, 4])
def test_inputs_are_interpolated(segment: int | None) -> None:
    """dx/dt = u with u(t) = 2t from rows, also where it or x is missing, is x₀ + t² of each trajectory's own."""
    t = np.array([0, 0.5, 1, 2, 3.0, 1, 1.5, 2.5, 3.5, 4])
    start = np.repeat([0.0, 5.0], 5)
    u = 2 * t
    u[[1, 7]] = nan
    x = start + t**2
    x[[2, 7]] = nan
    table = {"id": np.repeat([0, 1], 5), "t": t, "x": x, "u": u}
    batch = only(ready(table, series="id", covariates=["u"]).train_dataloader())
    task = model({"x": "g*u"}, {"g": 1.0}, inputs=["u"], distance="mse", segment=segment, initial=Initial("completed"))
    assert float(task.loss(batch, "train").detach()) == pytest.approx(0, abs=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(task.predict_step(batch, 0)[..., 0].flatten(), torch.from_numpy(start + t**2))


def test_derivatives_see_doses_and_inputs() -> None:
    """Sensitivities by copies agree with differentiation of the loss where there are doses and inputs."""
    table = {"t": [0, 1, 2, 3.0], "x": [1.0, 3.0, 2.0, 4.0], "u": [0.0, 1.0, 0.5, 2.0], "dose": [0.0, 2.0, 0.0, 0.0]}
    batch = only(ready(table, covariates=["u"], doses={"x": "dose"}).train_dataloader())
    task = model(
        {"x": "g*u - k*x"}, {"g": 1.0, "k": 0.5}, inputs=["u"], distance="nll", initial=Initial("learned"), noise=[1.0]
    )
    loss = task.loss(batch, "train")
    named = list(task.named_parameters())
    gradient = torch.stack([each.flatten()[0] for each in torch.autograd.grad(4 * loss, [part for _, part in named])])
    residuals, jacobian = task.linearised(batch, [(name, 0) for name, _ in named])
    torch.testing.assert_close(jacobian.T @ residuals, gradient, rtol=1e-6, atol=1e-6)


def test_predictions_are_a_table_of_the_file() -> None:
    """Each row of the file has its id, time, predicted states, hidden ones too, and what was observed."""
    table = rows()
    data = ready(table, "predict", series="id", states=["x", "y", "z"], hidden=["z"])
    batch = only(data.predict_dataloader())
    frame = data.table([torch.arange(float(batch.y.numel())).view(batch.y.shape)])
    assert frame.columns == ["id", "t", "x", "y", "z", "x_true", "y_true"]
    assert len(frame) == len(table["t"])
    order = np.lexsort((table["t"], table["id"]))
    np.testing.assert_array_equal(frame["id"], table["id"][order])
    np.testing.assert_array_equal(frame["t"], table["t"][order])
    assert frame["x_true"].null_count() == 2
    np.testing.assert_array_equal(frame["y_true"], table["y"][order])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"states": ["x", "w"]}, of.DataError, "no column 'w', which states, unless hidden, names"),
        ({"hidden": ["x"]}, of.SettingError, "hidden names the column 'x'"),
        ({"states": ["x"], "hidden": ["z"]}, of.SettingError, "hidden names 'z'; the states are x"),
        ({"doses": {"w": "y"}}, of.SettingError, "doses name 'w'; the states are x"),
        ({"covariates": ["u"]}, of.DataError, "no column 'u', which covariates names"),
        ({"part": "row"}, of.SettingError, "part must be 'time' or 'series'; got 'row'"),
        ({"read": Reading(missing="drop")}, of.SettingError, "does not support read.missing"),
        (
            {"covariates": ["y"], "read": Reading(duplicates="mean")},
            of.SettingError,
            "does not support read.duplicates",
        ),
        ({"hidden": ["z"], "standardise": True}, of.SettingError, "hidden states cannot be standardised"),
        ({"series": None}, of.DataError, r"rows have a time that another row has|column"),
        ({"steps": 0}, of.SettingError, "steps"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """An invalid option is an error that says what came and what there is."""
    table = rows()
    if options.get("series", "") is None:
        table["t"] = np.round(table["t"])
    with pytest.raises(error, match=message):
        ready(table, **({"series": "id"} | options))


def test_trajectories_without_enough_to_train_on_are_named() -> None:
    """One time only, no observation, and no test part are errors that say which trajectory, and what to do."""
    table = {"id": ["a", "a", "b"], "t": [0, 1, 0], "x": [1.0, 2.0, 3.0]}
    with pytest.raises(of.DataError, match="two times at least, but that of the series b has one"):
        ready(table, series="id")
    with pytest.raises(of.DataError, match="nothing was observed of the series b"):
        ready(table | {"x": [1.0, 2.0, nan]}, series="id")
    with pytest.raises(of.DataError, match=r"nothing to test\. Set a share or a file by --data\.split\.test"):
        ready(rows(), series="id").test_dataloader()
