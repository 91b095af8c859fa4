"""Laws of Brownian paths: on a grid and as a tree, they have one law, and the same question has the same answer."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.paths import Brownian, BrownianGrid, BrownianTree

COUNT = 100_000
TIMES = [0.5, 0.75, 1.5, 1.625, 2.0]
D = torch.float64
FORMS: dict[str, Callable[[int], Brownian]] = {
    "grid": lambda seed: BrownianGrid(seed, (COUNT, 1), TIMES, dtype=D),
    "tree": lambda seed: BrownianTree(seed, (COUNT, 1), 0.5, 2.0, dtype=D),
    "short tree": lambda seed: BrownianTree(seed, (COUNT, 1), 0.0, 2.0, depth=14, dtype=D),
}
EACH = pytest.mark.parametrize("form", FORMS)


def standardised(path: Brownian) -> Tensor:
    """(n, COUNT): increments and areas of all intervals, divided by their standard deviations."""
    found: list[Tensor] = []
    for start, end in pairwise(TIMES):
        w, area = path.increment_and_area(start, end)
        h = end - start
        found += [w[:, 0] / h**0.5, area[:, 0] / (h / 12) ** 0.5]
    return torch.stack(found)


@EACH
def test_law(form: str) -> None:
    """Increments and areas are independent normal numbers of the variances h and h/12, within 4 standard errors."""
    values = standardised(FORMS[form](3))
    assert values.mean(1).abs().max() < 4 / COUNT**0.5
    assert (values.var(1) - 1).abs().max() < 4 * (2 / COUNT) ** 0.5
    assert (torch.corrcoef(values) - torch.eye(len(values), dtype=D)).abs().max() < 4 / COUNT**0.5
    assert ((values**4).mean(1) - 3).abs().max() < 4 * (96 / COUNT) ** 0.5
    below = (values[..., None] < torch.tensor([-1.0, 0.0, 1.0])).double().mean(1)
    wanted = torch.special.ndtr(torch.tensor([-1.0, 0.0, 1.0], dtype=D))
    assert (below - wanted).abs().max() < 4 * (0.25 / COUNT) ** 0.5


@EACH
def test_additivity(form: str) -> None:
    """Increments add up, and the area of an interval follows from those of its parts, to rounding."""
    path = FORMS[form](1)
    (w1, area1), (w2, area2) = path.increment_and_area(0.5, 1.5), path.increment_and_area(1.5, 2.0)
    w, area = path.increment_and_area(0.5, 2.0)
    torch.testing.assert_close(w1 + w2, w, atol=1e-13, rtol=0)
    torch.testing.assert_close(path(2.0) - path(1.5), path.increment(1.5, 2.0), atol=1e-13, rtol=0)
    torch.testing.assert_close(path.increment(2.0, 0.5), -w, atol=1e-13, rtol=0)
    integral = 1.0 * (w1 / 2 + area1) + 0.5 * (w1 + w2 / 2 + area2)
    torch.testing.assert_close(1.5 * (w / 2 + area), integral, atol=1e-12, rtol=0)


@EACH
def test_same_question_same_answer(form: str) -> None:
    """Answers do not depend on what was asked before: finer questions change no coarser ones, bit for bit."""
    path, asked = FORMS[form](7), FORMS[form](7)
    whole = path.increment_and_area(0.5, 2.0)
    for start, end in reversed(list(pairwise(TIMES))):
        asked.increment_and_area(start, end)
    for one, other in zip(whole, asked.increment_and_area(0.5, 2.0), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(path.increment(0.75, 1.5), asked.increment(0.75, 1.5))
    assert not torch.equal(path.increment(0.75, 1.5), FORMS[form](8).increment(0.75, 1.5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    path.increment(0.5, 0.75)
    assert torch.equal(state, torch.get_rng_state())  # torch's own generator is left alone


def test_forms_have_one_law() -> None:
    """Quantiles of W at the end and of the area over a part agree between grid and tree."""
    grid, tree = standardised(FORMS["grid"](11)), standardised(FORMS["tree"](12))
    places = torch.linspace(0.05, 0.95, 19, dtype=D)
    difference = torch.quantile(grid, places, dim=1) - torch.quantile(tree, places, dim=1)
    at = torch.special.ndtri(places)
    density = torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
    error = (2 * places * (1 - places) / COUNT).sqrt() / density
    assert (difference.abs() < 4.5 * error[:, None]).all()


def test_tree_between_its_intervals() -> None:
    """At a time that no halving meets, W has the variance t up to the size of a leaf, and it is continuous there."""
    path = BrownianTree(5, (COUNT,), 0.0, 1.0, depth=10, dtype=D)
    t = 1 / 3
    assert abs(path(t).var().item() / t - 1) < 4 * (2 / COUNT) ** 0.5 + 2**-10
    assert (path(t) - path(t + 1e-9)).abs().max() < 1e-6
    near, far = path.increment(t, t + 0.1), path.increment(t + 0.1, 1.0)
    assert abs(torch.corrcoef(torch.stack((near, far)))[0, 1].item()) < 4 / COUNT**0.5 + 2**-10


def test_depth_does_not_matter_on_its_grid() -> None:
    """Trees of different depth have the same path at the ends of their common intervals."""
    one, other = (BrownianTree(5, (3, 2), -1.0, 1.0, depth=depth, dtype=D) for depth in (5, 20))
    for t in torch.linspace(-1, 1, 33, dtype=D).tolist():
        torch.testing.assert_close(one(t), other(t), atol=1e-14, rtol=0)


def test_bad_questions_are_errors() -> None:
    """Times outside, between the steps of a grid or of several samples, derivatives and empty spans are refused."""
    grid, tree = BrownianGrid(0, (2, 1), [0.0, 0.5, 1.0]), BrownianTree(0, (2, 1), 0.0, 1.0)
    with pytest.raises(of.SettingError, match=r"known at the ends of its 2 steps, of which t = 0\.3 is none"):
        grid.increment(0.0, 0.3)
    with pytest.raises(of.SettingError, match=r"goes from t = 0 to 1; got t = 1\.5"):
        tree(1.5)
    with pytest.raises(of.SettingError, match=r"one time for all samples; got times of shape \(3,\)"):
        tree(torch.zeros(3))
    with pytest.raises(of.SettingError, match="has no derivative"):
        tree.derivative(torch.tensor(0.5))
    with pytest.raises(of.SettingError, match="times that increase"):
        tree.increment_and_area(0.5, 0.5)
    with pytest.raises(of.SettingError, match="times that increase"):
        grid.increment_and_area(0.5, 0.0)
    with pytest.raises(of.SettingError, match="t0 < t1"):
        BrownianTree(0, (1,), 1.0, 1.0)
    with pytest.raises(of.SettingError, match="depth must lie between 0 and 30; got 40"):
        BrownianTree(0, (1,), 0.0, 1.0, depth=40)
    with pytest.raises(of.SettingError, match="at least two increasing times"):
        BrownianGrid(0, (1,), [1.0])
