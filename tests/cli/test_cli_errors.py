"""Mistakes at the command line: a few lines that name the nearest and list what there is, and exit status 2."""

from pathlib import Path

import pytest

SOLVERS = "Did you mean RK4?  available: … Dopri5, … Euler, … RK4"  # and whatever else is installed
DOPRI5 = "options: rtol, atol, step_size, num_steps, first_step, min_step"
ADJOINT = "-c spiral --model.gradient Adjoint --model.gradient.solver"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # commands, recipes and files
        (
            "fot -c spiral",
            "no command named 'fot'. Did you mean fit?  available: fit, validate, test, predict, grid, plot, sample",
        ),
        (
            "fit",
            "give a recipe by -c NAME, or a checkpoint by --ckpt_path FILE.  recipes: … digits/ode_net, … mnist/ode_net",
        ),
        ("test", "odeflow test needs a recipe or a checkpoint"),
        ("fit -c spirall", "no recipe or file named 'spirall'. Did you mean spiral?  available: … digits/ode_net"),
        ("fit -c=spirall", "Did you mean spiral?"),
        ("fit -c spiral -c overlay.yaml", "no recipe or file named 'overlay.yaml'"),
        ("fit -c", "-c needs a value"),
        ("fit -c --trainer.max_epochs 1", "-c needs a value"),
        ("fit -c spiral --config", "--config needs a value"),
        ("fit -c spiral --plugins", "--plugins needs a value"),
        ("test --ckpt_path", "--ckpt_path needs a value"),
        ("test --ckpt_path --trainer.devices 1", "--ckpt_path needs a value"),
        ("fit -c spiral --plugins nothing.py", "there is no plugin file nothing.py"),
        ("fit -c spiral --plugins nothing.at.all", "nothing"),
        # plugins by kind, and inside one another
        ("fit -c spiral --model.solver RK5", f"model.solver: no solver named 'RK5'. {SOLVERS}"),
        ("fit -c spiral --model.solver=rk4", "no solver named 'rk4'. Did you mean RK4?"),
        ("fit -c spiral --model.solver.class_path RK5", "model.solver: no solver named 'RK5'"),
        (
            "fit -c spiral --model.solver odeflow_solvers.RK5",
            "model.solver: the plugin RK5 (of odeflow_solvers) is not",
        ),
        ("fit -c spiral --model Trajektory", "model: no task named 'Trajektory'. Did you mean Trajectory?"),
        (
            "fit -c spiral --data Spirals",
            "data: no data named 'Spirals'. Did you mean Spiral?  available: … Digits, … MNIST",
        ),
        ("fit -c spiral --model.dynamics MLPP", "model.dynamics: no dynamics named 'MLPP'. Did you mean MLP?"),
        (
            "fit -c spiral --model.gradient Adjiont",
            "model.gradient: no gradient named 'Adjiont'. Did you mean Adjoint?",
        ),
        (f"fit {ADJOINT} RK5", f"model.gradient.solver: no solver named 'RK5'. {SOLVERS}"),
        ("fit -c spiral --model.solver Adjoint", "model.solver: no solver named 'Adjoint'"),
        ("fit -c spiral --model.solver RungeKutta", "model.solver: no solver named 'RungeKutta'"),
        ("fit -c spiral --model.solver 5", "model.solver: expected a solver plugin by name, got 5"),
        ("fit -c spiral --model true", "model: expected a task plugin by name, got True"),
        # options of plugins
        ("fit -c spiral --model.solvr RK4", "model: Trajectory has no option 'solvr'. Did you mean solver?  options:"),
        (
            "fit -c spiral --model.solver.rtoll 1",
            f"model.solver: Dopri5 has no option 'rtoll'. Did you mean rtol?  {DOPRI5}",
        ),
        (
            "fit -c spiral --model.solver RK4 --model.solver.stepsize 1",
            "RK4 has no option 'stepsize'. Did you mean step_size?",
        ),
        (
            "fit -c spiral --model.solver RK4 --model.solver.rtol 1",
            "RK4 has no option 'rtol'.  options: step_size, num_steps",
        ),
        (
            "fit -c spiral --model.flow.regularizers+=Kinetc",
            "model.flow.regularizers[0]: no regularizer named 'Kinetc'. Did you mean Kinetic?  available: JacobianNorm, Kinetic,",
        ),
        (
            "fit -c spiral --model.flow.regularizers+=Kinetic --model.flow.regularizers.wait 1",
            "model.flow.regularizers[0]: Kinetic has no option 'wait'. Did you mean weight?  options: weight",
        ),
        (
            "fit -c spiral --model.flow.augmnt 1",
            "model.flow: FlowOptions has no option 'augmnt'. Did you mean augment?",
        ),
        ("fit -c spiral --model.flow 1", "model.flow: expected options of its own, t0, t1, augment, lift, "),
        ("fit -c spiral --model.augment 1", "Trajectory has no option 'augment'. Did you mean flow.augment?"),
        ("fit -c spiral --model.flow.t1 2", "Trajectory does not support flow.t1: the times are those of the data;"),
        ("fit -c digits/mlp --model.flow.steer 0.1", "does not support flow.steer: without dynamics there is no flow"),
        ("fit -c density/two_moons --model.flow.augment 1", "Density does not support flow.augment: a density needs"),
        ("fit -c anode/crossing --model.flow.steer 2", "steer must lie between 0 and the flow's duration 1; got 2"),
        (
            "fit -c latent/spirals --model.encoder RNNEncodr",
            "model.encoder: no encoder named 'RNNEncodr'. Did you mean RNNEncoder?  available: FourierEncoder, ODERNNEncoder, RNNEncoder, TrendEncoder",
        ),
        (
            "fit -c latent/spirals --model.readout.likelihood.noise 1",
            "model.readout.likelihood: Gaussian has no option 'noise'. Did you mean noise_std?  options: noise_std, learn, balance",
        ),
        ("fit -c latent/spirals --model.decoder Perceptron", "no option 'decoder'. Did you mean readout.decoder?"),
        ("fit -c latent/spirals --model.readout.decoder.hidden [0]", "Perceptron: hidden must be at least 1; got [0]"),
        ("fit -c latent/spirals --model.bound.samples 0", "samples must be at least 1; got 0"),
        ("fit -c latent/spirals --model.hide 0.1", "LatentODE has no option 'hide'. Did you mean masking.hide?"),
        ("fit -c latent/spirals --model.encoder ODERNNEncoder", "model.encoder: ODERNNEncoder needs dynamics, solver"),
        ("fit -c spiral --model.dynamics.hiden 1", "model.dynamics: MLP has no option 'hiden'. Did you mean hidden?"),
        ("fit -c digits/ode_net --model.dynamics MLP", "model.dynamics: MLP needs dim: give --model.dynamics.dim"),
        (
            "fit -c digits/ode_net --model.flow.regularizers [Kinetic]",
            "model.flow.regularizers[0]: Kinetic needs weight: give --model.flow.regularizers.weight",
        ),
        ("fit -c spiral --data.batchsize 3", "data: Spiral has no option 'batchsize'. Did you mean batch_size?"),
        (
            "fit -c spiral --model.gradient.solver RK4",
            "model.gradient: Checkpointed has no option 'solver'.  options: ",
        ),
        (f"fit {ADJOINT} RK4 --model.gradient.solver.steps 1", "model.gradient.solver: RK4 has no option 'steps'."),
        (
            "fit -c spiral --model.gradient Backprop --model.gradient.foo 1",
            "model.gradient: Backprop has no option 'foo'.  options: none",
        ),
        ("fit -c spiral --model.init_args.solver.init_args.rtoll 1", "model.solver: Dopri5 has no option 'rtoll'."),
        ("fit -c spiral --model.solver={class_path: RK4, init_args: {n: 2}}", "model.solver: RK4 has no option 'n'."),
        # options of the trainer, the optimizer, the schedule
        ("fit -c spiral --trainer.max_epoch 1", "trainer: Trainer has no option 'max_epoch'. Did you mean max_epochs?"),
        (
            "fit -c spiral --trainer.logger WandbLoger",
            "trainer.logger: no logger named 'WandbLoger'. Did you mean WandbLogger?",
        ),
        (
            "fit -c spiral --trainer.callbacks EarlyStoping",
            "no callback named 'EarlyStoping'. Did you mean EarlyStopping?",
        ),
        (
            "fit -c spiral --optimizer Adamm",
            "optimizer: no optimizer named 'Adamm'. Did you mean Adam?  available: ASGD,",
        ),
        ("fit -c spiral --optimizer torch.optim.Adamm", "optimizer: no optimizer named 'Adamm'."),
        (
            "fit -c spiral --optimizer.lrr 1",
            "optimizer: Adam has no option 'lrr'. Did you mean lr?  options: lr, betas, eps",
        ),
        ("fit -c spiral --lr_scheduler StepLRR", "lr_scheduler: no lr_scheduler named 'StepLRR'. Did you mean StepLR?"),
        (
            "fit -c spiral --lr_scheduler ExponentialLR --lr_scheduler.gama 1",
            "ExponentialLR has no option 'gama'. Did you mean gamma?  options: gamma,",
        ),
        (
            "fit -c spiral --modle.solver RK4",
            "no option named 'modle'. Did you mean model?  available: model, data, trainer",
        ),
        ("fit -c spiral --optimiser Adam", "no option named 'optimiser'. Did you mean optimizer?"),
        ("fit -c spiral --nonsense", "no option named 'nonsense'.  available: model"),
        ("fit -c spiral stray", "there is no option stray"),
        # values
        ("fit -c spiral --model.solver.rtol abc", "rtol: Expected a float. Got value: abc"),
        ("fit -c spiral --model.solver.rtol=", "rtol: Expected a float"),
        ("fit -c spiral --data.batch_size 3.5", "batch_size: Expected a int. Got value: 3.5"),
        ("fit -c spiral --model.dynamics.hidden [a,b]", "hidden: Expected a int. Got value: a"),
        (
            "fit -c spiral --model.distance max",
            "distance: Expected a typing.Literal['mae', 'mse', 'nll']. Got value: max",
        ),
        ("fit -c spiral --model.distance [1", "distance: Expected a typing.Literal"),
        ("fit -c spiral --optimizer.lr fast", "lr: Expected a float, got fast"),
        ("fit -c spiral --trainer.max_epochs one", "trainer.max_epochs: Expected a int, got one"),
        ("fit -c spiral --seed_everything x", "seed_everything: Expected a bool; Expected a int, got x"),
        ("fit -c spiral --model.solver.rtol -1", "Dopri5: rtol and atol must not be negative"),
        (
            "fit -c spiral --model.solver RK4",
            "RK4: the method has no error estimate, so it takes fixed steps: give step_size or num_steps",
        ),
        ("fit -c spiral --trainer.accelerator gpuu", "'gpuu'"),
        ("fit -c spiral --trainer.limit_train_batches -1", "invalid value -1 for limit_train_batches"),
        ("fit -c spiral --trainer.max_epochs+ 3", "trainer.max_epochs is 15. Write trainer.max_epochs to replace it"),
        ("fit -c spiral --seed_everything -1", "seed_everything: expected a number from 0 to 4294967295, got -1"),
        ("fit -c spiral --seed_everything 1000000000000", "from 0 to 4294967295, got 1000000000000"),
        ("fit -c spiral --optimizer.lr 0", "optimizer: lr must be positive; got 0"),
        (
            "fit -c spiral --optimizer.lr 1e308",
            "optimizer.lr: expected a number of magnitude 3.4e+38 at most, got 1e+308",
        ),
        ("fit -c spiral --optimizer.betas [2,3]", "Invalid beta parameter at index 0: 2.0"),
        ("fit -c spiral --model.solver.atol .nan", "model.solver.atol: expected a number of magnitude 3.4e+38 at most"),
        ("fit -c spiral --data.size 99999999999999999999", "data.size: expected a 64-bit integer"),
        ("fit -c spiral --model.solver {class_path: RK4, class_path: Euler}", "the key class_path was given in line 1"),
        ("fit -c spiral --data Forecast", "no data named 'Forecast': … is for others to subclass, since ABC is among"),
        ("fit -c spiral --data SeriesData", "no data named 'SeriesData'"),
        ("plugins show Forecast", "no plugin named 'Forecast': the class odeflow_data.forecast.Forecast is for others"),
        ("fit --model Trajectory --data Spiral", "required: dynamics, solver"),
        # help
        ("fit --model.help RK4", "--model.help: no task named 'RK4'. … available: … Classification, … Trajectory"),
        ("fit --model.solver.help Dopri5", "odeflow plugins show Dopri5"),
        # plugins and recipes
        (
            "plugins list solvr",
            "no kind of plugin named 'solvr'. Did you mean solver?  available: solver, dynamics, gradient",
        ),
        ("plugins show RK5", "no plugin named 'RK5'. Did you mean RK4?  available:"),
        ("plugins list --plugins nothing.py", "there is no plugin file nothing.py"),
        ("recipes show spirall", "no recipe or file named 'spirall'. Did you mean spiral?"),
        ("recipes copy spirall my.yaml", "no recipe or file named 'spirall'. Did you mean spiral?"),
    ],
)
def test_a_mistake_is_told_in_a_few_lines(refused, words, told):
    """A name that does not exist, or a value that does not fit, is told with its place, the nearest and all there are."""
    words = [word.replace("\0", " ") for word in words.replace(": ", ":\0").replace(", ", ",\0").split()]
    message = refused(words)
    assert all(part in message for part in told.split(" … ")), message


@pytest.mark.parametrize("words", ["plugins lst", "recipes lst", "recipes", "recipes copy spiral", "plugins show"])
def test_a_subcommand_is_told_with_its_usage(command, words):
    """`recipes` and `plugins` answer a wrong or missing word by their usage, and exit status 2."""
    outcome = command(words)
    assert outcome.status == 2
    assert "usage: odeflow" in outcome.err
    assert len(outcome.err.splitlines()) <= 4


TASK = "class_path: Trajectory, init_args: {dynamics: {class_path: MLP, init_args: {dim: 2}}"


LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [1, 2", "bad.yaml, line 1, column 13: this is not valid YAML: expected ',' or ']'"),
        ("model:\n\tfoo: 2", "bad.yaml, line 2, column 1: this is not valid YAML: found character '\\t'"),
        ("a: 1\n b: 2", "bad.yaml, line 2, column 3: this is not valid YAML"),
        ("a\x00b", "bad.yaml is not YAML"),
        ("\udce9", "bad.yaml is not YAML: 'utf-8' codec"),
        ("- 1", "must hold keys such as model, data and trainer; it holds [1]"),
        ("", "it holds None"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor for the tag"),
        ("modle: {class_path: Trajectory}", "no option named 'modle'. Did you mean model?"),
        ("1: 2", "no option named '1'"),
        (
            "trainer: {max_epochs: 1}\n\ntrainer: {max_steps: 1}",
            "bad.yaml, line 3, column 1: this is not valid YAML: the key trainer was given in line 1 already; merge the two",
        ),
        ("model:\n  init_args:\n    solver: {class_path: RK4, class_path: Euler}", "bad.yaml, line 3, column 31: "),
        ("? \n: 3", "bad.yaml, line 1, column 2: this is not valid YAML: a key must be a word"),
        ("a: {[1]: 2}", "a key must be a word"),
        ("[" * 2000, "nested deeper than 50 levels"),
        ("a: " + "[" * 60 + "]" * 60, "line 1, column 54: this is not valid YAML: nested deeper than 50 levels"),
        ("a: &a [*a]", "nested deeper than 50 levels"),
        (LAUGHS, "it holds more than 100,000 values"),
        ("a: !!bool x", "a value is not what it says to be"),
        ("a: !!binary aGk=", "could not determine a constructor for the tag"),
        ("ckpt_path: 3", "bad.yaml: ckpt_path must be a file; got 3"),
        ("seed_everything: -1", "seed_everything: expected a number from 0 to 4294967295, got -1"),
        ("model: {class_path: 3.7}", "model: class_path must be a class's name; got 3.7"),
        ("model: {init_args: {solver: {class_path: [RK4]}}}", "model.solver: class_path must be a class's name"),
        ("trainer: {logger: {class_path: 3.7}}", "trainer.logger: class_path must be a class's name; got 3.7"),
        ("trainer: {callbacks: [{}]}", "trainer.callbacks[0]: which callback? Give class_path: one of "),
        ("optimizer: 3", "optimizer: expected an optimizer by name, got 3"),
        ("optimizer: {class_path: Adam, lr: 3}", "optimizer: the options of Adam go under init_args"),
        ("optimizer: {class_path: Adam, dict_kwargs: {x: 1}}", "optimizer: Adam takes no dict_kwargs; write x under"),
        ("model: {dict_kwargs: {x: 1}}", "model: Trajectory takes no dict_kwargs; write x under init_args"),
        ("trainer: {max_epochs+: 3}", "max_epochs+ appends to a list; max_epochs is 15"),
        ("trainer: {max_epoch: 3}", "trainer: Trainer has no option 'max_epoch'. Did you mean max_epochs?"),
        ("trainer: 3", "trainer: expected options such as max_epochs, got 3"),
        (
            "trainer: {callbacks: [{class_path: EarlyStoping}]}",
            "no callback named 'EarlyStoping'. Did you mean EarlyStopping?",
        ),
        ("optimizer: {class_path: Adam, init_args: {rate: 1}}", "optimizer: Adam has no option 'rate'"),
        (f"model: {{{TASK}, solver: {{class_path: RK5}}}}}}", "model.solver: no solver named 'RK5'. Did you mean RK4?"),
        ("model: {init_args: {solver: {init_args: {rtoll: 1}}}}", "model.solver: Dopri5 has no option 'rtoll'"),
        ("model: {init_args: {solver: {init_args: {rtol: abc}}}}", "rtol: Expected a float. Got value: abc"),
        ("model: {init_args: {solver: [RK4]}}", "model.solver: expected a solver plugin by name, got ['RK4']"),
        (
            "model: {class_path: Trajectory, init_args: [1, 2]}",
            "model: init_args must name the options of Trajectory; got [1, 2]",
        ),
        ("model: {class_path: Trajectory, solver: Dopri5}", "the options of Trajectory go under init_args"),
    ],
)
def test_a_bad_file_is_told_in_a_few_lines(refused, text, told):
    """A file that is no YAML, or says what makes no sense, is refused by name, with line and column if it has them."""
    Path("bad.yaml").write_bytes(text.encode(errors="surrogateescape"))
    assert told in refused("fit -c spiral -c bad.yaml")


def test_a_recipe_without_a_task_says_so(refused):
    """A model without a class is asked for one, with all there are."""
    Path("bad.yaml").write_text("model: {init_args: {solver: Dopri5}}")
    assert "model: which task plugin? Give class_path: one of " in refused("fit -c bad.yaml")


def test_a_run_that_fails_as_foreseen_needs_no_traceback(refused, brief):
    """What is found out only during the run, such as a state of the wrong size, ends it in a line as well."""
    assert "the dynamics have the 3 states y_1, y_2, y_3; the data have 2" in refused(
        f"fit -c spiral --model.dynamics.dim 3 {brief}"
    )


UNFIT = """
import lightning.pytorch as pl
import odeflow as of
import torch

class PlainData(pl.LightningDataModule):
    pass

class Lossless(of.Task):
    '''A task with a misspelt method.'''

    def los(self, batch, stage):
        return batch

class Uncalled(of.Task):
    '''A task that does not build its base.'''

    def __init__(self, size: int = 1) -> None:
        self.layer = torch.nn.Linear(size, size)

    def loss(self, batch, stage):
        return self.layer.weight.sum()

class PlainField(torch.nn.Module):
    def forward(self, t, y):
        return y
"""


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of classes that are no plugins, written once, since two plugins must not share a name."""
    file = tmp_path_factory.mktemp("plugins") / "unfit.py"
    file.write_text(UNFIT)
    return file


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data PlainData", "unfit.PlainData is a LightningDataModule, but no odeflow.DataModule; subclass"),
        ("--data unfit.PlainData", "unfit.PlainData is a LightningDataModule, but no odeflow.DataModule; subclass"),
        ("--model.dynamics PlainField", "unfit.PlainField is a Module, but no odeflow.Dynamics; subclass"),
        ("--model Lossless", "no task named 'Lossless': the class unfit.Lossless lacks loss (it has los)"),
        ("--model unfit.Lossless", "the class unfit.Lossless lacks loss (it has los)"),
        (
            "--model Uncalled",
            "Uncalled.__init__ must call super().__init__() first, the constructor of LightningModule",
        ),
    ],
)
def test_a_class_that_is_no_plugin_is_told_why(refused, unfit, words, told):
    """A class that was to be a plugin but is none, or cannot be built, is told what it lacks."""
    assert told in refused(f"fit -c spiral --plugins {unfit} {words}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor vall",
            "Early stopping conditioned on metric `vall`",
        ),
        ("--lr_scheduler StepLR --lr_scheduler.step_size 0", "the optimizer or the schedule cannot go on"),
    ],
)
def test_what_only_the_run_finds_out_is_told(refused, brief, words, told):
    """A setting that Lightning or an optimizer refuses during the run ends it in a line."""
    assert told in refused(f"fit -c spiral {words} {brief}")


def test_a_plugin_file_that_fails_is_named(refused):
    """A file of plugins that cannot be imported is named with its error."""
    Path("broken_file.py").write_text("import nothing_of_that_name\n")
    message = refused("fit -c spiral --plugins broken_file.py")
    assert "plugins from broken_file.py cannot be imported: No module named 'nothing_of_that_name'" in message


def test_nothing_is_left_by_a_mistake(refused):
    """A command that is refused makes no folders, nor does one that only prints."""
    refused("fit -c spiral --model.solver RK5")
    refused("fit -c spiral --model.solver.rtol abc")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("fit -c digits/ode_net --data.batch_size 5000", "Digits: 1,197 samples train, fewer than batch_size=5,000"),
        ("fit -c spiral --trainer.limit_train_batches 0", "fit did nothing: Spiral returned no batches; limit_train_"),
        ("fit -c spiral --trainer.limit_train_batches 0.001", "0.001 * 100 < 1. Please increase"),
        ("test -c spiral --trainer.limit_test_batches 0", "test did nothing: Spiral returned no batches; limit_test_"),
        ("validate -c spiral --trainer.limit_val_batches 0", "validate did nothing: Spiral returned no batches"),
        ("predict -c spiral --trainer.limit_predict_batches 0", "predict did nothing: Spiral returned no batches"),
    ],
)
def test_a_run_without_a_batch_is_refused(command, words, told):
    """A run that would see no batch ends with status 2 and says why, not with success."""
    outcome = command(f"{words} --trainer.enable_progress_bar false")
    assert outcome.status == 2
    assert told in outcome.err.rpartition("error: ")[2], outcome.err
