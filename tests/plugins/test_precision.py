"""Laws of training in mixed precision: the field is evaluated in half precision, state, weights and gradients are not."""

from collections.abc import Iterator

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from odeflow.plugin import registry
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Regression

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore::UserWarning:lightning.*")


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """What a trainer switched on does not outlast the test."""
    yield
    torch.use_deterministic_algorithms(False)


class Seen(MLP):
    """A field that notes the precisions of the states that it gets and of what its last layer gives."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, hidden=(6,))
        self.states, self.given = set[torch.dtype](), set[torch.dtype]()
        last = [each for each in self.modules() if isinstance(each, torch.nn.Linear)][-1]
        last.register_forward_hook(lambda _, __, out: self.given.add(out.dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.states.add(y.dtype)
        return super().forward(t, y)


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fitted(gradient: str, precision: str) -> tuple[Regression, Losses]:
    """A task after four steps, with its losses."""
    torch.manual_seed(0)
    x = torch.randn(16, 2)
    data = DataLoader(TensorDataset(x, x.square().sum(1, keepdim=True)), batch_size=4)
    task, losses = Regression(Seen(2), RK4(num_steps=3), registry.plugins("gradient")[gradient]()), Losses()
    options = {"precision": precision}
    if precision == "16-mixed":  # by name, Lightning replaces it on the CPU
        options = {"plugins": [MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu"))]}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        deterministic=True,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
        **options,
    )
    trainer.fit(task, data)
    return task, losses


@pytest.mark.parametrize("gradient", registry.plugins("gradient"))
@pytest.mark.parametrize("precision", HALF)
def test_mixed_precision(gradient: str, precision: str) -> None:
    """With each gradient the losses are those of float32 to the round-off of half precision, clipped and deterministic."""
    task, found = fitted(gradient, precision)
    field = task.flow.dynamics
    assert isinstance(field, Seen)
    assert field.given == {HALF[precision]}
    assert field.states == {torch.float32}
    assert {each.dtype for each in task.parameters()} == {torch.float32}
    assert found.losses == pytest.approx(fitted(gradient, "32-true")[1].losses, rel=0.02)
    assert fitted(gradient, precision)[1].losses == found.losses
