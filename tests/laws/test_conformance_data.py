"""Laws of odeflow.testing for data and regularisers: those of odeflow keep them, and each kind of mistake is caught."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of
from odeflow.testing import check_data, check_regularizer, data_checks, regularizer_checks
from odeflow_data import Decay, Digits, Spiral, ToyDensity


@pytest.mark.parametrize(
    "data", [Spiral(steps=3), Decay(), Digits(), ToyDensity(samples=100)], ids=lambda data: type(data).__name__
)
def test_data(data: of.DataModule) -> None:
    """Trajectories, images with labels and vectors keep the laws of data."""
    check_data(data)


@pytest.mark.parametrize(
    "regularizer",
    [of.Kinetic(0.1), of.JacobianNorm(0.1), of.Taylor(0.1), of.Taylor(0.1, order=3)],
    ids=lambda r: r.name,
)
def test_regularizers(regularizer: of.Regularizer) -> None:
    """Regularisers keep theirs."""
    check_regularizer(regularizer)


class _Rows(of.DataModule):
    """Rows with labels, spoilt by an option."""

    def __init__(self, spoil: str = "") -> None:
        super().__init__()
        self.spoil = spoil
        self.dim, self.num_classes = (4 if spoil == "dim" else 3), (2 if spoil == "classes" else 3)

    def setup(self, stage: str) -> None:
        random = torch.Generator()
        random.manual_seed(0) if self.spoil != "seed" else random.seed()
        x = torch.randn(12, 3, generator=random)
        if self.spoil == "nan":
            x[5, 1] = float("nan")
        self.rows = TensorDataset(x, torch.arange(12) % 3)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=20, drop_last=self.spoil == "empty")

    test_dataloader = val_dataloader


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odeflow.testing.data.build", lambda spec: _Rows(**spec["init_args"]))


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("empty", r"every part has batches: wanted a batch from val_dataloader; got none"),
        ("nan", r"finite numbers: wanted finite numbers in train_dataloader; got 1 that are inf or nan"),
        ("dim", r"sizes: wanted inputs \(B, 4\); got inputs \(4, 3\)"),
        ("classes", r"sizes: wanted whole numbers from 0 to 1 as labels; got torch.int64 from 0 to 2"),
        ("seed", r"reproducible: wanted the same batches of val_dataloader each time; got different ones"),
    ],
)
def test_wrong_data_are_caught(spoil: str, message: str) -> None:
    """Each by the law that it breaks; without a mistake, none is broken."""
    check_data(_Rows())
    with pytest.raises(of.ConformanceError, match=f"_Rows: {message}"):
        check_data(_Rows(spoil))


class _Wrong(of.Regularizer):
    """A kinetic energy, spoilt by an option."""

    def __init__(self, weight: float, spoil: str) -> None:
        super().__init__(weight)
        self.spoil = spoil

    def rate(self, field: of.Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        return {
            "scalar": f.square().mean(),
            "negative": -f.square().flatten(1).mean(1),
            "vectors": f.square().mean(1),
            "detached": f.detach().square().flatten(1).mean(1),
            "weighted": self.weight * f.square().flatten(1).mean(1),
        }[self.spoil]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("scalar", r"one rate for each sample: wanted a rate of shape \(4,\)"),
        ("negative", "one rate for each sample: wanted finite rates, at least 0"),
        (
            "vectors",
            r"states of any shape: wanted a rate of shape \(2,\) for states \(2, 3, 2, 2\); got shape \(2, 2, 2\)",
        ),
        ("detached", "gradients: wanted a gradient for the field's parameters; got none"),
        ("weighted", "penalties: wanted a penalty that doubles with the weight"),
    ],
)
def test_wrong_regularizers_are_caught(monkeypatch: pytest.MonkeyPatch, spoil: str, message: str) -> None:
    """Each by the law that it breaks."""
    monkeypatch.setattr("odeflow.testing.regularizer.build", lambda spec: _Wrong(**spec["init_args"]))
    with pytest.raises(of.ConformanceError, match=f"_Wrong: {message}"):
        check_regularizer(_Wrong(0.1, spoil))


def test_laws_have_names() -> None:
    """For ids of parametrised tests."""
    assert "reproducible" in {str(check) for check in data_checks(Decay())}
    assert "penalties" in {str(check) for check in regularizer_checks(of.Kinetic(1.0))}
