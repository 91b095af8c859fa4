"""One of two processes of the tests: trains cases alone, then with the other one, and writes down what came of it.

    RANK=0 WORLD_SIZE=2 … python program.py FOLDER DTYPE STEPS NAME:GRADIENT…

The training alone comes first: once there is a process group, metrics would be joined.
"""

import faulthandler
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from cases import CASES, Batch, Case, rows
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from sharded import errors
from torch import Tensor, distributed
from torch.utils.data import DataLoader

import odeflow as of
from odeflow.plugin import registry
from odeflow.training.callbacks import SolverStatistics

COUNT = 8
"""Number of rows of a batch, over all processes."""
EPS = 1e-4
"""The ε of Adam, which with its own would make whole steps of the rounding of gradients that are zero."""
UNEVEN = 3
"""Every so many batches, the last one among them, are divided unevenly."""


@dataclass
class Told(Callback):
    """What a training was: everything that must not depend on the number of processes."""

    losses: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    gradient: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        torch.manual_seed(1000 + batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.gradient is None:
            found = [each.grad.flatten() for each in pl_module.parameters() if each.grad is not None]
            self.gradient = torch.cat(found).clone()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.weights.append(float(pl_module.loss_weight(batch)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def plain(self, parameters: Tensor) -> dict[str, Any]:
        """These, with the parameters at the end, as plain data."""
        names = ("losses", "weights", "gradient", "metrics")
        return {name: getattr(self, name) for name in names} | {"parameters": parameters}


def shares(case: Case, size: int, place: int, uneven: bool) -> Callable[[Batch], Batch]:
    """The rows of a process."""
    if size == 1 or not case.divided:
        return lambda batch: batch
    middle = COUNT // 2 + uneven
    return lambda batch: rows(batch, slice(0, middle) if place == 0 else slice(middle, COUNT))


class Divided(of.DataModule):
    """The batches of a case, of which each process has its rows.

    Args:
        case: The case.
        steps: Number of batches of training; there are two of validation.
        size: Number of processes.
        place: The number of this process.
    """

    def __init__(self, case: Case, steps: int, size: int, place: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        same = case.batch(COUNT, generator) if case.repeated else None
        self.loaders: list[DataLoader[Any]] = []
        for count in (steps, 2):
            batches = [same if same is not None else case.batch(COUNT, generator) for _ in range(count)]
            mine = [
                shares(case, size, place, (number + 1) % UNEVEN == 0 or number + 1 == count)(batch)
                for number, batch in enumerate(batches)
            ]
            self.loaders.append(DataLoader(mine, batch_size=None))

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loaders[0]

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loaders[1]


@contextmanager
def alike() -> Iterator[None]:
    """Random numbers are the same for all samples, so that they do not depend on how these are divided."""
    randn, rand, randint = torch.randn, torch.rand, torch.randint

    def sized(draw: Any) -> Any:
        def drawn(*size: Any, generator: Any = None, **options: Any) -> Tensor:
            shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
            return draw((), generator=generator, **options).expand(tuple(shape)).clone()

        return drawn

    def like(draw: Any) -> Any:
        return lambda x: draw((), dtype=x.dtype).expand_as(x).clone()

    def whole(*given: Any, **options: Any) -> Tensor:
        return randint(*given[:-1], (), **options).expand(tuple(given[-1])).clone()

    def normal(mean: Tensor, std: Tensor) -> Tensor:
        return mean + std * randn((), dtype=mean.dtype)

    with (
        patch.multiple(
            torch,
            randn=sized(randn),
            rand=sized(rand),
            randn_like=like(randn),
            rand_like=like(rand),
            randint=whole,
            normal=normal,
        ),
        patch.object(Tensor, "normal_", lambda x: x.copy_(randn((), dtype=x.dtype))),
    ):
        yield


def trained(name: str, gradient: str, steps: int, dtype: torch.dtype, size: int, place: int) -> dict[str, Any]:
    """What a training of a case in `size` processes was."""
    case, told = CASES[name], Told()
    torch.manual_seed(1)
    task = case.build(registry.plugins("gradient")[gradient]() if gradient else None)
    if type(task).configure_optimizers is of.Task.configure_optimizers:
        task.configure_optimizers = lambda: torch.optim.Adam(task.parameters(), lr=1e-3, eps=EPS)
    trainer = Trainer(
        accelerator="cpu",
        devices=1 if size == 1 else size,
        strategy="auto" if size == 1 else DDPStrategy(process_group_backend="gloo"),
        precision="64-true" if dtype == torch.float64 else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        callbacks=[told, SolverStatistics()],
        **case.options,
    )
    data = Divided(case, steps, size, place)
    with alike():
        trainer.fit(task, datamodule=data)
    return told.plain(torch.cat([each.detach().flatten() for each in task.parameters()]))


def main(folder: Path, dtype: torch.dtype, steps: int, chosen: list[tuple[str, str]]) -> None:
    """Trains each row, a case and its gradient."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(float(os.environ["PATIENCE"]), exit=True)  # processes that wait for each other
    place = int(os.environ["RANK"])
    warnings.filterwarnings("error", message=".*sync_dist.*")
    outside = {key: os.environ.pop(key) for key in [*os.environ] if key in KNOWN}
    alone = {row: trained(*row, steps, dtype, 1, 0) for number, row in enumerate(chosen) if number % 2 == place}
    torch.save(alone, folder / f"alone_{place}.pt")
    os.environ.update(outside)
    together = {row: trained(*row, steps, dtype, 2, place) for row in chosen}
    torch.save(together, folder / f"together_{place}.pt")
    torch.save(errors(place), folder / f"sharded_{place}.pt")
    distributed.destroy_process_group()
    os._exit(0)  # DDP keeps threads of gloo, which may abort the interpreter's shutdown


KNOWN = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")

if __name__ == "__main__":
    named = [word.split(":") for word in sys.argv[4:]]
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3]), [(case, name) for case, name in named])
