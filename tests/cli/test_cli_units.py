"""Laws of units: what a model was trained on says how its data are standardised, and results have the file's units."""

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

import odeflow as of
from odeflow.training.callbacks import Figures
from odeflow_data import MNIST, LynxHare, SeriesTable, Table

RUN = Path("runs/fit/version_0")
DENSITY = "--model Density --model.dynamics PlanarCNF --model.dynamics.dim 2 --model.dynamics.units 4"
SERIES = "--model LatentODE --model.dynamics MLP --model.dynamics.dim 3 --model.dynamics.hidden [4] --model.flow.t1 1.0"
SOLVER = "--model.solver RK4 --model.solver.num_steps 2"
QUIET = "--trainer.num_sanity_val_steps 0 --trainer.accelerator cpu"


def table(scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).normal([1, 5], [2, 0.5], (200, 2)) * scale + shift


def waves(scale: float = 1.0, shift: float = 0.0, late: float = 0.0) -> dict[str, np.ndarray]:
    t = np.tile(np.linspace(10, 14, 9), 40)
    phase = np.repeat(np.random.default_rng(0).uniform(0, 6, 40), 9)
    return {"id": np.arange(360) // 9, "t": t + late, "y": scale * np.sin(t + phase) + shift}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, done, brief) -> Path:
    """Where a density and a latent ODE were trained for three steps, beside files in other units."""
    folder = tmp_path_factory.mktemp("units")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figures, "_draw", lambda *_: None)
        np.save("x.npy", table())
        np.save("other.npy", table(10, 50))
        np.savez("waves.npz", **waves())
        np.savez("others.npz", **waves(10, 50, 2))
        done(f"fit {DENSITY} {SOLVER} --data Table --data.path x.npy {brief} {QUIET}")
        Path("runs/fit").rename("density")
        done(
            f"fit {SERIES} {SOLVER} --data SeriesTable --data.path waves.npz --data.series id --data.time t {brief} {QUIET}"
        )
        Path("runs/fit").rename("series")
    return folder


@pytest.fixture
def trained(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def checkpoint(name: str) -> Path:
    return next(Path(name, "version_0/checkpoints").glob("*.ckpt"))


def predictions() -> list[torch.Tensor]:
    """Those of the newest run."""
    return torch.load(max(Path().rglob("predictions.pt"), key=lambda file: file.stat().st_mtime_ns))


def other() -> Table:
    """The rows 10 x + 50 in the units of x."""
    own, data = Table("x.npy"), Table("other.npy")
    own.setup("fit")
    data.adopt(own.units)
    data.setup("test")
    return data


def loss(task: of.Task, data: Table) -> float:
    """The mean of −log p over the test rows, in nats."""
    with torch.no_grad():
        return -float(task.log_prob(data.test.x).mean())


def test_other_units_are_those_of_the_training_rows(trained):
    """Standardised by the mean and deviation of x, 10 x + 50 has the mean and deviation that follow from them."""
    own, data = Table("x.npy"), other()
    own.setup("fit")
    shift, scale = (torch.tensor(part, dtype=torch.float64) for part in (own.units.shift, own.units.scale))
    torch.testing.assert_close(
        data.train.x.double(), own.train.x * 10.0 + (9 * shift + 50) / scale, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("source", ["--ckpt_path FILE", "-c recipe.yaml --weights net.safetensors", "plot"])
def test_a_tested_file_is_measured_by_what_was_trained_on(done, metrics, trained, source):
    """Checkpoints, weights alone and pictures of them: 10 x + 50 has the loss of rows in the units of x."""
    file, run = checkpoint("density"), Path(f"runs/{source[:2]}")
    done(f"export --ckpt_path {file} --output net.safetensors")
    (trained / "recipe.yaml").write_text((file.parents[1] / "config.yaml").read_text())
    words = source.replace("FILE", str(file)) + f" --trainer.logger CSVLogger --trainer.logger.save_dir {run}"
    if source == "plot":
        done(
            f"plot precision --ckpt_path {file} --solvers RK4 --num_steps 2 --data.path other.npy --output {run}/p.png"
        )
        found = [float(row.split(",")[-1]) for row in (run / "p.csv").read_text().split()[1:]]
    else:
        done(f"test {words} --data.path other.npy")
        found = metrics(next(run.glob("**/metrics.csv")).parent)["test/loss"]
    task = of.load(file)
    assert found == pytest.approx(len(found) * [loss(task, other())], rel=1e-5)
    own = Table("x.npy")
    own.setup("fit")
    assert loss(task, own) < loss(task, other()) - 10


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
def test_a_loaded_model_keeps_its_units(trained):
    """In Python, too: a trainer that tests what `odeflow.load` gave standardises any file alike."""
    task, data = of.load(checkpoint("density")), Table("other.npy")
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (results,) = trainer.test(task, data, verbose=False)
    assert results["test/loss"] == pytest.approx(loss(task, other()), rel=1e-5)
    assert data.units == task.units


def test_predicted_densities_are_of_the_file(done, trained):
    """`predict` writes log p(x) per unit of the file: what standardised rows have, less Σ log σ."""
    done(f"predict --ckpt_path {checkpoint('density')} --data.path other.npy")
    written = torch.cat(predictions())
    task, data = of.load(checkpoint("density")), other()
    data.setup("predict")
    with torch.no_grad():
        wanted = task.log_prob(data.predicted.x) - sum(map(math.log, task.units.scale))
    torch.testing.assert_close(written, wanted)


def test_samples_are_of_the_file(done, trained):
    """`sample` writes points of the file's units and their densities there, from weights alone, too."""
    task = of.load(checkpoint("density"))
    torch.manual_seed(0)
    with torch.no_grad():
        x = task.sample(50)["x"].double()
    told = done(f"sample --ckpt_path {checkpoint('density')} --count 50 --output a.npz").out
    assert "as x, log_prob, in the units of the file that it was trained on" in told
    done(f"export --ckpt_path {checkpoint('density')} --output net.safetensors")
    done("sample --ckpt_path net.safetensors --count 50 --output b.npz")
    shift, scale = (torch.tensor(part, dtype=torch.float64) for part in (task.units.shift, task.units.scale))
    with np.load("a.npz") as drawn, np.load("b.npz") as again:
        np.testing.assert_allclose(drawn["x"], x * scale + shift, rtol=1e-6)
        with torch.no_grad():
            wanted = task.log_prob(x.float()) - scale.log().sum()
        np.testing.assert_allclose(drawn["log_prob"], wanted, atol=1e-3)
        assert np.array_equal(drawn["x"], again["x"])
        assert np.array_equal(drawn["log_prob"], again["log_prob"])


def test_series_have_the_units_of_the_file(done, trained):
    """Predictions and samples of series: values and times as in the file; a later file keeps the first one's clock."""
    file = checkpoint("series")
    done(f"sample --ckpt_path {file} --count 3 --output a.npz")
    with np.load("a.npz") as drawn:
        assert (drawn["t"].min(), drawn["t"].max()) == (10, 14)
    task = of.load(file)
    assert (task.units.origin, task.units.unit) == (10, 4)
    done(f"predict --ckpt_path {file} --data.path others.npz")
    (written,) = predictions()
    data = SeriesTable("others.npz", "t", "id")
    data.adopt(task.units)
    data.setup("predict")
    assert (float(data.predicted.t.min()), float(data.predicted.t.max())) == (0.5, 1.5)
    with torch.no_grad():
        (batch,) = data.predict_dataloader()
        wanted = task.units.restored(task.predict(batch))
    torch.testing.assert_close(written, wanted)
    torch.testing.assert_close(task.units.restored(data.predicted.y).mean().item(), 50.0, rtol=0.1, atol=0)


def test_forecasts_are_counted_in_the_units_of_the_file(done, brief):
    """A fraction of known years in a test leaves the species' units, the mean of the years that trained."""
    words = "--model Trajectory --model.dynamics LotkaVolterra --model.solver RK4 --model.solver.num_steps 20"
    done(f"fit {words} --data LynxHare {brief} {QUIET}")
    file = next(RUN.glob("checkpoints/*.ckpt"))
    data, later = LynxHare(), LynxHare(known=0.9)
    data.setup("fit")
    later.adopt(of.load(file).units)
    later.setup("test")
    assert torch.equal(later.y, data.y)
    done(f"predict --ckpt_path {file} --data.known 0.9")
    (written,) = predictions()
    torch.testing.assert_close(written[0, 0], data.units.restored(later.y)[later.split - 1], rtol=1e-5, atol=1e-5)


def test_data_that_do_not_standardise_are_refused(refused, trained):
    """A model of standardised rows cannot be tested on data that know no units."""
    words = f"test --ckpt_path {checkpoint('density')}"
    assert "which ToyDensity does not provide" in refused(f"{words} --data ToyDensity")


def test_images_are_sampled_as_brightness():
    """MNIST standardises by published numbers, in which a model's black is 0 and its white is 1."""
    units = MNIST().units
    assert (units.shift, units.scale) == ((0.1307,), (0.3081,))
    assert units.log_volume(784) == pytest.approx(784 * math.log(0.3081))
    assert MNIST(standardise=False).units.same
