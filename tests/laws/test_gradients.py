"""Laws of gradients beside those of odeflow.testing: finite differences, memory, statistics, options."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from math import comb
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import odeflow as of
from equations import loss_of
from odeflow.engine.gradients.checkpointed import _reverse
from odeflow.engine.gradients.reversible import _PairStages
from odeflow.engine.loop.integrate import run
from odeflow.engine.tape import Observer
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import Kvaerno5, Rodas4

D = torch.float64
SPAN = torch.tensor([0.0, 1.0], dtype=D)
GRADIENTS = [name for name in plugins("gradient") if name != "Backprop"]


def rk4(num_steps: int = 60) -> of.Solver:
    return look_up("solver", "RK4")(num_steps=num_steps)


def dopri5(tolerance: float = 1e-9) -> of.Solver:
    return look_up("solver", "Dopri5")(rtol=tolerance, atol=tolerance)


def torchdiffeq(tolerance: float = 1e-9) -> of.Solver:
    return look_up("solver", "TorchDiffEq")("dopri5", tolerance, tolerance)


SOLVERS: dict[str, Callable[..., of.Solver]] = {"rk4": rk4, "dopri5": dopri5, "torchdiffeq": torchdiffeq}


def problem(field: nn.Module, kind: str, backwards: bool, count: int) -> tuple[list[Tensor], Tensor]:
    """The leaves of the initial state, and the times, all wanting gradients."""
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(4, 3, dtype=D, generator=generator)]
    if kind == "tuple":
        leaves.append(torch.randn(4, dtype=D, generator=generator))
    t = torch.tensor([0.2, 0.5, 1.1, 1.4][:: 3 if count == 2 else 1], dtype=D)
    t = t.flip(0) if backwards else t
    return [leaf.requires_grad_() for leaf in leaves], t.clone().requires_grad_()


def gradients(
    field: nn.Module, leaves: list[Tensor], t: Tensor, solver: of.Solver, gradient: of.Gradient
) -> list[Tensor | None]:
    """∂L/∂y₀, ∂L/∂t and ∂L/∂θ."""
    state = tuple(leaves) if len(leaves) > 1 else leaves[0]
    solution = of.solve(field, state, t, solver=solver, gradient=gradient)
    wanted = [param for param in field.parameters() if param.requires_grad]
    return list(torch.autograd.grad(loss_of(solution), [*leaves, t, *wanted], allow_unused=True))


def relative(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


@pytest.mark.parametrize(("kind", "backwards"), [("tensor", False), ("tuple", True)])
@pytest.mark.parametrize("make", SOLVERS.values(), ids=list(SOLVERS))
def test_backprop_agrees_with_finite_differences(
    make: Callable[..., of.Solver], kind: str, backwards: bool, request: pytest.FixtureRequest
) -> None:
    """∂L/∂y₀, ∂L/∂t and ∂L/∂θ by Backprop are central differences to 1e-6.

    At fixed steps that holds however coarse they are, the first and the last time included; at times between
    them the interpolant has its own slope, so that a tight tolerance is needed.
    """
    field = request.getfixturevalue("pendulum" if kind == "tensor" else "coupled")
    count = 2 if make is rk4 else 4
    leaves, t = problem(field, kind, backwards, count)
    solver = rk4(12) if make is rk4 else make(1e-11)
    found = gradients(field, leaves, t, solver, of.Backprop())
    wanted = [param for param in field.parameters() if param.requires_grad]
    weight = next(number for number, param in enumerate(wanted) if param.dim() == 2)
    for number, places in {0: [0, 11], len(leaves): range(count), len(leaves) + 1 + weight: [0, 7]}.items():
        variable = [*leaves, t, *wanted][number]
        differences = [central_difference(field, leaves, t, solver, variable, place) for place in places]
        gradient = found[number]
        assert gradient is not None
        error = gradient.flatten()[list(places)] - torch.tensor(differences)
        assert float(error.abs().max()) < 1e-6 * float(gradient.abs().max())


def central_difference(
    field: nn.Module, leaves: list[Tensor], t: Tensor, solver: of.Solver, variable: Tensor, place: int
) -> float:
    """L′ in one entry of a variable, from L at x ± ε and x ± 2ε, to the order ε⁴."""
    state = tuple(leaves) if len(leaves) > 1 else leaves[0]
    entry, step, total = variable.view(-1), 1e-3, 0.0
    with torch.no_grad():
        for offset, weight in {1: 8, -1: -8, 2: -1, -2: 1}.items():
            entry[place] += offset * step
            total += weight * float(loss_of(of.solve(field, state, t, solver=solver)))
            entry[place] -= offset * step
    return total / (12 * step)


@pytest.mark.parametrize("name", plugins("gradient"))
class TestEveryGradientAlone:
    def test_float32(self, name: str) -> None:
        """In float32 the gradients are those of float64 to 1e-4."""
        field = look_up("dynamics", "MLP")(dim=3, hidden=[16])
        y0 = torch.randn(8, 3)
        results = []
        for dtype in (torch.float32, torch.float64):
            field.to(dtype)
            solver = look_up("solver", "Dopri5")(1e-5, 1e-6)
            end = of.Flow(field, solver, look_up("gradient", name)())(y0.to(dtype))
            results.append(
                torch.cat([part.flatten() for part in torch.autograd.grad(end.sin().sum(), field.parameters())])
            )
        assert results[0].dtype == torch.float32
        assert relative(results[0].double(), results[1]) < 1e-4

    def test_constant_field(self, name: str) -> None:
        """A field that depends on nothing carries the gradient through unchanged."""
        y0 = torch.randn(2, 3, dtype=D, requires_grad=True)
        solution = of.solve(
            lambda t, y: torch.ones_like(y),
            y0,
            [0.0, 1.0],
            solver=rk4(3),
            gradient=look_up("gradient", name)(),
            params=(),
        )
        (found,) = torch.autograd.grad((solution.y[-1] * torch.arange(3)).sum(), y0)
        assert torch.equal(found, torch.arange(3, dtype=D).expand(2, 3))

    def test_only_parameters_want_gradients(self, name: str, pendulum: nn.Module) -> None:
        """Parameters get their gradients although the initial state wants none, and grad accumulates twice."""
        flow = of.Flow(pendulum, rk4(5), look_up("gradient", name)())
        y0 = torch.randn(4, 3, dtype=D)
        flow(y0).sum().backward()
        once = pendulum.inner.weight.grad.clone()
        flow(y0).sum().backward()
        assert torch.allclose(pendulum.inner.weight.grad, 2 * once)
        assert pendulum.frozen.grad is None
        assert pendulum.unused.grad is None

    def test_nothing_wants_gradients(self, name: str, pendulum: nn.Module) -> None:
        """Without anything to differentiate, and under no_grad and inference_mode, the values alone are computed."""
        y0 = torch.randn(4, 3, dtype=D)
        flow = of.Flow(pendulum, rk4(5), look_up("gradient", name)())
        with torch.no_grad():
            values = flow(y0)
        with torch.inference_mode():
            assert torch.equal(flow(y0), values)
        for param in pendulum.parameters():
            param.requires_grad_(False)
        assert torch.allclose(flow(y0), values, rtol=0, atol=1e-14)
        assert not flow(y0).requires_grad

    def test_closure_parameters(self, name: str) -> None:
        """Tensors inside a function get gradients if they are named; if they cannot be known, that is an error."""
        rate = torch.tensor(-0.7, dtype=D, requires_grad=True)

        def decay(t: Tensor, y: Tensor) -> Tensor:
            return rate * y

        y0 = torch.ones(1, dtype=D)
        gradient = look_up("gradient", name)()
        solution = of.solve(decay, y0, [0.0, 2.0], solver=rk4(), gradient=gradient, params=[rate])
        (found,) = torch.autograd.grad(solution.y[-1].sum(), rate)
        assert float(found) == pytest.approx(2 * torch.exp(2 * rate).item(), rel=1e-7)
        if gradient.needs_params:
            with pytest.raises(of.GradientError, match=r"the field is a function, so \w+ cannot know .* Pass params="):
                of.solve(decay, y0, [0.0, 2.0], solver=rk4(), gradient=gradient)

    def test_statistics_of_the_backward_pass(self, name: str, pendulum: nn.Module) -> None:
        """Evaluations of the backward pass are counted when it runs: none by Backprop, the reruns by Checkpointed."""
        flow = of.Flow(pendulum, rk4(5), look_up("gradient", name)())
        end = flow(torch.randn(4, 3, dtype=D))
        assert flow.stats.nfe_forward == {"Reversible": 40, "InterpolatedAdjoint": 21}.get(name, 20)
        assert flow.stats.nfe_backward == 0
        end.sum().backward()
        assert flow.stats.nfe_backward == {"Backprop": 0, "Reversible": 40}.get(name, 20)


def test_second_derivatives(pendulum: nn.Module) -> None:
    """Backprop is twice differentiable (finite differences agree); the others refuse, and say so."""
    y0 = torch.randn(2, 3, dtype=D, requires_grad=True)

    def end(y: Tensor, gradient: of.Gradient | None = None) -> Tensor:
        return of.solve(pendulum, y, [0.0, 1.0], solver=rk4(4), gradient=gradient or of.Backprop()).y[-1]

    assert torch.autograd.gradgradcheck(end, (y0,))
    for name in GRADIENTS:
        gradient = look_up("gradient", name)()
        (first,) = torch.autograd.grad(end(y0, gradient).sin().sum(), y0, create_graph=True)
        for again in (
            lambda first=first: first.sum().backward(),
            lambda first=first: torch.autograd.grad(first.sum(), y0),
            lambda first=first: torch.autograd.grad(first.sum(), pendulum.inner.weight),
            lambda g=gradient: torch.autograd.functional.hessian(lambda y: end(y, g).sum(), y0),
            lambda g=gradient: torch.autograd.functional.hvp(lambda y: end(y, g).sum(), y0, y0),
            lambda g=gradient: torch.autograd.functional.hessian(partial(_by_times, pendulum, y0, g), SPAN),
        ):
            with pytest.raises(
                of.GradientError, match=r"cannot be differentiated again\. .* use gradient=Backprop\(\)"
            ):
                again()


def _by_times(field: nn.Module, y0: Tensor, gradient: of.Gradient, t: Tensor) -> Tensor:
    return of.solve(field, y0.detach(), t, solver=dopri5(1e-6), params=(), gradient=gradient).y[-1].sum()


def test_a_gradient_in_a_loss_is_no_constant(pendulum: nn.Module) -> None:
    """A step of an inner loop, w − η ∂L/∂w, differentiated by w: wrong without ∂²L/∂w², which is refused."""
    w = torch.tensor(0.5, dtype=D, requires_grad=True)
    for name in ("Backprop", *GRADIENTS):
        gradient = look_up("gradient", name)()
        y = of.solve(
            lambda t, y: -w * y, torch.ones(1, 1, dtype=D), [0.0, 1.0], solver=rk4(20), gradient=gradient, params=[w]
        ).y[-1]
        (inner,) = torch.autograd.grad(y.sum() ** 2, w, create_graph=True)
        if name == "Backprop":
            assert float(torch.autograd.grad(w - 0.1 * inner, w)[0]) == pytest.approx(1 - 0.4 / math.e, rel=1e-6)
        else:
            with pytest.raises(of.GradientError, match="cannot be differentiated again"):
                torch.autograd.grad(w - 0.1 * inner, w)


@pytest.mark.parametrize("name", plugins("gradient"))
def test_weights_that_were_changed_are_noticed(name: str, pendulum: nn.Module) -> None:
    """A backward pass after an optimizer's step would be that of other weights."""
    y0 = torch.randn(2, 3, dtype=D)
    y = of.solve(pendulum, y0, [0.0, 1.0], solver=rk4(4), gradient=look_up("gradient", name)()).y[-1]
    with torch.no_grad():
        pendulum.inner.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", plugins("gradient"))
def test_dual_tensors(name: str, pendulum: nn.Module) -> None:
    """In forward mode `Backprop` has the derivative of reverse mode; gradients with a backward pass of their own refuse."""
    y0, direction = torch.randn(2, 2, 3, dtype=D)
    with forward_ad.dual_level():
        dual, gradient = forward_ad.make_dual(y0, direction), look_up("gradient", name)()
        if name == "Backprop":
            y = of.solve(pendulum, dual, [0.0, 1.0], solver=rk4(4), gradient=gradient).y[-1]
            tangent = forward_ad.unpack_dual(y).tangent
            wanted = torch.autograd.functional.jvp(
                lambda y: of.solve(pendulum, y, [0.0, 1.0], solver=rk4(4), gradient=gradient).y[-1], y0, direction
            )[1]
            torch.testing.assert_close(tangent, wanted)
        else:
            with pytest.raises(of.GradientError, match=r"none in forward mode, .* use gradient=Backprop\(\)"):
                of.solve(pendulum, dual, [0.0, 1.0], solver=rk4(4), gradient=gradient)


@pytest.mark.parametrize("solver", [Kvaerno5(1e-8, 1e-8), Rodas4(1e-8, 1e-8)], ids=str)
def test_dual_tensors_in_stiff_solvers(solver: of.Solver) -> None:
    """The tangent of an implicit method is that of the solution; a Rosenbrock method refuses."""

    def solved(rate: Tensor) -> Tensor:
        y0 = torch.ones(1, 1, dtype=D)
        return of.solve(lambda t, y: -rate * y**2, y0, [0.0, 1.0], solver=solver, params=()).y[-1]

    for grad in (True, False):
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.ones((), dtype=D), torch.ones((), dtype=D))
            if isinstance(solver, Rodas4):
                with pytest.raises(of.GradientError, match="Rosenbrock methods cannot be differentiated in forward"):
                    solved(dual)
            else:
                assert float(forward_ad.unpack_dual(solved(dual)).tangent) == pytest.approx(-0.25, abs=1e-5)


def test_implicit_steps_take_one_gradient_at_a_time() -> None:
    def end(y0: Tensor) -> Tensor:
        gradient = of.Backprop()
        return of.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=Kvaerno5(), params=(), gradient=gradient).y[-1]

    with pytest.raises(of.GradientError, match="implicit steps take one gradient at a time"):
        torch.autograd.functional.jacobian(end, torch.ones(2, 2), vectorize=True)
    with pytest.raises(of.SettingError, match=r"vmap maps fixed steps: the operations of Kvaerno5 depend on values"):
        torch.autograd.functional.jacobian(end, torch.ones(2, 2), vectorize=True, strategy="forward-mode")


@pytest.mark.parametrize("name", plugins("gradient"))
def test_second_derivatives_by_inner_times(name: str, pendulum: nn.Module) -> None:
    """∂L/∂tᵢ between the first and the last time can be differentiated again by tᵢ, by every gradient."""
    y0 = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(1))

    def first(middle: float, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        t = torch.tensor([0.0, middle, 1.0], dtype=D, requires_grad=True)
        y = of.solve(pendulum, y0, t, solver=dopri5(1e-11), gradient=look_up("gradient", name)()).y[1]
        return t, torch.autograd.grad(y.sum(), t, create_graph=create_graph)[0][1]

    t, gradient = first(0.4, create_graph=True)
    difference = (first(0.4 + 1e-4)[1] - first(0.4 - 1e-4)[1]) / 2e-4
    assert float(torch.autograd.grad(gradient, t)[0][1]) == pytest.approx(float(difference), rel=1e-5)


def test_mixed_second_derivatives_by_inner_times(pendulum: nn.Module) -> None:
    """By `Backprop` ∂²L/∂y₀∂tᵢ and ∂²L/∂θ∂tᵢ agree with finite differences of ∂L/∂y₀ and ∂L/∂θ."""
    y0 = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(1)).requires_grad_()
    leaves = (y0, pendulum.inner.weight, pendulum.outer.weight)

    def first(middle: float, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        t = torch.tensor([0.0, middle, 1.0], dtype=D, requires_grad=True)
        y = of.solve(pendulum, y0, t, solver=dopri5(1e-11), gradient=of.Backprop()).y[1]
        found = torch.autograd.grad(y.sin().sum(), leaves, create_graph=create_graph)
        return t, torch.cat([gradient.flatten() for gradient in found])

    t, gradients = first(0.4, create_graph=True)
    found = torch.stack([torch.autograd.grad(each, t, retain_graph=True)[0][1] for each in gradients])
    difference = (first(0.4 + 1e-4)[1] - first(0.4 - 1e-4)[1]) / 2e-4
    assert difference.abs().min() > 0
    assert torch.allclose(found, difference, rtol=1e-5, atol=1e-7)


def test_a_rosenbrock_step_has_no_stages_apart(pendulum: nn.Module) -> None:
    """`Checkpointed(per_stage=True)` refuses methods that differentiate the field within a stage, before the solve."""
    with pytest.raises(of.GradientError, match=r"per_stage=True\) does not support Rodas4.* Use Checkpointed\(\)"):
        of.solve(
            pendulum,
            torch.zeros(2, 3),
            [0.0, 1.0],
            solver=look_up("solver", "Rodas4")(),
            gradient=of.Checkpointed(per_stage=True),
        )


def test_adjoint_with_a_solver_of_its_own(pendulum: nn.Module) -> None:
    """The backward equation may have its own solver; the tighter it is, the closer to the truth."""
    y0 = torch.randn(4, 3, dtype=D, requires_grad=True)

    def found(gradient: of.Gradient) -> Tensor:
        solution = of.solve(pendulum, y0, [0.0, 2.0], solver=dopri5(1e-10), gradient=gradient)
        return torch.autograd.grad(solution.y[-1].sin().sum(), y0)[0]

    truth = found(of.Backprop())
    errors = [relative(found(of.Adjoint(dopri5(tolerance))), truth) for tolerance in (1e-3, 1e-6, 1e-9)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-8


def saved_bytes(field: nn.Module, gradient: of.Gradient, num_steps: int, y0: Tensor) -> int:
    """What autograd keeps between the passes."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        of.solve(field, y0, [0.0, 1.0], solver=rk4(num_steps), gradient=gradient)
    return saved


def test_memory_between_the_passes(pendulum: nn.Module) -> None:
    """Kept for the backward pass: a graph, a state a step, a state every k steps, a budget, or the same always."""
    y0 = torch.randn(64, 3, dtype=D, requires_grad=True)
    state = y0.numel() * y0.element_size()

    def growth(gradient: of.Gradient) -> int:
        return saved_bytes(pendulum, gradient, 160, y0) - saved_bytes(pendulum, gradient, 10, y0)

    assert growth(of.Adjoint()) == growth(of.Reversible()) == 0
    assert growth(of.Checkpointed()) == 150 * state
    assert growth(of.Checkpointed(every=10)) == 15 * state
    assert growth(of.Backprop()) > 150 * 4 * state
    for steps in (3, 10, 160, 333):
        assert saved_bytes(pendulum, of.Checkpointed(max_bytes=8 * state), steps, y0) <= 8 * state


def test_peak_memory_of_both_passes(pendulum: nn.Module) -> None:
    """Eight times the steps raise the peak of tensor memory by less than 5 % for Adjoint and Reversible."""
    y0 = torch.randn(4096, 3, dtype=D, requires_grad=True)

    def peak(gradient: of.Gradient, num_steps: int) -> int:
        settings = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
        with torch.profiler.profile(**settings) as recording:
            y = of.solve(pendulum, y0, [0.0, 1.0], solver=rk4(num_steps), gradient=gradient).y
            torch.autograd.grad(y[-1].sum(), y0)
        events = sorted(recording.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))

    state = y0.numel() * y0.element_size()
    for gradient in (of.Adjoint(), of.Reversible(), of.Checkpointed(max_bytes=2 * state)):
        assert peak(gradient, 32) < 1.05 * peak(gradient, 4)
    assert peak(of.Checkpointed(), 32) - peak(of.Checkpointed(), 4) == pytest.approx(28 * state, rel=0.05)
    assert peak(of.Checkpointed(per_stage=True), 4) < 0.8 * peak(of.Checkpointed(), 4)


@pytest.mark.parametrize(
    "gradient",
    [
        of.Checkpointed(every=3),
        of.Checkpointed(every=100),
        of.Checkpointed(max_bytes=1),
        of.Checkpointed(max_bytes=4 * 4 * 3 * 8),
        of.Checkpointed(per_stage=True),
        of.Checkpointed(max_bytes=300, per_stage=True),
    ],
    ids=lambda gradient: str({name: value for name, value in gradient.spec["init_args"].items() if value}),
)
@pytest.mark.parametrize("make", [lambda: rk4(13), lambda: dopri5(1e-6)], ids=["rk4", "dopri5"])
def test_sparse_checkpoints_are_exact(
    gradient: of.Gradient, make: Callable[[], of.Solver], pendulum: nn.Module
) -> None:
    """However few states are kept, the gradient is Backprop's to 1e-12."""
    leaves, t = problem(pendulum, "tensor", False, 4)
    truth = gradients(pendulum, leaves, t, make(), of.Backprop())
    for value, true in zip(gradients(pendulum, leaves, t, make(), gradient), truth, strict=True):
        assert (value is None) == (true is None)
        assert true is None or relative(value, true) < 1e-12


@pytest.mark.parametrize(("length", "free"), [(1, 0), (6, 0), (6, 1), (10, 3), (35, 3), (36, 3), (200, 5), (7, 50)])
def test_binomial_schedule(length: int, free: int) -> None:
    """Segments are visited last to first from their own starts, in few states and no more advances than Revolve's."""
    visited: list[int] = []
    advances = 0

    def advance(segment: int, state: int) -> int:
        nonlocal advances
        assert state == segment
        advances += 1
        return state + 1

    def visit(segment: int, state: int) -> None:
        assert state == segment
        visited.append(segment)

    _reverse(range(length), 0, free, advance, visit)
    assert visited == list(reversed(range(length)))
    repeats = next(r for r in range(length + 1) if comb(free + 1 + r, r) >= length)
    assert advances <= repeats * length - comb(free + 1 + repeats, repeats - 1) if repeats else advances == 0


def test_reversible_is_exact_for_what_it_computes(pendulum: nn.Module) -> None:
    """The gradient equals autograd's through the same pair of states to 1e-12, and the values have the method's order."""
    leaves, t = problem(pendulum, "tensor", False, 4)
    (y0,) = leaves
    t = t.detach()
    for solver in (rk4(7), dopri5(1e-4)):
        stages = _PairStages(solver.tableau, pendulum, y0, 0.999, judged=solver.error_order is not None)
        control = solver.step_control(float(t[0]), float(t[-1]))
        pairs = run(stages, control, torch.stack((y0, y0)), t, Observer(jump=lambda number, pair: pair))
        through = of.Solution(t, pairs.y[:, 0])
        found = of.solve(pendulum, y0, t, solver=solver, gradient=of.Reversible())
        assert torch.allclose(found.y, through.y, rtol=0, atol=1e-14)
        wanted = [y0, *pendulum.inner.parameters()]
        truth = torch.autograd.grad(loss_of(through), wanted)
        for value, true in zip(torch.autograd.grad(loss_of(found), wanted), truth, strict=True):
            assert relative(value, true) < 1e-12
    exact = of.solve(pendulum, y0, t, solver=dopri5(1e-11), gradient=of.Backprop()).y.detach()
    coarse = [of.solve(pendulum, y0, t, solver=rk4(n), gradient=of.Reversible()).y.detach() for n in (24, 48, 96)]
    errors = [float((y - exact)[-1].norm()) for y in coarse]
    assert 12 < errors[0] / errors[1] < 24
    assert 12 < errors[1] / errors[2] < 24


def test_full_norm_of_the_adjoint(pendulum: nn.Module) -> None:
    """With the parameters' integral under error control the gradients are the same, at more evaluations."""
    leaves, t = problem(pendulum, "tensor", False, 4)
    truth = gradients(pendulum, leaves, t, dopri5(), of.Backprop())
    for value, true in zip(gradients(pendulum, leaves, t, dopri5(), of.Adjoint(norm="full")), truth, strict=True):
        assert (value is None) == (true is None)
        assert true is None or relative(value, true) < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of.Checkpointed(every=0), "every and max_bytes must be positive; got 0 and None"),
        (lambda: of.Checkpointed(every=2, max_bytes=100), "give every or max_bytes, not both"),
        (lambda: of.Adjoint(norm="max"), "norm must be 'seminorm' or 'full'; got 'max'"),
        (lambda: of.Reversible(coupling=1.5), r"coupling must lie above 0 and be at most 1; got 1\.5"),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], of.Gradient], message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()


def test_no_row_is_lost_to_rounding(pendulum: nn.Module) -> None:
    """At many unround output times every row's part of the loss reaches the gradient, by every gradient."""
    t = torch.linspace(0.1, 0.1 + 2 / 3, 97, dtype=D)
    y0 = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(2), requires_grad=True)
    truth: dict[int, Tensor] = {}
    for row in (1, 40, 95, 96):
        alone = of.solve(pendulum, y0, t[[0, row]], solver=dopri5(1e-10), gradient=of.Backprop()).y
        (truth[row],) = torch.autograd.grad(alone[-1].sin().sum(), y0)
    for name in plugins("gradient"):
        y = of.solve(pendulum, y0, t, solver=dopri5(1e-8), gradient=look_up("gradient", name)()).y
        for row, wanted in truth.items():
            (found,) = torch.autograd.grad(y[row].sin().sum(), y0, retain_graph=True)
            assert relative(found, wanted) < 1e-5, (name, row)


FAMILIES = ("RK4", "Kvaerno3", "Rodas4", "AdamsBashforth", "AdamsBashforthMoulton")


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        *itertools.product(FAMILIES, (of.Adjoint(), of.InterpolatedAdjoint())),
        ("Yoshida4", of.InterpolatedAdjoint()),
    ],
    ids=str,
)
def test_the_adjoint_integrates_gradients_of_parameters(name: str, gradient: of.Gradient) -> None:
    """q″ = −w² q ends at cos w, whose derivative, −sin w, is an integral along the way, by each family's own quadrature."""
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    solver = look_up("solver", name)(num_steps=40)
    end = of.solve(lambda t, y: w * y @ turn, y0, [0.0, 1.0], solver=solver, gradient=gradient, params=(w,)).y[-1, 0, 0]
    end.backward()
    assert w.grad is not None
    assert float(w.grad) == pytest.approx(-0.644217687, abs=1e-6)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_tensor_counts_once(name: str) -> None:
    """Tensors that occur several times in `params`, or are the times, too, have their gradient once."""
    gradient = look_up("gradient", name)()
    y0 = torch.tensor([[1.0], [0.5]], dtype=D)
    w, t = (torch.tensor(each, dtype=D, requires_grad=True) for each in (0.7, [0.0, 1.5]))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -w * y

    y = of.solve(field, y0, t, solver=dopri5(), gradient=gradient, params=[w, w, t]).y[-1].sum()
    found, value = torch.autograd.grad(y, (w, t)), y.item()
    assert float(found[0]) == pytest.approx(-1.5 * value, rel=1e-6)
    assert found[1].tolist() == pytest.approx([0.7 * value, -0.7 * value], rel=1e-6)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_tensor_beside_what_it_was_computed_from_is_refused(name: str) -> None:
    """A backward pass of its own would follow one into the other; siblings of one origin are none of each other."""
    gradient, y0 = look_up("gradient", name)(), torch.ones(2, 1, dtype=D)
    w = torch.tensor(0.7, dtype=D, requires_grad=True)
    twice, a, b = 2 * w, *(torch.stack((w, 3 * w)) + 0).unbind()

    def end(field: Callable[[Tensor, Tensor], Tensor], gradient: of.Gradient, *params: Tensor) -> Tensor:
        return of.solve(field, y0, [0.0, 1.0], solver=dopri5(), gradient=gradient, params=params).y[-1].sum()

    with pytest.raises(of.GradientError, match="with respect to a tensor and what it was computed from"):
        end(lambda t, y: -w * y * twice, gradient, w, twice)
    for params, field in (((twice,), lambda t, y: -twice * y), ((a, b), lambda t, y: -a * b * y)):
        (found,) = torch.autograd.grad(end(field, gradient, *params), w, retain_graph=True)
        (wanted,) = torch.autograd.grad(end(field, of.Backprop(), *params), w, retain_graph=True)
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("norm", ["seminorm", "full"])
def test_the_adjoint_keeps_the_dtype_of_the_state(norm: Literal["seminorm", "full"]) -> None:
    """A field of float32 with a parameter of float64 is called with states of float32, and each gradient has its dtype."""
    w, v = torch.tensor(0.7, dtype=D, requires_grad=True), torch.tensor(0.3, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert y.dtype == torch.float32
        return (-w * y).float() + v

    solution = of.solve(
        field, torch.ones(2, 1), [0.0, 1.0], solver=dopri5(1e-5), gradient=of.Adjoint(norm=norm), params=(w, v)
    )
    found = torch.autograd.grad(solution.y[-1].sum(), (w, v))
    assert [each.dtype for each in found] == [D, torch.float32]
    decay = math.exp(-0.7)
    assert float(found[1]) == pytest.approx(2 * (1 - decay) / 0.7, rel=1e-3)
