"""LynxHare and Pendulum: measured series, cut into pieces, and continued."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import LynxHare, Pendulum
from odeflow_data.forecast import even_pieces


def ready(data: Any) -> Any:
    data.setup("fit")
    return data


def only(loader: Any) -> of.Series:
    """The one batch of a loader."""
    (batch,) = loader
    return batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of `schmidt_lipson.npz`: 60 measurements in each of two trials, one of them left out."""
    t = np.delete(np.arange(60) / 30, 21)
    trials = [np.stack([np.full(59, trial), 5 + t, np.cos(t), -np.sin(t)], axis=1) for trial in (0, 1)]
    np.savez(tmp_path / "schmidt_lipson.npz", swing=np.concatenate(trials), swing__header="%o v", other=np.ones(3))
    return tmp_path


def test_pelts_are_those_recorded(shared: Path) -> None:
    """Hares and lynxes of 1900–1920 are the table's, unscaled, in this order."""
    with np.load(shared / "data" / "lynx_hare" / "lynx_hare.npz") as table:
        data = ready(LynxHare(scaled=False))
        np.testing.assert_array_equal(data.t.numpy() + 1900, table["year"])
        pelts = np.stack([table["hare"], table["lynx"]], axis=1)
    np.testing.assert_array_equal(data.y.numpy(), pelts.astype(np.float32))


def test_scaled_species_have_mean_one_where_they_train() -> None:
    """`scaled` divides by the mean over the years that train alone, and `scale` brings the thousands back."""
    plain, data = ready(LynxHare(scaled=False)), ready(LynxHare())
    torch.testing.assert_close(data.y[: data.trained].mean(dim=0), torch.ones(2))
    torch.testing.assert_close(data.units.restored(data.y).float(), plain.y)


def test_a_real_pendulum_is_read_as_published(shared: Path) -> None:
    """`real_pend_h_1` is 556 angles and velocities over 94.5 units of time, and the velocity is the angle's slope."""
    data = ready(Pendulum(root=str(shared / "data" / "schmidt_lipson")))
    assert data.variables == ("o", "v")
    assert data.t.shape == (556,)
    assert data.y.shape == (556, data.dim) == (556, 2)
    assert data.t[0] == 0
    assert data.t[-1] == 94.5
    slope = np.gradient(data.y[:, 0].numpy(), data.t.numpy())
    assert np.corrcoef(slope, data.y[:, 1].numpy())[0, 1] > 0.99
    assert next(iter(data.train_dataloader())).t.shape[1] == 20


@pytest.mark.parametrize("series", ["real_linear_h_1", "real_double_linear_h_1", "real_double_pend_h_1"])
def test_other_measured_systems_are_read(shared: Path, series: str) -> None:
    """The states of the springs and of the double pendulum have as many variables as the file names, and pieces."""
    data = ready(Pendulum(str(shared / "data" / "schmidt_lipson"), series))
    assert data.y.shape[1] == data.dim == len(data.variables)
    assert (data.t.diff() > 0).all()
    batch = next(iter(data.train_dataloader()))
    assert batch.y.shape == (32, 20, data.dim)


@pytest.fixture(params=["lynx", "pendulum"])
def data(request: pytest.FixtureRequest, folder: Path) -> Any:
    if request.param == "lynx":
        return ready(LynxHare(steps=7))
    return ready(Pendulum(str(folder), "swing", known=0.8, batch_time=8, steps=7))


def test_each_forecast_begins_where_the_part_before_ends(data: Any) -> None:
    """Of validation and test the first state alone is seen, the last one of the part before; they end the series."""
    val, test = only(data.val_dataloader()), only(data.test_dataloader())
    assert 1 < data.trained < data.split < len(data.t)
    for batch, first, end in ((val, data.trained - 1, data.split), (test, data.split - 1, len(data.t))):
        assert torch.equal(batch.t[0], data.t[first:end])
        assert torch.equal(batch.y[0], data.y[first:end])
        assert bool(batch.target.all())
        assert (bool(batch.seen[:, 0].all()), bool(batch.seen[:, 1:].any())) == (True, False)
    assert torch.equal(only(data.predict_dataloader()).y, test.y)


def test_without_a_share_validation_repeats_what_trains() -> None:
    """With val=0 all known years train, and validation forecasts them from the first one."""
    data = ready(LynxHare(val=0.0))
    val = only(data.val_dataloader())
    assert data.trained == data.split == 15
    assert torch.equal(val.y[0], data.y[:15])


def test_pieces_are_even_stretches_of_what_trains(data: Any) -> None:
    """Every piece is a run of measurements that train, to the last bit, at times that are its own from 0 on."""
    known = data.y[: data.trained]
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 7
    for batch in batches:
        assert batch.y.shape == (data.batch_size, data.batch_time, data.dim)
        for t, piece in zip(batch.t, batch.y, strict=True):
            start = int((known - piece[0]).norm(dim=1).argmin())
            assert torch.equal(piece, known[start : start + len(t)])
            torch.testing.assert_close(t, data.t[start : start + len(t)] - data.t[start])


def test_pieces_with_a_gap_are_left_out() -> None:
    """All pieces of length 3 begin where three measurements are even, whatever the rounding of the clock."""
    t = torch.tensor([0.033, 0.067, 0.1, 0.133, 0.2, 0.233, 0.267])
    grid, starts = even_pieces(t, 3)
    assert starts.tolist() == [0, 1, 4]
    torch.testing.assert_close(grid, torch.tensor([0, 1 / 30, 2 / 30]), atol=1e-3, rtol=0)


def test_one_seed_gives_one_epoch(data: Any) -> None:
    """`torch.manual_seed` settles which pieces an epoch takes, and another one takes others."""

    def epoch(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([batch.y for batch in data.train_dataloader()])

    assert torch.equal(epoch(3), epoch(3))
    assert not torch.equal(epoch(3), epoch(4))


def test_trials_are_kept_apart(folder: Path) -> None:
    """A trial is a series of its own, its times counted from its beginning."""
    first, second = (ready(Pendulum(str(folder), "swing", trial)) for trial in (0, 1))
    assert len(first.t) == len(second.t) == 59
    assert torch.equal(first.t, second.t)


def test_spec_rebuilds_the_data(data: Any) -> None:
    """The spec survives JSON and builds data with the same series."""
    registry.discover()
    rebuilt = ready(registry.build(json.loads(json.dumps(data.spec))))
    assert torch.equal(rebuilt.y, data.y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"known": 1.0}, r"known must lie in \(0, 1\); got 1.0"),
        ({"val": 0.8}, r"val must lie in \[0, 0.7\); got 0.8"),
        ({"batch_time": 1}, "batch_time must be at least 2; got 1"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    """A share or a number that makes no sense is an error that names it."""
    with pytest.raises(of.SettingError, match=message):
        LynxHare(**settings)


def test_too_long_pieces_are_refused() -> None:
    """A piece longer than what is known is an error that says how much is."""
    data = ready(LynxHare(batch_time=13))
    with pytest.raises(of.DataError, match=r"no 13 of the 12 measurements in a row that train are evenly spaced. Set"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"series": "swin"}, "no array 'swin__header'. Did you mean 'swing__header'"),
        ({"series": "swing", "trial": 2}, "no trial 2 with increasing times; its trials are 0, 1"),
        ({"root": "/nowhere"}, r"no file /nowhere/schmidt_lipson.npz. Wanted is .* doi:10.1126/science.1165893"),
    ],
)
def test_missing_series_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    """A file, series or trial that is not there is an error that says what is, and what is wanted."""
    with pytest.raises(of.DataError, match=message):
        ready(Pendulum(**{"root": str(folder), **settings}))


def test_a_series_of_another_form_is_refused(tmp_path: Path) -> None:
    """An array without the columns that its header names is an error with its shape."""
    np.savez(tmp_path / "schmidt_lipson.npz", swing=np.ones((5, 3)), swing__header="% o v")
    with pytest.raises(of.DataError, match=r"columns trial, t and o, v; it has the shape \(5, 3\)"):
        ready(Pendulum(str(tmp_path), "swing"))


def test_a_damaged_file_is_refused(folder: Path) -> None:
    """A file that is no archive is an error that says so."""
    (folder / "schmidt_lipson.npz").write_bytes(b"no")
    with pytest.raises(of.DataError, match=r"is no .npz file. Wanted is"):
        Pendulum(str(folder))
