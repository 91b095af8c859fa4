"""Laws of events that restart a solve: closed forms and their derivatives, joint and per sample, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import G, fall, height
from odeflow_solvers import RK4, Dopri5, Rodas4, TorchDiffEq, Tsit5

D = torch.float64
JOINT, APART = Dopri5(1e-9, 1e-10), Dopri5(1e-9, 1e-10, per_sample=True)


def lowest(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0].min()


def bounce(restitution: Tensor, joint: bool) -> of.Event:
    """A ball that hits the ground at y = 0 keeps a share e of its speed."""

    def then(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(y[:, 0]), -restitution * y[:, 1]), 1)

    return of.Event(lowest if joint else height, direction=-1, then=then)


def bounces(start: Tensor, e: Tensor, count: int) -> Tensor:
    """The times of the first bounces: t₁ = √(2h/g), and each flight is e times as long as the one before, first 2 e t₁."""
    powers = torch.arange(1, count, dtype=D)
    first = (2 * start / G).sqrt()
    return torch.cat((first[..., None], first[..., None] * (1 + 2 * (e[..., None] ** powers).cumsum(-1))), -1)


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed(), of.Checkpointed(every=4)], ids=str)
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_first_ten_bounces_and_their_derivatives(per_sample: bool, gradient: of.Gradient) -> None:
    """A ball's first ten bounces and their derivatives with respect to restitution and height: to 1e-8 of closed forms."""
    heights = torch.tensor([1.0, 2.5, 0.3][: 3 if per_sample else 1], dtype=D, requires_grad=True)
    e = torch.tensor([0.9, 0.8, 0.95][: 3 if per_sample else 1], dtype=D, requires_grad=True)
    wanted = bounces(heights, e, 10)
    end = float(wanted.detach().max()) + 0.01
    found = of.solve(
        fall, torch.stack((heights, torch.zeros_like(heights)), 1), [0.0, end], solver=APART if per_sample else JOINT,
        gradient=gradient, params=(), event=bounce(e, not per_sample),
    )  # fmt: skip
    times = found.events[0].t[..., :10].view_as(wanted)
    torch.testing.assert_close(times, wanted, atol=1e-8, rtol=0)
    for number in (0, 4, 9):
        slopes = [
            torch.autograd.grad(each[:, number].sum(), (e, heights), retain_graph=True) for each in (times, wanted)
        ]
        torch.testing.assert_close(slopes[0], slopes[1], atol=1e-8, rtol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_are_on_the_arcs(per_sample: bool) -> None:
    """States at requested times are those of the arc between the bounces, and after the bounce at its time."""
    e, start = torch.tensor([0.8], dtype=D), torch.tensor([[1.0, 0.0]], dtype=D)
    hits = bounces(start[:, 0], e, 4)[0]
    t = torch.linspace(0, float(hits[3]) - 0.01, 40, dtype=D)
    found = of.solve(fall, start, t, solver=APART if per_sample else JOINT, event=bounce(e, not per_sample))
    t = torch.cat((t, found.events[0].t.flatten()[1:2])).sort().values
    solution = of.solve(fall, start, t, solver=APART if per_sample else JOINT, event=bounce(e, not per_sample))
    assert torch.equal(solution.t, t)
    for time, (position, speed) in zip(t, solution.y[:, 0], strict=True):
        number = int((hits <= time + 1e-9).sum())
        since, launch = (time, 0.0) if not number else (time - hits[number - 1], float((2 * G) ** 0.5 * e**number))
        wanted = (1.0 if not number else 0.0) + launch * since - G * since**2 / 2
        assert float(position) == pytest.approx(float(wanted), abs=1e-8)
        assert float(speed) == pytest.approx(float(launch - G * since), abs=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("solver", [Dopri5(), RK4(num_steps=23), Dopri5(per_sample=True)], ids=str)
def test_requested_times_of_events_hold_what_is_after(solver: of.Solver, dtype: torch.dtype) -> None:
    """So they do whether the event is located a rounding before or behind the requested time."""
    t = [0.0, 0.1, 0.3, 0.7, 1.0, 1.7]
    for late in (0.0, 1.0, -1.0):
        due = [time * (1 + late * torch.finfo(dtype).eps) for time in t[1:5]]
        doses = [of.Event(lambda t, y, due=due: t - due + 0 * y[:, 0], then=lambda t, y: y + 1) for due in due]
        events = doses if solver.per_sample else [replace(each, fn=partial(_first, each.fn)) for each in doses]
        y0 = torch.zeros(1, 1, dtype=dtype)
        found = of.solve(lambda t, y: 0 * y, y0, t, solver=solver, event=events, params=(), dense=True)
        assert found.y[:, 0, 0].tolist() == pytest.approx([0, 1, 2, 3, 4, 4])
        assert [float(found(each)) for each in t] == pytest.approx([0, 1, 2, 3, 4, 4])


def _first(fn: Callable[..., Tensor], t: Tensor, y: Tensor) -> Tensor:
    return fn(t, y)[0]


@torch.no_grad()
@pytest.mark.parametrize("solver", [Dopri5(), RK4(num_steps=7), Dopri5(per_sample=True)], ids=str)
def test_maps_of_simultaneous_events_are_applied_in_order(solver: of.Solver) -> None:
    """Neither is lost; an end at the same time is before them."""
    due = of.Event(lambda t, y: t - 1 + 0 * y[:, 0].sum(), then=lambda t, y: y + 1)
    double, end = replace(due, then=lambda t, y: 2 * y), replace(due, then=None, required=False)
    y0 = torch.zeros(1, 1, dtype=D)
    for events, last in (([due, double], 2), ([double, due], 1), ([due, end], 0)):
        found = of.solve(lambda t, y: 0 * y, y0, [0.0, 2.0], solver=solver, event=events, params=())
        assert float(found.y[-1]) == last
        assert [each.t.numel() for each in found.events] == [1, 1]
        assert float(found.t.flatten()[-1]) == pytest.approx(1 if end in events else 2)


@torch.no_grad()
@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_is_that_of_each_leg(per_sample: bool) -> None:
    """Between the rows it is the arc, at a bounce the state after it; beyond the end it is refused."""
    e, start = torch.tensor([0.8, 0.8], dtype=D)[: 1 + per_sample], torch.tensor([[1.0, 0.0], [2.0, 1.0]], dtype=D)
    start, solver = start[: 1 + per_sample], APART if per_sample else JOINT
    t = torch.linspace(0, 1.7, 61, dtype=D)
    rows = of.solve(fall, start, t, solver=solver, event=bounce(e, not per_sample)).y
    found = of.solve(fall, start, t[[0, -1]], solver=solver, event=bounce(e, not per_sample), dense=True)
    assert int(found.events[0].t.isfinite().sum()) >= 2
    torch.testing.assert_close(found(t), rows, atol=1e-8, rtol=0)
    torch.testing.assert_close(found(t[17]), rows[17], atol=1e-8, rtol=0)
    hit = found.events[0].t.flatten()[:1]
    assert float(found(hit)[0, 0, 1]) > 0 > float(found.events[0].y.view(-1, 2)[0, 1])
    if per_sample:
        own = torch.stack((t[:5], t[40:45]))
        torch.testing.assert_close(found(own)[:, 1], rows[40:45, 1], atol=1e-8, rtol=0)
    whose = " of sample 0" if per_sample else ""
    with pytest.raises(of.SettingError, match=f"t = 1.8 lies outside of the solution{whose}, which goes from 0 to 1.7"):
        found(1.8)
    with pytest.raises(of.SettingError, match="t must be one time"):
        found(t[None, None])


@pytest.mark.parametrize("per_sample", [False, True])
def test_dense_output_after_restarts_has_gradients(per_sample: bool) -> None:
    """Those of the state between rows by restitution, height and the time itself agree with finite differences."""
    solver = APART if per_sample else JOINT

    def position(e: Tensor, top: Tensor, at: Tensor) -> Tensor:
        start = torch.stack((top, torch.zeros_like(top)), 1)
        found = of.solve(fall, start, [0.0, 1.4], solver=solver, params=(), event=bounce(e, not per_sample), dense=True)
        return found(at)[..., 0]

    leaves = [torch.tensor([value], dtype=D, requires_grad=True) for value in (0.8, 1.0, 0.9)]
    torch.autograd.gradcheck(position, leaves, atol=1e-6)


@torch.no_grad()
def test_dense_output_ends_with_the_solve() -> None:
    """A terminal event ends it, for each sample at its own time; restarts before it are in it."""
    e, y0 = torch.tensor([0.8, 0.8], dtype=D), torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=D)
    high = of.Event(lambda t, y: y[:, 0] - 0.9, direction=1, terminal=True, required=False)  # one bounces so high
    found = of.solve(fall, y0, [0.0, 2.0], solver=APART, event=(bounce(e, False), high), dense=True)
    ends = found.t[:, -1]
    assert float(ends[0]) == 2.0
    assert float(bounces(y0[:, 0], e, 1)[1, 0]) < float(ends[1]) < 2.0
    torch.testing.assert_close(found(ends[:, None])[0], found.y[-1], atol=1e-8, rtol=0)
    with pytest.raises(of.SettingError, match="t = 2 lies outside of the solution of sample 1"):
        found(2.0)


@torch.no_grad()
def test_samples_bounce_as_they_would_alone() -> None:
    """With per-sample steps a sample's rows, events and counts are those of its solve alone."""
    y0 = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.2, -1.0], [50.0, 0.0]], dtype=D)
    e, t = torch.tensor([0.9, 0.5, 0.95, 0.6], dtype=D), torch.linspace(0, 1.5, 9, dtype=D)
    whole = of.solve(fall, y0, t, solver=APART, event=bounce(e, False))
    (crossings,) = whole.events
    assert crossings.count is not None
    assert crossings.count[3] == 0
    assert len(set(crossings.count.tolist())) > 2
    for number in range(4):
        alone = of.solve(fall, y0[[number]], t, solver=APART, event=bounce(e[[number]], False))
        torch.testing.assert_close(whole.y[:, number], alone.y[:, 0], atol=1e-9, rtol=0)
        count = int(crossings.count[number])
        assert alone.events[0].count.tolist() == [count]  # type: ignore[union-attr]
        torch.testing.assert_close(crossings.t[number, :count], alone.events[0].t[0], atol=1e-9, rtol=0)
        assert bool(crossings.t[number, count:].isnan().all())
        assert float(crossings.y[number, :count, 0].abs().amax() if count else 0) < 1e-9
    assert whole.stats.nfe_forward > 0


def dosed(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A drug that decays, and a clock."""
    amount, rate = y
    return -rate * amount, torch.zeros_like(rate)


@torch.no_grad()
@pytest.mark.parametrize("per_sample", [False, True])
def test_states_may_be_tuples_and_times_events(per_sample: bool) -> None:
    """A dose of 1 at every third of a time unit: the amount is a geometric series; the state is a pair."""
    y0 = (torch.zeros(2, 1, dtype=D), torch.tensor([[0.5], [2.0]], dtype=D))
    due = of.Event(
        lambda t, y: (3 * math.pi * (t + 1e-3)).sin() + 0 * (y[0][:, 0] if per_sample else y[0].sum()),
        then=lambda t, y: (y[0] + 1, y[1]),
    )
    solution = of.solve(dosed, y0, [0.0, 1.9], solver=APART if per_sample else JOINT, event=due)
    times = torch.tensor([number / 3 - 1e-3 for number in range(1, 6)], dtype=D)
    torch.testing.assert_close(
        solution.events[0].t[0] if per_sample else solution.events[0].t, times, atol=1e-9, rtol=0
    )
    wanted = (-y0[1] * (1.9 - times)).exp().sum(1, keepdim=True)
    torch.testing.assert_close(solution.y[0][-1], wanted, atol=1e-7, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_terminal_event_ends_what_others_restart(per_sample: bool, backwards: bool) -> None:
    """The solve ends at the first terminal event, in either direction of time; other events are counted in all legs."""
    e = torch.tensor([0.8], dtype=D)
    count = of.Event(lambda t, y: y[:, 1] if per_sample else y[0, 1], terminal=False)

    sign = -1.0 if backwards else 1.0
    slow = of.Event(lambda t, y: (y[:, 1] if per_sample else y[0, 1]) - 3.0)
    hits = bounces(torch.ones(1, dtype=D), e, 3)[0]
    hop = of.Event(
        height if per_sample else lowest,
        then=lambda t, y: torch.stack((torch.zeros_like(y[:, 0]), e * y[:, 1].abs()), 1),
        direction=-1,
    )
    field = (lambda t, y: -fall(t, y)) if backwards else fall  # of a ball that falls in reversed time
    solution = of.solve(
        field, torch.tensor([[1.0, 0.0]], dtype=D), [0.0, sign * 5.0], solver=APART if per_sample else JOINT,
        event=(hop, slow, count),
    )  # fmt: skip
    speed = float((2 * G) ** 0.5 * 0.8)
    end = hits[0] + (speed - 3.0) / G
    last = solution.t[..., -1].squeeze()
    assert float(last) == pytest.approx(sign * float(end), abs=1e-8)
    assert float(solution.y[-1, 0, 1]) == pytest.approx(3.0, abs=1e-8)
    assert solution.events[0].t.numel() == 1


@torch.no_grad()
def test_a_required_end_that_never_comes_is_an_error() -> None:
    """Without its terminal event a solve that restarts fails, with the whole solution, joint and per sample."""
    e = torch.tensor([0.8], dtype=D)
    for solver, joint in ((JOINT, True), (APART, False)):
        never = of.Event(lambda t, y, joint=joint: y[0, 1] - 100 if joint else y[:, 1] - 100)
        with pytest.raises(of.SolveError, match="no terminal event was met") as caught:
            of.solve(
                fall,
                torch.tensor([[1.0, 0.0]], dtype=D),
                [0.0, 0.9, 1.0],
                solver=solver,
                event=(bounce(e, joint), never),
            )
        partial = caught.value.partial
        assert partial is not None
        assert len(partial.y) == 3
        assert len(partial.events[0].t) == 1


@torch.no_grad()
@pytest.mark.parametrize("solver", [RK4(step_size=0.01), Tsit5(1e-8, 1e-9), Rodas4(1e-7, 1e-8)], ids=str)
def test_families_of_solvers_restart(solver: of.Solver) -> None:
    """Fixed, adaptive and implicit steps restart."""
    e = torch.tensor([0.8], dtype=D)
    solution = of.solve(fall, torch.tensor([[1.0, 0.0]], dtype=D), [0.0, 1.4], solver=solver, event=bounce(e, True))
    wanted = bounces(torch.ones(1, dtype=D), e, 3)[0]
    found = solution.events[0].t[:3]
    torch.testing.assert_close(found, wanted[: len(found)], atol=1e-6, rtol=0)
    assert len(found) >= 2


def test_parameters_of_field_and_map_are_differentiated() -> None:
    """The gradients of a state after bounces under drag, by parameters of field and map, equal central differences."""
    drag, e = torch.tensor(0.3, dtype=D), torch.tensor([0.8], dtype=D)

    def final(drag: Tensor, e: Tensor, gradient: of.Gradient) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack((y[:, 1], -G - drag * y[:, 1]), 1)

        y0 = torch.tensor([[1.0, 0.0], [1.5, 1.0]], dtype=D)
        return of.solve(
            field, y0, [0.0, 1.3], solver=Dopri5(1e-11, 1e-12, per_sample=True), gradient=gradient, params=(drag,),
            event=bounce(e, False),
        ).y[-1].sum()  # fmt: skip

    with torch.no_grad():
        wanted = [
            (final(drag + 1e-5 * by, e + 1e-5 * (1 - by), of.Backprop()) - final(drag - 1e-5 * by, e - 1e-5 * (1 - by), of.Backprop())) / 2e-5
            for by in (1, 0)
        ]  # fmt: skip
    for gradient in (of.Backprop(), of.Checkpointed()):
        leaves = drag.clone().requires_grad_(), e.clone().requires_grad_()
        found = torch.autograd.grad(final(*leaves, gradient), leaves)
        assert [float(each) for each in found] == pytest.approx([float(each) for each in wanted], rel=1e-6)


def test_the_statistics_are_those_of_all_legs() -> None:
    """Steps and evaluations of all legs are counted, in both passes."""
    e = torch.tensor([0.8], dtype=D, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0]], dtype=D)
    solution = of.solve(fall, y0, [0.0, 1.4], solver=JOINT, params=(), event=bounce(e, True))
    assert solution.stats.accepted > 3
    assert solution.stats.nfe_forward > 6 * 3
    solution.y[-1].sum().backward()
    assert solution.stats.nfe_backward > 0


def test_what_cannot_restart_is_refused() -> None:
    """Wrong states, endless bounces, and gradients and solvers without events are refused in words."""
    e, y0 = torch.tensor([0.8], dtype=D), torch.tensor([[1.0, 0.0]], dtype=D)
    ask: dict[str, Any] = {"solver": JOINT, "event": bounce(e, True), "params": ()}
    flat = of.Event(lowest, direction=-1, then=lambda t, y: y[0])
    with pytest.raises(
        of.StateError, match=r"the form that it takes, \(1, 2\) torch.float64; got \(2,\) torch.float64"
    ):
        of.solve(fall, y0, [0.0, 1.0], solver=JOINT, event=flat, params=())
    with pytest.raises(
        of.SolveError, match=r"the step size fell .* Events had restarted the solve \d+ times; events may accumulate"
    ):
        of.solve(fall, y0, [0.0, 5.0], **ask)
    leaf = y0.clone().requires_grad_()
    with pytest.raises(of.GradientError, match="Adjoint does not support dense output and events"):
        of.solve(fall, leaf, [0.0, 1.0], gradient=of.Adjoint(), **ask)
    with pytest.raises(of.SettingError, match="TorchDiffEq is a black box: no dense output or events"):
        of.solve(fall, y0, [0.0, 1.0], solver=TorchDiffEq(), event=bounce(e, True), params=())


def test_restarts_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many restarts a solve fails, and says what may be the matter."""
    monkeypatch.setattr("odeflow.engine.restart.MOST_RESTARTS", 100)
    often = of.Event(lambda t, y: (2000 * math.pi * (t + 1e-5)).sin() + 0 * y.sum(), then=lambda t, y: y)
    with pytest.raises(
        of.SolveError, match=r"events restarted the solve 100 times by t = 0\.05\d*; events may accumulate"
    ):
        of.solve(
            lambda t, y: 0 * y,
            torch.ones(1, 1, dtype=D),
            [0.0, 1.0],
            solver=RK4(step_size=2e-4),
            params=(),
            event=often,
        )
