"""Laws of batches: each task takes what it can compute with, and refuses the rest by saying what it wants."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics import MLP, Linear
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import (
    ODERNN,
    RNN,
    Classification,
    ConvStem,
    Density,
    Dequantisation,
    LatentODE,
    Perceptron,
    Readout,
    Regression,
    Trajectory,
    Variational,
)

D = torch.float64


def quiet(task: Any) -> Any:
    task.log = lambda *_, **__: None
    return task.eval()


def decaying(**options: Any) -> Trajectory:
    """The exact field of exp(−t)."""
    return quiet(Trajectory(Linear(1, bias=False, matrix=[[-1.0]]), Dopri5(1e-6, 1e-6), **options))


def observed(*times: float, dtype: torch.dtype = torch.float32) -> of.Series:
    """exp(−(t − t₀)) at these times."""
    t = torch.tensor(times, dtype=D)
    return of.Series.observed(t.to(dtype), torch.exp(t[0] - t)[None, :, None].float())


# Trajectories


@pytest.mark.parametrize("segment", [None, 2, 3])
@pytest.mark.parametrize("stage", ["train", "test"])
def test_times_out_of_order_are_refused(segment: int | None, stage: str) -> None:
    """A trajectory whose times go back and forth is an error that tells how to sort it."""
    with pytest.raises(of.DataError, match=r"in order, forwards or backwards; got \[0, 2, 1, 3\]\. Sort .* t\.argsort"):
        decaying(segment=segment).loss(observed(0, 2, 1, 3), stage)


@pytest.mark.parametrize("segment", [None, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, D, torch.int64])
@pytest.mark.parametrize("times", [(0, 1, 2, 3), (3, 2, 1, 0), (0, 1, 1, 2), (0, 0, 2, 3, 3)])
def test_times_may_repeat_be_whole_and_run_backwards(
    times: tuple[float, ...], dtype: torch.dtype, segment: int | None
) -> None:
    """The exact field has no error at times given twice, by whole numbers or in float64, forwards or backwards."""
    task, batch = decaying(segment=segment), observed(*times, dtype=dtype)
    for stage in ("train", "test"):
        assert float(task.loss(batch, stage).detach()) < 1e-5
    torch.testing.assert_close(task.predict_step(batch, 0), batch.y, rtol=1e-5, atol=1e-5)


def test_seconds_since_1970_are_no_trouble() -> None:
    """Times in float64 or whole numbers keep their differences; float32 cannot, nor segments that begin there in it.

    Of a field that depends on them, a warning says that it gets them in float32.
    """
    later = (1.7e9, 1.7e9 + 1, 1.7e9 + 2)
    for dtype in (D, torch.int64):
        with pytest.warns(UserWarning, match="the field gets its time in the dtype of the state"):
            assert float(decaying().loss(observed(*later, dtype=dtype), "train").detach()) < 1e-5
    with pytest.raises(of.DataError, match=r"needs different times; got \[1\.7e\+09, 1\.7e\+09, 1\.7e\+09\]"):
        decaying().loss(observed(*later), "train")
    with pytest.raises(of.DataError, match=r"which torch\.float32 rounds by up to 1.* Count times from the first"):
        decaying(segment=2).loss(observed(*later, dtype=D), "train")


def trajectories(**parts: Any) -> of.Series:
    return observed(0, 1, 2)._replace(**parts)


ENDLESS = torch.tensor([1.0, math.inf, 0.1])[None, :, None]
NEVER = torch.zeros(1, 3, 1, dtype=torch.bool)
TWO = of.Series.observed(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2, 2, 1))
WRONG_TRAJECTORIES: dict[str, tuple[Any, str]] = {
    "no Series": (
        torch.zeros(3, 1, 1),
        r"odeflow\.Series.*Series\.observed\(t, y\); got a tensor of shape \(3, 1, 1\)",
    ),
    "other lengths": (trajectories(t=torch.ones(1, 2)), r"times \(B, T\).* got \(1, 2\) and \(1, 3, 1\)"),
    "two states": (
        of.Series.observed(torch.arange(3.0), torch.ones(1, 3, 2)),
        r"the 1 states y_1; the data have 2\. Choose .*--data\.hidden",
    ),
    "never observed": (trajectories(seen=NEVER, target=NEVER), r"nothing was observed of 1 of 1 trajectories"),
    "no mask": (trajectories(seen=torch.ones(1, 3, 1)), r"seen must be a bool mask \(1, 3, 1\).* got torch\.float32"),
    "both directions": (TWO, r"some trajectories run forwards in time and others backwards"),
    "infinity": (trajectories(y=ENDLESS), r"states must be finite.*first of them inf at \[0, 1, 0\]"),
    "a time of NaN": (trajectories(t=torch.tensor([[0, math.nan, 2]])), r"times must be finite"),
    "whole states": (trajectories(y=torch.ones(1, 3, 1).long()), r"must be floating-point numbers; got torch\.int64"),
    "too large": (trajectories(y=torch.full((1, 3, 1), 1e300, dtype=D)), r"states must be finite in torch\.float32"),
    "arrays": (trajectories(y=[[[1.0]]] * 3), r"values must be a tensor; got a list of 3"),
}


@pytest.mark.parametrize(("batch", "message"), WRONG_TRAJECTORIES.values(), ids=WRONG_TRAJECTORIES)
@pytest.mark.parametrize("distance", ["mae", "mse"])
def test_trajectories_of_another_form_are_refused(batch: Any, message: str, distance: str) -> None:
    """They are an error that says what was wanted and what came, in training, prediction and pictures."""
    task = decaying(distance=distance)
    for use in (lambda: task.loss(batch, "train"), lambda: task.predict_step(batch, 0), lambda: task.figures(batch)):
        with pytest.raises(of.DataError, match=f"Trajectory.*{message}"):
            use()


# Pairs and tables


def classifier() -> Classification:
    torch.manual_seed(0)
    return quiet(Classification(stem=ConvStem(downsample=1, width=4), shape=(1, 6, 6), num_classes=3))


def regressor() -> Regression:
    torch.manual_seed(0)
    return quiet(Regression(MLP(2), RK4(num_steps=1)))


def density(**options: Any) -> Density:
    torch.manual_seed(0)
    return quiet(Density(MLP(2), RK4(num_steps=1), **options))


X, IMAGES, LABELS = torch.randn(2, 2), torch.rand(2, 1, 6, 6), torch.tensor([0, 2])
WRONG: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "labels from 1": (classifier, (IMAGES, LABELS // 2 * 2 + 1), r"between 0 and 2; got 1 to 3\. Subtract 1"),
    "negative labels": (classifier, (IMAGES, LABELS - 1), r"got -1 to 1\. Count them from 0"),
    "labels (B, 1)": (classifier, (IMAGES, LABELS[:, None]), r"shape \(2,\).*got \(2, 1\).*\.squeeze\(1\)"),
    "labels of floats": (classifier, (IMAGES, LABELS.float()), r"whole numbers; got torch\.float32\. .*\.long\(\)"),
    "bytes": (classifier, ((255 * IMAGES).byte(), LABELS), r"got torch\.uint8\. .*bytes of images by \.float\(\) / 255"),
    "NaN in images": (classifier, (IMAGES.log() * math.nan, LABELS), r"inputs must be finite in torch\.float32; 72 of 72"),
    "no labels": (classifier, IMAGES, r"\(inputs, labels\); got a tensor of shape \(2, 1, 6, 6\)"),
    "flat images": (classifier, (X, LABELS), r"inputs of shape \(B, 1, 6, 6\); got \(2, 2\)"),
    "a bare table": (regressor, X, r"\(inputs, targets\); got a tensor of shape \(2, 2\).*Choose data with targets"),
    "three parts": (regressor, (X, X, X), r"\(inputs, targets\); got a tuple of 3"),
    "whole targets": (regressor, (X, LABELS[:, None]), r"targets must be floating-point numbers; got torch\.int64"),
    "whole numbers": (density, LABELS[:, None].expand(2, 2), r"data must be floating-point numbers; got torch\.int64"),
    "NaN in a table": (density, torch.tensor([[0, 1], [math.nan, 0]]), r"1 of 4 values are not.*nan at \[1, 0\]"),
    "grey levels": (lambda: density(dequantisation=Dequantisation(256)), 255 * X.abs() + 1, r"between 0 and 1; got .*Divide bytes by 255"),
    "wide noise": (lambda: quiet(Variational(planar=1)), torch.randn(2, 3), r"noise of shape \(B, 2\); got \(2, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "batch", "message"), WRONG.values(), ids=WRONG)
def test_batches_of_another_form_are_refused(make: Callable[[], of.Task], batch: Any, message: str) -> None:
    """What a task cannot learn from is an error that says what was wanted, what came and what to do."""
    with pytest.raises(of.DataError, match=message):
        make().loss(batch, "train")


RIGHT: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "images in float64": (classifier, (IMAGES.double(), LABELS), (IMAGES, LABELS)),
    "short labels": (classifier, (IMAGES, LABELS.int()), (IMAGES, LABELS)),
    "a list": (classifier, [IMAGES, LABELS.byte()], (IMAGES, LABELS)),
    "vectors in float64": (regressor, (X.double(), X[:, :1].double()), (X, X[:, :1])),
    "tables in float64": (density, X.double(), X),
    "tables with labels": (density, (X, LABELS), X),
}


@pytest.mark.parametrize(("make", "batch", "same"), RIGHT.values(), ids=RIGHT)
def test_other_dtypes_are_understood(make: Callable[[], of.Task], batch: Any, same: Any) -> None:
    """Numbers in float64 and labels of any whole dtype have the loss of those in float32 and int64."""
    losses = [make().loss(each, "val").detach() for each in (batch, same)]
    torch.testing.assert_close(*losses)


# Series


def series(**parts: Any) -> of.Series:
    t = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 0.5, 1.0, 1.0]])
    seen = torch.ones(2, 4, 1, dtype=torch.bool)
    return of.Series(t, torch.sin(t)[..., None], seen, seen, torch.tensor([0, 1]))._replace(**parts)


def latent() -> LatentODE:
    return LatentODE(MLP(3, [4]), RK4(num_steps=2), dim=1, num_classes=2, readout=Readout(classifier=Perceptron()))


def ode_rnn() -> ODERNN:
    return ODERNN(
        MLP(3, [4], time="none"), RK4(num_steps=2), dim=1, num_classes=2, readout=Readout(classifier=Perceptron())
    )


MODELS = {
    "latent": latent,
    "ode_rnn": ode_rnn,
    "rnn": lambda: RNN(dim=1, num_classes=2, readout=Readout(classifier=Perceptron())),
}


def loss(make: Callable[[], Any], batch: of.Series) -> Tensor:
    torch.manual_seed(0)
    task = quiet(make())
    return task.loss(batch, "train").detach()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_series_of_other_dtypes_are_understood(make: Callable[[], Any]) -> None:
    """Times and values in float64, whole times and short labels have the loss of float32 and int64."""
    batch = series()
    whole = series(t=batch.t.ceil())
    torch.testing.assert_close(loss(make, batch._replace(t=batch.t.double(), y=batch.y.double())), loss(make, batch))
    torch.testing.assert_close(
        loss(make, whole._replace(t=whole.t.long(), label=batch.label.byte())), loss(make, whole)
    )


WRONG_SERIES: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"y": torch.full((2, 4, 1), math.nan)}, "seen values must be finite in torch.float32; 8 of 8"),
    "whole values": ({"y": torch.ones(2, 4, 1).long()}, "must be floating-point numbers; got torch.int64"),
    "a time of NaN": ({"t": torch.full((2, 4), math.nan)}, "times must be finite.*Pad the end"),
    "out of order": ({"t": torch.tensor([[0.0, 2.0, 1.0, 3.0]] * 2)}, "times of each series must rise"),
    "since 1970": ({"t": series().t.double() + 1.7e9}, "4 steps of time vanish in torch.float32.*Count times from"),
    "labels from 1": ({"label": torch.tensor([1, 2])}, "between 0 and 1; got 1 to 2. Subtract 1"),
    "labels (B, 1)": ({"label": torch.tensor([[0], [1]])}, r"shape \(2,\).*got \(2, 1\)"),
}


@pytest.mark.parametrize(("parts", "message"), WRONG_SERIES.values(), ids=WRONG_SERIES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_series_of_another_form_are_refused(make: Callable[[], Any], parts: dict[str, Any], message: str) -> None:
    """They are an error that says what was wanted, what came and what to do, for every model of series."""
    with pytest.raises(of.DataError, match=message):
        loss(make, series(**parts))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_to_be_predicted_must_be_known_to_learn_it(make: Callable[[], Any]) -> None:
    """A target that is NaN is refused in training; to predict there it need not be known."""
    batch = series()
    unknown = torch.zeros(2, 4, 1, dtype=torch.bool)
    unknown[:, 2:] = True
    batch = batch._replace(y=batch.y.masked_fill(unknown, math.nan), seen=~unknown)
    with pytest.raises(of.DataError, match=r"targets must be finite in torch\.float32; 4 of 8"):
        loss(make, batch)
    found = quiet(make()).predict_step(batch, 0)
    assert all(bool(each.isfinite().all()) for each in (found.values() if isinstance(found, dict) else [found]))
