"""Randomness: the same random numbers at each step of a run, whether or not it was interrupted."""

import copy
import random
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


@runtime_checkable
class _Resumable(Protocol):
    """A loader with a state of its position in the epoch, which Lightning stores."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class State(TypedDict):
    """The state of the data at the start of the epoch, as checkpoints contain it."""

    data: dict[str, Any]


class Randomness(Callback):
    """Reseeds the generators of Python, NumPy and torch before each training batch.

    The order of the data and the random numbers of a batch and its step thus depend only on the seed, the epoch, the
    batch index and the process. A resumed run draws the same numbers as an uninterrupted one; processes draw different
    numbers. If an epoch is resumed midway, its finished batches are loaded again and skipped.

    Args:
        seed: The seed; by default that of torch's generator.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = torch.initial_seed() if seed is None else seed
        self.data: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The state of the data at the start of the epoch, from which its batches can be reloaded."""
        return {**State(data=self.data)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state returned by `state_dict`."""
        self.data = state_dict["data"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        if not loop.restarted_mid_epoch:  # else on_train_epoch_start is not called
            return
        done = _batches(trainer)
        trained = done >= trainer.num_training_batches
        if trained and loop.epoch_loop.restarted_on_train_batch_end:  # Lightning then continues with the next epoch
            done, trained = 0, False
        if trained:
            self._draw_for(trainer, done)
        else:
            self._load_again(trainer, done)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = _data(trainer)
        self.data = {} if data is None else copy.deepcopy(data.state_dict())
        self._draw_for(trainer, 0)
        if trainer.current_epoch == 0 or trainer.fit_loop.is_resuming:  # otherwise the loop does it
            iter(_fetcher(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._draw_for(trainer, batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking:
            self._draw_for(trainer, _batches(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluation outside of training: noise differs between processes, whose generators begin alike."""
        if trainer.global_rank and trainer.state.fn is not TrainerFn.FITTING:
            self._draw_for(trainer, 0)

    on_test_start = on_predict_start = on_validation_start

    def _load_again(self, trainer: Trainer, count: int) -> None:
        """Advances the loader past the first `count` batches of the epoch."""
        fetcher, data = _fetcher(trainer), _data(trainer)
        if count and any(isinstance(loader, _Resumable) for loader in fetcher.combined_loader.flattened):
            self._draw_for(trainer, count)
            return
        if count and data is not None and self.data:
            data.load_state_dict(self.data)
        self._draw_for(trainer, 0)
        iter(fetcher)
        for number in range(count):
            next(fetcher)
            self._draw_for(trainer, number + 1)
        fetcher.fetched -= count  # the loop adds the finished ones

    def _draw_for(self, trainer: Trainer, batch: int) -> None:
        """Seeds the generators for a batch of the current epoch."""
        place = (self.seed, trainer.current_epoch, batch, trainer.global_rank)
        words = np.random.SeedSequence(place).generate_state(4)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        seed, device = int(words[2]) << 32 | int(words[3]), trainer.strategy.root_device
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.3 ms for devices that are not there
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)


def _fetcher(trainer: Trainer) -> Any:
    """The training loop's data fetcher; Lightning has no public way to restart an epoch's iterator."""
    return trainer.fit_loop._data_fetcher  # pyright: ignore[reportPrivateUsage]


def _batches(trainer: Trainer) -> int:
    """Number of finished training batches of the epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]


def _data(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)
