"""Laws of odeflow.testing: every plugin passes its checks, and each kind of mistake is caught by the right message."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from choice import few
from odeflow.engine.tape import UNOBSERVED, Observer
from odeflow.plugin.registry import look_up, plugins
from odeflow.testing import (
    PARTICLE,
    Check,
    check_dynamics,
    check_gradient,
    check_solver,
    check_task,
    dynamics_checks,
    gradient_checks,
    observed_order,
    solver_checks,
    task_checks,
)
from odeflow_dynamics import MLP, ConvNet, PlanarCNF
from odeflow_solvers import RK4, AdamsBashforth, Dopri5, Euler, Heun
from odeflow_tasks import Classification, FlatStem

OURS = [cls for cls in plugins("solver").values() if cls.__module__.startswith("odeflow_solvers")]


def theirs(h: float, method: str = "rk4") -> of.Solver:
    return look_up("solver", "TorchDiffEq")(method, options={"step_size": h, "interp": "cubic"})


def laws_of(cls: type[of.Solver]) -> list[Check]:
    """Every law, on a problem that the solver can solve."""
    if issubclass(cls, of.Multistep):
        return solver_checks(lambda h: cls(order=4, step_size=h))
    if issubclass(cls, of.Symplectic):
        return solver_checks(cls, problem=PARTICLE)
    return solver_checks(theirs if cls is look_up("solver", "TorchDiffEq") else cls)


FAMILIES = {(cls.__bases__, "rtol" in inspect.signature(cls).parameters): cls for cls in reversed(OURS)}


def solver_laws() -> list[Any]:
    """Every law of a solver of each family, and those of the coefficients of all others; the rest is slow."""
    found = [(cls, check) for cls in OURS for check in laws_of(cls)]
    return few(found, lambda case: case[0] in FAMILIES.values() or str(case[1]) in ("order", "dense output"))


@pytest.mark.parametrize(
    ("cls", "check"), solver_laws(), ids=lambda each: each.__name__ if isinstance(each, type) else str(each)
)
def test_solvers(cls: type[of.Solver], check: Check) -> None:
    """Every registered solver keeps every law, one that hides its steps as far as it shows them."""
    check()


TIGHT = {
    "RK4": RK4(num_steps=60),
    "Dopri5": Dopri5(1e-9, 1e-9),
    "TorchDiffEq": look_up("solver", "TorchDiffEq")("dopri5", 1e-9, 1e-9),
}


@pytest.mark.parametrize("solver", TIGHT)
@pytest.mark.parametrize("name", [name for name in plugins("gradient") if name != "Backprop"])
def test_gradients(name: str, solver: str) -> None:
    """Every registered gradient keeps the laws of gradients, or refuses a solver that hides its steps.

    The gradient of the discrete solution itself agrees with Backprop's to rounding.
    """
    gradient = look_up("gradient", name)()
    if solver == "TorchDiffEq" and name in ("InterpolatedAdjoint", "Reversible"):
        with pytest.raises(of.GradientError, match=rf"{name} does not support .*solvers.* \(got TorchDiffEq\); use"):
            check_gradient(gradient, solver=TIGHT[solver])
    else:
        check_gradient(gradient, solver=TIGHT[solver], tolerance=1e-12 if name == "Checkpointed" else 1e-6)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: MLP(3), (4, 3)), (lambda: ConvNet(8), (3, 8, 5, 4)), (lambda: PlanarCNF(3), (4, 3))],
    ids=["MLP", "ConvNet", "PlanarCNF"],
)
def test_dynamics(make: Callable[[], of.Dynamics], shape: tuple[int, ...]) -> None:
    """Vector fields keep the laws of dynamics."""
    torch.manual_seed(0)
    check_dynamics(make(), torch.randn(shape))


def test_tasks() -> None:
    """A task keeps the laws of tasks, and its weights."""
    torch.manual_seed(0)
    task = Classification(MLP(12), RK4(num_steps=2), num_classes=3, shape=(5,), stem=FlatStem())
    before = {name: value.clone() for name, value in task.state_dict().items()}
    check_task(task, (torch.randn(8, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


class _Wrong(of.Solver):
    """Heun's method, changed by `spoil`."""

    order = 2

    def __init__(self, step_size: float) -> None:
        self.method = Heun(step_size=step_size)

    def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
        return self.method.integrate(field, y0, t, observer)


def caught(solver: Any, message: str) -> None:
    with pytest.raises(of.ConformanceError, match=message):
        check_solver(solver)


def test_shifted_nodes_are_caught() -> None:
    """Nodes that are wrong cost an order in time alone, and the message says so."""

    class Shifted(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            h = 0.3 * self.method.control.step_size
            return super().integrate(lambda s, y: field(s + h, y), y0, t, observer)

    caught(Shifted, r"Shifted: order: wanted errors that fall as h\^2 .*got h\^(0\.[789]|1\.[01]).*Look at the nodes c")


def test_an_overstated_order_is_caught() -> None:
    """An order that is not reached is named beside that which is."""

    class Boasting(_Wrong):
        order = 3

    caught(Boasting, r"Boasting: order: wanted errors that fall as h\^3 .*got h\^2\.0.*the order that the class states")


def test_wrong_dense_output_is_caught() -> None:
    """A straight line between the steps of a method of order 4 is not dense output of it."""
    with pytest.raises(of.ConformanceError, match=r"TorchDiffEq: dense output: wanted .* h\^4; got h\^(1\.9|2\.0)"):
        check_solver(lambda h: look_up("solver", "TorchDiffEq")("rk4", options={"step_size": h}))


def test_another_dtype_is_caught() -> None:
    """A solver that computes in float64 whatever the state is caught by the solution's dtype."""

    class Promoting(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            return super().integrate(lambda s, y: field(s, y).double(), y0.double(), t, observer)

    caught(
        Promoting,
        "Promoting: dtype and device: wanted a solution in the state's torch.float32 on cpu; got torch.float64",
    )


def test_mixed_batch_mates_are_caught() -> None:
    """A solver that lets samples see each other is caught; its own errors being of the right order hides nothing."""

    class Mixing(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            solution = super().integrate(field, y0, t, observer)
            mixed = (
                solution.y
                + 1e-5
                * (solution.y.mean(1, keepdim=True) - solution.y.detach().mean())
                * self.method.control.step_size**2
            )
            return replace(solution, y=torch.cat((y0[None], mixed[1:])))

    (check,) = (check for check in solver_checks(Mixing) if str(check) == "batch independence")
    with pytest.raises(of.ConformanceError, match=r"Mixing: batch independence: .*reductions over the state"):
        check()


def test_a_cut_graph_is_caught() -> None:
    """A detached state shows in the gradient, and values computed another way in the tape."""

    class Cut(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            return super().integrate(lambda s, y: field(s, y.detach()), y0, t, observer)

    caught(
        Cut,
        "Cut: backprop against finite differences: wanted Backprop's gradient of y0 equal to central differences.*cut the graph",
    )


def test_lost_statistics_are_caught() -> None:
    """Evaluations that are not counted are missed."""

    class Forgetting(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            solution = super().integrate(field, y0, t, observer)
            return replace(solution, stats=of.Stats(nfe_forward=solution.stats.nfe_forward - 1))

    caught(Forgetting, "Forgetting: statistics: wanted nfe_forward = 32, as often as the field was called; got 31")


def test_times_that_go_back_wrongly_are_caught() -> None:
    """A solver that steps forward whatever the times is caught on the way back."""

    class Forward(_Wrong):
        def integrate(self, field: Any, y0: Tensor, t: Tensor, observer: Observer = UNOBSERVED) -> of.Solution:
            if t[-1] > t[0]:
                return super().integrate(field, y0, t, observer)
            return super().integrate(lambda s, y: -field(s, y), y0, t, observer)

    (check,) = (check for check in solver_checks(Forward) if str(check) == "time reversal")
    with pytest.raises(of.ConformanceError, match=r"Forward: time reversal: .*the sign of the steps"):
        check()


def test_a_solver_whose_steps_cannot_be_forced_needs_a_function() -> None:
    """Without the usual arguments the message asks for a function of the step size."""

    class Odd(_Wrong):
        def __init__(self, stride: float) -> None:
            super().__init__(stride)

    with pytest.raises(of.SettingError, match=r"Odd does not take step_size.*check_solver\(lambda h: Odd"):
        check_solver(Odd)
    check_solver(lambda h: Heun(step_size=h))
    check_solver(Dopri5(1e-3, 1e-3, max_steps=5000))


@pytest.mark.parametrize(("cls", "orders"), [(Euler, (1, 1)), (RK4, (4, 4)), (Dopri5, (5, 5))])
def test_observed_orders(cls: type[of.Solver], orders: tuple[int, int]) -> None:
    """Measured orders are those that are known."""
    assert observed_order(cls) == pytest.approx(orders, abs=0.8)


def test_observed_orders_of_methods_that_need_many_steps() -> None:
    """With the numbers of steps given, the order is seen of a method that is unstable with the usual ones."""
    seen = {
        steps: observed_order(AdamsBashforth(order=7, num_steps=1), steps=steps) for steps in (None, (160, 192, 224))
    }
    assert seen[160, 192, 224] == pytest.approx((7, 7), abs=0.2)
    assert seen[None][0] < 4


def test_wrong_dynamics_are_caught() -> None:
    """A slope of another shape, samples or times that mix, an unused layer, …: each by its own message."""

    class Field(of.Dynamics):
        def __init__(self, mistake: str = "") -> None:
            super().__init__()
            self.width, self.mistake = 2, mistake
            self.layer = torch.nn.Linear(2, 2)
            self.unused = torch.nn.Linear(2, 2) if mistake == "unused" else None

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            if self.mistake == "shape":
                return self.layer(y)[:, :1]
            if self.mistake == "mixing":
                return self.layer(y - y.mean(0))
            if self.mistake == "one time":
                return self.layer(y) * t
            if self.mistake == "first time":
                return self.layer(y) * t.flatten()[0]
            return self.layer(y.detach() if self.mistake == "detached" else y)

        def divergence(self, t: Tensor, y: Tensor) -> Tensor | None:
            return y.new_ones(len(y)) if self.mistake == "divergence" else None

    messages = {
        "shape": r"Field: shape and dtype: wanted a value of the state's \(4, 2\)",
        "mixing": "Field: samples apart: .*batch normalisation",
        "one time": r"Field: times apart: .*got The size of tensor.* Look at where t meets y: t.view\(-1, 1\)",
        "first time": r"Field: times apart: .*got a difference of",
        "unused": r"Field: every parameter is trained: .*got none for unused.weight, unused.bias",
        "detached": "Field: gradient by the state: .*cut the graph",
        "divergence": "Field: divergence: wanted tr ∂f/∂y",
    }
    for mistake, message in messages.items():
        torch.manual_seed(0)
        with pytest.raises(of.ConformanceError, match=message):
            check_dynamics(Field(mistake), torch.randn(4, 2))
    assert "spec" in {str(check) for check in dynamics_checks(Field(), torch.randn(4, 2))}


class Rerun(of.Gradient):
    """Runs the whole solve again with autograd in the backward pass."""

    needs_params = True
    unsupported = frozenset({"dense output and events"})

    def differentiate(
        self, solver: of.Solver, field: Any, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Any
    ) -> of.Solution:
        with torch.no_grad():
            solution = solver.integrate(field, y0, t)

        def backward(grad_y: Tensor, y0: Tensor) -> tuple[Tensor, list[Tensor | None]]:
            with torch.enable_grad():
                start = y0.detach().requires_grad_()
                again = solver.integrate(field, start, t)
                adjoint, *grads = torch.autograd.grad(again.y, (start, *params), grad_y, allow_unused=True)
            solution.stats.nfe_backward += again.stats.nfe_forward
            return adjoint, grads

        return of.with_backward(solution, backward, y0, params, y0)


def test_a_gradient_is_one_method() -> None:
    """Of a gradient that is one method and its attributes all laws hold, of times too; a feature it lacks is refused."""
    check_gradient(Rerun())
    field = MLP(2)
    flow = of.Flow(field, Dopri5(), Rerun())
    flow(torch.ones(1, 2)).sum().backward()
    assert flow.stats.nfe_backward == flow.stats.nfe_forward
    with pytest.raises(of.GradientError, match=r"^Rerun does not support dense output and events; use Checkpointed"):
        of.solve(field, torch.ones(1, 2), [0.0, 1.0], solver=Dopri5(), gradient=Rerun(), dense=True)


def test_wrong_gradients_and_tasks_are_caught() -> None:
    """A gradient of the wrong sign, a loss that is no number."""

    class Negative(of.Backprop):
        def differentiate(self, solver: of.Solver, field: Any, y0: Tensor, t: Tensor, *rest: Any) -> of.Solution:
            solution = super().differentiate(solver, field, y0, t, *rest)
            return replace(solution, y=2 * solution.y.detach() - solution.y)

    with pytest.raises(
        of.ConformanceError, match=r"Negative: one tensor: wanted ∂L/∂y0\[0\] within 1e-06 of Backprop's"
    ):
        check_gradient(Negative())
    assert "back in time" in {str(check) for check in gradient_checks(of.Checkpointed())}

    class Listing(Classification):
        def loss(self, batch: Any, stage: str) -> Tensor:
            return super().loss(batch, stage).expand(3)

    task = Listing(MLP(12), RK4(num_steps=2), num_classes=3, shape=(5,), stem=FlatStem())
    batch = (torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(
        of.ConformanceError, match=r"Listing: finite scalar loss: wanted one finite number .*of shape \(3,\)"
    ):
        check_task(task, batch)
    assert "learning" in {str(check) for check in task_checks(task, batch)}
