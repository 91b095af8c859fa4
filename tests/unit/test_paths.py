"""Laws of paths: values, derivatives and gradients of interpolations, missing values, times, breaks."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline, PPoly
from torch import Tensor, nn

import odeflow as of
from odeflow import paths
from odeflow.paths import Constant, Function, Hermite, Linear, NaturalCubic, PiecewisePolynomial, Rectilinear
from odeflow.paths.polynomial import Outside

D = torch.float64
KINDS: list[type[PiecewisePolynomial]] = [Linear, Rectilinear, Hermite, NaturalCubic]
SMOOTH: list[type[PiecewisePolynomial]] = [Hermite, NaturalCubic]


def series(own: bool, missing: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Times, (9,) or (3, 9), values (3, 9, 2), and which are observed; if any is missing, one channel has few."""
    generator = torch.Generator().manual_seed(4)
    t = 0.1 + torch.rand(3, 9, dtype=D, generator=generator).cumsum(1)
    x = torch.randn(3, 9, 2, dtype=D, generator=generator)
    mask = torch.ones(3, 9, 2, dtype=torch.bool)
    if missing:
        mask = torch.rand(3, 9, 2, generator=generator) > 0.4
        mask[1, :, 1] = torch.arange(9) == 3
        mask[2, :, 0] = False
    return t if own else t[0], x, mask


def scipy_path(kind: type[PiecewisePolynomial], t: np.ndarray, x: np.ndarray) -> PPoly:
    """The same interpolation of one series by scipy, which extrapolates."""
    chords = np.diff(x) / np.diff(t)
    if kind is NaturalCubic:
        return CubicSpline(t, x, bc_type="natural")
    if kind is Hermite:
        return CubicHermiteSpline(t, x, np.r_[chords[0], chords])
    return PPoly(np.stack((chords, x[:-1])) if kind is Linear else x[None, :-1], t)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_derivatives_are_those_of_scipy(kind: type[PiecewisePolynomial], own: bool, missing: bool) -> None:
    """Each channel of each sample is scipy's interpolation of its own observations, and outside as `outside` says."""
    t, x, mask = series(own, missing)
    holding = kind(t, x, mask)
    free = holding if kind is Rectilinear else kind(t, x, mask, "extrapolate")
    compared = 0
    for time in torch.linspace(-0.3, 6.5, 41, dtype=D):
        for sample, channel in np.ndindex(3, 2):
            known = mask[sample, :, channel]
            knots, values = (t[sample] if own else t)[known].numpy(), x[sample, known, channel].numpy()
            if len(values) < 2:
                constant = torch.as_tensor(values[0] if len(values) else 0.0, dtype=D)
                wanted = {(0, "hold"): constant, (0, "extrapolate"): constant, (1, "hold"): 0 * constant}
                wanted[1, "extrapolate"] = 0 * constant
            else:
                oracle, inside = scipy_path(kind, knots, values), knots[0] <= time <= knots[-1]
                held = values[0] if time < knots[0] else values[-1]
                wanted = {(order, "extrapolate"): oracle(time, order) for order in (0, 1)}
                wanted[0, "hold"] = oracle(time) if inside else held
                wanted[1, "hold"] = oracle(time, 1) if inside else 0.0
                compared += inside
            for path, outside in (holding, "hold"), (free, "extrapolate"):
                outside = "hold" if kind is Rectilinear else outside
                for order, found in enumerate((path(time), path.derivative(time))):
                    assert float(found[sample, channel]) == pytest.approx(
                        float(wanted[order, outside]), rel=1e-9, abs=1e-11
                    )
    assert compared > 60


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_observations(kind: type[PiecewisePolynomial]) -> None:
    """Derivatives of values by the observed values are finite differences, 0 where one is missing, nan or not."""
    t, x, mask = series(own=True, missing=True)
    x.requires_grad_()
    times = torch.tensor([1.3, 2.9, 4.4], dtype=D)
    assert torch.autograd.gradcheck(lambda x: kind(t, x, mask)(times), x)
    unseen = torch.where(mask, x, torch.nan)
    (grad,) = torch.autograd.grad(kind(t, unseen)(times).sum(), x)
    assert grad.abs().sum() > 0
    assert not grad[~mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_time_is_the_derivative(kind: type[PiecewisePolynomial]) -> None:
    """Autograd through t, with one time for each sample, gives `derivative`; one clock for all gives the same rows."""
    t, x, mask = series(own=True, missing=True)
    path, times = kind(t, x, mask), torch.tensor([1.3, 2.9, 4.4], dtype=D, requires_grad=True)
    u = path(times)
    for row, time in enumerate(times.detach()):
        assert torch.equal(path(time)[row], u[row])
        assert torch.equal(path.increment(times[0].detach(), time)[row], path(time)[row] - path(times[0])[row])
    if kind is Rectilinear:
        assert not path.derivative(times).any()
        return
    (grad,) = torch.autograd.grad(u.sum(), times)
    assert torch.allclose(grad, path.derivative(times).sum(1))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_values_change_nothing(kind: type[PiecewisePolynomial]) -> None:
    """Missing rows, in between or padding at the end, leave every bit; nan is missing, as by the mask."""
    t, x, _ = series(own=True, missing=False)
    t, x = t[:, :7].clone(), x[:, :7].clone()
    times = torch.linspace(0, 6, 25, dtype=D)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 3] = mask[1, 5:] = False
    t[1, 5:] = t[1, 4]
    whole = kind(t, x, mask)
    by_nan = kind(t, x.masked_fill(~mask[:, :, None], torch.nan))
    for sample in range(3):
        alone = kind(t[sample, mask[sample]], x[sample : sample + 1, mask[sample]])
        for time in times:
            assert torch.equal(whole(time)[sample], alone(time)[0])
            assert torch.equal(by_nan(time)[sample], alone(time)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_causality(kind: type[PiecewisePolynomial]) -> None:
    """Before an observation nothing later than it matters, for Rectilinear not even itself; NaturalCubic looks ahead."""
    t, x, _ = series(own=False, missing=False)
    first, before = (2, t[5]) if kind is Rectilinear else (2, t[4])
    other = x.clone()
    other[:, 5:] += 1
    times = torch.linspace(float(t[first]), float(before) - 1e-9, 20, dtype=D)
    same = all(torch.equal(kind(t, x)(time), kind(t, other)(time)) for time in times)
    assert same == (kind is not NaturalCubic)


def test_a_path_common_to_all_samples() -> None:
    """With B = 1 a path has one row at a common time, and a row for each of several times."""
    t, x, _ = series(own=False, missing=False)
    path = Linear(t, x[:1])
    times = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=D)
    assert path(times).shape == (4, 2)
    assert torch.equal(path(times), torch.cat([path(time) for time in times]))


def test_images_and_other_dtypes() -> None:
    """Values may have further dimensions, and another dtype than the times, which the path keeps."""
    x = torch.randn(2, 3, 4, 5, 5)
    path = Hermite(torch.tensor([0, 1, 3]), x)
    assert path(torch.tensor(1.0)).dtype == torch.float32
    assert torch.equal(path(torch.tensor(1.0)), x[:, 1])


def test_a_single_observation() -> None:
    """A series of one observation is constant."""
    for kind in KINDS:
        path = kind(torch.tensor([1.0]), torch.ones(1, 1, 2))
        for time in (0.0, 1.0, 2.0):
            assert torch.equal(path(torch.tensor(time)), torch.ones(1, 2))
            assert not path.derivative(torch.tensor(time)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_breaks(kind: type[PiecewisePolynomial]) -> None:
    """All observations are breaks of paths with kinks, and of smooth ones only those where values begin to be held."""
    t, x, mask = series(own=False, missing=False)
    knots = tuple(t.tolist())
    mask[:, 4] = False
    smooth = kind in SMOOTH
    assert kind(t, x, mask).breaks == ((knots[0], knots[-1]) if smooth else knots[:4] + knots[5:])
    mask[0, -1, 1] = False
    assert kind(t, x, mask).breaks == ((knots[0], knots[-2], knots[-1]) if smooth else knots[:4] + knots[5:])
    ends = kind(t, x).stops(knots[2], knots[0])
    assert ends == {Rectilinear: knots[:3], Linear: knots[1:2]}.get(kind, ())
    if smooth:
        assert kind(t, x, mask, "extrapolate").breaks == ()
    t, x, _ = series(own=True, missing=False)
    breaks = kind(t, x).breaks
    assert breaks == tuple(sorted(set(breaks)))
    assert len(breaks) == (6 if smooth else 27)


def test_functions() -> None:
    """A function is differentiated by itself or by its formula; a module's parameters are its tensors."""
    wave = Function(lambda t: torch.sin(2 * t)[..., None])
    by_formula = Function(wave.function, derivative=lambda t: 2 * torch.cos(2 * t)[..., None])
    for t in (torch.tensor(0.3, dtype=D), torch.tensor([0.3, 0.7], dtype=D)):
        assert wave(t).shape == (max(1, t.numel()), 1)
        assert torch.allclose(wave.derivative(t), by_formula.derivative(t))
    module = nn.Linear(1, 2)
    assert len(Function(lambda t: module(t[..., None])).tensors) == 0
    assert Function(nn.Sequential(nn.Unflatten(0, (1, -1)), module)).tensors == tuple(module.parameters())
    assert Function(wave.function, breaks=(2.0, 1.0)).stops(0.0, 2.0) == (1.0, 2.0)


def test_joined_and_repeated_paths() -> None:
    """Joined paths lie side by side, repeated ones below each other, with all breaks and tensors, at any times."""
    t, x, _ = series(own=True, missing=False)
    line, value = Linear(t, x), Constant(torch.ones(1, 1, dtype=D))
    joined = paths.Joined(line, value)
    twice = paths.Repeated(joined, 2)
    times = torch.linspace(1, 5, 6, dtype=D)
    for time in (times[0], times[:3]):
        assert torch.equal(joined(time), torch.cat((line(time), torch.ones(3, 1, dtype=D)), 1))
        assert torch.equal(joined.derivative(time)[:, :2], line.derivative(time))
        assert not joined.derivative(time)[:, 2:].any()
    assert torch.equal(twice(times[0]), joined(times[0]).repeat(2, 1))
    assert torch.equal(twice(times), torch.cat((joined(times[:3]), joined(times[3:]))))
    assert torch.equal(twice.derivative(times)[3:], joined.derivative(times[3:]))
    assert twice.breaks == joined.breaks == line.breaks
    assert twice.tensors == (line.coefficients, value.value)
    assert twice.continuous
    assert not paths.Joined(value, Rectilinear(t, x)).continuous


def test_constants() -> None:
    """A constant has no derivative, no breaks, and is its own tensor."""
    path = Constant(torch.ones(3, 2))
    assert torch.equal(path(torch.tensor(0.3)), torch.ones(3, 2))
    assert not path.derivative(torch.tensor(0.3)).any()
    assert path.stops(0.0, 1.0) == ()
    assert path.tensors == (path.value,)


@pytest.mark.parametrize(
    ("t", "x", "mask", "message"),
    [
        (torch.arange(3.0), torch.ones(3, 1), None, r"values of shape \(B, T, c, …\).* x of shape \(3, 1\)"),
        (torch.arange(4.0), torch.ones(2, 3, 1), None, r"t of shape \(4,\) and x of shape \(2, 3, 1\)"),
        (torch.ones(3, 3).cumsum(1), torch.ones(2, 3, 1), None, "a time for each value"),
        (torch.arange(0.0), torch.ones(2, 0, 1), None, "a time for each value, at least one"),
        (torch.arange(3.0), torch.ones(2, 3, 1, dtype=torch.long), None, "floating-point values"),
        (torch.arange(3.0), torch.ones(2, 3, 1), torch.ones(2, 2), r"mask .* \(2, 3, 1\), or \(2, 3\); got \(2, 2\)"),
        (torch.tensor([0.0, 2.0, 1.0]), torch.ones(2, 3, 1), None, "strictly increasing; sample 0 has 0, 2, 1"),
        (torch.tensor([0.0, 1.0, 1.0]), torch.ones(2, 3, 1), None, "strictly increasing"),
        (torch.tensor([0.0, 1.0, torch.inf]), torch.ones(2, 3, 1), None, "must be finite"),
    ],
)
def test_what_is_no_series(t: Tensor, x: Tensor, mask: Tensor | None, message: str) -> None:
    """Shapes that do not match and times that do not increase are refused, and named."""
    with pytest.raises(of.DataError, match=message):
        Linear(t, x, mask)


def test_what_a_path_refuses() -> None:
    """An unknown option, another number of times than samples, and too many breaks are errors that say what to do."""
    wrong: Outside = "nearest"  # pyright: ignore[reportAssignmentType]
    with pytest.raises(of.SettingError, match="outside must be 'hold' or 'extrapolate'; got 'nearest'"):
        Linear(torch.arange(3.0), torch.ones(1, 3, 1), outside=wrong)
    with pytest.raises(of.StateError, match="the path has 2 samples; got 3 times"):
        Linear(torch.arange(3.0), torch.ones(2, 3, 1))(torch.ones(3))
    t = torch.rand(200, 6, dtype=D).cumsum(1)
    with pytest.raises(of.SettingError, match=r"1200 kinks in all, at most 1000 .* Use a smooth path"):
        Linear(t, torch.ones(200, 6, 1)).stops(0.0, 1.0)
    many = torch.arange(2000.0)
    assert len(Linear(many, torch.ones(1, 2000, 1)).breaks) == 2000


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(paths.__path__)])
def test_examples(name: str) -> None:
    """The examples of the docstrings run, and print what they say."""
    assert not doctest.testmod(importlib.import_module(f"odeflow.paths.{name}")).failed
