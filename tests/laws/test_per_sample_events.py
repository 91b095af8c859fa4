"""Laws of events under per-sample stepping: each sample meets its own, as it would alone, with exact gradients."""

import math

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import G, drag, fall, height
from odeflow.plugin.registry import look_up
from odeflow_solvers import Dopri5, Tsit5

D = torch.float64
APART = Dopri5(1e-9, 1e-10, per_sample=True)


def oscillate(t: Tensor, y: Tensor) -> Tensor:
    """Position, speed and frequency ω of harmonic oscillators."""
    x, v, frequency = y.unbind(-1)
    return torch.stack((v, -(frequency**2) * x, torch.zeros_like(x)), -1)


def swing(t: Tensor, y: Tensor) -> Tensor:
    """A nonlinear field that depends on time and takes more steps for faster samples."""
    x, v, frequency = y.unbind(-1)
    return torch.stack((v, -frequency * torch.sin(x) - 0.1 * torch.cos(t) * v, torch.zeros_like(x)), -1)


def swings(count: int = 6) -> Tensor:
    return torch.stack(
        (
            torch.linspace(0.5, 2, count, dtype=D),
            torch.linspace(1, -1, count, dtype=D),
            torch.linspace(1, 20, count, dtype=D),
        ),
        1,
    )


def test_falling_bodies() -> None:
    """Bodies from different heights, at different speeds, fall for (v + √(v² + 2gh))/g, and stay where they land."""
    y0 = torch.tensor([[1.0, 0.0], [2.0, 3.0], [5.0, -1.0], [0.5, 10.0]], dtype=D, requires_grad=True)
    h, v = y0.detach().unbind(1)
    root = (v**2 + 2 * G * h).sqrt()
    solution = of.solve(fall, y0, [0.0, 1.0, 5.0], solver=APART, params=(), event=of.Event(height))
    assert solution.t.shape == (4, 3)
    assert torch.allclose(solution.t[:, -1], (v + root) / G, rtol=0, atol=1e-11)
    landed = torch.stack((torch.zeros(4, dtype=D), -root), 1)
    assert torch.allclose(solution.y[-1], landed, rtol=0, atol=1e-10)
    early = torch.tensor([True, False, True, False])  # before t = 1
    assert torch.equal(solution.t[early, 1], solution.t[early, 2])
    assert torch.equal(solution.y[1, early], solution.y[2, early])
    assert solution.t[~early, 1].tolist() == [1, 1]
    (slopes,) = torch.autograd.grad(solution.t[:, -1].sum(), y0)
    assert torch.allclose(slopes, torch.stack((1 / root, (1 + v / root) / G), 1), rtol=0, atol=1e-10)
    (found,) = solution.events
    assert torch.equal(found.t, solution.t[:, 2:])
    assert torch.equal(found.y[:, 0], solution.y[-1])
    assert found.count.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("backwards", [False, True])
def test_oscillators(direction: int, backwards: bool) -> None:
    """The position cos ωt is zero at (k + ½)π/ω: each sample meets as many as there are, of the direction asked for."""
    sign = -1.0 if backwards else 1.0
    frequency = torch.tensor([0.1, 1.0, 2.3], dtype=D)
    y0 = torch.stack((torch.ones(3, dtype=D), torch.zeros(3, dtype=D), frequency), 1)
    event = of.Event(height, terminal=False, direction=direction)  # pyright: ignore[reportArgumentType]
    solution = of.solve(oscillate, y0, [0.0, sign * 10.0], solver=APART, params=(), event=event)
    (found,) = solution.events
    assert solution.t.tolist() == [0, sign * 10]
    for number, each in enumerate(frequency.tolist()):
        zeros = [sign * (k + 0.5) * math.pi / each for k in range(int(10 * each / math.pi + 0.5))]
        wanted = zeros if direction == 0 else zeros[(1 + direction) // 2 :: 2]
        count = int(found.count[number])
        assert found.t[number, :count].tolist() == pytest.approx(wanted, abs=1e-7)
        assert found.y[number, :count, 0].abs().amax(0).item() < 1e-12 if count else not wanted
        assert bool(found.t[number, count:].isnan().all())
        assert bool(found.y[number, count:].isnan().all())
    assert found.t.shape == (3, int(found.count.max()))
    assert found.y.shape == (*found.t.shape, 3)


EVENTS = [
    of.Event(lambda t, y: y[..., 0] - 0.2, terminal=False, direction=1),
    of.Event(lambda t, y: y[..., 1] + 3 - 2 * t.abs(), required=False),
    of.Event(lambda t, y: y[..., 0] + 0.7, required=False),
    of.Event(lambda t, y: t.sin() - 0.5, terminal=False),
]


@pytest.mark.parametrize("name", ["HeunEuler", "CashKarp45", "Dopri5", "Dopri8"])
@pytest.mark.parametrize("times", ["common", "own", "backwards"])
def test_a_sample_goes_as_if_alone(name: str, times: str) -> None:
    """Times, states, events and dense output of a batch are those of each sample's own joint solve."""
    cls, y0 = look_up("solver", name), swings()
    tolerance = 1e-6 if cls.order > 2 else 1e-3
    t = torch.linspace(0, 4, 5, dtype=D).expand(6, -1)
    if times != "common":
        t = t * torch.linspace(0.05, 1.5, 6, dtype=D)[:, None] + torch.linspace(-0.5, 0.5, 6, dtype=D)[:, None]
    t = -t if times == "backwards" else t
    asked, by, joint = (
        t[0] if times == "common" else t,
        cls(tolerance, tolerance, per_sample=True),
        cls(tolerance, tolerance),
    )
    with torch.no_grad():
        batch = of.solve(swing, y0, asked, solver=by, event=EVENTS, dense=True)
        q = batch.t[:, :1] + (batch.t[:, -1:] - batch.t[:, :1]) * torch.linspace(0, 0.999, 7, dtype=D)
        between = batch(q)
        ends: set[int] = set()
        for number in range(6):
            row = slice(number, number + 1)
            alone = of.solve(swing, y0[row], t[number], solver=joint, event=alone_events(), dense=True)
            kept = len(alone.t)
            ends.add(kept)
            assert torch.allclose(batch.t[number, :kept], alone.t, rtol=0, atol=1e-8)
            assert bool((batch.t[number, kept:] == batch.t[number, kept - 1]).all())
            assert torch.allclose(batch.y[:kept, row], alone.y, rtol=0, atol=1e-8)
            assert bool((batch.y[kept:, number] == batch.y[kept - 1, number]).all())
            # round-off may move the steps a little, and inside them the rows are as good as the tolerance
            assert torch.allclose(between[:, row], alone(q[number]), rtol=0, atol=tolerance)
            for found, own in zip(batch.events, alone.events, strict=True):
                count = int(found.count[number])
                assert count == len(own.t)
                assert torch.allclose(found.t[number, :count], own.t, rtol=0, atol=1e-8)
                assert torch.allclose(found.y[number, :count], own.y[:, 0], rtol=0, atol=1e-8)
    assert len(ends) > 1
    with pytest.raises(of.SettingError, match=r"lies outside of the solution of sample 0, which goes from"):
        batch(batch.t[:, -1:] + 0.1 * (q[:, -1:] - q[:, :1]))


def alone_events() -> list[of.Event]:
    """The same events for one sample under joint steps, which want numbers."""
    return [
        of.Event(lambda t, y, fn=each.fn: fn(t, y).reshape(()), each.terminal, each.direction, False) for each in EVENTS
    ]


def test_permutation() -> None:
    """The order of the samples changes nothing but the order of the results."""
    y0, order = swings(), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        one, other = (of.solve(swing, y, [0.0, 1.0, 4.0], solver=APART, event=EVENTS) for y in (y0, y0[order]))
    assert torch.allclose(one.t[order], other.t, rtol=0, atol=1e-12)
    assert torch.allclose(one.y[:, order], other.y, rtol=0, atol=1e-12)
    for found, permuted in zip(one.events, other.events, strict=True):
        assert found.count[order].tolist() == permuted.count.tolist()
        assert torch.allclose(found.t[order], permuted.t, rtol=0, atol=1e-12, equal_nan=True)
        assert torch.allclose(found.y[order], permuted.y, rtol=0, atol=1e-12, equal_nan=True)


def test_several_events_in_one_step() -> None:
    """The first terminal event of each sample ends it; of the others, what came before it is noted."""
    y0 = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.0, 0.01]], dtype=D)
    events = [
        of.Event(lambda t, y: y[:, 0] - 0.9, terminal=False),
        of.Event(lambda t, y: y[:, 0] - 0.5, required=False),
        of.Event(lambda t, y: t - 1.5, required=False),
        of.Event(lambda t, y: t - 1.4, terminal=False),
        of.Event(lambda t, y: t - 1.6, terminal=False),
        of.Event(lambda t, y: t - 1.5, terminal=False),
    ]
    by = Dopri5(0.9, 1e3, first_step=2.0, per_sample=True)  # one step over everything
    solution = of.solve(oscillate, y0, [0.0, 2.0], solver=by, params=(), event=events)
    assert [each.count.tolist() for each in solution.events] == [
        [1, 1, 0],
        [1, 0, 0],
        [0, 1, 1],
        [0, 1, 1],
        [0, 0, 0],
        [0, 1, 1],  # at the time of the end
    ]
    assert solution.t[:, -1].tolist() == pytest.approx([math.pi / 3, 1.5, 1.5], abs=0.05)


@pytest.mark.parametrize("own", [False, True], ids=["common times", "own times"])
@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=["Backprop", "Checkpointed"])
def test_gradients_of_time_and_state(gradient: of.Gradient, own: bool) -> None:
    """The events' times and the states there are differentiated exactly: by y₀, θ, the start and the events' data."""
    by = Dopri5(0.9, 1e3, first_step=0.1, max_step=0.1, per_sample=True)

    def value(y0: Tensor, start: Tensor, floor: Tensor, gravity: Tensor, friction: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return drag(t, y, gravity, friction)

        span = torch.stack((start, torch.full_like(start, 1.6)), -1)
        events = [
            of.Event(lambda t, y: y[:, 0] - floor * (1 + 0.1 * t)),
            of.Event(lambda t, y: y[:, 1] - floor, terminal=False),
        ]
        solution = of.solve(field, y0, span, solver=by, gradient=gradient, params=(gravity, friction), event=events)
        top = solution.events[1]
        assert top.count.tolist() == [1, 0, 1]
        seen = top.t[[0, 2], 0], top.y[[0, 2], 0, 0]
        return torch.cat((solution.t[:, -1], solution.y[-1].flatten(), *seen))

    inputs = [
        torch.tensor([[0.2, 5.0], [1.3, -1.0], [0.5, 2.0]]),
        torch.tensor([0.05, 0.3, -0.1]) if own else torch.tensor(0.05),
        torch.tensor([0.1, 0.2, 0.3]),
        torch.tensor(G),
        torch.tensor(0.3),
    ]
    leaves = tuple(each.to(D).requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(value, leaves, eps=1e-6, atol=2e-6, rtol=2e-6, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bouncing_balls(dtype: torch.dtype) -> None:
    """Solves go on from each sample's own event: balls that keep half their speed bounce at the times of the series."""
    drop = torch.tensor([1.0, 0.1, 30.0], dtype=D)
    t = torch.zeros(3, dtype=D)
    y = torch.stack((drop, torch.zeros(3, dtype=D)), 1).to(dtype).requires_grad_()
    start, bounces, by = y, list[Tensor](), Dopri5(1e-6, 1e-7, per_sample=True)
    for _ in range(5):
        span = torch.stack((t, t + 6.0), 1)
        solution = of.solve(fall, y, span, solver=by, params=(), event=of.Event(height))
        t, y = solution.t[:, -1], solution.y[-1] * torch.tensor([1.0, -0.5], dtype=dtype)
        bounces.append(t)
    first = (2 * drop / G).sqrt()
    series = torch.tensor([1 + 2 * sum(0.5**k for k in range(1, number + 1)) for number in range(5)], dtype=D)
    precise = dtype == torch.float64
    wanted = series[:, None] * first
    assert torch.allclose(torch.stack(bounces), wanted, rtol=1e-9 if precise else 3e-6, atol=0)
    if precise:  # every bounce's time scales as the root of the first height
        (slope,) = torch.autograd.grad(bounces[-1].sum(), start)
        assert torch.allclose(slope[:, 0], wanted[-1] / (2 * drop), rtol=1e-8)


def test_tuples() -> None:
    """A tuple state is given to events, and found there, as a tuple."""
    y0 = (torch.tensor([[1.0], [2.0]], dtype=D), torch.zeros(2, dtype=D))

    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1].view(2, 1), torch.full_like(y[1], -G)

    event = of.Event(lambda t, y: y[0][:, 0])
    solution = of.solve(field, y0, [0.0, 3.0], solver=APART, params=(), event=event)
    assert [leaf.shape for leaf in solution.events[0].y] == [(2, 1, 1), (2, 1)]
    assert torch.allclose(solution.y[1][-1], -(2 * G * y0[0][:, 0]).sqrt(), atol=1e-9)
    assert torch.allclose(solution.events[0].y[1][:, 0], solution.y[1][-1], atol=0)


def test_ended_samples_are_left_out() -> None:
    """A sample that has met its terminal event takes no more steps, and is left out of the calls; events see all."""
    sizes: list[int] = []
    floor = torch.linspace(0.0, 0.3, 8, dtype=D)

    def field(t: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return swing(t, y)

    y0, by = swings(8), Dopri5(1e-6, 1e-6, per_sample=True)
    event = of.Event(lambda t, y: y[:, 0] - floor)
    with torch.no_grad():
        solution = of.solve(field, y0, [0.0, 50.0], solver=by, event=event)
        for number in (0, 3, 7):
            own = of.Event(lambda t, y, number=number: y[0, 0] - floor[number])
            alone = of.solve(swing, y0[number : number + 1], [0.0, 50.0], solver=Dopri5(1e-6, 1e-6), event=own)
            assert float(solution.t[number, -1]) == pytest.approx(float(alone.t[-1]), abs=1e-8)
            assert int(solution.stats.accepted_per_sample[number]) == alone.stats.accepted
    assert sizes[0] == 8
    assert sizes[-1] <= 2


def test_zero_at_the_start_is_not_met() -> None:
    """A sample whose event is exactly zero at its start waits until it crosses zero again."""
    y0 = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=D)
    solution = of.solve(oscillate, y0, [0.0, 5.0], solver=APART, params=(), event=of.Event(height))
    assert solution.t[:, -1].tolist() == pytest.approx([math.pi, math.pi / 2], abs=1e-7)


def test_events_never_met() -> None:
    """That is an error which names the samples and carries the solution, unless it is said to be none."""
    y0 = torch.tensor([[1.0, 0.0, 1.0], [3.0, 0.0, 1.0], [1.0, 0.0, 2.0]], dtype=D)
    event = of.Event(lambda t, y: y[:, 0] + 2)
    message = (
        r"no terminal event was met by samples 0, 2, between t = 0 and 3 in the first of these\. Give a later last"
    )
    with pytest.raises(of.SolveError, match=message) as caught:
        of.solve(oscillate, y0, [0.0, 1.0, 3.0], solver=APART, params=(), event=event)
    assert caught.value.partial.t[[0, 2]].tolist() == [[0, 1, 3]] * 2
    met = math.pi - math.acos(2 / 3)
    assert float(caught.value.partial.t[1, -1]) == pytest.approx(met, abs=1e-7)
    with pytest.raises(of.SolveError, match=r"by samples 0, 1, 2, 3, 4, 5, 6, 7 and 2 more, between"):
        of.solve(oscillate, y0[:1].expand(10, 3), [0.0, 3.0], solver=APART, params=(), event=event)
    solution = of.solve(oscillate, y0, [0.0, 3.0], solver=APART, params=(), event=of.Event(event.fn, required=False))
    assert solution.t[:, -1].tolist() == pytest.approx([3, met, 3], abs=1e-7)
    assert solution.events[0].count.tolist() == [0, 1, 0]
    nothing = of.Event(event.fn, terminal=False)
    (found,) = of.solve(oscillate, y0[:1], [0.0, 3.0], solver=APART, params=(), event=nothing).events
    assert (found.t.shape, found.y.shape, found.count.tolist()) == ((1, 0), (1, 0, 3), [0])


def test_what_cannot_be_watched_is_refused() -> None:
    """Values that are not one for each sample, and gradients that know no events: a clear error."""
    y0 = swings().requires_grad_()
    for fn, shape in ((lambda t, y: y[:, 0].min(), r"\(\)"), (lambda t, y: y, r"\(6, 3\)")):
        with pytest.raises(of.SettingError, match=rf"must have shape \(B,\), here \(6,\).*got {shape}"):
            of.solve(swing, y0, [0.0, 1.0], solver=APART, params=(), event=of.Event(fn))
    with pytest.raises(of.GradientError, match="Adjoint does not support dense output and events"):
        of.solve(swing, y0, [0.0, 3.0], solver=APART, gradient=of.Adjoint(), params=(), event=of.Event(height))


def test_events_cost_no_evaluations() -> None:
    """Looking for events takes no evaluations of the field."""
    event = of.Event(height, terminal=False)
    for by in (APART, Tsit5(1e-6, 1e-6, per_sample=True)):
        plain = of.solve(swing, swings(), [0.0, 3.0], solver=by, params=()).stats
        watched = of.solve(swing, swings(), [0.0, 3.0], solver=by, params=(), event=event).stats
        assert watched.nfe_forward == plain.nfe_forward
