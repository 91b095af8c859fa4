"""Irregular time series: what a model sees and is to predict, the toys, and the published data."""

import hashlib
import io
import itertools
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import (
    BidirectionalSpirals,
    CharacterTrajectories,
    Hopper,
    PeriodicSeries,
    PhysioNet2012,
    Seen,
    SeriesTable,
    Shares,
    Split,
    physionet2012,
)
from odeflow_data.archive import checksum

PARTS = ("train", "val", "test")


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup("fit")
    return data


def ragged(count: int = 40, length: int = 12, dim: int = 2) -> dict[str, Any]:
    """Series of different lengths with gaps; each has its number, plus a little, as its values."""
    random = np.random.default_rng(0)
    t = np.sort(random.uniform(3, 8, (count, length)), axis=1)
    y = np.arange(count)[:, None, None] + 0.01 * random.uniform(size=(count, length, dim))
    y[random.uniform(size=y.shape) < 0.3] = np.nan
    y[:, 0] = np.arange(count)[:, None]
    ends = random.integers(length // 2, length, count)
    t[np.arange(length) > ends[:, None]] = np.nan
    return {"t": t, "y": y}


def table() -> dict[str, Any]:
    """Those series, a row for each time."""
    t, y = ragged().values()
    known = ~np.isnan(t)
    return {"id": np.nonzero(known)[0], "t": t[known], "y": y[known]}


def raw(**settings: Any) -> Any:
    """Those series with their values as they are, so that these tell which series it is."""
    return ready(SeriesTable(table(), series="id", time="t", standardise=False, **settings))


def of_each(part: of.Series) -> list[int]:
    """Which series they are."""
    return part.y[:, 0, 0].round().int().tolist()


@pytest.fixture(
    params=["table", "spirals", "spirals before", "spirals beyond", "periodic", "hopper", "letters", "extrapolated"]
)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Small data of each kind."""
    match request.param:
        case "table":
            np.savez(tmp_path / "rows.npz", **table())
            return ready(SeriesTable(str(tmp_path / "rows.npz"), "t", "id", seen=Seen(share=0.6), batch_size=7))
        case "spirals":
            return ready(BidirectionalSpirals(spirals=50, observations=30, batch_size=7))
        case "spirals before" | "spirals beyond":
            predict = request.param.split()[1]
            return ready(BidirectionalSpirals(spirals=50, observations=50, predict=predict, batch_size=7))
        case "periodic":
            return ready(PeriodicSeries(series=50, points=20, batch_size=7))
        case "hopper":
            states = np.random.default_rng(0).normal(size=(40, 30, 14)).astype(np.float32)
            np.savez(tmp_path / "hopper_first1500.npz", data=states)
            return ready(Hopper(str(tmp_path), points=20, batch_size=7))
        case "letters":
            offsets = np.cumsum([0, *np.random.default_rng(0).integers(5, 12, 40)])
            x = np.random.default_rng(1).normal(size=(offsets[-1], 3)).astype(np.float32)
            letters = {"labelled_x": x, "labelled_offsets": offsets, "labelled_y": np.arange(40, dtype=np.uint8) % 20}
            np.savez(tmp_path / "character_trajectories.npz", **letters)
            return ready(CharacterTrajectories(str(tmp_path), batch_size=7))
        case _:
            return ready(PeriodicSeries(series=50, points=20, seen=Seen("extrapolation"), batch_size=7))


# What all have in common


@pytest.mark.parametrize("part", PARTS)
def test_batches_are_padded_series(data: Any, part: str) -> None:
    """Batches have the stated shapes; times never decrease; the last column is used; nothing is lost."""
    batches = list(getattr(data, f"{part}_dataloader")())
    for batch in batches:
        assert isinstance(batch, of.Series)
        size, length = batch.t.shape
        assert size <= 7
        assert batch.y.shape == batch.seen.shape == batch.target.shape == (size, length, data.dim)
        assert batch.t.dtype == batch.y.dtype == torch.float32
        assert batch.seen.dtype == batch.target.dtype == torch.bool
        assert (batch.t.diff(dim=1) >= 0).all()
        assert batch.y.isfinite().all()
        assert (batch.seen | batch.target)[:, -1].any()
        if hasattr(data, "num_classes"):
            assert batch.label is not None
            assert batch.label.shape == (size,)
            assert 0 <= batch.label.min() <= batch.label.max() < data.num_classes
        else:
            assert batch.label is None
    assert sum(len(batch.t) for batch in batches) == len(getattr(data, part).t)


def test_each_series_shows_and_wants_something(data: Any) -> None:
    """Every series of every part has a seen value and a target."""
    for part in PARTS:
        for batch in getattr(data, f"{part}_dataloader")():
            assert batch.seen.flatten(1).any(dim=1).all()
            assert batch.target.flatten(1).any(dim=1).all()


def test_what_is_not_observed_is_zero(data: Any) -> None:
    """Values that are neither seen nor wanted, padding among them, are 0 and tell nothing."""
    for part in PARTS:
        series = getattr(data, part)
        assert (series.y[~(series.seen | series.target)] == 0).all()


def test_one_seed_gives_the_same_data(data: Any) -> None:
    """The spec survives JSON and rebuilds the same parts, and `torch.manual_seed` settles the batches."""
    registry.discover()
    rebuilt = ready(registry.build(json.loads(json.dumps(data.spec))))
    for part in PARTS:
        for one, other in zip(getattr(data, part), getattr(rebuilt, part), strict=True):
            assert one is None is other or torch.equal(one, other)
    epochs = []
    for each in (data, rebuilt):
        torch.manual_seed(3)
        epochs.append(list(each.train_dataloader()))
    for one, other in zip(*epochs, strict=True):
        assert torch.equal(one.y, other.y)
        assert torch.equal(one.seen, other.seen)


def test_another_seed_gives_other_data() -> None:
    """What is drawn depends on the seed."""
    first, second = (ready(BidirectionalSpirals(spirals=20, split=Shares(seed=seed))) for seed in (0, 1))
    assert not torch.equal(first.test.y, second.test.y)


def test_epochs_have_orders_of_their_own_in_training_alone(data: Any) -> None:
    """Training shuffles; validation and test, which predictions follow, give the same batches each time."""
    assert not torch.equal(*(torch.cat([batch.y[:, 0] for batch in data.train_dataloader()]) for _ in range(2)))
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for one, other in zip(loader, loader, strict=True):
            assert torch.equal(one.y, other.y)
            assert torch.equal(one.seen, other.seen)
    if isinstance(data, SeriesTable):  # predicts all series of a file
        return
    tested, predicted = list(data.test_dataloader()), list(data.predict_dataloader())
    assert all(torch.equal(one.y, other.y) for one, other in zip(tested, predicted, strict=True))


# What is seen and what is wanted


def test_splits_are_disjoint_and_whole() -> None:
    """Each series is in one part, of the stated share."""
    data = raw(split=Split(0.25, 0.1))
    numbers = [of_each(getattr(data, part)) for part in PARTS]
    assert [len(each) for each in numbers] == [26, 10, 4]
    assert sorted(itertools.chain(*numbers)) == list(range(40))


def test_interpolation_wants_all_and_sees_a_share_of_the_times() -> None:
    """`round(share · times)` times are seen, with all that was observed there; all that was observed is wanted."""
    everything, data = raw(), raw(seen=Seen(share=0.5))
    for part in ("val", "test"):
        full, half = getattr(everything, part), getattr(data, part)
        assert torch.equal(half.target, full.target)
        assert torch.equal(full.seen, full.target)
        times = half.seen.any(dim=2)
        assert torch.equal(half.seen, half.target & times[:, :, None])
        wanted = full.seen.any(dim=2).sum(dim=1)
        assert times.sum(dim=1).tolist() == (wanted / 2).round().int().tolist()


def test_training_draws_what_is_seen_anew() -> None:
    """Two passes see other times of a series, each as many, and want the same."""
    data = raw(seen=Seen(share=0.5), batch_size=100)
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    order, other = (torch.tensor(of_each(batch)).argsort() for batch in (first, second))
    assert torch.equal(first.target[order], second.target[other])
    assert not torch.equal(first.seen[order], second.seen[other])
    counts = [batch.seen.any(dim=2).sum(dim=1)[rows] for batch, rows in ((first, order), (second, other))]
    assert torch.equal(*counts)


def test_all_is_seen_where_the_share_is_one() -> None:
    """`share=1` conditions on everything, in training, too."""
    for batch in raw(seen=Seen(share=1.0)).train_dataloader():
        assert torch.equal(batch.seen, batch.target)


def test_extrapolation_sees_before_and_wants_after() -> None:
    """All that was observed before the share of a series' own span is seen, the rest is wanted, and nothing twice."""
    everything, data = raw(), raw(seen=Seen("extrapolation", 0.4))
    for part in PARTS:
        full, split = getattr(everything, part), getattr(data, part)
        assert torch.equal(split.seen | split.target, full.seen)
        assert not (split.seen & split.target).any()
        end = full.t[:, 0] + 0.4 * (full.t[:, -1] - full.t[:, 0])
        assert (split.t[split.seen.any(dim=2)] < end.max()).all()
        for t, seen, target, cut in zip(split.t, split.seen, split.target, end, strict=True):
            assert (t[seen.any(dim=1)] < cut).all()
            assert (t[target.any(dim=1)] >= cut).all()


def test_a_batch_ends_with_its_longest_series() -> None:
    """Padding that a whole batch shares is trimmed: a series alone has its own length, and its own values."""
    arrays = ragged()
    data = raw(batch_size=1)
    for batch, number in zip(data.test_dataloader(), of_each(data.test), strict=True):
        observed = np.isfinite(arrays["y"][number]) & np.isfinite(arrays["t"][number])[:, None]
        length = 1 + int(np.flatnonzero(observed.any(axis=1))[-1])
        assert batch.t.shape == (1, length)
        np.testing.assert_array_equal(batch.seen[0].numpy(), observed[:length])
        np.testing.assert_allclose(batch.y[0].numpy()[observed[:length]], arrays["y"][number][observed], rtol=1e-6)


def test_padding_repeats_the_last_time() -> None:
    """Behind the last observation the time stands still, and masks are false."""
    data = raw(scale_time=False)
    ends = np.isfinite(ragged()["t"]).sum(axis=1)
    for t, seen, target, number in zip(
        data.train.t, data.train.seen, data.train.target, of_each(data.train), strict=True
    ):
        end = ends[number]
        assert (t[end:] == t[end - 1]).all()
        assert not (seen | target)[end:].any()


def test_absent_files_are_refused(tmp_path: Path) -> None:
    """The error for a missing file names the file, and where it was expected."""
    for data in (Hopper(str(tmp_path)), CharacterTrajectories(str(tmp_path))):
        with pytest.raises(of.DataError, match=r"there is no file .*Wanted is .* Name its folder by --data.root"):
            ready(data)


@pytest.mark.parametrize("name", ["hopper_first1500", "character_trajectories"])
def test_arrays_of_another_form_are_refused(tmp_path: Path, name: str) -> None:
    """Files that hold the right names with wrong shapes are an error that says which came."""
    wrong = {"data": np.ones((3, 2)), "labelled_x": np.ones((3, 3)), "labelled_offsets": [0, 4], "labelled_y": [0]}
    np.savez(tmp_path / f"{name}.npz", **wrong)
    data = Hopper(str(tmp_path)) if name.startswith("hopper") else CharacterTrajectories(str(tmp_path))
    with pytest.raises(of.DataError, match=r"shapes? \(3, [23]\).*Wanted is"):
        ready(data)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PeriodicSeries(batch_size=0), "PeriodicSeries: batch_size must be at least 1; got 0"),
        (lambda: Seen("both"), "Seen: mode must be 'interpolation' or 'extrapolation'; got 'both'"),
        (lambda: Seen(share=0.0), "Seen: share must lie in (0, 1]; got 0.0"),
        (lambda: Seen("extrapolation", 1.0), "Seen: share must lie in (0, 1); got 1.0"),
        (lambda: PeriodicSeries(points=1), "PeriodicSeries: points must be at least 2; got 1"),
        (lambda: BidirectionalSpirals(observations=101), "wanted 1 ≤ observations ≤ points ≤ stretch ≤ grid / 3; got 101, 100, 200 and 1000 / 3"),
        (lambda: BidirectionalSpirals(noise=-1.0), "noise must be at least 0; got -1.0"),
        (lambda: BidirectionalSpirals(predict="after"), "predict must be 'before', 'stretch' or 'beyond'; got 'after'"),
        (lambda: Hopper(points=0), "Hopper: points must be at least 1; got 0"),
        (lambda: PhysioNet2012(quantisation=0.0), "quantisation must lie in (0, 48]; got 0.0"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(build: Any, message: str) -> None:
    """An option that makes no sense is an error that names it and what is possible."""
    with pytest.raises(of.SettingError) as caught:
        build()
    assert message in str(caught.value)


# BidirectionalSpirals


@pytest.fixture(scope="module")
def spirals() -> BidirectionalSpirals:
    return ready(BidirectionalSpirals(observations=30))


def test_half_of_the_spirals_turn_either_way(spirals: BidirectionalSpirals) -> None:
    """Of 1000 spirals 500 are labelled 1, and these turn counter-clockwise about (5, 0), the others about (−5, 0)."""
    assert sum(int(getattr(spirals, part).label.sum()) for part in PARTS) == 500
    x = spirals.truth(torch.arange(200), torch.linspace(0, 0.3, 4))
    centre = torch.where(spirals.test.label == 1, 5.0, -5.0)[:, None]
    angle = torch.atan2(x[..., 1], x[..., 0] - centre)
    turn = torch.remainder(angle.diff(dim=1) + math.pi, 2 * math.pi) - math.pi
    assert torch.equal((turn > 0).all(dim=1), spirals.test.label == 1)
    assert torch.equal((turn < 0).all(dim=1), spirals.test.label == 0)


def test_evaluation_shows_noise_and_wants_the_truth(spirals: BidirectionalSpirals) -> None:
    """The 30 seen values depart from the truth by noise of 0.3, the 100 wanted ones are the truth itself."""
    batch = spirals.test
    truth = spirals.truth(torch.arange(len(batch.t)), batch.t)
    assert (batch.seen.sum(dim=1) == 30).all()
    assert (batch.target.sum(dim=1) == 100).all()
    assert not (batch.seen & batch.target).any()
    torch.testing.assert_close(batch.y[batch.target], truth[batch.target], atol=1e-4, rtol=0)
    error = (batch.y - truth)[batch.seen]
    assert error.mean().item() == pytest.approx(0, abs=5 * 0.3 / math.sqrt(len(error)))
    assert error.std().item() == pytest.approx(0.3, rel=5 / math.sqrt(2 * len(error)))


def test_observations_are_at_wanted_times(spirals: BidirectionalSpirals) -> None:
    """Each seen time is among the wanted ones, directly before the truth at the same time; no other times coincide."""
    t, seen = spirals.test.t, spirals.test.seen[..., 0]
    assert torch.equal(seen[:, :-1], t.diff(dim=1) == 0)
    assert not seen[:, -1].any()


def test_training_holds_the_known_observations_alone(spirals: BidirectionalSpirals) -> None:
    """A training series is its 30 noisy observations, seen and wanted: neither truth nor hidden points leak."""
    assert spirals.train.y.shape == (700, 30, 2)
    assert spirals.train.seen.all()
    assert spirals.train.target.all()
    error = spirals.train.y - spirals.truth(torch.arange(700), spirals.train.t, "train")
    assert error.std().item() == pytest.approx(0.3, rel=0.02)


def test_fewer_observations_are_of_the_same_spirals() -> None:
    """With 30, 50 or 100 observations the same spirals are to be predicted at the same times."""
    targets = [ready(BidirectionalSpirals(spirals=40, observations=count)).test for count in (30, 50, 100)]
    wanted = [part.y[part.target] for part in targets]
    assert torch.equal(wanted[0], wanted[1])
    assert torch.equal(wanted[0], wanted[2])


def test_beyond_begins_where_the_stretch_ends() -> None:
    """`predict: beyond` wants 100 noiseless points of the next stretch, later than all that is seen."""
    data = ready(BidirectionalSpirals(spirals=60, predict="beyond"))
    step = 6 * math.pi / 999
    t, seen, target = data.test.t, data.test.seen[..., 0], data.test.target[..., 0]
    assert seen[:, :100].all()
    assert target[:, 100:].all()
    assert t[seen].max() <= 199 * step + 1e-5
    assert 200 * step - 1e-5 <= t[target].min() < t[target].max() <= 399 * step + 1e-5
    truth = data.truth(torch.arange(len(t)), t)
    torch.testing.assert_close(data.test.y[target], truth[target], atol=1e-4, rtol=0)


def test_before_ends_where_the_stretch_begins() -> None:
    """`predict: before` wants 100 noiseless points earlier than all that is seen, of the same spirals as `stretch`."""
    data, plain = (ready(BidirectionalSpirals(spirals=60, predict=predict)) for predict in ("before", "stretch"))
    step = 6 * math.pi / 999
    t, seen, target = data.test.t, data.test.seen[..., 0], data.test.target[..., 0]
    assert target[:, :100].all()
    assert seen[:, 100:].all()
    assert -200 * step - 1e-5 <= t[target].min() < t[target].max() <= -step + 1e-5
    truth = data.truth(torch.arange(len(t)), t)
    torch.testing.assert_close(data.test.y[target], truth[target], atol=1e-4, rtol=0)
    assert torch.equal(data.test.y[seen], plain.test.y[plain.test.seen[..., 0]])


def test_the_authors_points_are_equidistant() -> None:
    """`grid=500, stretch=100` takes all points of the stretch, 6π/499 apart, as torchdiffeq's example does."""
    data = ready(BidirectionalSpirals(spirals=20, grid=500, stretch=100))
    torch.testing.assert_close(data.train.t, (torch.arange(100) * 6 * math.pi / 499).expand(14, -1))


def test_truth_is_known_at_any_time(spirals: BidirectionalSpirals) -> None:
    """The spirals are smooth before, on and after their stretch, their radius growing with time."""
    t = torch.linspace(-1, 5, 601)
    x = spirals.truth(torch.tensor([3, 0]), t)
    assert x.shape == (2, 601, 2)
    radius = (x - torch.stack([torch.where(spirals.test.label[[3, 0]] == 1, 5.0, -5.0), torch.zeros(2)], 1)[:, None]).norm(dim=2)  # fmt: skip
    assert (radius.diff(dim=1) > 0).all()
    assert x.diff(dim=1).norm(dim=2).max() < 1


# PeriodicSeries


def test_waves_are_sines_of_one_frequency() -> None:
    """Without noise each series is s + sin(2π f t) for an f in [0.4, 0.8], and the starts vary as stated."""
    data = ready(PeriodicSeries(noise=0.0))
    t, y = data.train.t.double(), data.train.y[..., 0].double()
    assert t.shape == (700, 100)
    assert (t[:, 0] == 0).all()
    assert 4.9 < t.max() <= 5
    start = y[:, :1]
    assert start.mean().item() == pytest.approx(1, abs=0.02)
    assert start.std().item() == pytest.approx(0.1, rel=0.15)
    frequency = torch.linspace(0.4, 0.8, 2001, dtype=torch.float64)
    for wave, time in zip((y - start)[:20], t[:20], strict=True):
        misfit = (torch.sin(2 * math.pi * frequency[:, None] * time) - wave).abs().amax(dim=1)
        assert misfit.min() < 5e-3


def test_amplitudes_are_in_their_range() -> None:
    """A range of amplitudes is filled, by one amplitude a series."""
    data = ready(PeriodicSeries(noise=0.0, amplitude=(2.0, 4.0)))
    height = (data.train.y - data.train.y[:, :1]).abs().amax(dim=(1, 2))
    assert 1.9 < height.min() < 2.2
    assert 3.8 < height.max() <= 4


# Hopper and CharacterTrajectories


def test_hopper_is_scaled_to_the_unit_interval(shared: Path) -> None:
    """1,500 series of 14 columns, each from 0 to 1 over all series; half of the 100 times are seen."""
    data = ready(Hopper(str(shared / "data" / "hopper"), seen=Seen("extrapolation")))
    y = torch.cat([getattr(data, part).y for part in PARTS])
    assert y.shape == (1500, 200, 14)
    torch.testing.assert_close(y.amin(dim=(0, 1)), torch.zeros(14))
    torch.testing.assert_close(y.amax(dim=(0, 1)), torch.ones(14))
    assert data.test.seen[:, :100].all()
    assert data.test.target[:, 100:].all()
    cut = ready(Hopper(str(shared / "data" / "hopper")))
    assert cut.val.t.shape == (150, 100)
    assert (cut.val.seen.any(dim=2).sum(dim=1) == 50).all()
    assert cut.val.target.all()


def test_hopper_pieces_are_consecutive(tmp_path: Path) -> None:
    """A piece is a run of a series from a random place, and `divisor: largest` divides by the largest value."""
    states = (1 + np.arange(40 * 30).reshape(40, 30, 1)) * np.ones(14, np.float32)
    np.savez(tmp_path / "hopper_first1500.npz", data=states)
    data = ready(Hopper(str(tmp_path), points=12, divisor="largest"))
    value = data.train.y[..., 0] * 1200
    torch.testing.assert_close(value.diff(dim=1), torch.ones(28, 11), atol=1e-3, rtol=0)
    place = value[:, 0].round() % 30
    assert place.max() <= 18
    assert len(place.unique()) > 5
    torch.testing.assert_close(data.train.t, (torch.arange(12) / 30).expand(28, -1))


def test_letters_are_those_published(shared: Path) -> None:
    """1,429 letters of 20 kinds, 109 to 205 times long, each value the file's."""
    folder = shared / "data" / "character_trajectories"
    data = ready(CharacterTrajectories(str(folder), seen=Seen(share=1.0)))
    labels = torch.cat([getattr(data, part).label for part in PARTS])
    length = torch.cat([getattr(data, part).seen.any(dim=2).sum(dim=1) for part in PARTS])
    assert len(labels) == 1429
    assert labels.unique().tolist() == list(range(20))
    assert (length.min(), length.max()) == (109, 205)
    with np.load(folder / "character_trajectories.npz") as archive:
        x, counts = archive["labelled_x"], np.bincount(archive["labelled_y"])
    assert labels.bincount().tolist() == counts.tolist()
    total = sum(getattr(data, part).y.double().sum(dim=(0, 1)) for part in PARTS)
    np.testing.assert_allclose(total, x.sum(axis=0, dtype=np.float64), rtol=1e-6)
    assert torch.cat([getattr(data, part).t for part in PARTS]).max() == 1


# PhysioNet2012


def stay(number: int, *lines: str) -> str:
    return "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{number}", *lines, ""])


TEXTS = {
    "100": stay(100, "00:00,Age,54", "00:00,Height,-1", "00:07,HR,60", "00:10,HR,80", "47:59,HR,100", "48:00,Temp,-1"),
    "101": stay(101, "00:00,Age,74", "00:00,Weight,-1", "24:00,HR,140", "24:00,Weight,80"),
    **{str(number): stay(number, f"00:00,Age,{number}", "01:00,HR,100") for number in range(102, 112)},
}
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n" + "".join(
    f"{number},1,1,5,-1,{int(number == '101')}\n" for number in reversed(TEXTS)
)
HR, WEIGHT = physionet2012.FEATURES.index("HR"), physionet2012.FEATURES.index("Weight")


def packed(texts: dict[str, str]) -> bytes:
    """A tar as the challenge has it: a folder, and in it a file for each stay."""
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w:gz") as archive:
        folder = tarfile.TarInfo("set-a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in sorted(texts, reverse=True):
            member = tarfile.TarInfo(f"set-a/{name}.txt")
            member.size = len(texts[name].encode())
            archive.addfile(member, io.BytesIO(texts[name].encode()))
    return contents.getvalue()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Twelve stays in the challenge's format, whose checksums count as the published ones."""
    text = "".join(TEXTS[name] for name in sorted(TEXTS)).encode()
    sums = {"set-a.tar.gz": text, "Outcomes-a.txt": OUTCOMES.encode()}
    monkeypatch.setattr(
        physionet2012, "SHA256", {name: hashlib.sha256(each).hexdigest() for name, each in sums.items()}
    )
    stays = physionet2012.parse({name: text.encode() for name, text in TEXTS.items()}, OUTCOMES.encode())
    monkeypatch.setattr(physionet2012, "KEPT", checksum(vars(stays).values()))
    return {"set-a.tar.gz": packed(TEXTS), "Outcomes-a.txt": OUTCOMES.encode()}


def in_folder(folder: Path, files: dict[str, bytes]) -> str:
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    return str(folder)


def hearts(whole: of.Series, number: int) -> dict[float, float]:
    """The heart rates of a stay, by the minute."""
    seen = whole.seen[number, :, HR]
    minutes = (48 * 60 * whole.t[number][seen]).round().int().tolist()
    return dict(zip(minutes, whole.y[number, seen, HR].tolist(), strict=True))


def test_stays_are_read_and_averaged(tmp_path: Path, published: dict[str, bytes]) -> None:
    """Measurements that fall together are averaged, at the times as quantised; what is unknown is not observed."""
    stays = physionet2012.read(Path(in_folder(tmp_path, published)))
    assert stays.death.tolist() == [0, 1, *[0] * 10]
    minutely, hourly = physionet2012.quantised(stays, 1 / 60), physionet2012.quantised(stays, 1.0)
    assert hearts(minutely, 0) == {7: 60, 10: 80, 47 * 60 + 59: 100}
    assert hearts(hourly, 0) == {0: 70, 48 * 60: 100}
    assert not minutely.seen[0, :, physionet2012.FEATURES.index("Height")].any()
    assert minutely.y[1, :, WEIGHT][minutely.seen[1, :, WEIGHT]].tolist() == [80]
    temperature = physionet2012.FEATURES.index("Temp")
    assert minutely.y[0, :, temperature][minutely.seen[0, :, temperature]].tolist() == [-1]
    assert minutely.label is not None
    assert minutely.label.tolist() == stays.death.tolist()


def test_features_are_scaled_over_all_stays(tmp_path: Path, published: dict[str, bytes]) -> None:
    """Heart rates from 60 to 140 become 0 to 1, and by the largest value (x − 60) / 140."""
    root = in_folder(tmp_path, published)
    for divisor, expected in (("range", [0.0, 0.25, 0.5, 1.0]), ("largest", [0.0, 20 / 140, 40 / 140, 80 / 140])):
        data = ready(PhysioNet2012(root, split=Shares(), quantisation=1 / 60, divisor=divisor))
        rates = torch.cat([getattr(data, part).y[..., HR][getattr(data, part).target[..., HR]] for part in PARTS])
        torch.testing.assert_close(rates.unique(), torch.tensor(expected))
    with pytest.raises(of.SettingError, match="divisor must be 'range' or 'largest'; got 'std'"):
        PhysioNet2012(root, divisor="std")


def test_extrapolation_begins_after_a_day(tmp_path: Path, published: dict[str, bytes]) -> None:
    """`share=0.5` shows the first 24 hours of the 48, whenever a stay's last measurement was."""
    data = ready(PhysioNet2012(in_folder(tmp_path, published), split=Shares(), seen=Seen("extrapolation")))
    for part in PARTS:
        series = getattr(data, part)
        assert (series.t[series.seen.any(dim=2)] < 0.5).all()
        assert (series.t[series.target.any(dim=2)] >= 0.5).all()
    assert sum(int(getattr(data, part).target.sum()) for part in PARTS) == 4  # 47:59, 48:00 and twice 24:00


def test_missing_files_are_downloaded_and_kept(tmp_path: Path, published: dict[str, bytes], server: Any) -> None:
    """Both files come from the url, the parsed stays stay beside them, and a second run asks for nothing."""
    server.files = published
    root = tmp_path / "new"
    first = ready(PhysioNet2012(str(root), split=Shares(), url=server.url))
    assert sorted(server.requests) == ["Outcomes-a.txt", "set-a.tar.gz"]
    assert sorted(file.name for file in root.iterdir()) == ["Outcomes-a.txt", "set-a.npz", "set-a.tar.gz"]
    for name in published:
        (root / name).unlink()
    second = ready(PhysioNet2012(str(root), split=Shares(), url=server.url))
    assert len(server.requests) == 2
    assert torch.equal(first.train.y, second.train.y)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"set-a.tar.gz": packed(TEXTS)[:-30]}, "cannot be unpacked: "),
        ({"set-a.tar.gz": packed(TEXTS | {"100": stay(100)})}, "is damaged or another file: with Unix line ends it has sha256"),
        ({"Outcomes-a.txt": b"RecordID\n"}, "Outcomes-a.txt from .* is damaged or another file"),
        ({}, "cannot be downloaded .*404.* Put set-a.tar.gz and Outcomes-a.txt there, or name its folder by --data.root"),
    ],
)  # fmt: skip
def test_what_is_not_published_is_not_kept(
    tmp_path: Path, published: dict[str, bytes], server: Any, wrong: dict[str, bytes], message: str
) -> None:
    """A damaged, foreign or missing download is an error, and leaves nothing behind."""
    server.files = {**published, **wrong} if wrong else {}
    with pytest.raises(of.DataError, match=message):
        ready(PhysioNet2012(str(tmp_path), url=server.url))
    assert set(wrong).isdisjoint(file.name for file in tmp_path.iterdir())


def test_a_cache_of_other_values_is_read_anew(tmp_path: Path, published: dict[str, bytes]) -> None:
    """A cache that was changed, though it has the right form and its own checksums, is noticed and read anew."""
    root = Path(in_folder(tmp_path, published))
    whole = physionet2012.read(root)
    np.savez(root / "set-a.npz", **{**vars(whole), "value": whole.value + 1})
    assert np.array_equal(physionet2012.read(root).value, whole.value)


@pytest.mark.parametrize("cache", [b"", b"PK", "half"])
def test_a_damaged_cache_is_read_anew(tmp_path: Path, published: dict[str, bytes], cache: bytes | str) -> None:
    """A cache that is not whole is as if it were not there."""
    root = Path(in_folder(tmp_path, published))
    whole = physionet2012.read(root)
    kept = (root / "set-a.npz").read_bytes()
    (root / "set-a.npz").write_bytes(kept[: len(kept) // 2] if isinstance(cache, str) else cache)
    np.testing.assert_array_equal(physionet2012.read(root).value, whole.value)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    """Reading without downloading is an error that names the file that lacks."""
    with pytest.raises(of.DataError, match=r"has no readable set-a.tar.gz; it must hold the challenge's"):
        physionet2012.read(tmp_path)


@pytest.fixture(scope="session")
def stays(shared: Path) -> physionet2012.Stays:
    """The published stays."""
    return physionet2012.read(shared / "data" / "physionet2012")


def test_the_published_stays_have_their_known_sizes(stays: physionet2012.Stays) -> None:
    """4,000 stays, 554 deaths, at most 203 distinct times; 80.53 % of 35 features (no ventilation) lack by the hour."""
    assert len(stays.death) == 4000
    assert stays.death.sum() == 554
    moments = np.unique(stays.stay.astype(np.int64) * 10_000 + stays.minute)
    assert np.bincount(moments // 10_000).max() == 203
    left_out = [physionet2012.FEATURES.index(name) for name in (*physionet2012.STATIC, "MechVent")]
    measured = ~np.isin(stays.feature, left_out) & (stays.minute < 48 * 60)
    cells = (stays.stay.astype(np.int64) * 48 + stays.minute // 60) * 41 + stays.feature
    missing = 1 - len(np.unique(cells[measured])) / (4000 * 48 * 35)
    assert missing == pytest.approx(0.8053, abs=5e-5)


def test_the_published_stays_fit_a_grid(stays: physionet2012.Stays) -> None:
    """On 6-minute grids of their own no stay is longer than 203 times, all features occur, and times are in [0, 1]."""
    whole = physionet2012.quantised(stays, 0.1)
    assert whole.t.shape[1] <= 203
    assert whole.t.min() == 0
    assert whole.t.max() == 1
    assert whole.seen.any(dim=1).any(dim=0).all()
    height: Tensor = whole.seen[..., physionet2012.FEATURES.index("Height")].any(dim=1)
    assert height.sum() == 4000 - 1894
