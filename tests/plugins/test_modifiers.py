"""Laws of the modifiers: fields made from other fields, whose parameters, inputs or weights they change."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_dynamics import MLP, Controlled, ConvNet, Galerkin, Hypernetwork, Linear, Normed, Piecewise
from odeflow_solvers import RK4, Dopri5, Euler

D = torch.float64
ZERO = torch.zeros(())


def mlp(dim: int = 2) -> MLP:
    return MLP(dim, hidden=[5])


def growth() -> of.Dynamics:
    """A field without layers that counts its evaluations; its class is local, so that the registry lacks it."""

    class Growth(of.Dynamics):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.rate = 2, nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return self.rate * y

    return Growth()


MODIFIERS: dict[str, Callable[[], of.Dynamics]] = {
    "controlled": lambda: Controlled(mlp(4)),
    "fourier": lambda: Galerkin(mlp(), degree=2, basis="fourier"),
    "hypernetwork": lambda: Hypernetwork(mlp(), hidden=[3]),
    "normed": lambda: Normed(mlp(), bound=0.5),
    "piecewise": lambda: Piecewise(mlp(), pieces=3),
    "polynomial": lambda: Galerkin(mlp()),
}
NESTED: dict[str, Callable[[], of.Dynamics]] = {
    "controlled, normed": lambda: Controlled(Normed(mlp(4), bound=0.5)),
    "galerkin, controlled": lambda: Galerkin(Controlled(mlp(4))),
    "galerkin, hypernetwork": lambda: Galerkin(Hypernetwork(mlp(), hidden=[3])),
    "galerkin, piecewise": lambda: Galerkin(Piecewise(mlp(), pieces=2)),
    "hypernetwork, galerkin": lambda: Hypernetwork(Galerkin(mlp()), hidden=[3]),
    "normed, controlled": lambda: Normed(Controlled(mlp(4)), bound=0.5),
    "normed, normed": lambda: Normed(Normed(mlp()), bound=0.5),
    "normed, piecewise": lambda: Normed(Piecewise(mlp(), pieces=2)),
    "piecewise, controlled": lambda: Piecewise(Controlled(mlp(4)), pieces=2),
    "piecewise, galerkin": lambda: Piecewise(Galerkin(mlp()), pieces=2),
    "piecewise, normed": lambda: Piecewise(Normed(mlp(), bound=0.5), pieces=2),
}
ALL = {**MODIFIERS, **NESTED}


def seeded(make: Callable[[], of.Dynamics], seed: int = 0) -> of.Dynamics:
    """The field in float64, with no parameter at a special value such as zero."""
    torch.manual_seed(seed)
    field = make().double()
    with torch.no_grad():
        for param in field.parameters():
            param += 0.1 * torch.randn_like(param)
    return field


def states() -> Tensor:
    return torch.randn(7, 2, dtype=D, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", ALL)
def test_samples_may_have_times_of_their_own(name: str) -> None:
    """At t of shape (B,) the slope is each sample's at its own time; a field that cannot says what to do."""
    field = seeded(ALL[name])
    y, t = field.enter(states()), torch.linspace(-0.5, 1.5, 7, dtype=D)
    if name == "galerkin, piecewise":
        with pytest.raises(of.StateError, match=r"one time for all samples; got t of shape \(7,\). Put Piecewise outs"):
            field(t, y)
        return
    wanted = torch.cat([field(time, state[None]) for time, state in zip(t, y, strict=True)])
    assert torch.allclose(field(t, y), wanted, rtol=0, atol=1e-12)
    with torch.no_grad():
        for param in field.parameters():
            param *= 0.1
    solver = Dopri5(1e-5, 1e-5, per_sample=True)
    ends = [of.Flow(field, solver, gradient)(states()) for gradient in (of.Checkpointed(), of.Backprop())]
    assert torch.allclose(*ends, rtol=0, atol=1e-10)


def gradients(field: of.Dynamics, solver: of.Solver, gradient: of.Gradient) -> list[Tensor | None]:
    """∂L/∂y₀ and ∂L/∂θ through a flow."""
    y0 = states().requires_grad_()
    end = of.Flow(field, solver, gradient, options=of.FlowOptions(t0=-0.1, t1=1.2))(y0)
    return list(torch.autograd.grad(end.sin().sum(), [y0, *field.parameters()], allow_unused=True))


def difference(found: list[Tensor | None], truth: list[Tensor | None]) -> float:
    """The largest difference; both must lack the same gradients."""
    assert [value is None for value in found] == [true is None for true in truth]
    return max(
        float((value - true).abs().max())
        for value, true in zip(found, truth, strict=True)
        if value is not None and true is not None
    )


@pytest.mark.parametrize("make", ALL.values(), ids=list(ALL))
class TestEveryModifier:
    def test_the_flow_keeps_the_shape(self, make: Callable[[], of.Dynamics]) -> None:
        """A flow takes (B, width) to (B, width), and the trajectory has a row for each time."""
        field = make()
        assert isinstance(field, of.Modifier)
        assert field.width == 2
        flow, y0 = of.Flow(field, RK4(num_steps=3)), torch.randn(7, 2)
        assert flow(y0).shape == (7, 2)
        rows = flow.trajectory(y0, [0.0, 0.4, 1.0]).y
        assert rows.shape == (3, 7, 2)
        assert torch.equal(rows[0], y0)

    def test_spec_and_state_rebuild_it(self, make: Callable[[], of.Dynamics]) -> None:
        """What its spec builds takes its state, in every name and shape, and is the same field then."""
        field = seeded(make).eval()
        other = build(field.spec).double().eval()
        assert other.spec == field.spec
        other.load_state_dict(field.state_dict())
        solver = RK4(num_steps=4)
        assert torch.equal(of.Flow(other, solver)(states()), of.Flow(field, solver)(states()))

    @pytest.mark.parametrize("solver", [RK4(num_steps=7), Dopri5(1e-3, 1e-3, max_step=0.2)], ids=["rk4", "dopri5"])
    def test_reruns_are_what_was_run(self, make: Callable[[], of.Dynamics], solver: of.Solver) -> None:
        """In training mode, Checkpointed gradients are Backprop's to 1e-10, parameters that are not used included."""
        field = seeded(make).train()
        truth = gradients(field, solver, of.Backprop())
        assert difference(gradients(field, solver, of.Checkpointed()), truth) < 1e-10

    def test_every_parameter_learns(self, make: Callable[[], of.Dynamics]) -> None:
        """Each trainable parameter gets a gradient, not zero everywhere, and one that is frozen gets none."""
        field = seeded(make)
        first, *others = field.parameters()
        first.requires_grad_(False)
        of.Flow(field, RK4(num_steps=8))(states()).sin().sum().backward()
        assert first.grad is None
        assert all(param.grad is not None and param.grad.any() for param in others)

    def test_copies_are_independent(self, make: Callable[[], of.Dynamics]) -> None:
        """A deep copy gives the same slopes and spec; to change it leaves the original alone."""
        field = seeded(make).eval()
        flow = of.Flow(field, RK4(num_steps=4))
        twin = copy.deepcopy(flow)
        end = flow(states())
        assert torch.equal(twin(states()), end)
        assert twin.dynamics.spec == field.spec
        with torch.no_grad():
            for param in twin.parameters():
                param += 1
        assert not torch.allclose(twin(states()), end)
        assert torch.equal(flow(states()), end)

    def test_precisions(self, make: Callable[[], of.Dynamics]) -> None:
        """In float32, and under autocast, the result is that of float64 to their precision."""
        field = seeded(make).eval()
        y0, solver = states(), RK4(num_steps=6)
        with torch.no_grad():
            end = of.Flow(field, solver)(y0)
            single = of.Flow(field.float(), solver)(y0.float())
            with torch.autocast("cpu", torch.bfloat16):
                half = of.Flow(field, solver)(y0.float())
        assert single.dtype == half.dtype == torch.float32
        assert torch.allclose(single.double(), end, atol=1e-5)
        assert torch.allclose(half.double(), end, atol=0.1)

    def test_forward_derivatives(self, make: Callable[[], of.Dynamics]) -> None:
        """Nested forward-mode products, as the Taylor regulariser takes them, and t's own gradient, are autograd's."""
        field = seeded(make).eval()
        y = field.enter(states())
        t, direction = torch.tensor(0.3, dtype=D), torch.ones_like(y)

        def slope_of(t: Tensor, y: Tensor) -> Tensor:
            return torch.func.jvp(field, (t, y), (torch.ones_like(t), direction))[1]

        _, second = torch.func.jvp(slope_of, (t, y), (torch.ones_like(t), direction))
        offset = torch.zeros((), dtype=D, requires_grad=True)
        total = field(t + offset, y + offset * direction).sum()
        (first,) = torch.autograd.grad(total, offset, create_graph=True)
        (truth,) = torch.autograd.grad(first, offset)
        assert slope_of(t, y).sum().item() == pytest.approx(first.item(), rel=1e-9, abs=1e-12)
        assert second.sum().item() == pytest.approx(truth.item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(MODIFIERS.keys() - {"piecewise"}))
def test_adjoint_is_close(name: str) -> None:
    """Where the field is smooth in time, the continuous adjoint's gradient is Backprop's to the tolerance."""
    field, solver = seeded(MODIFIERS[name]), Dopri5(1e-6, 1e-6)
    assert difference(gradients(field, solver, of.Adjoint()), gradients(field, solver, of.Backprop())) < 1e-3


class TestPiecewise:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, D], ids=str)
    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (-0.7, 2.6)], ids=str)
    @pytest.mark.parametrize("pieces", [1, 6, 7, 10])
    def test_each_interval_has_its_piece(self, pieces: int, span: tuple[float, float], dtype: torch.dtype) -> None:
        """Boundaries, rounded, belong to the next piece, inner times to their own, and those outside to the nearest."""
        t0, t1 = span
        field = Piecewise(mlp(), pieces, *span)

        def number(place: float) -> int:
            return field.number(torch.tensor(t0 + place * (t1 - t0) / pieces, dtype=dtype))

        assert [number(k) for k in range(pieces)] == list(range(pieces))
        assert [number(k + 0.5) for k in range(pieces)] == list(range(pieces))
        assert (number(-2), number(pieces), number(pieces + 3)) == (0, pieces - 1, pieces - 1)

    @pytest.mark.filterwarnings("ignore:the field gets its time")  # which 100 in float32 is too coarse for
    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (100.0, 100.3)], ids=str)
    @pytest.mark.parametrize("count", [6, 7, 10, 49])
    def test_euler_makes_a_residual_network(self, count: int, span: tuple[float, float]) -> None:
        """By Euler's method with a step a piece, the flow is y ↦ y + h f_k(y) for k = 0 … L − 1, in float32."""
        t0, t1 = span
        field = Piecewise(MLP(2, hidden=[5], time="none"), count, t0, t1)
        y = y0 = torch.randn(7, 2)
        for block in (field.dynamics, *field.others):
            y = y + (t1 - t0) / count * block(ZERO, y)
        assert torch.allclose(
            of.Flow(field, Euler(num_steps=count), options=of.FlowOptions(t0=t0, t1=t1))(y0), y, rtol=0, atol=1e-6
        )

    def test_against_the_pieces_order(self) -> None:
        """From the last time to the first, Euler's steps begin at the other ends: L − 1, L − 1, L − 2, …, 1."""
        field = Piecewise(MLP(2, hidden=[5], time="none"), 6)
        y = y0 = torch.randn(7, 2)
        for number in (5, 5, 4, 3, 2, 1):
            y = y - 1 / 6 * field.others[number - 1](ZERO, y)
        assert torch.allclose(
            of.Flow(field, Euler(num_steps=6), options=of.FlowOptions(t0=1, t1=0))(y0), y, rtol=0, atol=1e-6
        )

    def test_pieces_are_initialised_independently(self) -> None:
        """No two pieces have a weight in common, whatever they are made of, and each sees the time itself."""
        torch.manual_seed(0)
        for field in (Piecewise(mlp(), 3), Piecewise(Hypernetwork(mlp()), 3)):
            first, second, third = (dict(piece.named_parameters()) for piece in (field.dynamics, *field.others))
            assert first.keys() == second.keys() == third.keys()
            for name in first:
                if first[name].any():
                    assert not torch.isclose(first[name], second[name]).all()
                    assert not torch.isclose(second[name], third[name]).all()
        field, t, y = Piecewise(mlp(), 2), torch.tensor(0.75), torch.randn(3, 2)
        assert torch.equal(field(t, y), field.others[0](t, y))

    def test_pieces_are_of_the_first_ones_precision(self) -> None:
        """The pieces that are built have the dtype of the given one."""
        assert {param.dtype for param in Piecewise(mlp().double(), 3).parameters()} == {D}

    def test_unused_pieces_get_no_gradient(self) -> None:
        """A piece in which nothing is evaluated has no gradient; the others have one."""
        field = Piecewise(mlp(), 4)
        of.Flow(field, Euler(num_steps=2))(torch.randn(3, 2)).sum().backward()
        pieces = (field.dynamics, *field.others)
        assert [all(param.grad is not None for param in piece.parameters()) for piece in pieces] == [1, 0, 1, 0]
        assert [any(param.grad is not None for param in piece.parameters()) for piece in pieces] == [1, 0, 1, 0]

    def test_every_piece_is_told_of_a_solve(self) -> None:
        """What a field does at the beginning of a solve, every piece does, here Normed's power iteration."""
        field = seeded(lambda: Piecewise(Normed(mlp()), 3)).train()
        norms = [norm for piece in (field.dynamics, *field.others) for norm in piece.norms]
        before = [norm.v for norm in norms]
        of.Flow(field, Euler(num_steps=3))(states())
        assert len(norms) == 6
        assert not any(torch.equal(norm.v, old) for norm, old in zip(norms, before, strict=True))

    def test_what_cannot_be_built_again_is_refused(self) -> None:
        """Dynamics that are not in the registry are refused by name."""
        with pytest.raises(of.PluginError, match=r"the plugin Growth .* is not registered"):
            Piecewise(growth(), 2)


class TestParametersInTime:
    @pytest.mark.parametrize("make", [Galerkin, Hypernetwork, lambda inner: Galerkin(inner, 2, "fourier")])
    def test_parameters_count_once(self, make: Callable[[of.Dynamics], of.Dynamics]) -> None:
        """The field's own parameters are the constant term: there are those and the added ones, each once."""
        inner = ConvNet(4)
        field, count = make(inner), sum(param.numel() for param in inner.parameters())
        added = {Galerkin: 3 * count, Hypernetwork: 64 + 33 * count}.get(make, 4 * count)
        assert sum(param.numel() for param in field.parameters()) == count + added
        assert all(param in set(field.parameters()) for param in inner.parameters())

    def test_it_starts_as_its_dynamics(self) -> None:
        """At first the field is the one that is modified: exactly as a series, nearly as a hypernetwork."""
        inner, y = MLP(2), torch.randn(7, 2)
        for t in (ZERO, ZERO + 0.3, ZERO + 1):
            assert torch.equal(Galerkin(inner)(t, y), inner(t, y))
            assert torch.equal(Galerkin(inner, basis="fourier")(t, y), inner(t, y))
            assert torch.allclose(Hypernetwork(inner)(t, y), inner(t, y), atol=0.05)
            assert not torch.equal(Hypernetwork(inner)(t, y), inner(t, y))

    @pytest.mark.parametrize(
        ("basis", "terms"),
        [
            ("polynomial", lambda s: [2 * s - 1, math.cos(2 * math.acos(2 * s - 1)), math.cos(3 * math.acos(2 * s - 1))]),
            ("fourier", lambda s: [trig(2 * math.pi * k * s) for trig in (math.cos, math.sin) for k in (1, 2, 3)]),
        ],
    )  # fmt: skip
    def test_the_series(self, basis: str, terms: Callable[[float], list[float]]) -> None:
        """Every parameter at t is θ₀ + Σ c_k φ_k(s), with T_k(cos x) = cos kx, or cosines, then sines."""
        field = seeded(lambda: Galerkin(Linear(2), 3, basis, t0=-1.0, t1=3.0))
        inner, y = field.dynamics.layer, states()
        for t in (-1.0, 0.2, 1.0, 2.9, 3.0):
            weights = torch.tensor(terms((t + 1) / 4), dtype=D)
            theta = torch.cat([inner.weight.flatten(), inner.bias]) + weights @ field.coefficients
            slope = y @ theta[:4].view(2, 2).T + theta[4:]
            assert torch.allclose(field(torch.tensor(t, dtype=D), y), slope, rtol=0, atol=1e-12)

    def test_frozen_parameters_stand_still(self) -> None:
        """A parameter that is not trained does not change with time."""
        inner = Linear(2)
        inner.layer.weight.requires_grad_(False)
        assert Galerkin(inner).coefficients.shape == (3, 2)
        assert Hypernetwork(inner).net[-1].out_features == 2

    def test_buffers_stay_the_dynamics_own(self) -> None:
        """What the field that is modified notes in its buffers is kept."""
        field = Galerkin(growth())
        of.Flow(field, RK4(num_steps=5))(torch.randn(3, 2))
        assert field.dynamics.calls == 20


def test_the_hypernetwork_adds_its_output() -> None:
    """Every parameter at t is θ₀ + g(t)."""
    field = seeded(lambda: Hypernetwork(Linear(2), hidden=[4, 3], activation="softplus"))
    inner, y, t = field.dynamics.layer, states(), torch.tensor(0.7, dtype=D)
    theta = torch.cat([inner.weight.flatten(), inner.bias]) + field.net(t.view(1))
    assert torch.allclose(field(t, y), y @ theta[:4].view(2, 2).T + theta[4:], rtol=0, atol=1e-12)


class TestControlled:
    def test_the_input_acts_at_every_time(self) -> None:
        """For dy/dt = A y + B x from y(0) = x the flow is known: e^A x + A⁻¹ (e^A − 1) B x."""
        field = seeded(lambda: Controlled(Linear(4, bias=False)))
        (a, b), x = field.dynamics.layer.weight[:2].split(2, dim=1), states()
        power = torch.linalg.matrix_exp(a)
        end = x @ (power + torch.linalg.solve(a, (power - torch.eye(2, dtype=D)) @ b)).T
        assert torch.allclose(of.Flow(field, RK4(num_steps=200))(x), end, atol=1e-8)

    def test_the_input_stands_still(self) -> None:
        """What is solved for is [y, x], of which x does not change and the flow returns y; on images too."""
        for field, shape in ((Controlled(mlp(4)), (5, 2)), (Controlled(ConvNet(4)), (5, 2, 6, 6))):
            x = torch.randn(shape)
            pair = field.enter(x)
            assert torch.equal(pair, torch.cat([x, x], dim=1))
            slope = field(ZERO, pair)
            assert torch.equal(slope[:, 2:], torch.zeros(shape))
            assert torch.equal(slope[:, :2], field.dynamics(ZERO, pair)[:, :2])
            assert torch.equal(field.leave(pair), x)

    def test_the_gradient_takes_both_ways(self) -> None:
        """∂y(1)/∂x is that of the initial value plus that of the control, by central differences."""
        field = seeded(lambda: Controlled(mlp(4)))
        flow, x = of.Flow(field, RK4(num_steps=5)), states().requires_grad_()
        (found,) = torch.autograd.grad(flow(x).sin().sum(), x)
        with torch.no_grad():
            step = torch.zeros_like(x)
            step[3, 1] = 1e-5
            change = (flow(x + step).sin().sum() - flow(x - step).sin().sum()) / 2e-5
        assert found[3, 1].item() == pytest.approx(change.item(), rel=1e-8)

    def test_with_augmentation(self) -> None:
        """Zeros that a flow appends are part of the state, and of the input."""
        assert of.Flow(Controlled(mlp(6)), RK4(num_steps=2), options=of.FlowOptions(augment=1))(
            torch.randn(5, 2)
        ).shape == (5, 3)


class TestNormed:
    def test_no_layer_stretches_more_than_the_bound(self) -> None:
        """Weights that are too large get the bound as largest singular value, and small ones stay, by the SVD."""
        torch.manual_seed(0)
        inner = MLP(8, hidden=[32, 16])
        with torch.no_grad():
            inner.layers[0].weight *= 20
            inner.layers[2].weight *= 0.1
            inner.layers[4].weight *= 20
        field, seen = Normed(inner, bound=0.8), {}
        for name, layer in inner.layers.named_children():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda layer, x, y, name=name: seen.update({name: layer.weight}))
        field(ZERO, torch.randn(5, 8))
        assert torch.linalg.matrix_norm(seen["0"], 2).item() == pytest.approx(0.8, rel=1e-3)
        assert torch.equal(seen["2"], inner.layers[2].weight)
        assert torch.linalg.matrix_norm(seen["4"], 2).item() == pytest.approx(0.8, rel=1e-3)

    def test_the_field_has_that_lipschitz_constant(self) -> None:
        """Slopes of an MLP with L layers differ by at most b^L times the states' distance, however large its weights."""
        torch.manual_seed(0)
        inner = MLP(4, hidden=[16, 16])
        with torch.no_grad():
            for param in inner.parameters():
                param *= 30 if param.dim() == 2 else 1
        field, y, z = Normed(inner, bound=0.9), torch.randn(500, 4), torch.randn(500, 4)
        ratio = (field(ZERO, y) - field(ZERO, z)).norm(dim=1) / (y - z).norm(dim=1)
        assert 0.01 < ratio.max() < 0.9**3 * 1.001

    def test_convolutions_count_as_matrices(self) -> None:
        """A kernel's weight, as a matrix with a row a channel, gets the bound too."""
        torch.manual_seed(0)
        inner, seen = ConvNet(6), []
        inner.conv1.register_forward_hook(lambda layer, x, y: seen.append(layer.weight))
        Normed(inner, bound=0.1)(ZERO, torch.randn(2, 6, 5, 5))
        assert torch.linalg.matrix_norm(seen[0].flatten(1), 2).item() == pytest.approx(0.1, rel=1e-3)

    def test_the_gradient_sees_the_norm(self) -> None:
        """The gradient through W/σ(W) is autograd's through the exact singular value, once v has converged."""
        field = seeded(lambda: Normed(Linear(4), bound=0.1))
        weight, y = field.dynamics.layer.weight, torch.randn(5, 4, dtype=D)
        for _ in range(30):
            field.norms[0].image.zero_()
            field.enter(y)
        (found,) = torch.autograd.grad(field(ZERO.double(), y).sin().sum(), weight)
        slope = y @ (0.1 * weight / torch.linalg.matrix_norm(weight, 2)).T + field.dynamics.layer.bias
        (truth,) = torch.autograd.grad(slope.sin().sum(), weight)
        assert torch.allclose(found, truth, atol=1e-8)

    def test_the_estimate_follows_training_alone(self) -> None:
        """A solve in training mode updates it if the weights have changed; in evaluation mode, or twice, none does."""
        field, y0 = seeded(lambda: Normed(mlp())), states()
        flow = of.Flow(field, RK4(num_steps=2))

        def vectors() -> list[Tensor]:
            return [norm.v for norm in field.norms]

        flow(y0)
        first = vectors()
        flow(y0)
        assert all(map(torch.equal, vectors(), first))
        with torch.no_grad():
            for param in field.parameters():
                param += torch.randn_like(param)
        flow.eval()(y0)
        assert all(map(torch.equal, vectors(), first))
        flow.train()(y0)
        assert not any(map(torch.equal, vectors(), first))
        for norm, layer in zip(field.norms, (field.dynamics.layers[0], field.dynamics.layers[2]), strict=True):
            assert norm(layer.weight) <= torch.linalg.matrix_norm(layer.weight, 2) * (1 + 1e-12)

    def test_the_bound_is_kept_while_training(self) -> None:
        """With an optimizer that makes weights grow, fused or not, the norms stay within a hundredth of the bound."""
        for fused in (False, True):
            torch.manual_seed(0)
            field, y0 = Normed(MLP(4, hidden=[16])), torch.randn(16, 4)
            flow = of.Flow(field, RK4(num_steps=2))
            optimizer = torch.optim.Adam(flow.parameters(), 0.03, fused=fused)
            for _ in range(25):
                optimizer.zero_grad()
                (-flow(y0).square().sum()).backward()
                optimizer.step()
            flow(y0)
            for norm, layer in zip(field.norms, (field.dynamics.layers[0], field.dynamics.layers[2]), strict=True):
                truth = torch.linalg.matrix_norm(layer.weight, 2).item()
                assert truth > 1
                assert norm(layer.weight).item() == pytest.approx(truth, rel=1e-2)

    def test_two_solves_before_one_backward_pass(self) -> None:
        """Several solves may wait for their backward passes: Checkpointed's gradient stays Backprop's."""
        field, x, y = seeded(lambda: Normed(mlp(), bound=0.3)), states(), -states()
        results = []
        for gradient in (of.Backprop(), of.Checkpointed()):
            flow = of.Flow(copy.deepcopy(field), RK4(num_steps=3), gradient)
            total = flow(x).sin().sum() + flow(y).cos().sum()
            results.append(torch.autograd.grad(total, flow.parameters()))
        assert difference(list(results[1]), list(results[0])) < 1e-12

    def test_a_weight_of_zeros_may_grow(self) -> None:
        """A layer that starts at zero stays unchanged, has finite gradients, and is bounded once it has grown."""
        inner = mlp()
        nn.init.zeros_(inner.layers[2].weight)
        field, y0 = Normed(inner), torch.randn(3, 2)
        flow = of.Flow(field, RK4(num_steps=2))
        flow(y0).sum().backward()
        assert all(param.grad.isfinite().all() for param in field.parameters())
        nn.init.normal_(inner.layers[2].weight)
        for _ in range(20):
            field.norms[1].image.zero_()
            flow(y0)
        truth = torch.linalg.matrix_norm(inner.layers[2].weight, 2)
        assert torch.allclose(field.norms[1](inner.layers[2].weight), truth, rtol=1e-3)

    def test_shared_weights_are_bounded_once(self) -> None:
        """Layers that share a weight share its estimate, and both are bounded."""
        torch.manual_seed(0)
        inner = MLP(3, hidden=[3], time="none")
        inner.layers[2].weight = inner.layers[0].weight
        field = Normed(inner, bound=0.01)
        assert len(field.norms) == 1
        assert (field(ZERO, torch.randn(9, 3)) - inner.layers[2].bias).norm(dim=1).max() < 0.011

    def test_the_state_dict_is_clean(self) -> None:
        """Weights keep their names below `dynamics`, so that those of the bare field can be loaded; estimates come on top."""
        names = {f"dynamics.{name}" for name in mlp().state_dict()}
        assert set(Normed(mlp()).state_dict()) == names | {
            f"norms.{number}.{name}" for number in (0, 1) for name in ("v", "image")
        }


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Piecewise(mlp(), 0), of.SettingError, "Piecewise: pieces must be at least 1; got 0"),
        (lambda: Piecewise(mlp(), 2, 1.0, 1.0), of.SettingError, r"t0 and t1 must differ; both are 1\.0"),
        (lambda: Galerkin(mlp(), 0), of.SettingError, "Galerkin: degree must be at least 1; got 0"),
        (lambda: Galerkin(mlp(), basis="spline"), of.SettingError, "must be 'polynomial' or 'fourier'; got 'spline'"),
        (lambda: Galerkin(mlp(), t0=1.0), of.SettingError, r"t0 and t1 must differ; both are 1\.0"),
        (lambda: Galerkin(mlp().requires_grad_(False)), of.SettingError, "Galerkin lets .* but MLP has none that are"),
        (lambda: Galerkin(Normed(mlp())), of.SettingError, r"Galerkin cannot let .* inside Normed .* Use Piecewise\("),
        (
            lambda: Hypernetwork(Controlled(Normed(mlp(4)))),
            of.SettingError,
            r"Hypernetwork cannot let the weights inside Normed change",
        ),
        (lambda: Hypernetwork(mlp(), [3, 0]), of.SettingError, r"hidden must be at least 1; got \[3, 0\]"),
        (
            lambda: Hypernetwork(mlp(), activation="sine"),
            of.SettingError,
            "knows no activation 'sine'; choose from tanh",
        ),
        (lambda: Controlled(mlp(3)), of.SettingError, r"width 2d, .*; MLP has the odd width 3\. Give it twice"),
        (
            lambda: of.Flow(Controlled(mlp(4)), RK4(num_steps=1))(torch.randn(5, 3)),
            of.StateError,
            r"Controlled takes states \(B, 2, …\); got \(5, 3\)",
        ),
        (
            lambda: Controlled(Controlled(mlp(8))).enter(torch.randn(5, 2)),
            of.SettingError,
            r"but Controlled solves for \(5, 8\) instead of the state \(5, 4\)\. Wrap the other way round",
        ),
        (lambda: Normed(mlp(), 0.0), of.SettingError, r"Normed: bound must lie in \(0, inf\); got 0\.0"),
        (lambda: Normed(mlp(), math.nan), of.SettingError, "bound must be a finite number; got nan"),
        (lambda: Normed(Galerkin(mlp())), of.SettingError, r"those inside Galerkin change with time\. Use Piecewise\("),
        (lambda: Normed(Piecewise(Hypernetwork(mlp()), 2)), of.SettingError, "those inside Hypernetwork change"),
        (
            lambda: Normed(growth()),
            of.SettingError,
            "the weights of linear and convolutional layers, but Growth has none",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(call: object, error: type[Exception], message: str) -> None:
    """An option or a combination that makes no sense is refused with what was wanted and what came."""
    with pytest.raises(error, match=message):
        call()
