"""SolverStatistics: logs NFE and step statistics."""

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from odeflow.engine.output.solution import Stats
from odeflow.flow.flow import Flow


class SolverStatistics(Callback):
    """Logs the solver statistics of the last solves, summed over all flows of a task.

    In training: `nfe/forward`, `nfe/backward`, `steps/accepted`, `steps/rejected`, and `step_size/min` and
    `step_size/max` unless the solver is a black box; for the steps that the trainer logs and, with the suffix `_epoch`,
    as means over the batches of the epoch. In validation and test: `val/nfe`, `test/nfe`.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.batches = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.totals, self.batches = {}, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stats = self._stats(pl_module)
        if not stats:
            return
        values: dict[str, float] = {
            "nfe/forward": sum(one.nfe_forward for one in stats),
            "nfe/backward": sum(one.nfe_backward for one in stats),
            "steps/accepted": sum(one.accepted for one in stats),
            "steps/rejected": sum(one.rejected for one in stats),
        }
        if any(one.accepted for one in stats):
            values["step_size/min"] = min(one.smallest_step for one in stats)
            values["step_size/max"] = max(one.largest_step for one in stats)
        self.batches += 1
        every: int = cast(Any, trainer).log_every_n_steps  # a log of each batch takes longer than a small solve
        due = every > 0 and trainer.global_step % every == 0
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
            if due:
                pl_module.log(name, float(value), prog_bar=name == "nfe/forward")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, total in self.totals.items():
            pl_module.log(f"{name}_epoch", total / self.batches, batch_size=1, sync_dist=True)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._log_evaluations(pl_module, "val")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._log_evaluations(pl_module, "test")

    def _log_evaluations(self, pl_module: LightningModule, stage: str) -> None:
        stats = self._stats(pl_module)
        if stats:
            evaluations = float(sum(one.nfe_forward for one in stats))
            pl_module.log(f"{stage}/nfe", evaluations, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _stats(self, pl_module: LightningModule) -> list[Stats]:
        flows = (module for module in pl_module.modules() if isinstance(module, Flow))
        return [flow.stats for flow in flows if flow.stats is not None]
