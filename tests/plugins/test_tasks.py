"""Laws of the tasks: their losses, sizes and pictures."""

import lightning.pytorch as L
import pytest
import torch

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_data import Digits, Table
from odeflow_dynamics import MLP, ConvNet
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Classification, ConvStem, FlatStem, Perceptron, Trajectory
from odeflow_tasks.drawing import PREDICTION, TRUTH

IMAGE = (1, 28, 28)


def test_the_published_ode_net_has_its_size() -> None:
    """With 64 channels on 28×28 images it has 208,266 parameters, and the flow runs at 6×6."""
    task = Classification(ConvNet(64), RK4(num_steps=1), shape=(1, 28, 28))
    assert sum(param.numel() for param in task.parameters()) == 208_266
    assert task.stem(torch.randn(2, 1, 28, 28)).shape == (2, 64, 6, 6)
    assert task(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_flat_stem_and_augmentation() -> None:
    """Vectors go through a linear stem; augmented dimensions belong to the dynamics' width."""
    options = of.FlowOptions(augment=4)
    task = Classification(MLP(12), RK4(num_steps=1), flow=options, stem=FlatStem(), shape=(1, 8, 8), num_classes=3)
    assert task.stem(torch.randn(2, 1, 8, 8)).shape == (2, 8)
    assert task(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_without_dynamics_stem_and_head_are_all() -> None:
    """The net without a flow has the parameters of the ODE-Net less those of its field."""
    task = Classification(stem=ConvStem(width=64), shape=(1, 28, 28))
    assert sum(param.numel() for param in task.parameters()) == 208_266 - 75_392
    assert task(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_a_classifier_has_a_stem_and_a_head_of_its_own() -> None:
    """Plugins in their place are built for the sizes of the task, and rebuilt from its spec."""
    head, images = Perceptron([5]), torch.randn(2, 1, 8, 8)
    task = Classification(MLP(6), RK4(num_steps=1), stem=FlatStem(), head=head, shape=(1, 8, 8), num_classes=3)
    assert [layer.in_features for layer in task.head.layers[::2]] == [6, 5]
    again = build(task.spec)
    again.load_state_dict(task.state_dict())
    assert torch.equal(again(images), task(images))


def test_labels_are_smoothed_in_training_alone() -> None:
    """The training loss is (1 − s) of the cross-entropy and s of that to all classes; other losses are plain."""
    task = Classification(MLP(4), RK4(num_steps=1), stem=FlatStem(), shape=(5,), num_classes=3, label_smoothing=0.3)
    x, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    task.log = lambda *args, **kwargs: None
    logs = task(x).log_softmax(1)
    plain, spread = -logs[range(6), labels].mean(), -logs.mean()
    assert torch.allclose(task.loss((x, labels), "train"), 0.7 * plain + 0.3 * spread)
    assert torch.allclose(task.loss((x, labels), "val"), plain)


def test_classes_are_weighted_in_training_alone() -> None:
    """The training loss is the weighted mean of the cross-entropies; other losses are plain."""
    task = Classification(stem=FlatStem(4), shape=(5,), num_classes=3, class_weights=[1.0, 2.0, 5.0])
    x, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 0])
    task.log = lambda *args, **kwargs: None
    losses, weights = -task(x).log_softmax(1)[range(6), labels], torch.tensor([1.0, 2, 5, 1, 2, 1])
    torch.testing.assert_close(task.loss((x, labels), "train"), (weights * losses).sum() / weights.sum())
    torch.testing.assert_close(task.loss((x, labels), "val"), losses.mean())
    assert "class_weights" not in task.state_dict()


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")
def test_balanced_classes_count_alike() -> None:
    """Weights N / (K n) come from the training part, in which rows of all classes weigh as much in sum."""
    data = Table({"x": [float(row) for row in range(50)], "kind": ["rare"] * 10 + ["usual"] * 40}, label="kind")
    task = Classification(stem=FlatStem(4), shape=(1,), num_classes=2, class_weights="balanced")
    L.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(task, datamodule=data)
    counts = torch.tensor(data.class_counts)
    assert counts.sum() == 40
    torch.testing.assert_close(task.class_weights * counts, torch.tensor([20.0, 20.0]))
    with pytest.raises(
        of.SettingError, match="class_weights: Digits does not state class_counts, which 'balanced' needs"
    ):
        L.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(
            Classification(stem=FlatStem(4), shape=(1, 8, 8), class_weights="balanced"), datamodule=Digits()
        )


def test_a_confusion_matrix_names_the_classes() -> None:
    """Where the data name them, as these are kept with the model."""
    task = Classification(stem=FlatStem(4), shape=(3,), num_classes=3)
    task.confusion.update(torch.eye(3), torch.arange(3))
    task.units = of.Units(classes=("cat", "dog", "owl"))
    (axes, _) = task.test_figures()["confusion_matrix"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]


def test_a_test_ends_with_its_confusion_matrix() -> None:
    """Rows are the true classes, columns the predicted ones, and the title is the error in percent."""
    task = Classification(stem=FlatStem(4), shape=(3,), num_classes=3)
    task.confusion.update(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 2]))
    (axes, _) = task.test_figures()["confusion_matrix"].axes
    assert axes.get_title() == "25.00 % wrong"
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "1"), ((0, 1), "1"), ((1, 1), "1"), ((2, 2), "1")
    }  # fmt: skip


def test_loss_of_a_trajectory_is_the_mean_distance() -> None:
    """At the true field the loss is zero; elsewhere it is the mean (absolute or square) difference."""

    class Still(of.Dynamics):
        width = 2

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(y)

    t = torch.linspace(0, 1, 4)
    y = torch.randn(5, 1, 2).expand(5, 4, 2)
    for distance, value in (("mae", 2.0), ("mse", 4.0)):
        task = Trajectory(Still(), Dopri5(), distance=distance)
        assert float(task.loss(of.Series.observed(t, y), "train")) == 0
        moved = torch.cat([y[:, :1], y[:, 1:] + 2], dim=1)
        assert float(task.loss(of.Series.observed(t, moved), "train")) == pytest.approx(value * 3 / 4)


def test_a_trajectory_draws_its_phase_portrait() -> None:
    """The picture has truth and prediction over time and in phase space, and the learned field."""
    task = Trajectory(MLP(3), RK4(num_steps=5), flow=of.FlowOptions(augment=1))
    batch = of.Series.observed(torch.linspace(0, 1, 20), torch.randn(1, 20, 2).cumsum(1))
    with torch.no_grad():
        figure = task.figures(batch)["phase_portrait"]
    first, second, plane, field, bar = figure.axes
    assert [axes.get_ylabel() for axes in (first, second, bar)] == ["$y_{1}$", "$y_{2}$", r"$\log_{10}$ speed"]
    assert [axes.get_title() for axes in (first, plane, field)] == ["over time", "phase portrait", "learned field"]
    for axes in (first, second, plane):
        assert [line.get_color() for line in axes.lines[:2]] == [TRUTH, PREDICTION]
    assert len(field.collections) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["truth", "prediction", "start", "end"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Classification(ConvNet(8), RK4(num_steps=1), shape=(5,)),
            r"ConvStem needs images of shape \(C, H, W\); got \(5,\). Use FlatStem",
        ),
        (lambda: Classification(MLP(8), RK4(num_steps=1)), r"needs the shape of an input, such as \(1, 28, 28\)"),
        (
            lambda: Classification(MLP(8), RK4(num_steps=1), flow=of.FlowOptions(augment=8), shape=IMAGE),
            "augment=8 leaves nothing of the dynamics' width 8",
        ),
        (
            lambda: Classification(shape=IMAGE),
            r"needs dynamics, or without a flow a width, as ConvStem\(width=64\)",
        ),
        (lambda: Classification(ConvNet(8), shape=IMAGE), "needs a solver for ConvNet; give model.solver"),
        (
            lambda: Classification(ConvNet(8), RK4(num_steps=1), stem=ConvStem(width=4), shape=IMAGE),
            r"ConvStem\(width=4\) contradicts the flow's input width 8; leave it out",
        ),
        (lambda: ConvStem(downsample=-1), "ConvStem: downsample must be at least 0; got -1"),
        (lambda: FlatStem(width=0), "FlatStem: width must be at least 1; got 0"),
        (
            lambda: Classification(shape=IMAGE, label_smoothing=1.0),
            r"label_smoothing must lie in \[0, 1\); got 1.0",
        ),
        (
            lambda: Classification(stem=FlatStem(4), shape=(3,), num_classes=3, class_weights=[1, 0, 1]),
            r"class_weights must be positive numbers, one for each of 3 classes; got \[1, 0, 1\]",
        ),
        (
            lambda: Classification(stem=FlatStem(4), shape=(3,), class_weights="even"),
            "class_weights must be 'balanced' or a list of numbers; got 'even'",
        ),
        (
            lambda: Trajectory(MLP(8), RK4(num_steps=1), distance="max"),
            "distance must be 'mae', 'mse' or 'nll'; got 'max'",
        ),
    ],
)
def test_senseless_settings_are_refused(make: object, message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()
