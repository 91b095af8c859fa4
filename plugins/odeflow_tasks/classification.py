"""Classification: a stem, a flow, a head."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

import odeflow as of
from odeflow_tasks import batch as batches
from odeflow_tasks import classification_figures
from odeflow_tasks.batch import floating, inputs, pair
from odeflow_tasks.fitted_baselines import classifications
from odeflow_tasks.head import Head, LinearHead, PooledHead
from odeflow_tasks.stem import ConvStem, Stem


class Classification(of.Task):
    """Classifies images or vectors: the ODE-Net of Chen et al. (2018), section 3.

    The stem maps an input to the width of the state, the flow integrates it from t₀ to t₁, and the head maps it to
    logits. With `ConvNet(64)` it has 208,266 parameters on MNIST. Without dynamics there is no flow, only stem and
    head.

    For vectors whose data offer their training part, validation and test also log loss and accuracy of the frequencies
    of its classes and of logistic regression, as `accuracy_majority`, `accuracy_logistic` and so on.

    Args:
        dynamics: The vector field; its width is the number of channels or features of the state.
        solver: The solver; required with dynamics.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow; the dynamics' width includes the augmented dimensions.
        stem: Maps an input to the initial state; `ConvStem()` by default.
        head: Maps the final state to logits; by default `PooledHead()` for images, `LinearHead()` for vectors.
        shape: Shape of an input, (C, H, W) or (d,); the command line takes it from the data.
        num_classes: Number of classes; the command line takes it from the data.
        label_smoothing: Fraction of each label spread over all classes, in training.
        class_weights: Weight of each class in the cross-entropy in training, in the order of their numbers. "balanced"
            weights a class by N / (K n), where n of the N training samples are in this one of K classes, so that rare
            classes count as much as frequent ones.

    Raises:
        SettingError: An option is out of range, or an option required by another one is missing.
    """

    def __init__(
        self,
        dynamics: of.Dynamics | None = None,
        solver: of.Solver | None = None,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        stem: Stem | None = None,
        head: Head | None = None,
        shape: Sequence[int] | None = None,
        num_classes: int = 10,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, num_classes=num_classes, shape=shape)
        if not shape:
            raise of.SettingError(
                "Classification needs the shape of an input, such as (1, 28, 28): the data module must set shape, or "
                "dim of vectors; in Python give shape"
            )
        of.check_range(self, "[0, 1)", label_smoothing=label_smoothing)
        self.stem = stem or ConvStem()
        self.head = head or (PooledHead() if self.stem.images else LinearHead())
        width = _input_width(dynamics, flow, self.stem)
        self.stem.build(shape, width)
        self.head.build(width if dynamics is None else dynamics.width, num_classes)
        if dynamics is None:
            flow.refuse_all("Classification", "without dynamics there is no flow")
            self.flow = nn.Identity()
        elif solver is None:
            raise of.SettingError(f"Classification needs a solver for {type(dynamics).__name__}; give model.solver")
        else:
            self.flow = of.Flow(dynamics, solver, gradient, flow)
        self.label_smoothing, self.num_classes, self.shape = label_smoothing, num_classes, tuple(shape)
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("train_", "val_", "test_")}
        )

        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.balanced = class_weights == "balanced"
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", _weights(class_weights, num_classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, *shape).

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
            self.log_mean("test/error_percent", 100 * wrong, len(labels))
        if stage != "train":
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.label_smoothing)

    def loss_weight(self, batch: Any) -> Tensor | float:
        """The sum of the weights of the classes, if there are any."""
        weights = self.class_weights
        return super().loss_weight(batch) if weights is None else weights[batch[1].long()].sum()

    def on_fit_start(self) -> None:
        """Balances the classes of the training part.

        Raises:
            SettingError: The data do not state the counts of their classes.
        """
        if not self.balanced:
            return
        counts = None if self._data is None else self._data.class_counts
        if counts is None:
            name = "these data" if self._data is None else type(self._data).__name__
            raise of.SettingError(
                f"class_weights: {name} does not state class_counts, which 'balanced' needs; give a list of "
                f"{self.num_classes} weights"
            )
        frequent = torch.tensor(counts, dtype=torch.float32).clamp_min(1)
        self.class_weights = (sum(counts) / (self.num_classes * frequent)).to(self.device)

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """The frequencies of the classes, and logistic regression on vectors or on the pixels of small images."""
        x, label = pair("Classification", "inputs, labels", part)
        label = batches.labels("Classification", label, len(x), self.num_classes)
        return classifications(self._inputs(x).flatten(1), label, self.num_classes)

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs loss and accuracy of the baselines."""
        for name, log_probabilities in self.baselines.items():
            x, label = self._inputs(batch[0]), batch[1]
            predicted = log_probabilities(x.flatten(1))
            right = (predicted.argmax(1) == label).float().mean()
            self.log_mean(f"{stage}/loss_{name}", F.nll_loss(predicted, label), len(x))
            self.log_mean(f"{stage}/accuracy_{name}", right, len(x))

    def on_test_epoch_start(self) -> None:
        self.confusion.reset()

    def test_figures(self) -> dict[str, Figure]:
        """The confusion matrix of the test."""
        counts = self.confusion.compute().cpu().numpy()
        names = () if self.units is None else self.units.classes
        return {"confusion_matrix": classification_figures.confusion(counts, names)}

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, num_classes), the probabilities of the classes."""
        return self(self._inputs(inputs(batch))).softmax(1)

    def _inputs(self, x: Any) -> Tensor:
        """The inputs; raises if they have another shape."""
        x = floating("Classification", "inputs", x, self)
        if x.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise of.DataError(f"Classification expects inputs of shape (B, {wanted}); got {tuple(x.shape)}")
        return x


def _weights(weights: Literal["balanced"] | Sequence[float] | None, count: int) -> Tensor | None:
    """(count,), the weights of the classes, 1 until they are balanced; None if there are none.

    Raises:
        SettingError: They are of another number, or not positive.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "balanced":
            raise of.SettingError(f"class_weights must be 'balanced' or a list of numbers; got {weights!r}")
        return torch.ones(count)
    if len(weights) != count or not all(0 < weight < math.inf for weight in weights):
        raise of.SettingError(
            f"class_weights must be positive numbers, one for each of {count} classes; got {list(weights)}"
        )
    return torch.tensor(weights, dtype=torch.float32)


def _input_width(dynamics: of.Dynamics | None, flow: of.FlowOptions, stem: Stem) -> int:
    """The width of the stem's output: that of the flow's input, or without a flow the stem's own."""
    name = type(stem).__name__
    if dynamics is None:
        if stem.width is None:
            raise of.SettingError(f"Classification needs dynamics, or without a flow a width, as {name}(width=64)")
        return stem.width
    width = flow.input_width(dynamics.width)
    if stem.width not in (None, width):
        raise of.SettingError(f"{name}(width={stem.width}) contradicts the flow's input width {width}; leave it out")
    return width
