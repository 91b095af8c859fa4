"""Laws of random numbers in several processes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from odeflow.training.callbacks import Randomness


@pytest.fixture(autouse=True)
def _kept() -> Any:
    with torch.random.fork_rng():
        yield


def trainer(rank: int, epoch: int = 0, fn: TrainerFn = TrainerFn.FITTING) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_rank=rank, current_epoch=epoch, state=SimpleNamespace(fn=fn), strategy=strategy)


def drawn(rank: int, epoch: int, batch: int, seed: int = 3) -> float:
    """The first number after a batch of training."""
    Randomness(seed).on_train_batch_end(trainer(rank, epoch), None, None, None, batch)
    return float(torch.rand(()))


def test_noise_differs_between_processes_and_repeats_from_the_seed() -> None:
    """Each process, epoch, batch and seed has numbers of its own, and the same ones again."""
    places = [(rank, epoch, batch, seed) for rank in (0, 1) for epoch in (0, 1) for batch in (0, 1) for seed in (3, 4)]
    first = [drawn(*place) for place in places]
    assert len({*first}) == len(places)
    assert [drawn(*place) for place in places] == first


@pytest.mark.parametrize("hook", ["on_validation_start", "on_test_start", "on_predict_start"])
def test_noise_of_evaluation_differs_between_processes(hook: str) -> None:
    """The first process goes on with the seed's numbers, as one alone does; another one has its own."""
    found = []
    for rank in (0, 1, 1, 2):
        torch.manual_seed(3)
        getattr(Randomness(3), hook)(trainer(rank, fn=TrainerFn.TESTING), None)
        found.append(float(torch.rand(())))
    torch.manual_seed(3)
    assert found[0] == float(torch.rand(()))
    assert found[1] == found[2]
    assert len({*found}) == 3
