"""`odeflow fit`: what it leaves behind, and how recipes, files and typed options make one configuration."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import odeflow as of
from odeflow.config import recipes

STATISTICS = ("nfe/forward", "nfe/backward", "steps/accepted", "steps/rejected")


def weights(run: Path) -> torch.Tensor:
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return torch.cat([value.flatten().double() for value in checkpoint["state_dict"].values()])


def test_a_run_keeps_all_that_it_did_in_one_folder(spiral_run):
    """`fit -c spiral` leaves record, configuration, metrics, checkpoints and pictures under runs/spiral/version_0."""
    found = [file.relative_to(spiral_run) for file in spiral_run.rglob("*") if file.is_file()]
    files = {file.as_posix() for file in found if file.parts[0] not in ("test", "validate", "predict")}
    assert files == {
        "config.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/phase_portrait_1_start.png",
        "figures/phase_portrait_2_midway.png",
        "figures/phase_portrait_3_end.png",
    }
    folder = spiral_run.parents[2]
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_pictures_follow_the_learning(spiral_run):
    """The pictures at the start, midway and at the end are PNG files, and no two are the same."""
    pictures = [file.read_bytes() for file in sorted((spiral_run / "figures").iterdir())]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == 3


def test_pictures_for_print(done, refused, brief, draw_at, tmp_path):
    """Figures are PDF or SVG, in a style of Matplotlib or a file's; a style that does not exist is refused."""
    (tmp_path / "wide.mplstyle").write_text("figure.facecolor: ff0001\n")
    draw_at("3_end")
    done(f"fit -c decay {brief} --figures.format svg --figures.style wide.mplstyle")
    assert "#ff0001" in Path("runs/decay/version_0/figures/phase_portrait_3_end.svg").read_text()
    done(f"fit -c decay {brief} --figures.format pdf")
    assert Path("runs/decay/version_1/figures/phase_portrait_3_end.pdf").read_bytes().startswith(b"%PDF")
    told = refused(f"fit -c decay {brief} --figures.style nonsense")
    assert "figures.style: nonsense is no style of Matplotlib and no file" in told
    done("check decay")


def test_metrics_hold_losses_and_solver_statistics(spiral_run, metrics):
    """metrics.csv has the losses and the solver's statistics, a value a step and one an epoch."""
    columns = metrics(spiral_run)
    for name in ("train/loss", *STATISTICS):
        assert len(columns[name]) == 3, name
        assert len(columns[f"{name}_epoch"]) == 1, name
    assert len(columns["val/loss"]) == len(columns["val/nfe"]) == 1
    assert min(columns["nfe/forward"]) > 0
    assert min(columns["nfe/backward"]) > 0
    assert min(columns["steps/accepted"]) > 0


def test_epoch_statistics_are_means_of_the_steps(digits_run, metrics):
    """A statistic's value of the epoch is the mean of its values at the steps."""
    columns = metrics(digits_run)
    for name in STATISTICS:
        assert columns[f"{name}_epoch"][0] == pytest.approx(sum(columns[name]) / 3), name


def test_a_second_run_touches_nothing_of_the_first(done, small):
    """The second run of a recipe is version_1, and the first keeps every byte."""
    done(f"fit {small}")
    first = Path("runs/digits/ode_net/version_0")
    before = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    done(f"fit {small} --seed_everything 1")
    assert (first.parent / "version_1/checkpoints/last.ckpt").is_file()
    assert {file: file.read_bytes() for file in first.rglob("*") if file.is_file()} == before
    assert not torch.equal(weights(first), weights(first.parent / "version_1"))


def test_the_kept_configuration_repeats_the_run(done, digits_run):
    """`fit -c runs/…/config.yaml` gives the same weights bit for bit, beside the run that it repeats."""
    shutil.copytree(digits_run.parents[2], "runs")
    done("fit -c runs/digits/ode_net/version_0/config.yaml")
    assert torch.equal(weights(Path("runs/digits/ode_net/version_1")), weights(digits_run))


def test_the_kept_configuration_names_every_option(digits_run):
    """config.yaml holds the recipe's options, those typed, and the defaults of all others."""
    config = yaml.safe_load((digits_run / "config.yaml").read_text())
    options = config["model"]["init_args"]
    assert options["dynamics"]["init_args"] == {"channels": 4}
    assert options["solver"]["init_args"]["first_step"] is None
    assert config["data"]["init_args"] == {"batch_size": 64, "seed": 0}
    assert config["trainer"]["limit_train_batches"] == 3


def test_a_file_is_a_recipe(done, brief):
    """`-c FILE` runs a file of one's own, by names without init_args too, under runs/<stem of the file>."""
    Path("mine.yaml").write_text(
        "model: {class_path: Trajectory, init_args: {dynamics: {class_path: MLP, init_args: {dim: 2}}, solver: Dopri5}}"
        "\ndata: Spiral\n"
    )
    done(f"fit -c mine.yaml {brief} --data.observations 20")
    assert Path("runs/mine/version_0/config.yaml").is_file()


def test_no_recipe_is_needed(done, brief):
    """All that a recipe says can be typed instead."""
    model = (
        "--model Trajectory --model.dynamics MLP --model.dynamics.dim 2 --model.solver Euler --model.solver.num_steps 9"
    )
    done(f"fit {model} --data Spiral --data.observations 10 {brief}")
    assert Path("runs/fit/version_0/metrics.csv").is_file()


def test_the_progress_bar_shows_loss_and_evaluations(done, small):
    """While it trains, the terminal shows the loss and the number of evaluations."""
    out = done(f"fit {small} --trainer.enable_progress_bar true").out
    assert "train/loss" in out
    assert "nfe/forward" in out


@pytest.mark.parametrize("quiet", ["--trainer.logger false", "--trainer.fast_dev_run 1"])
def test_a_run_without_a_logger_spares_the_present_folder(done, small, quiet):
    """Where nothing is logged, what is kept goes under runs/<recipe>: a config.yaml of the user's is not overwritten."""
    Path("config.yaml").write_text("{}")
    done(f"fit {small} {quiet}")
    assert Path("config.yaml").read_text() == "{}"
    assert {path.name for path in Path().iterdir()} <= {"config.yaml", "runs"}


@pytest.mark.parametrize(
    "options", ["--trainer.logger.name mine", "--trainer.logger CSVLogger --trainer.logger.name mine"]
)
def test_the_logger_can_be_renamed(done, small, options):
    """Options of the logger apply to the default one."""
    done(f"fit {small} {options}")
    assert Path("runs/mine/version_0/metrics.csv").is_file()


def test_another_logger_is_taken_as_it_is(done, small):
    """A logger that is neither the default one nor W&B's gets its own options only, and the run's folder is its own."""
    Path("plain_logger.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n\n\nclass PlainLogger(CSVLogger):\n"
        "    def __init__(self, folder: str = 'elsewhere'):\n        super().__init__(folder, name='plain')\n"
    )
    done(f"fit {small} --plugins plain_logger.py --trainer.logger plain_logger.PlainLogger")
    assert Path("elsewhere/plain/version_0/metrics.csv").is_file()
    assert Path("elsewhere/plain/version_0/config.yaml").is_file()
    assert not Path("runs").exists()


def test_a_callback_is_added_to_those_of_the_recipe(done, small):
    """`--trainer.callbacks+=NAME` adds a callback and keeps the recipe's."""
    done(f"fit {small} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss")
    run = Path("runs/digits/ode_net/version_0")
    names = [each["class_path"] for each in yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]]
    assert [name.rpartition(".")[2] for name in names] == ["ModelCheckpoint", "EarlyStopping"]
    assert (run / "checkpoints/best.ckpt").is_file()


def test_last_is_the_last_epoch_though_another_was_best(done, small):
    """`last.ckpt` is written at every epoch's end, and the one before kept; `best.ckpt` is of the epoch with the best metric."""
    divergent = (
        "--trainer.max_epochs 3 --optimizer.lr 1e-30 --lr_scheduler ConstantLR"  # no epoch after the first is better
    )
    done(f"fit {small} {divergent}")
    folder = Path("runs/digits/ode_net/version_0/checkpoints")
    assert {file.name for file in folder.iterdir()} == {"best.ckpt", "last.ckpt", "last_but_one.ckpt"}
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 0
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


def test_regularizers_are_added_one_by_one(done, small):
    """`--model.flow.regularizers+=NAME` adds one, options after it are its own, and each penalty is logged."""
    options = (
        "--model.flow.regularizers+=Kinetic --model.flow.regularizers.weight 0.5 --model.flow.regularizers+=Taylor"
    )
    done(f"fit {small} {options} --model.flow.regularizers.weight 0.1 --model.flow.regularizers.order 1")
    run = Path("runs/digits/ode_net/version_0")
    stored = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["flow"]["regularizers"]
    assert [each["init_args"] for each in stored] == [{"weight": 0.5}, {"weight": 0.1, "order": 1}]
    with (run / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["train/kinetic"]]
    assert float(row["train/kinetic"]) == pytest.approx(5 * float(row["train/taylor_1"]), rel=1e-4)


def test_a_test_leaves_its_confusion_matrix(done, small):
    """The test's pictures are written beside its other results."""
    done(f"fit {small}")
    done("test --ckpt_path runs/digits/ode_net/version_0/checkpoints/best.ckpt --trainer.enable_progress_bar false")
    assert Path("runs/digits/ode_net/version_0/test/version_0/figures/confusion_matrix_test.png").stat().st_size > 5000


def test_later_recipes_are_laid_onto_earlier_ones(done):
    """Several -c merge key by key, the later wins, and what it does not mention stays."""
    Path("one.yaml").write_text(
        "trainer: {max_epochs: 3, min_epochs: 2}\nmodel: {init_args: {solver: {init_args: {rtol: 0.5}}}}"
    )
    Path("two.yaml").write_text("trainer: {max_epochs: 4}")
    config = done("fit -c spiral -c one.yaml -c two.yaml --print_config").config
    assert config["trainer"]["max_epochs"] == 4
    assert config["trainer"]["min_epochs"] == 2
    assert config["trainer"]["log_every_n_steps"] == 10
    assert config["model"]["init_args"]["solver"]["init_args"]["rtol"] == 0.5
    assert config["model"]["init_args"]["solver"]["init_args"]["atol"] == 1e-6


@pytest.mark.parametrize(
    "form", ["--model.solver RK4 --model.solver.num_steps 4", "--model.solver=RK4 --model.solver.num_steps=4"]
)
def test_another_class_is_typed_with_its_options(done, form):
    """`--model.solver RK4 --model.solver.num_steps 4` replaces the recipe's solver and all its options."""
    solver = done(f"fit -c spiral {form} --print_config").config["model"]["init_args"]["solver"]
    assert solver["class_path"].endswith("RK4")
    assert solver["init_args"] == {
        "step_size": None,
        "num_steps": 4,
        "max_steps": None,
        "compile": False,
        "jump_ts": None,
    }


def test_long_and_short_option_names_mean_the_same(done):
    """Options may be typed with class_path and init_args spelled out, or as one mapping."""
    short = done("fit -c spiral --model.solver RK4 --model.solver.num_steps 4 --print_config").config
    solver = "--model.init_args.solver"
    long = f"{solver}.class_path RK4 {solver}.init_args.num_steps 4"
    assert done(f"fit -c spiral {long} --print_config").config == short
    words = ["--model.solver", "{class_path: RK4, init_args: {num_steps: 4}}"]
    assert done(["fit", "-c", "spiral", *words, "--print_config"]).config == short


def test_an_option_is_typed_into_a_class_that_stays(done):
    """An option of the recipe's own class is changed alone, also where the same class is typed again."""
    for form in ("--model.solver.rtol 0.1", "--model.solver Dopri5 --model.solver.rtol 0.1"):
        solver = done(f"fit -c spiral {form} --print_config").config["model"]["init_args"]["solver"]
        assert (solver["init_args"]["rtol"], solver["init_args"]["atol"]) == (0.1, 1e-6), form


def test_a_wandb_logger_is_named_after_the_recipe(done):
    """A W&B logger, typed or from an overlay, gets the project odeflow and the recipe's name, unless told otherwise."""
    for words in ("--trainer.logger WandbLogger", "-c overlays/wandb"):
        options = done(f"fit -c spiral {words} --print_config").config["trainer"]["logger"]["init_args"]
        assert (options["project"], options["name"], options["save_dir"]) == ("odeflow", "spiral", "runs"), words
    words = "--trainer.logger WandbLogger --trainer.logger.project mine --trainer.logger.name one"
    options = done(f"fit -c spiral {words} --print_config").config["trainer"]["logger"]["init_args"]
    assert (options["project"], options["name"], options["save_dir"]) == ("mine", "one", "runs")


def test_typed_options_beat_every_recipe(done):
    """What is typed wins over all -c, whatever the order of the words."""
    Path("over.yaml").write_text("trainer: {max_epochs: 4}")
    for words in ("--trainer.max_epochs 7 -c spiral -c over.yaml", "-c spiral -c over.yaml --trainer.max_epochs 7"):
        assert done(f"fit {words} --print_config").config["trainer"]["max_epochs"] == 7, words


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_with_an_exponent(done, text):
    """1e-3 is a number in a recipe, as a typed option, and in a typed mapping, where no type tells it so as well."""
    Path("number.yaml").write_text(
        f"model: {{init_args: {{solver: {{class_path: TorchDiffEq, init_args: {{rtol: {text}, options: {{max_num_steps: {text}}}}}}}}}}}"
    )
    by_file = done("fit -c spiral -c number.yaml --print_config").config
    base = ["fit", "-c", "spiral", "--model.solver", "TorchDiffEq", "--print_config"]
    by_word = done([*base, f"--model.solver.rtol={text}", f"--model.solver.options.max_num_steps={text}"]).config
    for config in (by_file, by_word):
        options = config["model"]["init_args"]["solver"]["init_args"]
        assert options["rtol"] == options["options"]["max_num_steps"] == 1e-3


def test_a_recipe_is_read_as_yaml_1_2():
    """A recipe's numbers with an exponent are floats by themselves, whatever is later expected of them."""
    Path("numbers.yaml").write_text("a: [1e-3, 1E3, -2.e+5, .5e-1, 3]\nb: [e-3, 1e, 1e3x, '1e-3']")
    assert recipes.read("numbers.yaml") == {"a": [1e-3, 1e3, -2e5, 0.05, 3], "b": ["e-3", "1e", "1e3x", "1e-3"]}


def test_sizes_come_from_the_data(done, brief):
    """A task is told the sizes of its data: the flat stem takes the 64 values of a digit."""
    flat = "--model.stem FlatStem --model.dynamics MLP --model.dynamics.dim 6"
    done(f"fit -c digits/ode_net {flat} {brief}")
    task = of.load("runs/digits/ode_net/version_0/checkpoints/last.ckpt")
    assert task.stem.layers[1].in_features == 64
    assert task.head.layers[-1].out_features == 10


@pytest.mark.parametrize(
    "words",
    [
        "fit --help",
        "test --help",
        "fit --model.help Classification",
        "fit --data.help Digits",
        "fit --optimizer.help Adam",
    ],
)
def test_help_is_given(command, words):
    """--help, and --model.help NAME and its like, tell options and end with status 0."""
    outcome = command(words)
    assert outcome.status == 0
    assert outcome.out.startswith("usage: ")
    assert words.split()[1].removesuffix(".help") in outcome.out


def test_the_printed_configuration_is_a_recipe(done, by_name):
    """What --print_config prints can be given to -c, and means the same."""
    printed = done("fit -c spiral --print_config")
    Path("printed.yaml").write_text(printed.out)
    again = done("fit -c printed.yaml --print_config")
    assert by_name(again.config) == by_name(printed.config)
