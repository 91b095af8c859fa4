"""Laws of instance normalisation: predictions move and grow with the series."""

from typing import Any

import pytest
import torch

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import Midpoint
from odeflow_tasks import ODERNN, RNN, InstanceNorm


def model(kind: str, **options: Any) -> ODERNN | RNN:
    """A small one."""
    torch.manual_seed(0)
    if kind == "RNN":
        return RNN(dim=2, width=6, **options).eval()
    return ODERNN(MLP(6, [8], time="none"), Midpoint(num_steps=1), dim=2, **options).eval()


def series(shift: float = 0.0, scale: float = 1.0) -> of.Series:
    """Two series of two features, partly seen."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(2, 9, generator=generator).sort(1).values
    seen = torch.rand(2, 9, 2, generator=generator) < 0.5
    y = torch.randn(2, 9, 2, generator=generator) * scale + shift
    return of.Series(t, y.where(seen, 0.0), seen, torch.ones_like(seen))


@pytest.mark.parametrize("level", ["last", "mean"])
@pytest.mark.parametrize("kind", ["RNN", "ODERNN"])
def test_predictions_move_with_the_series(kind: str, level: Any) -> None:
    """A series that is higher by 100 has predictions that are, with a level; without one they are not."""
    with torch.no_grad():
        found = [model(kind, instance=InstanceNorm(level)).predict(series(shift)) for shift in (0.0, 100.0)]
        plain = [model(kind).predict(series(shift)) for shift in (0.0, 100.0)]
    torch.testing.assert_close(found[1], found[0] + 100, rtol=0, atol=1e-3)
    assert float((plain[1] - plain[0]).abs().max()) < 50


def test_levels_are_of_seen_values() -> None:
    """A zero network predicts them: the last seen value of each feature, or the mean; 0 where nothing was seen."""
    y = torch.tensor([[[1.0, 7.0], [3.0, 0.0], [9.0, 0.0]]])
    seen = torch.tensor([[[True, False], [True, False], [False, False]]])
    batch = of.Series(torch.arange(3.0)[None], y, seen, ~seen)
    cases: list[tuple[Any, float]] = [("last", 3.0), ("mean", 2.0)]
    for level, wanted in cases:
        task = model("ODERNN", instance=InstanceNorm(level))
        for parameter in task.decoder.parameters():
            torch.nn.init.zeros_(parameter)
        assert task.predict(batch).tolist() == [[[wanted, 0.0]] * 3]


@pytest.mark.parametrize("level", ["last", "mean"])
@pytest.mark.parametrize("kind", ["RNN", "ODERNN"])
def test_predictions_grow_with_the_series(kind: str, level: Any) -> None:
    """Affine changes a y + b of a series are those of its predictions, if it is large beside the least scale."""
    task = model(kind, instance=InstanceNorm(level, rescale=True))
    with torch.no_grad():
        found = [task.predict(series(shift, scale)) for shift, scale in ((0.0, 1e3), (500.0, 1e4))]
    torch.testing.assert_close(found[1], 10 * found[0] + 500, rtol=1e-3, atol=1.0)


def test_a_constant_series_is_finite() -> None:
    """A series of one value, or of none, has finite predictions."""
    seen = torch.ones(2, 4, 2, dtype=torch.bool)
    seen[1] = False
    batch = of.Series(torch.arange(4.0).expand(2, -1), torch.full((2, 4, 2), 3.0).where(seen, 0), seen, ~seen)
    assert model("RNN", instance=InstanceNorm("mean", rescale=True)).predict(batch).isfinite().all()


def test_an_unknown_level_is_refused() -> None:
    """The message names those that there are."""
    level: Any = "first"
    with pytest.raises(of.SettingError, match="level must be 'none', 'last' or 'mean'; got 'first'"):
        InstanceNorm(level)
