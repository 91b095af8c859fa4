"""Laws of step control under per-sample stepping: controllers and times of jumps, of each sample as if it were alone."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import after_the_jump, brusselator, column, jumping
from odeflow.engine.loop.adaptive import ErrorPer
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import Dopri5, Dopri8, Tsit5

D = torch.float64
ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order]


def brusselators() -> Tensor:
    return torch.tensor([[1.5, 3.0], [0.3, 5.0], [2.5, 1.0], [1.0, 1.1], [4.0, 6.0]], dtype=D)


def assert_same_steps(batch: of.Stats, stats: list[of.Stats]) -> None:
    """The batch took the steps that its samples took."""
    assert batch.accepted_per_sample.tolist() == [one.accepted for one in stats]
    assert batch.rejected_per_sample.tolist() == [one.rejected for one in stats]
    assert len({one.accepted for one in stats}) > 1


@pytest.mark.parametrize("controller", ["I", "PI", "PID", (0.6, -0.2), (0.8,)])
@pytest.mark.parametrize(
    ("name", "own", "error_per"),
    [("Dopri5", False, "step"), ("Dopri5", True, "step"), ("Dopri5", True, "span"), ("Dopri8", True, "step")],
)
def test_control_is_of_each_sample(name: str, controller: str, own: bool, error_per: ErrorPer) -> None:
    """However steps are controlled, a batch takes those of each sample's own joint solve, also after some are left out."""
    cls, y0, options = look_up("solver", name), brusselators(), {"controller": controller, "error_per": error_per}
    ends = torch.tensor([1.0, 9.0, 3.0, 0.5, 5.0] if own else [4.0] * 5, dtype=D)
    spans = torch.stack((torch.zeros(5, dtype=D), ends), 1)
    by = cls(1e-5, 1e-5, per_sample=True, **options)
    with torch.no_grad():
        batch = of.solve(brusselator, y0, spans, solver=by)
        alone = [
            of.solve(brusselator, y[None], span, solver=cls(1e-5, 1e-5, **options))
            for y, span in zip(y0, spans, strict=True)
        ]
    assert_same_steps(batch.stats, [one.stats for one in alone])
    assert torch.allclose(batch.y, torch.cat([one.y for one in alone], 1), rtol=0, atol=1e-9)
    assert sum(one.stats.rejected for one in alone) > 0


def test_pi_is_smoother_where_stability_bounds_the_steps() -> None:
    """On stiff samples the elementary controller has steps rejected again and again, PI almost never."""

    def stiff(t: Tensor, y: Tensor) -> Tensor:
        return -torch.tensor([[1000.0], [500.0]], dtype=D) * (y - torch.cos(t)[:, None])

    elementary, smooth = (
        of.solve(
            stiff,
            torch.ones(2, 1, dtype=D),
            [0.0, 0.5],
            solver=Tsit5(1e-4, 1e-4, controller=each, per_sample=True),
            params=(),
        ).stats.rejected_per_sample
        for each in ("I", "PI")
    )
    assert bool((smooth <= elementary / 3).all())
    assert int(elementary.min()) > 3


def jumps(closed: bool = True, places: tuple[float, ...] = (1.0,)) -> Callable[[Tensor, Tensor], Tensor]:
    """A field that jumps at the places and belongs there, by t ≥ s or t > s, to either side."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        t = column(t, y)
        passed = sum(((t >= place) if closed else (t > place)).to(y) for place in places)
        return torch.sin(t) + torch.cos(y + t) * (2 - 3 * passed)

    return field


@pytest.mark.parametrize(("dtype", "closed"), [(torch.float64, False), (torch.float32, True)])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_order_is_kept(name: str, dtype: torch.dtype, closed: bool) -> None:
    """With jump_ts a step of every sample ends at the jump, and each side is integrated with its own field alone."""
    cls, tolerance = look_up("solver", name), 1e-6 if look_up("solver", name).order > 2 else 1e-4
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return jumping(closed)(t, y)

    y0 = torch.tensor([[1.0], [0.5], [3.0]], dtype=dtype)
    by = cls(tolerance, tolerance, jump_ts=[1.0, 7.0], per_sample=True)
    with torch.no_grad():
        solution = of.solve(field, y0, [0.0, 1.0, 1.7], solver=by)
    assert 1.0 not in seen
    rough = 5e-3 if cls.order < 3 else 1e-4
    assert torch.allclose(solution.y[1].double(), after_the_jump(y0, 1.0), rtol=rough, atol=0)
    assert torch.allclose(solution.y[2].double(), after_the_jump(y0, 1.7), rtol=rough, atol=rough)
    assert int(solution.stats.rejected_per_sample.max()) <= 3


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("controller", ["I", "PI"])
def test_a_sample_goes_as_if_alone(controller: str, backwards: bool) -> None:
    """Jumps inside, outside, at the first and at the last time of samples: the steps of each sample's own joint solve."""
    places = (1.0, -0.3, 2.2)
    spans = torch.tensor([[0.0, 3.0], [1.0, 2.0], [0.5, 1.0], [1.1, 2.1], [-1.0, 2.2], [1.0, 2.2]], dtype=D)
    spans = spans.flip(1) if backwards else spans
    y0, q = torch.linspace(0.1, 2, 12, dtype=D).view(6, 2), torch.linspace(0, 1, 9, dtype=D)
    t = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * q
    by = Dopri5(1e-7, 1e-7, controller=controller, jump_ts=places, per_sample=True)
    event = of.Event(lambda t, y: (t - 1.5) * y[..., 0], terminal=False)
    with torch.no_grad():
        batch = of.solve(jumps(places=places), y0, t, solver=by, event=event, dense=True)
        dense, stats = batch(t), list[of.Stats]()
        for number in range(6):
            row = slice(number, number + 1)
            joint = Dopri5(1e-7, 1e-7, controller=controller, jump_ts=places)
            alone = of.solve(jumps(places=places), y0[row], t[number], solver=joint, event=event, dense=True)
            stats.append(alone.stats)
            assert torch.allclose(batch.y[:, row], alone.y, rtol=0, atol=1e-12)
            assert torch.allclose(dense[:, row], alone(t[number]), rtol=0, atol=1e-12)
            count = int(batch.events[0].count[number])
            assert torch.allclose(batch.events[0].t[number, :count], alone.events[0].t, rtol=0, atol=1e-12)
    assert_same_steps(batch.stats, stats)
    assert int(batch.events[0].count.sum()) >= 4


def test_without_it_is_costly() -> None:
    """The same field without jump_ts costs rejected steps."""
    y0, t = torch.tensor([[1.0], [2.0]], dtype=D), torch.tensor([[0.0, 1.7], [0.7, 1.6]], dtype=D)
    with_it, without = (
        of.solve(jumps(), y0, t, solver=Dopri5(1e-7, 1e-7, jump_ts=each, per_sample=True), params=()).stats
        for each in ((1.0,), ())
    )
    assert bool((with_it.rejected_per_sample + 3 < without.rejected_per_sample).all())


@pytest.mark.parametrize(
    ("gradient", "own", "backwards"),
    [
        (of.Backprop(), False, False),
        (of.Backprop(), True, True),
        (of.Checkpointed(), False, True),
        (of.Checkpointed(), True, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, of.Gradient) else str(value),
)
def test_gradients_across_jumps(gradient: of.Gradient, own: bool, backwards: bool) -> None:
    """∂L/∂y₀ and ∂L/∂t of a solve with jumps inside, outside and beside it agree with central differences."""
    places = (1.0, 2.2, -0.5)
    t = torch.tensor([0.1, 0.7, 1.3, 1.9], dtype=D)
    if own:
        t = torch.tensor([[0.1, 0.7, 1.3, 1.9], [1.1, 1.2, 1.3, 1.4], [-0.7, 0.1, 0.8, 1.2]], dtype=D)
    t = t.flip(-1) if backwards else t
    by = Dopri8(0.9, 1e3, first_step=0.15, max_step=0.15, jump_ts=places, per_sample=True)
    weights = torch.linspace(-1, 2, 24, dtype=D).view(4, 3, 2)

    def loss(y0: Tensor, t: Tensor) -> Tensor:
        y = of.solve(jumps(places=places), y0, t, solver=by, gradient=gradient, params=()).y
        return (y.sin() * weights).sum()

    inputs = torch.linspace(0.1, 1.2, 6, dtype=D).view(3, 2).requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-5, atol=1e-6, rtol=1e-6, fast_mode=True)


def test_adjoint_goes_back_jointly_across_jumps() -> None:
    """After a per-sample solve across a jump, by PI, Adjoint's gradient is Backprop's."""
    y0 = torch.linspace(0.1, 1.2, 6, dtype=D).view(3, 2).requires_grad_()
    by = Dopri5(1e-9, 1e-9, controller="PI", jump_ts=(1.0,), per_sample=True)
    truth, found = (
        torch.autograd.grad(of.solve(jumps(), y0, [0.0, 0.5, 2.0], solver=by, gradient=each, params=()).y.sum(), y0)[0]
        for each in (of.Backprop(), of.Adjoint())
    )
    assert torch.allclose(found, truth, rtol=1e-6, atol=1e-6)


def test_fields_with_data_for_each_sample() -> None:
    """A field that holds data for each sample is given the whole batch across jumps, too."""
    context = torch.linspace(-1, 1, 8, dtype=D)[:, None]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return jumps()(t, y) + context

    t = torch.tensor([[0.0, 0.2]] * 7 + [[0.0, 3.0]], dtype=D)
    y0 = torch.ones(8, 1, dtype=D)
    with torch.no_grad():
        batch = of.solve(field, y0, t, solver=Dopri5(1e-6, 1e-6, jump_ts=(1.0,), per_sample=True))
        context = context[7:]
        alone = of.solve(field, y0[7:], t[7], solver=Dopri5(1e-6, 1e-6, jump_ts=(1.0,)))
    assert torch.allclose(batch.y[:, 7:], alone.y, rtol=0, atol=1e-12)


def test_every_option_together() -> None:
    """Jumps, a controller, events and output times of each sample's own go together, by every form of Checkpointed."""
    y0, t = torch.linspace(0.2, 1.5, 8, dtype=D).view(4, 2).requires_grad_(), torch.tensor([0.0, 0.5, 4.0], dtype=D)
    by = Dopri5(1e-5, 1e-5, controller="PI", jump_ts=(1.0, 0.3), per_sample=True)
    event = of.Event(lambda t, y: y[:, 1] + torch.sin(3 * t) - 1.7, required=False)
    found: list[list[Tensor]] = []
    for gradient in (of.Backprop(), of.Checkpointed(), of.Checkpointed(every=3), of.Checkpointed(max_bytes=300)):
        solution = of.solve(jumps(), y0, t, solver=by, gradient=gradient, params=(), event=event, dense=True)
        loss = solution.t[:, -1].sum() + solution.y.sin().sum() + solution(0.2 * solution.t[:, -1:].detach()).sum()
        found.append([solution.t, solution.y, *torch.autograd.grad(loss, y0)])
    for one, first in itertools.product(found[1:], found[:1]):
        for value, truth in zip(one, first, strict=True):
            assert torch.allclose(value, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("cls", [Dopri5, Tsit5, Dopri8])
def test_stiffness_is_of_each_sample(cls: type[of.RungeKutta]) -> None:
    """Each sample's h|λ| is about that of its own joint solve; `stiffness` is the largest; few steps tell nothing."""
    rates = torch.tensor([[0.1], [30.0], [1000.0]], dtype=D)
    field = lambda t, y: -rates[: len(y)] * (y - torch.cos(t).view(-1, 1))  # noqa: E731
    y0, t = torch.ones(3, 2, dtype=D), torch.tensor([0.0, 3.0], dtype=D)
    stats = of.solve(field, y0, t, solver=cls(1e-5, 1e-5, per_sample=True), params=()).stats
    alone = [
        of.solve(lambda t, y, rate=rate: -rate * (y - torch.cos(t)), y0[:1], t, solver=cls(1e-5, 1e-5), params=()).stats
        for rate in rates
    ]
    assert stats.stiffness_per_sample is not None
    assert stats.stiffness == stats.stiffness_per_sample[2] > 2
    assert alone[0].stiffness is None
    assert stats.stiffness_per_sample[0].isnan()
    for one, seen in zip(alone[1:], stats.stiffness_per_sample[1:].tolist(), strict=True):
        assert seen == pytest.approx(one.stiffness, rel=0.25)
    short = of.solve(field, y0, [0.0, 1e-4], solver=cls(1e-5, 1e-5, per_sample=True), params=()).stats
    assert short.stiffness is None


def test_too_many_steps_of_a_stiff_sample_say_so() -> None:
    """The error says of a stiff sample that it is stiff, and of one that is not to loosen the tolerances."""

    def field(t: Tensor, y: Tensor) -> Tensor:  # the first entry of the state, which stays, is the rate
        rate, y = y.unbind(-1)
        return torch.stack((torch.zeros_like(rate), -rate * (y - torch.cos(50 * t))), -1)

    y0 = torch.tensor([[1.0, 1.0], [1e4, 1.0], [1.0, 1.0]], dtype=D)
    by = Dopri5(1e-6, 1e-6, max_steps=300, per_sample=True)
    with pytest.raises(of.SolveError, match=r"take sample 1 to its end: .* The problem is stiff: .* eigenvalue is \d"):
        of.solve(field, y0, [0.0, 1.0], solver=by, params=())
    with pytest.raises(of.SolveError, match=r"take sample 0 to its end: .* Loosen rtol"):
        of.solve(field, y0, [0.0, 100.0], solver=by, params=())
