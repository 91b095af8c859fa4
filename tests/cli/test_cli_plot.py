"""`odeflow plot`: what is drawn of a checkpoint obeys the laws of solvers, and agrees with the other commands."""

import contextlib
import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import odeflow as of
from odeflow.analysis import plots as draw
from odeflow.analysis.measure import Activations, Effort, components
from odeflow.plugin import registry
from odeflow_data import Digits

FEW = "--tolerances 1e-2,1e-4,1e-6 --samples 8"
FLOWLESS = """
import torch
import odeflow as of

class Flowless(of.Task):
    '''A task without a flow.'''

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(size, size)

    def loss(self, batch, stage):
        return self.layer.weight.sum()
"""
FAILING = """
import odeflow as of

class Failing(of.Solver):
    '''A solver that never arrives.'''

    order = 1

    def __init__(self, num_steps: int = 1) -> None:
        self.num_steps = num_steps

    def integrate(self, field, y0, t, observer=None):
        raise of.SolveError("there is no way")

class Unfitting(Failing):
    '''A solver of other states.'''

    def integrate(self, field, y0, t, observer=None):
        raise of.StateError("such states have no momenta")

class Rigid(Failing):
    '''A solver without options.'''

    def __init__(self) -> None:
        super().__init__()
"""
UNTESTED = """
import odeflow as of
from torch.utils.data import DataLoader, IterableDataset

class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())

class Untested(of.DataModule):
    '''Data without a test part.'''

    shape, num_classes = (1, 8, 8), 10

    def train_dataloader(self):
        return DataLoader(Nothing())

    def val_dataloader(self):
        return DataLoader(Nothing())

class Empty(Untested):
    '''Data whose test part is empty.'''

    def test_dataloader(self):
        return DataLoader(Nothing())
"""


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def is_picture(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def last(digits_run: Path) -> Path:
    return digits_run / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def best(spiral_run: Path) -> Path:
    return spiral_run / "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plugins that cannot be measured, written once, since two plugins must not share a name."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in (("flowless_task", FLOWLESS), ("failing_solver", FAILING), ("untested_data", UNTESTED)):
        (folder / f"{name}.py").write_text(text)
    return folder


# statistics


def test_a_tighter_tolerance_costs_more_and_errs_less(done, last):
    """As the tolerance falls, NFE rises and the error falls; backward passes cost evaluations, too."""
    out = done(f"plot statistics --ckpt_path {last} --output here/s.png {FEW}").out
    rows = table(Path("here/s.csv"))
    assert column(rows, "tolerance") == [1e-2, 1e-4, 1e-6]
    assert column(rows, "nfe_forward") == sorted(set(column(rows, "nfe_forward")))
    assert column(rows, "error") == sorted(set(column(rows, "error")), reverse=True)
    assert column(rows, "nfe_adjoint") == sorted(column(rows, "nfe_adjoint"))
    assert all(0 < float(row["nfe_checkpointed"]) < float(row["nfe_forward"]) for row in rows)
    assert min(column(rows, "seconds")) > 0
    assert is_picture(Path("here/s.png"))
    assert out.endswith("drawn to here/s.png, the numbers are in here/s.csv\n")
    assert rows[0]["nfe_forward"] in out


def test_the_picture_lies_beside_the_checkpoints(done, digits_run, last):
    """By default a picture is in the run's figures/, or here if the checkpoint is in no run's folder."""
    shutil.copytree(digits_run, "run")
    shutil.copy(last, "alone.ckpt")
    options = "--samples 2 --channels 0"
    assert (
        "drawn to run/figures/activations.png"
        in done(f"plot activations --ckpt_path run/checkpoints/last.ckpt {options}").out
    )
    done(f"plot activations --ckpt_path alone.ckpt {options}")
    with contextlib.chdir("run/checkpoints"):
        assert (
            f"drawn to {Path('..').resolve()}/figures" in done(f"plot activations --ckpt_path last.ckpt {options}").out
        )
    assert is_picture(Path("run/figures/activations.png"))
    assert Path("figures/activations.csv").read_text() == Path("run/figures/activations.csv").read_text()


def test_another_solver_and_other_data_can_be_measured(done, best):
    """`--solver` names the one that is measured, `--data.…` changes the checkpoint's data."""
    short = "--data.observations 10 --data.t1 10.0"
    done(f"plot statistics --ckpt_path {best} --solver TorchDiffEq --output s.png --tolerances 1e-5,1e-2 {short}")
    loose, tight = table(Path("s.csv"))
    assert float(loose["tolerance"]) == 1e-2
    assert float(loose["nfe_forward"]) < float(tight["nfe_forward"]) < 200
    assert float(loose["error"]) > float(tight["error"])


def test_training_is_drawn_or_its_absence_noted():
    """NFE over the epochs has a line forwards and one backwards; without metrics there is a note."""
    efforts = [Effort(0.01, 1e-3, 14, 0.1, 12, 12), Effort(0.001, 1e-4, 26, 0.2, 24, 24)]
    with_, without = (draw.statistics(efforts, epochs, "Dopri5").axes[3] for epochs in ([draw.Epoch(0, 14, 12)], []))
    assert [line.get_ydata().tolist() for line in with_.lines] == [[14], [12]]
    assert [text.get_text() for text in without.texts] == ["no metrics.csv with NFE\nbeside the checkpoint"]
    assert not without.lines


def test_the_metrics_beside_the_checkpoint_are_read(done, metrics, digits_run, last, monkeypatch):
    """Panel (d) shows the epochs' means that the run noted."""
    drawn: list[Figure] = []
    original = draw.statistics
    monkeypatch.setattr(draw, "statistics", lambda *given: drawn.append(original(*given)) or drawn[-1])
    done(f"plot statistics --ckpt_path {last} --output s.png --samples 2 --tolerances 1e-2")
    forward, backward = drawn[0].axes[3].lines
    noted = metrics(digits_run)
    assert forward.get_ydata().tolist() == noted["nfe/forward_epoch"]
    assert backward.get_ydata().tolist() == noted["nfe/backward_epoch"]


def test_a_tolerance_that_cannot_be_solved_stops_nothing(done, best, monkeypatch):
    """Its figures are nan, whether forwards or backwards, and the others are measured; without any, a note is drawn."""
    words = "--output s.png --data.observations 10 --data.t1 2.0"
    monkeypatch.setattr("odeflow.cli.picture._made", _impatient)
    done(f"plot statistics --ckpt_path {best} --tolerances 1e-2,1e-6 {words}")
    loose, tight = table(Path("s.csv"))
    assert all(math.isfinite(float(value)) for value in loose.values())
    assert [math.isnan(float(tight[name])) for name in ("error", "nfe_forward", "seconds", "nfe_adjoint")] == [True] * 4
    done(f"plot statistics --ckpt_path {best} --tolerances 1e-6 {words}")
    assert is_picture(Path("s.png"))


def _impatient(solver: str, rtol: float, atol: float) -> of.Solver:
    """A solver that takes few steps at tight tolerances, but for the reference."""
    few = 1 if 1e-7 < rtol < 1e-4 else 10_000
    return registry.look_up("solver", solver)(rtol=rtol, atol=atol, max_steps=few)


# activations


def test_activations_end_where_the_flow_ends(done, last):
    """The channels at the central pixel go from the stem's result to the flow's, and are those of the labels' images."""
    done(f"plot activations --ckpt_path {last} --output a.png --samples 3 --channels 3,0")
    rows = table(Path("a.csv"))
    data, task = Digits(), of.load(last)
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    with torch.no_grad():
        start = task.stem(images)[:3]
        end = task.flow(start)
    assert [key for key in rows[0] if key.startswith("y_")] == ["y_3", "y_0"]
    for sample in range(3):
        own = [row for row in rows if row["sample"] == str(sample)]
        assert {int(row["label"]) for row in own} == {int(labels[sample])}
        assert (float(own[0]["t"]), float(own[-1]["t"])) == (0, 1)
        for channel in (0, 3):
            assert float(own[0][f"y_{channel}"]) == pytest.approx(float(start[sample, channel, 1, 1]), abs=1e-5)
            assert float(own[-1][f"y_{channel}"]) == pytest.approx(float(end[sample, channel, 1, 1]), abs=1e-3)
    assert is_picture(Path("a.png"))


def test_a_trajectory_task_shows_its_states(done, best):
    """Any task with a flow will do: of the spiral both dimensions are shown, from the test's (0, 1.9) to the last time."""
    done(f"plot activations --ckpt_path {best} --output a.png --data.observations 50 --data.t1 2.0")
    rows = table(Path("a.csv"))
    assert [float(rows[0][name]) for name in ("t", "y_0", "y_1")] == pytest.approx([0, 0, 1.9])
    assert float(rows[-1]["t"]) == 2
    assert {row["label"] for row in rows} == {""}


def test_pictures_of_many_evaluations_have_logarithmic_axes():
    """Where evaluations differ much the axes are logarithmic; panels without a channel are blank."""
    efforts = [Effort(10.0**-n, 10.0**-n, 10**n, 0.1 * n, 10**n, 10**n) for n in (1, 2, 4)]
    axes = draw.statistics(efforts, [], "Dopri5").axes
    assert [each.get_xscale() for each in axes] == ["log", "log", "log", "linear"]
    tests = [draw.Tested("RK4", f"num_steps={n}", False, 4 * n, "test/loss", 10.0**-n) for n in (1, 6)]
    assert draw.precision(tests).axes[0].get_yscale() == "log"
    t, y = torch.linspace(0, 1, 5), torch.randn(5, 2, 3)
    panels = draw.activations(Activations(t, y, (), y), components(y), [0, 1, 2], None).subfigs[0].axes
    assert [panel.axison for panel in panels] == [True, True, True, False]


@pytest.mark.parametrize("classes", [0, 3, 12])
def test_samples_are_told_apart_by_class(classes):
    """Up to ten classes have a legend; with none, or more, there is no room for one. A state of one dimension draws too."""
    t, y = torch.linspace(0, 1, 5), torch.randn(5, 12, 1)
    labels = torch.arange(12) % classes if classes else None
    figure = draw.activations(Activations(t, y, (), y), None, [0], labels)
    (panel, note) = (axes for part in figure.subfigs for axes in part.axes)
    assert len(panel.lines) == 12
    assert (note.get_legend() is not None) == (classes == 3)
    assert note.texts[0].get_text() == "a state of one dimension\nhas no second component"
    assert len({line.get_color() for line in panel.lines}) == (classes or 12)


# precision


def test_under_its_own_solver_the_test_is_that_of_the_command_test(done, metrics, newest, digits_run, last):
    """The first row repeats `odeflow test`; a method of s stages in n steps takes s·n evaluations."""
    done(f"test --ckpt_path {last} --trainer.enable_progress_bar false --trainer.enable_model_summary false")
    out = done(f"plot precision --ckpt_path {last} --output p.png --num_steps 3,1 --tolerances 1e-2,1e-4").out
    own, *others = table(Path("p.csv"))
    noted = metrics(newest(digits_run, "test"))
    assert (own["solver"], own["setting"], own["trained"]) == ("Dopri5", "rtol=0.001, atol=0.001", "True")
    assert (own["metric"], [float(own["value"])]) == ("test/error_percent", noted["test/error_percent"])
    assert [float(own["nfe"])] == noted["test/nfe"]
    stages = {"Euler": 1, "Midpoint": 2, "RK4": 4}
    found = [(row["solver"], row["setting"], float(row["nfe"])) for row in others if row["solver"] in stages]
    assert found == [(name, f"num_steps={n}", n * count) for name, count in stages.items() for n in (1, 3)]
    adaptive = {row["setting"]: float(row["nfe"]) for row in others if row["solver"] == "Dopri5"}
    assert list(adaptive) == ["rtol=0.01, atol=0.01", "rtol=0.0001, atol=0.0001"]
    assert adaptive["rtol=0.01, atol=0.01"] < adaptive["rtol=0.0001, atol=0.0001"]
    assert "test/error_percent" in out
    assert is_picture(Path("p.png"))


def test_where_a_solver_fails_the_others_are_tested(done, best, plugins):
    """A solver that cannot go on has no result, and stops nothing. A task without an error rate shows its test/loss."""
    words = "--solvers Failing,Unfitting,RK4 --num_steps 50 --data.observations 20 --data.t1 2.0 --batches 1"
    done(f"plot precision --ckpt_path {best} --plugins {plugins} --output p.png {words}")
    own, *failed, fine = table(Path("p.csv"))
    assert [(each["solver"], each["value"]) for each in failed] == [("Failing", "nan"), ("Unfitting", "nan")]
    assert own["metric"] == fine["metric"] == "test/loss"
    assert float(fine["value"]) == pytest.approx(float(own["value"]), rel=1e-2)


def test_a_picture_without_a_result_says_so():
    """Where no solver reached a finite result, the picture notes it."""
    figure = draw.precision([draw.Tested("RK4", "num_steps=1", False, 4, "test/loss", float("inf"))])
    assert [text.get_text() for text in figure.axes[0].texts] == ["no solver reached a finite result"]


# What is asked for


def test_a_recipe_says_what_the_checkpoint_does_not(done, last):
    """Weights without a spec, or alone, are drawn with a recipe that describes their model and data."""
    contents = torch.load(last, weights_only=True)
    del contents["odeflow"]
    torch.save(contents, "weights.ckpt")
    words = "-c digits/ode_net --model.dynamics.channels 4 --samples 2 --channels 0"
    for name, path in (("spec", f"{last}"), ("recipe", f"weights.ckpt {words}")):
        done(f"plot activations --ckpt_path {path} --output {name}.png --samples 2 --channels 0")
    done(f"export --ckpt_path {last} --output net.safetensors")
    done(f"plot activations {words} --weights net.safetensors --output weights.png")
    rows = {name: column(table(Path(f"{name}.csv")), "y_0") for name in ("spec", "recipe", "weights")}
    assert rows["spec"] == pytest.approx(rows["recipe"])
    assert rows["spec"] == pytest.approx(rows["weights"])


# animation


def test_a_density_moves_from_the_base_to_the_data(done, monkeypatch):
    """Frames are as many as asked for, plus a second of the last; the mass stays, the entropy goes to the task's."""
    monkeypatch.setattr("odeflow_tasks.density_figures.draw", lambda *_: {})
    task = (
        "-c density/two_moons --model.dynamics PlanarCNF --model.dynamics.dim 2 --model.dynamics.units 4 "
        "--model.solver RK4 --model.solver.num_steps 2 --data.samples 600 --data.val_size 100"
    )
    done(f"fit {task} --trainer.max_epochs 1 --trainer.enable_progress_bar false --trainer.log_every_n_steps 1")
    run = Path("runs/density/two_moons/version_0")
    out = done(f"plot animation --ckpt_path {run}/checkpoints/best.ckpt --frames 5 --samples 2000").out
    assert out.endswith(f"drawn to {run}/figures/animation.gif, the numbers are in {run}/figures/animation.csv\n")
    with Image.open(run / "figures/animation.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 2
        assert gif.info["duration"] == 50
    rows = table(run / "figures/animation.csv")
    assert column(rows, "progress") == [0, 0.25, 0.5, 0.75, 1]
    assert all(mass == pytest.approx(1, abs=0.01) for mass in column(rows, "mass"))
    entropy = column(rows, "entropy")
    assert entropy[0] == pytest.approx(math.log(2 * math.pi * math.e), abs=0.1)
    trained = of.load(run / "checkpoints/best.ckpt")
    assert entropy[-1] == pytest.approx(-trained.sample(2000)["log_prob"].mean().item(), abs=0.1)


def test_a_film_needs_its_writer(refused, last, monkeypatch):
    """Without ffmpeg an .mp4 is refused, with what to do."""
    monkeypatch.setattr("matplotlib.animation.writers.is_available", lambda name: name != "ffmpeg")
    message = refused(f"plot animation --ckpt_path {last} --output film.mp4")
    assert message == "error: a .mp4 is written by ffmpeg, which is not installed; write a .gif\n"


def test_help_tells_the_kinds_and_their_options(done):
    """`plot --help` names the kinds, `plot KIND --help` its options with their defaults."""
    assert all(kind in done("plot --help").out for kind in ("statistics", "activations", "precision", "animation"))
    out = done("plot precision --help").out
    assert "--num_steps" in out
    assert "1,2,4,8,16" in out
    assert "--channels" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "the kind of plot comes first: odeflow plot statistics|activations|precision|animation --ckpt_path FILE"),
        (
            "--ckpt_path LAST",
            "the kind of plot comes first: odeflow plot statistics|activations|precision|animation --ckpt_path FILE",
        ),
        (
            "statistic --ckpt_path LAST",
            "no kind of plot named 'statistic'. Did you mean statistics?  available: statistics, activations, precision, animation",
        ),
        ("statistics", "odeflow plot needs a trained model: --ckpt_path FILE, or -c NAME --weights"),
        ("statistics -c digits/ode_net", "odeflow plot needs a trained model: --ckpt_path FILE, or -c NAME --weights"),
        ("statistics --ckpt_path", "--ckpt_path needs a value"),
        ("statistics --ckpt_path gone.ckpt", "there is no checkpoint gone.ckpt"),
        (
            "statistics --ckpt_path best",
            "--ckpt_path best: of which runs? Give their recipe by -c NAME, or name the file",
        ),
        (
            "statistics --ckpt_path LAST --tolerance 1",
            "no option named 'tolerance'. Did you mean tolerances?  "
            "available: ckpt_path, output, solver, tolerances, samples, model, data, trainer, seed_everything",
        ),
        (
            "activations --ckpt_path LAST stray",
            "odeflow plot activations takes options only; got 'stray'",
        ),
        (
            "statistics --ckpt_path LAST --tolerances 1e-2,x",
            "argument --tolerances: expected numbers between 0 and 1 separated by commas, got '1e-2,x'",
        ),
        (
            "precision --ckpt_path LAST --num_steps 0",
            "argument --num_steps: expected positive numbers separated by commas, got '0'",
        ),
        ("statistics --ckpt_path LAST --samples -1", "argument --samples: expected a positive number, got '-1'"),
        ("statistics --ckpt_path LAST --samples", "argument --samples: expected one argument"),
        (
            "statistics --ckpt_path LAST --solver RK4",
            "RK4 has no rtol and atol to vary; name an adaptive solver by --solver, such as Dopri5",
        ),
        (
            "activations --ckpt_path LAST --channels 0,4",
            "--channels: the state has 4, numbered 0 to 3; got 4",
        ),
        (
            "activations --ckpt_path LAST --data.sed 1",
            "data: Digits has no option 'sed'. Did you mean seed?  options: batch_size, seed",
        ),
        ("animation --ckpt_path LAST", "an animation needs a density on the plane; Classification learns no density"),
        (
            "animation --ckpt_path LAST --output a.png",
            "--output must end in .gif or another of .gif, .mp4; got a.png",
        ),
        ("activations --ckpt_path LAST --data.seed x", "seed: Expected a int. Got value: x"),
        (
            "statistics --ckpt_path LAST --trainer.devices 2 --trainer.accelerator cpu",
            "odeflow plot measures in one process; the trainer has 2",
        ),
        (
            "activations --ckpt_path LAST --data odeflow_data.Digitz",
            "data: the plugin Digitz (of odeflow_data) is not registered",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(refused, last, words, told):
    """A wrong kind, option or value, or a missing checkpoint, is told in one line, and nothing is drawn."""
    message = refused(f"plot {words.replace('LAST', str(last))}")
    assert message.startswith(f"error: {told}")
    assert not list(Path().iterdir())


def test_a_picture_needs_a_name_that_says_its_format(refused, last):
    """`--output` must end in a format that can be drawn."""
    message = refused(f"plot statistics --ckpt_path {last} --output picture.docx")
    assert message.startswith("error: --output must end in .png or another of ")
    assert message.endswith("; got picture.docx\n")


def test_what_cannot_be_drawn_is_told(refused, last, plugins):
    """A task without a flow, data without a test part, and a checkpoint that names no data are told."""
    registry.discover([str(plugins)])
    task = registry.look_up("task", "Flowless")()
    torch.save({"odeflow": {"model": task.spec}, "state_dict": task.state_dict()}, "flowless.ckpt")
    for kind in ("statistics", "activations", "precision"):
        message = refused(f"plot {kind} --ckpt_path flowless.ckpt --data Digits")
        assert message == "error: Flowless contains no Flow, so there is nothing to solve\n"
    message = refused("plot statistics --ckpt_path flowless.ckpt")
    assert message == "error: flowless.ckpt does not name its data: give a recipe by -c NAME, or data by --data NAME\n"
    message = refused(f"plot statistics --ckpt_path {last} --plugins {plugins} --data Empty")
    assert message == "error: the test part of Empty has no batches\n"
    message = refused(f"plot precision --ckpt_path {last} --plugins {plugins} --solvers RK4,Rigid")
    assert message == "error: Rigid has neither num_steps nor rtol and atol to vary; leave it out of --solvers\n"
    message = refused(f"plot precision --ckpt_path {last} --plugins {plugins} --data Untested")
    assert message.startswith("error: Untested cannot be tested: `test_dataloader` must be implemented")
