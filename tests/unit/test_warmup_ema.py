"""Laws of WarmupEMA: the average of the weights that validation and checkpoints use."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

import odeflow as of
from odeflow.training.callbacks import WarmupEMA

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Ramp(LightningModule):
    """A weight that is k after k steps, and what validation sees of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.validated: list[float] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.count += 1
        return -self.weight

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.validated.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averages(decay: float, steps: int) -> list[float]:
    """The averages of 1, 2, …, by the recursion; the first is the weight itself."""
    found = [1.0]
    for n in range(1, steps):
        d = min(decay, (1 + n) / (10 + n))
        found.append(d * found[-1] + (1 - d) * (n + 1))
    return found


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_validation_and_checkpoints_use_the_average(tmp_path: Path, decay: float) -> None:
    """The average follows θ̄ ← dθ̄ + (1 − d)θ with d = min(decay, (1 + n)/(10 + n)); integer buffers are copied."""
    model, loader = Ramp(), DataLoader(torch.zeros(4, 1))
    trainer = Trainer(
        max_epochs=5, callbacks=[WarmupEMA(decay)], num_sanity_val_steps=0, default_root_dir=tmp_path, **QUIET
    )
    trainer.fit(model, loader, DataLoader(torch.zeros(1, 1)))
    truth = averages(decay, 20)
    assert model.validated == pytest.approx(truth[3::4])
    assert model.weight.item() == pytest.approx(truth[-1])
    assert int(model.count) == 20
    (file,) = tmp_path.rglob("*.ckpt")
    assert float(torch.load(file, weights_only=False)["state_dict"]["weight"]) == pytest.approx(truth[-1])


def test_a_short_run_forgets_its_initial_weights() -> None:
    """A hundred steps after a jump of the weights, less than a millionth of the old ones is left, of 0.999 alone 90 %."""
    model = nn.Linear(1, 1, bias=False)
    ours = AveragedModel(model, multi_avg_fn=WarmupEMA(0.999)._kwargs["multi_avg_fn"])
    nn.init.ones_(model.weight)
    ours.update_parameters(model)
    nn.init.zeros_(model.weight)
    for _ in range(100):
        ours.update_parameters(model)
    assert 0 < ours.module.weight.item() < 1e-6


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    """The message says the range and the value."""
    with pytest.raises(of.SettingError, match=rf"decay must lie in \[0, 1\); got {decay}"):
        WarmupEMA(decay)
