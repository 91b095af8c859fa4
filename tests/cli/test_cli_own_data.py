"""Laws of recipes for one's own data: any table trains them, and what comes out is in its units."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.num_sanity_val_steps 0"
SHORT = f"--trainer.max_epochs 3 --trainer.check_val_every_n_epoch 1 --seed_everything 1 {QUIET}"
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


def predicted(name: str) -> torch.Tensor:
    """What the newest run of a folder predicted, all batches together."""
    newest = max(Path("runs", name).glob("*/predictions.pt"), key=lambda file: file.stat().st_mtime_ns)
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
    return predicted("predict"), metrics(run)


def test_densities_follow_the_units(done: Any, metrics: Any) -> None:
    """In other units the standardised loss is the same, and log-densities and NLL shift by Σ log a."""
    (plain, logged), (changed, logged_again) = (
        trained(done, metrics, "density", "--data.ignore [kind]", each) for each in (False, True)
    )
    volume = float(np.log(np.abs(SCALE)).sum())
    torch.testing.assert_close(changed, plain - volume, rtol=1e-5, atol=1e-4)
    assert logged_again["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert logged_again["val/nll"] == pytest.approx([nll + volume for nll in logged["val/nll"]], rel=1e-4)


def test_regressions_follow_the_units(done: Any, metrics: Any) -> None:
    """Predictions map by a·x + b, the absolute error by a; the file that is predicted need not have the target."""
    (plain, logged), (changed, logged_again) = (
        trained(done, metrics, "regression", "--data.target w --data.ignore [kind]", each) for each in (False, True)
    )
    assert plain.shape == (20, 1)
    torch.testing.assert_close(changed, SCALE[2] * plain + SHIFT[2], rtol=1e-5, atol=1e-5)
    assert logged_again["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert logged_again["val/mae"] == pytest.approx([SCALE[2] * error for error in logged["val/mae"]], rel=1e-4)


def test_classes_do_not_depend_on_the_units(done: Any, metrics: Any) -> None:
    """Probabilities are the same, and add up to one."""
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


def test_wrong_files_are_refused_in_a_line(refused: Any) -> None:
    """A missing file, a wrong column and text among numbers."""
    written("first.csv", table(80, 0))
    assert "there is no file none.csv" in refused("fit -c own/density --data.path none.csv")
    assert "no column 'W', which target names" in refused("fit -c own/regression --data.path first.csv --data.target W")
    assert "row 1 holds" in refused("fit -c own/density --data.path first.csv --data.ignore []")
    assert "there is no example 'irises'; there are" in refused("fit -c own/density --data.path example:irises")


def test_series_follow_the_units(done: Any) -> None:
    """Predicted values map by a·x + b, of every series of a second file."""
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
        found.append(predicted("predict"))
    assert found[0].shape == (5, 8, 1)
    torch.testing.assert_close(found[1], 10 * found[0] + 50, rtol=1e-5, atol=1e-4)


def test_forecasts_follow_the_units(done: Any) -> None:
    """What comes after a second file is forecast in its units: values map by a·x + b."""
    t, found = np.arange(120.0), []
    for scale, shift in ((1, 0), (10, 50)):
        y = scale * np.sin(t / 3) + shift
        written("first.csv", {"t": t[:100].tolist(), "y": y[:100].tolist()})
        written("second.csv", {"t": t[90:].tolist(), "y": y[90:].tolist()})
        done(f"fit -c own/forecast --data.path first.csv --data.time t --data.history 12 --data.horizon 5 {SHORT}")
        run = max(Path("runs/own/forecast").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))
        done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --data.path second.csv {QUIET}")
        found.append(predicted("predict"))
    assert found[0].shape == (1, 17, 1)
    torch.testing.assert_close(found[1], 10 * found[0] + 50, rtol=1e-5, atol=1e-4)
