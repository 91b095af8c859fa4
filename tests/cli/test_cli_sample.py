"""`odeflow sample`: samples of a checkpoint and their densities, as the task itself gives them."""

import contextlib
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import odeflow as of

RUN = Path("runs/density/two_moons/version_0")
BEST = f"{RUN}/checkpoints/best.ckpt"
SMALL = (
    "-c density/two_moons --model.dynamics PlanarCNF --model.dynamics.dim 2 --model.dynamics.units 4 "
    "--model.solver RK4 --model.solver.num_steps 2 --data.samples 600 --data.val_size 100"
)
OTHERS = """
import torch
import odeflow as of

class Noise(of.Task):
    '''Draws samples of any size, without a density.'''

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size, self.layer = size, torch.nn.Linear(1, 1)

    def loss(self, batch, stage):
        return self.layer(batch[:, :1]).mean()

    def sample(self, count):
        return {"x": torch.randn(count, self.size)}
"""


def loaded(file: str | Path) -> dict[str, np.ndarray]:
    """An archive's arrays; the file is closed."""
    with np.load(file) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def run(tmp_path_factory, done, brief) -> Path:
    """The folder in which a short run left its own."""
    folder = tmp_path_factory.mktemp("moons")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("odeflow_tasks.density_figures.draw", lambda *_: {})
        done(f"fit {SMALL} {brief}")
    return folder


@pytest.fixture
def trained(run) -> str:
    """Its checkpoint."""
    shutil.copytree(run, ".", dirs_exist_ok=True)
    return BEST


def test_samples_are_those_of_the_task(done, trained):
    """`x` are the samples of the seed, `log_prob` what the task says of them; plane ones are drawn too."""
    out = done(f"sample --ckpt_path {trained} --count 50 --seed 3 --output there/drawn.npz").out
    assert out == "50 samples are in there/drawn.npz, as x, log_prob; drawn to there/drawn.png\n"
    drawn = loaded("there/drawn.npz")
    assert (drawn["x"].shape, drawn["log_prob"].shape, int(drawn["seed"])) == ((50, 2), (50,), 3)
    assert Path("there/drawn.png").stat().st_size > 1000
    task = of.load(trained)
    torch.manual_seed(3)
    assert np.array_equal(drawn["x"], task.sample(50)["x"].numpy())
    log_prob = task.log_prob(torch.from_numpy(drawn["x"])).detach()
    assert np.allclose(drawn["log_prob"], log_prob.numpy(), atol=1e-3)


def test_without_options(done, trained):
    """A thousand samples go into the run's folder, the same ones each time; another seed draws others."""
    done(f"sample --ckpt_path {trained}")
    first = loaded(RUN / "samples.npz")["x"]
    assert first.shape == (1000, 2)
    done(f"sample --ckpt_path {trained}")
    assert np.array_equal(loaded(RUN / "samples.npz")["x"], first)
    done(f"sample --ckpt_path {trained} --seed 1")
    assert not np.array_equal(loaded(RUN / "samples.npz")["x"], first)


def test_many_samples_are_drawn_in_parts(done, trained, monkeypatch):
    """More samples than are drawn at once are as many as were asked for."""
    monkeypatch.setattr("odeflow.cli.sample.AT_ONCE", 8)
    done(f"sample --ckpt_path {trained} --count 20")
    drawn = loaded(RUN / "samples.npz")
    assert (len(drawn["x"]), len(drawn["log_prob"])) == (20, 20)
    assert len(np.unique(drawn["x"], axis=0)) == 20


def test_weights_alone_are_enough(done, trained):
    """What `odeflow export` wrote draws the same samples, into this folder."""
    done(f"export --ckpt_path {trained} --output net.safetensors")
    done("sample --ckpt_path net.safetensors --count 10")
    done(f"sample --ckpt_path {trained} --count 10")
    assert np.array_equal(loaded("samples.npz")["x"], loaded(RUN / "samples.npz")["x"])


def test_the_solver_and_its_budget_are_chosen(done, refused, trained):
    """Steps or tolerances of another solver than the checkpoint's, with the number of evaluations in the answer."""
    out = done(f"sample --ckpt_path {trained} --count 10 --solver Euler --num_steps 3 --output few.npz").out
    assert out.endswith("; 3 evaluations of the field each batch\n")
    done(f"sample --ckpt_path {trained} --count 10 --solver Dopri5 --tolerance 1e-5 --output exact.npz")
    assert not np.allclose(loaded("few.npz")["x"], loaded("exact.npz")["x"])
    told = refused(f"sample --ckpt_path {trained} --num_steps 3")
    assert "--num_steps and --tolerance are of a solver: name one by --solver" in told
    assert "Euler has no option atol, rtol" in refused(f"sample --ckpt_path {trained} --solver Euler --tolerance 1e-3")
    assert "no solver named 'Eule'" in refused(f"sample --ckpt_path {trained} --solver Eule")


def test_images_are_drawn_as_such(done, brief):
    """Samples of images keep their shape, and the picture shows them in rows."""
    done(f"fit -c density/digits {brief}")
    out = done("sample --ckpt_path runs/density/digits/version_0/checkpoints/best.ckpt --count 9 --output few.npz").out
    assert out == "9 samples are in few.npz, as x, log_prob; drawn to few.png\n"
    drawn = loaded("few.npz")
    assert drawn["x"].shape == (9, 1, 8, 8)
    assert drawn["log_prob"].shape == (9,)
    assert Path("few.png").stat().st_size > 1000


@pytest.mark.parametrize("dates", [True, False])
def test_series_are_drawn_in_rows(done, brief, dates):
    """A row for each sample and time, dates as dates, by the names and in the units of the file; as in the archive."""
    times = [f"2024-03-{day:02d}" if dates else f"{10 * day}" for day in range(1, 9)]
    rows = [f"{series},{time},{100 + 7 * series + day}" for series in range(12) for day, time in enumerate(times)]
    Path("own.csv").write_text("\n".join(["name,when,level", *rows]))
    done(
        "fit -c own/series --data.path own.csv --data.series name --data.time when --data.columns [level] "
        f"--model.dynamics.hidden [4] --model.most_times 6 {brief}"
    )
    ckpt_path = next(Path("runs/own/series/version_0/checkpoints").glob("*.ckpt"))
    out = done(f"sample --ckpt_path {ckpt_path} --count 2 --output drawn.csv").out
    assert out.startswith("2 samples are in drawn.csv, as sample, when, level, in the units of the file")
    table = pl.read_csv("drawn.csv", try_parse_dates=True)
    assert table["sample"].to_list() == [1] * 100 + [2] * 100
    first, last = table["when"][0], table["when"][99]
    assert (first, last) == ((datetime(2024, 3, 1), datetime(2024, 3, 8)) if dates else (10.0, 80.0))
    done(f"sample --ckpt_path {ckpt_path} --count 2 --output drawn.npz")
    assert np.allclose(table["level"].to_numpy().reshape(2, 100), loaded("drawn.npz")["x"][..., 0])


def test_other_tasks_may_draw_samples(done, brief):
    """A loose plugin's samples need no density and no plane."""
    Path("noise.py").write_text(OTHERS)
    done(f"fit --plugins noise.py --model Noise --data ToyDensity --data.samples 600 --data.val_size 100 {brief}")
    ckpt_path = next(Path("runs/fit/version_0/checkpoints").glob("*.ckpt"))
    out = done(f"sample --plugins noise.py --ckpt_path {ckpt_path} --count 5 --output few.npz").out
    assert out == "5 samples are in few.npz, as x\n"
    assert loaded("few.npz")["x"].shape == (5, 3)


def test_a_task_without_samples_says_so(refused, spiral_run):
    """Nothing is written."""
    ckpt_path = spiral_run / "checkpoints/last.ckpt"
    assert "Trajectory does not implement sampling" in refused(f"sample --ckpt_path {ckpt_path} --output no.npz")
    assert not Path("no.npz").exists()
    said = refused(f"sample --ckpt_path {ckpt_path} --guidance 2 --output no.npz")
    assert "Trajectory has no guidance: leave --guidance out" in said


def test_the_weights_of_a_recipe(done):
    """`-c RECIPE --weights` draws from the weights that lie beside it."""
    done("sample -c density/two_moons --weights --count 50 --output moons.npz")
    assert np.load("moons.npz")["x"].shape == (50, 2)


def test_help(done):
    """The options are told."""
    out = done("sample --help").out
    for option in ("--ckpt_path", "--count", "--output", "--seed", "--plugins"):
        assert option in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sample", "odeflow sample needs a trained model: --ckpt_path FILE, or -c NAME --weights"),
        ("sample -c spiral --weights", "the recipe spiral has no weights of its own; give --weights FILE"),
        ("sample --ckpt_path no.ckpt", "there is no checkpoint no.ckpt"),
        ("sample --ckpt_path no.ckpt --output a.pt", "--output must end with .csv, .parquet or .npz; got a.pt"),
        ("sample --ckpt_path no.ckpt --count 0", "argument --count: expected a positive number, got '0'"),
        ("sample --ckpt_path no.ckpt --seed=-1", "argument --seed: expected a number from 0 on, got '-1'"),
        ("sample --ckpt_path no.ckpt --cuont 3", "no option named 'cuont'. Did you mean count?"),
        ("sample no.ckpt --ckpt_path no.ckpt", "odeflow sample takes options only; got 'no.ckpt'"),
    ],
)
def test_mistakes_are_explained(refused, words, told):
    """In a line that says what was wanted."""
    assert told in refused(words)
