"""SolverStatistics: logs NFE and step statistics."""

from typing import Any, TypedDict, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from odeflow.engine.output.solution import Stats
from odeflow.flow.flow import Flow
from odeflow.training.faults import faults_of

COUNTS = ("nfe/forward", "nfe/backward", "steps/accepted", "steps/rejected")
"""What takes time: in several processes each step lasts as long as in the one with the most."""


class State(TypedDict):
    """The sums over the present epoch, as checkpoints contain them."""

    totals: dict[str, float]
    counts: list[list[float]]
    batches: int


class SolverStatistics(Callback):
    """Logs the solver statistics of the last solves, summed over all flows of a task.

    In training: `nfe/forward`, `nfe/backward`, `steps/accepted`, `steps/rejected`, and `step_size/min` and
    `step_size/max` unless the solver is a black box; for the steps that the trainer logs and, with the suffix `_epoch`,
    as means over the batches of the epoch. In validation and test: `val/nfe`, `test/nfe`.

    Values of the epoch are means over all processes. Several processes wait for the slowest in every step, so they also
    log the mean over the batches of the largest number of any process, as `nfe/forward_max` and so on, and as
    `nfe/imbalance` the factor by which all evaluations of the slowest exceed the mean, 1 if processes are balanced.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: list[list[float]] = []
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        """The sums over the present epoch."""
        return {**State(totals=self.totals, counts=self.counts, batches=self.batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state returned by `state_dict`."""
        self.totals, self.counts = dict(state_dict["totals"]), list(state_dict["counts"])
        self.batches = state_dict["batches"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.totals, self.counts, self.batches = {}, [], 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stats = self._stats(pl_module)
        if not stats:
            return
        fields = [(one.nfe_forward, one.nfe_backward, one.accepted, one.rejected) for one in stats]
        values: dict[str, float] = dict(zip(COUNTS, map(sum, zip(*fields, strict=True)), strict=True))
        if trainer.world_size > 1:
            self.counts.append([*values.values()])
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
        if self.counts:
            self._log_slowest(trainer, pl_module)

    def _log_slowest(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the largest numbers of any process, batch by batch."""
        counts = torch.tensor(self.counts, dtype=torch.float64, device=pl_module.device)
        counts = torch.cat([counts, counts[:, :2].sum(1, keepdim=True)], dim=1)  # all evaluations last
        largest, total = (
            cast(torch.Tensor, trainer.strategy.reduce(counts.clone(), reduce_op=kind)).mean(0)
            for kind in ("max", "sum")
        )
        values = {f"{name}_max": float(value) for name, value in zip(COUNTS, largest, strict=False)}
        values["nfe/imbalance"] = float(largest[-1] * trainer.world_size / total[-1].clamp(min=1))
        pl_module.log_dict(values, batch_size=1, sync_dist=True)  # alike in all processes

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        faults = faults_of(trainer)
        if faults is None or not faults.omits:  # else the last solves are of a batch before
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
