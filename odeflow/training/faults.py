"""Faults: what follows a training step that fails."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from odeflow.engine.output.solution import SolveError, Stats
from odeflow.errors import SettingError, TrainingError
from odeflow.flow.flow import Flow
from odeflow.training.culprit import broken_gradients, broken_layer, broken_parameters, keep_buffers
from odeflow.training.growth import Growth, GrowthState
from odeflow.training.snapshot import Snapshot, SnapshotState

Policy = Literal["stop", "skip", "rewind"]
ADVICE = (
    "Lower the learning rate or clip the gradient, or go on without such steps by --faults.on_nonfinite skip or rewind"
)


class State(TypedDict):
    """Counts and the states to return to, as checkpoints contain them."""

    counts: dict[str, int]
    recent: int
    good: int
    growth: GrowthState
    snapshots: list[SnapshotState]


class Faults(Callback):
    """Decides what follows a training step that fails: in a solve, by loss or gradient that are not finite, or by cost.

    - `stop` ends the run with an error. The checkpoints written before are from before the fault.
    - `skip` leaves weights, buffers and the optimizer's state as they are, and goes on with the next batch.
    - `rewind` does so from the weights, their averages and the optimizer's state of `rewind_steps` to twice as many
      steps before. The schedule of the learning rate goes on.

    Each fault is reported with epoch, batch, the time of the solve, and the first layer or the parameters that are not
    finite, as far as they are known. From the first on, `faults/skipped`, `faults/rewound` and `faults/fallbacks`, of
    solves with `fallback_steps`, are logged. All processes of a run do the same.

    A solve that fails in a validation amid the training ends the run, too, or under `skip` and `rewind` leaves its
    batch out of the loss and the metrics, and is counted as `faults/omitted`. If no batch is left, they are nan: the
    best checkpoint remains the best; of several processes, the run ends. Where a solve fails in one of them, the loss
    leaves out the batches of all, and other metrics have those of the others.

    Args:
        on_nonfinite: "stop", "skip" or "rewind".
        max_faults: Number of faults without progress after which the run ends: skipped steps in a row, or returns to
            the same state.
        rewind_steps: Number of steps between two states that are kept in memory and in checkpoints, to return to.
        evaluations: Budget of a training step: evaluations of the field in the forward and backward passes, of the last
            solves of all flows. A step that exceeds it is a fault. Without a budget, too, a warning is given when
            evaluations grow to three times as many.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        on_nonfinite: Policy = "stop",
        max_faults: int = 10,
        rewind_steps: int = 20,
        evaluations: int | None = None,
    ) -> None:
        if on_nonfinite not in ("stop", "skip", "rewind"):
            raise SettingError(f"faults.on_nonfinite must be 'stop', 'skip' or 'rewind'; got {on_nonfinite!r}")
        for name, value in {"max_faults": max_faults, "rewind_steps": rewind_steps, "evaluations": evaluations}.items():
            if value is not None and value < 1:
                raise SettingError(f"faults.{name} must be positive; got {value}")
        self.policy, self.max_faults, self.every, self.budget = on_nonfinite, max_faults, rewind_steps, evaluations
        self.counts = {"skipped": 0, "rewound": 0, "fallbacks": 0, "omitted": 0}
        self.fault: str | None = None  # of the step that is being taken
        self.stepping = False  # whether the present batch is the last before an optimizer step
        self.omits = False  # whether the present batch of a validation is left out
        self.omitted: list[str] = []  # the faults of the present validation
        self.evaluated = 0  # its other batches
        self.recent = self.good = 0  # faults without progress, and steps since the last fault or snapshot
        self.snapshots: list[Snapshot] = []
        self.counted: list[Stats] = []  # the statistics of the last step
        self.growth = Growth()

    # Called by `Task`

    def guarded(self, task: Any, batch: Any, loss: Callable[[Any], Tensor]) -> Tensor | None:
        """The loss of a batch; None if the step fails, in any process, and the run goes on.

        Args:
            task: The task.
            batch: The batch.
            loss: Batch ↦ loss.

        Raises:
            OdeflowError: The step fails, and the run is to stop.
        """
        restore = None if self.policy == "stop" else keep_buffers(task)
        value = None
        with self.catching(task):
            try:
                value = loss(batch)
                if not bool(value.isfinite()):
                    raise TrainingError(f"the loss is {value.item()}")
            except (SolveError, TrainingError) as error:
                finite = isinstance(error, SolveError) and error.broken is None  # it failed otherwise
                layer = "" if finite else broken_layer(task, batch)
                error.args = (f"{error}. Numbers cease to be finite in the layer {layer}",) if layer else error.args
                raise
        if restore is None:
            return value
        if self.fault is not None or task.trainer.world_size > 1:
            self._agree(task.trainer)
        if self.fault is None:
            return value
        restore()
        return None

    @contextmanager
    def catching(self, task: LightningModule) -> Generator[None]:
        """Notes the failure of a solve, or raises it with its place if the run is to stop."""
        try:
            yield
        except (SolveError, TrainingError) as error:
            weights = broken_parameters(task)
            broken = f". Parameters that are not finite: {weights}" if weights else ""
            error.args = (f"{_place(task.trainer)}: {error}{broken}",)
            if self.policy == "stop":
                error.args = (f"{error}. {ADVICE}",)
                raise
            self.fault = str(error)

    def omitting(self, task: Any, batch: Any, loss: Callable[[Any, str], Tensor]) -> Tensor | None:
        """The loss of a batch of a validation; None if its solve fails, in any process, and the run goes on.

        Args:
            task: The task.
            batch: The batch.
            loss: (batch, stage) ↦ loss.

        Raises:
            SolveError: A solve fails, and the run is to stop.
        """
        value, fault = None, "a solve failed in another process"
        try:
            value = loss(batch, "val")
        except SolveError as error:
            if self.policy == "stop":
                error.args = (
                    f"{error}. Leave such batches out of the metrics by --faults.on_nonfinite skip or rewind",
                )
                raise
            fault = str(error)
        if self.policy != "stop" and task.trainer.world_size > 1:
            value = None if task.trainer.strategy.reduce_boolean_decision(value is None, all=False) else value
        self.omits = value is None
        self.omitted += [fault] * self.omits
        self.evaluated += not self.omits
        return value

    @staticmethod
    def no_loss(task: LightningModule) -> Tensor:
        """The loss of a step that failed: 0, on which all parameters depend, as other processes may wait for them."""
        parts = (each.sum() * 0 for each in task.parameters() if each.requires_grad)
        return sum(parts, start=torch.zeros((), device=task.device))

    # Hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy == "rewind" and isinstance(trainer.strategy, FSDPStrategy):
            raise SettingError(
                "faults.on_nonfinite: 'rewind' does not support FSDP, whose weights are in parts; use 'skip'"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy == "rewind" and not self.snapshots:
            self.snapshots = [Snapshot.take(trainer, pl_module)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.stepping = True
        if self.fault is None:
            reason = self._excess(pl_module) or _broken_gradient(trainer, pl_module)
            if reason is not None:
                with self.catching(pl_module):
                    raise TrainingError(reason)
        if self.policy != "stop" and trainer.world_size > 1:
            self._agree(trainer)
        if self.fault is not None:
            optimizer.zero_grad(set_to_none=True)  # optimizers leave parameters without a gradient as they are

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        known, self.counted = self.counted, _stats(pl_module)
        stats = [one for one in self.counted if not any(one is each for each in known)]  # a step may fail
        self.counts["fallbacks"] += sum(one.fallbacks for one in stats)
        warning = self.growth.add(sum(one.nfe_forward + one.nfe_backward for one in stats)) if stats else None
        if warning is not None:
            rank_zero_warn(f"{_place(trainer)}: {warning}")
        if self.stepping:
            self.stepping = False
            (self._go_on if self.fault is None else self._answer)(trainer, pl_module)
        if any(self.counts.values()):
            for name, count in self.counts.items():
                pl_module.log(
                    f"faults/{name}",
                    float(count),
                    on_step=False,
                    on_epoch=True,
                    reduce_fx="max",
                    batch_size=1,
                    sync_dist=True,
                )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.omits, self.omitted, self.evaluated = False, [], 0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the batches that are left out. Metrics that no batch had are nan, not those of the validation before.

        Raises:
            TrainingError: No batch had a loss in all of several processes, of which some have metrics and others none.
        """
        if self.omitted:
            count = len(self.omitted)
            self.counts["omitted"] += count
            rank_zero_warn(
                f"{self.omitted[0]}. {count} of {count + self.evaluated} batches are left out of the metrics; "
                f"so far in this run: {self.counts['omitted']}"
            )
            if not self.evaluated and trainer.world_size > 1:
                raise TrainingError("no batch of the validation had a loss in all processes: the run ends")
        if self.omitted and not self.evaluated:
            several = (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks)
            monitored = {str(getattr(each, "monitor", "")) for each in several}
            known = {"val/loss", *monitored, *trainer.callback_metrics}
            for name in sorted(name for name in known if name.startswith("val/")):
                pl_module.log(name, math.nan)
        if self.counts["omitted"]:
            pl_module.log("faults/omitted", float(self.counts["omitted"]), batch_size=1, sync_dist=True)
        self.omits = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if (
            trainer.training
            and isinstance(exception, Exception)
            and not isinstance(exception, (SolveError, TrainingError))
        ):
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            when = "in" if progress.ready > progress.completed else "after"  # which is when batches are loaded
            exception.add_note(f"This happened in training, {_place(trainer, f'{when} batch')}.")

    def state_dict(self) -> dict[str, Any]:
        """Counts and the states to return to."""
        snapshots, growth = [each.plain() for each in self.snapshots], self.growth.plain()
        kept = State(counts=self.counts, recent=self.recent, good=self.good, growth=growth, snapshots=snapshots)
        return {**kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state returned by `state_dict`."""
        self.counts |= state_dict["counts"]
        self.recent, self.good = state_dict["recent"], state_dict["good"]
        self.growth = Growth(**state_dict["growth"])
        self.snapshots = [Snapshot(**each) for each in state_dict["snapshots"]] if self.policy == "rewind" else []

    def _agree(self, trainer: Trainer) -> None:
        """Makes a fault of one process a fault of all."""
        if trainer.strategy.reduce_boolean_decision(self.fault is not None, all=False) and self.fault is None:
            self.fault = f"{_place(trainer)}: the step failed in another process"

    def _excess(self, module: LightningModule) -> str | None:
        """What a step says that exceeds the budget."""
        spent = sum(one.nfe_forward + one.nfe_backward for one in _stats(module))
        if self.budget is None or spent <= self.budget:
            return None
        return f"the step took {spent:,} evaluations of the field, more than faults.evaluations = {self.budget:,}"

    def _go_on(self, trainer: Trainer, module: LightningModule) -> None:
        """Counts a step that did not fail."""
        self.good += 1
        if self.policy != "rewind":
            self.recent = 0
        elif self.good >= self.every:
            self.recent = self.good = 0
            self.snapshots = [*self.snapshots[-1:], Snapshot.take(trainer, module)]

    def _answer(self, trainer: Trainer, module: LightningModule) -> None:
        """Skips the step or rewinds, and says so.

        Raises:
            TrainingError: There were too many faults.
        """
        fault, self.fault = self.fault, None
        self.recent, self.good = self.recent + 1, 0
        name = "skipped" if self.policy == "skip" else "rewound"
        self.counts[name] += 1
        if self.recent > self.max_faults:
            raise TrainingError(f"{fault}. {self.max_faults} faults came before it, without progress: the run ends")
        if self.policy == "rewind":
            self.snapshots = self.snapshots[:1]
            self.snapshots[0].restore(trainer, module)
        rank_zero_warn(f"{fault}. The step is {name}; so far in this run: {self.counts[name]}")


def faults_of(trainer: Trainer | None) -> Faults | None:
    """The callback of a trainer; None without one."""
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return next((each for each in callbacks if isinstance(each, Faults)), None)


def _place(trainer: Trainer, batch: str = "batch") -> str:
    """Where a training is."""
    return f"epoch {trainer.current_epoch}, {batch} {trainer.fit_loop.batch_idx} (step {trainer.global_step})"


def _stats(module: LightningModule) -> list[Stats]:
    flows = (each for each in module.modules() if isinstance(each, Flow))
    return [flow.stats for flow in flows if flow.stats is not None]


def _broken_gradient(trainer: Trainer, module: LightningModule) -> str | None:
    """What a gradient is that is not finite."""
    if getattr(trainer.precision_plugin, "scaler", None) is not None:  # it skips such steps itself
        return None
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    if not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        return None
    names = broken_gradients(module)  # the norm may overflow
    return f"the gradient is not finite, of {names}" if names else None
