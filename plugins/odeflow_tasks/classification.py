"""Classification: a stem, a flow, a head."""

import math
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import odeflow as of


class Classification(of.Task):
    """Images or vectors into classes: the ODE-Net of Chen et al. (2018), section 3.

    The stem maps an input to the state's width, the flow carries it from t = 0 to t = t1, the head maps it to logits.
    With `ConvNet(64)` and the convolutional stem it has 208,266 parameters on MNIST.

    Args:
        dynamics: The vector field; its width is the number of channels (conv) or features (flat).
        solver: Integrates.
        gradient: How to differentiate; `Checkpointed()` by default.
        num_classes: Number of classes; the command line takes it from the data.
        channels: Channels of the images, for the convolutional stem; from the data.
        dim: Number of values of an input, for the flat stem; from the data.
        stem: "conv": a 3×3 convolution, then 4×4 convolutions of stride 2; "flat": one linear layer.
        downsample: Number of the stem's convolutions of stride 2.
        t1: Last time of the flow.
        augment: Zeros appended to the state, which the dynamics' width includes.
        label_smoothing: The part of each label that the loss spreads over all classes, in training.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        num_classes: int = 10,
        channels: int = 1,
        dim: int | None = None,
        stem: Literal["conv", "flat"] = "conv",
        downsample: int = 2,
        t1: float = 1.0,
        augment: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise of.SettingError(f"label_smoothing must lie between 0 and 1; got {label_smoothing}")
        self.label_smoothing = label_smoothing
        width = dynamics.width - augment
        if width < 1:
            raise of.SettingError(f"augment={augment} leaves nothing of the dynamics' width {dynamics.width}")
        if stem == "conv":
            self.stem, self.head = _conv_stem(channels, width, downsample), _conv_head(dynamics.width, num_classes)
        elif stem == "flat":
            self.stem, self.head = _flat_stem(dim, width), nn.Linear(dynamics.width, num_classes)
        else:
            raise of.SettingError(f"Classification: stem must be 'conv' or 'flat'; got {stem!r}")
        self.flow = of.Flow(dynamics, solver, gradient, t1=t1, augment=augment)
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("train_", "val_", "test_")}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, channels, H, W), or (B, …) with dim values for the flat stem.

        Returns:
            (B, num_classes).
        """
        return self.head(self.flow(self.stem(x)))

    def loss(self, batch: Any, stage: str) -> Tensor:
        """Cross-entropy of (inputs, labels); logs the accuracy, and in tests the error in percent."""
        x, labels = batch
        logits = self(x)
        accuracy = self.accuracy[f"{stage}_"]
        accuracy(logits, labels)
        options: dict[str, Any] = {"batch_size": len(labels), "on_step": False, "on_epoch": True}
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True, **options)  # pyright: ignore[reportArgumentType]
        if stage == "test":
            wrong = (logits.argmax(1) != labels).float().mean()
            self.log("test/error_percent", 100 * wrong, sync_dist=True, **options)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if stage == "train" else 0.0)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, num_classes), the probabilities of the classes."""
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        return self(x).softmax(1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, width), width)


def _conv_stem(channels: int, width: int, downsample: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3)]
    for _ in range(downsample):
        layers += [_norm(width), nn.ReLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


def _conv_head(width: int, num_classes: int) -> nn.Module:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(_norm(width), nn.ReLU(), pool, nn.Linear(width, num_classes))


def _flat_stem(dim: int | None, width: int) -> nn.Module:
    if dim is None:
        raise of.SettingError("the flat stem needs dim, the number of values of an input, e.g. 784 for MNIST")
    return nn.Sequential(nn.Flatten(), nn.Linear(dim, width))
