"""EpochMetrics: the metrics of an epoch that is interrupted and resumed."""

from typing import Any, TypedDict

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import Metric


class Part(TypedDict):
    """The sums of a metric over the batches of an epoch, and its value."""

    name: str
    mean: Any
    sums: dict[str, Any]


class State(TypedDict):
    """What the finished batches of an epoch have added to its metrics, and the last row, as checkpoints contain it."""

    metrics: dict[str, Part]
    row: dict[str, float]
    step: int
    stepped: int | None


class EpochMetrics(Callback):
    """Stores what the batches of an epoch have added to its metrics, and adds it to those of the resumed epoch.

    Lightning's checkpoints do not contain it: the means of a resumed epoch would be those of its last batches. Neither
    do they contain the metrics of the last step, which are logged after a checkpoint at its end is written; the resumed
    run logs them. Steps have the same numbers in the logs as without an interruption.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Part] = {}
        self.row: dict[str, float] = {}
        self.step = 0
        self.stepped: int | None = None  # the number of the first step of a resumed run in the logs

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        found = {key: _sums(result) for key, result in _results(trainer).items() if _is_mean(result)}
        loop = trainer.fit_loop.epoch_loop
        step = loop._batches_that_stepped  # pyright: ignore[reportPrivateUsage]
        at_end = _at_end_of_batch(trainer)
        checkpoint["callbacks"][self.state_key] = State(
            metrics={**self.pending, **found},
            row=_row(trainer) if at_end else {},
            step=step,
            stepped=step + at_end if trainer.training else None,
        )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("callbacks", {}).get(self.state_key)
        if stored is not None and trainer.state.fn is TrainerFn.FITTING:
            self.pending, self.row, self.step = dict(stored["metrics"]), stored["row"], stored["step"]
            self.stepped = stored["stepped"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers if self.row else []:
            logger.log_metrics(self.row, self.step)
            logger.save()
        self.row = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pending = {}  # those of the epoch before

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.stepped is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.stepped  # pyright: ignore[reportPrivateUsage]
            self.stepped = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.pending:
            return
        results = _results(trainer)
        for key in [each for each in self.pending if each in results and not results[each].has_reset]:
            _add(results[key], self.pending.pop(key))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for part in self.pending.values():  # no batch was left
            pl_module.log(part["name"], part["mean"], batch_size=1, sync_dist=True)
        self.pending = {}


def _results(trainer: Trainer) -> dict[str, Any]:
    """Lightning's results of the present epoch of training, for which it has no public way."""
    return trainer.fit_loop.epoch_loop._results  # pyright: ignore[reportPrivateUsage]


def _at_end_of_batch(trainer: Trainer) -> bool:
    """Whether a batch has taken an optimizer step that is not yet counted and logged."""
    loop = trainer.fit_loop.epoch_loop
    progress: Any = loop.batch_progress.current
    ended = progress.processed == progress.ready == progress.completed + 1
    return ended and trainer.training and not loop._should_accumulate()  # pyright: ignore[reportPrivateUsage]


def _row(trainer: Trainer) -> dict[str, float]:
    """The metrics of the present step, if it is one that is logged."""
    connector = trainer._logger_connector  # pyright: ignore[reportPrivateUsage]
    if not connector.should_update_logs:
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()} | {"epoch": trainer.current_epoch}


def _is_mean(result: Any) -> bool:
    """Whether a result is accumulated over an epoch, as a mean or by a metric of its own."""
    return result.meta.on_epoch and not result.has_reset and (not result.is_tensor or result.meta.is_mean_reduction)


def _sums(result: Any) -> Part:
    if result.is_tensor:
        sums = {"value": result.value.clone(), "count": result.cumulated_batch_size.clone()}
        return {"name": result.meta.name, "mean": sums["value"] / sums["count"], "sums": sums}
    metric: Metric = result.value
    return {"name": result.meta.name, "mean": metric.compute(), "sums": dict(metric.metric_state)}


def _add(result: Any, part: Part) -> None:
    """Adds the sums of the batches before to a result."""
    sums = part["sums"]
    if result.is_tensor:
        result.value = result.value + sums["value"].to(result.value)
        result.cumulated_batch_size = result.cumulated_batch_size + sums["count"].to(result.cumulated_batch_size)
        return
    metric: Metric = result.value
    for name, before in sums.items():
        now = getattr(metric, name)
        setattr(metric, name, [*before, *now] if isinstance(now, list) else before.to(now.device) + now)
