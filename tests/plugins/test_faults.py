"""Laws of trainings that meet faults: each policy leaves sound weights, counts what it did, and says where."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of
from odeflow.training.callbacks import Faults, Randomness, SolverStatistics, WarmupEMA
from odeflow.training.growth import WINDOW, Growth
from odeflow_solvers import RK4, Dopri5

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*no `val_dataloader`",
    "ignore:.*not resumable",
    "ignore:Checkpoint directory",
    "ignore:.*overrides the configure_model",  # which only refuses a strategy
)
BATCHES = 6


class Field(nn.Module):
    """A field with one fault, at a step of training, in a layer of its own."""

    def __init__(self, fault: str = "", at: int = 3) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(2, 2), Last(fault)
        self.fault, self.at, self.step = fault, at, -1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.last(self.linear(y), t, y, self.training and self.step == self.at)


class Last(nn.Module):
    """Where the fault is: a nan after t = 0.5, a nan in the backward pass alone, or stiffness."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, value: Tensor, t: Tensor, y: Tensor, faulty: bool) -> Tensor:
        if not faulty:
            return torch.tanh(value)
        if self.fault == "nan" and float(t) > 0.5:
            return value * math.nan
        if self.fault == "gradient":
            return torch.tanh(value) + Hidden.apply(value)
        return torch.tanh(value) - (1e3 * (y - torch.cos(50 * t)) if self.fault == "stiff" else 0.0)


class Hidden(torch.autograd.Function):
    """0, with a gradient that is nan."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * math.nan


class Fit(of.Task):
    """Regression of the state at t₁; a buffer counts the passes forward."""

    def __init__(self, fault: str = "", at: int = 3, solver: of.Solver | None = None, steps: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        options = of.FlowOptions(fallback_steps=steps)
        self.flow = of.Flow(Field(fault, at), solver or Dopri5(1e-4, 1e-4, max_steps=200), options=options)
        self.register_buffer("passes", torch.zeros(()))

    def loss(self, batch: Any, stage: str) -> Tensor:
        self.flow.dynamics.step = self.trainer.fit_loop.total_batch_idx
        if stage == "train":
            self.passes += 1
        return (self.flow(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Rows(TensorDataset):
    """48 rows, of which one cannot be read."""

    def __init__(self, broken: int = -1) -> None:
        generator = torch.Generator().manual_seed(1)
        super().__init__(*(torch.randn(8 * BATCHES, 2, generator=generator) for _ in range(2)))
        self.broken = broken

    def __getitem__(self, index: int) -> Any:
        if index == self.broken:
            raise OSError("row 30 cannot be read")
        return super().__getitem__(index)


class Witness(pl.Callback):
    """The weights after each step, and a checkpoint before the fault."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.weights.append(nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone())
        if len(self.weights) == 2:
            trainer.save_checkpoint("before.ckpt", weights_only=False)


def trained(task: of.Task, *callbacks: pl.Callback, broken: int = -1, epochs: int = 1, **options: Any) -> Witness:
    """A training on batches of eight rows in order."""
    witness = Witness()
    trainer_of(*callbacks, witness, max_epochs=epochs, **options).fit(task, DataLoader(Rows(broken), batch_size=8))
    return witness


def trainer_of(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A trainer that says and writes nothing."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", callbacks=[*callbacks], **quiet, **{"enable_checkpointing": False, **options})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


WHAT = {
    "nan": (
        of.SolveError,
        r"epoch 0, batch 3 \(step 3\): the step size fell to .* at t = 0\.5.* in the layer flow\.dynamics\.last",
    ),
    "stiff": (
        of.SolveError,
        r"epoch 0, batch 3 \(step 3\): max_steps = 200 steps did not reach the end: at t = 0\.",
    ),
    "gradient": (
        of.TrainingError,
        r"epoch 0, batch 3 \(step 3\): the gradient is not finite, of flow.dynamics.linear.weight",
    ),
}


@pytest.mark.parametrize("fault", WHAT)
def test_stop_names_the_place(fault: str) -> None:
    """The run ends with epoch, batch and time; the weights are those before the fault, as is the checkpoint."""
    error, message = WHAT[fault]
    task, sound = Fit(fault), trained(Fit()).weights
    with pytest.raises(error, match=message):
        trained(task, Faults())
    assert nn.utils.parameters_to_vector(task.parameters()).equal(sound[2])
    assert torch.load("before.ckpt", weights_only=True)["state_dict"]["passes"] == 2


@pytest.mark.parametrize("fault", WHAT)
def test_skip_leaves_everything_as_it_was(fault: str) -> None:
    """Weights, optimizer and buffers do not see the faulty batch; the run goes on as if it were not there."""
    task, faults = Fit(fault), Faults("skip")
    with pytest.warns(UserWarning, match=f"{WHAT[fault][1]}.*The step is skipped; so far in this run: 1"):
        weights = trained(task, faults).weights
    assert weights[3].equal(weights[2])
    assert faults.counts == {"skipped": 1, "rewound": 0, "fallbacks": 0, "omitted": 0}
    assert task.trainer.callback_metrics["faults/skipped"] == 1
    assert task.trainer.callback_metrics["train/loss_epoch"].isfinite()
    assert task.passes == (BATCHES if fault == "gradient" else BATCHES - 1)
    assert task.trainer.optimizers[0].state_dict()["state"][0]["step"] == BATCHES - 1
    alone = Fit()
    rest = [batch for number, batch in enumerate(DataLoader(Rows(), batch_size=8)) if number != 3]
    trainer_of(max_epochs=1).fit(alone, DataLoader(rest, batch_size=None))  # pyright: ignore[reportArgumentType]
    assert nn.utils.parameters_to_vector(alone.parameters()).equal(weights[-1])


def test_rewind_returns_to_earlier_weights() -> None:
    """Weights, their average and the optimizer's moments are those of one to two intervals before the fault."""
    task, faults, average = Fit("nan", at=5), Faults("rewind", rewind_steps=2), WarmupEMA(0.9)
    with pytest.warns(UserWarning, match="The step is rewound; so far in this run: 1"):
        weights = trained(task, faults, average, epochs=2).weights
    assert weights[5].equal(weights[1])  # kept after 2 and 4 steps
    assert not weights[6].equal(weights[5])
    assert task.trainer.callback_metrics["faults/rewound"] == 1
    assert task.trainer.optimizers[0].state_dict()["state"][0]["step"] == 2 + BATCHES
    assert average._average_model.n_averaged == 2 + BATCHES


class Diverging(Fit):
    """From a step on the weights are spoilt."""

    def loss(self, batch: Any, stage: str) -> Tensor:
        if self.trainer.fit_loop.total_batch_idx == 4:
            for each in self.parameters():
                each.data.fill_(math.nan)
        return super().loss(batch, stage)


def test_a_fit_survives_divergence() -> None:
    """Where skipping cannot help, since the weights are spoilt, rewinding does; skipping ends after `max_faults`."""
    with pytest.warns(UserWarning, match="The step is rewound"):
        last = trained(Diverging(), Faults("rewind", rewind_steps=2), epochs=3).weights[-1]
    assert last.abs().max() < 10
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(of.TrainingError, match="3 faults came before it, without progress: the run ends"),
    ):
        trained(Diverging(), Faults("skip", max_faults=3), epochs=3)


@pytest.mark.parametrize("policy", ["stop", "skip", "rewind"])
def test_a_loader_that_raises_ends_the_run(policy: str) -> None:
    """Data that cannot be read are no matter of numbers: under each policy the error is theirs, with the batch."""
    with pytest.raises(OSError, match="row 30 cannot be read") as raised:
        trained(Fit(), Faults(policy), broken=30)
    assert raised.value.__notes__ == ["This happened in training, epoch 0, after batch 2 (step 3)."]
    assert torch.load("before.ckpt", weights_only=True)["global_step"] == 2


def test_the_layer_is_named() -> None:
    """A loss that is not finite is traced to the first layer whose values are not, though its inputs are."""
    with pytest.raises(
        of.TrainingError,
        match=r"batch 3 .*: the loss is nan\. Numbers cease to be finite in the layer spoil\. Lower the",
    ):
        trained(Spoilt(), Faults())


class Spoilt(Fit):
    """The state goes through a layer that is spoilt."""

    def __init__(self) -> None:
        super().__init__()
        self.spoil = Spoil()

    def loss(self, batch: Any, stage: str) -> Tensor:
        value = super().loss(batch, stage)
        return self.spoil(value) if self.trainer.fit_loop.total_batch_idx == 3 else value


class Spoil(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value * math.inf * 0


def test_parameters_that_are_not_finite_are_named() -> None:
    """If weights were spoilt from without, they are what is named."""

    class Broken(Fit):
        def loss(self, batch: Any, stage: str) -> Tensor:
            self.flow.dynamics.linear.bias.data.fill_(math.nan)
            return super().loss(batch, stage)

    with pytest.raises(of.SolveError, match=r"Parameters that are not finite: flow\.dynamics\.linear\.bias"):
        trained(Broken(), Faults())


def test_accumulated_gradients_are_dropped_together() -> None:
    """A fault in one of two batches costs the step of both, and no other."""
    with pytest.warns(UserWarning, match="skipped"):
        weights = trained(Fit("nan", at=2), Faults("skip"), accumulate_grad_batches=2).weights
    assert weights[3].equal(weights[1])
    assert not weights[5].equal(weights[3])


def test_a_budget_of_evaluations() -> None:
    """A step that takes more evaluations than its budget is a fault like others."""
    task = Fit("stiff", solver=Dopri5(1e-4, 1e-4, max_steps=2000))
    with pytest.warns(UserWarning, match=r"took [\d,]+ evaluations of the field, more than faults.evaluations = 300"):
        weights = trained(task, Faults("skip", evaluations=300)).weights
    assert weights[3].equal(weights[2])
    assert not weights[4].equal(weights[3])


def test_growth_is_told_early() -> None:
    """Three times the evaluations are worth a warning, nine times another; noise is not."""
    growth = Growth()
    told = [growth.add(count) for count in [100] * WINDOW + [150] * WINDOW + [320] * 2 * WINDOW + [1000] * WINDOW]
    found = [(number // WINDOW, each) for number, each in enumerate(told) if each is not None]
    assert [number for number, _ in found] == [2, 4]
    assert "grew from 100 to 320" in str(found[0][1])


def test_fallback_to_fixed_steps() -> None:
    """A solve with too many steps is repeated with fixed ones, as of the same method, and counted."""
    faults, task = Faults(), Fit("stiff", steps=1000)
    with pytest.warns(
        UserWarning, match="a solve is repeated with 1000 fixed steps, without error control: max_steps = 200"
    ):
        trained(task, faults)
    assert faults.counts["fallbacks"] == 1
    assert task.trainer.callback_metrics["faults/fallbacks"] == 1


def test_a_fallback_is_the_solve_with_fixed_steps() -> None:
    """Its states are those of the method with so many fixed steps; its cost includes the solve that failed."""
    field, y0 = Field(), torch.randn(4, 2)
    flow = of.Flow(field, Dopri5(1e-6, 1e-6, max_steps=2), options=of.FlowOptions(fallback_steps=5))
    with pytest.warns(UserWarning, match="5 fixed steps"):
        found = flow(y0)
    assert found.equal(of.Flow(field, Dopri5(num_steps=5))(y0))
    assert flow.stats.fallbacks == 1
    assert flow.stats.nfe_forward > of.Flow(field, Dopri5(num_steps=5)).solver.control.num_steps * 6
    with pytest.raises(of.SettingError, match="per_sample"):
        of.Flow(field, Dopri5(per_sample=True), options=of.FlowOptions(fallback_steps=5))
    with pytest.raises(of.SettingError, match="fallback_steps must be positive; got 0"):
        of.FlowOptions(fallback_steps=0)


def test_faults_of_a_resumed_run_are_those_of_the_unbroken_one() -> None:
    """Counts and the states to return to are in the checkpoint: a run resumed before a fault returns to the same."""

    def run(path: str | None = None) -> tuple[Tensor, dict[str, int]]:
        task, faults = Fit("nan", at=5), Faults("rewind", rewind_steps=2)
        saving = ModelCheckpoint(".", filename="at_{step}", every_n_train_steps=5, save_top_k=-1)
        trainer = trainer_of(faults, saving, Randomness(seed=7), max_epochs=2, enable_checkpointing=True)
        with pytest.warns(UserWarning, match="rewound"):
            trainer.fit(task, DataLoader(Rows(), batch_size=8, shuffle=True), ckpt_path=path)
        return nn.utils.parameters_to_vector(task.parameters()), faults.counts

    unbroken, counts = run()
    resumed, recounted = run("at_step=5.ckpt")
    assert resumed.equal(unbroken)
    assert recounted == counts == {"skipped": 0, "rewound": 1, "fallbacks": 0, "omitted": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nonfinite": "ignore"}, "faults.on_nonfinite must be 'stop', 'skip' or 'rewind'; got 'ignore'"),
        ({"max_faults": 0}, "faults.max_faults must be positive; got 0"),
        ({"evaluations": -1}, "faults.evaluations must be positive; got -1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """An option that is out of range is named."""
    with pytest.raises(of.SettingError, match=message):
        Faults(**options)


def test_fixed_steps_are_faults_too() -> None:
    """Without error control the state is found not to be finite at the end, with the times around."""
    with pytest.warns(UserWarning, match=r"batch 3 \(step 3\): the state is not finite: .*t = 1"):
        weights = trained(Fit("nan", solver=RK4(num_steps=4)), Faults("skip")).weights
    assert weights[3].equal(weights[2])


class Judged(Fit):
    """A training whose solves fail in some batches of validation, given as (epoch, batch)."""

    def __init__(self, *fails: tuple[int, int]) -> None:
        super().__init__()
        self.fails, self.losses, self.failing = fails, list[float](), False

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.failing = (self.current_epoch, batch_idx) in self.fails
        super().validation_step(batch, batch_idx)

    def loss(self, batch: Any, stage: str) -> Tensor:
        if stage == "val" and self.failing:
            raise of.SolveError("max_steps = 7 steps did not reach the end")
        value = super().loss(batch, stage)
        if stage == "val":
            self.log("val/other", value)
            self.losses.append(value.item())
        return value


def judged(task: Judged, *callbacks: pl.Callback, epochs: int = 1, **options: Any) -> pl.Trainer:
    """The trainer of a training that is validated on three batches of eight rows."""
    trainer = trainer_of(*callbacks, max_epochs=epochs, num_sanity_val_steps=0, **options)
    rows = DataLoader(Rows(), batch_size=8)
    trainer.fit(task, rows, DataLoader(torch.utils.data.Subset(Rows(), range(24)), batch_size=8))
    return trainer


def test_stop_ends_a_run_in_validation() -> None:
    """By default a solve that fails in validation is an error with its place, and says how to go on."""
    with pytest.raises(of.SolveError, match=r"in validation after epoch 0 \(step 6\): max_steps.*on_nonfinite skip"):
        judged(Judged((0, 1)), Faults())


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_batch_of_validation_is_left_out(policy: Any) -> None:
    """The metrics are means over the other batches; the batch is counted and reported, statistics do not count it."""
    faults, task = Faults(policy), Judged((0, 1))
    with pytest.warns(
        UserWarning,
        match=r"in validation after epoch 0 \(step 6\): max_steps.* 1 of 3 batches are left out of the metrics",
    ):
        found = judged(task, faults, SolverStatistics()).callback_metrics
    assert len(task.losses) == 2
    assert found["val/loss"] == found["val/other"] == pytest.approx(sum(task.losses) / 2)
    assert faults.counts == {"skipped": 0, "rewound": 0, "fallbacks": 0, "omitted": 1}
    assert found["faults/omitted"] == 1


def test_statistics_of_a_batch_that_is_left_out_are_not_those_of_another() -> None:
    """Evaluations are means over the batches whose solves succeed."""

    class Uneven(Judged):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.flow.solver = RK4(num_steps=1 + batch_idx)
            super().validation_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="1 of 3 batches are left out"):
        found = judged(Uneven((0, 1)), Faults("skip"), SolverStatistics()).callback_metrics
    assert found["val/nfe"] == (4 + 12) / 2


@pytest.mark.parametrize("monitor", ["val/loss", "val/other"])
def test_a_validation_without_a_loss_changes_no_best_checkpoint(monitor: str) -> None:
    """Its metrics are nan, not those of the validation before, and the next ones are numbers again."""
    seen: list[dict[str, float]] = []

    class Noting(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append({name: float(trainer.callback_metrics[name]) for name in ("val/loss", "val/other")})

    saving = ModelCheckpoint(".", filename="{epoch}", monitor=monitor, mode="max")
    task = Judged(*((1, batch) for batch in range(3)))
    with pytest.warns(UserWarning, match="3 of 3 batches are left out of the metrics; so far in this run: 3"):
        judged(task, Faults("skip"), saving, Noting(), epochs=3, enable_checkpointing=True)
    assert all(math.isnan(value) for value in seen[1].values())
    assert all(math.isfinite(value) for epoch in (0, 2) for value in seen[epoch].values())
    assert Path(saving.best_model_path).name == "epoch=0.ckpt"
    assert saving.best_model_score == pytest.approx(seen[0][monitor])


def test_a_first_validation_without_a_loss_is_no_error() -> None:
    """A metric that is monitored, and that no batch has had yet, is nan."""
    saving = ModelCheckpoint(".", filename="{epoch}", monitor="val/other")
    task = Judged(*((0, batch) for batch in range(3)))
    with pytest.warns(UserWarning, match="3 of 3 batches are left out of the metrics; so far in this run: 3"):
        judged(task, Faults("skip"), saving, epochs=2, enable_checkpointing=True)
    assert Path(saving.best_model_path).name == "epoch=1.ckpt"


def test_evaluations_of_their_own_fail() -> None:
    """What is not training ends with the error under every policy: a metric of part of the data is none."""
    trainer = trainer_of(Faults("skip"))
    with pytest.raises(of.SolveError, match="max_steps = 7"):
        trainer.validate(Judged((0, 0)), DataLoader(Rows(), batch_size=8), verbose=False)


def test_counts_of_checkpoints_of_before_are_read() -> None:
    """A checkpoint that does not count batches of validation has counted none."""
    faults, state = Faults("skip"), Faults("skip").state_dict()
    faults.load_state_dict(state | {"counts": {"skipped": 2, "rewound": 0, "fallbacks": 0}})
    assert faults.counts == {"skipped": 2, "rewound": 0, "fallbacks": 0, "omitted": 0}
