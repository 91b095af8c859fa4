"""Laws of `odeflow.predict`: the predictions of a task for any table, in its units."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch import Trainer

import odeflow as of
from odeflow_data import Spiral, Table
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Regression, Trajectory

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
COLUMNS = {"u": np.arange(40.0), "v": np.arange(40.0) ** 2, "w": 1000 + 3 * np.arange(40.0)}


@pytest.fixture(scope="module")
def task() -> Regression:
    task = Regression(MLP(2), RK4(num_steps=2))
    Trainer(**QUIET).fit(task, datamodule=Table(COLUMNS, target="w"))
    return task


def test_predictions_are_those_of_the_model_in_the_units_of_the_file(task: Regression) -> None:
    """A fitted task reads any table by the names of its columns; the model stays in its mode."""
    task.train()
    table = of.predict(task, {name: COLUMNS[name][:7] for name in ("v", "u")})
    assert task.training
    assert task.units is not None
    assert task.units.target is not None
    x = task.units.standardised(torch.tensor(np.stack([COLUMNS["u"], COLUMNS["v"]], axis=1)[:7])).float()
    wanted = task.units.target.restored(task(x).detach())[:, 0].numpy()
    assert table.columns == ["row", "w"]
    np.testing.assert_allclose(table["w"].to_numpy(), wanted)


def test_pandas_gives_pandas(task: Regression, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is of the type of the source if that is of pandas."""

    class DataFrame(dict[str, Any]):
        @property
        def columns(self) -> list[str]:
            return list(self)

        def __getitem__(self, name: str) -> Any:
            return pl.Series(dict.__getitem__(self, name))

    monkeypatch.setattr(DataFrame, "__module__", "pandas.core.frame")
    table = of.predict(task, DataFrame(COLUMNS))
    assert type(table) is DataFrame
    assert table.columns == ["row", "w", "w_true"]
    assert dict.__getitem__(table, "w_true").tolist() == COLUMNS["w"].tolist()


def test_a_task_without_a_table_is_refused() -> None:
    """An untrained task, and one that was trained on no table, say so."""
    task = Trajectory(MLP(2), RK4(num_steps=2))
    with pytest.raises(of.DataError, match="does not say how its data were read: load it from a checkpoint"):
        of.predict(task, COLUMNS)
    Trainer(**QUIET, limit_train_batches=1, limit_val_batches=0).fit(task, datamodule=Spiral(observations=50, t1=2.0))
    with pytest.raises(of.DataError, match="this Trajectory was trained on Spiral, which is no table"):
        of.predict(task, COLUMNS)
