"""Laws of every solver with every gradient: states of all shapes and dtypes, and nothing that outlives a solve."""

import gc
import inspect
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

import odeflow as of
from equations import column
from odeflow.engine.equation.state import State
from odeflow.engine.loop.stepper import Stepper
from odeflow.plugin.registry import plugins
from odeflow_data import Simulated
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5, Kvaerno5, Rodas4
from odeflow_tasks import Trajectory

D = torch.float64
PAIRS = ("solver", "gradient")
SHAPES = {
    "()": [()],
    "(B,)": [(4,)],
    "(B, d)": [(3, 2)],
    "(B, c, h, w)": [(2, 2, 1, 2)],
    "tuple": [(2, 2), (2, 2)],
    "tuple of numbers": [(), ()],
    "B = 0": [(0, 2)],
    "(0,)": [(0,)],
    "images, B = 0": [(0, 2, 1, 2)],
    "tuple, B = 0": [(0, 2), (0, 2)],
}
SOLVERS = [cls for cls in plugins("solver").values() if cls.__module__.startswith("odeflow_solvers")]
Parts = Callable[[State], list[Tensor]]


def few_steps(cls: type[of.Solver], per_sample: bool = False) -> of.Solver:
    """The solver with few steps."""
    options = inspect.signature(cls).parameters
    if "rtol" in options and "method" not in options:
        return cls(rtol=1e-2, atol=1e-2, **({"per_sample": True} if per_sample else {}))
    if "order" in options:
        return cls(order=2, num_steps=3)
    if "num_steps" in options:
        return cls(num_steps=3)
    return cls("rk4", options={"step_size": 0.4})


def gradient_for(cls: type[of.Solver], gradient: type[of.Gradient]) -> of.Gradient:
    """The gradient, with a solver of its own where the adjoint equation needs another."""
    continuous = issubclass(gradient, of.Adjoint | of.InterpolatedAdjoint)
    return gradient(solver=RK4(num_steps=3)) if continuous and issubclass(cls, of.Symplectic) else gradient()


def cases() -> list[Any]:
    """Every solver with the default gradient, every gradient with a solver of each family; per sample where it can."""
    families = {
        (cls.__bases__, "rtol" in inspect.signature(cls).parameters): cls for cls in reversed(SOLVERS)
    }  # of one family, concrete methods differ in their digits
    found = [
        pytest.param(few_steps(cls), gradient_for(cls, gradient), id=f"{cls.__name__}-{name}")
        for cls in SOLVERS
        for name, gradient in plugins("gradient").items()
        if name == "Checkpointed" or cls in families.values()
        if name != "Reversible" or issubclass(cls, of.RungeKutta)
        if name != "InterpolatedAdjoint" or cls.__name__ != "TorchDiffEq"
    ]
    own = few_steps(Dopri5, per_sample=True)
    return found + [
        pytest.param(own, gradient(), id=f"per sample-{gradient.__name__}")
        for gradient in (of.Adjoint, of.Backprop, of.Checkpointed)
    ]


def leaves(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def field_of(solver: of.Solver, weight: Tensor) -> Callable[[Tensor, State], State]:
    """Entry by entry y' = −w y cos t, or where the solver needs positions and momenta q' = w p, p' = −q cos t."""

    def on_leaf(t: Tensor, y: Tensor) -> Tensor:
        time = column(t, y)
        if not isinstance(solver, of.Symplectic):
            return -weight * y * time.cos()
        q, p = y.chunk(2, dim=min(1, y.dim() - 1))
        return torch.cat((weight * p, -q * time.cos()), dim=min(1, y.dim() - 1))

    def on_tuple(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if isinstance(solver, of.Symplectic):
            return weight * y[1], -y[0] * t.cos()
        return tuple(on_leaf(t, leaf) for leaf in y)

    return lambda t, y: on_tuple(t, y) if isinstance(y, tuple) else on_leaf(t, y)


def total(t: Tensor, y: State) -> Tensor:
    """(), or one for each sample: the sum of the entries."""
    return sum((leaf.reshape(*t.shape, -1).sum(-1) for leaf in leaves(y)), torch.zeros_like(t).to(leaves(y)[0]))


def everything(solver: of.Solver, gradient: of.Gradient, y0: State, times: list[float]) -> list[Tensor]:
    """Values and gradients of all that a solve gives, in the order of the state's entries where they have one."""
    starts = [leaf.clone().requires_grad_() for leaf in leaves(y0)]
    weight, t = (starts[0].new_tensor(value, requires_grad=True) for value in (0.7, times))
    state = tuple(starts) if isinstance(y0, tuple) else starts[0]
    shown = isinstance(solver, Stepper) and isinstance(gradient, of.Backprop | of.Checkpointed)
    level = 0.8 * total(starts[0].new_zeros(len(starts[0]) if solver.per_sample else ()), y0).detach()
    event = of.Event(lambda t, y: total(t, y) - level, terminal=False)
    field, params = field_of(solver, weight), [weight]
    kinds = {"dense": True, "event": event} if shown else {}
    solution = of.solve(field, state, t, solver=solver, gradient=gradient, params=params, **kinds)
    for leaf, start in zip(leaves(solution.y), starts, strict=True):
        assert leaf.shape == (len(times), *start.shape)
    results = [*leaves(solution.y)]
    if shown:
        for query in (weight.new_tensor(0.4), weight.new_tensor([0.2, 0.4])):
            found = leaves(solution(query))
            assert [leaf.shape for leaf in found] == [(*query.shape, *start.shape) for start in starts]
            results += found
        results += [solution.events[0].t, *leaves(solution.events[0].y)]
    loss = sum((leaf.nan_to_num().sin().sum() for leaf in results), torch.zeros_like(weight))
    grads = torch.autograd.grad(loss, [*starts, weight, t], allow_unused=True, materialize_grads=True)
    by_entry = tuple(leaf[-1] for leaf in leaves(solution.y)), grads[: len(starts)]
    flattened = [torch.cat([leaf.flatten() for leaf in leaves(flat(solver, each))]) for each in by_entry]
    return [*flattened, loss.detach(), *grads[len(starts) :]]


def flat(solver: of.Solver, y: State) -> State:
    """The same entries as one row, or as one for each sample; positions and momenta stay apart."""
    if isinstance(solver, of.Symplectic):
        return y
    if solver.per_sample:
        return torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves(y)], 1)
    return torch.cat([leaf.flatten() for leaf in leaves(y)])[None]


@pytest.mark.parametrize(
    (*PAIRS, "half"), [pytest.param(*case.values, half % 2, id=case.id) for half, case in enumerate(cases())]
)
def test_values_and_gradients_do_not_depend_on_the_shape(solver: of.Solver, gradient: of.Gradient, half: int) -> None:
    """A state of any shape, numbers alone and empty batches too, is solved and differentiated as a row of its entries.

    With inner times that want gradients, dense output, events, forwards and backwards in time. Half of the shapes with
    each pair, by turns, so that every two of a family of solvers, a gradient and a shape meet.
    """
    for number, (name, shapes) in enumerate(list(SHAPES.items())[half::2]):
        if solver.per_sample and not all(shape and shape[0] for shape in shapes):
            continue
        if isinstance(solver, of.Symplectic) and name == "()":
            continue
        start = [torch.linspace(1, 2, torch.Size(shape).numel(), dtype=D).view(shape) for shape in shapes]
        y0 = tuple(start) if len(start) > 1 else start[0]
        times = [0.1, 0.5, 1.1] if number % 2 else [1.1, 0.5, 0.1]
        results = (everything(solver, gradient, state, times) for state in (y0, flat(solver, y0)))
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found.flatten(), wanted.flatten(), rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.device
@pytest.mark.parametrize(("solver", "gradient"), cases())
def test_values_and_gradients_do_not_depend_on_the_device(
    solver: of.Solver, gradient: of.Gradient, device: torch.device
) -> None:
    """A state on another device is solved and differentiated there, with all that the solve gives."""
    y0, times = torch.linspace(1, 2, 6, dtype=D).view(3, 2), [0.1, 0.5, 1.1]
    results = (everything(solver, gradient, state, times) for state in (y0.to(device), y0))
    for found, wanted in zip(*results, strict=True):
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("solver", "gradient"), cases())
def test_results_have_the_dtype_of_the_state(solver: of.Solver, gradient: of.Gradient) -> None:
    """A field may compute in another precision: solution and gradients have the dtypes of what they belong to."""
    y0, t = torch.linspace(1, 2, 6).view(3, 2).requires_grad_(), torch.tensor([0.1, 0.5, 1.1], requires_grad=True)
    weight = torch.tensor(0.7, dtype=D, requires_grad=True)
    plain = field_of(solver, weight)
    rows: list[Tensor] = []
    for field in (plain, lambda t, y: plain(t, y).double()):
        y = of.solve(field, y0, t, solver=solver, gradient=gradient, params=[weight]).y
        grads = torch.autograd.grad(y.sum(), [y0, t, weight])
        assert [each.dtype for each in (y, *grads)] == [torch.float32, torch.float32, torch.float32, D]
        rows.append(torch.cat([y.detach().flatten(), grads[0].flatten()]))
    torch.testing.assert_close(*rows, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=["Backprop", "Checkpointed"])
@pytest.mark.parametrize("solver", [Dopri5(1e-9, 1e-9), Kvaerno5(1e-7, 1e-7), Rodas4(1e-7, 1e-7)], ids=type)
def test_a_number_over_many_steps(solver: of.Solver, gradient: of.Gradient) -> None:
    """From the number 1 by y' = −y: e⁻¹ at 1 whose derivative by t₁ is −e⁻¹, e^−0.4 by dense output, and ln 2 at y = ½."""
    y0, t = torch.tensor(1.0, dtype=D, requires_grad=True), torch.tensor([0.0, 0.7, 1.0], dtype=D, requires_grad=True)
    half = of.Event(lambda t, y: y - 0.5, terminal=False)
    decay: Callable[[Tensor, Tensor], Tensor] = lambda t, y: -y  # noqa: E731
    solution = of.solve(decay, y0, t, solver=solver, gradient=gradient, params=(), dense=True, event=half)
    by_y0, by_t = torch.autograd.grad(solution.y[-1], [y0, t])
    found = torch.stack([solution.y[-1], by_y0, -by_t[-1], by_t[0], solution(0.4), solution.events[0].t[0].exp() / 2])
    wanted = torch.tensor([-1.0, -1.0, -1.0, -1.0, -0.4, 0.0], dtype=D).exp()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@pytest.fixture
def uncollected() -> Generator[None]:
    """Without the collector of reference cycles, after torch has imported what leaves some."""
    torch.func.jvp(torch.cos, (torch.ones(()),), (torch.ones(()),))
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(PAIRS, cases())
@pytest.mark.usefixtures("uncollected")
def test_nothing_outlives_a_solve(solver: of.Solver, gradient: of.Gradient) -> None:
    """A field, its state and its parameters are freed with the results, without a search for reference cycles.

    Values alone; values and gradients; with inner times that want gradients, dense output and events.
    """
    for wants_times, wants_grad in ((False, False), (False, True), (True, True)):
        weight = torch.tensor(0.7, dtype=D, requires_grad=True)
        field = field_of(solver, weight)
        y0 = torch.ones(2, 2, dtype=D, requires_grad=True)
        t = torch.tensor([0.1, 0.5, 1.1], dtype=D, requires_grad=wants_times)
        shown = wants_times and isinstance(solver, Stepper) and isinstance(gradient, of.Backprop | of.Checkpointed)
        event = of.Event(lambda t, y: total(t, y) - 1.0, terminal=False)
        kinds = {"dense": True, "event": event} if shown else {}
        with torch.set_grad_enabled(wants_grad):
            solution = of.solve(field, y0, t, solver=solver, gradient=gradient, params=[weight], **kinds)
            loss = solution.y.sum() + (solution(0.4).sum() if shown else 0)
        if wants_grad:
            loss.backward()
        references = [weakref.ref(each) for each in (field, y0, weight, t, solution.y)]
        del field, y0, weight, t, event, kinds, solution, loss
        assert [reference() for reference in references] == [None] * 5


@pytest.mark.parametrize("gradient", [of.Checkpointed(every=2, per_stage=True), of.Backprop(), of.Adjoint()], ids=type)
@pytest.mark.usefixtures("uncollected")
def test_nothing_outlives_a_flow(gradient: of.Gradient) -> None:
    """So it is with flows that have penalties, and with densities, in both directions."""
    flow = of.Flow(
        MLP(2),
        RK4(num_steps=2),
        gradient,
        options=of.FlowOptions(regularizers=[of.Kinetic(0.1), of.JacobianNorm(0.1), of.Taylor(0.1)]),
    )
    flows: list[torch.nn.Module] = [flow]
    for divergence in (of.Exact(), of.Hutchinson(), of.HutchPlusPlus()):
        flows.append(of.CNF(of.Flow(MLP(2), RK4(num_steps=2), gradient), (2,), divergence=divergence))
    del flow, divergence
    while flows:
        model, x = flows.pop(), torch.ones(3, 2, requires_grad=True)
        if isinstance(model, of.CNF):
            loss = model().log_prob(x).sum() + model().rsample((3,)).sum()
        else:
            assert isinstance(model, of.Flow)
            loss = model(x).sum() + torch.stack(list(model.penalties.values())).sum()
        loss.backward()
        references = [weakref.ref(each) for each in (model, x, *model.parameters())]
        del model, x, loss
        assert not any(reference() is not None for reference in references)


class Energy(of.Dynamics):
    """Hamilton's equations of the energy p²/2 − k cos q, by autograd."""

    def __init__(self, width: int = 2, careful: bool = True) -> None:
        super().__init__()
        self.width, self.careful = width, careful
        self.pull = torch.nn.Parameter(torch.ones(()))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.careful or torch.is_grad_enabled()):
            y = y if y.requires_grad else y.detach().requires_grad_()
            q, p = y.chunk(2, dim=1)
            energy = (p.square() / 2 - self.pull * q.cos()).sum()
            (by_y,) = torch.autograd.grad(energy, y, create_graph=True)
        by_q, by_p = by_y.chunk(2, dim=1)
        return torch.cat((by_p, -by_q), dim=1)


@pytest.mark.parametrize(PAIRS, cases())
def test_fields_differentiate_in_inference_mode(solver: of.Solver, gradient: of.Gradient) -> None:
    """A field that takes derivatives by autograd gives the same in inference mode as under no_grad, densely too."""
    field, results = Energy().double(), list[list[Tensor]]()
    event = of.Event(lambda t, y: y[:, 0] - 0.6, terminal=False)
    kinds = {"dense": True, "event": event} if isinstance(solver, Stepper) else {}
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y0, t = torch.linspace(0, 1, 4, dtype=D).view(2, 2), torch.tensor([0.0, 0.4, 1.0])
            solution = of.solve(field, y0, t, solver=solver, gradient=gradient, **kinds)
            shown = [solution(0.3), solution.events[0].t] if kinds else []
        results.append([*leaves(solution.y), *shown])
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
def test_validation_of_an_energy() -> None:
    """Lightning validates, tests and trains a model of a Hamiltonian field; with its inference mode nothing changes."""
    data = Simulated(Energy(), [[0.5, 0.0], [1.0, 0.2]], t1=1.0, observations=5, steps=1)
    task = Trajectory(Energy(), Dopri5(1e-4, 1e-4))
    losses: list[float] = []
    for inference in (False, True):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(
            accelerator="cpu", inference_mode=inference, max_epochs=1, enable_checkpointing=False, **quiet
        )
        for stage in (trainer.validate, trainer.test):
            losses += stage(task, data, verbose=False)[0].values()
    assert losses[: len(losses) // 2] == losses[len(losses) // 2 :]
    trainer.fit(task, data)


def test_advice_for_fields_that_differentiate() -> None:
    """A field that differentiates without enabling autograd is told to, where the solve is without."""
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad") as caught:
        of.solve(Energy(careful=False), torch.ones(1, 2), [0.0, 1.0], solver=RK4(num_steps=2))
    assert "with torch.enable_grad():" in caught.value.__notes__[0]
