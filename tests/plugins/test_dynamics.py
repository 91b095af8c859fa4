"""Laws of the vector fields: shapes kept and checked, time seen, published sizes."""

import pytest
import torch

import odeflow as of
from odeflow_dynamics import MLP, ConvNet

ZERO = torch.zeros(())


@pytest.mark.parametrize(
    ("field", "shape"), [(MLP(3), (5, 3)), (MLP(3, time="none"), (2, 5, 3)), (ConvNet(8), (2, 8, 5, 4))]
)
def test_the_slope_has_the_shape_of_the_state(field: of.Dynamics, shape: tuple[int, ...]) -> None:
    """f(t, y) is shaped as y, and `width` is the size that tasks fit their layers to."""
    assert field(ZERO, torch.randn(shape)).shape == shape
    assert field.width == shape[1 if len(shape) == 4 else -1]


def test_time_enters_where_it_should() -> None:
    """A field with time changes with t; an autonomous one does not."""
    y, image = torch.randn(5, 3), torch.randn(2, 8, 5, 4)
    for field, state in ((MLP(3), y), (ConvNet(8), image)):
        assert not torch.allclose(field(ZERO, state), field(ZERO + 1, state))
    autonomous = MLP(3, time="none")
    assert torch.equal(autonomous(ZERO, y), autonomous(ZERO + 1, y))


def test_samples_do_not_see_each_other() -> None:
    """The slope of a sample does not depend on its batch mates."""
    for field, state in ((MLP(3), torch.randn(5, 3)), (ConvNet(8), torch.randn(5, 8, 4, 4))):
        assert torch.allclose(field(ZERO, state)[:2], field(ZERO, state[:2]), atol=1e-6)


def test_power_feeds_the_powers_alone() -> None:
    """With power=3 the perceptron sees y³."""
    torch.manual_seed(0)
    cubed = MLP(2, power=3)
    torch.manual_seed(0)
    plain = MLP(2)
    y = torch.randn(4, 2)
    assert torch.equal(cubed(ZERO, y), plain(ZERO, y**3))


def test_published_sizes() -> None:
    """The convolutional field with 64 channels has the 75,392 parameters of the published ODE-Net's block."""
    assert sum(param.numel() for param in ConvNet(64).parameters()) == 75_392


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MLP(3)(ZERO, torch.randn(5, 2)), of.StateError, r"MLP\(dim=3\) takes states \(…, 3\); got \(5, 2\)"),
        (
            lambda: ConvNet(8)(ZERO, torch.randn(5, 4, 3, 3)),
            of.StateError,
            r"images \(B, 8, H, W\); got \(5, 4, 3, 3\)",
        ),
        (lambda: ConvNet(8)(ZERO, torch.randn(5, 8)), of.StateError, r"got \(5, 8\)"),
        (lambda: MLP(3, activation="sine"), of.SettingError, "knows no activation 'sine'; choose from tanh, softplus"),
        (lambda: MLP(3, time="late"), of.SettingError, "time must be 'concat' or 'none'; got 'late'"),
    ],
)
def test_mistakes_are_named(call: object, error: type[Exception], message: str) -> None:
    """A state of the wrong shape and an unknown option are refused with what was wanted and what came."""
    with pytest.raises(error, match=message):
        call()
