"""Laws of the baselines of the tables of time series."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import odeflow as of
from odeflow_data import PeriodicSeries, Shares
from odeflow_data.seen import Seen

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rulers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("rulers")


def batch(degree: int) -> of.Series:
    """Polynomials at random times, every second one seen, one of them twice."""
    torch.manual_seed(0)
    t = torch.rand(3, 21).sort(1).values
    t[:, 4] = t[:, 2]
    t = t.sort(1).values
    y = (torch.randn(3, 1, 2, degree + 1) * t[..., None, None] ** torch.arange(degree + 1)).sum(-1)
    seen = (torch.arange(21) % 2 == 0)[None, :, None].expand(3, -1, 2)
    return of.Series(t, y, seen, torch.ones_like(seen))


def test_polynomials_are_found(rulers: ModuleType) -> None:
    """The fit of degree four is exact for polynomials of degree four, inside and outside."""
    torch.testing.assert_close(rulers.polynomials(batch(4)), batch(4).y, rtol=1e-3, atol=1e-3)


def test_straight_lines_are_found(rulers: ModuleType) -> None:
    """Linear and cubic interpolation are exact for straight lines between the observations."""
    errors = rulers.rules(batch(1), torch.zeros(2))
    for name in ("linear", "cubic"):
        assert errors[name]["inside"] < 1e-10
    assert errors["mean"]["inside"] > 1e-3


def test_the_mean_of_the_training_part_stands_for_what_was_not_seen(rulers: ModuleType) -> None:
    """A feature of which nothing was seen is predicted by the mean that the rules are given, by all of them."""
    series = batch(1)
    blind = series._replace(seen=torch.zeros_like(series.seen))
    mean = torch.tensor([0.3, -2.0])
    errors = rulers.rules(blind, mean)
    wanted = float((series.y - mean).square().mean())
    assert all(found["all"] == pytest.approx(wanted) for found in errors.values())


def test_the_population_mean_is_that_of_the_training_part(rulers: ModuleType) -> None:
    """Of its seen and target values."""
    data = PeriodicSeries(series=40, points=10, seen=Seen("extrapolation", 0.5), split=Shares())
    data.setup("fit")
    torch.testing.assert_close(rulers.population(data), data.train.y.mean((0, 1)))
