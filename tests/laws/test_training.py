"""Laws of training: what surrounds a field in practice gives the same gradients by every exact method."""

import gc
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import RK4, Dopri5, Kvaerno5, Rodas4

EXACT = ["Checkpointed"]
GRADIENTS = [name for name in plugins("gradient") if name != "Backprop"]


class Field(nn.Module):
    """A perceptron that can be given any layer between its two."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between, self.last = nn.Linear(4, 32), between, nn.Linear(32, 4)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.last(self.between(torch.tanh(self.first(y)) + t))


def grads(field: nn.Module, gradient: of.Gradient, solver: of.Solver | None = None) -> Tensor:
    """All parameters' gradients after one backward pass, the noise seeded."""
    torch.manual_seed(1)
    y0 = torch.randn(8, 4, requires_grad=True)
    field.zero_grad()
    flow = of.Flow(field, solver or RK4(num_steps=5), gradient)
    flow(y0).float().square().sum().backward()
    return torch.cat([y0.grad.flatten(), *(param.grad.flatten() for param in field.parameters())])


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("solver", [RK4(num_steps=5), Dopri5(1e-4, 1e-4)], ids=["fixed", "adaptive"])
def test_dropout(name: str, solver: of.Solver) -> None:
    """A solve draws one mask, keeps it at every evaluation and rerun, and the next solve draws another."""
    field = Field(nn.Dropout(0.5))
    truth = grads(field, of.Backprop(), solver)
    assert torch.allclose(grads(field, look_up("gradient", name)(), solver), truth, rtol=1e-4, atol=1e-5)
    flow = of.Flow(field, solver, look_up("gradient", name)())
    y0 = torch.randn(8, 4)
    assert not torch.allclose(flow(y0), flow(y0))
    torch.manual_seed(5)
    one = flow(y0)
    torch.manual_seed(5)
    assert torch.equal(flow(y0), one)


def test_noise_is_frozen_only_for_the_solve() -> None:
    """Inside a solve a random field is deterministic, so that its error estimate is small; after it, noise goes on."""
    seen: list[Tensor] = []

    def noisy(t: Tensor, y: Tensor) -> Tensor:
        seen.append(torch.randn(3))
        return y * 0

    torch.manual_seed(0)
    for _ in range(2):
        of.solve(noisy, torch.ones(3), [0.0, 1.0], solver=RK4(num_steps=3), params=())
    torch.manual_seed(0)
    first, second, third = torch.randn(3), torch.randn(3), torch.randn(3)
    assert all(torch.equal(draw, first) for draw in seen[:12])
    assert all(torch.equal(draw, second) for draw in seen[12:])
    torch.manual_seed(0)
    of.solve(noisy, torch.ones(3), [0.0, 1.0], solver=RK4(num_steps=3), params=())
    assert torch.equal(torch.randn(3), second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_autocast(name: str, inside: bool) -> None:
    """Under bf16 autocast the backward pass sees the forward's casts, wherever it is called; no gradient is lost."""
    field = Field(nn.Identity())
    y0 = torch.randn(8, 4)

    def found(gradient: of.Gradient) -> Tensor:
        field.zero_grad()
        flow = of.Flow(field, RK4(num_steps=5), gradient)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            end = flow(y0)
            if inside:
                end.square().sum().backward()
        if not inside:
            end.square().sum().backward()
        assert end.dtype == torch.float32
        return torch.cat([param.grad.flatten() for param in field.parameters()])

    truth = found(of.Backprop())
    value = found(look_up("gradient", name)())
    assert float((value - truth).norm() / truth.norm()) < 2e-2
    exact = grads(field, of.Backprop())  # without autocast, and so a little different
    assert exact.shape[0] == truth.shape[0] + y0.numel()


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed(), of.Adjoint()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize(
    "solver",
    [
        RK4(num_steps=5),
        Dopri5(1e-4, 1e-4),
        Dopri5(1e-4, 1e-4, per_sample=True),
        Kvaerno5(1e-3, 1e-3),
        Rodas4(1e-3, 1e-3),
    ],
    ids=lambda solver: f"{type(solver).__name__}{getattr(solver, 'per_sample', '')}",
)
def test_the_engine_computes_in_full_precision(solver: of.Solver, gradient: of.Gradient) -> None:
    """Autocast is for the field: where that does not heed it, rows, times between, events and gradients are the same."""
    dense = not isinstance(gradient, of.Adjoint)
    wave = of.Event(lambda t, y: y[:, 0] - 0.5, terminal=False)

    def found(enabled: bool) -> list[Tensor]:
        y0 = torch.linspace(0.8, 1.2, 6).view(3, 2).requires_grad_()
        t, events = torch.tensor([0.0, 0.37, 0.61, 1.5]), [wave] if dense else []
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            solution = of.solve(
                lambda t, y: -y * 1.01, y0, t, solver=solver, gradient=gradient, params=(), dense=dense, event=events
            )
            between = [solution(torch.tensor([0.2, 0.9])), *(each.t for each in solution.events)] if dense else []
        (slope,) = torch.autograd.grad(solution.y.square().sum(), y0)
        return [solution.y.detach(), slope, *(each.detach() for each in between)]

    for value, truth in zip(found(True), found(False), strict=True):
        assert torch.equal(value, truth)


@pytest.mark.parametrize("packed", [False, True], ids=["tensor", "tuple"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_that_autocast_made_is_solved_in_float32(dtype: torch.dtype, packed: bool) -> None:
    """Behind a layer under autocast a solve starts in float32, with its steps, and none of the warnings of low dtypes."""
    solver, y0 = Dopri5(1e-3, 1e-3), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    start = y0.to(dtype)

    def field(t: Tensor, y: Any) -> Any:
        return tuple(-leaf * 3 for leaf in y) if packed else -y * 3

    def found(y0: Tensor) -> of.Solution:
        return of.solve(field, (y0, y0[:, :1]) if packed else y0, [0.0, 1.0], solver=solver, params=())

    with torch.autocast("cpu", dtype):
        solution = found(start)
    exact = found(start.float())
    for value, truth in zip(solution.y if packed else [solution.y], exact.y if packed else [exact.y], strict=True):
        assert value.dtype == torch.float32
        assert value.equal(truth)
    assert solution.stats == exact.stats
    plain = of.solve(lambda t, y: -y, start.to(torch.bfloat16), [0.0, 1.0], solver=RK4(num_steps=2), params=())
    assert plain.y.dtype == torch.bfloat16  # without autocast a dtype is meant


@pytest.mark.parametrize("divergence", [None, of.Hutchinson()], ids=["flow", "density"])
def test_a_flow_behind_a_layer_under_autocast(divergence: of.Divergence | None) -> None:
    """A flow takes as many evaluations behind a bfloat16 layer as from the same state in float32."""
    flow, layer = of.Flow(Field(nn.Identity()), Dopri5(1e-3, 1e-3)), nn.Linear(4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = []
        for start in (layer(torch.ones(8, 4)), layer(torch.ones(8, 4)).float()):
            torch.manual_seed(0)
            y = flow.trajectory(start, (0.0, 1.0), divergence=divergence).y
            found.append((y if divergence is None else torch.cat([y[0].flatten(), y[1].flatten()]), flow.stats))
    (value, stats), (truth, wanted) = found
    assert value.equal(truth)
    assert value.dtype == torch.float32
    assert stats == wanted


@pytest.mark.parametrize("solver", [Kvaerno5(1e-3, 1e-3), Rodas4(1e-3, 1e-3)], ids=lambda each: type(each).__name__)
def test_implicit_solvers_under_autocast(solver: of.Solver) -> None:
    """A network that autocast makes less exact is solved implicitly, with the state's own precision for the systems."""
    field, y0 = Field(nn.Identity()), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = of.Flow(field, solver)(y0)
        with torch.autocast("cpu", torch.bfloat16):
            y1 = of.Flow(field, solver)(y0)
    assert y1.dtype == torch.float32
    assert float((y1 - exact).norm() / exact.norm()) < 2e-2


@pytest.mark.parametrize("solver", [RK4(num_steps=3), Dopri5(), Kvaerno5()], ids=lambda solver: type(solver).__name__)
def test_states_alone_are_kept_for_the_backward_pass(solver: of.Solver) -> None:
    """Of the tensors of the size of the state that a forward pass makes, `Checkpointed` holds one a step, and the rows."""
    field, y0 = Field(nn.Identity()), torch.randn(8, 4, requires_grad=True)
    gc.collect()
    before = {id(each) for each in alive(y0)}
    solution = of.solve(field, y0, [0.0, 1.0], solver=solver, gradient=of.Checkpointed())
    gc.collect()
    kept = {each.untyped_storage().data_ptr() for each in alive(y0) if id(each) not in before}
    assert solution.y.requires_grad
    assert len(kept) <= solution.stats.accepted + 2


def alive(like: Tensor) -> list[Tensor]:
    """The tensors in memory that hold at least as many numbers as `like`."""
    found = (each for each in gc.get_objects() if issubclass(type(each), Tensor))  # no lazy module is touched
    return [each for each in found if each.numel() >= like.numel()]


def test_bit_equality_in_float32() -> None:
    """Without autocast, Checkpointed and Backprop agree in float32 to the order of summation."""
    field = Field(nn.Identity())
    truth = grads(field, of.Backprop())
    assert torch.allclose(grads(field, of.Checkpointed()), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GRADIENTS)
def test_hooks_see_every_evaluation(name: str) -> None:
    """Forward hooks of the field run at each evaluation, with states that stay as they were."""
    field = Field(nn.Identity())
    seen: list[Tensor] = []
    field.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1].detach()))
    flow = of.Flow(field, RK4(num_steps=3), look_up("gradient", name)())
    with torch.no_grad():
        flow(torch.randn(2, 4))
    assert len(seen) == 12
    copies = [state.clone() for state in seen]
    with torch.no_grad():
        flow(torch.randn(2, 4))
    assert all(torch.equal(state, copy) for state, copy in zip(seen, copies, strict=False))
    assert len({tuple(state.flatten().tolist()) for state in seen[:12]}) == 12


@pytest.mark.parametrize("name", plugins("gradient"))
def test_compiled_field(name: str) -> None:
    """A field compiled by torch.compile has the gradients of the plain one."""
    field = Field(nn.Identity())
    truth = grads(field, look_up("gradient", name)())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(field, backend="aot_eager")
        assert torch.allclose(grads(compiled, look_up("gradient", name)()), truth, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_transforms_of_functions() -> None:
    """vmap, grad and jvp go through a fixed-step flow with Backprop, and agree with loops and finite differences."""
    field = Field(nn.Identity())
    flow = of.Flow(field, RK4(num_steps=4), of.Backprop())
    y0 = torch.randn(5, 3, 4)
    assert torch.allclose(torch.func.vmap(flow)(y0), torch.stack([flow(part) for part in y0]), atol=1e-6)
    (plain,) = torch.autograd.grad(flow(start := y0[0].clone().requires_grad_()).square().sum(), start)
    assert torch.allclose(torch.func.grad(lambda y: flow(y).square().sum())(y0[0]), plain, atol=1e-5)
    tangent = torch.randn(3, 4)
    _, moved = torch.func.jvp(flow, (y0[0],), (tangent,))
    difference = (flow(y0[0] + 1e-2 * tangent) - flow(y0[0] - 1e-2 * tangent)) / 2e-2
    assert torch.allclose(moved, difference, atol=1e-3)
    per_sample = torch.func.vmap(torch.func.grad(lambda y: flow(y).square().sum()))(y0)
    assert torch.allclose(per_sample[0], plain, atol=1e-5)
