"""Laws of per-sample stepping: every sample goes as if it were alone, at its own times, with exact gradients."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from choice import few
from equations import Coupled, column, loss_of, riccati, van_der_pol
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import Dopri5, Dopri8

D = torch.float64
TIMES = ["common", "own", "backwards"]
ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order]


class Forced(nn.Module):
    """A nonlinear field with parameters, which depends on time, and needs smaller steps for larger states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(3, 8, dtype=D), nn.Linear(8, 3, dtype=D)
        self.unused = nn.Parameter(torch.ones(2, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * column(t, y)) * self.outer(torch.tanh(self.inner(y))) + torch.sin(y * y.abs())


def states(count: int = 5) -> Tensor:
    """States of which each next one needs smaller steps."""
    y = torch.randn(count, 3, dtype=D, generator=torch.Generator().manual_seed(3))
    return y * torch.linspace(0.1, 4, count, dtype=D)[:, None]


def own_times(backwards: bool = False) -> Tensor:
    """(5, 4): of different beginnings, ends and spacings."""
    starts = torch.tensor([0.0, 0.2, -0.4, 1.0, 0.1], dtype=D)[:, None]
    gaps = torch.tensor([[0.3, 0.1, 0.9], [2.0, 0.01, 0.5], [0.2, 0.2, 0.2], [0.5, 1.4, 0.1], [1.0, 1.0, 2.0]], dtype=D)
    t = torch.cat((starts, starts + gaps.cumsum(1)), 1)
    return -t if backwards else t


def solver(tolerance: float = 1e-6, **options: float) -> of.Solver:
    return Dopri5(tolerance, tolerance, per_sample=True, **options)


def solved(field: object, y0: object, t: object, by: of.Solver | None = None) -> of.Solution:
    with torch.no_grad():
        return of.solve(field, y0, t, solver=by or solver())


@pytest.mark.parametrize(
    ("times", "name"),
    few(
        itertools.product(TIMES, ADAPTIVE),
        lambda case: TIMES.index(case[0]) == ADAPTIVE.index(case[1]) % 3,
    ),
)
def test_a_sample_goes_as_if_alone(name: str, times: str) -> None:
    """A batch's rows are what each sample's own solve gives to 1e-12, and the joint solver to 1e-10, in the same steps."""
    cls, field = look_up("solver", name), Forced()
    tolerance = 1e-6 if cls.order > 2 else 1e-3
    t = torch.linspace(0, 3, 40, dtype=D).expand(5, -1) if times == "common" else own_times(times == "backwards")
    batch = solved(field, states(), t[0] if times == "common" else t, cls(tolerance, tolerance, per_sample=True))
    rounding = 1e-12 if cls.order < 8 else 1e-8  # of its error estimates, which are tiny, and so of its steps' sizes
    for by, difference in (
        (cls(tolerance, tolerance, per_sample=True), rounding),
        (cls(tolerance, tolerance), max(1e-10, rounding)),
    ):
        alone = [solved(field, y[None], row, by) for y, row in zip(states(), t, strict=True)]
        assert torch.allclose(batch.y, torch.cat([one.y for one in alone], 1), rtol=0, atol=difference)
        assert_same_steps(batch.stats, [one.stats for one in alone])


def assert_same_steps(batch: of.Stats, stats: list[of.Stats]) -> None:
    """The batch took the steps that its samples took."""
    assert batch.accepted_per_sample.tolist() == [one.accepted for one in stats]
    assert batch.rejected_per_sample.tolist() == [one.rejected for one in stats]
    assert len({one.accepted for one in stats}) > 1
    assert batch.accepted + batch.rejected == max(one.accepted + one.rejected for one in stats)
    assert batch.smallest_step == pytest.approx(min(one.smallest_step for one in stats), rel=1e-5)
    assert batch.largest_step == pytest.approx(max(one.largest_step for one in stats), rel=1e-5)


def test_van_der_pol_takes_a_third_of_the_joint_steps() -> None:
    """From everywhere on the limit cycle, each sample takes at most a third of the steps that all take together.

    With μ = 25, as in torchode's paper (Lienen & Günnemann 2022).
    """
    start = solved(van_der_pol(25), torch.tensor([[2.0, 0.0]], dtype=D), [0.0, 60.0], Dopri5(1e-6, 1e-6)).y[-1]
    cycle = torch.linspace(0, 41, 48, dtype=D)
    y0 = solved(van_der_pol(25), start, cycle, Dopri5(1e-6, 1e-6)).y[:, 0]
    together = solved(van_der_pol(25), y0, [0.0, 41.0], Dopri5(1e-5, 1e-5)).stats
    apart = solved(van_der_pol(25), y0, [0.0, 41.0], solver(1e-5))
    assert 3 * int(apart.stats.accepted_per_sample.max()) <= together.accepted
    assert 3 * apart.stats.nfe_forward <= together.nfe_forward
    for number in (0, 20, 40):
        alone = solved(van_der_pol(25), y0[number : number + 1], [0.0, 41.0], solver(1e-5))
        assert torch.allclose(alone.y[:, 0], apart.y[:, number], rtol=0, atol=1e-9)  # the cycle amplifies rounding
        assert alone.stats.accepted == int(apart.stats.accepted_per_sample[number])


class Counting:
    """A field that notes how many samples it is called with.

    Args:
        context: (B, 3), added to the slope, if there is one.
    """

    def __init__(self, context: Tensor | None = None) -> None:
        self.sizes: list[int] = []
        self.field, self.context = Forced(), context

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(y))
        slope = self.field(t, y)
        return slope if self.context is None else slope + self.context


def test_finished_samples_are_left_out() -> None:
    """Where one sample goes on alone the field is called with it alone; the others' results stay what they were."""
    t = torch.tensor([[0.0, 0.1]] * 7 + [[0.0, 30.0]], dtype=D)
    field = Counting()
    y = solved(field, states(8), t).y
    assert field.sizes[0] == 8
    assert field.sizes[-1] == 1
    assert sum(field.sizes) < 1.5 * len(field.sizes) + 8 * 12
    assert torch.allclose(y[-1, :7], solved(field, states(8)[:7], [0.0, 0.1]).y[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [2, 8])
def test_fields_with_data_for_each_sample_see_the_whole_batch(batch: int) -> None:
    """A field that holds a context for every sample is never called with some of them, after one try."""
    t = torch.tensor([[0.0, 0.1]] * (batch - 1) + [[0.0, 3.0]], dtype=D)
    context = torch.linspace(-1, 1, batch * 3, dtype=D).view(batch, 3)
    field = Counting(context)
    y = solved(field, states(batch), t).y
    assert sum(size < batch for size in field.sizes) == 1
    for number in (0, batch - 1):
        alone = solved(Counting(context[number]), states(batch)[number : number + 1], t[number], Dopri5(1e-6, 1e-6)).y
        assert torch.allclose(y[:, number], alone[:, 0], rtol=0, atol=1e-12)


def test_dropout_stays_the_same() -> None:
    """A field that draws random numbers keeps them over the solve, since it is called with the whole batch."""
    torch.manual_seed(0)
    dropout, inner = nn.Dropout(0.5), Forced()
    masks: list[Tensor] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        mask = dropout(torch.ones_like(y))
        masks.append(mask)
        return inner(t, y) * mask

    solved(field, states(8), torch.tensor([[0.0, 0.1]] * 7 + [[0.0, 3.0]], dtype=D))
    whole = [mask for mask in masks if len(mask) == 8]
    assert len(whole) == len(masks) - 1
    assert all(torch.equal(mask, whole[0]) for mask in whole)


def gradients(
    field: nn.Module, leaves: Sequence[Tensor], t: Tensor, by: of.Solver, gradient: of.Gradient
) -> list[Tensor]:
    """∂L/∂y₀, ∂L/∂t and ∂L/∂θ."""
    y0 = tuple(leaves) if len(leaves) > 1 else leaves[0]
    loss = loss_of(of.solve(field, y0, t, solver=by, gradient=gradient))
    return list(torch.autograd.grad(loss, [*leaves, t, *field.parameters()], allow_unused=True))


def problem(kind: str, times: str) -> tuple[nn.Module, list[Tensor], Tensor]:
    leaves = [states()] if kind == "tensor" else [states(), torch.linspace(-1, 1, 5, dtype=D)]
    t = own_times(times == "backwards") if times != "common" else torch.tensor([0.0, 0.3, 0.4, 2.0], dtype=D)
    field = Forced() if kind == "tensor" else Coupled(Forced())
    return field, [leaf.requires_grad_() for leaf in leaves], t.requires_grad_()


@pytest.mark.parametrize(
    ("kind", "times"),
    few(
        itertools.product(["tensor", "tuple"], ["common", "own", "backwards"]),
        [("tensor", "common"), ("tuple", "own"), ("tensor", "backwards")],
    ),
)
def test_backprop_agrees_with_differences(kind: str, times: str) -> None:
    """∂L/∂y₀, ∂L/∂t and ∂L/∂θ by Backprop, along random directions, are a central difference to 1e-6."""
    field, leaves, t = problem(kind, times)
    by, eps = Dopri8(1e-12, 1e-12, max_step=0.1, per_sample=True), 1e-4
    found = gradients(field, leaves, t, by, of.Backprop())
    variables = [*leaves, t, *field.parameters()]
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(variable.shape, dtype=D, generator=generator) for variable in variables]
    losses: list[float] = []
    with torch.no_grad():
        for step in (eps, -2 * eps):
            for variable, direction in zip(variables, directions, strict=True):
                variable += step * direction
            losses.append(float(loss_of(solved(field, tuple(leaves) if len(leaves) > 1 else leaves[0], t, by))))
    products = [
        (gradient * direction).sum()
        for gradient, direction in zip(found, directions, strict=True)
        if gradient is not None
    ]
    assert len(products) == len(variables) - 1
    assert float(sum(products)) == pytest.approx((losses[0] - losses[1]) / (2 * eps), rel=1e-6)


@pytest.mark.parametrize(
    ("gradient", "name"),
    [
        (of.Checkpointed(), "Dopri5"),
        (of.Checkpointed(), "CashKarp45"),
        (of.Checkpointed(every=3), "Dopri5"),
        (of.Checkpointed(max_bytes=300), "CashKarp45"),
        (of.Checkpointed(per_stage=True), "Dopri5"),
    ],
    ids=["plain", "no fsal", "every", "max_bytes", "per_stage"],
)
@pytest.mark.parametrize(("kind", "times"), [("tensor", "common"), ("tuple", "own"), ("tensor", "backwards")])
def test_checkpointed_is_backprop(gradient: of.Gradient, name: str, kind: str, times: str) -> None:
    """At loose tolerance and with rejected steps, Checkpointed's gradients are Backprop's to 1e-12."""
    field, leaves, t = problem(kind, times)
    by = look_up("solver", name)(1e-4, 1e-4, first_step=1.0, per_sample=True)
    truth = gradients(field, leaves, t, by, of.Backprop())
    for value, true in zip(gradients(field, leaves, t, by, gradient), truth, strict=True):
        assert (value is None) == (true is None)
        assert true is None or float((value - true).norm() / true.norm()) < 1e-12


def test_gradients_are_each_samples_own() -> None:
    """∂L/∂y₀ of a row is what the sample's own solve gives, and ∂L/∂θ the sum over samples."""
    field, (y0,), t = problem("tensor", "own")
    weights = torch.linspace(-1, 2, 60, dtype=D).view(4, 5, 3)
    params = [param for name, param in field.named_parameters() if name != "unused"]

    def grads(rows: slice, by: of.Solver, times: Tensor) -> list[Tensor]:
        y = of.solve(field, y0[rows], times, solver=by, gradient=of.Backprop()).y
        return list(torch.autograd.grad((y.sin() * weights[:, rows]).sum(), [y0, *params]))

    together = grads(slice(0, 5), solver(), t.detach())
    alone = [grads(slice(i, i + 1), Dopri5(1e-6, 1e-6), t.detach()[i]) for i in range(5)]
    for number, value in enumerate(together):
        assert torch.allclose(value, torch.stack([one[number] for one in alone]).sum(0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=["backprop", "checkpointed"])
def test_a_failed_attempt_leaves_no_trace_in_the_gradient(gradient: of.Gradient) -> None:
    """An attempt that leaves the field's domain is rejected, and the gradient is finite and exact."""
    rate = torch.ones((), dtype=D, requires_grad=True)
    y0 = torch.tensor([[1.0], [4.0]], dtype=D, requires_grad=True)

    def root(t: Tensor, y: Tensor) -> Tensor:
        return -rate * y.sqrt()

    by = Dopri5(1e-9, 1e-9, first_step=3.0, per_sample=True)
    solution = of.solve(root, y0, [0.0, 1.0], solver=by, gradient=gradient, params=[rate])
    assert solution.stats.rejected_per_sample.tolist()[0] > 0
    wanted = (y0.detach().sqrt() - 0.5) ** 2
    assert torch.allclose(solution.y[-1], wanted, atol=1e-7)
    grad_y0, grad_rate = torch.autograd.grad(solution.y[-1].sum(), (y0, rate))
    assert torch.allclose(grad_y0, wanted.sqrt() / y0.detach().sqrt(), atol=1e-6)
    assert float(grad_rate) == pytest.approx(-float(wanted.sqrt().sum()), rel=1e-6)


@pytest.mark.parametrize("norm", ["seminorm", "full"])
def test_adjoint_goes_back_jointly(norm: str) -> None:
    """After a per-sample solve at common times, Adjoint's gradient is Backprop's to 1e-6."""
    field, _, t = problem("tensor", "common")
    leaves = [(0.2 * states()).requires_grad_()]  # near 0 the way back is stable, too
    truth = gradients(field, leaves, t, solver(1e-11), of.Backprop())
    for value, true in zip(gradients(field, leaves, t, solver(1e-11), of.Adjoint(norm=norm)), truth, strict=True):
        assert true is None or float((value - true).norm() / true.norm()) < 1e-6


def test_memory_of_checkpoints_grows_by_states() -> None:
    """Checkpointed keeps states and clocks, not graphs: its peak grows with the steps by far less than Backprop's."""
    field = Forced()
    y0 = torch.randn(2048, 3, dtype=D, requires_grad=True)

    def growth(gradient: of.Gradient) -> int:
        peaks: list[int] = []
        for steps in (4, 12):
            by = Dopri5(0.9, 1e6, first_step=1 / steps, max_step=1 / steps, per_sample=True)
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as recording:
                y = of.solve(field, y0, [0.0, 1.0], solver=by, gradient=gradient).y
                torch.autograd.grad(y[-1].sum(), y0)
            events = sorted(recording.profiler.kineto_results.events(), key=lambda event: event.start_ns())
            peaks.append(max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]")))
        return peaks[1] - peaks[0]

    state = y0.numel() * y0.element_size()
    kept = growth(of.Checkpointed())
    assert kept < 8 * 2.5 * state  # the state, the clock and the step size of 3 numbers
    assert kept < 0.1 * growth(of.Backprop())


@pytest.mark.parametrize("divergence", [None, of.Exact(), of.Hutchinson()], ids=["none", "exact", "hutchinson"])
def test_flows_with_penalties_and_densities(divergence: of.Divergence | None) -> None:
    """Trajectories with penalties, log-determinants and a context agree with a tight joint solve of the same flow."""
    torch.manual_seed(0)
    field = look_up("dynamics", "MLP")(3, hidden=(16,)).double()
    context = torch.randn(6, 1, dtype=D)
    found: list[Tensor] = []
    for by in (solver(1e-9), Dopri5(1e-10, 1e-10)):
        torch.manual_seed(1)
        flow = of.Flow(field, by, options=of.FlowOptions(regularizers=[of.Kinetic(0.1), of.JacobianNorm(0.1)]))
        y = flow.trajectory(
            torch.ones(6, 2, dtype=D) * context, [0.0, 0.4, 1.0], divergence=divergence, context=context
        ).y
        leaves = y if isinstance(y, tuple) else (y,)
        loss = sum((leaf[-1].sin().sum() for leaf in leaves), sum(flow.penalties.values()))
        found.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(field.parameters()))]))
        found.extend(leaves)
    half = len(found) // 2
    for one, other in zip(found[:half], found[half:], strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7)


def test_times_of_each_sample_through_a_flow() -> None:
    """`Flow.trajectory` takes (B, T), and Solution says at which times its rows are."""
    field = look_up("dynamics", "MLP")(3).double()
    t = own_times()
    solution = of.Flow(field, solver(), options=of.FlowOptions(augment=1)).trajectory(states()[:, :2], t)
    assert solution.y.shape == (4, 5, 3)
    assert torch.equal(solution.t, t)
    alone = of.Flow(field, Dopri5(1e-6, 1e-6), options=of.FlowOptions(augment=1)).trajectory(states()[2:3, :2], t[2]).y
    assert torch.allclose(solution.y[:, 2:3], alone, rtol=0, atol=1e-12)


def test_states_of_any_shape() -> None:
    """Each sample may be a number, or an image; in float32 too, and a batch of one."""
    for shape in ((4,), (4, 2, 3, 2), (1, 2)):
        y0 = torch.linspace(0.5, 2, math.prod(shape)).view(shape)
        y = solved(lambda t, y: -y, y0, torch.linspace(0, 1, 7), solver(1e-6)).y
        assert y.dtype == torch.float32
        exact = y0 * torch.exp(-torch.linspace(0, 1, 7)).view(-1, *(1,) * y0.dim())
        assert torch.allclose(y, exact, atol=1e-5)


def test_many_output_times_cost_no_evaluations() -> None:
    """A thousand times for each sample take the calls of two, and are within the tolerance of the closed solution."""
    y0 = torch.linspace(0.5, 2, 6, dtype=D)[:, None]
    t = torch.linspace(0, 2, 1000, dtype=D)
    many = solved(riccati, y0, t, solver(1e-8))
    few = solved(riccati, y0, t[[0, -1]], solver(1e-8))
    assert many.stats.nfe_forward == few.stats.nfe_forward
    assert torch.equal(many.y[-1], few.y[-1])
    assert torch.allclose(many.y, 1 / (1 / y0 + (t**2)[:, None, None]), rtol=0, atol=1e-6)


def spoiled(t: Tensor, y: Tensor) -> Tensor:
    return torch.where((y > 5) & (t[:, None] > 0.5), torch.nan, y)


def by_entries(t: Tensor, y: Tensor) -> Tensor:
    return torch.cos(t) * y


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: solved(lambda t, y: y / (y - y[2]).abs().sum(1, True), states(), [0.0, 1.0]),
            of.SolveError,
            "the field is not finite at the start of sample 2, t = 0",
        ),
        (
            lambda: solved(Forced(), states().index_fill(0, torch.tensor(3), math.nan), [0.0, 1.0]),
            of.SolveError,
            "the initial state is not finite at the start of sample 3",
        ),
        (
            lambda: solved(spoiled, torch.tensor([[1.0], [4.0], [2.0]]), [0.0, 1.0]),
            of.SolveError,
            r"the step size of sample 1 fell to .* at t = 0\.5.*: beyond there the state or the field is not finite",
        ),
        (
            lambda: solved(
                lambda t, y: torch.where(t > 0, torch.nan, y), torch.ones(3), [0.0, 1.0], solver(first_step=0.1)
            ),
            of.SolveError,
            r"the step size of sample 0 fell to .* at t = 0, after .*: beyond there",
        ),
        (
            lambda: solved(Forced(), states(), [0.0, 1.0], solver(min_step=0.5)),
            of.SolveError,
            r"the step size of sample \d fell to",
        ),
        (
            lambda: solved(van_der_pol(25), torch.tensor([[0.0, 0.0], [2.0, 0.0]]), [0.0, 41.0], solver(max_steps=50)),
            of.SolveError,
            "max_steps = 50 steps did not take sample 1 to its end",
        ),
        (
            lambda: solved(Forced(), states()[0, 0], [0.0, 1.0]),
            of.StateError,
            r"needs a batch of states.*got shape \(\)",
        ),
        (
            lambda: solved(by_entries, states(3), [0.0, 1.0]),
            of.StateError,
            r"t of shape \(3,\), for times of the entries of the last dimension of y, \(3, 3\).*t.view\(-1, 1\)",
        ),
        (
            lambda: solved(lambda t, y: y.sum(1, keepdim=True), states(), [0.0, 1.0]),
            of.StateError,
            r"the field returned shape \(5, 1\), called with t of shape \(5,\), where the state has \(5, 3\)",
        ),
        (
            lambda: solved(lambda t, y: y, (states(), torch.ones(4, dtype=D)), [0.0, 1.0]),
            of.StateError,
            r"the samples along dimension 0 of all tensors; got shapes \(5, 3\), \(4,\)",
        ),
        (
            lambda: solved(Forced(), states(), own_times(), Dopri5()),
            of.SettingError,
            r"t has the shape \(5, 4\), times of each sample's own, but Dopri5 takes the steps of all samples together",
        ),
        (
            lambda: solved(Forced(), states(3), own_times()),
            of.SettingError,
            r"must have a row for each of the 3 samples; got \(5, 4\)",
        ),
        (
            lambda: solved(Forced(), states(), own_times() * torch.tensor([1, 1, -1, 1, 1])[:, None]),
            of.SettingError,
            r"in all rows in the same direction; row 2 goes 0\.4, 0\.2",
        ),
        (lambda: Dopri5(compile=True, per_sample=True), of.SettingError, "per_sample needs compile=False"),
        (
            lambda: of.solve(Forced(), states(), own_times(), solver=solver(), gradient=of.Adjoint()),
            of.GradientError,
            r"^Adjoint does not support times of each sample's own, \(B, T\); use Checkpointed or Backprop$",
        ),
        (
            lambda: of.solve(Forced(), states(), [0.0, 1.0], solver=solver(), gradient=of.InterpolatedAdjoint()),
            of.GradientError,
            "InterpolatedAdjoint does not support per_sample=True",
        ),
        (
            lambda: of.solve(Forced(), states(), [0.0, 1.0], solver=solver(), gradient=of.Reversible()),
            of.GradientError,
            "Reversible does not support per_sample=True",
        ),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    """What cannot be says which sample, or what came, and what to do."""
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()])
def test_a_failure_keeps_what_is_known(gradient: of.Gradient) -> None:
    """The error's partial solution has each sample as far as it came, the finished ones, left out by then, in whole."""
    y0 = torch.tensor([[0.1], [1.0], [0.2], [-1.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.4, 0.7, 2.0], dtype=torch.float64)
    with pytest.raises(of.SolveError, match="the step size of sample 1 fell") as caught:
        of.solve(lambda t, y: y**2, y0, t, solver=Dopri5(1e-9, 1e-9, per_sample=True), gradient=gradient, params=())
    partial = caught.value.partial
    assert isinstance(partial, of.Solution)
    assert partial.t.shape == (5, 4)
    assert torch.equal(partial.t[[0, 2, 3, 4]], t.expand(4, -1))
    assert torch.equal(partial.t[1, :3], t[:3])
    assert 1 - 1e-6 < partial.t[1, 3].item() < 1
    exact = y0.T / (1 - y0.T * partial.t.T)
    torch.testing.assert_close(partial.y[:3, :, 0], exact[:3], rtol=1e-7, atol=0)
    torch.testing.assert_close(partial.y[3, [0, 2, 3, 4], 0], exact[3, [0, 2, 3, 4]], rtol=1e-7, atol=0)
    assert partial.y[3, 1, 0].item() > 1e6
    assert partial.stats.accepted_per_sample[1] == partial.stats.accepted


def test_a_field_that_does_not_take_times_of_samples_is_told() -> None:
    """An error from inside the field carries a note with the shapes that it was called with."""
    with pytest.raises(RuntimeError) as caught:
        solved(by_entries, states(), [0.0, 1.0])
    assert "t of shape (5,), y of shape (5, 3)" in caught.value.__notes__[0]


def test_it_is_an_option_of_the_spec() -> None:
    """`per_sample` is remembered and rebuilt like any option."""
    assert Dopri8(per_sample=True).spec["init_args"]["per_sample"] is True


def test_step_sizes_are_those_of_all_samples() -> None:
    """The smallest and the largest step are those of any sample alone, also while others take larger ones."""
    y, t = torch.tensor([[1.0, 0.5], [1.0, 200.0]], dtype=D), torch.tensor([[0.0, 4.0], [0.0, 0.1]], dtype=D)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-y[:, 1] * y[:, 0], 0 * y[:, 0]), 1)  # decay at a rate of each sample's own

    whole = solved(field, y, t).stats
    alone = [solved(field, y[[number]], t[[number]]).stats for number in range(2)]
    assert whole.smallest_step == pytest.approx(min(each.smallest_step for each in alone), rel=1e-9)
    assert whole.largest_step == pytest.approx(max(each.largest_step for each in alone), rel=1e-9)
    assert alone[1].largest_step < alone[0].smallest_step


def test_stiffness_is_that_of_each_sample() -> None:
    """h|λ| of a sample is that of its solve alone: near the bound of stability, 3.3, for a fast decay, small for a slow one."""
    y, by = torch.tensor([[1.0, 0.5], [1.0, 200.0]], dtype=D), solver(1e-4)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-y[:, 1] * (y[:, 0] - torch.cos(t)), 0 * y[:, 0]), 1)

    found = solved(field, y, [0.0, 20.0], by).stats.stiffness_per_sample
    assert found is not None
    for number in range(2):
        alone = solved(field, y[[number]], [0.0, 20.0], Dopri5(1e-4, 1e-4)).stats.stiffness
        assert float(found[number]) == pytest.approx(alone, rel=0.15)  # at every tenth attempt, not every tenth step
    assert float(found[0]) < 1 < 2.5 < float(found[1]) < 3.6
