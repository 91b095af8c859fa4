"""Laws of solve and Flow at their door: what they take, refuse and say."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5, Euler, Kvaerno5, Rodas4, TorchDiffEq


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def test_flow_is_the_end_of_its_trajectory() -> None:
    """Forward gives the last row of trajectory, and keeps the statistics of the last solve."""
    flow = of.Flow(MLP(2), RK4(num_steps=4), options=of.FlowOptions(t0=0.5, t1=2.0))
    y0 = torch.randn(3, 2)
    assert flow.stats is None
    assert torch.equal(flow(y0), flow.trajectory(y0, (0.5, 2.0)).y[-1])
    assert flow.stats.nfe_forward == 16
    assert "t0=0.5, t1=2.0" in repr(flow)


def test_flow_of_a_tuple() -> None:
    """A tuple goes in and comes out."""

    class Swap(nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -y[0]

    first, second = of.Flow(Swap(), Dopri5(1e-6, 1e-6), options=of.FlowOptions(t1=math.pi))(
        (torch.ones(2, 1), torch.zeros(2, 1))
    )
    assert torch.allclose(first, -torch.ones(2, 1), atol=1e-5)
    assert torch.allclose(second, torch.zeros(2, 1), atol=1e-5)


def test_augment_appends_zeros_that_the_field_may_use() -> None:
    """The state is widened along dimension 1, for vectors and images alike."""
    flow = of.Flow(MLP(5), RK4(num_steps=1), options=of.FlowOptions(augment=3))
    end = flow(torch.randn(4, 2))
    assert end.shape == (4, 5)
    y = flow.trajectory(torch.randn(4, 2), [0.0, 1.0]).y
    assert torch.equal(y[0, :, 2:], torch.zeros(4, 3))
    with pytest.raises(of.StateError, match=r"augment needs a state of shape \(B, d, …\)"):
        flow(torch.randn(4))


def test_warm_start_saves_evaluations_at_the_same_accuracy() -> None:
    """The second solve begins with the step that suited the first, in fewer evaluations and within the tolerance."""
    torch.manual_seed(0)
    field, y0 = MLP(4), torch.randn(16, 4)
    cold = of.Flow(field, Dopri5(1e-6, 1e-6))
    warm = of.Flow(field, Dopri5(1e-6, 1e-6), options=of.FlowOptions(warm_start=True))
    exact = of.Flow(field.double(), RK4(num_steps=200))(y0.double())
    field.float()
    cold(y0), warm(y0)
    assert warm.stats.nfe_forward == cold.stats.nfe_forward
    end = warm(y0)
    assert warm.stats.nfe_forward < cold.stats.nfe_forward
    assert torch.allclose(end.double(), exact, atol=1e-5)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([0.0], r"at least two times, \(T,\); its shape is \(1,\)"),
        ([[0.0, 1.0]], r"t has the shape \(1, 2\), times of each sample"),
        ([0.0, 1.0, 0.5], "strictly increasing or strictly decreasing, and finite; it goes 0, 1, 0.5"),
        ([0.0, 0.0], "it goes 0, 0"),
        ([0.0, math.nan], "it goes 0, nan"),
        ([0.0, math.inf], "strictly decreasing, and finite; it goes 0, inf"),
    ],
)
def test_times_must_be_monotone(t: list[float], message: str) -> None:
    """Times that cannot be integrated over are refused, and shown."""
    with pytest.raises(of.SettingError, match=message):
        of.solve(decay, torch.ones(1), torch.tensor(t), solver=Euler(num_steps=1), params=())


def test_times_in_a_list_keep_their_gradients() -> None:
    """A list of times may hold tensors, through which gradients flow; what holds no times is refused."""
    end = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = of.solve(decay, torch.ones(1, dtype=torch.float64), [0.0, end], solver=Dopri5(1e-9, 1e-9), params=()).y
    assert float(torch.autograd.grad(y[-1, 0], end)[0]) == pytest.approx(-math.exp(-1), abs=1e-7)
    for t in (1.0, "01", [0.0, "x"]):
        with pytest.raises(of.SettingError, match="t must hold times, in a Tensor or a list of numbers; got "):
            of.solve(decay, torch.ones(1), t, solver=Euler(num_steps=1), params=())  # pyright: ignore[reportArgumentType]


def test_whole_numbers_are_times() -> None:
    """Times may be given as Python or torch integers."""
    for t in ([0, 1], torch.tensor([0, 1])):
        y = of.solve(decay, torch.ones(1), t, solver=RK4(num_steps=9), params=()).y
        assert float(y[-1]) == pytest.approx(math.exp(-1), abs=1e-4)


@pytest.mark.parametrize("solver", [Euler(num_steps=2), Dopri5()], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("grad", [False, True])
def test_wrong_fields_are_refused(solver: of.Solver, grad: bool) -> None:
    """A field whose value has another shape than the state would broadcast; it is refused with both shapes."""
    with torch.set_grad_enabled(grad):
        with pytest.raises(of.StateError, match=r"the field returned shape \(3,\) where the state has \(3, 1\)"):
            of.solve(lambda t, y: -y[:, 0], torch.ones(3, 1), [0.0, 1.0], solver=solver, params=())
        pair = (torch.ones(3), torch.ones(2))
        with pytest.raises(
            of.StateError, match="a tuple of 2 tensors, so the field must return such a tuple; it returned"
        ):
            of.solve(lambda t, y: y[0], pair, [0.0, 1.0], solver=solver, params=())
        with pytest.raises(of.StateError, match=r"shape \(3,\) for leaf 1 of the state where the state has \(2,\)"):
            of.solve(lambda t, y: (y[0], y[0]), pair, [0.0, 1.0], solver=solver, params=())
        with pytest.raises(of.StateError, match="the field returned nothing; it must return dy/dt, a Tensor of shape"):
            of.solve(lambda t, y: None, torch.ones(3), [0.0, 1.0], solver=solver, params=())
        with pytest.raises(of.StateError, match=r"returned torch.complex64 where the state has torch.float32.*view_as"):
            of.solve(lambda t, y: 1j * y, torch.ones(3), [0.0, 1.0], solver=solver, params=())


def test_wrong_states_are_refused() -> None:
    """States that are not floating point, empty, or of mixed dtypes are refused."""
    euler = Euler(num_steps=1)
    with pytest.raises(of.StateError, match=r"must be floating point; got torch\.int64"):
        of.solve(decay, torch.ones(1, dtype=torch.int64), [0.0, 1.0], solver=euler, params=())
    with pytest.raises(of.StateError, match=r"must be a Tensor or a tuple of Tensors; got \[1\.0\]"):
        of.solve(decay, [1.0], [0.0, 1.0], solver=euler, params=())  # pyright: ignore[reportArgumentType]
    for solver in (Kvaerno5(0.5, 0.5), Rodas4(0.5, 0.5)):
        with pytest.raises(of.StateError, match=r"need a state of float32 or float64; got torch\.bfloat16"):
            of.solve(decay, torch.ones(1, dtype=torch.bfloat16), [0.0, 1.0], solver=solver, params=())
    with pytest.raises(of.StateError, match="empty tuple"):
        of.solve(decay, (), [0.0, 1.0], solver=euler, params=())
    mixed = (torch.ones(1), torch.ones(1, dtype=torch.float64))
    with pytest.raises(of.StateError, match=r"must share dtype and device; got torch\.float32 on cpu, torch\.float64"):
        of.solve(decay, mixed, [0.0, 1.0], solver=euler, params=())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RK4(), "RK4: the method has no error estimate, so it takes fixed steps: give step_size or num_steps$"),
        (lambda: RK4(step_size=0.1, num_steps=10), "RK4: give either step_size or num_steps; both were given"),
        (lambda: RK4(num_steps=0), "RK4: num_steps must be positive; got 0"),
        (lambda: Dopri5(rtol=-1), "rtol and atol must not be negative, nor both 0; got -1 and 1e-06"),
        (lambda: Dopri5(max_steps=0), "max_steps must be positive"),
        (lambda: RK4(num_steps=1, max_steps=-1), "RK4: max_steps must be positive; got -1"),
        (
            lambda: Dopri5(num_steps=10**12),
            "Dopri5: num_steps = 1000000000000 exceeds max_steps = 1000000; take fewer steps, or raise max_steps",
        ),
        (lambda: RK4(num_steps=6, max_steps=5), "RK4: num_steps = 6 exceeds max_steps = 5"),
        (lambda: Dopri5(min_step=2, max_step=1), "min_step must lie between 0 and max_step; got 2"),
        (lambda: TorchDiffEq("dopri6"), "torchdiffeq has no method 'dopri6'; it has euler, midpoint"),
        (
            lambda: of.Flow(MLP(1), RK4(num_steps=1), options=of.FlowOptions(t0=1.0, t1=1.0)),
            "t0 and t1 must differ; both are 1.0",
        ),
        (
            lambda: of.Flow(MLP(1), RK4(num_steps=1), options=of.FlowOptions(augment=-1)),
            "augment must be a whole number, and not negative",
        ),
        (
            lambda: of.Flow(decay, Dopri5()),
            r"dynamics must be a Module instance such as MLP\(dim=2\); .* got <function decay",
        ),
        (
            lambda: of.Flow(MLP(1), Dopri5),
            r"solver must be a Solver instance such as Dopri5\(\); got the class Dopri5",
        ),
        (lambda: of.Flow(MLP(1), Dopri5(), "adjoint"), "gradient must be a Gradient instance .* got 'adjoint'"),
        (
            lambda: of.Flow(MLP(1), Dopri5(), options=of.FlowOptions(regularizers=["kinetic"])),
            "regularizer must be a Regularizer instance such as Kin",
        ),
        (lambda: of.CNF([MLP(2)], shape=[2]), "each a Flow or Bijection; got MLP"),
        (
            lambda: of.solve(decay, torch.ones(1), [0, 1], solver=Dopri5),
            "solver must be a Solver instance .* the class Dopri5",
        ),
        (
            lambda: of.solve(decay, torch.ones(1), [0, 1], solver=Dopri5(), event=decay),
            "event must be an Event instance such as",
        ),
        (lambda: RK4(num_steps=3, jump_ts=0.5), "RK4: jump_ts must be a list of times; got 0.5"),
        (lambda: Dopri5(jump_ts=[math.nan]), r"Dopri5: jump_ts.0 must be a finite number; got nan"),
    ],
)
def test_senseless_settings_are_refused(make: object, message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()


def test_a_scalar_that_blows_up() -> None:
    """A state without dimensions that equal steps take to infinity is an error as any other."""
    with pytest.raises(of.SolveError, match="ceases to be between t = 0 and t = 1"):
        of.solve(lambda t, y: 100 * y**2, torch.tensor(10.0), [0.0, 1.0, 2.0], solver=RK4(step_size=0.1), params=())


def test_params_are_several_tensors() -> None:
    """One tensor, whose rows would pass for parameters, or what holds no tensors, is refused; no gradient is lost."""
    rate = nn.Parameter(torch.tensor([0.5]))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -rate * y

    for params in (rate, nn.Linear(1, 1), [rate, 1.0]):
        with pytest.raises(of.SettingError, match=r"params wants several tensors, as \(a, b\) or module.parameters"):
            of.solve(field, torch.ones(3, 2), [0.0, 1.0], solver=Dopri5(), params=params)  # pyright: ignore[reportArgumentType]
    y = of.solve(field, torch.ones(3, 2), [0.0, 1.0], solver=Dopri5(), params=(rate,)).y
    assert float(torch.autograd.grad(y[-1].sum(), rate)[0]) == pytest.approx(-6 * math.exp(-0.5), rel=1e-4)


def test_a_flow_can_be_copied_after_training() -> None:
    """A copy of a flow whose penalties have a graph, as averages of weights make it, has none and works."""
    flow = of.Flow(MLP(2), RK4(num_steps=2), options=of.FlowOptions(regularizers=[of.Kinetic(0.1)]))
    y0 = torch.randn(3, 2)
    flow(y0).sum().backward()
    assert flow.penalties
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert twin.penalties == {}
        assert torch.equal(twin(y0), flow(y0))


def test_solves_that_cannot_go_on_say_where_and_what_to_do() -> None:
    """Blow-up, a budget of steps, a field that is not finite: where it stopped, how, and what to try."""
    one = torch.ones(1, dtype=torch.float64)

    def solve(field: object, solver: of.Solver, t1: float = 2.0) -> None:
        of.solve(field, one, [0.0, t1], solver=solver, params=())

    with pytest.raises(of.SolveError, match=r"fell to .* at t = 1, after a rejection: .* may blow up .* Loosen rtol"):
        solve(lambda t, y: y**2, Dopri5(max_steps=100_000))
    with pytest.raises(
        of.SolveError, match=r"near there the field may be discontinuous, .* name the times of jumps in jump_ts"
    ):
        solve(lambda t, y: torch.sign(t - 1) * torch.exp(9 * y), Dopri5(1e-12, 1e-12, min_step=1e-3))
    with pytest.raises(of.SolveError, match=r"max_steps = 5 steps did not reach the end: at t = .* raise max_steps"):
        solve(lambda t, y: torch.sin(50 * t) * y, Dopri5(1e-8, 1e-8, max_steps=5))
    with pytest.raises(of.SolveError, match=r"the field is not finite at the start, t = 0"):
        solve(lambda t, y: y / 0, Dopri5())
    with pytest.raises(of.SolveError, match=r"the initial state is not finite at the start"):
        of.solve(decay, torch.tensor([math.nan]), [0.0, 1.0], solver=Dopri5(), params=())
    with pytest.raises(of.SolveError, match=r"at t = 1, after \d+ rejections in a row: beyond there .* is not finite"):
        solve(lambda t, y: torch.where(t > 1, torch.nan, 1.0) * y, Dopri5())
    with pytest.raises(of.SolveError, match=r"lower min_step"):
        solve(lambda t, y: torch.sin(50 * t) * y, Dopri5(1e-10, 1e-10, min_step=0.1))
