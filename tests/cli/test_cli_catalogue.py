"""`odeflow recipes`, `odeflow plugins` and `odeflow --help`: what there is."""

from pathlib import Path

import pytest
import yaml

import odeflow as of
from choice import few
from odeflow.config import recipes
from odeflow.plugin import catalogue, registry


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_version_and_help(done):
    """--version tells the version; --help, and nothing at all, tell the commands."""
    assert done("--version").out == f"odeflow {of.__version__}\n"
    for words in ("", "--help", "-h", "help"):
        out = done(words).out
        assert all(word in out for word in ("fit", "validate", "test", "predict", "recipes", "plugins", "--plugins")), (
            words
        )


def test_every_recipe_is_listed_with_what_it_is(done):
    """`recipes list` names each recipe with its first line."""
    out = done("recipes list").out
    for name, file in recipes.available().items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert recipes.headline(file) in line
        assert recipes.headline(file)


def test_a_recipe_is_shown_as_it_is(done):
    """`recipes show NAME` prints the file, comments and all."""
    assert done("recipes show mnist/ode_net").out.rstrip("\n") == recipes.find("mnist/ode_net").read_text().rstrip("\n")


def test_a_copy_is_the_recipe_and_overwrites_nothing(done, refused):
    """`recipes copy NAME FILE` makes the same recipe, in a new folder if need be, but never over a file."""
    done("recipes copy spiral mine/copy.yaml")
    assert recipes.read("mine/copy.yaml") == recipes.read("spiral")
    Path("mine/copy.yaml").write_text("precious")
    assert "exists already" in refused("recipes copy spiral mine/copy.yaml")
    assert "exists already" in refused("recipes copy spiral mine")
    assert Path("mine/copy.yaml").read_text() == "precious"


@pytest.mark.parametrize("name", [name for name in recipes.available() if name.startswith("overlays/")])
def test_every_overlay_is_understood(done, name):
    """Each overlay passes the parser on top of a recipe, with all that it names."""
    config = done(f"fit -c spiral -c {name} --print_config").config
    assert config["seed_everything"] == 0
    assert config["model"]["class_path"]


def test_every_plugin_is_listed(done):
    """`plugins list` names the plugins of all kinds with what they are; `plugins list KIND` those of one."""
    out = done("plugins list").out
    for kind in registry.kinds():
        part = done(f"plugins list {kind}").out
        for name, cls in registry.plugins(kind).items():
            rows = [row.split() for row in out.splitlines()]
            assert [kind, name] in [row[:2] for row in rows]
            assert cls.__doc__.strip().splitlines()[0][:40] in part
        others = set(registry.kinds()) - {kind}
        assert not others & {row.split()[0] for row in part.splitlines() if row.split()}


NAMES = sorted({name for kind in registry.kinds() for name in registry.plugins(kind)})
FIRST = {min(registry.plugins(kind), default="") for kind in registry.kinds()}


@pytest.mark.parametrize("name", few(NAMES, FIRST))
def test_every_plugin_is_shown_with_its_options(done, name):
    """`plugins show NAME` tells the meaning, the import path and each option with its default."""
    namesakes = {registry.plugins(kind)[name] for kind in registry.kinds() if name in registry.plugins(kind)}
    out = done(f"plugins show {name}").out
    for cls in namesakes:
        assert f" {cls.__module__.partition('.')[0]}.{name}\n" in out
        assert cls.__doc__.strip().splitlines()[0] in out


def test_options_are_shown_with_types_and_defaults(done):
    """`plugins show MLP` tells which options must be given, and what the others are by default."""
    rows = {row.split()[0]: row for row in done("plugins show MLP").out.splitlines() if row.strip()}
    assert rows["dim"].split() == ["dim", "required", "int", "Length", "d", "of", "the", "state."]
    assert rows["activation"].split()[:3] == ["activation", "'tanh'", "str"]
    assert "kwargs" not in done("plugins show Backprop").out
    rows = {row.split()[0]: row for row in done("plugins show Trajectory").out.splitlines() if row.strip()}
    assert "Number of dimensions appended" in rows["flow.augment"]
    assert "(plugins list solver)" in rows["solver"]


def test_every_option_is_described():
    """No option of a plugin that comes with odeflow lacks a meaning, inherited ones and those in groups included."""
    without = [
        f"{plugin.name}.{option.name}"
        for several in catalogue.imported().values()
        for plugin in several
        for option in plugin.options
        if not option.meaning and plugin.path.startswith("odeflow")
    ]
    assert not without


def test_base_classes_are_not_offered():
    """What others are meant to subclass is not listed, and asking for it says so."""
    offered = registry.plugins("data")
    for name in ("DataModule", "OwnData"):
        assert name not in offered
    assert not [name for name, cls in offered.items() if cls.__subclasses__() and cls.__abstractmethods__]


def test_the_short_help_names_what_people_use(done):
    """`fit --help` fits on a screen and names options before the parser; `--help-all` has those of the trainer."""
    for each in ("fit", "validate", "test", "predict"):
        short = done(f"{each} --help").out
        assert len(short.splitlines()) < 50
        for word in ("--weights", "--plugins", "-c RECIPE", "--ckpt_path", "--help-all", "--model.solver"):
            assert word in short, (each, word)
    assert ("--optimizer.lr" in done("fit --help").out) > ("--optimizer.lr" in done("test --help").out)
    assert "--trainer.gradient_clip_val" in done("fit --help-all").out


def test_a_loose_file_is_listed_on_request(done):
    """`plugins --plugins FILE list` lists the file's plugins too."""
    Path("listed_only.py").write_text(
        "from odeflow_solvers import RK4\n\n\nclass ListedOnly(RK4):\n    '''A solver that is only listed.'''\n"
    )
    assert "A solver that is only listed." in done("plugins --plugins listed_only.py list solver").out


def test_a_package_that_fails_is_listed_with_its_reason(done, monkeypatch):
    """A plugin package that cannot be imported takes nothing down, and `plugins list` tells why."""
    monkeypatch.setitem(registry._failures, "broken (broken_package)", "ImportError: no such thing")
    out = done("plugins list solver").out
    assert "broken (broken_package) could not be imported: ImportError: no such thing" in out
    assert "Dopri5" in out


def test_the_help_of_a_task_names_its_options(done):
    """`fit --model.help Classification` tells the options of the task."""
    out = done("fit --model.help Classification").out
    assert all(f"--model.{option} " in out for option in ("dynamics", "solver", "gradient", "flow.augment", "flow.t1"))


def test_printed_yaml_is_valid(done):
    """`recipes show` prints what a YAML parser understands."""
    assert yaml.safe_load(done("recipes show spiral").out)["data"]["class_path"] == "Spiral"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "WarmupCosine",
            ["for --lr_scheduler WarmupCosine: odeflow.training.schedule.WarmupCosine", "Fraction of the run"],
        ),
        ("Adam", ["for --optimizer Adam: torch.optim.Adam", "Implements Adam algorithm", "weight_decay"]),
        ("WarmupEMA", ["for --trainer.callbacks+ WarmupEMA: odeflow.training.callbacks.WarmupEMA", "decay"]),
        ("EarlyStopping", ["for --trainer.callbacks+ EarlyStopping: lightning.pytorch.callbacks", "patience"]),
        ("WandbLogger", ["for --trainer.logger WandbLogger: lightning.pytorch.loggers", "project"]),
    ],
)
def test_other_classes_of_recipes_are_shown(done, name, told):
    """`plugins show NAME` of an optimizer, a schedule, a callback or a logger tells its option and its own options."""
    out = done(f"plugins show {name}").out
    assert all(each in out for each in told)
    assert not {"params", "optimizer"} & {row.split()[0] for row in out.splitlines() if row.strip()}


def test_other_classes_of_recipes_are_listed(done, refused):
    """`plugins list optimizer` names torch's; an unknown name has the nearest one of all as a hint."""
    assert "Implements Adam algorithm." in done("plugins list optimizer").out
    assert "WarmupCosine" in done("plugins list lr_scheduler").out
    assert "Did you mean WarmupCosine?" in refused("plugins show warmupcosin")
    assert "no kind of plugin named 'optimiser'. Did you mean optimizer?" in refused("plugins list optimiser")
