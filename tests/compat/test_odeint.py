"""Laws of odeflow.compat.torchdiffeq: the same calls give what torchdiffeq gives."""

import math
import warnings
from functools import cache
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import odeflow as of
from odeflow.compat import torchdiffeq as compat
from odeflow.plugin.registry import plugins

D = torch.float64
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "rk4")
OURS = (*ADAPTIVE, *FIXED)
THEIRS = ("heun3", "fehlberg2", "explicit_adams", "implicit_adams", "scipy_solver")


class Field(nn.Module):
    """A nonlinear, time-dependent field with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 9, dtype=D).view(3, 3).sin())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * t) * torch.tanh(y @ self.weight) - 0.2 * y**3


class Pair(Field):
    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        slope = super().forward(t, y[0])
        return slope, (slope * y[0]).sum(1) - 0.3 * y[1]


class Ball(nn.Module):
    """A ball that falls under a gravity to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(9.8, dtype=D))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -self.gravity + 0 * y[1]


def start(pair: bool = False) -> tuple[Tensor, ...]:
    leaves = [torch.linspace(-1, 1.5, 12, dtype=D).view(4, 3).cos(), torch.linspace(0, 1, 4, dtype=D)]
    return tuple(leaf.requires_grad_() for leaf in leaves[: 1 + pair])


def results(call: Any, times: list[float], pair: bool = False, **arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The rows, and the gradients by y0, t and the parameter."""
    field, leaves = Pair() if pair else Field(), start(pair)
    t = torch.tensor(times, dtype=D, requires_grad=True)
    y = call(field, leaves if pair else leaves[0], t, **arguments)
    rows = list(y) if pair else [y]
    loss = sum((torch.linspace(-1, 2, leaf.numel(), dtype=D).view_as(leaf) * leaf.sin()).sum() for leaf in rows)
    wanted = [*leaves, t, field.weight]
    return rows, list(torch.autograd.grad(loss, wanted, allow_unused=True))


@cache
def truth(times: tuple[float, ...], pair: bool) -> list[Tensor]:
    """The gradients, by torchdiffeq at a tight tolerance; those of its `odeint` by the times are far less exact."""
    return results(torchdiffeq.odeint_adjoint, list(times), pair, rtol=1e-10, atol=1e-10)[1]


def agree(name: str, times: list[float], tolerance: float, pair: bool = False, **arguments: Any) -> None:
    """Rows agree with the other library's, and gradients with its tight ones."""
    ours = results(getattr(compat, name), times, pair, **arguments)
    with torch.no_grad():
        y0 = start(pair) if pair else start()[0]
        y = getattr(torchdiffeq, name)(Pair() if pair else Field(), y0, torch.tensor(times, dtype=D), **arguments)
    for mine, other in zip([*ours[0], *ours[1]], [*(y if pair else [y]), *truth(tuple(times), pair)], strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        assert float((mine - other).detach().abs().max()) < tolerance * (1 + float(other.detach().abs().max()))


FORWARDS, BACKWARDS = [0.2, 0.5, 1.1, 1.4], [1.4, 0.9, 0.2]


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("times", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
@pytest.mark.parametrize("pair", [False, True], ids=["tensor", "tuple"])
class TestAgreement:
    @pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
    def test_adaptive(self, name: str, times: list[float], pair: bool, method: str) -> None:
        """Adaptive methods give the same rows and gradients, to the tolerance."""
        tolerance = 1e-6 if method == "bosh3" else 1e-8
        slack = 1e-3 if method == "dopri8" else 1000 * tolerance  # whose interpolation is coarse in torchdiffeq
        agree(name, times, slack, pair, method=method, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("method", FIXED)
    def test_steps_between_the_times(self, name: str, times: list[float], pair: bool, method: str) -> None:
        """Without options a fixed method steps from time to time: rows are the same to rounding."""
        ours = results(getattr(compat, name), times, pair, method=method)[0]
        theirs = results(getattr(torchdiffeq, name), times, pair, method=method)[0]
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, other, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("options", [{"step_size": 0.04}, {"step_size": 0.04, "interp": "cubic"}])
    def test_steps_of_a_size(self, name: str, times: list[float], pair: bool, options: dict[str, Any]) -> None:
        """Steps of a size that does not divide the times: the same rows to rounding, interpolated as is said."""
        ours, gradients = results(getattr(compat, name), times, pair, method="rk4", options=options)
        theirs, wanted = results(getattr(torchdiffeq, name), times, pair, method="rk4", options=options)
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, other, rtol=0, atol=1e-13)
        for mine, other in zip(gradients, wanted, strict=True):
            assert float((mine - other).abs().max()) < 2e-3 * (1 + float(other.detach().abs().max()))

    @pytest.mark.parametrize("method", THEIRS)
    def test_methods_of_torchdiffeq_itself(self, name: str, times: list[float], pair: bool, method: str) -> None:
        """What runs in torchdiffeq gives the same rows, to rounding or the tolerance."""
        y0 = start(pair) if pair else start()[0]
        arguments = {"method": method, "rtol": 1e-6, "atol": 1e-6}
        if method in ("heun3", "explicit_adams", "implicit_adams"):
            arguments["options"] = {"step_size": 0.02}
        with torch.no_grad():
            ours, theirs = (
                getattr(library, name)(Pair() if pair else Field(), y0, torch.tensor(times, dtype=D), **arguments)
                for library in (compat, torchdiffeq)
            )
        for mine, other in zip(ours, theirs, strict=True) if pair else [(ours, theirs)]:
            assert torch.allclose(mine, other, rtol=0, atol=1e-3 if method == "fehlberg2" else 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 0.01, "max_step": 0.05},
        {"safety": 0.5, "ifactor": 2.0, "dfactor": 0.5},
        {"step_t": torch.tensor([0.3, 0.7], dtype=D)},
        {"jump_t": torch.tensor([0.3, 0.7], dtype=D)},
        {"norm": lambda y: y.abs().max()},
        {"dtype": torch.float64, "max_num_steps": 1000, "min_step": 1e-6},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_of_adaptive_methods(options: dict[str, Any]) -> None:
    """Each is understood: results agree to the tolerance."""
    agree("odeint", FORWARDS, 1e-6, method="dopri5", rtol=1e-9, atol=1e-9, options=options)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("pair", [False, True])
def test_as_many_steps_as_torchdiffeq(method: str, pair: bool) -> None:
    """The steps, accepted or not, are as many, but for the last, which ends at the last time."""

    class Noting(Pair if pair else Field):
        def __init__(self) -> None:
            super().__init__()
            self.notes: list[tuple[str, float, float]] = []

        def callback_accept_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
            assert isinstance(y0, tuple) is pair
            self.notes.append(("accept", float(t0), float(dt)))

        def callback_reject_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
            self.notes.append(("reject", float(t0), float(dt)))

    notes = []
    for library in (compat, torchdiffeq):
        field = Noting()
        with torch.no_grad():
            y0 = start(pair) if pair else start()[0]
            library.odeint(field, y0, torch.tensor([0.0, 3.0], dtype=D), method=method, rtol=1e-4, atol=1e-4)
        notes.append(field.notes)
    ours, theirs = (len(each) for each in notes)
    assert abs(ours - theirs) <= 2 + 0.05 * theirs


def test_callbacks_are_called_before_and_after_each_step() -> None:
    """Both passes call back as torchdiffeq's do; fixed methods before their steps only."""

    class Noting(Field):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            assert y0.shape == (4, 3)
            assert float(dt) > 0
            self.calls.append("step")

        def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            self.calls.append("accept")

        def callback_step_adjoint(self, t0: Tensor, y0: tuple[Tensor, ...], dt: Tensor) -> None:
            assert y0[1].shape == y0[2].shape == (4, 3)
            self.calls.append("back")

    for library in (compat, torchdiffeq):
        field = Noting()
        y = library.odeint_adjoint(field, start()[0], torch.tensor([1.0, 0.0], dtype=D), rtol=1e-3, atol=1e-3)
        forward = list(field.calls)
        assert forward[0] == "step"
        assert forward.count("step") >= forward.count("accept") > 0
        assert "back" not in forward
        y.sum().backward()
        assert set(field.calls[len(forward) :]) == {"back"}
    for method, message in {
        "heun3": "'heun3' does not support callbacks {'callback_accept_step'}",
        "rk4": "'rk4' accepts all its steps and does not call callback_accept_step$",
    }.items():
        field = Noting()
        with pytest.warns(UserWarning, match=message):
            compat.odeint(field, start()[0], torch.tensor([0.0, 1.0], dtype=D), method=method)
        assert field.calls == ["step"]


@pytest.mark.parametrize(
    "adjoint", [{}, {"norm": "seminorm"}, {"norm": lambda state: max(s.abs().max() for s in state)}]
)
@pytest.mark.parametrize("pair", [False, True])
def test_adjoint_options(adjoint: dict[str, Any], pair: bool) -> None:
    """The backward pass has its own method, tolerances and norm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(
            "odeint_adjoint", FORWARDS, 1e-5, pair, rtol=1e-9, atol=1e-9, adjoint_method="bosh3", adjoint_rtol=1e-7,
            adjoint_atol=1e-7, adjoint_options=adjoint,
        )  # fmt: skip


def test_seminorm_takes_fewer_evaluations() -> None:
    """Without the parameters in the norm the backward pass is cheaper, never dearer."""
    counts: dict[str, int] = {}
    for name, options in {"full": {}, "semi": {"norm": "seminorm"}}.items():
        field, calls = Field(), [0]
        field.register_forward_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        y = compat.odeint_adjoint(
            field, start()[0], torch.tensor([0.0, 9.0], dtype=D), rtol=1e-5, atol=1e-5, adjoint_options=options
        )
        forward = calls[0]
        y.sin().sum().backward()
        counts[name] = calls[0] - forward
    assert counts["semi"] <= counts["full"]


def test_tolerances_of_each_leaf() -> None:
    """A tolerance for each tensor of a tuple, or for each entry."""
    agree("odeint", FORWARDS, 1e-3, True, rtol=(1e-9, 1e-4), atol=1e-9)
    agree("odeint", FORWARDS, 1e-6, rtol=torch.full((4, 3), 1e-9, dtype=D), atol=torch.tensor(1e-9))
    with pytest.raises(of.SettingError, match="give adjoint_rtol, one number"):
        compat.odeint_adjoint(Pair(), start(True), torch.tensor([0.0, 1.0], dtype=D), rtol=(1e-9, 1e-9))


SHARP: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize(
    ("options", "wanted", "most"),
    [({"min_step": 0.01}, 0.0439192, 640), ({"min_step": 0.01, "max_step": 0.002}, 0.0439192, 3020)],
)
def test_steps_of_the_smallest_size_are_accepted(options: dict[str, Any], wanted: float, most: int) -> None:
    """Where tolerances want smaller steps than min_step, or max_step allows none as large, steps have that size."""
    calls = [0]

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return -3 * (y - torch.sin(50 * t))

    y = compat.odeint(field, torch.tensor([2.0], dtype=D), torch.tensor([0.0, 1.0], dtype=D), options=options, **SHARP)
    assert float(y[-1]) == pytest.approx(wanted, abs=1e-4)
    assert calls[0] <= most


@pytest.mark.parametrize(
    "options",
    [{"safety": 1.5}, {"dfactor": 1.0}, {"dfactor": 3.0, "safety": 3.0}, {"safety": 0.0}, {"ifactor": 0.5}],
    ids=str,
)
def test_a_step_control_that_cannot_work_ends(options: dict[str, float]) -> None:
    """Options by which rejected steps grow, or accepted ones shrink, give the solution or an error, in few steps.

    With a safety above 1 a step is tried until its error estimate happens to be small: right to two digits alone.
    """
    field, t = (lambda t, y: -3 * (y - torch.sin(50 * t))), torch.tensor([0.0, 1.0], dtype=D)
    try:
        y = compat.odeint(field, torch.tensor([2.0], dtype=D), t, rtol=1e-5, atol=1e-5, options=options)
        assert float(y[-1]) == pytest.approx(0.0439192, abs=3e-3)
    except of.SolveError as error:
        assert options == {"ifactor": 0.5}
        assert "the step size fell to" in str(error)  # noqa: PT017


def fall(library: Any, name: str, linked: bool, **arguments: Any) -> list[Tensor]:
    """Time, height and speed when a ball hits the ground, and gradients of their sum."""
    ball = Ball()
    y0 = (torch.tensor([10.0], dtype=D, requires_grad=True), torch.tensor([1.0], dtype=D, requires_grad=True))
    t0 = torch.tensor(0.3, dtype=D, requires_grad=True)
    call = getattr(library, name)
    if linked:
        event_t, y = library.odeint_event(ball, y0, t0, event_fn=lambda t, y: y[0], odeint_interface=call, **arguments)
    else:
        event_t, y = call(ball, y0, torch.stack((t0, t0.detach() + 1)), event_fn=lambda t, y: y[0], **arguments)
    loss = y[0][-1].sum() + 2 * y[1][-1].sum() + (3 * event_t if linked else 0)
    found = torch.autograd.grad(loss, [*y0, t0, ball.gravity], allow_unused=True)
    return [event_t, *y, *(torch.zeros((), dtype=D) if each is None else each for each in found)]


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("linked", [False, True], ids=["odeint", "odeint_event"])
@pytest.mark.parametrize(
    "arguments", [{"rtol": 1e-10, "atol": 1e-10}, {"method": "rk4", "atol": 1e-10, "options": {"step_size": 0.01, "interp": "cubic"}}], ids=["dopri5", "rk4"]
)  # fmt: skip
def test_events(name: str, linked: bool, arguments: dict[str, Any]) -> None:
    """Time, states and gradients at an event agree, with and without the event's own motion."""
    ours, theirs = (fall(library, name, linked, **arguments) for library in (compat, torchdiffeq))
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape
        if number == 5 and not linked:
            continue  # ∂/∂t0 at a fixed time of the event, which torchdiffeq's two interfaces do not agree on
        assert torch.allclose(mine, other, rtol=1e-6, atol=1e-6), number


METHODS: dict[str, dict[str, Any]] = {
    **{key: {} for key in ("dopri5", "dopri8", "bosh3", "fehlberg2")},
    **{key: {"step_size": 0.1} for key in ("rk4", "heun2", "heun3")},
    **{key: {"step_size": 0.1, "max_order": 4} for key in ("explicit_adams", "implicit_adams")},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("event_fn", "time", "by_y0"),
    [
        (lambda t, y: y[0] - 0.5, 0.6931, 1.0),
        (lambda t, y: y[0] > 0.5, 0.6931, 0.0),
        (lambda t, y: y[0] < 0.5, 0.6931, 0.0),
        (lambda t, y: (10 * y[0]).floor() - 4, 0.6931, 0.0),
        (lambda t, y: y[0] + 5 if t < 1 else torch.zeros_like(t), 1.0, 0.0),
    ],
    ids=["linear", "true before", "true after", "whole numbers", "zero from a time on"],
)
def test_events_of_all_methods(method: str, event_fn: Any, time: float, by_y0: float) -> None:
    """Each method finds y = ½ of y′ = −y; where the event's value has no derivative its time stands still."""
    y0 = torch.ones(1, dtype=D, requires_grad=True)
    t, y = compat.odeint_event(
        lambda t, y: -y, y0, torch.tensor(0.0, dtype=D), event_fn=event_fn, method=method, options=METHODS[method]
    )
    assert t.item() == pytest.approx(time, abs=2e-3)
    assert y[-1].item() == pytest.approx(math.exp(-time), abs=2e-3)
    if method in OURS or by_y0:  # torchdiffeq's own methods may find the time before which the value is not yet zero
        (found,) = torch.autograd.grad(t + 0 * y.sum(), y0)
        assert found.item() == pytest.approx(by_y0, abs=2e-3)


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("dopri5", {"max_num_steps": 30}, "max_num_steps = 30 steps did not reach"),
        ("euler", {"step_size": 0.001}, "event_fn has no zero between t = 0 and 20"),
        ("fehlberg2", {"max_num_steps": 30}, "max_num_steps exceeded"),
    ],
)
def test_the_search_for_an_event_ends(method: str, options: dict[str, Any], error: str) -> None:
    """An event that never comes is an error after the steps that are allowed."""
    with pytest.raises((of.SolveError, AssertionError), match=error):
        compat.odeint_event(
            lambda t, y: -y, torch.ones(1), torch.tensor(0.0), event_fn=lambda t, y: y[0] + 1, method=method,
            options=options, rtol=1e-3, atol=1e-3,
        )  # fmt: skip


def test_the_time_of_an_event_of_the_adjoint_has_a_gradient_of_zero() -> None:
    """`odeint_adjoint` itself does not see that the event moves, but its time can be differentiated."""
    for library in (compat, torchdiffeq):
        y0 = torch.ones(1, dtype=D, requires_grad=True)
        t, _ = library.odeint_adjoint(
            lambda t, y: -y, y0, torch.tensor([0.0, 1.0], dtype=D), event_fn=lambda t, y: y[0] - 0.5, adjoint_params=()
        )
        assert float(torch.autograd.grad(t, y0)[0]) == 0


def test_the_first_of_several_events_back_in_time() -> None:
    """Of a vector of events the first to become zero counts, in either direction of time."""
    for reverse in (False, True):
        found = [
            library.odeint_event(
                Ball(), (torch.tensor([10.0], dtype=D), torch.tensor([0.0], dtype=D)), torch.tensor(0.0, dtype=D),
                event_fn=lambda t, y: torch.stack((y[0][0], y[1][0].abs() - 5, t.abs() - 3)), reverse_time=reverse,
                atol=1e-9,
            )[0]
            for library in (compat, torchdiffeq)
        ]  # fmt: skip
        assert float(found[0].detach()) == pytest.approx(float(found[1].detach()), abs=1e-7)


def test_a_loop_like_ode_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """`import odeint_adjoint as odeint` is the whole migration: training takes the same course."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])

    class Lambda(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.mm(y**3, matrix)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y**3)

    courses: list[list[float]] = []
    for library in (compat, torchdiffeq):
        odeint = library.odeint_adjoint
        torch.manual_seed(0)
        y0, t = torch.tensor([[2.0, 0.0]]), torch.linspace(0.0, 2.5, 100)
        with torch.no_grad():
            truth = odeint(Lambda(), y0, t, method="dopri5")
        func, losses = Learned(), list[float]()
        optimizer = torch.optim.RMSprop(func.parameters(), lr=1e-3)
        for _ in range(6):
            optimizer.zero_grad()
            places = torch.randperm(90)[:20]
            target = torch.stack([truth[places + number] for number in range(10)])
            loss = (odeint(func, truth[places], t[:10], rtol=1e-5, atol=1e-6) - target).abs().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        courses.append(losses)
    assert courses[0] == pytest.approx(courses[1], rel=1e-3)
    assert courses[0][-1] < courses[0][0]


def test_one_time_is_the_start() -> None:
    """A single time gives the initial state, as there."""
    y = compat.odeint(Field(), start()[0], torch.zeros(1, dtype=D))
    assert torch.equal(y, start()[0][None])


def test_grid_constructor_and_perturb() -> None:
    """A grid of the user's own; both sides of its points are told apart with `perturb`."""
    grid = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=D)

    def jumps(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(t) < 0.5 else y

    options = {"grid_constructor": lambda func, y0, t: grid, "perturb": True}
    ours, theirs = (
        library.odeint(jumps, torch.ones(2, dtype=D), grid[[0, 2, 3]], method="rk4", options=options)
        for library in (compat, torchdiffeq)
    )
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dopri6"}, "Invalid method: no method named 'dopri6'. Did you mean dopri"),
        ({"options": {"frist_step": 1}}, "no option of dopri5 named 'frist_step'. Did you mean first_step"),
        ({"options": {"grid_points": 1}}, "Since torchdiffeq 0.2 it is step_t or jump_t"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": len}}, "mutually exclusive"),
        ({"method": "rk4", "options": {"interp": "spline"}}, "interp must be 'linear' or 'cubic'"),
        ({"method": "rk4", "event_fn": lambda t, y: y.sum()}, "an event needs options"),
        ({"method": "heun3", "event_fn": lambda t, y: y.sum()}, "an event needs options"),
        ({"method": "scipy_solver", "event_fn": lambda t, y: y.sum()}, "scipy_solver does not support events"),
        ({"method": "heun3", "options": {"stepsize": 0.1}}, "no option of heun3 named 'stepsize'. Did you mean step_"),
        ({"method": "rk4", "options": {"step_size": 0.0}}, "step_size must be a positive number; got 0"),
        ({"method": "rk4", "options": {"step_size": 1e-12}}, "takes 1e.12 steps .* or give grid_constructor"),
        ({"method": "heun3", "options": {"step_size": 1e-12}}, "takes 1e.12 steps"),
        ({"options": {"first_step": float("nan")}}, "first_step must be a positive number; got nan"),
        ({"options": {"max_step": -1}}, "max_step must be a positive number; got -1"),
        ({"options": {"safety": -1}}, "safety must be at least 0; got -1"),
        (
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[[0, 1, 0, 1]]}},
            "in that direction alone",
        ),
        ({"t": torch.tensor(0.0)}, r"t must have one dimension, \(T,\), and a time in it; its shape is \(\)"),
        ({"t": torch.tensor([[0.0, 1.0]] * 2)}, r"its shape is \(2, 2\)"),
        ({"t": torch.ones(0)}, r"its shape is \(0,\)"),
        ({"y0": [1.0]}, "y0 must be a Tensor or a tuple"),
        ({"y0": torch.ones(2, dtype=torch.complex64)}, "solve for torch.view_as_real"),
        ({"t": torch.tensor([0, 1])}, "t must be a floating-point Tensor"),
        ({"t": torch.tensor([0.0, 2.0, 1.0])}, "strictly increasing or strictly decreasing"),
        ({"t": torch.tensor([0.0, 1.0, 2.0]), "event_fn": lambda t, y: y.sum()}, "got 3 times"),
        ({"options": {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])}}, "repeated elements"),
    ],
)
def test_senseless_calls_are_refused(arguments: dict[str, Any], message: str) -> None:
    """What torchdiffeq refuses or cannot do is a ValueError that says what to do."""
    given = {"y0": torch.ones(2), "t": torch.tensor([0.0, 1.0]), **arguments}
    with pytest.raises(ValueError, match=message):
        compat.odeint(lambda t, y: -y, **given)


def test_adjoint_needs_to_know_its_parameters() -> None:
    """A function needs `adjoint_params`, and another method its own options."""
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="give adjoint_params"):
        compat.odeint_adjoint(lambda t, y: -y, torch.ones(2), t)
    weight = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(ValueError, match="adjoint_params must be several tensors, such as"):
        compat.odeint_adjoint(lambda t, y: -weight * y, torch.ones(1), t, adjoint_params=weight)
    compat.odeint_adjoint(lambda t, y: -weight * y, torch.ones(1), t, adjoint_params=(weight,)).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(-torch.exp(torch.tensor(-2.0)).item(), abs=1e-5)
    with pytest.raises(ValueError, match="give adjoint_options too"):
        compat.odeint_adjoint(Field(), start()[0], t, method="dopri5", options={"max_step": 0.1}, adjoint_method="rk4")


@pytest.mark.parametrize("method", ["dopri5", "heun3"])
@pytest.mark.parametrize("pair", [False, True])
def test_parameters_that_are_not_used_have_gradients_of_zero(method: str, pair: bool) -> None:
    """Every parameter gets a gradient from the adjoint, as there."""
    field = Pair() if pair else Field()
    field.unused = nn.Linear(2, 3, dtype=D)
    y = compat.odeint_adjoint(
        field, start(True) if pair else start()[0], torch.tensor([0.0, 1.0], dtype=D), method=method
    )
    (y[0] if pair else y).sum().backward()
    assert all(param.grad is not None for param in field.parameters())
    assert float(field.weight.grad.abs().max()) > 0
    assert torch.equal(field.unused.weight.grad, torch.zeros(3, 2, dtype=D))


def test_scipy_gives_values_without_a_gradient() -> None:
    """Under autograd scipy's values come without a graph from `odeint`, and with one from the adjoint, as there."""
    arguments: dict[str, Any] = {"method": "scipy_solver"}
    t = torch.tensor([0.0, 1.0], dtype=D)
    assert not compat.odeint(Field(), start()[0], t, **arguments).requires_grad
    agree("odeint_adjoint", FORWARDS, 1e-5, **arguments, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["rk4", "heun3", "explicit_adams"])
def test_perturb_keeps_off_the_grid_in_both_passes(method: str) -> None:
    """With `perturb` neither pass evaluates the field at a point of the grid where it may jump."""
    times: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        times.append(t.item())
        return -y

    y = compat.odeint_adjoint(
        field, start()[0], torch.tensor([0.0, 1.0], dtype=D), method=method, adjoint_params=(),
        options={"step_size": 0.5, "perturb": True},
    )  # fmt: skip
    assert not {0.0, 0.5} & set(times)
    times.clear()
    y.sum().backward()
    assert times
    assert not {0.5, 1.0} & set(times)


def test_max_num_steps_is_kept() -> None:
    """Too many steps from one time to the next are an error, and a RuntimeError, that names the option."""
    field, y0, options = Field(), start()[0], {"max_num_steps": 6}
    with pytest.raises(RuntimeError, match="max_num_steps = 6 steps did not reach the next output time"):
        compat.odeint(field, y0, torch.tensor([0.0, 50.0], dtype=D), options=options)
    for library in (compat, torchdiffeq):
        library.odeint(field, y0, torch.linspace(0, 1, 9, dtype=D), rtol=1e-9, atol=1e-9, options=options)


def test_a_field_without_numbers_is_named() -> None:
    """Where steps vanish the message says why, in torchdiffeq's words."""
    y0, t = torch.ones(1, dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    with pytest.raises(RuntimeError, match=r"rejections in a row: near there the state or the field is not finite"):
        compat.odeint(lambda t, y: (0.5 - t).sqrt() * y, y0, t)
    with pytest.raises(
        RuntimeError, match=r"near there the field may be discontinuous.*name the times of jumps in jump_t"
    ):
        compat.odeint(lambda t, y: y**2, 2 * y0, t)


def test_the_registry_does_not_list_what_is_private() -> None:
    """What compat makes for itself is no plugin."""
    assert not [name for name in plugins("solver") if name.startswith("_")]


def test_an_event_at_the_start() -> None:
    """An event whose value is zero at once ends the solve there, with the state twice."""
    t0, one, other = torch.tensor(0.3, dtype=D), torch.ones(2, dtype=D), torch.zeros(1, dtype=D)
    event_t, y = compat.odeint_event(lambda t, y: -y, one, t0, event_fn=lambda t, y: 0 * t)
    assert (event_t, y.tolist()) == (t0, [[1.0, 1.0]] * 2)
    event_t, pair = compat.odeint_event(lambda t, y: y, (one, other), t0, event_fn=lambda t, y: 0 * t)
    assert [leaf.tolist() for leaf in pair] == [[[1.0, 1.0]] * 2, [[0.0]] * 2]


def test_an_event_without_gradients() -> None:
    """Under no_grad the event is found as with gradients, and nothing is recorded."""
    y0, t0 = torch.ones(1, dtype=D, requires_grad=True), torch.tensor(0.0, dtype=D)
    with torch.no_grad():
        t, y = compat.odeint_event(lambda t, y: -y, y0, t0, event_fn=lambda t, y: y[0] - 0.5)
    assert float(t) == pytest.approx(math.log(2), abs=1e-6)
    assert y[-1].tolist() == pytest.approx([0.5], abs=1e-6)
    assert not t.requires_grad
    assert not y.requires_grad


def test_wrong_tolerances_are_refused() -> None:
    """Tolerances that require a gradient, and too many of them for a tuple."""
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(of.SettingError, match="rtol cannot require a gradient"):
        compat.odeint(lambda t, y: -y, torch.ones(1), t, rtol=torch.tensor(1e-3, requires_grad=True))
    with pytest.raises(of.SettingError, match="atol must be one number, or one for each of the 2 tensors; got 3"):
        compat.odeint(lambda t, y: y, (torch.ones(1), torch.ones(1)), t, atol=(1e-3, 1e-3, 1e-3))
