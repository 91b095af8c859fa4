"""Laws of per-sample steps of implicit and Rosenbrock methods: every sample goes as if it were alone."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from choice import few
from equations import column
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import Dopri8, Kvaerno3, Kvaerno5, Rodas4

D = torch.float64
STIFF = [
    name for name, cls in plugins("solver").items() if "per_sample" in getattr(cls, "supports", ()) and cls.error_order
]
STIFF = [name for name in STIFF if not issubclass(look_up("solver", name), of.RungeKutta)]


class Oscillators(nn.Module):
    """Van der Pol's oscillators x″ = μ (1 − x²) x′ − x + a cos t, with μ and a in the states (x, x′, μ, a)."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v, mu, force = y.unbind(-1)
        rise = mu * (1 - x**2) * v - x + force * torch.cos(t)
        return torch.stack((v, rise, torch.zeros_like(mu), torch.zeros_like(mu)), -1)


def oscillators() -> Tensor:
    """Five, from harmonic to stiff."""
    stiffness = torch.tensor([0.0, 1.0, 10.0, 100.0, 1000.0], dtype=D)
    return torch.stack((torch.full((5,), 2.0, dtype=D), 0 * stiffness, stiffness, 0 * stiffness + 0.3), 1)


class Forced(nn.Module):
    """A nonlinear field with parameters that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(3, 8, dtype=D), nn.Linear(8, 3, dtype=D)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * column(t, y)) * self.outer(torch.tanh(self.inner(y))) + torch.sin(y**2)


def states(count: int = 4) -> Tensor:
    """States of which each next one needs smaller steps."""
    y = torch.randn(count, 3, dtype=D, generator=torch.Generator().manual_seed(3))
    return y * torch.linspace(0.1, 4, count, dtype=D)[:, None]


TIMES = ["common", "own", "backwards"]


@pytest.mark.parametrize(
    ("name", "times"),
    few(itertools.product(STIFF, TIMES), lambda case: TIMES.index(case[1]) == STIFF.index(case[0]) % 3),
)
def test_a_sample_goes_as_if_alone(name: str, times: str) -> None:
    """Values, dense output and steps of a batch are those of each sample's own solve, to rounding."""
    cls, field, y0 = look_up("solver", name), Forced(), states()
    ends = torch.tensor([2.0, 0.2, 3.0, 1.0] if times != "common" else [2.0] * 4, dtype=D)
    t = torch.linspace(0, 1, 6, dtype=D) * ends[:, None] * (-0.2 if times == "backwards" else 1)
    with torch.no_grad():
        by = cls(1e-5, 1e-5, per_sample=True)
        batch = of.solve(field, y0, t[0] if times == "common" else t, solver=by, dense=True)
        alone = [
            of.solve(field, y[None], row, solver=cls(1e-5, 1e-5), dense=True) for y, row in zip(y0, t, strict=True)
        ]
        places = 0.9 * t + 0.1 * t[:, 1:2]
        dense = batch(places)
    assert torch.allclose(batch.y, torch.cat([one.y for one in alone], 1), rtol=0, atol=1e-10)
    for number, one in enumerate(alone):
        assert torch.allclose(dense[:, number], one(places[number])[:, 0], rtol=0, atol=1e-10)
    assert batch.stats.accepted_per_sample.tolist() == [one.stats.accepted for one in alone]
    assert batch.stats.rejected_per_sample.tolist() == [one.stats.rejected for one in alone]
    assert len({one.stats.accepted for one in alone}) > 1


@pytest.mark.parametrize("name", STIFF)
def test_a_stiff_sample_costs_the_others_nothing(name: str) -> None:
    """From harmonic to stiff, each oscillator takes its own steps, and the batch those of the one with the most."""
    cls, y0, t = look_up("solver", name), oscillators(), [0.0, 0.5, 3.0]
    with torch.no_grad():
        batch = of.solve(Oscillators(), y0, t, solver=cls(1e-5, 1e-7, per_sample=True))
        alone = [of.solve(Oscillators(), y[None], t, solver=cls(1e-5, 1e-7)) for y in y0]
        together = of.solve(Oscillators(), y0, t, solver=cls(1e-5, 1e-7))
    assert torch.allclose(batch.y, torch.cat([one.y for one in alone], 1), rtol=1e-9, atol=1e-9)
    attempts = [one.stats.accepted + one.stats.rejected for one in alone]
    assert (batch.stats.accepted_per_sample + batch.stats.rejected_per_sample).tolist() == attempts
    assert batch.stats.accepted + batch.stats.rejected == max(attempts)
    assert batch.stats.accepted < together.stats.accepted


@pytest.mark.parametrize("name", STIFF)
def test_the_order_is_kept(name: str) -> None:
    """With steps of each sample's own size h, its error falls like h^p."""
    cls, field, y0 = look_up("solver", name), Forced(), states()
    ends = torch.tensor([1.0, 0.7, 1.3, 1.5], dtype=D)
    t = torch.stack((torch.zeros(4, dtype=D), ends), 1)
    with torch.no_grad():
        truth = of.solve(field, y0, t, solver=Dopri8(1e-13, 1e-13, per_sample=True)).y
        errors: list[Tensor] = []
        for h in (0.1, 0.05, 0.025):
            options = {} if cls is Rodas4 else {"newton_tol": 1e-12}
            by = cls(0.9, 1e3, first_step=h, max_step=h, per_sample=True, **options)
            errors.append((of.solve(field, y0, t, solver=by).y[-1] - truth[-1]).abs().amax(1))
    assert bool(((errors[0] / errors[-1]).log2() / 2 > cls.order - 0.5).all())


GRADIENTS = [of.Checkpointed(), of.Checkpointed(every=3)]


@pytest.mark.parametrize(
    ("name", "own"), few(itertools.product(STIFF, [False, True]), [("Kvaerno3", True), ("Rodas4", False)])
)
def test_gradients_agree_with_differences(name: str, own: bool) -> None:
    """∂L/∂y₀ and ∂L/∂θ by Backprop are central differences to 1e-6, and Checkpointed's and ∂L/∂t are Backprop's.

    With rejected steps, output times inside steps, dense output, and samples that finish early.
    """
    cls, field, y0 = look_up("solver", name), Forced(), states(3).requires_grad_()
    t = torch.tensor([0.0, 0.15, 0.25, 0.9], dtype=D)
    t = t * torch.tensor([1.0, 0.1, 1.3], dtype=D)[:, None] if own else t
    t.requires_grad_()
    options = {} if cls is Rodas4 else {"newton_tol": 1e-12}
    variables = [y0, t, *field.parameters()]

    def loss(gradient: of.Gradient, by: of.Solver) -> Tensor:
        solution = of.solve(field, y0, t, solver=by, gradient=gradient, dense=True)
        weights = torch.linspace(-1, 2, solution.y.numel(), dtype=D).view_as(solution.y)
        inner = solution(0.7 * t[..., 1:2] if own else 0.7 * t[1:2])
        return (solution.y.sin() * weights).sum() + inner.square().sum()

    loose = cls(1e-3, 1e-3, first_step=0.7, per_sample=True, **options)
    truth = torch.autograd.grad(loss(of.Backprop(), loose), variables)
    for gradient in GRADIENTS:
        for value, true in zip(torch.autograd.grad(loss(gradient, loose), variables), truth, strict=True):
            assert torch.allclose(value, true, rtol=1e-9, atol=1e-9)
    fixed = cls(0.9, 1e3, first_step=0.15, max_step=0.15, per_sample=True, **options)
    variables = [y0, *field.parameters()]  # not t, with which the steps move
    found, eps = torch.autograd.grad(loss(of.Backprop(), fixed), variables), 1e-5
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(variable.shape, dtype=D, generator=generator) for variable in variables]
    losses: list[float] = []
    with torch.no_grad():
        for step in (eps, -2 * eps):
            for variable, direction in zip(variables, directions, strict=True):
                variable += step * direction
            losses.append(float(loss(of.Backprop(), fixed)))
    product = sum((gradient * direction).sum() for gradient, direction in zip(found, directions, strict=True))
    assert float(product) == pytest.approx((losses[0] - losses[1]) / (2 * eps), rel=1e-6)


@pytest.mark.parametrize("cls", [Kvaerno3, Rodas4])
def test_gradients_are_each_samples_own(cls: type[of.Solver]) -> None:
    """∂L/∂y₀ of a stiff batch is what each sample's own solve gives."""
    y0, t = oscillators()[:4].requires_grad_(), [0.0, 0.5, 1.0]
    options = {} if cls is Rodas4 else {"newton_tol": 1e-10}
    batch = of.solve(Oscillators(), y0, t, solver=cls(1e-5, 1e-7, per_sample=True, **options)).y[1:].sum()
    (found,) = torch.autograd.grad(batch, y0)
    for number in range(4):
        one = y0.detach()[number : number + 1].requires_grad_()
        y = of.solve(Oscillators(), one, t, solver=cls(1e-5, 1e-7, **options)).y[1:].sum()
        assert torch.allclose(torch.autograd.grad(y, one)[0], found[number : number + 1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cls", [Kvaerno5, Rodas4])
def test_events_and_discontinuities(cls: type[of.Solver]) -> None:
    """Each sample ends at its own event, across a jump of the field, as by its own joint solve."""
    rates, t = torch.tensor([[1.0], [3.0], [50.0]], dtype=D), torch.tensor([0.0, 2.0], dtype=D)

    def field(t: Tensor, y: Tensor) -> Tensor:
        rate, height = y[..., :1], y[..., 1:]
        push = torch.where(column(t, y) < 0.3, 1.0, 4.0)
        return torch.cat((0 * rate, push - rate * (height - torch.sin(column(t, y)))), -1)

    event = of.Event(lambda t, y: y[..., 1] - 1.1 * torch.sin(3 * t) - 0.05, required=False)
    joint = of.Event(lambda t, y: y[0, 1] - 1.1 * torch.sin(3 * t) - 0.05, required=False)
    y0 = torch.cat((rates, torch.ones_like(rates)), 1)
    with torch.no_grad():
        batch = of.solve(field, y0, t, solver=cls(1e-5, 1e-7, per_sample=True, jump_ts=[0.3]), event=event, dense=True)
        for number in range(3):
            by = cls(1e-5, 1e-7, jump_ts=[0.3])
            alone = of.solve(field, y0[number : number + 1], t, solver=by, event=joint, dense=True)
            assert torch.allclose(batch.t[number, -1], alone.t[-1], atol=1e-9)
            assert torch.allclose(batch.y[-1, number], alone.y[-1, 0], atol=1e-9)
            assert batch.stats.accepted_per_sample[number] == alone.stats.accepted
    assert len(set(batch.t[:, -1].tolist())) == 3


@pytest.mark.parametrize("gradient", [of.Adjoint()])
def test_adjoint_goes_back_jointly(gradient: of.Gradient) -> None:
    """After a per-sample solve at common times, Adjoint's gradient is Backprop's to 1e-5."""
    field, y0 = Forced(), (0.3 * states()).requires_grad_()
    truth, found = (
        torch.autograd.grad(
            of.solve(field, y0, [0.0, 0.4, 1.0], solver=Kvaerno5(1e-9, 1e-10, per_sample=True), gradient=each).y.sum(),
            [y0, *field.parameters()],
        )
        for each in (of.Backprop(), gradient)
    )
    for one, other in zip(truth, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_one_sample_fails_without_the_others() -> None:
    """A sample whose iteration fails takes a smaller step, and the others the steps that they take without it."""

    def field(t: Tensor, y: Tensor) -> Tensor:  # the second grows without a solution of large implicit steps
        return torch.where(y[..., 1:] > 0, torch.cat((y[..., :1] ** 3, 0 * y[..., 1:]), -1), -y)

    y0 = torch.tensor([[1.0, 0.0], [2.2, 1.0], [0.3, 0.0]], dtype=D)
    by = Kvaerno5(1e-4, 1e-4, first_step=0.1, per_sample=True)
    with torch.no_grad():
        batch = of.solve(field, y0, [0.0, 0.1], solver=by)
        pair = of.solve(field, y0[::2].contiguous(), [0.0, 0.1], solver=by)
    assert torch.allclose(batch.y[-1, ::2], pair.y[-1], rtol=0, atol=1e-12)
    assert batch.stats.accepted_per_sample[::2].tolist() == pair.stats.accepted_per_sample.tolist()
    assert batch.y[-1, 1, 0] == pytest.approx(1 / (1 / 2.2**2 - 0.2) ** 0.5, rel=1e-2)
    assert int(batch.stats.rejected_per_sample[1]) > 0


@pytest.mark.parametrize(("cls", "gradient"), list(itertools.product([Kvaerno5, Rodas4], [of.InterpolatedAdjoint()])))
def test_what_is_not_supported_says_so(cls: type[of.Solver], gradient: of.Gradient) -> None:
    """Gradients that need common steps, too many steps, and a state without samples are errors that say what to do."""
    with pytest.raises(of.GradientError, match="does not support per_sample=True; use Checkpointed or Backprop"):
        of.solve(Forced(), states(), [0.0, 1.0], solver=cls(per_sample=True), gradient=gradient)
    with pytest.raises(of.SolveError, match=r"max_steps = 4 steps did not take sample \d to its end: at t = "):
        of.solve(Forced(), states(), [0.0, 9.0], solver=cls(per_sample=True, max_steps=4), params=())
    with pytest.raises(of.StateError, match=r"per_sample=True needs a batch of states, \(B, …\) with B > 0; got"):
        of.solve(lambda t, y: -y, torch.tensor(1.0, dtype=D), [0.0, 9.0], solver=cls(per_sample=True), params=())
    with pytest.raises(of.SettingError, match="fixed steps, of step_size or num_steps, have no use for per_sample"):
        cls(per_sample=True, num_steps=4)
