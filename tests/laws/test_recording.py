"""Laws of flows under functions of torch that record or transform operations: compile, export, trace, func, meta."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from choice import few
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, AdamsBashforth, Dopri5, Kvaerno3, Kvaerno5, Leapfrog, Rodas4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # a field that checks shapes
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not"),  # torch's, at a graph break
]
ADAPTIVE = "steps of Dopri5 depend on values: fix them, as Dopri5\\(num_steps=20\\)"


class Spring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, dim=1)
        return torch.cat([p, -self.stiffness(q) * (1 + t)], dim=1)


class Trajectory(nn.Module):
    def __init__(self, flow: of.Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, y0: Tensor) -> Tensor:
        return self.flow.trajectory(y0, [0.0, 0.3, 0.7, 2.0]).y


def model(solver: of.Solver, field: nn.Module | None = None, gradient: of.Gradient | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), of.Flow(field or MLP(4, hidden=[8]), solver, gradient), nn.Linear(4, 1))


@pytest.fixture
def compiled() -> Iterator[Callable[..., nn.Module]]:
    """torch.compile without generated code, and without what other tests left."""
    torch.compiler.reset()
    yield lambda module, **options: torch.compile(module, backend="aot_eager", **options)
    torch.compiler.reset()


def results(called: nn.Module, module: nn.Module) -> list[Tensor]:
    """The value at a random input and all gradients."""
    torch.manual_seed(1)
    x = torch.randn(5, 3, requires_grad=True)
    module.zero_grad()
    y = called(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(param.grad for param in module.parameters())]


@pytest.mark.parametrize(
    ("solver", "gradient"),
    few([(RK4(num_steps=3), of.Checkpointed()), (Dopri5(num_steps=2), of.Backprop())], lambda case: case[0].order == 4),
)
def test_fixed_steps_compile_whole(solver, gradient, compiled):
    """A model around a flow of fixed steps is one graph, of the same values, gradients and evaluations."""
    module = model(solver, gradient=gradient)
    wanted, nfe = results(module, module), module[1].stats.nfe_forward
    module[1].stats = None
    torch.testing.assert_close(results(compiled(module, fullgraph=True), module), wanted)
    assert module[1].stats.nfe_forward == nfe


@pytest.mark.parametrize(
    ("solver", "gradient", "options"),
    [
        (Dopri5(), None, {}),
        (AdamsBashforth(num_steps=5), None, {}),
        (RK4(num_steps=3), of.Adjoint(), {}),
        (RK4(num_steps=3), of.Checkpointed(every=2), {}),
        (RK4(num_steps=3), None, {"regularizers": [of.Kinetic(weight=0.1)]}),
    ],
)
def test_other_flows_compile_around_the_solve(solver, gradient, options, compiled):
    """They have the same values and gradients, with a graph break."""
    module = model(solver, gradient=gradient)
    module[1].options = of.FlowOptions(**options)
    wanted = results(module, module)
    torch.testing.assert_close(results(compiled(module), module), wanted)
    assert len(module[1].penalties) == len(options)


def test_compiled_dropout_is_the_same_at_every_evaluation(compiled):
    """A field with dropout is solved as without the compiler: its noise does not change within a solve."""
    field = nn.Module()
    field.layer, field.dropout = nn.Linear(4, 4, bias=False), nn.Dropout(0.5)
    field.forward = lambda t, y: field.dropout(torch.ones_like(y))
    flow = of.Flow(field, RK4(num_steps=4))
    end = compiled(flow)(torch.zeros(200, 4))
    assert set(end.detach().unique().round(decimals=4).tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    "solver", [RK4(num_steps=3), Dopri5(num_steps=2), AdamsBashforth(num_steps=5), Leapfrog(num_steps=3)]
)
def test_fixed_steps_are_exported_and_traced(solver):
    """The exported and the traced model have its values, at any number of samples."""
    module = model(solver, Spring() if isinstance(solver, Leapfrog) else None).eval()
    batch, x = torch.export.Dim("batch"), torch.randn(7, 3)
    with torch.no_grad():
        wanted = module(x)
        exported = torch.export.export(module, (torch.randn(5, 3),), dynamic_shapes=({0: batch},))
        traced = torch.jit.trace(module, torch.randn(5, 3))
        torch.testing.assert_close(exported.module()(x), wanted)
        torch.testing.assert_close(traced(x), wanted)
        torch.testing.assert_close(module(x), wanted)  # nothing of the recording is kept


def test_output_times_inside_a_step_are_exported():
    """A trajectory has rows by dense output at times between its steps."""
    module, y0 = Trajectory(of.Flow(MLP(2), Dopri5(num_steps=3))), torch.randn(5, 2)
    torch.testing.assert_close(torch.export.export(module, (y0,)).module()(y0), module(y0))


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (Dopri5(), ADAPTIVE),
        (Kvaerno5(num_steps=3), "operations of Kvaerno5 depend on values: use an explicit solver with num_steps"),
        (Rodas4(num_steps=3), "operations of Rodas4 depend"),
        (RK4(num_steps=3, compile=True), "compiles its solves itself: leave compile out"),
        (RK4(num_steps=3, jump_ts=[0.5]), "leave out jump_ts"),
    ],
)
def test_what_depends_on_values_is_not_recorded(solver, message):
    """Export and trace refuse it and say what to do."""
    module, x = model(solver), torch.randn(5, 3)
    with pytest.raises(of.SettingError, match=f"torch.export records fixed steps.*{message}"):
        torch.export.export(module, (x,))
    with pytest.raises(of.SettingError, match=f"torch.jit.trace records fixed steps.*{message}"):
        torch.jit.trace(module, x)


class Times(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.flow, self.options = of.Flow(MLP(2), RK4(num_steps=3)), options

    def forward(self, y0: Tensor) -> Tensor:
        return self.flow.trajectory(y0, **self.options).y


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": torch.tensor([0.0, 1.0])}, "times must be numbers"),
        ({"t": [0.0, 1.0], "dense": True}, "leave them out"),
        ({"t": [0.0, 1.0, 0.5]}, "strictly increasing"),
    ],
)
def test_arguments_that_cannot_be_recorded(options, message):
    """Tensors of times, dense output and wrong times are refused."""
    with pytest.raises(of.SettingError, match=message):
        torch.export.export(Times(**options), (torch.randn(5, 2),))


@pytest.mark.parametrize("solver", [RK4(num_steps=3), Dopri5()])
def test_the_default_gradient_under_torch_func(solver):
    """grad, jacrev and hessian of the default gradient are those of Backprop, which are those of autograd."""
    torch.manual_seed(0)
    flow, y0 = of.Flow(MLP(2), solver), torch.randn(3, 2)

    def loss(parameters: dict[str, Tensor], y0: Tensor) -> Tensor:
        return torch.func.functional_call(flow, parameters, (y0,)).square().sum()

    grads = torch.func.grad(loss)(dict(flow.named_parameters()), y0)
    flow(y0).square().sum().backward()
    torch.testing.assert_close(grads, {name: param.grad for name, param in flow.named_parameters()})
    plain = of.Flow(flow.dynamics, solver, of.Backprop())
    torch.testing.assert_close(torch.func.jacrev(flow)(y0), torch.autograd.functional.jacobian(plain, y0))
    torch.testing.assert_close(
        torch.func.hessian(lambda y0: flow(y0).sum())(y0),
        torch.autograd.functional.hessian(lambda y0: plain(y0).sum(), y0),
    )


def test_vmap_maps_fixed_steps():
    """Per-sample gradients are those of the samples; adaptive steps, common to a batch, are refused."""
    flow, y0 = of.Flow(MLP(2), RK4(num_steps=3)), torch.randn(4, 2)

    def loss(parameters: dict[str, Tensor], y0: Tensor) -> Tensor:
        return torch.func.functional_call(flow, parameters, (y0[None],)).square().sum()

    parameters = dict(flow.named_parameters())
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, y0)
    alone = [torch.func.grad(loss)(parameters, each) for each in y0]
    torch.testing.assert_close(grads, {name: torch.stack([each[name] for each in alone]) for name in parameters})
    adaptive = of.Flow(MLP(2), Dopri5())
    with pytest.raises(of.SettingError, match=f"vmap maps fixed steps: the {ADAPTIVE}, or call the flow on the whole"):
        torch.func.vmap(lambda y0: adaptive(y0[None]))(y0)


def test_vmap_maps_symplectic_steps():
    """As it maps others of a fixed number; whether the field is separable is not verified there."""

    def spring(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, -1)
        return torch.cat((p, -q.sin()), -1)

    def end(y0: Tensor) -> Tensor:
        return of.solve(spring, y0[None], [0.0, 1.0], solver=Leapfrog(num_steps=5), params=()).y[-1, 0]

    y0 = torch.randn(4, 2)
    torch.testing.assert_close(torch.func.vmap(end)(y0), torch.stack([end(each) for each in y0]))


def test_forward_mode_does_not_reach_the_times():
    """It is an error that names the reverse mode, and not a derivative of zero."""

    def end(t: Tensor) -> Tensor:
        return of.solve(lambda t, y: -y, torch.ones(1, 1), t, solver=Dopri5(), gradient=of.Backprop(), params=()).y

    t, ahead = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    with pytest.raises(of.GradientError, match=r"do not reach the times of a solve: use reverse mode, such as"):
        torch.func.jvp(end, (t,), (ahead,))
    with pytest.raises(of.GradientError, match="do not reach the times"):
        torch.func.jacfwd(end)(t)
    slope = torch.func.jacrev(end)(t)[-1, 0, 0]
    torch.testing.assert_close(slope, torch.tensor([1.0, -1.0]) * math.exp(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", [Kvaerno3(), Rodas4()], ids=str)
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_implicit_solves_are_not_transformed(transform, solver):
    """Their stages use autograd themselves, which the message says."""

    def end(y0: Tensor) -> Tensor:
        return of.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, gradient=of.Backprop(), params=()).y[-1].sum()

    with pytest.raises(of.SettingError, match=r"torch\.func does not transform: use an explicit solver"):
        transform(end)(torch.ones(2, 1))


@pytest.mark.parametrize("gradient", [of.Adjoint(), of.Reversible(), of.Checkpointed(every=2)])
def test_gradients_that_cannot_be_transformed(gradient):
    """Backward passes of their own name Backprop, also for several gradients at once."""
    flow, y0 = of.Flow(MLP(2), RK4(num_steps=3), gradient), torch.randn(3, 2)
    with pytest.raises(of.GradientError, match=r"torch.func transforms .* use gradient=Backprop\(\)"):
        torch.func.jacrev(flow)(y0)
    with pytest.raises(of.GradientError, match=r"several at once.* use gradient=Backprop\(\)"):
        torch.autograd.functional.jacobian(flow, y0, vectorize=True)


def test_meta_tensors_have_shapes():
    """Fixed steps, forward and backward, need no values; adaptive steps do, and say so."""
    module = model(RK4(num_steps=3)).to("meta")
    y = module(torch.randn(5, 3, device="meta"))
    y.sum().backward()
    assert y.shape == (5, 1)
    assert module[1].dynamics.layers[0].weight.grad.shape == module[1].dynamics.layers[0].weight.shape
    with pytest.raises(of.SettingError, match=f"meta device has no values, and the {ADAPTIVE}"):
        model(Dopri5()).to("meta")(torch.randn(5, 3, device="meta"))


def replica(module: nn.Module) -> nn.Module:
    """A copy as `nn.DataParallel` makes it for each device, which without GPUs it does not."""
    made = module._replicate_for_data_parallel()
    made._former_parameters = {name: param.clone() for name, param in module._parameters.items()}
    for name, param in made._former_parameters.items():
        setattr(made, name, param)
    for name, child in module._modules.items():
        made._modules[name] = replica(child)
    return made


def test_replicas_of_data_parallel_pass_gradients_on():
    """The parameters of a replica are no parameters for torch, but have the gradients of the module's."""
    flow, y0 = of.Flow(MLP(2), RK4(num_steps=3)), torch.randn(3, 2)
    flow(y0).sum().backward()
    wanted = [param.grad for param in flow.parameters()]
    flow.zero_grad()
    replica(flow)(y0).sum().backward()
    torch.testing.assert_close([param.grad for param in flow.parameters()], wanted)


def test_the_text_of_a_flow():
    """It has the solver and the gradient, with the options that are not the defaults."""
    text = repr(of.Flow(MLP(2), Dopri5(rtol=1e-3, controller="PI"), of.Adjoint(Dopri5(rtol=1e-4))))
    assert "solver=Dopri5(rtol=0.001, controller='PI')" in text
    assert "gradient=Adjoint(solver=Dopri5(rtol=0.0001))" in text
    assert repr(of.Checkpointed()) == "Checkpointed()"
