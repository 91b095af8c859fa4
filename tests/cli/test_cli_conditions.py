"""Laws of conditional densities on the command line: fit, predict and sample by the columns of files."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

SHORT = (
    "--model.dynamics.hidden [8] --model.solver.class_path RK4 --model.solver.num_steps 2 --trainer.max_epochs 2 "
    "--trainer.check_val_every_n_epoch 1 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
CHECKPOINT = "runs/own/density/version_0/checkpoints/last.ckpt"


def written(path: str, count: int, values: bool = True) -> pl.DataFrame:
    """Rows whose values u, v depend on a, b, in a file."""
    generator = np.random.default_rng(count)
    c = generator.normal([50, -3], [20, 0.1], (count, 2))
    u, v = c[:, 0] + generator.normal(size=count), generator.normal(size=count)
    table = pl.DataFrame({"b": c[:, 1], "u": u, "a": c[:, 0], "v": v})
    table = table if values else table.select("b", "a")
    table.write_csv(path)
    return table


@pytest.fixture
def trained(done: Any, tmp_path: Path) -> None:
    written("first.csv", 60)
    done(f"fit -c own/density --data.path first.csv --data.ignore null --data.condition [a,b] {SHORT}")


@pytest.mark.usefixtures("trained")
def test_files_name_the_conditions(done: Any, refused: Any) -> None:
    """Rows are predicted by both roles; samples have the conditions of a file, whatever the order of its columns."""
    written("second.csv", 7)
    done(f"predict --ckpt_path {CHECKPOINT} --data.path second.csv --output log_prob.csv")
    assert pl.read_csv("log_prob.csv").columns == ["row", "log_prob"]
    conditions = written("conditions.csv", 5, values=False)
    told = done(f"sample --ckpt_path {CHECKPOINT} --conditions conditions.csv --count 3 --output drawn.csv").out
    drawn = pl.read_csv("drawn.csv")
    assert "15 samples are in drawn.csv, as a, b, u, v, log_prob" in told
    for name in "ab":
        np.testing.assert_array_equal(drawn[name], np.repeat(conditions[name], 3))
    assert drawn["u"].n_unique() == 15

    sample = f"sample --ckpt_path {CHECKPOINT} --output drawn.csv"
    assert "the density depends on a, b: give a file with these columns by --conditions" in refused(sample)
    conditions.drop("a").write_csv("lacking.csv")
    assert "lacking.csv must have the columns a, b, of numbers; it has no 'a', only b" in refused(
        f"{sample} --conditions lacking.csv"
    )
    assert "an existing file" in refused(f"{sample} --conditions nothing.csv")
    Path("broken.parquet").write_bytes(b"PAR1 and nothing else")
    assert "broken.parquet cannot be read: " in refused(f"{sample} --conditions broken.parquet")
    conditions.with_columns(a=None).write_csv("empty.csv")
    assert "no empty cell; in row 1 there is no finite number in 'a'" in refused(f"{sample} --conditions empty.csv")


def test_a_density_without_conditions_takes_none(done: Any, refused: Any) -> None:
    """The option is refused."""
    written("first.csv", 60)
    done(f"fit -c own/density --data.path first.csv --data.ignore null {SHORT}")
    told = refused(f"sample --ckpt_path {CHECKPOINT} --conditions first.csv")
    assert "samples of this model do not depend on conditions" in told


def tanks(count: int, scale: float = 1.0) -> pl.DataFrame:
    """Series at times of their own, driven by a covariate, with a static one."""
    generator = np.random.default_rng(0)
    tank = np.repeat(np.arange(count), 5)
    hour = generator.uniform(0, 9, (count, 5)).cumsum(axis=1).ravel()
    inflow, size = scale * generator.uniform(0, 2, 5 * count), 1.0 + tank % 3
    return pl.DataFrame({"tank": tank, "hour": hour, "inflow": inflow, "size": size, "level": 50 + 9 * inflow})


def test_samples_of_series_have_the_covariates_of_a_file(done: Any, refused: Any) -> None:
    """By default of that which trained, at its times; another needs no values; they are in the file's units."""
    tanks(20).write_csv("tanks.csv")
    done(
        "fit -c own/series --data.path tanks.csv --data.series tank --data.time hour --data.covariates [inflow] "
        "--data.static [size] --model.solver.class_path RK4 --model.solver.num_steps 2 --trainer.max_epochs 1 "
        "--trainer.check_val_every_n_epoch 1 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
    )
    sample = "sample --ckpt_path runs/own/series/version_0/checkpoints/last.ckpt --output drawn.csv"
    told = done(sample).out
    assert "samples, 1 for each series, are in drawn.csv, as sample, tank, hour, level" in told
    drawn = pl.read_csv("drawn.csv")
    assert drawn["tank"].to_list() == np.repeat(np.arange(20), 5).tolist()
    np.testing.assert_allclose(drawn["hour"], tanks(20)["hour"])
    assert 20 < drawn["level"].mean() < 90  # pyright: ignore[reportOptionalOperand]

    for name, scale in (("plan", 1.0), ("other", 5.0)):
        tanks(3, scale).drop("level").write_csv(f"{name}.csv")
        done(f"{sample} --conditions {name}.csv --count 2 --seed 1")
        Path("drawn.csv").rename(f"under_{name}.csv")
    plan, other = pl.read_csv("under_plan.csv"), pl.read_csv("under_other.csv")
    assert plan["sample"].to_list() == [1] * 15 + [2] * 15
    assert plan["level"].n_unique() == 30
    assert not np.allclose(plan["level"], other["level"], rtol=1e-6)

    Path("tanks.csv").unlink()
    assert "covariates of the series in a file, that of the training: there is no file tanks.csv" in refused(sample)
    tanks(3).drop("inflow").write_csv("lacking.csv")
    assert "no column 'inflow', which covariates names" in refused(f"{sample} --conditions lacking.csv")


def test_trajectories_under_covariates_have_no_samples(done: Any, refused: Any) -> None:
    """A task that does not sample says so."""
    tanks(20).write_csv("tanks.csv")
    done(
        "fit --model Trajectory --model.dynamics MLP --model.solver Euler --model.solver.num_steps 1 --data Trajectories "
        "--data.path tanks.csv --data.time hour --data.series tank --data.covariates [inflow] --data.ignore [size] "
        "--trainer.max_steps 1 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false "
        "--trainer.enable_model_summary false"
    )
    told = refused("sample --ckpt_path runs/fit/version_0/checkpoints/last.ckpt")
    assert "Trajectory does not implement sampling" in told
