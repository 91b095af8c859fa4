"""Laws of events: found where they are, as exactly as the solution is, with the gradient of their times."""

import math

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import G, drag, fall, height, rotation
from odeflow.engine.output.root import roots
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import RK4, Dopri5, TorchDiffEq

D = torch.float64
EXPLICIT = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta)]
TIGHT = Dopri5(1e-9, 1e-10)


START = torch.tensor([1.0, 0.0], dtype=D)


@pytest.mark.parametrize("name", EXPLICIT)
def test_every_solver_finds_events(name: str) -> None:
    """A terminal event ends the solve on the solver's own trajectory, at a time as exact as that is."""
    cls = look_up("solver", name)
    solver = cls(num_steps=400) if cls.error_order is None else cls(1e-6 if cls.order > 2 else 1e-4, 1e-6)
    with torch.no_grad():
        solution = of.solve(rotation, START, [0.0, 1.0, 5.0], solver=solver, event=of.Event(height), dense=True)
    assert solution.t.tolist()[:2] == [0, 1]
    assert float(solution.t[-1]) == pytest.approx(math.pi / 2, abs=5e-3 if cls.order < 3 else 1e-4)
    assert abs(float(solution.y[-1, 0])) < 1e-12
    assert torch.equal(solution(solution.t[-1]), solution.y[-1])
    with pytest.raises(of.SettingError, match="lies outside of the solution"):
        solution(2.0)


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("backwards", [False, True])
def test_direction_and_order(direction: int, backwards: bool) -> None:
    """Events that are not terminal are all noted, those of the direction asked for, in the order of the solve."""
    sign = -1 if backwards else 1
    event = of.Event(height, terminal=False, direction=direction)  # pyright: ignore[reportArgumentType]
    solution = of.solve(rotation, START, [0.0, sign * 10.0], solver=TIGHT, params=(), event=event)
    falling, rising = [math.pi / 2, 5 * math.pi / 2], [3 * math.pi / 2]
    wanted = sorted((falling if direction < 1 else []) + (rising if direction > -1 else []))
    (found,) = solution.events
    assert found.sample is None
    assert found.t.tolist() == pytest.approx([sign * t for t in wanted], abs=1e-7)
    assert found.y.shape == (len(wanted), 2)
    assert torch.allclose(found.y[:, 0], torch.zeros(len(wanted), dtype=D), atol=1e-12)
    assert len(solution.t) == 2


def test_several_events() -> None:
    """The first terminal event ends the solve; of the others, what came before it is noted."""
    events = [
        of.Event(lambda t, y: y[0] - 0.5, terminal=False),
        of.Event(lambda t, y: y[1] - 0.3),
        of.Event(lambda t, y: y[0] + 0.2),
        of.Event(lambda t, y: t - 1.2, terminal=False),
        of.Event(lambda t, y: t - 1.95, terminal=False),
    ]
    # one step over everything, so that all are in one
    solution = of.solve(rotation, START, [0.0, 1.0, 2.0], solver=RK4(num_steps=1), params=(), event=events)
    assert [len(each.t) for each in solution.events] == [1, 0, 1, 1, 0]
    assert solution.t.tolist() == [0, 1, float(solution.events[2].t)]
    assert float(solution.events[3].t) == pytest.approx(1.2, abs=1e-12)


def test_one_value_a_sample() -> None:
    """Events that are not terminal are noted for each sample, with whose they are and its own state."""
    y0 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=D)
    event = of.Event(height, terminal=False, direction=-1)
    (found,) = of.solve(rotation, y0, [0.0, 4.0], solver=TIGHT, params=(), event=event).events
    assert found.sample is not None
    assert found.sample.tolist() == [0, 1]
    assert found.t.tolist() == pytest.approx([math.pi / 2, math.pi], abs=1e-7)
    assert torch.allclose(found.y, torch.tensor([[0.0, -1.0]] * 2, dtype=D), atol=1e-7)
    event = of.Event(lambda t, y: y[..., 0] - 2, terminal=False)
    (found,) = of.solve(rotation, y0, [0.0, 4.0], solver=TIGHT, params=(), event=event).events
    assert found.sample is not None
    assert (found.sample.tolist(), found.t.tolist(), found.y.shape) == ([], [], (0, 2))
    pair = (y0[:, :1], y0[:, 1:])
    event = of.Event(lambda t, y: y[0][:, 0], terminal=False, direction=-1)
    (found,) = of.solve(lambda t, y: (y[1], -y[0]), pair, [0.0, 4.0], solver=TIGHT, params=(), event=event).events
    assert [leaf.shape for leaf in found.y] == [(2, 1), (2, 1)]
    with pytest.raises(
        of.SettingError, match=r"shape \(\) or \(B,\), here \(3,\); got \(3,\). A terminal event ends the solve of all"
    ):
        of.solve(rotation, y0, [0.0, 4.0], solver=TIGHT, params=(), event=of.Event(height))
    with pytest.raises(of.SettingError, match=r"got \(3, 2\). Return one number, or one for each sample"):
        of.solve(rotation, y0, [0.0, 4.0], solver=TIGHT, params=(), event=of.Event(lambda t, y: y, terminal=False))


@pytest.mark.parametrize(
    "solver",
    [RK4(num_steps=23), Dopri5(0.9, 1e3, first_step=0.1, max_step=0.1)],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=lambda gradient: type(gradient).__name__)
def test_gradients_of_time_and_state(solver: of.Solver, gradient: of.Gradient) -> None:
    """The event's time and the state there are differentiated exactly: by y₀, θ, the start and the event itself."""

    def value(y0: Tensor, start: Tensor, floor: Tensor, gravity: Tensor, friction: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return drag(t, y, gravity, friction)

        span = torch.stack((start, torch.tensor(3.0, dtype=D)))
        event = of.Event(lambda t, y: y[0] - floor * (1 + 0.1 * t))
        solution = of.solve(field, y0, span, solver=solver, gradient=gradient, params=(gravity, friction), event=event)
        return torch.cat((solution.t[-1:], solution.y[-1]))

    inputs = [torch.tensor([0.2, 5.0]), torch.tensor(0.05), torch.tensor(0.1), torch.tensor(G), torch.tensor(0.3)]
    leaves = tuple(each.to(D).requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(value, leaves, eps=1e-6, atol=2e-6, rtol=2e-6)


def test_gradient_of_a_fall_is_the_textbooks() -> None:
    """A body falls √(2h/g): ∂t/∂h = 1/√(2gh), ∂t/∂g = −√(h/2g³)."""
    gravity = torch.tensor(G, dtype=D, requires_grad=True)
    y0 = START.clone().requires_grad_()
    solution = of.solve(
        lambda t, y: torch.stack((y[1], -gravity)),
        y0,
        [0.0, 2.0],
        solver=TIGHT,
        params=(gravity,),
        event=of.Event(height),
    )
    by_start, by_gravity = torch.autograd.grad(solution.t[-1], (y0, gravity))
    assert float(solution.t[-1].detach()) == pytest.approx(math.sqrt(2 / G), abs=1e-12)
    assert float(by_start[0]) == pytest.approx(1 / math.sqrt(2 * G), abs=1e-10)
    assert float(by_gravity) == pytest.approx(-math.sqrt(1 / (2 * G**3)), abs=1e-10)


@pytest.mark.parametrize("direction", [-1, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bouncing_ball(direction: int, dtype: torch.dtype) -> None:
    """A solve goes on from each event: a ball that keeps half its speed bounces at the times of the series.

    At each restart the event is zero to rounding, of either sign, and is not met there once more.
    """
    t, y = torch.zeros((), dtype=D), torch.tensor([1.0, 0.0], dtype=dtype, requires_grad=True)
    start, bounces = y, list[Tensor]()
    event = of.Event(height, direction=direction)  # pyright: ignore[reportArgumentType]
    for _ in range(6):
        span = torch.stack((t, t + 3.0))
        solution = of.solve(fall, y, span, solver=Dopri5(1e-6, 1e-7), params=(), event=event)
        t, y = solution.t[-1], solution.y[-1] * torch.tensor([1.0, -0.5], dtype=dtype)
        bounces.append(t)
    first = math.sqrt(2 / G)
    wanted = [first * (1 + 2 * sum(0.5**k for k in range(1, number + 1))) for number in range(6)]
    precise = dtype == torch.float64
    assert [float(each.detach()) for each in bounces] == pytest.approx(wanted, abs=1e-9 if precise else 1e-5)
    if precise:  # every bounce's time scales as the root of the first height
        (slope,) = torch.autograd.grad(bounces[-1], start)
        assert float(slope[0]) == pytest.approx(wanted[-1] / 2, rel=1e-8)


def test_zero_at_the_start_is_not_met() -> None:
    """An event that is exactly zero at the start waits until it crosses zero again."""
    y0 = torch.tensor([0.0, 1.0], dtype=D)
    solution = of.solve(rotation, y0, [0.0, 5.0], solver=TIGHT, params=(), event=of.Event(height))
    assert float(solution.t[-1]) == pytest.approx(math.pi, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_small_value_at_the_start_is_met(dtype: torch.dtype) -> None:
    """Only what would be met within a rounding of the times was zero at the start, however long the first step is."""
    for start in (1e-4, 1e-7):
        y0 = torch.full((1, 1), start, dtype=dtype)
        event = of.Event(lambda t, y: y[0, 0], required=False)
        falling = of.solve(
            lambda t, y: -torch.ones_like(y), y0, [0.0, 3.0], solver=RK4(num_steps=10), params=(), event=event
        )
        met = start if start > 64 * torch.finfo(dtype).eps * 3 else 3
        assert float(falling.t[-1]) == pytest.approx(met, rel=1e-5)


@pytest.mark.parametrize("solver", [Dopri5(), RK4(num_steps=30), Dopri5(per_sample=True)], ids=str)
def test_values_that_are_no_number_are_refused(solver: of.Solver) -> None:
    """A value that is nan has no sign: it is an error at the start, and at the end of a step."""
    for fn, when in ((lambda t, y: (t - 5).sqrt() + y[:, 0], 0), (lambda t, y: (y[:, 0] - 0.5).log() + 50, r"[0-3]")):
        event = of.Event(fn, terminal=False)
        with pytest.raises(of.SettingError, match=rf"the value of event 0 of sample 0 is nan at t = {when}"):
            of.solve(
                lambda t, y: -torch.ones_like(y), torch.ones(1, 1), [0.0, 3.0], solver=solver, event=event, params=()
            )


@pytest.mark.parametrize("solver", [Dopri5(), RK4(num_steps=7), Dopri5(per_sample=True)], ids=str)
def test_events_at_one_time_all_occur(solver: of.Solver) -> None:
    """What happens at the time of the end is noted, in whatever order the events are given."""
    end, noted = (of.Event(lambda t, y: y[:, 0].sum() * 0 + t - 1, terminal=terminal) for terminal in (True, False))
    for events in ([end, noted], [noted, end]):
        found = of.solve(rotation, START[None].float(), [0.0, 2.0], solver=solver, event=events, params=())
        assert [each.t.numel() for each in found.events] == [1, 1]
        assert float(found.t.flatten()[-1]) == pytest.approx(1, abs=1e-6)


def test_events_never_met() -> None:
    """That is an error which carries the solution, unless it is said to be none; an event that is not terminal may fail."""
    event = of.Event(lambda t, y: y[0] - 2)
    with pytest.raises(
        of.SolveError, match=r"no terminal event was met between t = 0 and 3\. Give a later last"
    ) as caught:
        of.solve(rotation, START, [0.0, 1.0, 3.0], solver=TIGHT, params=(), event=event)
    assert caught.value.partial is not None
    assert caught.value.partial.t.tolist() == [0, 1, 3]
    for allowed in (of.Event(event.fn, required=False), of.Event(event.fn, terminal=False)):
        solution = of.solve(rotation, START, [0.0, 3.0], solver=TIGHT, params=(), event=allowed)
        assert solution.t.tolist() == [0, 3]
        assert solution.events[0].t.shape == (0,)
        assert solution.events[0].y.shape == (0, 2)


def test_what_cannot_be_watched_is_refused() -> None:
    """Solvers that hide their steps, gradients that know none, directions that are none: a clear error."""
    y0, event = START.clone().requires_grad_(), of.Event(height)
    with pytest.raises(of.SettingError, match="TorchDiffEq is a black box: no dense output or events"):
        of.solve(rotation, y0, [0.0, 3.0], solver=TorchDiffEq(), params=(), event=event)
    with pytest.raises(of.GradientError, match="Adjoint does not support dense output and events"):
        of.solve(rotation, y0, [0.0, 3.0], solver=TIGHT, gradient=of.Adjoint(), params=(), event=event)
    with pytest.raises(of.SettingError, match="direction must be -1, 0 or 1; got 2"):
        of.Event(height, direction=2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("per_sample", [False, True])
def test_values_of_another_shape_are_refused(per_sample: bool) -> None:
    """An event has one number, or one for each sample; what else could be taken for that is refused."""
    wrong: list[tuple[object, str]] = [
        (lambda t, y: y.sum()[None] - 0.5, r"must have shape .*\(3,\).*; got \(1,\)"),
        (lambda t, y: y[:2, 0] - 0.5, r"must have shape .*\(3,\).*; got \(2,\)"),
        (lambda t, y: y[:, 0] > 0.5, "must be a floating-point Tensor that changes its sign; got torch.bool"),
        (lambda t, y: 0.5, "must be a floating-point Tensor that changes its sign; got float"),
    ]
    solver, y0 = Dopri5(1e-4, 1e-4, per_sample=per_sample), torch.ones(3, 2, dtype=torch.float64)
    for fn, message in wrong:
        event = of.Event(fn, terminal=False)  # pyright: ignore[reportArgumentType]
        with pytest.raises(of.SettingError, match=message):
            of.solve(lambda t, y: -y, y0, [0.0, 2.0], solver=solver, params=(), event=event)


def test_events_cost_no_evaluations() -> None:
    """Looking for events takes no evaluations of the field, but the one at the end that FSAL methods have anyway."""
    plain = of.solve(rotation, START, [0.0, 3.0], solver=TIGHT, params=()).stats
    watched = of.solve(
        rotation, START, [0.0, 3.0], solver=TIGHT, params=(), event=of.Event(height, terminal=False)
    ).stats
    assert watched.nfe_forward == plain.nfe_forward


ZEROS = [
    (lambda x: x - 0.3, 0.3),
    (lambda x: (x - 0.999) ** 3, 0.999),
    (lambda x: torch.exp(20 * x) - math.exp(5), 0.25),
    (lambda x: torch.where(x < 0.7, -1.0, 1.0), 0.7),
    (lambda x: x, 0.0),
    (lambda x: 1 - x, 1.0),
]


def test_roots() -> None:
    """Zeros of several functions at once are found in few evaluations, also where they are flat, steep or jump."""
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.stack([function(place) for (function, _), place in zip(ZEROS, x, strict=True)])

    found = roots(counted, torch.zeros(len(ZEROS), dtype=D))
    for place, (_, zero) in zip(found.tolist(), ZEROS, strict=True):
        assert place == pytest.approx(zero, abs=1e-5 if zero == 0.999 else 1e-12)
    assert calls < 120


def test_a_smooth_root_takes_few_evaluations() -> None:
    """Where a function is smooth its zero is found faster than by bisection."""
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x.exp() - 1.5

    assert float(roots(counted, torch.zeros((), dtype=D))) == pytest.approx(math.log(1.5), abs=1e-14)
    assert calls < 15
