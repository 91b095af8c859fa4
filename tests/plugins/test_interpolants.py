"""Laws of interpolants: derivatives, ends, and the field that they define."""

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import build, plugins
from odeflow_matching import Bridge, Interpolant, Straight, Target, Trigonometric, VESchedule, VPSchedule

DOUBLE = torch.float64
OURS = [Straight(), Straight(0.3), Target(0.1), Trigonometric(), VPSchedule(), VESchedule(), Bridge(0.7)]


def names(value: Interpolant) -> str:
    return repr(value.spec["init_args"]) + type(value).__name__


def test_all_are_registered() -> None:
    """Interpolants are a kind of plugin."""
    assert {type(each).__name__ for each in OURS} <= set(plugins("interpolant"))


@pytest.mark.parametrize("interpolant", OURS, ids=names)
def test_derivatives_are_those_of_the_coefficients(interpolant: Interpolant) -> None:
    """da, db and dγ are what autograd makes of a, b and γ."""
    low, high = interpolant.span
    t = torch.linspace(max(low, 1e-3), min(high, 1 - 1e-3), 41, dtype=DOUBLE)
    ones = torch.ones_like(t)
    for name in ("a", "b", "gamma"):
        _, slope = torch.func.jvp(lambda t, name=name: getattr(interpolant.coefficients(t), name), (t,), (ones,))
        torch.testing.assert_close(getattr(interpolant.coefficients(t), f"d{name}"), slope, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("interpolant", OURS, ids=names)
def test_ends_are_the_source_and_the_data(interpolant: Interpolant) -> None:
    """The point is x₀ at t = 0 and x₁ at t = 1, but for the stated noise, and but for the data in the variance-exploding one."""
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    at = interpolant.coefficients(t)
    exploding, blur = isinstance(interpolant, VESchedule), getattr(interpolant, "sigma_min", 0.0)
    a0 = 1.0 if exploding else 0.0
    b1 = {VPSchedule: 0.0105, VESchedule: 0.01 / 20}.get(type(interpolant), blur)
    torch.testing.assert_close(at.a, torch.tensor([a0, 1.0], dtype=DOUBLE), atol=7e-3, rtol=0)
    torch.testing.assert_close(at.b, torch.tensor([1.0, b1], dtype=DOUBLE), atol=1e-4, rtol=0)
    sigma = interpolant.sigma if isinstance(interpolant, Straight) else 0.0
    torch.testing.assert_close(at.gamma, torch.full_like(t, sigma))
    assert interpolant.noisy == bool(sigma or isinstance(interpolant, Bridge))


@pytest.mark.parametrize("interpolant", [Trigonometric(), VPSchedule()], ids=names)
def test_variance_is_preserved(interpolant: Interpolant) -> None:
    """a² + b² = 1."""
    at = interpolant.coefficients(torch.linspace(0, 1, 11, dtype=DOUBLE))
    torch.testing.assert_close(at.a**2 + at.b**2, torch.ones(11, dtype=DOUBLE))


def moment_field(interpolant: Interpolant, t: Tensor, x: Tensor, mean: float, std: float, spread: float) -> Tensor:
    """E[ẋ | x_t = x] for x₀ ~ N(0, spread²), x₁ ~ N(mean, std²) and z ~ N(0, 1), all independent."""
    at = interpolant.coefficients(t)
    variance = (at.a * std) ** 2 + (at.b * spread) ** 2 + at.gamma**2
    covariance = at.a * at.da * std**2 + at.b * at.db * spread**2 + at.gamma * at.dgamma
    return at.da * mean + covariance / variance * (x - at.a * mean)


@pytest.mark.parametrize("interpolant", OURS, ids=names)
def test_the_regression_finds_the_field_of_the_moments(interpolant: Interpolant) -> None:
    """A linear regression of ẋ_t on x_t is the field in closed form for Gaussian ends."""
    torch.manual_seed(0)
    spread, count = interpolant.spread, 400_000
    x0, x1 = spread * torch.randn(count, 1, dtype=DOUBLE), 1.5 + 0.6 * torch.randn(count, 1, dtype=DOUBLE)
    z = torch.randn(count, 1, dtype=DOUBLE) if interpolant.noisy else None
    for time in (0.2, 0.5, 0.8):
        t = torch.tensor(time, dtype=DOUBLE)
        x, velocity = interpolant.point(t.expand(count), x0, x1, z)
        design = torch.cat([torch.ones_like(x), x], 1)
        found = torch.linalg.lstsq(design, velocity).solution[:, 0]
        grid = torch.tensor([0.0, 1.0], dtype=DOUBLE)
        wanted = moment_field(interpolant, t, grid, 1.5, 0.6, spread)
        scale = velocity.std().item()
        assert abs(found[0] - wanted[0]) < 0.01 * scale
        assert abs(found[0] + found[1] - wanted[1]) < 0.01 * scale


def test_images_are_interpolated_by_sample() -> None:
    """Times of each sample act on whole images."""
    x0, x1, t = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4), torch.tensor([0.0, 0.5, 1.0])
    x, velocity = Straight().point(t, x0, x1)
    assert torch.equal(x.mean((1, 2, 3)), t)
    assert torch.equal(velocity, torch.ones_like(x))


@pytest.mark.parametrize("interpolant", OURS, ids=names)
def test_specs_rebuild(interpolant: Interpolant) -> None:
    """A checkpoint holds an interpolant by its options."""
    t = torch.linspace(0.1, 0.9, 5)
    again = build(interpolant.spec)
    assert torch.equal(again.coefficients(t).b, interpolant.coefficients(t).b)
    assert (again.spread, again.noisy) == (interpolant.spread, interpolant.noisy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Straight(-1.0), "sigma must be"),
        (lambda: Target(1.0), r"sigma_min must"),
        (lambda: Bridge(0.0), "sigma must"),
        (lambda: VPSchedule(2.0, 1.0), "0 < beta_min <= beta_max; got 2.0 and 1.0"),
        (lambda: VPSchedule(end=0.0), "end must"),
        (lambda: VESchedule(1.0, 0.5), "0 < sigma_min < sigma_max; got 1.0 and 0.5"),
    ],
)
def test_impossible_options_are_refused(make: object, message: str) -> None:
    """What has no meaning is an error that says so."""
    with pytest.raises(of.SettingError, match=message):
        make()  # pyright: ignore
