"""Laws of recipes for one's own data: any table trains them, and what comes out is in its units."""

import csv
import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch import Trainer
from polars.testing import assert_frame_equal

import odeflow as of
from choice import few

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.num_sanity_val_steps 0"
SHORT = f"--trainer.max_epochs 2 --trainer.check_val_every_n_epoch 1 --seed_everything 1 {QUIET}"
SCALE, SHIFT = np.array([10.0, 0.01, 3.0]), np.array([50.0, 2.0, -700.0])


def written(path: str, columns: dict[str, Sequence[Any]]) -> None:
    """A file as Python's own csv module writes it."""
    with Path(path).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def table(count: int, seed: int, changed: bool = False) -> dict[str, Sequence[Any]]:
    """Three columns, the last of which follows from the others, and a class; `changed` to other units."""
    random = np.random.default_rng(seed)
    x = random.normal([1, 5], [2, 0.5], (count, 2))
    rows = np.column_stack([x, 3 * x[:, 0] - x[:, 1] ** 2 + 0.1 * random.normal(size=count)])
    kind = np.where(x[:, 0] > 1, "warm", "cold")
    rows = rows * SCALE + SHIFT if changed else rows
    return dict(zip(("u", "v", "w"), rows.T.tolist(), strict=True)) | {"kind": kind.tolist()}


def predicted() -> torch.Tensor:
    """What was predicted last, all batches together."""
    newest = max(Path("runs").rglob("predictions.pt"), key=lambda file: file.stat().st_mtime_ns)
    return torch.cat(torch.load(newest))


def trained(
    done: Callable[..., Any],
    metrics: Callable[[Path], dict[str, list[float]]],
    recipe: str,
    options: str,
    changed: bool,
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """The predictions for a second file, and the metrics of the run on the first, in one unit or the other."""
    written("first.csv", table(80, 0, changed))
    written(
        "second.csv",
        {
            name: column
            for name, column in table(20, 1, changed).items()
            if name in "uv" or "--data.target" not in options
        },
    )
    done(f"fit -c own/{recipe} --data.path first.csv {options} {SHORT}")
    run = max(Path(f"runs/own/{recipe}").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))
    done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --data.path second.csv {QUIET}")
    return predicted(), metrics(run)


@pytest.mark.slow
def test_densities_follow_the_units(done: Any, metrics: Any, draw_at: Any) -> None:
    """In other units the standardised loss is the same, and log-densities and NLL shift by Σ log a."""
    draw_at("3_end")
    (plain, logged), (changed, logged_again) = (
        trained(done, metrics, "density", "--data.ignore [kind]", each) for each in (False, True)
    )
    volume = float(np.log(np.abs(SCALE)).sum())
    torch.testing.assert_close(changed, plain - volume, rtol=1e-5, atol=1e-4)
    assert logged_again["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert logged_again["val/nll"] == pytest.approx([nll + volume for nll in logged["val/nll"]], rel=1e-4)


def test_regressions_follow_the_units(done: Any, metrics: Any, draw_at: Any) -> None:
    """Predictions map by a·x + b, the absolute error by a; the file that is predicted need not have the target."""
    draw_at("3_end")
    (plain, logged), (changed, logged_again) = (
        trained(done, metrics, "regression", "--data.target w --data.ignore [kind]", each) for each in (False, True)
    )
    assert plain.shape == (20, 1)
    torch.testing.assert_close(changed, SCALE[2] * plain + SHIFT[2], rtol=1e-5, atol=1e-5)
    assert logged_again["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert logged_again["val/mae"] == pytest.approx([SCALE[2] * error for error in logged["val/mae"]], rel=1e-4)


@pytest.mark.slow
def test_classes_do_not_depend_on_the_units(done: Any, metrics: Any, draw_at: Any) -> None:
    """Probabilities are the same, and add up to one."""
    draw_at("3_end")
    (plain, _), (changed, _) = (
        trained(done, metrics, "classification", "--data.label kind", each) for each in (False, True)
    )
    assert plain.shape == (20, 2)
    torch.testing.assert_close(changed, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.sum(dim=1), torch.ones(20))


def test_a_density_is_as_wide_as_its_table(done: Any) -> None:
    """On the command line dynamics without `dim` take it from the data; samples have the file's units."""
    written("first.csv", table(80, 0))
    done(f"fit -c own/density --data.path first.csv --data.columns [w] {SHORT}")
    (checkpoint,) = Path("runs/own/density").glob("*/checkpoints/best.ckpt")
    done(f"sample --ckpt_path {checkpoint} --count 200 --output drawn.npz")
    with np.load("drawn.npz") as drawn:
        assert drawn["x"].shape == (200, 1)
        assert abs(drawn["x"].mean() - np.mean(table(80, 0)["w"])) < 2 * np.std(table(80, 0)["w"])
        assert math.isfinite(drawn["log_prob"].sum())


@pytest.mark.parametrize(
    ("model", "data", "width"),
    [
        ("--model Density", "--data.ignore [kind]", 3),
        ("--model Density", "--data.ignore [kind] --data.condition w", 3),
        (
            "--model Regression --model.head Perceptron --model.flow.augment 2",
            "--data.ignore [kind] --data.target w",
            4,
        ),
    ],
)
def test_bare_dynamics_are_as_wide_as_the_data(done: Any, model: str, data: str, width: int) -> None:
    """Without a recipe, and as a bare name, dynamics take `dim` from the data, with conditions and augmented dimensions."""
    written("first.csv", table(80, 0))
    done(
        f"fit {model} --model.dynamics MLP --model.solver Euler --model.solver.num_steps 1 --data Table "
        f"--data.path first.csv {data} --trainer.log_every_n_steps 1 {SHORT}"
    )
    task: Any = of.load("runs/fit/version_0/checkpoints/last.ckpt")
    assert next(each for each in task.modules() if isinstance(each, of.Dynamics)).width == width


def test_wrong_files_are_refused_in_a_line(refused: Any) -> None:
    """A missing file, a wrong column and text among numbers."""
    written("first.csv", table(80, 0))
    assert "there is no file none.csv" in refused("fit -c own/density --data.path none.csv")
    assert "no column 'W', which target names" in refused("fit -c own/regression --data.path first.csv --data.target W")
    assert "row 1 holds" in refused("fit -c own/density --data.path first.csv --data.ignore []")
    assert "there is no example 'irises'; there are" in refused("fit -c own/density --data.path example:irises")


def test_a_split_is_chosen_on_the_command_line(done: Any, refused: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Options of the split and of reading are options of a group, and a wrong one is named."""
    columns = table(80, 0)
    written("first.csv", columns | {"u": ["", *columns["u"][1:]], "day": list(range(80))})
    words = "fit -c own/density --data.path first.csv --data.ignore [kind]"
    with caplog.at_level("INFO"):
        done(f"{words} --data.split.by day --data.split.test 0.3 --data.read.missing drop {FEW}")
    assert "47 rows train, 8 rows validate, 24 rows test, split by day; 3 columns: u, v, w" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        done(f"{words} --data.split.by null --data.read.memory null --data.read.missing drop {FEW}")
    assert "split at random by seed 0; 4 columns" in caplog.text
    assert "leave a share to train on; got 0.1 and 1.5" in refused(f"{words} --data.split.test 1.5")
    assert "Did you mean split.test?" in refused(f"{words} --data.test 0.3")


def test_series_follow_the_units(done: Any, draw_at: Any) -> None:
    """Predicted values map by a·x + b, of every series of a second file."""
    draw_at("3_end")
    random = np.random.default_rng(0)
    number, t = np.repeat(np.arange(20), 8), np.tile(np.arange(8.0), 20)
    y = np.sin(t + random.uniform(0, 6, 20)[number])
    found = []
    for scale, shift in ((1, 0), (10, 50)):
        written("first.csv", {"id": number.tolist(), "t": t.tolist(), "y": (scale * y + shift).tolist()})
        written(
            "second.csv", {"id": number[:40].tolist(), "t": t[:40].tolist(), "y": (scale * y[40:80] + shift).tolist()}
        )
        done(f"fit -c own/series --data.path first.csv --data.series id --data.time t {SHORT}")
        run = max(Path("runs/own/series").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))
        done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --data.path second.csv {QUIET}")
        found.append(predicted())
    assert found[0].shape == (5, 8, 1)
    torch.testing.assert_close(found[1], 10 * found[0] + 50, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_forecasts_follow_the_units(done: Any, draw_at: Any) -> None:
    """What comes after a second file is forecast in its units: values map by a·x + b."""
    draw_at("3_end")
    t, found = np.arange(120.0), []
    for scale, shift in ((1, 0), (10, 50)):
        y = scale * np.sin(t / 3) + shift
        written("first.csv", {"t": t[:100].tolist(), "y": y[:100].tolist()})
        written("second.csv", {"t": t[90:].tolist(), "y": y[90:].tolist()})
        done(f"fit -c own/forecast --data.path first.csv --data.time t --data.history 12 --data.horizon 5 {SHORT}")
        run = max(Path("runs/own/forecast").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))
        done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --data.path second.csv {QUIET}")
        found.append(predicted())
    assert found[0].shape == (1, 17, 1)
    torch.testing.assert_close(found[1], 10 * found[0] + 50, rtol=1e-5, atol=1e-4)


# Tables of predictions

FEW = f"--trainer.max_epochs 1 --trainer.check_val_every_n_epoch 1 {QUIET}"


def read(path: str) -> dict[str, list[str]]:
    """The columns of a file as Python's own csv module reads it."""
    with Path(path).open(newline="") as stream:
        head, *rows = csv.reader(stream)
    return dict(zip(head, (list(column) for column in zip(*rows, strict=True)), strict=True))


def numbers(cells: Sequence[str]) -> np.ndarray:
    return np.array(cells, dtype=float)


def fitted(done: Callable[..., Any], recipe: str, options: str) -> Path:
    """The checkpoint of an epoch on `first.csv`."""
    done(f"fit -c own/{recipe} --data.path first.csv {options} {FEW}")
    (file,) = Path(f"runs/own/{recipe}").glob("version_0/checkpoints/last.ckpt")
    return file


def both(done: Callable[..., Any], checkpoint: Path, name: str = "out.csv") -> torch.Tensor:
    """What is predicted for `second.csv`, once as a table and once as the default file, which is returned."""
    words = f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET}"
    done(f"{words} --output {name}")
    in_python = of.predict(of.load(checkpoint), pl.read_csv("second.csv", try_parse_dates=True))
    written_table = pl.read_csv(name, try_parse_dates=True)
    assert_frame_equal(in_python, written_table, check_dtypes=False, rel_tol=1e-5)
    assert not list(Path("runs").rglob("predictions.pt"))
    done(words)
    return predicted()


def test_a_table_of_targets_has_their_names_and_units(done: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A row for each row of the file that can be predicted, with its number and the targets in the file's units."""
    written("first.csv", table(80, 0, changed=True))
    second = table(20, 1, changed=True)
    written("second.csv", {"v": second["v"], "u": ["", *second["u"][1:]]})
    checkpoint = fitted(done, "regression", "--data.target w --data.ignore [kind] --data.read.missing drop")
    wanted = both(done, checkpoint)
    assert "1 of 20 rows have empty cells and are left out" in caplog.text
    found = read("out.csv")
    assert list(found) == ["row", "w"]
    assert found["row"] == [str(row) for row in range(2, 21)]
    np.testing.assert_allclose(numbers(found["w"]), wanted[:, 0], rtol=1e-12)
    assert abs(numbers(found["w"]).mean() + 700) < 100
    written("second.csv", second)
    done(f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET} --output out.csv")
    assert list(read("out.csv")) == ["row", "w", "w_true"]
    np.testing.assert_allclose(numbers(read("out.csv")["w_true"]), second["w"], rtol=1e-12)


def test_a_table_of_classes_names_them(done: Any) -> None:
    """The name of the most probable class, the probability of each, and the true one, where the file says it."""
    first, second = table(80, 0), table(20, 1)
    written("first.csv", first)
    written("second.csv", second)
    wanted = both(done, fitted(done, "classification", "--data.label kind"))
    found = read("out.csv")
    assert list(found) == ["row", "kind", "probability_cold", "probability_warm", "kind_true"]
    assert found["kind_true"] == second["kind"]
    names = [("cold", "warm")[number] for number in wanted.argmax(dim=1).tolist()]
    assert found["kind"] == names
    for number, name in enumerate(("cold", "warm")):
        np.testing.assert_allclose(numbers(found[f"probability_{name}"]), wanted[:, number], rtol=1e-6)


def test_a_table_of_densities(done: Any) -> None:
    """Log p of each row in nats of the file; samples in a table have the names of its columns."""
    written("first.csv", table(80, 0, changed=True))
    written("second.csv", table(20, 1, changed=True))
    checkpoint = fitted(done, "density", "--data.ignore [kind]")
    wanted = both(done, checkpoint)
    found = read("out.csv")
    assert list(found) == ["row", "log_prob"]
    np.testing.assert_allclose(numbers(found["log_prob"]), wanted, rtol=1e-6)
    told = done(f"sample --ckpt_path {checkpoint} --count 30 --output drawn.csv").out
    assert told.startswith("30 samples are in drawn.csv, as u, v, w, log_prob, in the units of the file")
    done(f"sample --ckpt_path {checkpoint} --count 30 --output drawn.npz")
    drawn = read("drawn.csv")
    with np.load("drawn.npz") as archive:
        columns = np.stack([numbers(drawn[name]) for name in "uvw"], axis=1)
        np.testing.assert_allclose(columns, archive["x"], rtol=1e-12)
        np.testing.assert_allclose(numbers(drawn["log_prob"]), archive["log_prob"], rtol=1e-6)


def test_a_table_of_outcomes_follows_the_units(done: Any, refused: Any) -> None:
    """A row for each series: its outcomes in the units of the file, whatever these are, and the true ones."""
    random = np.random.default_rng(0)
    number, t, slope = np.repeat(np.arange(24), 6), np.tile(np.arange(6.0), 24), random.normal(size=24)
    y = slope[number] * t
    words = (
        "fit -c cde/characters --data SeriesTable --data.path first.csv --data.series id --data.time hour "
        "--data.seen.share 1.0 --model.control.time_scale 20 --model.readout.classifier null "
        "--model.readout.regressor Perceptron --trainer.callbacks.init_args.monitor val/outcome_rmse "
        f"--trainer.callbacks.init_args.mode min --trainer.log_every_n_steps 1 {FEW}"
    )
    tables = []
    for scale, shift in ((1.0, 0.0), (100.0, -700.0)):
        life = (scale * slope + shift)[number]
        columns = {"id": number.tolist(), "hour": t.tolist(), "y": y.tolist(), "life": life.tolist()}
        written("first.csv", columns)
        written("second.csv", {name: column[60:90] for name, column in columns.items()})
        done(f"{words} --data.outcome life")
        checkpoint = f"runs/cde/characters/version_{len(tables)}/checkpoints/best.ckpt"
        done(f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET} --output out.csv")
        found = pl.read_csv("out.csv")
        assert_frame_equal(of.predict(of.load(checkpoint), pl.read_csv("second.csv")), found, rel_tol=1e-5)
        assert found.columns == ["id", "life", "life_true"]
        assert found["id"].to_list() == list(range(10, 15))
        np.testing.assert_allclose(found["life_true"].to_numpy(), life[60:90:6], rtol=1e-12)
        tables.append(found["life"].to_numpy())
    np.testing.assert_allclose(tables[1], 100 * tables[0] - 700, rtol=1e-4)
    assert "a regressor needs num_outputs" in refused(f"{words} --data.ignore [life]")
    values = "--model.readout.regressor null --model.readout.target_weight 1 --model.control.interpolation Rectilinear"
    assert "give readout.regressor" in refused(f"{words} --data.outcome life {values} --model.control.window 0")


@pytest.mark.parametrize("dates", few(["days", "seconds", "numbers"], ["seconds"]))
def test_a_table_of_series_has_their_ids_and_times(done: Any, dates: str) -> None:
    """A row for each series and time, also of empty cells at a series' end; ids and times as in the file."""
    random = np.random.default_rng(0)
    day, second = date(2024, 5, 31), datetime(2024, 5, 31, 18, 0, 1)
    t: list[Any] = {
        "days": [day + timedelta(days=step) for step in range(8)],
        "seconds": [second + timedelta(hours=7 * step, seconds=step) for step in range(8)],
        "numbers": [1700 + step for step in range(8)],
    }[dates]
    y = np.sin(np.arange(8) + random.uniform(0, 6, (20, 1))) * 10 + 50
    number = np.repeat(np.arange(20), 8).tolist()
    written("first.csv", {"id": number, "when": t * 20, "y": y.ravel().tolist(), "z": (2 * y).ravel().tolist()})
    cells = y[:3].ravel().tolist()
    cells[6:8] = ["", ""]  # nothing is known of the end of the first series
    keep = [place for place in range(24) if place not in (14, 15)]  # and the second is shorter
    order = random.permutation(keep).tolist()
    columns: dict[str, list[Any]] = {"id": [number[place] + 5 for place in range(24)], "when": t * 3, "y": cells}
    columns["z"] = [cell and 2 * cell for cell in cells]
    written("second.csv", {name: [column[place] for place in order] for name, column in columns.items()})
    options = (
        "--data.series id --data.time when --data.seen.mode interpolation --data.seen.share 1.0 --data.batch_size 2"
    )
    checkpoint = fitted(done, "series", options)
    words = f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET}"
    done(f"{words} --output out.csv")
    found = read("out.csv")
    assert list(found) == ["id", "when", "seen", "y", "z", "y_true", "z_true"]
    assert found["y_true"] == [str(cells[place]) for place in keep]
    assert found["id"] == [str(number[place] + 5) for place in keep]
    assert found["when"] == [str((t * 3)[place]) for place in keep]
    assert found["seen"] == [str(place not in (6, 7)).lower() for place in keep]
    done(words)
    newest = max(Path("runs").rglob("predictions.pt"), key=lambda file: file.stat().st_mtime_ns)
    first, last = torch.load(newest)
    wanted = torch.cat([first[0], first[1, :6], last[0]])
    np.testing.assert_allclose(numbers(found["y"]), wanted[:, 0], rtol=1e-12)
    np.testing.assert_allclose(numbers(found["z"]), wanted[:, 1], rtol=1e-12)
    done(f"{words} --output some.csv --trainer.limit_predict_batches 1")
    assert read("some.csv") == {name: column[:14] for name, column in found.items()}


def test_a_table_larger_than_memory_trains(done: Any, metrics: Any) -> None:
    """With a small memory a run trains, resumes and predicts; predictions are those of a table in memory."""
    written("first.csv", table(200, 0))
    written("second.csv", table(40, 1))
    small = "--data.read.memory 10000 --data.batch_size 16"
    checkpoint = fitted(done, "density", f"--data.ignore [kind] {small}")
    assert len(metrics(checkpoint.parents[1])["val/loss"]) == 1
    done(f"fit --ckpt_path {checkpoint} --trainer.max_epochs 2 {QUIET}")
    words = f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET}"
    done(f"{words} --output streamed.csv")
    done(f"{words} --data.read.memory 1e12 --output held.csv")
    streamed, held = read("streamed.csv"), read("held.csv")
    assert streamed["row"] == held["row"] == [str(row) for row in range(1, 41)]
    np.testing.assert_allclose(numbers(streamed["log_prob"]), numbers(held["log_prob"]), rtol=1e-5)


def test_a_table_of_quantiles(done: Any, refused: Any) -> None:
    """A latent ODE writes quantiles of observations: in order, around the mean, and as wide as the noise at least."""
    t = np.tile(np.arange(8.0), 20)
    y = 10 * np.sin(t + np.repeat(np.random.default_rng(0).uniform(0, 6, 20), 8)) + 50
    number = np.repeat(np.arange(20), 8)
    written("first.csv", {"id": number.tolist(), "t": t.tolist(), "y": y.tolist()})
    checkpoint = fitted(done, "series", "--data.series id --data.time t")
    words = f"predict --ckpt_path {checkpoint} {QUIET} --output out.csv --model.quantiles"
    done(f"{words} [0.05,0.5,0.975]")
    found = read("out.csv")
    assert list(found) == ["id", "t", "seen", "y", "y_q05", "y_q50", "y_q975", "y_true"]
    low, middle, high = (numbers(found[f"y_{name}"]) for name in ("q05", "q50", "q975"))
    noise = y.std() * float(torch.load(checkpoint, weights_only=True)["state_dict"]["likelihood.log_noise"].exp())
    assert (middle - low > noise).all()
    assert (high - middle > 1.5 * noise).all()
    np.testing.assert_allclose(numbers(found["y"]), middle, atol=noise)
    assert "quantiles must lie in (0, 1); got [1.5]" in refused(f"{words} [1.5]")


def test_a_table_of_forecasts_marks_them(done: Any) -> None:
    """The rows that were seen and those that come after the file, at dates that go on; in each format alike."""
    days = [date(2024, 2, 20) + timedelta(days=step) for step in range(120)]
    y = (10 * np.sin(np.arange(120) / 3) + 50).tolist()
    written("first.csv", {"day": days[:100], "y": y[:100]})
    written("second.csv", {"day": days[90:], "y": y[90:]})
    checkpoint = fitted(done, "forecast", "--data.time day --data.history 12 --data.horizon 5")
    wanted = both(done, checkpoint)
    found = read("out.csv")
    assert list(found) == ["day", "forecast", "y", "y_true"]
    assert numbers(found["y_true"][:12]).tolist() == y[-12:]
    assert found["y_true"][12:] == 5 * [""]
    assert found["day"] == [str(days[-12] + timedelta(days=step)) for step in range(17)]
    assert found["forecast"] == 12 * ["false"] + 5 * ["true"]
    np.testing.assert_allclose(numbers(found["y"]), wanted[0, :, 0], rtol=1e-12)
    for name in ("there/out.parquet", "out.npz"):
        done(f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET} --output {name}")
    done(f"predict --ckpt_path {checkpoint} --data.path second.csv {QUIET} --output long.csv --data.horizon 30")
    assert read("long.csv")["day"][-1] == str(days[-1] + timedelta(days=30))
    np.testing.assert_allclose(numbers(read("long.csv")["y"])[:17], wanted[0, :, 0], rtol=1e-5)
    frame = pl.read_parquet("there/out.parquet")
    with np.load("out.npz") as archive:
        assert archive["day"].dtype == "datetime64[D]"
        for column in frame:
            assert np.array_equal(column.to_numpy(), archive[column.name], equal_nan=column.name == "y_true")
    assert frame["day"].cast(pl.String).to_list() == found["day"]
    assert frame["y"].to_list() == numbers(found["y"]).tolist()


def test_a_table_that_cannot_be_written_is_refused(
    done: Any, refused: Any, spiral_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown format, no place for the file, data without tables, several processes, another command."""
    written("first.csv", table(80, 0))
    checkpoint = fitted(done, "density", "--data.ignore [kind]")
    words = f"predict --ckpt_path {checkpoint} {QUIET} --output"
    assert "--output must end with .csv, .parquet or .npz; got out.xls" in refused(f"{words} out.xls")
    assert re.search(r"output.*xpected one argument", refused(words))
    Path("file").write_text("no folder")
    assert "file/out.csv cannot be written: " in refused(f"{words} file/out.csv")
    spiral = refused(f"predict --ckpt_path {spiral_run}/checkpoints/last.ckpt {QUIET} --output out.csv")
    assert "--output: Spiral does not support tables; leave it out to write predictions.pt" in spiral
    assert "output" in refused(f"fit -c own/density --data.path first.csv {FEW} --output out.csv")
    monkeypatch.setattr(Trainer, "world_size", property(lambda _: 2))
    told = refused(f"{words} out.csv")
    assert "--output writes one file, but 2 processes predict; set --trainer.devices 1" in told
    assert not Path("out.csv").exists()


def test_parameters_of_equations_are_written_with_their_errors(done, newest):
    """Equations on the command line are fitted to a file of two cultures; the true rate is within its interval.

    Predictions are a table of all rows, with hidden states, and start from the states that were learned.
    """
    random = np.random.default_rng(0)
    t = np.tile(np.arange(8.0), 2)
    x = np.repeat([1.0, 2.0], 8) * np.exp(-0.4 * t) + 0.01 * random.normal(size=16)
    name = np.repeat(["a", "b"], 8)
    written("cultures.csv", {"hour": t, "culture": name, "x": np.where(t == 3, "", x.round(4).astype(str))})
    model = '--model.dynamics.equations "{x: -k*x, product: k*x}" --model.dynamics.parameters "{k: 0.7}"'
    model += ' --model.dynamics.units "{k: 1/h}" --model.initial.start "{product: 0}" --model.initial.known [product]'
    data = "--data.path cultures.csv --data.time hour --data.series culture --data.hidden [product]"
    done(f"fit -c own/parameters {model} {data} --trainer.max_epochs 8 {QUIET}")
    run = Path("runs/own/parameters/version_0")
    found = {row["name"]: row for row in pl.read_csv(run / "parameters.csv").iter_rows(named=True)}
    assert list(found) == ["k", "x(0) of 1", "x(0) of 2"]
    assert found["k"]["lower"] < 0.4 < found["k"]["upper"]
    assert (found["k"]["unit"], found["k"]["std_error"] < 0.02) == ("1/h", True)
    done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --output table.csv {QUIET}")
    table = pl.read_csv("table.csv")
    assert table.columns == ["culture", "hour", "x", "product", "x_true"]
    assert table["x_true"].null_count() == 2
    assert table["x"][0] == pytest.approx(found["x(0) of 1"]["estimate"], rel=1e-4)
    assert table["product"][0] == 0
    torch.testing.assert_close(
        table["product"].to_torch()[:8], table["x"][0] - table["x"].to_torch()[:8], rtol=1e-3, atol=1e-4
    )


def test_short_runs_validate_and_processes_tell_their_rows(done: Any, started: Any, tmp_path: Path) -> None:
    """A run that is shorter than its recipe's interval ends with a validation; two processes say what they predicted."""
    written("rows.csv", table(23, 0))
    words = f"--data.path rows.csv --data.ignore [kind] {QUIET}"
    done(f"fit -c own/density {words} --trainer.max_epochs 1")
    folder = Path("runs/own/density/version_0")
    assert (folder / "checkpoints/best.ckpt").is_file()
    spread = "--data.batch_size 5 --trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp"
    predict = f"predict --ckpt_path {folder}/checkpoints/best.ckpt --data.path rows.csv"
    outcome = started(sys.executable, "-m", "odeflow", *predict.split(), *spread.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    done(predict)
    whole = torch.cat(torch.load(folder / "predict/version_1/predictions.pt"))
    for number in (0, 1):
        part = torch.load(folder / f"predict/version_0/predictions_{number}.pt")
        assert part["rows"] == list(range(number, 23, 2))
        torch.testing.assert_close(torch.cat(part["predictions"]), whole[part["rows"]], rtol=1e-3, atol=1e-3)
