"""Laws of outcomes, numbers of whole series: what is learned of them, how that is measured, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import RidgeCV
from torch import Tensor

import odeflow as of
from odeflow.testing import task_checks
from odeflow_cde import CDE, Control
from odeflow_data import SeriesTable, Split
from odeflow_dynamics import MLP
from odeflow_sde import EulerMaruyama, LatentSDE
from odeflow_solvers import Euler, Heun
from odeflow_tasks import GRUD, ODERNN, RNN, LatentODE, Linear, Perceptron, Readout, Rectilinear
from odeflow_tasks.fitted_baselines import ridge_regressions
from odeflow_tasks.series_features import features
from odeflow_tasks.series_task import SeriesTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)


def walks(count: int, seed: int) -> of.Series:
    """Plane walks at times and of lengths of their own; their outcome is ∫ x dy − y dx, twice the signed area."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(count, 12, generator=generator).cumsum(1)
    y = torch.randn(count, 12, 2, generator=generator).cumsum(1) / 3
    lengths = 9 + torch.arange(count) % 4
    there = torch.arange(12) < lengths[:, None]
    t = torch.minimum(t, t.gather(1, lengths[:, None] - 1))
    x, dx = y[:, :-1] - y[:, :1], y.diff(dim=1).where(there[:, 1:, None], 0.0)
    area = (x[..., 0] * dx[..., 1] - x[..., 1] * dx[..., 0]).sum(1, keepdim=True)
    seen = there[..., None].expand_as(y)
    return of.Series(t, y.where(seen, 0.0), seen, seen, outcome=area)


def alone(weight: float = 1.0) -> Readout:
    return Readout(regressor=Perceptron(()), outcome_weight=weight, target_weight=0.0)


def beside(weight: float = 1.0) -> Readout:
    return Readout(regressor=Perceptron(()), outcome_weight=weight)


def field() -> MLP:
    return MLP(4, [6], time="none")


def cde(readout: Readout, **options: Any) -> CDE:
    control = Control(interpolation=Rectilinear() if readout.target_weight else Linear())
    return CDE(field(), Heun(step_size=1.0), of.Backprop(), control, readout=readout, **options)


MODELS: dict[str, Callable[..., SeriesTask]] = {
    "cde": cde,
    "rnn": lambda readout, **options: RNN(width=4, readout=readout, **options),
    "ode_rnn": lambda readout, **options: ODERNN(field(), Euler(num_steps=1), readout=readout, **options),
    "gru_d": lambda readout, **options: GRUD(width=4, readout=readout, **options),
    "latent_ode": lambda readout, **options: LatentODE(field(), Euler(num_steps=4), readout=readout, **options),
    "latent_sde": lambda readout, **options: LatentSDE(
        field(), MLP(5, [6]), EulerMaruyama(step_size=1.0), hidden=6, readout=readout, **options
    ),
}
FORWARD = ("cde", "rnn", "ode_rnn", "gru_d")
"""Models that may have a regressor alone."""


def made(name: str, readout: Readout, **options: Any) -> Any:
    """A model, with the same weights each time."""
    torch.manual_seed(0)
    task = MODELS[name](readout, **{"dim": 2, "num_outputs": 1, **options})
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


def loss(task: SeriesTask, batch: of.Series) -> Tensor:
    """The loss in training, with the same random numbers each time."""
    torch.manual_seed(0)
    return task.loss(batch, "train").detach()


@pytest.mark.parametrize(
    "check",
    [
        check
        for name, readout in (("cde", alone()), ("gru_d", beside()), ("latent_ode", beside()))
        for check in task_checks(made(name, readout), walks(5, 0))
    ],
    ids=str,
)
def test_regressors_are_tasks(check: Callable[[], None]) -> None:
    """Models with a regressor, alone or beside the values, fulfil the contract of tasks."""
    check()


def test_the_area_of_a_path_is_learned() -> None:
    """A few steps of a small CDE predict on other walks what no simple feature tells, far below the linear baseline."""
    train, test = walks(128, 0), walks(64, 1)
    torch.manual_seed(0)
    task = CDE(
        MLP(8, [16], time="none"), Heun(step_size=1.0), of.Backprop(), Control(interpolation=Linear()), dim=2,
        num_outputs=1, readout=alone(),
    )  # fmt: skip
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        task.loss(train, "train").backward()
        optimizer.step()
    assert train.outcome is not None
    assert test.outcome is not None
    linear = ridge_regressions(features(train), train.outcome)["linear"](features(test))
    found = task.regress(test).detach()
    error, of_linear = (float((each - test.outcome).square().mean()) for each in (found, linear))
    assert error < 0.4 * of_linear


@pytest.mark.parametrize("name", FORWARD)
def test_the_loss_is_the_weighted_mean_square_error(name: str) -> None:
    """Of a regressor alone it is nothing else, of what `predict` gives; beside values it is added, and 0 leaves it out."""
    batch = walks(5, 0)
    assert batch.outcome is not None
    task = made(name, alone(0.5))
    predicted = task.predict_step(batch, 0)
    assert predicted.shape == (5, 1)
    torch.testing.assert_close(loss(task, batch), 0.5 * (predicted - batch.outcome).square().mean())
    added = loss(made(name, beside(0.5)), batch) - loss(made(name, beside(0.0)), batch)
    error = (made(name, beside()).regress(batch) - batch.outcome).square().mean()
    torch.testing.assert_close(added, 0.5 * error, rtol=1e-4, atol=1e-4)
    found = made(name, beside()).predict_step(batch, 0)
    assert {each: value.shape for each, value in found.items()} == {"mean": batch.y.shape, "outcomes": (5, 1)}


@pytest.mark.parametrize("name", ["latent_ode", "latent_sde"])
def test_latent_models_regress_the_initial_state(name: str) -> None:
    """The mean square error is added, and moves the regressor and the encoder."""
    batch, task = walks(5, 0), made(name, beside())
    assert loss(task, batch) > loss(made(name, beside(0.0)), batch)
    task.whole_loss(torch.ones(3, 5, 4), batch, "train").backward()
    assert all(each.grad is not None for each in task.regressor.parameters())
    states = torch.zeros(3, 5, 4, requires_grad=True)
    task.whole_loss(states, batch, "train").backward()
    assert states.grad is not None
    assert bool((states.grad != 0).any(2).all())


@pytest.mark.parametrize("name", FORWARD)
def test_outcomes_depend_on_nothing_but_seen_values(name: str) -> None:
    """What was not seen, the padding and the true outcome change no prediction."""
    batch, task = walks(5, 0), made(name, alone())
    hidden = batch.seen & (torch.arange(12) % 3 > 0)[:, None]
    wanted = task.predict_step(batch._replace(seen=hidden, outcome=None), 0)
    other = batch._replace(seen=hidden, y=batch.y.where(hidden, 7.0))
    torch.testing.assert_close(task.predict_step(other, 0), wanted)
    assert not torch.allclose(task.predict_step(batch, 0), wanted)


def test_ridge_regression_is_that_of_standardised_inputs() -> None:
    """Predictions are scikit-learn's, in any unit of the inputs; of one row there is the mean alone."""
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(80.0).reshape(40, 2).sqrt()
    rows = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    wanted = RidgeCV(np.logspace(-3, 3, 13)).fit(rows, y.double().numpy()).predict(rows)
    for scale in (1.0, 1000.0):
        found = ridge_regressions(scale * x, y)
        np.testing.assert_allclose(found["linear"](scale * x).numpy(), wanted, rtol=1e-4)
        torch.testing.assert_close(found["constant"](x), y.mean(0).expand(40, -1))
    assert ridge_regressions(x, y[:, :1])["linear"](x).shape == (40, 1)
    assert ridge_regressions(x[:1], y[:1]).keys() == {"constant"}


# Tables


def table(count: int = 20) -> pl.DataFrame:
    """Lines through 0 with a rating of 100 plus ten times the slope, and a class by its sign."""
    rows = [
        (number, hour, (number - 9.5) * hour / 5, 100 + 10 * (number - 9.5), "up" if number > 9 else "down")
        for number in range(count)
        for hour in range(5)
    ]
    return pl.DataFrame(rows, schema=["id", "hour", "x", "rating", "kind"], orient="row")


def data_of(frame: pl.DataFrame, **options: Any) -> SeriesTable:
    named: dict[str, Any] = {"series": "id", "time": "hour", "columns": ["x"], "outcome": "rating", "batch_size": 6}
    return SeriesTable(frame, **(named | options))


def trainer(folder: Path) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1,
        **quiet,
    )  # fmt: skip


def test_baselines_are_measured_beside_the_model(tmp_path: Path) -> None:
    """Errors are those of the mean, of ridge regression and of the model on the tested series, in standardised units."""
    data, task = data_of(table(), split=Split(0.2, 0.3)), made("rnn", alone(), dim=1)
    del task.log
    (found,) = trainer(tmp_path).test(task, datamodule=data, verbose=False)
    train, test = data.train, data.test
    assert train.outcome is not None
    assert test.outcome is not None
    models = {f"_{name}": each for name, each in ridge_regressions(features(train), train.outcome).items()}
    wanted = {end: model(features(test)) for end, model in models.items()} | {"": task.predict_step(test, 0)}
    assert wanted.keys() == {"", "_constant", "_linear"}
    for end, prediction in wanted.items():
        error = float((prediction.detach() - test.outcome).square().mean())
        assert found[f"test/outcome_mse{end}"] == pytest.approx(error, rel=1e-4)
        assert found[f"test/outcome_rmse{end}"] == pytest.approx(error**0.5, rel=1e-4)
    assert found["test/outcome_rmse_linear"] < 0.2 < found["test/outcome_rmse_constant"]
    assert all("outcome" in name or name == "test/loss" for name in found)
    (axes,) = task.test_figures()["outcomes"].axes
    assert axes.get_title().startswith(f"{len(test.t)} series, $R^2$ = ")


@pytest.mark.parametrize("names", ["rating", ["rating", "twice"]])
def test_a_table_of_outcomes(tmp_path: Path, names: Any) -> None:
    """A row for each series: its id, the outcomes by name in the file's units, and the true ones, where it has any."""
    frame = table().with_columns(twice=2 * pl.col("rating"))
    data, columns = data_of(frame, outcome=names), [names] if isinstance(names, str) else names
    task = made("cde", alone(), dim=1, num_outputs=len(columns))
    del task.log
    runner = trainer(tmp_path)
    runner.fit(task, data)
    found = of.predict(task, frame.sample(fraction=1, shuffle=True, seed=0))
    assert found.columns == ["id", *columns, *(f"{name}_true" for name in columns)]
    assert found["id"].to_list() == list(range(20))
    assert found["rating_true"].to_list() == frame.group_by("id", maintain_order=True).first()["rating"].to_list()
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    units = data.known.target
    assert units is not None
    assert units.features == tuple(columns)
    standardised = task.regress(batch).detach().double().numpy()
    restored = found.select(columns).to_numpy()[: len(batch.t)]
    np.testing.assert_allclose(restored, standardised * units.scale + np.array(units.shift), rtol=1e-6)
    later = frame.drop(columns).with_columns(hour=pl.col("hour") + 1)
    assert of.predict(task, later).columns == ["id", *columns]
    empty = frame.with_columns(rating=pl.when(pl.col("id") == 3).then(None).otherwise("rating"))
    assert of.predict(task, empty)["rating_true"].null_count() == 1


def test_classes_and_outcomes_are_predicted_together(tmp_path: Path) -> None:
    """Both heads alone read one state; predictions are by name, and the table has all their columns."""
    data = data_of(table(), label="kind")
    readout = Readout(classifier=Perceptron(()), regressor=Perceptron(()), target_weight=0.0)
    task = made("gru_d", readout, dim=1, num_classes=2)
    del task.log
    runner = trainer(tmp_path)
    runner.fit(task, data)
    assert {"val/auroc", "val/auroc_logistic", "val/outcome_rmse", "val/outcome_rmse_linear"} <= set(
        runner.callback_metrics
    )
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    prediction = task.predict_step(batch, 0)
    assert torch.equal(prediction["classes"], task.classify(batch))
    assert torch.equal(prediction["outcomes"], task.regress(batch))
    found = of.predict(task, table())
    assert found.columns == ["id", "kind", "probability_down", "probability_up", "rating", "kind_true", "rating_true"]
    assert abs(float(found["rating"].to_numpy().mean()) - 100) < 60


@pytest.mark.parametrize("name", ["gru_d", "latent_ode", "latent_sde"])
def test_a_table_of_values_has_those_of_whole_series_too(name: str, tmp_path: Path) -> None:
    """In each row of a series stand its class, probabilities and outcome, those of `classify` and `regress`."""
    frame, readout = table(), Readout(classifier=Perceptron(()), regressor=Perceptron(()))
    data, quantiles = data_of(frame, label="kind"), {"quantiles": [0.5]} if name == "latent_ode" else {}
    task = made(name, readout, dim=1, num_classes=2, **quantiles)
    del task.log
    trainer(tmp_path).fit(task, data)
    found = of.predict(task, frame)
    ends = ["", "_q50", "_true"] if quantiles else ["", "_true"]
    whole = ["kind", "probability_down", "probability_up", "rating", "kind_true", "rating_true"]
    assert found.columns == ["id", "hour", "seen", *(f"x{end}" for end in ends), *whole]
    assert len(found) == len(frame)
    assert (found.group_by("id").n_unique()[whole] == 1).to_numpy().all()
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    first = found.unique("id", keep="first", maintain_order=True).head(len(batch.t))
    units = data.known.target
    assert units is not None
    with torch.no_grad():
        np.testing.assert_allclose(first["probability_up"], task.classify(batch)[:, 1], rtol=1e-5)
        np.testing.assert_allclose(first["rating"], units.restored(task.regress(batch))[:, 0], rtol=1e-5)
    of_each = frame.unique("id", keep="first", maintain_order=True)
    assert found.select("id", "rating_true").unique(maintain_order=True)["rating_true"].equals(of_each["rating"])


@pytest.mark.parametrize("name", ["latent_ode", "latent_sde"])
def test_errors_are_those_of_what_is_predicted(name: str, tmp_path: Path) -> None:
    """In a test, of classes and outcomes, in the units of the batch and of the file: no random draw has a part in them."""
    data = data_of(table(), label="kind", split=Split(0.3, 0.3))
    readout = Readout(classifier=Perceptron(()), regressor=Perceptron(()))
    task = made(name, readout, dim=1, num_classes=2)
    del task.log
    runner = trainer(tmp_path)
    runner.fit(task, data)
    (found,) = runner.test(task, datamodule=data, verbose=False)
    batch, units = data.test, data.known.target
    assert units is not None
    assert batch.outcome is not None
    errors = task.regress(batch).detach() - batch.outcome
    assert found["test/outcome_mse"] == pytest.approx(float(errors.square().mean()), rel=1e-4)
    assert found["test/outcome_mae"] == pytest.approx(units.scale[0] * float(errors.abs().mean()), rel=1e-4)
    assert {"test/outcome_mae_constant", "test/outcome_mae_linear"} <= set(found)


# Messages


def test_what_does_not_fit_is_refused() -> None:
    """A regressor without outcomes, outcomes without a regressor, and those of another form are refused in words."""
    batch = walks(5, 0)
    assert batch.outcome is not None
    with pytest.raises(of.SettingError, match=r"a regressor needs num_outputs, .* by --data\.outcome"):
        made("rnn", alone(), num_outputs=None)
    with pytest.raises(of.SettingError, match=r"num_outputs=1, .*; give readout\.regressor, such as Perceptron\(\)"):
        made("rnn", Readout())
    with pytest.raises(of.SettingError, match="outcome_weight must be at least 0; got -1"):
        Readout(outcome_weight=-1.0)
    for readout in ({}, {"regressor": Perceptron(()), "outcome_weight": 0.0}, {"classifier": None}):
        with pytest.raises(of.SettingError, match="nothing to learn; give a classifier or a regressor"):
            Readout(**readout, target_weight=0.0)
    with pytest.raises(of.SettingError, match=r"readout\.outcome_weight, and leave target_weight out; got 0"):
        made("latent_ode", alone())
    with pytest.raises(of.DataError, match=r"the regressor needs series with outcomes; these have none\. Name their"):
        loss(made("rnn", alone()), batch._replace(outcome=None))
    with pytest.raises(of.DataError, match=r"num_outputs=0\) expects outcomes of shape \(5, 0\); got \(5, 1\)"):
        loss(made("rnn", Readout(), num_outputs=None), batch)
    with pytest.raises(of.DataError, match=r"shape \(5, 1\); got \(5,\)\. Convert \(B,\) by \[:, None\]"):
        loss(made("rnn", alone()), batch._replace(outcome=batch.outcome[:, 0]))
    with pytest.raises(of.DataError, match=r"outcomes must be finite in torch\.float32; 5 of 5"):
        loss(made("rnn", alone()), batch._replace(outcome=batch.outcome * torch.nan))


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (
            {"rating": pl.when(pl.col("hour") == 4).then(None).otherwise("rating")},
            {},
            "the number in column 'rating' is missing in rows 5, 10, 15, 20, 25 and 15 more. Leave their series out",
        ),
        (
            {"rating": pl.col("rating") + pl.col("hour") * (pl.col("id") == 7)},
            {},
            "the series 7 has several numbers in column 'rating'; each series has one",
        ),
        ({}, {"outcome": "kind"}, "column 'kind' must hold numbers; row 1 holds 'down'"),
        ({}, {"outcome": "ratings"}, "no column 'ratings', which outcome names. Did you mean 'rating'?"),
        ({}, {"outcome": "x"}, "column 'x' is named twice; each column has one role"),
        ({"rating": pl.lit(1.0)}, {}, "column 'rating' is empty or constant in the training series"),
        ({}, {"series": None}, "label, outcome, covariates, static and split.group are of tables with a row"),
    ],
)
def test_wrong_columns_are_named(change: dict[str, pl.Expr], options: dict[str, Any], told: str) -> None:
    """Messages name the column, and the series or the rows of the file."""
    with pytest.raises(of.OdeflowError) as problem:
        data_of(table().with_columns(**change), **options).setup("fit")
    assert told in str(problem.value)


def test_a_run_is_told_its_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    """The summary names them, and other columns without a role remain values; without standardisation they are as given."""
    with caplog.at_level("INFO"):
        data = data_of(table().drop("kind"), columns=None, standardise=False)
        data.setup("fit")
    assert "outcomes: rating" in caplog.text
    assert (data.features, data.num_outputs) == (["x"], 1)
    assert data.train.outcome is not None
    slopes = 5 * data.train.y[:, 4, 0] / 4
    torch.testing.assert_close(data.train.outcome[:, 0], 100 + 10 * slopes)
