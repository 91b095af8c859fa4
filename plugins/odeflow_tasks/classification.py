"""Classification: a stem, a flow, a head."""

import math
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

import odeflow as of
from odeflow_tasks import batch as batches
from odeflow_tasks.batch import floating, inputs, pair


class Classification(of.Task):
    """Classifies images or vectors: the ODE-Net of Chen et al. (2018), section 3.

    The stem maps an input to the width of the state, the flow integrates it from t₀ to t₁, and the head maps it to
    logits. With `ConvNet(64)` and the convolutional stem it has 208,266 parameters on MNIST. Without dynamics there is
    no flow, only stem and head.

    Args:
        dynamics: The vector field; its width is the number of channels (conv) or features (flat).
        solver: The solver; required with dynamics.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow; the dynamics' width includes the augmented dimensions.
        num_classes: Number of classes; the command line takes it from the data.
        channels: Channels of the images, for the convolutional stem; from the data.
        dim: Number of values of an input, for the flat stem; from the data.
        stem: "conv": a 3×3 convolution, then 4×4 convolutions of stride 2; "flat": one linear layer.
        downsample: Number of the stem's convolutions of stride 2.
        width: Width of the state; only without dynamics.
        label_smoothing: Fraction of each label spread over all classes, in training.

    Raises:
        SettingError: An option is out of range, or an option required by another one is missing.
    """

    def __init__(
        self,
        dynamics: of.Dynamics | None = None,
        solver: of.Solver | None = None,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        num_classes: int = 10,
        channels: int = 1,
        dim: int | None = None,
        stem: Literal["conv", "flat"] = "conv",
        downsample: int = 2,
        width: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, num_classes=num_classes, channels=channels, dim=dim, width=width)
        of.check_least(self, 0, downsample=downsample)
        if not 0 <= label_smoothing < 1:
            raise of.SettingError(f"label_smoothing must lie between 0 and 1; got {label_smoothing}")
        outer = _width(dynamics, width)
        inner = flow.input_width(outer)
        if stem == "conv":
            self.stem, self.head = _conv_stem(channels, inner, downsample), _conv_head(outer, num_classes)
        elif stem == "flat":
            self.stem, self.head = _flat_stem(dim, inner), nn.Sequential(nn.ReLU(), nn.Linear(outer, num_classes))
        else:
            raise of.SettingError(f"Classification: stem must be 'conv' or 'flat'; got {stem!r}")
        if dynamics is None:
            flow.refuse_all("Classification", "without dynamics there is no flow")
            self.flow = nn.Identity()
        elif solver is None:
            raise of.SettingError(f"Classification needs a solver for {type(dynamics).__name__}; give model.solver")
        else:
            self.flow = of.Flow(dynamics, solver, gradient, flow)
        self.label_smoothing, self.num_classes = label_smoothing, num_classes
        self.channels, self.dim = (channels, 0) if stem == "conv" else (None, dim or 0)
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("train_", "val_", "test_")}
        )

        self.confusion = MulticlassConfusionMatrix(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, channels, H, W), or (B, …) with dim values for the flat stem.

        Returns:
            (B, num_classes).
        """
        return self.head(self.flow(self.stem(x)))

    def loss(self, batch: Any, stage: str) -> Tensor:
        """Cross-entropy of (inputs, labels); logs the accuracy, and in tests the error in percent.

        Raises:
            DataError: The batch is not such a pair, or a label is out of range.
        """
        x, given = pair("Classification", "inputs, labels", batch)
        x = self._inputs(x)
        labels = batches.labels("Classification", given, len(x), self.num_classes)
        logits = self(x)
        accuracy = self.accuracy[f"{stage}_"]
        accuracy(logits, labels)
        options: dict[str, Any] = {"batch_size": len(labels), "on_step": False, "on_epoch": True}
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True, **options)  # pyright: ignore[reportArgumentType]
        if stage == "test":
            self.confusion.update(logits, labels)
            wrong = (logits.argmax(1) != labels).float().mean()
            self.log("test/error_percent", 100 * wrong, sync_dist=True, **options)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if stage == "train" else 0.0)

    def on_test_epoch_start(self) -> None:
        self.confusion.reset()

    def test_figures(self) -> dict[str, Figure]:
        """The confusion matrix of the test."""
        counts: np.ndarray = self.confusion.compute().cpu().numpy()
        classes = range(len(counts))
        figure = Figure(figsize=(6, 5.4), layout="constrained")
        axes = figure.subplots()
        mistakes = counts - np.diag(np.diag(counts))
        image = axes.imshow(mistakes, cmap="Reds", vmin=0)
        figure.colorbar(image, label="mistakes")
        for true in classes:
            for taken in classes:
                if counts[true, taken]:
                    dark = true != taken and mistakes[true, taken] > 0.6 * mistakes.max()
                    text = str(counts[true, taken])
                    axes.text(taken, true, text, ha="center", va="center", fontsize=8, color="w" if dark else "k")
        wrong = 100 * mistakes.sum() / max(counts.sum(), 1)
        axes.set(xlabel="predicted class", ylabel="true class", title=f"{wrong:.2f} % wrong", xticks=classes)
        axes.set_yticks(classes)
        return {"confusion_matrix": figure}

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, num_classes), the probabilities of the classes."""
        return self(self._inputs(inputs(batch))).softmax(1)

    def _inputs(self, x: Any) -> Tensor:
        """The inputs; raises if the stem does not accept their shape."""
        x = floating("Classification", "inputs", x, self)
        if self.channels is not None and (x.dim() != 4 or x.shape[1] != self.channels):
            raise of.DataError(
                f"Classification(channels={self.channels}) wants images (B, {self.channels}, H, W); got "
                f"{tuple(x.shape)}. For vectors set stem='flat'"
            )
        if self.channels is None and x[:1].numel() != self.dim * len(x[:1]):
            raise of.DataError(
                f"Classification(dim={self.dim}) wants inputs of {self.dim} values; got {tuple(x.shape)}"
            )
        return x


def _width(dynamics: of.Dynamics | None, width: int | None) -> int:
    """The width of the flow's output."""
    if dynamics is None and width is None:
        raise of.SettingError("Classification needs dynamics, or without a flow the width between stem and head")
    if dynamics is None:
        return width or 0
    if width not in (None, dynamics.width):
        raise of.SettingError(f"width={width} contradicts the dynamics' width {dynamics.width}; leave it out")
    return dynamics.width


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
