"""Resumption: combines a checkpoint's training state with the current configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from odeflow.config.checkpoints import other_than
from odeflow.engine.output.solution import Stats
from odeflow.errors import CheckpointError, SettingError
from odeflow.flow.flow import Flow
from odeflow.plugin.spec import mapping, sequence
from odeflow.training.data import data_of
from odeflow.training.files import keep
from odeflow.training.optimizer_state import misfit, misfit_of_schedules
from odeflow.training.task import stored_data

Made = TypedDict("Made", {"class": str, "state": dict[str, Any]})
"""The class and initial state of an optimizer or schedule, restricted to plain data."""
Options = list[Made]


class State(TypedDict):
    """The initial optimizers and schedules, and the last step sizes of flows with `warm_start`, as checkpoints do."""

    optimizers: Options
    schedules: Options
    first_steps: dict[str, float | None]


class Resumption(Callback):
    """Gives the configuration precedence over a checkpoint's options of the optimizer, schedule and early stopping.

    Lightning restores these options along with their state. This callback reapplies the options that have changed
    since, and rescales a learning rate that a schedule has changed. An optimizer or a schedule of another class starts
    afresh. Flows with `warm_start` continue with their last step size. The best checkpoints so far are brought into the
    folder of the new run.

    Args:
        typed: The options of the optimizer and of the schedule that the user typed. A checkpoint that was not written
            by a trainer with this callback, which does not say what they were before, is refused if there are any.
    """

    def __init__(self, typed: Sequence[str] = ()) -> None:
        self.typed = typed
        self.optimizers: Options = []
        self.schedules: Options = []
        self.stored: State | None = None
        self.loaded: dict[str, Any] = {}
        self.patience: list[int] = []
        self.moved: dict[str, str] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        steps = {name: flow.stats.suggested_step for name, flow in _warm(pl_module).items() if flow.stats is not None}
        state = State(optimizers=self.optimizers, schedules=self.schedules, first_steps=steps)
        checkpoint["callbacks"][self.state_key] = state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn is not TrainerFn.FITTING:
            return
        self.loaded = checkpoint
        if self.state_key not in checkpoint.get("callbacks", {}):
            if self.typed:
                raise SettingError(
                    f"{', '.join(self.typed)}: the checkpoint was not written by odeflow fit, so its optimizer and "
                    "schedule go on as they are. Leave these options out, or begin a new run by --weights"
                )
            return
        stored: State = checkpoint["callbacks"][self.state_key]
        if not stored["optimizers"]:  # saved before training by one of Lightning's finders
            return
        self.stored = stored
        self.patience = [each.patience for each in trainer.early_stopping_callbacks]
        for name, flow in _warm(pl_module).items():
            flow.stats = Stats(suggested_step=stored["first_steps"].get(name))
        data = data_of(trainer)
        same = data is not None and stored_data(checkpoint) == data.remembered_spec  # else scores are not comparable
        for each in trainer.checkpoint_callbacks:
            if same and isinstance(each, ModelCheckpoint):
                self.moved |= _moved(checkpoint["callbacks"].get(each.state_key), each)
        _begin_next_epoch(checkpoint["loops"]["fit_loop"])
        done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
        if trainer.max_epochs is not None and -1 < trainer.max_epochs < done:
            raise SettingError(
                f"trainer.max_epochs = {trainer.max_epochs}, but the checkpoint's run has finished {done}. To "
                "continue, give the total number of epochs"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the initial state of optimizers and schedules, before the checkpoint's state is restored.

        Raises:
            CheckpointError: The checkpoint's state is not one of these optimizers and schedules.
        """
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.optimizers = [_made(each, {"groups": each.param_groups}) for each in trainer.optimizers]
        self.schedules = [_made(each, each.state_dict()) for each in schedules]
        if self.stored is not None:
            for each, patience in zip(trainer.early_stopping_callbacks, self.patience, strict=True):
                each.patience = patience
            self._renew("optimizers", "optimizer_states", self.stored["optimizers"], self.optimizers)
            self._renew("schedules", "lr_schedulers", self.stored["schedules"], self.schedules)
        if self.loaded and not isinstance(trainer.strategy, FSDPStrategy):  # whose parameters are in parts
            wrong = misfit(trainer.optimizers, self.loaded.get("optimizer_states", []))
            wrong = wrong or misfit_of_schedules(schedules, self.loaded.get("lr_schedulers", []))
            if wrong is not None:
                raise CheckpointError(
                    f"{trainer.ckpt_path} cannot be resumed: {wrong}. {other_than(str(trainer.ckpt_path))}, or begin a "
                    "new run with its weights by --weights"
                )

    def _renew(self, kind: str, key: str, before: Options, now: Options) -> None:
        """Drops the state of optimizers or schedules if those of this run are of other classes."""
        if _classes(now) != _classes(before):
            self.loaded[key] = []
            names = [", ".join(_classes(each)) or "none" for each in (before, now)]
            rank_zero_info(f"The checkpoint's {kind}: {names[0]}. This run starts with new ones: {names[1]}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Applies the changed options after the checkpoint's state is restored, and brings the best checkpoints."""
        if trainer.is_global_zero:
            for path, copy in self.moved.items():
                keep(Path(path), Path(copy))
        self.loaded = {}
        if self.stored is None:
            return
        scheduled = bool(self.schedules) and _classes(self.schedules) == _classes(self.stored["schedules"])
        if scheduled:
            for config, now, then in zip(
                trainer.lr_scheduler_configs, self.schedules, self.stored["schedules"], strict=True
            ):
                changed = _changed(now["state"], then["state"])
                config.scheduler.load_state_dict({**config.scheduler.state_dict(), **changed})
        if _classes(self.optimizers) == _classes(self.stored["optimizers"]):
            for optimizer, now, then in zip(
                trainer.optimizers, self.optimizers, self.stored["optimizers"], strict=True
            ):
                for group, new, old in zip(
                    optimizer.param_groups, now["state"]["groups"], then["state"]["groups"], strict=True
                ):
                    told = [f"{key} {old.get(key)} → {value}" for key, value in _changed(new, old).items()]
                    if told:
                        rank_zero_info(f"The optimizer goes on with other options: {', '.join(told)}")
                    _set_group(group, new, old, scheduled)
        self.stored = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.restarting and trainer.max_steps == -1:
            trainer.fit_loop.restarting = False  # otherwise schedules that follow a metric skip this epoch


def _made(part: Any, state: dict[str, Any]) -> Made:
    cls = type(part)
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "state": _plain(state)}


def _classes(options: Options) -> list[str]:
    return [each["class"] for each in options]


def _plain(value: Any) -> Any:
    """The plain data in a value, without parameters and functions."""
    entries, items = mapping(value), sequence(value)
    if entries is not None:
        return {key: _plain(entry) for key, entry in entries.items() if key != "params"}
    if items is not None:
        return [_plain(item) for item in items]
    return value if isinstance(value, (bool, int, float, str)) else None


def _changed(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """The entries that differ from before. A schedule's `_last_lr` is state, not an option."""
    return {key: value for key, value in now.items() if key != "_last_lr" and value != then.get(key, value)}


def _set_group(group: dict[str, Any], now: dict[str, Any], then: dict[str, Any], scheduled: bool) -> None:
    """Applies the changed options of a parameter group. A scheduled learning rate is rescaled."""
    changed = _changed(now, then)
    rate, former = (made.get("initial_lr", made["lr"]) for made in (now, then))
    if not scheduled:
        changed["lr"] = now["lr"]
    elif rate != former:
        changed["lr"] = group["lr"] * rate / former if former else rate
    group.update(changed)


def _warm(module: nn.Module) -> dict[str, Flow]:
    """The flows with `warm_start`, by name."""
    flows = ((name, each) for name, each in module.named_modules() if isinstance(each, Flow))
    return {name: flow for name, flow in flows if flow.options.warm_start}


def _moved(stored: dict[str, Any] | None, callback: ModelCheckpoint) -> dict[str, str]:
    """The best checkpoints of the resumed run, by the paths that they get in the folder of the new one, to remain so.

    Args:
        stored: The state of the callback in the checkpoint, which is changed.
        callback: The callback of this run.
    """
    folder = callback.dirpath
    if stored is None or folder is None or not stored.get("dirpath") or stored["dirpath"] == folder:
        return {}
    if not all(Path(path).is_file() for path in stored["best_k_models"]):  # moved, or on another machine
        return {}
    moved = {path: str(Path(folder, Path(path).name)) for path in stored["best_k_models"]}
    stored["best_k_models"] = {moved[path]: score for path, score in stored["best_k_models"].items()}
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        stored[name] = moved.get(stored.get(name, ""), "")
    stored["dirpath"] = folder
    return moved


def _begin_next_epoch(loop: dict[str, Any]) -> None:
    """Moves the loop's progress from the end of an epoch to the beginning of the next.

    Otherwise Lightning would end the epoch a second time if the number of steps is limited.
    """
    epoch, batch = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if epoch["current"]["processed"] == epoch["current"]["started"]:
        for progress in epoch.values():
            progress["ready"] = progress["completed"] = progress["processed"]
        batch["current"] = dict.fromkeys(batch["current"], 0)
        batch["is_last_batch"] = False
