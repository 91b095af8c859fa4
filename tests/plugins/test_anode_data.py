"""Crossing and Spheres: maps that no flow in the inputs' own dimension represents."""

import json

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Crossing, Spheres


def ready(data: of.DataModule) -> of.DataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def parts(data: of.DataModule) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and targets of each part, as its loader gives them."""
    ready(data)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    batches = {part: list(loader) for part, loader in loaders.items()}
    return {part: (torch.cat([b[0] for b in some]), torch.cat([b[1] for b in some])) for part, some in batches.items()}


def rows(points: Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, points.tolist()))


def test_crossing_exchanges_two_points() -> None:
    """Without noise the inputs are −1 and 1 in every part, and the target is the other one."""
    for x, targets in parts(Crossing()).values():
        assert rows(x) == {(-1.0,), (1.0,)}
        assert torch.equal(targets, -x)


def test_an_epoch_of_crossing_is_balanced() -> None:
    """An epoch has `samples` points, and each batch, the last and smaller one too, as many of one as of the other."""
    batches = list(ready(Crossing(samples=14, batch_size=4)).train_dataloader())
    assert [len(x) for x, _ in batches] == [4, 4, 4, 2]
    assert all(float(targets.sum()) == 0 for _, targets in batches)


def test_no_order_preserving_map_crosses() -> None:
    """On every batch, the best pair of predictions a ≤ b for −1 and 1 has a mean square error of 1."""
    a, b = torch.meshgrid(torch.linspace(-2, 2, 81), torch.linspace(-2, 2, 81), indexing="ij")
    for x, targets in ready(Crossing(samples=64)).train_dataloader():
        predictions = torch.where(x[:, 0, None, None] < 0, a, b)
        errors = (predictions - targets[:, :, None]).square().mean(0)
        assert float(errors[a <= b].min()) == pytest.approx(1.0, abs=1e-6)


def test_noise_moves_the_inputs_alone() -> None:
    """The noise is Gaussian of the stated level, leaves the targets as they are, and is another one in each part."""
    found = parts(Crossing(samples=4000, noise=0.2))
    for x, targets in found.values():
        added = x + targets
        assert abs(float(added.mean())) < 4 * 0.2 / len(x) ** 0.5
        assert float(added.std()) == pytest.approx(0.2, rel=0.05)
        assert rows(targets) == {(-1.0,), (1.0,)}
    train, val, test = (x for x, _ in found.values())
    for one, other in ((train, val), (train, test), (val, test)):
        assert float((one - other).std()) == pytest.approx(0.2 * 2**0.5, rel=0.05)


@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_a_ball_lies_in_a_shell(dim: int) -> None:
    """In any dimension ‖x‖ ≤ r1 where the target is −1, and r2 ≤ ‖x‖ ≤ r3 where it is 1, with the stated numbers."""
    for x, targets in parts(Spheres(dim, inner=300, outer=500, r1=0.4, r2=1.1, r3=2.0)).values():
        assert x.shape == (800, dim)
        assert targets.shape == (800, 1)
        radii, inside = x.double().norm(dim=1), targets[:, 0] == -1
        assert inside.sum() == 300
        assert (targets[~inside] == 1).all()
        assert radii[inside].max() <= 0.4 + 1e-6
        assert radii[~inside].min() >= 1.1 - 1e-6
        assert radii[~inside].max() <= 2.0 + 1e-6


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_points_are_uniform_in_the_volume(dim: int) -> None:
    """The share s = (‖x‖ᵈ − lowᵈ)/(highᵈ − lowᵈ) of the volume within ‖x‖ is uniform on [0, 1], and E xxᵀ ∝ 1."""
    count = 40_000
    x, targets = parts(Spheres(dim, inner=count, outer=count))["train"]
    for target, low, high in ((-1, 0.0, 0.5), (1, 1.0, 1.5)):
        points = x[targets[:, 0] == target].double()
        share = (points.norm(dim=1) ** dim - low**dim) / (high**dim - low**dim)
        for power in (1, 2):  # E sᵖ = 1/(p + 1), of variance 1/(2p + 1) − 1/(p + 1)²
            deviation = (1 / (2 * power + 1) - 1 / (power + 1) ** 2) ** 0.5
            assert abs(float((share**power).mean()) - 1 / (power + 1)) < 4 * deviation / count**0.5
        spread = points.T @ points / points.square().sum(1).mean() * dim / count
        torch.testing.assert_close(spread, torch.eye(dim).double(), rtol=0, atol=0.05)
        assert float(points.mean(0).norm()) < 0.05


def test_the_parts_are_different_points() -> None:
    """Train, validation and test share no point, and neither do two seeds."""
    drawn = [rows(x) for seed in (0, 1, 2) for x, _ in parts(Spheres(seed=seed)).values()]
    assert len(set.union(*drawn)) == sum(map(len, drawn)) == 9 * 3000


def test_ball_and_shell_are_mixed() -> None:
    """Every batch of validation has points of both, and training comes in another order each epoch."""
    data = ready(Spheres())
    assert all(0.2 < float((targets == -1).float().mean()) < 0.5 for _, targets in data.val_dataloader())
    torch.manual_seed(0)
    loader = data.train_dataloader()
    first, second = (torch.cat([x for x, _ in loader]) for _ in range(2))
    assert not torch.equal(first, second)
    assert rows(first) == rows(second)


@pytest.mark.parametrize("make", [lambda seed: Crossing(noise=0.1, seed=seed), lambda seed: Spheres(seed=seed)])
def test_one_seed_gives_one_set(make: object) -> None:
    """The points depend on the seed alone, not on the global generator."""
    sets = []
    for at, seed in enumerate((4, 4, 5)):
        torch.manual_seed(at)
        sets.append({part: rows(x) for part, (x, _) in parts(make(seed)).items()})
    assert sets[0] == sets[1]
    assert sets[0]["train"] != sets[2]["train"]


@pytest.mark.parametrize("data", [Crossing(), Spheres(dim=3)], ids=["crossing", "spheres"])
def test_announced_sizes_are_those_of_the_batches(data: of.DataModule) -> None:
    """`dim`, known before the data are made, is the inputs' length; all is float32; prediction sees the test."""
    found = parts(data)
    for x, targets in found.values():
        assert x.shape[1] == data.dim
        assert targets.shape[1] == 1
        assert x.dtype == targets.dtype == torch.float32
    assert torch.equal(torch.cat([x for x, _ in data.predict_dataloader()]), found["test"][0])


@pytest.mark.parametrize(
    "data", [Crossing(samples=8, batch_size=4, noise=0.3, seed=2), Spheres(3, inner=5, outer=6, r1=0.3, seed=2)]
)
def test_spec_is_plain_and_rebuilds_the_data(data: of.DataModule) -> None:
    """The spec survives JSON and builds data with the same points."""
    registry.discover()
    rebuilt = registry.build(json.loads(json.dumps(data.spec)))
    assert type(rebuilt) is type(data)
    assert rebuilt.spec == data.spec
    mine, theirs = parts(data), parts(rebuilt)
    assert all(rows(mine[part][0]) == rows(theirs[part][0]) for part in mine)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crossing(samples=7), "samples must be even, for two points in equal parts; got 7"),
        (lambda: Crossing(samples=0), "samples must be even, for two points in equal parts; got 0"),
        (lambda: Crossing(batch_size=5), "batch_size must be even, for two points in equal parts; got 5"),
        (lambda: Crossing(noise=-0.1), r"noise must be at least 0; got -0\.1"),
        (lambda: Crossing(noise=float("nan")), "noise must be a finite number; got nan"),
        (lambda: Spheres(dim=0), "dim must be at least 1; got 0"),
        (lambda: Spheres(inner=0), "inner must be at least 1; got 0"),
        (lambda: Spheres(outer=-3), "outer must be at least 1; got -3"),
        (lambda: Spheres(batch_size=0), "batch_size must be at least 1; got 0"),
        (lambda: Spheres(r1=1.2), r"the radii must be 0 < r1 < r2 < r3; got 1\.2, 1\.0 and 1\.5"),
        (lambda: Spheres(r1=0), r"the radii must be 0 < r1 < r2 < r3; got 0, 1\.0 and 1\.5"),
        (lambda: Spheres(r3=1.0), r"the radii must be 0 < r1 < r2 < r3; got 0\.5, 1\.0 and 1\.0"),
    ],
)
def test_senseless_settings_are_refused(make: object, message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()
