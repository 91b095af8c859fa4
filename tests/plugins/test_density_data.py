"""ToyDensity and Power: samples from known densities, and POWER as published."""

import hashlib
import io
import json
import math
import re
import signal
import socket
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.datasets import make_circles, make_moons
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Power, ToyDensity, download, power
from odeflow_data.archive import checksum, load
from odeflow_data.planar_density import DENSITIES

SMOOTH = [name for name in DENSITIES if name != "checkerboard"]


def gathered(loader: Any) -> Tensor:
    return torch.cat(list(loader))


def rebuilt(data: Any) -> Any:
    """The data again, from their spec as JSON."""
    registry.discover()
    return registry.build(json.loads(json.dumps(data.spec)))


def rows(x: Tensor) -> Counter[tuple[float, ...]]:
    """How often each row occurs."""
    return Counter(map(tuple, x.tolist()))


# ToyDensity: the density


@cache
def on_grid(name: str, width: float = 0.1) -> tuple[Tensor, Tensor]:
    """Midpoints of a grid on [−7, 7]² and the mass that the density has in each cell, (140, 140, 2) and (140, 140)."""
    at = torch.arange(round(14 / width), dtype=torch.float64) * width - 7 + width / 2
    points = torch.cartesian_prod(at, at)
    mass = ToyDensity(name).log_density(points).exp() * width**2
    return points.reshape(len(at), len(at), 2), mass.reshape(len(at), len(at))


@cache
def fresh(name: str) -> Tensor:
    """An epoch of points."""
    return gathered(ToyDensity(name, samples=20_000, seed=5).train_dataloader())


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_integrate_to_one(name: str) -> None:
    """∫ p dx = 1 within 1e-5, by the midpoint rule."""
    assert on_grid(name)[1].sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", DENSITIES)
def test_entropy_is_the_mean_negative_log_density(name: str) -> None:
    """−log p, averaged over points that were drawn, is the entropy within four standard errors."""
    data = ToyDensity(name)
    surprise = -data.log_density(fresh(name).double())
    error = surprise.std().item() / math.sqrt(len(surprise))
    assert surprise.mean().item() == pytest.approx(data.entropy(), abs=4 * error + 1e-9)


@pytest.mark.parametrize("name", DENSITIES)
def test_entropy_is_that_of_another_grid(name: str) -> None:
    """−∫ p log p is the same within 1e-4 on another grid, over a larger square."""
    _, mass = on_grid(name)
    entropy = torch.special.entr(mass).sum().item() + 2 * math.log(0.1)
    assert ToyDensity(name).entropy() == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize("name", DENSITIES)
def test_histograms_follow_the_density(name: str) -> None:
    """Numbers of points in squares of the width ½ agree with the mass there: no z beyond 5, and χ² not too large."""
    edges = torch.linspace(-7, 7, 29, dtype=torch.float64)
    counts = torch.histogramdd(fresh(name).double(), [edges, edges])[0].flatten()
    mass = on_grid(name)[1].reshape(28, 5, 28, 5).sum(dim=(1, 3)).flatten()
    assert counts.sum() == len(fresh(name))
    expected = mass * len(fresh(name))
    z = ((counts - expected) / (expected * (1 - mass)).sqrt())[expected > 25]
    assert len(z) > 30
    assert z.abs().max() < 5
    assert z.square().mean() < 1.6
    assert counts[expected < 1e-6].sum() == 0


@pytest.mark.parametrize("name", DENSITIES)
def test_moments_are_those_of_the_density(name: str) -> None:
    """Mean and second moments of the points are the density's, within five standard errors."""
    points, mass = on_grid(name)
    x = fresh(name).double()
    for power_ in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
        exponents = torch.tensor(power_)
        drawn = x.pow(exponents).prod(dim=1)
        true = (points.pow(exponents).prod(dim=2) * mass).sum().item()
        error = drawn.std().item() / math.sqrt(len(drawn))
        assert drawn.mean().item() == pytest.approx(true, abs=5 * error + 4e-3)  # the grid's own, where p has edges


@pytest.mark.parametrize("name", DENSITIES)
def test_points_are_spread_as_in_ffjord(name: str) -> None:
    """All but few points lie in [−4.5, 4.5]², and some beyond 2 in each coordinate."""
    x = fresh(name).abs()
    assert (x > 4.5).any(dim=1).float().mean() < 1e-3
    assert x.amax(dim=0).min() > 2


@pytest.mark.parametrize("name", SMOOTH)
def test_log_density_has_its_derivative(name: str) -> None:
    """∇ log p by autograd agrees with central differences, in float64."""
    x = fresh(name)[:40].double()
    leaf = x.clone().requires_grad_()
    data, width = ToyDensity(name), 1e-5
    data.log_density(leaf).sum().backward()
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = width
        slope = (data.log_density(x + step) - data.log_density(x - step)) / (2 * width)
        torch.testing.assert_close(leaf.grad[:, i], slope, rtol=1e-5, atol=1e-5)


def blurred(points: np.ndarray, std: float, x: Tensor) -> Tensor:
    """Log of the mean of Gaussians about points."""
    squares = (x[:, None] - torch.from_numpy(points)).square().sum(dim=2)
    return (-squares / (2 * std**2)).logsumexp(dim=1) - math.log(2 * math.pi * std**2 * len(points))


@pytest.mark.parametrize(
    ("name", "points", "std"),
    [
        ("two_moons", 2 * make_moons(20_000)[0] + [-1, -0.2], 0.2),
        ("two_circles", 3 * make_circles(4000, factor=0.5)[0], 0.24),
        ("rings", np.concatenate([r * make_circles(4000, factor=f)[0] for r, f in ((2.25, 1 / 3), (3, 0.5))]), 0.08),
    ],
)
def test_curves_are_those_of_scikit_learn(name: str, points: np.ndarray, std: float) -> None:
    """The density is the limit of many points of scikit-learn's without noise, each blurred by the noise."""
    x = fresh(name)[:50].double()
    torch.testing.assert_close(ToyDensity(name).log_density(x), blurred(points, std, x), rtol=0, atol=1e-2)


def test_eight_gaussians_are_a_mixture() -> None:
    """`8gaussians` is torch's mixture of isotropic Gaussians on a circle of the radius 4/1.414."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centers = torch.stack([angle.cos(), angle.sin()], dim=1) * 4 / 1.414
    spread = torch.distributions.Independent(torch.distributions.Normal(centers, 0.5 / 1.414), 1)
    choice = torch.distributions.Categorical(torch.ones(8, dtype=torch.float64))
    x = 4 * torch.randn(100, 2, dtype=torch.float64)
    mixture = torch.distributions.MixtureSameFamily(choice, spread)
    torch.testing.assert_close(ToyDensity("8gaussians").log_density(x), mixture.log_prob(x))


def roll(t: float, x: float, y: float) -> float:
    """The density of x, y along scikit-learn's roll, whose t is uniform on [1.5π, 4.5π]."""
    return norm.pdf(x, t * math.cos(t) / 5, 0.2) * norm.pdf(y, t * math.sin(t) / 5, 0.2) / (3 * math.pi)


def spirals(t: float, x: float, y: float) -> float:
    """The density of x, y along FFJORD's two spirals, whose t is 3π times the root of a uniform number."""

    def noisy(distance: float) -> float:
        """The density of a uniform number in [0, 1/6] and a Gaussian one together."""
        return (norm.cdf(distance / 0.1) - norm.cdf((distance - 1 / 6) / 0.1)) * 6

    a, b = -t * math.cos(t) / 3, t * math.sin(t) / 3
    return (noisy(x - a) * noisy(y - b) + noisy(-x - a) * noisy(-y - b)) / 2 * 2 * t / (3 * math.pi) ** 2


@pytest.mark.parametrize(
    ("name", "integrand", "low", "high"),
    [("swiss_roll", roll, 1.5 * math.pi, 4.5 * math.pi), ("two_spirals", spirals, 0, 3 * math.pi)],
)
def test_rolls_are_integrals_along_their_curve(name: str, integrand: Any, low: float, high: float) -> None:
    """The density is SciPy's integral over the curve's parameter."""
    x = fresh(name)[:4].double()
    stops = np.linspace(low, high, 40)
    for point, found in zip(x.tolist(), ToyDensity(name).log_density(x).exp().tolist(), strict=True):
        pieces = [quad(integrand, a, b, tuple(point))[0] for a, b in pairwise(stops)]
        assert found == pytest.approx(sum(pieces), rel=1e-7)


def test_pinwheel_is_a_change_of_variables() -> None:
    """Where arms do not overlap, p(x) is a fifth of the Gaussian of (u, v) over the map's determinant, by autograd."""

    def wheel(uv: Tensor) -> Tensor:
        u, v = uv
        angle = torch.tensor(2 * math.pi / 5) + 0.25 * u.exp()
        return 2 * torch.stack([u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()])

    for u, v in [(1.5, 0.1), (1.3, -0.15), (1.8, 0.0)]:
        uv = torch.tensor([u, v], dtype=torch.float64)
        det = torch.autograd.functional.jacobian(wheel, uv).det().abs().item()
        base = norm.pdf(u, 1, 0.3) * norm.pdf(v, 0, 0.1)
        found = ToyDensity("pinwheel").log_density(wheel(uv)[None]).exp().item()
        assert found == pytest.approx(base / det / 5, rel=1e-4)


def test_checkerboard_is_uniform_on_eight_squares() -> None:
    """The density is 1/32 on the squares and 0 between and around them; no point is rounded out of its square."""
    data = ToyDensity("checkerboard", samples=200_000)
    assert data.entropy() == pytest.approx(math.log(32), rel=1e-12)
    assert (data.log_density(gathered(data.train_dataloader())) == torch.tensor(-math.log(32))).all()
    at = torch.arange(-5, 6, 2, dtype=torch.float64)
    inside = data.log_density(torch.cartesian_prod(at, at)).reshape(6, 6).isfinite().int().T.flip(0)
    board = [[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]]
    assert inside.tolist() == [*board, [0, 0, 0, 0, 0, 0]]


def test_log_density_keeps_the_dtype() -> None:
    """What comes in float32 goes out in float32, at the precision of float32; no points give none."""
    for name in DENSITIES:
        x, data = fresh(name)[:50], ToyDensity(name)
        assert data.log_density(x).dtype == torch.float32
        torch.testing.assert_close(data.log_density(x), data.log_density(x.double()).float())
        assert data.log_density(x[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (2, 2, 2)])
def test_log_density_takes_points_of_the_plane(shape: tuple[int, ...]) -> None:
    """Another shape is an error that names it."""
    with pytest.raises(of.DataError, match=re.escape(f"points of shape (B, 2); got {shape}")):
        ToyDensity().log_density(torch.zeros(shape))


# ToyDensity: the data


def test_an_epoch_has_the_stated_number_of_points() -> None:
    """Batches are tensors (B, 2) in float32; the last may be smaller, and a batch too large for the epoch is all."""
    for batch_size, sizes in {4: [4, 4, 2], 5: [5, 5], 100: [10]}.items():
        data = ToyDensity(batch_size=batch_size, samples=10, val_size=6, test_size=3)
        data.setup("fit")
        loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]
        assert [len(batch) for batch in loaders[0]] == sizes
        assert len(loaders[0]) == len(sizes)
        assert [len(gathered(loader)) for loader in loaders] == [10, 6, 3, 3]
        for batch in (batch for loader in loaders for batch in loader):
            assert batch.shape[1:] == (data.dim,)
            assert batch.dtype == torch.float32


@pytest.mark.parametrize("name", DENSITIES)
def test_one_seed_gives_one_series_of_epochs(name: str) -> None:
    """Epochs differ, and are settled by the seed alone: not by the global generator, nor by the batches."""
    series = []
    for global_seed, seed, batch_size in [(0, 3, 10), (1, 3, 7), (1, 4, 10)]:
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        loader = ToyDensity(name, samples=50, seed=seed, batch_size=batch_size).train_dataloader()
        series.append(torch.stack([gathered(loader) for _ in range(3)]))
    assert torch.equal(series[0], series[1])
    assert not rows(series[0].flatten(0, 1)) & rows(series[2].flatten(0, 1))
    assert len(rows(series[0].flatten(0, 1))) == 150


def test_the_parts_are_drawn_apart() -> None:
    """Training, validation and test share no point; setting up again, for another stage, gives the same."""
    data = ToyDensity(samples=100, val_size=100, test_size=100)
    data.setup("fit")
    val, test = data.val, data.test
    assert len(rows(torch.cat([gathered(data.train_dataloader()), val, test]))) == 300
    data.setup("test")
    assert torch.equal(data.val, val)
    assert torch.equal(data.test, test)


def test_a_resumed_run_goes_on_with_new_points() -> None:
    """After `load_state_dict` the next epoch is the one that would have come."""
    data, resumed = (ToyDensity(samples=20, batch_size=8) for _ in range(2))
    epochs = [gathered(data.train_dataloader()) for _ in range(2)]
    resumed.load_state_dict(data.state_dict())
    after = gathered(resumed.train_dataloader())
    assert torch.equal(after, gathered(data.train_dataloader()))
    assert not any(torch.equal(after, epoch) for epoch in epochs)


def test_processes_share_an_epoch() -> None:
    """Two processes, each with its own sampler as in a distributed run, see the batches of one epoch, each once."""
    alone = ToyDensity(samples=40, batch_size=10).train_dataloader()
    shares: list[list[Tensor]] = []
    for rank in range(2):
        train = ToyDensity(samples=40, batch_size=10).train
        sampler = DistributedSampler(train, num_replicas=2, rank=rank, shuffle=False)
        loader = DataLoader(train, batch_size=None, sampler=sampler)
        shares.append([gathered(loader) for _ in range(2)])
    for epoch in range(2):
        assert rows(torch.cat([share[epoch] for share in shares])) == rows(gathered(alone))


class Collector(LightningModule):
    """Keeps the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        return (batch * self.weight).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert batch.shape[1] == 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
def test_the_trainer_sees_a_new_epoch_each_time(tmp_path: Path) -> None:
    """Under Lightning, with validation between, three epochs are the first three of the seed; x is the whole batch."""
    model = Collector()
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, datamodule=ToyDensity(samples=20, batch_size=10, val_size=10, test_size=10))
    loader = ToyDensity(samples=20, batch_size=10).train_dataloader()
    assert torch.equal(torch.cat(model.batches), torch.cat([gathered(loader) for _ in range(3)]))


def test_a_spec_rebuilds_the_points() -> None:
    """The spec survives JSON and builds data with the same points."""
    data = ToyDensity("rings", samples=30, seed=2)
    again = rebuilt(data)
    assert type(again) is ToyDensity
    assert torch.equal(gathered(again.train_dataloader()), gathered(data.train_dataloader()))


WRONG_TOYS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "moons"}, r"no density 'moons'\. Did you mean 'two_moons'\? There are: two_moons, .*rings"),
    "nothing near": ({"name": "xyz"}, r"no density 'xyz'\. There are: two_moons"),
    "batch_size": ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    "samples": ({"samples": 0}, "samples must be at least 1; got 0"),
    "val_size": ({"val_size": -1}, "val_size must be at least 1; got -1"),
    "test_size": ({"test_size": 0}, "test_size must be at least 1; got 0"),
    "seed": ({"seed": -1}, "seed must be at least 0; got -1"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG_TOYS.values(), ids=WRONG_TOYS)
def test_a_wrong_setting_of_a_toy_is_refused(settings: dict[str, Any], message: str) -> None:
    """A name or number that makes no sense is an error that names it, and for a name the nearest and all."""
    with pytest.raises(of.SettingError, match=message):
        ToyDensity(**settings)


# Power: the published data


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Power:
    """The real data, read from the published text."""
    root = tmp_path_factory.mktemp("power")  # where the parsed table is kept
    (root / "household_power_consumption.zip").symlink_to(shared / "data/power/household_power_consumption.zip")
    data = Power(str(root))
    data.prepare_data()
    data.setup("fit")
    return data


def test_published_sizes_come_out(published: Power) -> None:
    """1,659,917 rows of 6 train, 184,435 validate, 204,928 test, in float32."""
    assert [len(part) for part in (published.train, published.val, published.test)] == [1_659_917, 184_435, 204_928]
    assert published.train.shape[1] == published.dim == 6
    assert {part.dtype for part in (published.train, published.val, published.test)} == {torch.float32}


def test_a_gaussian_scores_what_was_published(published: Power) -> None:
    """A Gaussian fitted to training has −7.74 ± 0.02 nats on the test: MAF, table 1, there with two standard errors."""
    train, test = published.train.double(), published.test.double()
    gaussian = torch.distributions.MultivariateNormal(train.mean(dim=0), train.T.cov())
    scores = gaussian.log_prob(test)
    assert scores.mean().item() == pytest.approx(-7.742, abs=2e-3)
    assert 2 * scores.std().item() / math.sqrt(len(scores)) == pytest.approx(0.024, abs=1e-3)


def test_known_rows_are_standardised(published: Power) -> None:
    """Training and validation together have mean 0 and standard deviation 1 in each column."""
    known = torch.cat([published.train, published.val]).double()
    torch.testing.assert_close(known.mean(dim=0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(known.std(dim=0), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-5)


def test_noise_leaves_hardly_a_value_twice(published: Power) -> None:
    """Noise makes the quantities continuous: of 100,000 values of each, most differ."""
    for column in published.train[:100_000].T:
        assert len(column.unique()) > 80_000


def test_the_checksum_is_that_of_the_published_text(published: Power) -> None:
    """The text with UCI's line ends has 132,960,755 bytes and the sha256 that its users quote."""
    text = power._unpacked(published.root / "household_power_consumption.zip").replace(b"\r", b"")
    original = text.replace(b"\n", b"\r\n")
    assert len(original) == 132_960_755
    assert hashlib.sha256(text).hexdigest() == power.SHA256
    found = hashlib.sha256(original).hexdigest()
    assert found == "4259c9d7ece5dbee9ab8d53682baac68d791c864f0f64a52b4043cb3b90894b7"


# Power: reading and preparing, on small files

HEADER = (
    "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;"
    "Sub_metering_1;Sub_metering_2;Sub_metering_3"
)
COUNT = 60
NAME = "household_power_consumption"


def small_lines() -> list[str]:
    """Lines of UCI's text, two of 62 without values, with numbers of one to three digits before the point."""
    random = np.random.default_rng(0)
    lines = []
    for minute in range(COUNT):
        values = [random.uniform(0, 11), random.uniform(0, 1), random.uniform(223, 254), random.uniform(0, 48)]
        values += [*random.integers(0, 80, 2), random.integers(0, 101)]
        clock = f"{minute * 24 // COUNT:02}:{minute * 7 % 60:02}:00"
        lines.append(f"{minute % 28 + 1}/12/2006;{clock};" + ";".join(f"{value:.3f}" for value in values))
    lines.insert(20, "21/12/2006;11:23:00;?;?;?;?;?;?;")
    lines.append("26/11/2010;21:02:00;?;?;?;?;?;?;")
    return lines


def small_text(end: str = "\n") -> bytes:
    return "".join(line + end for line in [HEADER, *small_lines()]).encode()


def small_table() -> np.ndarray:
    """The quantities by Python's own `float`."""
    fields = [line.split(";") for line in small_lines() if "?" not in line]
    minutes = [[int(f[1][:2]) * 60 + int(f[1][3:5])] for f in fields]
    return np.array([[float(f[i]) for i in (2, 4, 6, 7, 8)] + m for f, m in zip(fields, minutes, strict=True)])


def packed(text: bytes, name: str = f"{NAME}.txt") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return stream.getvalue()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small text counts as the published one."""
    monkeypatch.setattr(power, "SHA256", hashlib.sha256(small_text()).hexdigest())
    monkeypatch.setattr(power, "KEPT", checksum([power.parse(small_text())]))


@pytest.fixture
def root(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the zip; nothing is downloaded where it lies."""
    monkeypatch.setattr(power, "_download", lambda *_: pytest.fail("a download was attempted"))
    (tmp_path / f"{NAME}.zip").write_bytes(packed(small_text()))
    return tmp_path


def ready(root: Path, **settings: Any) -> Power:
    data = Power(str(root), **settings)
    data.prepare_data()
    data.setup("fit")
    return data


def test_fields_are_read_as_python_reads_them(root: Path) -> None:
    """Each number is the double nearest to its decimals, the time is in minutes, and lines with `?` are left out."""
    assert np.array_equal(power.read(root), small_table())


def test_zip_and_text_and_line_ends_are_alike(tmp_path: Path, small: None) -> None:
    """The zip and its text, with line ends of Unix or UCI's, give the same table."""
    for i, end in enumerate(("\n", "\r\n")):
        for name, contents in {"zip": packed(small_text(end)), "txt": small_text(end)}.items():
            folder = tmp_path / f"{name}{i}"
            folder.mkdir()
            (folder / f"{NAME}.{name}").write_bytes(contents)
            assert np.array_equal(power.read(folder), small_table())


def test_rows_are_prepared_as_for_maf() -> None:
    """Shuffled as `RandomState(42).shuffle` does it, then noise on voltage, power, meters and time, in this order."""
    table = np.random.default_rng(1).integers(0, 1000, (50, 6)).astype(float)
    random, x = np.random.RandomState(42), table.copy()
    random.shuffle(x)
    voltage, active, meters = random.rand(50, 1), random.rand(50, 1), random.rand(50, 3)
    x += np.hstack([active / 1000, voltage / 100, meters, random.rand(50, 1)])
    known = x[:-5]
    expected = (x - known.mean(axis=0)) / known.std(axis=0)
    before = table.copy()
    rows = power.spread(table)
    prepared = power.fitted(rows).standardised(torch.from_numpy(rows))
    torch.testing.assert_close(prepared, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    assert np.array_equal(table, before)


def test_tenths_of_the_published_rows_are_the_published_sizes() -> None:
    """2,049,280 rows make 204,928 of test and 184,435 of validation; the rest is what `limit` may be at most."""
    assert power.shares(power.VALID) == {"test": 204_928, "val": 184_435}
    assert power.VALID - 204_928 - 184_435 == power.TRAIN


def test_the_parts_are_the_rows_in_order(root: Path) -> None:
    """Training, validation and test follow each other in the prepared table, and lose no row."""
    data = ready(root)
    assert [len(data.train), len(data.val), len(data.test)] == [49, 5, 6]
    whole = torch.cat([data.train, data.val, data.test])
    torch.testing.assert_close(
        data.units.restored(whole), torch.from_numpy(power.spread(small_table())), rtol=1e-4, atol=1e-3
    )


def test_batches_are_whole_tables(root: Path) -> None:
    """Batches are tensors (B, 6); training's are shuffled anew each epoch, and none loses a row."""
    torch.manual_seed(0)
    data = ready(root, batch_size=20)
    first, second = (list(data.train_dataloader()) for _ in range(2))
    assert [batch.shape for batch in first] == [(20, 6), (20, 6), (9, 6)]
    assert not torch.equal(first[0], second[0])
    assert rows(torch.cat(first)) == rows(torch.cat(second)) == rows(data.train)
    assert torch.equal(gathered(data.val_dataloader()), data.val)
    assert torch.equal(gathered(data.test_dataloader()), data.test)
    assert torch.equal(gathered(data.predict_dataloader()), data.test)
    assert [len(batch) for batch in ready(root, batch_size=1000).train_dataloader()] == [49]
    assert Power("nowhere").dim == 6


def test_limit_takes_some_training_rows(root: Path) -> None:
    """`limit` rows of training are the same for a seed, others for another, and leave the other parts as they are."""
    whole = ready(root)
    some, again, other = (ready(root, limit=20, seed=seed) for seed in (0, 0, 1))
    assert len(rows(some.train)) == 20
    assert not rows(some.train) - rows(whole.train)
    assert torch.equal(some.train, again.train)
    assert rows(some.train) != rows(other.train)
    assert torch.equal(some.test, whole.test)
    assert torch.equal(rebuilt(some).spec["init_args"]["limit"] * torch.ones(1), torch.tensor([20.0]))


@pytest.mark.parametrize("limit", [0, -1, 1_659_918])
def test_a_wrong_limit_is_refused(limit: int) -> None:
    """A limit that takes nothing or more than there is is an error that names the largest."""
    with pytest.raises(of.SettingError, match=rf"limit must lie in \[1, 1659917\]; got {limit}"):
        Power(limit=limit)


def test_a_batch_has_a_row(root: Path) -> None:
    """A batch size of 0 is refused where batches are made."""
    with pytest.raises(of.SettingError, match="batch_size must be at least 1; got 0"):
        ready(root, batch_size=0).train_dataloader()


# Power: the parsed table is kept


def test_the_text_is_read_once(root: Path) -> None:
    """What was parsed is kept beside the zip and read without it, to the same values."""
    first = np.array(power.read(root))
    assert holdings(root) == [f"{NAME}.npz", f"{NAME}.zip"]
    (root / f"{NAME}.zip").unlink()
    assert np.array_equal(power.read(root), first)
    assert len(ready(root).train) == 49


@pytest.mark.parametrize("rest", [b"", b"\x93NUMPY", b"garbage", packed(b"zip")], ids=["empty", "half", "text", "zip"])
def test_a_broken_table_is_parsed_again(root: Path, rest: bytes) -> None:
    """A kept table that is none is neither trusted nor an obstacle."""
    (root / f"{NAME}.npz").write_bytes(rest)
    assert np.array_equal(power.read(root), small_table())
    assert np.array_equal(load(root / f"{NAME}.npz", ["table"], [], "")["table"], small_table())


@pytest.mark.parametrize(
    "other",
    [
        *(
            np.zeros((COUNT - 1, 6)),
            np.zeros((COUNT, 5)),
            np.zeros((COUNT, 6), np.float32),
            np.full((COUNT, 6), np.nan),
        ),
        np.zeros((COUNT, 6)),
    ],
)
def test_another_table_is_parsed_again(root: Path, other: np.ndarray) -> None:
    """A kept table of another form, of no numbers, or of others, is not taken."""
    np.savez(root / f"{NAME}.npz", table=other)
    assert np.array_equal(power.read(root), small_table())


def test_a_folder_that_cannot_be_written_serves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, the text is parsed each time."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "replacing", refuse)
    assert len(ready(root).train) == 49
    assert holdings(root) == [f"{NAME}.zip"]


def test_a_read_only_folder_stays_as_it_is(root: Path) -> None:
    """A folder whose mode forbids to write is not written to, not even by root."""
    root.chmod(0o555)
    assert len(ready(root).train) == 49
    assert holdings(root) == [f"{NAME}.zip"]
    root.chmod(0o755)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_stopped_in_keeping_leaves_no_half(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just before the table gets its name leaves nothing under it."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            power.read(root)
    assert not (root / f"{NAME}.npz").exists()
    assert np.array_equal(power.read(root), small_table())


# Power: files that are not what they should be


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    """Reading a folder with neither zip nor text says what was looked for, and where."""
    with pytest.raises(of.DataError, match=rf"{re.escape(str(tmp_path))} has neither {NAME}\.zip nor {NAME}\.txt"):
        Power(str(tmp_path)).setup("fit")


def locked(contents: bytes) -> bytes:
    """A zip whose entries say that they are encrypted."""
    where, central = 6, contents.index(b"PK\x01\x02") + 8
    changed = bytearray(contents)
    changed[where] |= 1
    changed[central] |= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a web page": lambda _: b"<html>Please log in</html>",
    "empty": lambda _: b"",
    "cut": lambda contents: contents[: len(contents) // 2],
    "flipped": lambda contents: contents[:200] + bytes([contents[200] ^ 255]) + contents[201:],
    "locked": locked,
    "of something else": lambda _: packed(b"text", "readme.txt"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_zip_is_refused(root: Path, damage: Callable[[bytes], bytes]) -> None:
    """A zip that cannot be unpacked is an error that names it and says to delete it."""
    path = root / f"{NAME}.zip"
    path.write_bytes(damage(packed(small_text())))
    with pytest.raises(of.DataError, match=rf"{re.escape(str(path))} cannot be unpacked: .+\. Delete it"):
        power.read(root)


@pytest.mark.parametrize("kind", ["zip", "txt"])
def test_other_contents_are_refused(root: Path, kind: str) -> None:
    """A text that is not the published one is an error that names its file and both checksums."""
    text = small_text().replace(b"2006", b"2007")
    path = root / f"{NAME}.{kind}"
    path.write_bytes(packed(text) if kind == "zip" else text)
    found = hashlib.sha256(text).hexdigest()
    message = rf"{re.escape(str(path))} is damaged or another file: .*sha256 {found}, wanted {power.SHA256}"
    with pytest.raises(of.DataError, match=message):
        power.read(root)


# Power: downloading, from a server on this machine


@pytest.fixture
def publisher(small: None, server: Any) -> Any:
    """A server of the small zip."""
    server.url += "/power.zip"
    server.files = {"power.zip": packed(small_text("\r\n"))}
    return server


def holdings(root: Path) -> list[str]:
    """All that is in a folder and below."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_missing_zip_is_downloaded_once(tmp_path: Path, publisher: Any) -> None:
    """The zip is asked for once, kept as it came, and serves; a kept table serves without it."""
    root = tmp_path / "new" / "power"
    data = Power(str(root), url=publisher.url)
    data.prepare_data()
    data.prepare_data()
    assert holdings(root) == [f"{NAME}.zip"]
    assert (root / f"{NAME}.zip").read_bytes() == publisher.files["power.zip"]
    data.setup("fit")
    assert len(data.train) + len(data.val) + len(data.test) == COUNT
    (root / f"{NAME}.zip").unlink()
    data.prepare_data()
    assert publisher.requests == ["power.zip"]


@pytest.mark.parametrize("kind", ["zip", "txt"])
def test_what_is_there_is_not_downloaded(tmp_path: Path, publisher: Any, kind: str) -> None:
    """A file that is there is neither asked for nor changed."""
    (tmp_path / f"{NAME}.{kind}").write_bytes(b"mine")
    Power(str(tmp_path), url=publisher.url).prepare_data()
    assert publisher.requests == []
    assert (tmp_path / f"{NAME}.{kind}").read_bytes() == b"mine"


def test_a_broken_table_alone_is_no_reason_to_do_without(tmp_path: Path, publisher: Any) -> None:
    """Where only a broken table is kept, the zip is downloaded."""
    (tmp_path / f"{NAME}.npz").write_bytes(b"half")
    assert len(ready(tmp_path, url=publisher.url).train) == 49


def test_a_download_of_other_contents_is_refused(tmp_path: Path, publisher: Any) -> None:
    """A text other than the published one is not kept; the error names the address and both checksums."""
    other = small_text() + b"more\n"
    publisher.files["power.zip"] = packed(other)
    found = hashlib.sha256(other).hexdigest()
    with pytest.raises(of.DataError, match=f"{NAME}.txt from {publisher.url} .*sha256 {found}, wanted {power.SHA256}"):
        Power(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_download_that_is_no_such_zip_is_refused(
    tmp_path: Path, publisher: Any, damage: Callable[[bytes], bytes]
) -> None:
    """What cannot be unpacked is not kept; the error names the address it came from."""
    publisher.files["power.zip"] = damage(packed(small_text()))
    with pytest.raises(of.DataError, match=rf"{publisher.url} is not the zip of {NAME}\.txt: .+"):
        Power(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == []


def test_a_zip_the_server_lacks_is_an_error_with_advice(tmp_path: Path, publisher: Any) -> None:
    """A 404 says what could not be had, from where and why, and how to do without the download."""
    publisher.files.clear()
    advice = rf"{NAME}\.zip is not in {tmp_path} .*{publisher.url}.*404.*Put it there.*--data\.root"
    with pytest.raises(of.DataError, match=advice):
        Power(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == []


def test_no_server_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the error gives the same advice."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(of.DataError, match=r"cannot be downloaded.*Put it there"):
        Power(str(tmp_path), url=f"http://127.0.0.1:{port}/power.zip").prepare_data()


def test_a_zip_that_cannot_be_kept_is_an_error_with_advice(tmp_path: Path, publisher: Any) -> None:
    """Where the zip cannot get its name, the error says why and to choose another folder."""
    (tmp_path / f"{NAME}.zip").mkdir()
    with pytest.raises(of.DataError, match=rf"{NAME}\.zip cannot be kept in {tmp_path}: .+directory.+--data\.root"):
        Power(str(tmp_path), url=publisher.url).prepare_data()
    assert holdings(tmp_path) == [f"{NAME}.zip"]


def test_a_run_stopped_in_the_download_leaves_no_half(tmp_path: Path, publisher: Any) -> None:
    """Ctrl-C while the zip comes in leaves nothing under its name, and the next run downloads it."""
    main, stopped = threading.get_ident(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are not given

    def stop() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        stopped.wait(10)

    publisher.half_way = stop
    with pytest.raises(KeyboardInterrupt):
        Power(str(tmp_path), url=publisher.url).prepare_data()
    stopped.set()
    assert holdings(tmp_path) == []
    publisher.half_way = lambda: None
    assert len(ready(tmp_path, url=publisher.url).train) == 49


def test_a_run_stopped_in_writing_leaves_no_half(
    tmp_path: Path, publisher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just before the zip gets its name leaves nothing under it, and the next run downloads it."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Power(str(tmp_path), url=publisher.url).prepare_data()
    assert f"{NAME}.zip" not in holdings(tmp_path)
    assert len(ready(tmp_path, url=publisher.url).train) == 49
