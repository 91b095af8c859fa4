"""Laws of controlled equations: closed forms, orders of log-signatures, reparametrisation, causality, oracles, gradients."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.paths import Derivative, Function, Hermite, Linear, NaturalCubic, Rectilinear
from odeflow.testing import dynamics_checks
from odeflow_cde import Bilinear, Driven, LogSignature, log_signature_channels
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5, Dopri8, Tsit5

D = torch.float64


def exact(**options: Any) -> Dopri8:
    return Dopri8(rtol=1e-11, atol=1e-12, max_steps=100_000, **options)


def knots(samples: int = 3, times: int = 7, channels: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Times (T,) on [0, 3] and values (B, T, c)."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.cat((torch.zeros(1, dtype=D), 0.2 + torch.rand(times - 1, dtype=D, generator=generator))).cumsum(0)
    return 3 * t / t[-1], torch.randn(samples, times, channels, dtype=D, generator=generator)


def net(channels: int = 2, width: int = 4) -> Driven:
    torch.manual_seed(1)
    return Driven(MLP(dim=width, hidden=[8], time="none"), channels).double()


def bilinear(matrices: Tensor) -> Driven:
    channels, width, _ = matrices.shape
    field = Bilinear(width, channels)
    field.matrices = nn.Parameter(matrices.clone())
    return Driven(field, channels)


@pytest.mark.parametrize(
    "check",
    [
        *dynamics_checks(Driven(MLP(dim=3, hidden=[5], time="concat"), channels=2), torch.randn(4, 5)),
        *dynamics_checks(Driven(Bilinear(dim=3, channels=2), channels=2), torch.randn(4, 5)),
        *dynamics_checks(Bilinear(dim=3, channels=2), torch.randn(4, 3)),
    ],
    ids=str,
)
def test_fields_are_dynamics(check: Callable[[], None]) -> None:
    """A driven field fulfils the contract of dynamics, and so does a product."""
    check()


# Closed forms


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", [Linear, Hermite, NaturalCubic])
def test_commuting_matrices_give_the_exponential_of_the_increment(kind: Any, per_sample: bool) -> None:
    """For dz = ∑ Aᵢ z dXᵢ with commuting Aᵢ, z(t₁) = exp(∑ Aᵢ ΔXᵢ) z₀ to 1e-8 of it, whatever the path between."""
    base = torch.tensor([[0.1, 1.0, 0.0], [-1.0, 0.2, 0.3], [0.2, 0.0, -0.3]], dtype=D)
    matrices = torch.stack((base, 0.5 * base @ base - torch.eye(3, dtype=D)))
    t, x = knots()
    z0 = torch.randn(3, 3, dtype=D, generator=torch.Generator().manual_seed(2))
    found = (
        of.Flow(bilinear(matrices), exact(per_sample=per_sample, jump_ts=t.tolist()))
        .trajectory(z0, [0.0, 1.7, 3.0], context=kind(t, x))
        .y
    )
    for time, z in zip((1.7, 3.0), found[1:], strict=True):
        change = kind(t, x)(torch.tensor(time, dtype=D)) - x[:, 0]
        wanted = torch.linalg.matrix_exp(torch.einsum("bi,ijk->bjk", change, matrices)) @ z0[..., None]
        torch.testing.assert_close(z, wanted.squeeze(2), atol=1e-8, rtol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize(("depth", "order"), [(1, 2), (2, 4)])
def test_log_signatures_converge_as_the_magnus_expansion(depth: Any, order: int) -> None:
    """With matrices that do not commute, and their commutators at the areas, the error is of order 2 and 4 in the window."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 3, 3, dtype=D, generator=generator) * 0.6
    brackets = [second @ first - first @ second for first, second in ((a, b), (a, c), (b, c))]
    path = Function(lambda t: torch.stack((t, (3 * t).sin(), (2 * t).cos() * t), -1))
    z0 = torch.randn(2, 3, dtype=D, generator=generator)
    solver = Dopri8(rtol=1e-13, atol=1e-14)
    span = torch.tensor([0.0, 1.0], dtype=D)
    truth = of.Flow(bilinear(torch.stack((a, b, c))), solver).trajectory(z0, span, context=path).y[-1]
    field = bilinear(torch.stack((a, b, c, *(brackets if depth == 2 else ()))))
    errors = []
    for windows in (8, 16):
        edges = [number / windows for number in range(windows + 1)]
        log_signature = LogSignature(path, edges, depth)
        assert log_signature(span[0]).shape[1] == log_signature_channels(3, depth)
        found = of.Flow(field, solver).trajectory(z0, span, context=log_signature).y[-1]
        errors.append(float((found - truth).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)
    assert errors[1] < 10.0**-order


# Paths


@pytest.mark.parametrize("kind", [Linear, Hermite, NaturalCubic])
@pytest.mark.parametrize("windows", [1, 3, [0.0, 0.4, 2.1, 3.0]])
def test_log_signatures_of_interpolations_are_those_of_their_formulas(kind: Any, windows: Any) -> None:
    """Increments and areas of polynomials are exact: those of a fine line through the same path to 1e-6."""
    t, x = knots()
    path = kind(t, x)
    found = LogSignature(path, windows)
    times = torch.cat(
        [torch.linspace(*pair, 4001, dtype=D) for pair in zip(found.edges, found.edges[1:], strict=False)]
    )
    times = times.unique()
    fine = LogSignature(Linear(times, path.along(times)[0]), found.edges)
    for edge in map(torch.tensor, found.edges):
        torch.testing.assert_close(found(edge), fine(edge), atol=1e-5, rtol=0)
    as_function = Function(path, derivative=path.derivative, breaks=t.tolist())
    other = LogSignature(as_function, found.edges)
    torch.testing.assert_close(found(t[-1]), other(t[-1]), atol=1e-12, rtol=0)


def test_log_signatures_equal_those_of_pysiglib() -> None:
    """Depth 2 of piecewise linear paths equals pysiglib's log-signature to 1e-12."""
    pysiglib = pytest.importorskip("pysiglib")
    pysiglib.prepare_log_sig(3, 2, method=1)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 9, 3, dtype=D, generator=generator)
    path = LogSignature(Linear(torch.arange(9, dtype=D), x), windows=[0.0, 4.0, 8.0])
    for window, rows in enumerate((slice(0, 5), slice(4, 9))):
        found = 4 * path.derivative(torch.tensor(4.0 * window + 1))
        wanted = pysiglib.log_sig(x[:, rows].contiguous(), 2, method=1)
        expanded = pysiglib.log_sig(x[:, rows].contiguous(), 2, method=0)
        assert wanted.shape[1] == found.shape[1] or expanded.shape[1] == 12
        level_two = expanded[:, 3:].view(5, 3, 3)
        row, column = torch.triu_indices(3, 3, offset=1)
        torch.testing.assert_close(
            found, torch.cat((expanded[:, :3], level_two[:, row, column]), 1), atol=1e-12, rtol=0
        )


def test_the_derivative_is_the_paths() -> None:
    """Derivative(X) has the values of dX/dt, its own derivative, and stops at breaks also at the ends of a solve."""
    t, x = knots()
    rate, path = Derivative(Hermite(t, x)), Hermite(t, x)
    time, step = torch.tensor(1.1, dtype=D), 1e-6
    assert torch.equal(rate(time), path.derivative(time))
    slope = (path.derivative(time + step) - path.derivative(time - step)) / (2 * step)
    torch.testing.assert_close(rate.derivative(time), slope, atol=1e-7, rtol=1e-6)
    assert Derivative(Linear(t, x)).stops(0.0, float(t[3])) == tuple(t[:4].tolist())


# Laws


@pytest.mark.parametrize("windows", [None, 3])
def test_time_may_be_run_through_at_any_speed(windows: int | None) -> None:
    """The same knots at other times give the same state at the end, to the tolerance, with and without log-signatures."""
    _, x = knots()
    z0, found = torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(2)), []
    for t in (torch.linspace(0, 1, 7, dtype=D), torch.tensor([-3.0, -2.9, 0, 0.5, 4, 4.5, 9], dtype=D)):
        path: of.Path = Linear(t, x)
        if windows:
            path = LogSignature(path, t[:: 6 // windows].tolist())
        field = net(log_signature_channels(2, 2) if windows else 2)
        found.append(of.Flow(field, exact()).trajectory(z0, t[[0, -1]], context=path).y[-1])
    torch.testing.assert_close(*found, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("kind", "causal"), [(Linear, True), (Rectilinear, True), (Hermite, True), (NaturalCubic, False)]
)
@pytest.mark.parametrize("solver", [RK4(step_size=0.1), Tsit5(rtol=1e-5)], ids=["fixed", "adaptive"])
def test_a_state_does_not_depend_on_later_observations(kind: Any, causal: bool, solver: of.Solver) -> None:
    """Another last observation leaves the state up to the last but one bit-equal; with a natural spline it does not."""
    t, x = knots()
    other = x.clone()
    other[:, -1] += 1
    z0, ends = torch.ones(3, 4, dtype=D), t[[0, 2, -2]]
    if kind is Rectilinear:  # constant pieces drive nothing: the path that goes through its jumps
        s = torch.arange(2 * len(t) - 1, dtype=D)
        x, other = (torch.cat((each[:, :1], each[:, 1:].repeat_interleave(2, 1)), 1) for each in (x, other))
        t, kind, ends = s, Linear, s[[0, 4, -3]]
    one, two = (of.Flow(net(), solver).trajectory(z0, ends, context=kind(t, each)).y for each in (x, other))
    assert torch.equal(one, two) is causal


@pytest.mark.parametrize("kind", [Linear, Hermite, NaturalCubic])
@pytest.mark.parametrize(
    "gradient", [of.Backprop(), of.Checkpointed(), of.Adjoint(), of.InterpolatedAdjoint()], ids=str
)
def test_gradients_reach_the_observations(kind: Any, gradient: of.Gradient) -> None:
    """∂z(t₁)/∂x by each gradient equals central differences to 1e-7."""
    t, x = knots(samples=2)
    z0, direction = torch.ones(2, 4, dtype=D), torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(5))

    def loss(x: Tensor) -> Tensor:
        return (
            of.Flow(net(), exact(jump_ts=t.tolist()), gradient)
            .trajectory(z0, t[[0, -1]], context=kind(t, x))
            .y[-1]
            .square()
            .sum()
        )

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    with torch.no_grad():
        difference = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
    assert float((found * direction).sum()) == pytest.approx(float(difference), rel=1e-7, abs=1e-7)


def test_gradients_go_through_log_signatures() -> None:
    """∂z(t₁)/∂x along log-signatures of depth 2 equals central differences to 1e-7."""
    t, x = knots(samples=2)
    direction = torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(5))

    def loss(x: Tensor) -> Tensor:
        path = LogSignature(Hermite(t, x), windows=2)
        return of.Flow(net(3), exact()).trajectory(torch.ones(2, 4, dtype=D), t[[0, -1]], context=path).y[-1].sum()

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    with torch.no_grad():
        difference = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
    assert float((found * direction).sum()) == pytest.approx(float(difference), rel=1e-7)


def test_a_product_has_the_matrix_that_it_avoids() -> None:
    """Driven multiplies dX by a product's matrix, column by column its motions along each channel."""
    field = Driven(Bilinear(dim=3, channels=2), channels=2)
    z, dx, t = torch.randn(4, 3), torch.randn(4, 2), torch.zeros(())
    torch.testing.assert_close(field.product(t, z, dx), torch.einsum("bwc,bc->bw", field.matrix(t, z), dx))
    torch.testing.assert_close(field.dynamics(t, z), field.matrix(t, z)[:, :, 0])
    assert not list(field.parameters())[1:]


# torchcde


@pytest.mark.parametrize("kind", ["hermite", "linear", "natural"])
def test_solves_and_coefficients_equal_torchcde(kind: str) -> None:
    """The same path, field, solver and tolerance give torchcde's values and derivatives to 1e-12, and states to 1e-6."""
    torchcde = pytest.importorskip("torchcde")
    t, x = knots()
    field, z0 = net(), torch.ones(3, 4, dtype=D)
    if kind == "hermite":
        coefficients, path = torchcde.hermite_cubic_coefficients_with_backward_differences(x, t), Hermite(t, x)
        theirs = torchcde.CubicSpline(coefficients, t)
    elif kind == "linear":
        theirs, path = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(x, t), t), Linear(t, x)
    else:
        theirs, path = torchcde.CubicSpline(torchcde.natural_cubic_coeffs(x, t), t), NaturalCubic(t, x)
    for time in torch.linspace(0.05, 2.95, 23, dtype=D):
        torch.testing.assert_close(path(time), theirs.evaluate(time), atol=1e-12, rtol=0)
        torch.testing.assert_close(path.derivative(time), theirs.derivative(time), atol=1e-12, rtol=1e-12)
    options = {} if kind == "natural" else {"options": {"jump_t": t}}
    wanted = torchcde.cdeint(
        theirs, lambda time, z: field.matrix(time, z), z0, t[[0, -1]], adjoint=False, method="dopri5", rtol=1e-9, atol=1e-9,
        **options,
    )[:, -1]  # fmt: skip
    found = of.Flow(field, Dopri5(rtol=1e-9, atol=1e-9)).trajectory(z0, t[[0, -1]], context=path).y[-1]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


# Messages


def test_what_does_not_fit_is_refused() -> None:
    """Wrong sizes, windows and paths are refused in words."""
    t, x = knots()
    with pytest.raises(of.SettingError, match=r"Driven\(channels=3\): Bilinear has 2 channels"):
        Driven(Bilinear(dim=3, channels=2), channels=3)
    with pytest.raises(of.SettingError, match=r"Bilinear: matrices must have shape \(1, 1, 1\); got \(1, 1\)"):
        Bilinear(dim=1, channels=1, matrices=[[1.0]])  # type: ignore[list-item]
    with pytest.raises(of.StateError, match=r"Driven takes states \(B, 4\) and a path of 2 channels"):
        of.Flow(net(), RK4(num_steps=1)).trajectory(torch.ones(3, 4, dtype=D), t, context=Linear(t, x[..., :1]))
    with pytest.raises(of.SettingError, match="depth must be 1 or 2; got 3"):
        LogSignature(Linear(t, x), 1, depth=3)  # type: ignore[arg-type]
    with pytest.raises(of.SettingError, match=r"needs a window at least, with ascending edges; got 0"):
        LogSignature(Linear(t, x), 0)
    with pytest.raises(of.SettingError, match="needs a continuous path; Rectilinear jumps"):
        LogSignature(Rectilinear(t, x), 1)
    with pytest.raises(of.SettingError, match=r"Function has no first and last time; give the windows' edges"):
        LogSignature(Function(lambda t: t[..., None]), 2)
    with pytest.raises(of.DataError, match=r"3 samples of this Linear have their own\. Count the observations"):
        LogSignature(Linear(t.expand(3, -1), x), 2)
    with pytest.raises(of.StateError, match="3 samples with times of their own; ask for a time of each"):
        Linear(t.expand(3, -1), x).along(t)
