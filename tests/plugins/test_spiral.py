"""Spiral: the trajectory solves its equation, and the pieces are cut from it."""

import json

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Spiral


def ready(**settings: float) -> Spiral:
    data = Spiral(**settings)
    data.prepare_data()
    data.setup("fit")
    return data


def trajectory(data: Spiral, part: str = "train") -> Tensor:
    """(N, 2), the whole trajectory of a part."""
    return data.y[part]


def start_of(piece: Tensor, whole: Tensor) -> int:
    """Where in a trajectory (N, 2) a piece (T, 2) begins."""
    return int((whole - piece[0]).norm(dim=1).argmin())


@pytest.fixture(scope="module")
def spiral() -> Spiral:
    return ready(steps=7)


@pytest.mark.parametrize(("part", "start"), [("train", [2.0, 0.0]), ("val", [-1.8, 0.0]), ("test", [0.0, 1.9])])
def test_trajectories_solve_the_spiral_equation(spiral: Spiral, part: str, start: list[float]) -> None:
    """The observations agree with scipy's DOP853 on dy/dt = y³A from a start of their own, at equidistant times."""
    matrix = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    times = spiral.t.double().numpy()
    oracle = solve_ivp(lambda _, y: y**3 @ matrix, (0, times[-1]), start, "DOP853", times, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(times, np.linspace(0, 25, 1000), atol=1e-5)
    np.testing.assert_allclose(trajectory(spiral, part).numpy(), oracle.y.T, rtol=0, atol=1e-5)


def test_pieces_are_contiguous_in_the_trajectory(spiral: Spiral) -> None:
    """Without noise every piece is, to the last bit, a run of consecutive observations."""
    whole = trajectory(spiral)
    for batch in spiral.train_dataloader():
        for piece in batch.y:
            start = start_of(piece, whole)
            assert torch.equal(piece, whole[start : start + len(piece)])


def test_pieces_keep_the_spacing_of_time(spiral: Spiral) -> None:
    """The times of a piece begin at 0 and have the spacing of the observations."""
    t = next(iter(spiral.train_dataloader())).t
    torch.testing.assert_close(t, (torch.arange(10) * 25 / 999).expand(20, 10))


def test_every_start_comes_up() -> None:
    """Pieces begin at every observation that leaves room for them, from the first to the last."""
    data = ready(observations=6, batch_time=3, batch_size=50, steps=2, t1=2)
    torch.manual_seed(0)
    batches = list(data.train_dataloader())
    assert {start_of(piece, trajectory(data)) for batch in batches for piece in batch.y} == {0, 1, 2, 3}


def test_a_piece_can_be_the_whole() -> None:
    """With batch_time = observations every piece is the whole trajectory."""
    data = ready(observations=5, batch_time=5, batch_size=3, steps=1, t1=2)
    (batch,) = data.train_dataloader()
    assert torch.equal(batch.y, trajectory(data).expand(3, 5, 2))


def test_noise_is_gaussian_of_the_stated_level() -> None:
    """What noise adds to the pieces has mean 0, the stated deviation, and is drawn for each value anew."""
    data = ready(observations=100, batch_time=100, batch_size=100, steps=2, noise=0.3)
    torch.manual_seed(0)
    clean = trajectory(data)
    added = torch.stack([batch.y - clean for batch in data.train_dataloader()])  # (2, 100, 100, 2)
    standard_error = 0.3 / added.numel() ** 0.5
    assert abs(added.mean().item()) < 4 * standard_error
    assert abs(added.std().item() - 0.3) < 4 * standard_error
    assert (added.abs() < 0.3).float().mean().item() == pytest.approx(0.683, abs=0.01)  # 68 % within one σ
    assert len(added.unique()) > 0.99 * added.numel()


def test_validation_and_test_see_no_noise(spiral: Spiral) -> None:
    """Noise is added to the training pieces only."""
    noisy = ready(noise=0.3)
    (val,), (tested,), (predicted,) = noisy.val_dataloader(), noisy.test_dataloader(), noisy.predict_dataloader()
    for batch, part in ((val, "val"), (tested, "test"), (predicted, "test")):
        assert torch.equal(batch.y[0], trajectory(spiral, part))


def test_validation_and_test_forecast_trajectories_of_their_own(spiral: Spiral) -> None:
    """One batch holds all observations of a trajectory, in float32, of which the first is seen; no part has another's."""
    for loader in (spiral.val_dataloader(), spiral.test_dataloader()):
        (batch,) = loader
        assert isinstance(batch, of.Series)
        assert batch.t.shape == (1, 1000)
        assert batch.y.shape == (1, 1000, 2)
        assert batch.t.dtype == batch.y.dtype == torch.float32
        assert (bool(batch.seen[:, 0].all()), bool(batch.seen[:, 1:].any())) == (True, False)
    states = torch.cat([*spiral.y.values()])
    assert len(states.unique(dim=0)) == len(states)


def test_batches_have_the_stated_number_and_shape() -> None:
    """An epoch has `steps` batches of t (B, T) and y (B, T, dim), and a second epoch as many others."""
    data = ready(batch_time=4, batch_size=3, steps=5)
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    assert len(loader) == len(list(loader.dataset)) == len(first) == len(second) == 5
    for batch in first + second:
        assert isinstance(batch, of.Series)
        assert batch.t.shape == (3, 4)
        assert batch.y.shape == (3, 4, data.dim)
    assert not any(torch.equal(one.y, other.y) for one, other in zip(first, second, strict=True))


def test_one_seed_gives_one_epoch(spiral: Spiral) -> None:
    """`torch.manual_seed` settles which pieces an epoch takes."""
    epochs = []
    for _ in range(2):
        torch.manual_seed(5)
        epochs.append(torch.stack([batch.y for batch in spiral.train_dataloader()]))
    assert torch.equal(*epochs)


@pytest.mark.parametrize("batch_time", [-1, 0, 1, 31])
def test_wrong_batch_time_is_refused(batch_time: int) -> None:
    """A piece of fewer than two observations, or of more than there are, is an error that names both numbers."""
    message = f"batch_time must lie between 2 and observations = 30; got {batch_time}"
    with pytest.raises(of.SettingError, match=message):
        Spiral(observations=30, batch_time=batch_time)
    for name in ("batch_size", "steps"):
        with pytest.raises(of.SettingError, match=f"Spiral: {name} must be at least 1; got -5"):
            Spiral(**{name: -5})


def test_spec_is_plain_and_rebuilds_the_data() -> None:
    """The spec survives JSON and builds data with the same trajectory and batches."""
    data = ready(observations=40, batch_time=5, batch_size=6, steps=2, t1=3.0, noise=0.1)
    registry.discover()
    rebuilt = registry.build(json.loads(json.dumps(data.spec)))
    rebuilt.setup("fit")
    assert type(rebuilt) is Spiral
    assert rebuilt.spec == data.spec
    assert torch.equal(trajectory(rebuilt), trajectory(data))
    drawn = []
    for each in (data, rebuilt):
        torch.manual_seed(0)
        drawn.append(torch.stack([batch.y for batch in each.train_dataloader()]))
    assert torch.equal(*drawn)
