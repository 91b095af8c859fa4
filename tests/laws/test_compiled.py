"""Laws of compiled steps: the results are those of steps that run as they are, whatever the compiler makes of them."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.engine.step.compiled import CompiledStages
from odeflow.plugin.registry import plugins
from odeflow_dynamics import MLP, ConvNet
from odeflow_solvers import RK4, Dopri5, Euler, HeunEuler, Kvaerno5

pytestmark = pytest.mark.filterwarnings(  # torch's own, while it compiles
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute of a Tensor"
)
GRADIENTS = plugins("gradient")
SOLVERS = {
    "RK4": partial(RK4, num_steps=3),
    "Dopri5": partial(Dopri5, rtol=1e-5, atol=1e-6),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiles without the slow back end, and notes each graph that is compiled."""
    graphs: list[str] = []
    original = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        from torch._dynamo.backends.debugging import aot_eager

        graphs.append(str(graph.graph))
        return aot_eager(graph, inputs)

    torch.compiler.reset()  # torch keeps what it compiled by code object, whatever the module
    monkeypatch.setattr(torch, "compile", partial(original, backend=backend))
    return graphs


def solved(solver: of.Solver, gradient: of.Gradient, field: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
    """(y, ∂L/∂y₀, ∂L/∂θ …)."""
    leaf = y0.clone().requires_grad_()
    y = of.solve(field, leaf, t, solver=solver, gradient=gradient).y
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), (leaf, *field.parameters()))]


def same(compiled: list[Tensor], plain: list[Tensor]) -> bool:
    return all(torch.allclose(one, other, rtol=1e-10, atol=1e-10) for one, other in zip(compiled, plain, strict=True))


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        *(("RK4", gradient) for gradient in (of.Backprop(), of.Checkpointed(), of.Adjoint(), of.InterpolatedAdjoint())),
        ("Dopri5", of.Backprop()),
        ("Dopri5", of.Checkpointed()),
    ],
)
def test_values_and_gradients_are_those_of_plain_steps(calls: list[str], name: str, gradient: of.Gradient) -> None:
    """With `compile=True` states and gradients agree with those without, at inner times too, to rounding."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 0.35, 1.0], dtype=torch.float64)
    plain = solved(SOLVERS[name](), gradient, field, y0, t)
    assert same(solved(SOLVERS[name](compile=True), gradient, field, y0, t), plain)
    assert calls


def test_the_real_compiler() -> None:
    """So they do with the compiler that users have."""
    torch.manual_seed(0)
    field, y0 = MLP(2, hidden=(8,)).double(), torch.randn(4, 2, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    plain = solved(HeunEuler(), of.Checkpointed(), field, y0, t)  # of all that estimate an error the soonest compiled
    assert same(solved(HeunEuler(compile=True), of.Checkpointed(), field, y0, t), plain)


def test_statistics_are_those_of_plain_steps(calls: list[str]) -> None:
    """Evaluations and steps are counted alike, forwards and backwards."""
    torch.manual_seed(0)
    field, y0 = MLP(3).double(), torch.randn(4, 3, dtype=torch.float64)
    stats: list[of.Stats | None] = []
    for compiled in (False, True):
        flow = of.Flow(field, Dopri5(compile=compiled), of.Checkpointed())
        y = flow(y0)
        y.sum().backward()
        stats.append(flow.stats)
    plain, compiled_stats = stats
    assert plain is not None
    assert compiled_stats is not None
    assert compiled_stats.nfe_forward == plain.nfe_forward
    assert compiled_stats.nfe_backward == plain.nfe_backward
    assert compiled_stats.accepted == plain.accepted


def test_a_step_is_compiled_once(calls: list[str]) -> None:
    """Further solves over the same field, of other spans and tolerances' steps, compile nothing more."""
    field, solver, y0 = MLP(3), Dopri5(compile=True), torch.randn(4, 3)
    flow = of.Flow(field, solver, of.Checkpointed())
    y = flow(y0)
    y.sum().backward()
    count = len(calls)
    for _ in range(3):
        y = flow(y0 + torch.randn(4, 3))
        y.sum().backward()
    assert len(calls) == count


def test_many_fields_are_compiled_side_by_side(calls: list[str]) -> None:
    """The compiler's limit of recompilations does not count fields together, and old fields make room."""
    solver, y0 = Euler(num_steps=1, compile=True), torch.randn(2, 3)
    for _ in range(10):
        field = MLP(3, hidden=(4,))
        with torch.no_grad():
            assert torch.allclose(of.Flow(field, solver)(y0), of.Flow(field, Euler(num_steps=1))(y0), atol=1e-6)
    assert len(calls) == 10
    assert len(solver.compiled.kept) == 8


def test_tuple_states_and_images(calls: list[str]) -> None:
    """A state of several tensors, and one of images, run compiled too, once for all solves."""

    class Pendulum(nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -y[0].sin()

    state = (torch.randn(4, 1), torch.randn(4, 1))
    flow, plain = (of.Flow(Pendulum(), Dopri5(compile=compiled)) for compiled in (True, False))
    with torch.no_grad():
        for one, other in zip(flow(state), plain(state), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
        count = len(calls)
        flow(state)
        assert len(calls) == count
        field, image = ConvNet(4), torch.randn(2, 4, 5, 5)
        compiled = of.Flow(field, RK4(num_steps=2, compile=True))(image)
        assert torch.allclose(compiled, of.Flow(field, RK4(num_steps=2))(image), atol=1e-5)


class Branching(of.Dynamics):
    """A field whose way depends on the state's values, which no compiler can follow."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.weight * y if float(y.detach().sum()) > -1e9 else y


def test_what_cannot_be_compiled_runs_as_it_is() -> None:
    """A field that defeats the compiler gives the plain results, and one warning says why."""
    field, y0 = Branching(), torch.randn(4, 3)
    flow = of.Flow(field, RK4(num_steps=3, compile=True))
    with pytest.warns(UserWarning, match="compile=True: steps over Branching run as they are, not compiled: ") as seen:
        found = flow(y0)
    assert len(seen) == 1
    assert torch.allclose(flow(y0), found)
    assert torch.allclose(found, of.Flow(field, RK4(num_steps=3))(y0), atol=1e-6)


@pytest.mark.filterwarnings("default:compile=True")
def test_functions_run_as_they_are(calls: list[str]) -> None:
    """A function, which may be another one in the next solve, is not compiled, and a warning says so."""
    y0, solver = torch.randn(4, 3), RK4(num_steps=3, compile=True)
    with pytest.warns(UserWarning, match="steps over .*<lambda> run as they are, not compiled: only modules"):
        found = of.solve(lambda t, y: -y, y0, (0.0, 1.0), solver=solver, gradient=of.Backprop()).y
    assert torch.allclose(found[-1], y0 * torch.tensor(-1.0).exp(), atol=1e-2)
    assert not calls


def test_a_field_that_draws_numbers_runs_as_it_is(calls: list[str]) -> None:
    """Dropout in training keeps one mask a solve, and its gradient is the plain one."""
    torch.manual_seed(0)
    field = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    y0 = torch.randn(4, 3)

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return field(y)

    found: list[Tensor] = []
    for compiled in (False, True):
        torch.manual_seed(1)
        solver = Dopri5(compile=compiled)
        y = of.solve(slope, y0, (0.0, 1.0), solver=solver, params=field.parameters()).y
        found += [y.detach(), torch.autograd.grad(y.square().sum(), field[0].weight)[0]]
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert torch.allclose(found[1], found[3], atol=1e-4)
    assert not calls


def test_the_error_of_a_field_is_its_own(calls: list[str]) -> None:
    """What the field refuses is not taken for a failure of the compiler."""
    with pytest.raises(of.StateError, match="takes states"):
        of.Flow(MLP(3), RK4(num_steps=1, compile=True))(torch.randn(4, 2))


def test_solvers_with_compiled_steps_are_copied_and_stored(calls: list[str]) -> None:
    """A copy, and one from a pickle, compiles for itself; the spec says that it shall."""
    solver = Dopri5(compile=True)
    of.Flow(MLP(3), solver)(torch.randn(2, 3))
    assert solver.compiled.kept
    for other in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert other.compiled is not None
        assert not other.compiled.kept
    assert solver.spec["init_args"]["compile"] is True


def test_the_last_slope_of_a_method_without_fsal(calls: list[str]) -> None:
    """Dense output asks for the slope at the step's end, which such a method evaluates then."""
    stages = CompiledStages(RK4.tableau, lambda t, y: y, RK4(num_steps=1, compile=True).compiled)
    y = torch.ones(1, 1, dtype=torch.float64)
    stages.step(0.0, 0.1, y)
    assert stages.evaluations == 4
    assert torch.allclose(stages.dense([0.5]), torch.exp(torch.tensor(0.05)).double(), atol=1e-5)
    assert stages.evaluations == 5


AROUND = [
    *((RK4(num_steps=2), GRADIENTS[name]()) for name in GRADIENTS),
    (Dopri5(1e-4, 1e-4), of.Checkpointed()),
    (Dopri5(1e-4, 1e-4, per_sample=True), of.Checkpointed()),
    (Kvaerno5(1e-3, 1e-3), of.Checkpointed()),
    (Euler(num_steps=2, compile=True), of.Checkpointed()),
]


@pytest.mark.parametrize(("solver", "gradient"), AROUND, ids=lambda each: type(each).__name__)
@pytest.mark.usefixtures("calls")
def test_a_flow_inside_of_what_is_compiled(solver: of.Solver, gradient: of.Gradient) -> None:
    """Compiled, a flow, and one whose field was compiled, has the values and gradients that it has as it is."""
    torch.manual_seed(0)
    field, y0 = MLP(2), torch.randn(3, 2)
    copied = copy.deepcopy(field)
    copied.compile(backend="aot_eager")
    flow = of.Flow(field, solver, gradient)
    results: list[list[Tensor]] = []
    fields: list[tuple[nn.Module, nn.Module]] = [
        (flow, field),
        (torch.compile(flow), field),
        (of.Flow(torch.compile(field), solver, gradient), field),
        (of.Flow(copied, solver, gradient), copied),
    ]
    for module, inner in fields:
        leaf = y0.clone().requires_grad_()
        y = module(leaf)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [leaf, *inner.parameters()])])
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("calls")
def test_dense_output_events_and_densities_inside_of_what_is_compiled() -> None:
    """A compiled function that solves, asks for other times, for events, and for densities, gives what it gives plain."""
    torch.manual_seed(0)
    flow, y0 = of.Flow(MLP(2), Dopri5(1e-4, 1e-4)), torch.randn(3, 2)
    density = of.CNF(flow, (2,))

    def asked(y: Tensor) -> list[Tensor]:
        solution = flow.trajectory(y, [0.0, 1.0], dense=True)
        event = of.Event(lambda t, y: t - 0.5)
        stopped = of.solve(flow.dynamics, y, [0.0, 1.0], solver=flow.solver, event=event)
        return [solution(0.3), solution(torch.tensor([0.1, 0.2])), stopped.t, stopped.y, density().log_prob(y)]

    torch.testing.assert_close(torch.compile(asked)(y0), asked(y0))
