"""Laws of compiled solves: values and gradients are those of uncompiled solves, whatever happens to the field."""

import copy
import math
import pickle
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch._inductor
from torch import Tensor, nn
from torch.autograd import forward_ad

import odeflow as of
from choice import few, pairwise
from odeflow.engine.equation.parts import parts_of
from odeflow.engine.loop import compiled as programs
from odeflow.plugin.registry import plugins
from odeflow_dynamics import MLP, ConvNet
from odeflow_solvers import RK4, Dopri5, Euler, Fehlberg45, HeunEuler, Kvaerno5

pytestmark = pytest.mark.filterwarnings(  # torch's own, while it compiles
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute of a Tensor"
)
GRADIENTS = plugins("gradient")
SOLVERS = {
    "RK4": partial(RK4, num_steps=3),
    "Dopri5": partial(Dopri5, rtol=1e-5, atol=1e-6),
    "fixed Dopri5": partial(Dopri5, num_steps=5),
    "Fehlberg45": partial(Fehlberg45, rtol=1e-4, atol=1e-5),
}


WAYS = ["loops", "passes"]


@pytest.fixture(params=few(WAYS, ["loops"]))
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs what would be compiled as it is, which is fast, and notes it: loops, or as on a GPU their passes."""
    graphs: list[str] = []
    monkeypatch.setattr(programs, "replays", lambda device: request.param == "passes")

    def kept(function: programs.Code, inputs: tuple[Tensor, ...]) -> programs.Code:
        name = getattr(function, "func", function).__name__
        graphs.extend([name] if name != "begin" else ())  # for each `begin` there is an `attempt`
        return as_it_is(function, inputs)

    monkeypatch.setattr(programs, "_compiled", kept)
    return graphs


def as_it_is(function: programs.Code, inputs: tuple[Tensor, ...]) -> programs.Code:
    """What would be compiled, traced alone."""
    with torch.no_grad():
        return programs.traced(function, *inputs)


@pytest.fixture
def without_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles without the slow back end."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor], **options: object) -> Callable[..., object]:
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    torch.compiler.reset()  # torch keeps what it compiled by code object, whatever the module
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(programs, "_compiled", as_it_is)


def solved(solver: of.Solver, gradient: of.Gradient, field: nn.Module, y0: Tensor, t: Tensor) -> list[Tensor]:
    """(y, ∂L/∂y₀, ∂L/∂θ …)."""
    leaf = y0.clone().requires_grad_()
    y = of.solve(field, leaf, t, solver=solver, gradient=gradient).y
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), (leaf, *field.parameters()))]


def same(compiled: list[Tensor], plain: list[Tensor]) -> bool:
    return all(torch.allclose(one, other, rtol=1e-10, atol=1e-10) for one, other in zip(compiled, plain, strict=True))


TIMES = {"ends": (0.0, 1.0), "inner": (0.0, 0.3, 0.35, 1.0), "backwards": (1.0, 0.2)}


@pytest.mark.parametrize(
    ("calls", "name", "kind", "times"),
    pairwise(WAYS, [*SOLVERS], ["Backprop", "Checkpointed", "Adjoint"], [*TIMES]),
    indirect=["calls"],
)
def test_values_and_gradients_are_those_of_uncompiled_solves(
    calls: list[str], name: str, kind: str, times: str
) -> None:
    """With `compile=True` states and gradients agree with those without, at inner times too, to rounding."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    t, gradient = torch.tensor(TIMES[times], dtype=torch.float64), GRADIENTS[kind]()
    plain = solved(SOLVERS[name](), gradient, field, y0, t)
    assert same(solved(SOLVERS[name](compile=True), gradient, field, y0, t), plain)
    assert calls


@pytest.mark.parametrize(
    "options",
    [
        {"controller": "PI"},
        {"controller": "PID"},
        {"norm": "max_sample"},
        {"error_per": "span"},
        {"first_step": 1e-3, "max_step": 0.04},
    ],
    ids=str,
)
def test_every_step_size_control(calls: list[str], options: dict[str, object]) -> None:
    """The steps are those of uncompiled solves, accepted and rejected, under every option of step size control."""
    torch.manual_seed(0)
    field, y0 = Vibration(), torch.randn(4, 2, dtype=torch.float64)
    with torch.no_grad():
        plain, found = (
            of.solve(field, y0, (0.0, 2.0), solver=Dopri5(1e-4, 1e-6, compile=compiled, **options))
            for compiled in (False, True)
        )
    assert same([found.y], [plain.y])
    assert found.stats.accepted == plain.stats.accepted > 10
    assert found.stats.rejected == plain.stats.rejected
    assert found.stats.stiffness == pytest.approx(plain.stats.stiffness)
    for name in ("smallest_step", "largest_step", "suggested_step"):
        assert getattr(found.stats, name) == pytest.approx(getattr(plain.stats, name))
    assert calls


class Vibration(nn.Module):
    """A field that slows down and speeds up, so that steps are rejected."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        rate = 1 + 30 * torch.exp(-200 * (t - 1).square())
        return rate * torch.stack((y[:, 1], -y[:, 0]), 1)


def test_many_steps(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A solve with more steps than a tape has room for goes on with the next, and so does its backward pass."""
    monkeypatch.setattr(programs, "ROOM", 4)
    monkeypatch.setattr(programs, "LEAST", 4)
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    t = torch.linspace(0, 1, 8, dtype=torch.float64)
    plain = solved(Dopri5(1e-8, 1e-10), of.Checkpointed(), field, y0, t)
    assert same(solved(Dopri5(1e-8, 1e-10, compile=True), of.Checkpointed(), field, y0, t), plain)


@pytest.mark.parametrize(
    ("calls", "name"),
    few(
        [(way, name) for name in SOLVERS for way in WAYS],
        [("loops", "RK4"), ("passes", "Dopri5"), ("passes", "fixed Dopri5"), ("loops", "Fehlberg45")],
    ),
    indirect=["calls"],
)
def test_dense_output(calls: list[str], name: str) -> None:
    """Dense output agrees, and so do its gradients."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for compiled in (False, True):
        solution = of.solve(field, y0, (0.0, 0.4, 1.0), solver=SOLVERS[name](compile=compiled), dense=True)
        y = solution(torch.tensor([0.0, 0.17, 0.5, 1.0], dtype=torch.float64))
        found.append([solution.y, y, *torch.autograd.grad(y.sin().sum(), [*field.parameters()])])
    assert same(*found)
    assert calls


@pytest.mark.filterwarnings("default:compile=True")
def test_second_derivatives(calls: list[str]) -> None:
    """`Backprop` solves again, uncompiled, when second derivatives are asked for."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for compiled in (False, True):
        leaf = y0.clone().requires_grad_()
        y = of.solve(field, leaf, (0.0, 1.0), solver=SOLVERS["RK4"](compile=compiled), gradient=of.Backprop()).y
        (first,) = torch.autograd.grad(y.sin().sum(), leaf, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), [leaf, *field.parameters()])])
    assert same(*found)
    assert calls


@pytest.mark.parametrize(
    ("calls", "kind"),
    few(
        [(way, kind) for kind in (of.Exact, of.Hutchinson, of.HutchPlusPlus) for way in WAYS],
        [("loops", of.Exact), ("passes", of.Hutchinson), ("loops", of.HutchPlusPlus)],
    ),
    indirect=["calls"],
)
def test_densities(calls: list[str], kind: type[of.Divergence]) -> None:
    """Fields with autograd inside compile too: the derivative is that of the step, not of a graph of the field.

    A compiled graph of such a field contains its inner derivatives as values that depend on nothing.
    """
    torch.manual_seed(0)
    field, x = MLP(2, hidden=(8,)).double(), torch.randn(5, 2, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for compiled in (False, True):
        flow = of.Flow(
            field, HeunEuler(1e-2, 1e-3, compile=compiled), options=of.FlowOptions(regularizers=[of.Kinetic(0.1)])
        )
        density = of.CNF(flow, (2,), divergence=kind())
        for seed in range(2):  # the second time with other random numbers
            torch.manual_seed(seed)
            loss = -density().log_prob(x).mean() + sum(flow.penalties.values())
            found.append([loss.detach(), *torch.autograd.grad(loss, [*field.parameters()])])
    assert same(found[2], found[0])
    assert same(found[3], found[1])
    assert calls


def test_external_inputs(calls: list[str]) -> None:
    """A field of a path compiles: its tensors are inputs of the program, with gradients."""
    torch.manual_seed(0)
    flows = [of.Flow(MLP(3, hidden=(8,)).double(), RK4(num_steps=4, compile=compiled)) for compiled in (False, True)]
    flows[1].load_state_dict(flows[0].state_dict())
    for seed in (1, 2):
        torch.manual_seed(seed)
        y0, knots = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 5, 1, dtype=torch.float64)
        found: list[list[Tensor]] = []
        for flow in flows:
            x = knots.clone().requires_grad_()
            path = of.paths.NaturalCubic(torch.linspace(0, 1, 5, dtype=torch.float64), x, outside="extrapolate")
            y = flow(y0, context=path)
            found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *flow.parameters()])])
        assert same(found[1], found[0])
    assert len(calls) == 2


class Gain:
    """An object without `__dict__`."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def times(self, x: Tensor) -> Tensor:
        """A bound method that reads its object."""
        return self.value * x


def scaled(factors: list[float], x: Tensor) -> Tensor:
    """A function for partial application."""
    return factors[0] * x


class Scaled(nn.Module):
    """A field with everything that may change between two solves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
        self.register_buffer("shift", torch.zeros(3))
        self.gain, self.factors, self.table = 1.0, [1.0], torch.ones(3, dtype=torch.float64)
        self.options, self.sign = SimpleNamespace(slope=1.0), 0.0
        self.times, self.scaled, self.queue = Gain(1.0).times, partial(scaled, [1.0]), deque([1.0])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value = self.net(y) * self.gain * self.factors[0] * self.options.slope * self.table.to(y) + self.shift
        value = self.times(self.scaled(value)) * self.queue[0] * math.copysign(1, self.sign)
        return value if self.training else 0.5 * value


def changed(name: str, field: Scaled) -> None:
    """Changes the field."""
    with torch.no_grad():
        if name == "weights in place":
            field.net[0].weight.mul_(1.5)
        elif name == "state dict":
            field.load_state_dict({key: 1.1 * value for key, value in field.state_dict().items()})
        elif name == "parameter":
            field.net[0].weight = nn.Parameter(torch.randn(8, 3, dtype=torch.float64))
        elif name == "layer":
            field.net[2] = nn.Linear(8, 3).double()
        elif name == "activation":
            field.net[1] = nn.Sigmoid()
        elif name == "mode":
            field.eval()
        elif name == "attribute":
            field.gain = 2.0
        elif name == "list":
            field.factors[0] = 3.0
        elif name == "object":
            field.options.slope = 0.3
        elif name == "buffer":
            field.shift.fill_(0.3)
        elif name == "plain tensor in place":
            field.table.mul_(2)
        elif name == "plain tensor":
            field.table = torch.full((3,), 0.7, dtype=torch.float64)
        elif name == "plain tensor of another type":
            field.table.data = torch.full((3,), 0.7)
        elif name == "object of a method":
            field.times.__self__.value = 0.3
        elif name == "argument":
            field.scaled.args[0][0] = 0.3
        elif name == "queue":
            field.queue[0] = 0.3
        elif name == "sign of zero":
            field.sign = -0.0
        elif name == "frozen":
            field.net[0].requires_grad_(False)
        elif name == "layout":
            field.net[0].weight.data = field.net[0].weight.t().contiguous().t()


CHANGES = ("weights in place", "state dict", "parameter", "layer", "activation", "mode", "attribute", "list", "buffer")
CHANGES += ("plain tensor in place", "plain tensor", "frozen", "layout", "object", "plain tensor of another type")
CHANGES += ("object of a method", "argument", "queue", "sign of zero")
UNCOMPILED = ("weights in place", "state dict", "parameter", "layer", "buffer", "plain tensor in place")
"""Those that keep the form of the field."""


@pytest.mark.parametrize(
    ("calls", "name"),
    few(
        [(way, name) for name in CHANGES for way in WAYS],
        lambda case: case[0] == "loops" or case[1] in ("weights in place", "attribute", "layout"),
    ),
    indirect=["calls"],
)
def test_a_changed_field(calls: list[str], name: str) -> None:
    """Whatever of a field is changed, the next solve knows it."""
    torch.manual_seed(0)
    field, y0 = Scaled().double(), torch.randn(4, 3, dtype=torch.float64)
    plain, compiled = Euler(num_steps=3), Euler(num_steps=3, compile=True)

    def values(solver: of.Solver) -> list[Tensor]:
        leaf = y0.clone().requires_grad_()
        y = of.solve(field, leaf, (0.0, 1.0), solver=solver).y
        wanted = [leaf, *(param for param in field.parameters() if param.requires_grad)]
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), wanted)]

    before = values(compiled)
    assert same(before, values(plain))
    count = len(calls)
    changed(name, field)
    after = values(compiled)
    assert same(after, values(plain))
    assert (name in ("frozen", "layout")) == torch.allclose(after[0], before[0])
    assert (len(calls) > count) == (name not in UNCOMPILED)


def test_other_numbers_compile_nothing(calls: list[str]) -> None:
    """Other states, times, tolerances and weights, another field of the same form, a copy: all use the same program."""
    solver, y0 = HeunEuler(1e-3, 1e-3, compile=True), torch.randn(4, 3)
    flow = of.Flow(MLP(3), solver, of.Checkpointed())
    flow(y0).sum().backward()
    count = len(calls)
    assert count == 2
    for other in (
        flow,
        copy.copy(flow),
        of.Flow(MLP(3), solver.with_control(HeunEuler(1e-3, 1e-3, first_step=0.1).control)),
    ):
        other(y0 + torch.randn(4, 3)).sum().backward()
        other.trajectory(y0, (0.3, 0.9)).y.sum().backward()
    assert len(calls) == count
    flow(torch.randn(5, 3)).sum().backward()
    assert len(calls) == 2 * count


@pytest.mark.parametrize("replayed", few([False, True], [False]))
def test_the_real_compiler(monkeypatch: pytest.MonkeyPatch, replayed: bool) -> None:
    """Values and gradients are those of uncompiled solves with the compiler that users have, over several tapes."""
    monkeypatch.setattr(programs, "replays", lambda device: replayed)
    monkeypatch.setattr(programs, "ROOM", 3)
    monkeypatch.setattr(programs, "LEAST", 3)
    torch.manual_seed(0)
    field, y0, t = Scaled(), torch.randn(4, 3), torch.tensor([0.0, 0.4, 1.0])
    solver = HeunEuler(1e-3, 1e-4, compile=True)
    for _ in range(2):
        plain = solved(HeunEuler(1e-3, 1e-4), of.Checkpointed(), field, y0, t)
        found = solved(solver, of.Checkpointed(), field, y0, t)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        field.table.mul_(0.7)  # the compiler takes small tensors for constants unless they are inputs
    with torch.no_grad():
        (program,) = solver.compiled.programs.values()
        run = program.run(solver.step_control(0.0, 1.0), field, parts_of(field), y0, t, None)
    assert len(run.tape) > 1


class Narrow(nn.Module):
    """A field of narrow products, whole numbers, a permutation that changes nothing, and a weight that is its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 256), nn.Linear(256, 6)
        self.weight = nn.Parameter(torch.eye(6))
        self.register_buffer("table", torch.randn(6, 4000))
        self.register_buffer("bias", torch.randn(4000, 256))
        self.table[:, 1] *= 30  # so that the place is 1, which a loop may take for its own number

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            place = (y @ self.table).square().sum(0).argmax()
        hidden = (self.up(y) + self.bias.index_select(0, place[None])).cumsum(1).tanh()
        return torch.tensordot(self.down(hidden), self.weight, ([1], [0])) - y


def test_loops_of_the_real_compiler_keep_their_buffers() -> None:
    """Results stay as they are when others are computed, in whatever order and thread, and as weights change."""
    torch.manual_seed(0)
    field = Narrow().double()
    solver, states = Euler(num_steps=6, compile=True), torch.randn(4, 24, 6, dtype=torch.float64)

    def rows(y0: Tensor, solver: of.Solver) -> tuple[Tensor, Tensor]:
        leaf = y0.clone().requires_grad_()
        return of.solve(field, leaf, (0.0, 1.0), solver=solver).y[-1], leaf

    def pulled(y: Tensor, leaf: Tensor) -> list[Tensor]:
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), (leaf, *field.parameters()))]

    for _ in range(2):
        wanted = [pulled(*rows(y0, Euler(num_steps=6))) for y0 in states]
        with ThreadPoolExecutor(2) as threads:  # one of which makes the program
            found = list(threads.map(lambda y0: pulled(*rows(y0, solver)), states))
        assert all(map(same, found, wanted))
        held = [rows(y0, solver) for y0 in states]
        found = [pulled(*each) for each in reversed(held)]
        assert all(map(same, reversed(found), wanted))
        with torch.no_grad():
            field.weight.normal_()
    assert solver.compiled is not None
    assert list(map(bool, solver.compiled.programs.values())) == [True]


def test_statistics_are_those_of_uncompiled_solves(calls: list[str]) -> None:
    """Evaluations and steps are counted alike, forwards and backwards."""
    torch.manual_seed(0)
    field, y0 = MLP(3).double(), torch.randn(4, 3, dtype=torch.float64)
    stats: list[of.Stats] = []
    for compiled in (False, True):
        flow = of.Flow(field, Dopri5(compile=compiled), of.Checkpointed())
        flow(y0).sum().backward()
        assert flow.stats is not None
        stats.append(flow.stats)
    plain, found = stats
    assert (found.nfe_forward, found.nfe_backward) == (plain.nfe_forward, plain.nfe_backward)
    assert (found.accepted, found.rejected) == (plain.accepted, plain.rejected)


def test_tuple_states_and_images(calls: list[str]) -> None:
    """A state of several tensors, and one of images, are compiled too, once for all solves; attention is, too."""

    class Pendulum(nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -y[0].sin()

    state = (torch.randn(4, 1), torch.randn(4, 1))
    flow, plain = (of.Flow(Pendulum(), Dopri5(compile=compiled)) for compiled in (True, False))
    with torch.no_grad():
        for one, other in zip(flow(state), plain(state), strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        count = len(calls)
        flow(state)
        assert len(calls) == count
        for field, y in ((ConvNet(4), torch.randn(2, 4, 5, 5)), (Attending(), torch.randn(4, 3))):
            compiled = of.Flow(field, RK4(num_steps=2, compile=True))(y)
            assert torch.allclose(compiled, of.Flow(field, RK4(num_steps=2))(y), atol=1e-5)


def test_autocast(calls: list[str]) -> None:
    """The field runs in the reduced precision of autocast, whose state is part of the program's key."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)), torch.randn(4, 3)
    solver, found = RK4(num_steps=2, compile=True), []
    with torch.no_grad():
        for enabled in (False, True, False):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                found.append(of.solve(field, y0, (0.0, 1.0), solver=solver).y)
                assert torch.allclose(found[-1], of.solve(field, y0, (0.0, 1.0), solver=RK4(num_steps=2)).y, atol=1e-5)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


class Branching(of.Dynamics):
    """A field whose way depends on the state's values, which no compiler can follow."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.weight * y if float(y.detach().sum()) > -1e9 else y


class Counting(nn.Module):
    """A field that counts its calls."""

    calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return -y


class Spectral(nn.Module):
    """A field of complex numbers."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(y) * 1j, n=3)


class Attending(nn.Module):
    """A field with attention, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(3, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        keys = self.weight(y)[None, None]
        return nn.functional.scaled_dot_product_attention(keys, keys, keys)[0, 0]


class Writing(nn.Module):
    """A field that writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.last.copy_(y[0].detach())
        return -y


class Hidden(nn.Module):
    """A field with a tensor that autograd knows and the module does not."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [torch.ones(3, requires_grad=True)]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * self.rates[0]


def hooked() -> nn.Module:
    field = nn.Identity()
    field.register_forward_hook(lambda module, inputs, output: None)
    return field


class Noisy(nn.Module):
    """A field that draws numbers."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.rand_like(y)


REFUSED = [
    (Branching, "data-dependent expression"),
    (Counting, "it changes its attributes when it is called"),
    (Writing, "it changes one of its tensors"),
    (Hidden, "a tensor that requires a gradient is neither a parameter nor a buffer"),
    (Noisy, "it draws random numbers"),
    (Spectral, "it computes with complex numbers"),
    (lambda: nn.Sequential(hooked()), "hooks"),
]


class Untimed(nn.Module):
    """A field of the state only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.inner(y) if isinstance(self.inner, nn.Sequential) else self.inner(t, y)


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_cannot_be_compiled_is_solved_uncompiled(make: Callable[[], nn.Module], reason: str) -> None:
    """A field that a program cannot follow gives the uncompiled results, and one warning says why."""
    field, y0 = Untimed(make()), torch.randn(4, 3)
    with torch.no_grad():
        solver = RK4(num_steps=3, compile=True)
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match=f"compile=True: solves over Untimed run uncompiled: .*{reason}") as seen:
            found = of.solve(field, y0, (0.0, 1.0), solver=solver).y
        assert len(seen) == 1
        for other in (solver, RK4(num_steps=3)):
            torch.manual_seed(0)
            assert torch.equal(of.solve(field, y0, (0.0, 1.0), solver=other).y, found)


@pytest.mark.parametrize(
    ("gradient", "options", "reason"),
    [
        (of.Checkpointed(every=2), {}, "Checkpointed with these options has its own backward pass"),
        (of.Checkpointed(per_stage=True), {}, "Checkpointed with these options has its own backward pass"),
        (of.Checkpointed(), {"event": of.Event(lambda t, y: t - 0.5)}, "events are located between steps"),
        (of.Checkpointed(), {"t": torch.tensor([0.0, 1.0], requires_grad=True)}, "the times require a gradient"),
        (of.Checkpointed(), {"y0": torch.ones(4, 3, dtype=torch.bfloat16)}, "the state is in torch.bfloat16"),
        (of.Backprop(), {"dense": True}, "Backprop with these options has its own backward pass"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_solves_that_are_not_compiled(gradient: of.Gradient, options: dict[str, object], reason: str) -> None:
    """What a solve requests and a program does not have is solved uncompiled, with a warning."""
    given = {"t": (0.0, 1.0), "y0": torch.randn(4, 3), **options}
    field = MLP(3).to(given["y0"].dtype)
    with pytest.warns(UserWarning, match=f"compile=True: solves over MLP run uncompiled: {reason}"):
        found = of.solve(field, solver=RK4(num_steps=3, compile=True), gradient=gradient, **given).y
    assert torch.equal(found, of.solve(field, solver=RK4(num_steps=3), gradient=gradient, **given).y)


def test_a_changed_buffer_is_told(calls: list[str]) -> None:
    """Backprop refuses a backward pass after what the field reads was changed, as autograd does."""
    field, y0 = Scaled(), torch.randn(4, 3)
    y = of.solve(field, y0, (0.0, 1.0), solver=Euler(num_steps=3, compile=True), gradient=of.Backprop()).y
    field.shift.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert calls


@pytest.mark.filterwarnings("default:compile=True")
def test_other_derivatives_of_backprop(calls: list[str]) -> None:
    """Several gradients at once, and forward mode, are those of an uncompiled solve."""
    field, y0, cotangents = Scaled().double(), torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 4, 3).double()
    batched, forward = [], []
    for compiled in (False, True):
        leaf, solver = y0.clone().requires_grad_(), Euler(num_steps=3, compile=compiled)
        y = of.solve(field, leaf, (0.0, 1.0), solver=solver, gradient=of.Backprop()).y[-1]
        batched.append(torch.autograd.grad(y, leaf, cotangents, is_grads_batched=True))
        with forward_ad.dual_level(), warnings.catch_warnings(record=compiled):
            dual = forward_ad.make_dual(y0, cotangents[0])
            y = of.solve(field, dual, (0.0, 1.0), solver=solver, gradient=of.Backprop()).y[-1]
            forward.append([forward_ad.unpack_dual(y).tangent.clone()])
    assert same(*batched)
    assert same(*forward)
    assert calls


@pytest.mark.filterwarnings("default:compile=True")
def test_functions_are_solved_uncompiled(calls: list[str]) -> None:
    """A function, which may be another one in the next solve, is not compiled, and a warning says so."""
    y0, solver = torch.randn(4, 3), RK4(num_steps=3, compile=True)
    with pytest.warns(UserWarning, match="solves over .*<lambda> run uncompiled: only modules are compiled"):
        found = of.solve(lambda t, y: -y, y0, (0.0, 1.0), solver=solver, gradient=of.Backprop()).y
    assert torch.allclose(found[-1], y0 * torch.tensor(-1.0).exp(), atol=1e-2)
    assert not calls


@pytest.mark.filterwarnings("default:compile=True")
@pytest.mark.parametrize("changing", ["shape", "attribute"])
def test_many_forms(calls: list[str], changing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some shapes of its state, or values of its attributes, a field is compiled no more: each takes seconds."""
    monkeypatch.setattr(programs, "FORMS", 3)
    field, solver = Scaled(), Euler(num_steps=1, compile=True)

    def solve(number: int) -> Tensor:
        field.gain = 1.0 + number if changing == "attribute" else 1.0
        y0 = torch.ones(number if changing == "shape" else 1, 3)
        return of.solve(field, y0, (0.0, 1.0), solver=solver).y

    with torch.no_grad():
        for number in range(1, 4):
            solve(number)
        assert len(calls) == 3
        with pytest.warns(
            UserWarning, match="3 forms of it were compiled; use batches of one size, and a buffer for a"
        ):
            solve(4)
        solve(3)
    assert len(calls) == 3


def test_errors_are_those_of_uncompiled_solves(calls: list[str]) -> None:
    """What the field refuses, and a solve that fails, raise the errors of uncompiled solves."""
    with pytest.raises(of.StateError, match="takes states"):
        of.Flow(MLP(3), RK4(num_steps=1, compile=True))(torch.randn(4, 2))

    class Explosion(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y.square()

    with torch.no_grad(), pytest.raises(of.SolveError, match="the step size fell to"):
        of.solve(Explosion(), torch.ones(2, 1).double(), (0.0, 2.0), solver=Dopri5(1e-3, 1e-3, compile=True))
    with torch.no_grad(), pytest.raises(of.SolveError, match="max_steps = 5 steps did not reach the end"):
        of.solve(Vibration(), torch.ones(2, 2).double(), (0.0, 2.0), solver=Dopri5(max_steps=5, compile=True))

    class Singular(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y * (0.5 - t).sqrt()

    with torch.no_grad(), pytest.raises(of.SolveError, match="not finite"):
        of.solve(Singular(), torch.ones(2, 1).double(), (1.0, 0.0), solver=Dopri5(1e-3, 1e-3, compile=True))


def test_solvers_with_programs_are_copied_and_stored(calls: list[str]) -> None:
    """A copy, and one from a pickle, compiles for itself; the spec says that it shall."""
    solver = HeunEuler(1e-3, 1e-3, compile=True)
    of.Flow(MLP(3), solver)(torch.randn(2, 3))
    assert solver.compiled is not None
    assert solver.compiled.programs
    for other in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert other.compiled is not None
        assert not other.compiled.programs
    assert solver.spec["init_args"]["compile"] is True


AROUND = [
    *((RK4(num_steps=2), GRADIENTS[name]()) for name in GRADIENTS),
    (Dopri5(1e-4, 1e-4), of.Checkpointed()),
    (Dopri5(1e-4, 1e-4, per_sample=True), of.Checkpointed()),
    (Kvaerno5(1e-3, 1e-3), of.Checkpointed()),
    (Euler(num_steps=2, compile=True), of.Checkpointed()),
]


@pytest.mark.parametrize(
    ("solver", "gradient"),
    few(AROUND, lambda case: not isinstance(case[1], of.Backprop)),
    ids=lambda each: type(each).__name__,
)
@pytest.mark.usefixtures("without_backend")
@pytest.mark.filterwarnings("default:compile=True")
@pytest.mark.long
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


@pytest.mark.usefixtures("without_backend")
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
