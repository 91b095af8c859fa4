"""Traps that a command line on top of Lightning and jsonargparse falls into, one by one."""

import ast
import inspect
import sys
import typing
from abc import ABC
from pathlib import Path

import pytest
import torch

import odeflow as of
import odeflow_data
from odeflow.cli.main import main
from odeflow.config import recipes
from odeflow.config.request import Request
from odeflow.errors import RecipeError
from odeflow.plugin import registry
from odeflow_data import Digits

PLAIN = {str, int, float, bool, type(None), list, dict, tuple, typing.Any}


def parts(annotation: object) -> set[object]:
    """The types that an annotation is made of, a group of options being made of those of its fields."""
    inner = typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, of.OptionGroup):
        return set().union(*(parts(hint) for hint in typing.get_type_hints(annotation).values()))
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in inner}
    return set().union(*(parts(part) for part in inner)) if inner else {annotation}


def test_the_words_of_the_process_stay_as_they_are(monkeypatch, capsys):
    """sys.argv is read and never edited: Lightning starts the other processes of a run from it."""
    words = [
        "odeflow",
        "fit",
        "-c",
        "spiral",
        "--model.solver",
        "RK4",
        "--model.solver.num_steps",
        "2",
        "--print_config",
    ]
    argv = list(words)
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "RK4" in capsys.readouterr().out
    assert sys.argv is argv
    assert argv == words


def test_requests_leave_the_words_alone():
    """Sorting the words takes none of them away."""
    words = ["-c", "spiral", "--plugins=a.py", "--model.solver=RK4", "--trainer.max_epochs", "3", "stray"]
    before = list(words)
    request = Request.of(words)
    assert words == before
    assert (request.configs, request.plugins) == (["spiral"], ["a.py"])
    assert request.options == [("model.solver", "RK4"), ("trainer.max_epochs", "3")]
    assert request.words == ["--model.solver=RK4", "--trainer.max_epochs=3", "stray"]


def test_an_option_that_is_typed_again_is_told():
    """The last value counts, as in scripts that append options; a list is one value, and what is appended is none."""
    twice = Request.of(
        [
            "--data.target=a",
            "--data.batch_size",
            "2",
            "--data.target",
            "b",
            "--data.batch_size",
            "2",
            "--x+",
            "1",
            "--x+",
            "2",
        ]
    )
    (note,) = twice.replaced
    assert note.startswith("--data.target is given as a and b: the last one counts")
    assert note.endswith("--data.target [a,b]")


def test_options_beside_a_class_are_explained(refused):
    """{class_path: RK4, step_size: .5} is answered by how to write it, not by "Solver is abstract"."""
    Path("flat.yaml").write_text("model: {init_args: {solver: {class_path: RK4, step_size: .5}}}")
    message = refused("fit -c spiral -c flat.yaml")
    assert "model.solver: the options of RK4 go under init_args" in message
    assert "{class_path: RK4, init_args: {step_size: …}}" in message
    assert "go under init_args" in refused(
        ["fit", "-c", "spiral", "--model.solver", "{class_path: RK4, step_size: .5}"]
    )


@pytest.mark.parametrize("kind", registry.kinds())
def test_a_contract_is_no_choice(command, kind):
    """Each contract, and each class between it and the plugins, is abstract and so never offered; none is a Protocol."""
    contract = registry.contract(kind)
    assert inspect.isabstract(contract)
    assert not getattr(contract, "_is_protocol", False)
    listed = command(f"plugins list {kind}").out.split()
    assert not {contract.__name__, "RungeKutta", "ImplicitRungeKutta", "Forecast", "SeriesData"} & set(listed)
    assert not any(inspect.isabstract(cls) or ABC in cls.__bases__ for cls in registry.plugins(kind).values())


def test_options_do_not_survive_a_change_of_class(done):
    """Where a file or a typed option names another class, nothing of the old one stays, not even by the same name."""
    Path("adamw.yaml").write_text("optimizer: {class_path: AdamW, init_args: {lr: 0.5, weight_decay: 0.25}}")
    Path("adam.yaml").write_text("optimizer: {class_path: Adam, init_args: {betas: [0.5, 0.6]}}")
    for words in ("-c adam.yaml", "--optimizer Adam", "--optimizer.class_path=Adam"):
        optimizer = done(f"fit -c spiral -c adamw.yaml {words} --print_config").config["optimizer"]
        assert optimizer["class_path"] == "torch.optim.Adam"
        assert (optimizer["init_args"]["lr"], optimizer["init_args"]["weight_decay"]) == (1e-3, 0), words


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ("--model Trajectory --data.t1 3.0 --data Spiral", "data t1", 3.0),
        ("-c spiral --model.dynamics.hidden 7 --model.dynamics ResidualMLP", "model dynamics hidden", 7),
        ("-c spiral --model.solver.num_steps=9 --model.solver=RK4", "model solver num_steps", 9),
        ("-c spiral --optimizer.momentum 0.5 --optimizer SGD", "optimizer momentum", 0.5),
        ("-c spiral --optimizer.init_args.momentum 0.5 --optimizer.class_path SGD", "optimizer momentum", 0.5),
        ("-c spiral --lr_scheduler.gamma 0.5 --lr_scheduler ExponentialLR", "lr_scheduler gamma", 0.5),
        ("-c spiral --trainer.logger.project x --trainer.logger WandbLogger", "trainer logger project", "x"),
    ],
)
def test_options_may_be_typed_before_their_class(done, words, place, value):
    """An option counts for the class that is chosen after it, as for one that is chosen before."""
    node = done(f"fit {words} --print_config").config
    for part in place.split():
        node = node.get("init_args", node)[part]
    assert node == value


def test_options_do_not_survive_in_a_list(refused):
    """A list that is typed takes nothing over from the classes in the list that it replaces."""
    assert "required: monitor" in refused("fit -c spiral --trainer.callbacks [EarlyStopping]")


def test_options_do_not_survive_a_change_of_plugin(done):
    """The same inside a task: TorchDiffEq does not take over Dopri5's rtol, nor a new task its old solver."""
    config = done("fit -c spiral --model.solver TorchDiffEq --print_config").config
    assert config["model"]["init_args"]["solver"]["init_args"]["rtol"] == 1e-7
    new = "--model.dynamics MLP --model.dynamics.dim 3 --model.solver Euler --model.solver.step_size 1"
    options = done(f"fit -c spiral --model Classification {new} --print_config").config["model"]["init_args"]
    assert options["dynamics"]["init_args"]["power"] == 1
    assert options["gradient"] is None


def test_classes_merge_by_name_or_path():
    """`Adam` and `torch.optim.Adam` are the same class to a merge, `AdamW` is not."""
    below = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1, "eps": 2}}
    assert recipes.merge(below, {"class_path": "Adam", "init_args": {"lr": 3}})["init_args"] == {"lr": 3, "eps": 2}
    assert recipes.merge(below, {"init_args": {"lr": 3}})["init_args"] == {"lr": 3, "eps": 2}
    assert recipes.merge(below, {"class_path": "AdamW"}) == {"class_path": "AdamW"}
    assert recipes.merge(below, {"class_path": "other.Adam"}) == {"class_path": "other.Adam"}
    assert below["init_args"] == {"lr": 1, "eps": 2}


def test_a_merge_replaces_lists_and_values():
    """Mappings merge, all else is replaced; None is a value."""
    base = {"a": {"b": [1, 2], "c": 3}, "d": {"e": 4}}
    assert recipes.merge(base, {"a": {"b": [5]}, "d": None}) == {"a": {"b": [5], "c": 3}, "d": None}


def test_a_merge_replaces_options_that_are_mappings():
    """Equations of an overlay replace those below, whatever their names; other options remain."""
    below = {"class_path": "Equations", "init_args": {"equations": {"x": "-k*x"}, "parameters": {"k": 1.0}}}
    over = {"init_args": {"equations": {"y": "-k*y"}}}
    assert recipes.merge(below, over)["init_args"] == {"equations": {"y": "-k*y"}, "parameters": {"k": 1.0}}
    below = {"class_path": "Trajectory", "init_args": {"initial": {"mode": "learned", "start": {"x": 1.0}}}}
    merged = recipes.merge(below, {"init_args": {"initial": {"start": {"y": 2.0}}}})
    assert merged["init_args"]["initial"] == {"mode": "learned", "start": {"y": 2.0}}
    assert below["init_args"]["initial"]["start"] == {"x": 1.0}


def test_a_merge_appends_where_the_key_says_so():
    """`key+` appends to the list below, through several layers and inside classes; where there is none, it begins one."""
    base = {"a": [1], "b": {"class_path": "MLP", "init_args": {"hidden": [5]}}, "c": "CSVLogger"}
    merged = recipes.merge(
        base, {"a+": [2], "b": {"init_args": {"hidden+": 6}}, "c+": "WandbLogger", "d+": {"e+": [7]}}
    )
    assert merged == {
        "a": [1, 2],
        "b": {"class_path": "MLP", "init_args": {"hidden": [5, 6]}},
        "c": ["CSVLogger", "WandbLogger"],
        "d": [{"e": [7]}],
    }
    assert recipes.merge(recipes.merge(merged, {"a+": [3]}), {"a+": [4], "a": [0]})["a"] == [0, 4]
    assert recipes.merge(merged, {"b": {"class_path": "Linear", "init_args": {"matrix+": [[1]]}}})["b"] == {
        "class_path": "Linear",
        "init_args": {"matrix": [[1]]},
    }
    with pytest.raises(RecipeError, match=r"steps\+ appends to a list; steps is 3\. Write steps to replace it"):
        recipes.merge({"steps": 3}, {"steps+": 4})


def test_callbacks_are_appended(done):
    """The recipe's checkpoint stays where overlays and the command line append callbacks, in their order."""
    Path("one.yaml").write_text("trainer: {callbacks+: [{class_path: LearningRateMonitor}]}")
    Path("two.yaml").write_text("trainer: {callbacks+: {class_path: ModelSummary}}")
    typed = "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss --model.dynamics.hidden+ 7"
    config = done(f"fit -c spiral -c one.yaml -c two.yaml {typed} --print_config").config
    names = [each["class_path"].rpartition(".")[2] for each in config["trainer"]["callbacks"]]
    assert names == ["ModelCheckpoint", "LearningRateMonitor", "ModelSummary", "EarlyStopping"]
    assert config["trainer"]["callbacks"][0]["init_args"]["filename"] == "best"
    assert config["model"]["init_args"]["dynamics"]["init_args"]["hidden"] == [50, 7]


def test_a_checkpoint_is_not_dropped_without_a_word(done, brief):
    """Callbacks that replace a recipe's, its checkpoint among them, say so; those with a checkpoint of their own do not."""
    Path("plain.yaml").write_text("trainer: {callbacks: [ModelSummary]}")
    Path("keeper.yaml").write_text("trainer: {callbacks: [ModelSummary, ModelCheckpoint]}")
    for words, lost in {
        "-c plain.yaml": ["ModelCheckpoint"],
        "--trainer.callbacks ModelSummary": ["ModelCheckpoint"],
        "-c plain.yaml -c keeper.yaml": [],
        "-c keeper.yaml": [],
        "--trainer.callbacks+ ModelSummary": [],
    }.items():
        request = Request.of(f"-c spiral {words}".split())
        assert request.lost(request.configuration("fit", None)) == lost, words
    told = "note: trainer.callbacks replaces the recipe's, so ModelCheckpoint is dropped. Write callbacks+"
    assert told in done(f"fit -c spiral -c plain.yaml {brief}").err


def test_several_loggers_share_a_folder(done, brief):
    """Loggers in a list, in a file or typed, are named like a single one; `logger+` adds one to the default."""
    Path("two.yaml").write_text("trainer: {logger: [CSVLogger, CSVLogger]}")
    for words in ("-c two.yaml", "--trainer.logger [CSVLogger,CSVLogger]", "--trainer.logger+ CSVLogger"):
        loggers = done(f"fit -c spiral {words} --print_config").config["trainer"]["logger"]
        options = [(each["init_args"]["save_dir"], each["init_args"]["name"]) for each in loggers]
        assert options == [("runs", "spiral")] * 2, words


def test_sizes_follow_the_data_that_are_typed(done, brief):
    """Sizes are linked when the objects are made, after all overrides: the data typed last decide."""
    Path("three_classes.py").write_text(
        "from odeflow_data import Digits\n\n\nclass ThreeClasses(Digits):\n"
        "    '''Digits, in three classes.'''\n\n"
        "    def __init__(self):\n        super().__init__()\n        self.num_classes = 3\n\n"
        "    def setup(self, stage):\n        super().setup(stage)\n"
        "        for part in (self.train, self.val, self.test):\n            part.dataset.tensors[1].remainder_(3)\n"
    )
    model = "-c digits/ode_net --model.dynamics.channels 4 --plugins three_classes.py --data ThreeClasses"
    done(f"fit {model} {brief}")
    last = "runs/digits/ode_net/version_0/checkpoints/last.ckpt"
    assert of.load(last).head.layers[-1].out_features == 3
    done(f"predict --ckpt_path {last}")
    file = "runs/digits/ode_net/version_0/predict/version_0/predictions.pt"
    assert torch.load(file, weights_only=True)[0].shape == (300, 3)


def test_interpolation_is_no_part_of_a_recipe(refused):
    """No recipe that is shipped uses ${…}, which would be resolved before what is typed; in a file it is refused."""
    assert not [name for name, file in recipes.available().items() if "${" in file.read_text()]
    Path("link.yaml").write_text("model: {init_args: {continuity: '${data.init_args.batch_size}'}}")
    assert "continuity: Expected a float. Got value: ${data.init_args.batch_size}" in refused(
        "fit -c spiral -c link.yaml"
    )


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in registry.kinds() for name in registry.plugins(kind)]
)
def test_plugins_take_plain_data_or_plugins(kind, name):
    """No option of a plugin takes a Callable or a class, which YAML could fill with any import path."""
    cls = registry.look_up(kind, name)
    contracts = {registry.contract(each) for each in registry.kinds()}
    hints = typing.get_type_hints(cls.__init__)
    own = inspect.signature(cls.__init__).parameters if cls.__init__ is not object.__init__ else {}
    for option in list(own)[1:]:
        assert option in hints, f"{option} has no type"
        assert parts(hints[option]) <= PLAIN | contracts, option


@pytest.mark.parametrize(
    "text",
    [
        "model: {init_args: {solver: {class_path: os.mkdir, init_args: {path: executed}}}}",
        "model: {init_args: {solver: {class_path: executed_module.RK4}}}",
        "data: {class_path: os.mkdir, init_args: {path: executed}}",
        "optimizer: {class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}",
        "lr_scheduler: {class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}",
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}]}",
        "trainer: {logger: {class_path: os.mkdir, init_args: {path: executed}}}",
    ],
)
def test_a_file_cannot_make_anything_run(refused, monkeypatch, text):
    """A class that is no plugin is refused before it is called, wherever it is named."""
    Path("executed_module.py").write_text("import os\nos.mkdir('executed')\n")
    monkeypatch.syspath_prepend(Path.cwd())
    Path("evil.yaml").write_text(text)
    refused("fit -c spiral -c evil.yaml")
    assert not Path("executed").exists()


def test_predictions_are_one_for_each_sample(done, newest, digits_run):
    """`predict` leaves out none of the data and keeps their order, with a batch size that does not divide them."""
    Path("uneven.py").write_text(
        "from odeflow_data import Digits\nfrom torch.utils.data import DataLoader\n\n\nclass Uneven(Digits):\n"
        "    '''Digits, predicted in batches of 128.'''\n\n"
        "    def predict_dataloader(self):\n        return DataLoader(self.test, batch_size=128)\n"
    )
    done(f"predict --plugins uneven.py --data Uneven --ckpt_path {digits_run / 'checkpoints/last.ckpt'}")
    predictions = torch.load(newest(digits_run, "predict") / "predictions.pt", weights_only=True)
    assert [len(batch) for batch in predictions] == [128, 128, 44]
    data = Digits()
    data.setup("predict")
    images = torch.stack([image for image, _ in data.test])
    with torch.no_grad():
        expected = of.load(digits_run / "checkpoints/last.ckpt")(images).softmax(1)
    torch.testing.assert_close(torch.cat(predictions), expected, rtol=0, atol=1e-2)  # at the run's rtol of 1e-3


def test_loaders_are_built_by_keyword():
    """Every DataLoader of ours gets its batch size by name: Lightning builds it again to predict, and must find it."""
    for file in Path(odeflow_data.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DataLoader":
                assert len(node.args) == 1, f"{file.name}:{node.lineno}"
