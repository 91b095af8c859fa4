"""Data plugins, as a run sees them that is resumed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import polars as frames
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from odeflow.plugin.registry import build, plugins
from odeflow.training.callbacks import Randomness
from odeflow_data import Reading, Table

FILES = {"CIFAR10", "CharacterTrajectories", "Hopper", "LynxHare", "MNIST", "Pendulum", "PhysioNet2012", "Power"}
"""Data sets that need published files; they are handed out as others here are."""
OPTIONS: dict[str, dict[str, Any]] = {
    "BidirectionalSpirals": {"spirals": 40, "batch_size": 4},
    "Crossing": {"batch_size": 4},
    "Decay": {},
    "Digits": {},
    "Images": {"path": "images.npz", "batch_size": 4, "flip": True, "affine": True},
    "NoData": {},
    "PeriodicSeries": {"series": 40, "batch_size": 4},
    "Simulated": {"dynamics": {"class_path": "LotkaVolterra"}, "initial": [[1.0, 1.0]], "t1": 1.0, "observations": 5},
    "Spheres": {"batch_size": 16},
    "SeriesTable": {"path": "rows.npz", "series": "id", "time": "t", "batch_size": 4},
    "Spiral": {"observations": 50, "t1": 2.0, "noise": 0.1},
    "StandardNormal": {"samples": 40, "batch_size": 4, "val_size": 2, "test_size": 2},
    "Table": {"path": "table.npy", "batch_size": 4},
    "Window": {"path": "rows.npz", "time": "row", "columns": ["y"], "history": 4, "horizon": 2, "batch_size": 4},
    "Trajectories": {"path": "rows.npz", "series": "id", "time": "t", "states": ["y"], "batch_size": 2},
    "ToyDensity": {"samples": 40, "batch_size": 4, "val_size": 2, "test_size": 2},
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*not resumable",
    "ignore:.*has `__len__` defined",
)


class Witness(pl.LightningModule):
    """Remembers what it is trained on, and what noise it draws meanwhile; is saved at an epoch's end and amid the next."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Tensor, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        leaves = [batch] if isinstance(batch, Tensor) else [leaf for leaf in batch if leaf is not None]
        self.seen.append((*leaves, torch.rand(2), torch.from_numpy(np.random.rand(2))))
        return self.weight + torch.rand(())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.rand(5)

    def on_train_epoch_end(self) -> None:
        if self.global_step == 4:
            self.trainer.save_checkpoint("after_4.ckpt", weights_only=False)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step == 6:
            self.trainer.save_checkpoint("after_6.ckpt", weights_only=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(data: pl.LightningDataModule, path: str | None = None) -> list[tuple[Tensor, ...]]:
    """What a run of three epochs with four batches each is trained on."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=4,
        limit_val_batches=1,
        logger=False,
        **quiet,
        callbacks=[Randomness(seed=7)],
    )
    module = Witness()
    trainer.fit(module, datamodule=data, ckpt_path=path)
    return module.seen


class Workers(pl.LightningDataModule):
    """Numbers with noise, which workers load in an order of each epoch's own."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Noisy(), batch_size=2, shuffle=True, num_workers=2)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Noisy(), batch_size=2)


class Stream(pl.LightningDataModule):
    """Numbers without end, drawn as they are asked for."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Endless(), batch_size=2)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Noisy(), batch_size=2)


class _Noisy(torch.utils.data.Dataset[Tensor]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        return index + torch.rand(1)


class _Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        while True:
            yield torch.rand(1)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that some data are read from."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.save("table.npy", random.standard_normal((60, 3)))
    frames.DataFrame(random.standard_normal((200, 3))).write_parquet("table.parquet")
    np.savez(
        "rows.npz",
        row=np.arange(120),
        id=np.repeat(np.arange(40), 3),
        t=np.tile(np.arange(3.0), 40),
        y=random.standard_normal(120),
    )
    np.savez("images.npz", images=random.integers(0, 256, (40, 8, 8)).astype(np.uint8), labels=np.arange(40) % 2)


MAKE: dict[str, Callable[[], pl.LightningDataModule]] = {
    **{name: partial(build, {"class_path": name, "init_args": options}) for name, options in OPTIONS.items()},
    "Workers": Workers,
    "Stream": Stream,
    "streamed table": partial(Table, "table.parquet", batch_size=4, read=Reading(memory=1000)),
}


def test_every_plugin_is_there() -> None:
    """The list below is whole: a new data plugin is resumed in this test or needs published files."""
    shipped = {name for name, cls in plugins("data").items() if cls.__module__.startswith("odeflow_data.")}
    assert shipped == OPTIONS.keys() | FILES


@pytest.mark.parametrize("name", MAKE)
def test_batches_go_on(files: None, name: str) -> None:
    """A run that is resumed after a batch, amid an epoch or at its end, sees the batches and the noise that follow."""
    unbroken = trained(MAKE[name]())
    assert len(unbroken) == 12
    for stop in (6, 4):
        resumed = trained(MAKE[name](), path=f"after_{stop}.ckpt")
        for one, other in zip(unbroken[stop:], resumed, strict=True):
            assert all(left.equal(right) for left, right in zip(one, other, strict=True))


def test_processes_and_epochs_differ(files: None) -> None:
    """No two batches of a run draw the same noise."""
    noise = [seen[-1] for seen in trained(MAKE["Spiral"]())]
    assert len({tuple(each.tolist()) for each in noise}) == 12
