"""Laws of the baselines of time series: what they predict, and from what."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data import SeriesTable, Window
from odeflow_tasks import RNN, Masking
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.readout import Readout
from odeflow_tasks.series_baselines import NAMES, predictions
from odeflow_tasks.series_task import SeriesTask


def series(values: Tensor, t: Tensor, seen: Tensor) -> of.Series:
    """Series of one feature, whose unseen values are targets."""
    seen = seen.expand_as(values)[..., None]
    return of.Series(t.expand_as(values), values[..., None], seen, ~seen)


def irregular(features: int = 2) -> of.Series:
    """Random values at random times, half of them seen."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(4, 15, generator=generator).sort(1).values
    y = torch.randn(4, 15, features, generator=generator)
    seen = torch.rand(y.shape, generator=generator) < 0.5
    return of.Series(t, y, seen, torch.ones_like(seen))


def test_predictions_by_hand() -> None:
    """Of nine values, the squares of their number, four are seen; the period is two places."""
    number = torch.arange(9.0)
    seen = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    found = predictions(series(number.square()[None], number[None], seen), period=2.0)
    wanted = {
        "persistence": [1, 4, 1, 4, 4, 16, 25, 25, 25],
        "linear": [1, 4, 1 + 15 / 3, 10, 4 + 21 * 2 / 3, 16, 25, 25, 25],
        "mean": [46 / 4, 45 / 3, 42 / 3, 46 / 4, 30 / 3, 21 / 3, 46 / 4, 46 / 4, 46 / 4],
        "seasonal": [1, 4, 1, 1, 4, 10, 16, 25, 16],
    }
    assert found.keys() == wanted.keys() == set(NAMES)
    for name, values in wanted.items():
        assert found[name].flatten().tolist() == pytest.approx(values), name


def _first(batch: of.Series, name: str, y: Tensor) -> Tensor:
    """(T,), the predictions of the first series and feature."""
    return predictions(batch._replace(y=y), 0.2)[name][0, :, 0]


@pytest.mark.parametrize("name", NAMES)
def test_no_value_predicts_itself(name: str) -> None:
    """∂ prediction/∂ value is zero at the same place, and not everywhere."""
    batch = irregular()
    jacobian = torch.autograd.functional.jacobian(functools.partial(_first, batch, name), batch.y)
    assert isinstance(jacobian, Tensor)
    own = jacobian[:, 0, :, 0]
    assert (own.diagonal() == 0).all()
    assert (own != 0).any()
    assert (jacobian[:, 1:] == 0).all()
    assert (jacobian[:, 0, :, 1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_unseen_values_do_not_matter(name: str) -> None:
    """Whatever stands where nothing was seen, even NaN, the predictions are the same."""
    batch = irregular()
    other = batch._replace(y=batch.y.where(batch.seen, torch.nan))
    assert torch.equal(predictions(batch, 0.2)[name], predictions(other, 0.2)[name])


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name: str) -> None:
    """A series padded by its last time has the same predictions."""
    batch = irregular()
    nothing = torch.zeros_like(batch.seen[:, :3])
    t = torch.cat([batch.t, batch.t[:, -1:].expand(-1, 3)], 1)
    y, seen, target = (
        torch.cat([part, more], 1)
        for part, more in ((batch.y, nothing.float()), (batch.seen, nothing), (batch.target, nothing))
    )
    padded = predictions(of.Series(t, y, seen, target), 0.2)[name]
    torch.testing.assert_close(padded[:, :15], predictions(batch, 0.2)[name])


def test_lines_are_interpolated_exactly() -> None:
    """A linear function of irregular times is predicted exactly between its seen values."""
    t = irregular().t
    seen = torch.tensor([True, False, False] * 5)
    found = predictions(series(3 * t - 1, t, seen))["linear"][..., 0]
    torch.testing.assert_close(found[:, 1:12], (3 * t - 1)[:, 1:12])
    torch.testing.assert_close(found[:, 13:], (3 * t - 1)[:, 12:13].expand(-1, 2))


@pytest.mark.parametrize("period", [7, 10])
@pytest.mark.parametrize("step", [1.0, 1 / 54, 0.1])
def test_periodic_series_repeat(period: int, step: float) -> None:
    """The forecast of a function of this period is exact however far, for any unit of time and with a gap."""
    place = torch.arange(55)
    values = torch.sin(2 * torch.pi * place / period)
    seen = (place < 30) & (place != 21)
    values = values.where(place != 21, torch.lerp(values[20], values[22], 0.5))
    found = predictions(series(values[None], step * place[None], seen), period * step)["seasonal"][0, 30:, 0]
    past = torch.arange(30, 55) - period * ((torch.arange(30, 55) - 29) / period).ceil()
    torch.testing.assert_close(found, values[past.long()], rtol=0, atol=1e-4)


def test_nothing_seen_is_predicted_by_zero() -> None:
    """Without a seen value of the feature every baseline is 0."""
    batch = irregular(1)
    for values in predictions(batch._replace(seen=torch.zeros_like(batch.seen)), 0.2).values():
        assert (values == 0).all()


def test_without_a_period_there_is_no_seasonal_baseline() -> None:
    """The three others are predicted."""
    assert predictions(irregular()).keys() == set(NAMES) - {"seasonal"}


# Metrics


class Constant(Autoregressive):
    """Predicts 0."""

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(batch.y), torch.zeros(len(batch.t), 1)


class As(Constant):
    """Predicts as a baseline does."""

    name, instance = "", InstanceNorm()

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        return predictions(batch)[self.name], torch.zeros(len(batch.t), 1)


def measured(task: SeriesTask, batch: of.Series) -> dict[str, float]:
    """What a test of one batch logs."""
    loader = DataLoader([batch], batch_size=None)  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=folder, accelerator="cpu")
        return dict(trainer.test(task, loader, verbose=False)[0])


def task_of(cls: type[SeriesTask]) -> SeriesTask:
    return cls(1, 2, Readout(), None, Masking())


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("name", ["persistence", "linear", "mean"])
def test_baselines_are_measured_on_the_targets_of_the_model(name: str) -> None:
    """A task that predicts as a baseline does has its errors, of all kinds of targets."""
    task = task_of(As)
    task.name = name
    found = measured(task, irregular())
    kinds = {label for label in found if label.endswith("mse") and not label.endswith("rmse")}
    assert kinds == {"test/mse", "test/feature_mse", "test/interpolation_mse", "test/extrapolation_mse"}
    for kind in kinds:
        assert found[kind] == pytest.approx(found[f"{kind}_{name}"])
        assert found[kind] > 0


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_the_seasonal_baseline_has_the_period_of_the_file(tmp_path: Path) -> None:
    """Rows that repeat every four rows, 20 units of the file's time, are forecast exactly by it, and by no other."""
    columns: Any = {"t": 5.0 * np.arange(100) + 1000, "y": 1.0 * (np.arange(100) % 4)}
    data = Window(columns, time="t", history=6, horizon=3, period=20.0)
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu")
    (found,) = trainer.test(RNN(dim=1), datamodule=data, verbose=False)
    assert found["test/mse_seasonal"] < 1e-6
    assert min(found[f"test/mse_{name}"] for name in ("persistence", "linear", "mean")) > 0.1


def test_a_period_is_positive() -> None:
    """Another is refused, by series of either kind."""
    columns: Any = {"id": [1] * 9, "t": range(9), "y": range(9)}
    with pytest.raises(of.SettingError, match=r"Window: period must lie in \(0, inf\); got 0\.0"):
        Window(columns, time="t", period=0.0)
    with pytest.raises(of.SettingError, match=r"SeriesTable: period must lie in \(0, inf\); got -1\.0"):
        SeriesTable(columns, series="id", time="t", period=-1.0)
