"""Laws of dense output under per-sample stepping: each sample at any time, on the steps that it took."""

import math

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import column, riccati
from odeflow.plugin.registry import look_up, plugins
from odeflow_dynamics import MLP
from odeflow_solvers import Dopri5

D = torch.float64
ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order]
LOOSE = Dopri5(1e-4, 1e-4, per_sample=True)


def field(t: Tensor, y: Tensor) -> Tensor:
    """Nonlinear, dependent on time, and faster for larger states."""
    return torch.cos(3 * column(t, y)) * torch.sin(y * y.abs()) - 0.2 * y.flip(-1)


def states(count: int = 4) -> Tensor:
    y = torch.randn(count, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    return y * torch.linspace(0.3, 3, count, dtype=D)[:, None]


def own_spans() -> Tensor:
    return torch.tensor([[0.0, 1.0], [0.5, 3.0], [-1.0, 2.0], [0.2, 0.4]], dtype=D)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_order(name: str) -> None:
    """Between the steps of every sample the error falls as fast as the interpolant's order allows."""
    cls, start = look_up("solver", name), torch.tensor([[1.0], [0.7], [1.3]], dtype=D)
    spans = torch.tensor([[0.0, 2.0], [0.3, 1.8], [0.5, 2.5]], dtype=D)
    q = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * torch.linspace(0, 1, 101, dtype=D)
    exact = 1 / (1 / start + q**2 - spans[:, :1] ** 2)
    errors: list[Tensor] = []
    for h in (0.2, 0.1, 0.05):
        by = cls(0.9, 1e3, first_step=h, max_step=h, per_sample=True)
        with torch.no_grad():
            solution = of.solve(riccati, start, spans, solver=by, dense=True)
        errors.append((solution(q)[..., 0] - exact.t()).abs().amax(0))
    order = min(cls.order, cls.tableau.interpolation_order + 1)
    assert bool(((errors[0] / errors[-1]).log2() / 2 > order - 0.4).all())


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("times", ["common", "own", "backwards"])
def test_a_sample_goes_as_if_alone(name: str, times: str) -> None:
    """Each sample's dense output is that of its own joint solve, at no more evaluations but one; so are output times."""
    cls = look_up("solver", name)
    tolerance = 1e-6 if cls.order > 2 else 1e-3
    spans = torch.tensor([[0.0, 2.0]] * 4, dtype=D) if times == "common" else own_spans()
    spans = -spans if times == "backwards" else spans
    q = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * torch.linspace(0, 1, 23, dtype=D)
    by = cls(tolerance, tolerance, per_sample=True)
    with torch.no_grad():
        solution = of.solve(field, states(), spans[0] if times == "common" else spans, solver=by, dense=True)
        asked = of.solve(field, states(), q, solver=by)
        found = solution(q)
        assert solution.stats.nfe_forward <= asked.stats.nfe_forward + 1
        assert torch.allclose(found, asked.y, rtol=0, atol=1e-11)
        for number in range(4):
            row = slice(number, number + 1)
            alone = of.solve(field, states()[row], spans[number], solver=cls(tolerance, tolerance), dense=True)
            assert torch.allclose(found[:, row], alone(q[number]), rtol=0, atol=1e-10)
    if times == "common":
        assert torch.allclose(solution(q[0]), found, rtol=0, atol=1e-12)
        assert torch.allclose(solution(float(q[0, 5])), found[5], rtol=0, atol=1e-12)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(solution(q[:, order]), found[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "gradient", [of.Backprop(), of.Checkpointed(), of.Checkpointed(every=3)], ids=["backprop", "plain", "every"]
)
def test_gradients_are_backprops(gradient: of.Gradient) -> None:
    """∂L/∂y₀ and ∂L/∂θ through solution(t) are those of an ordinary solve that outputs the same times."""
    torch.manual_seed(0)
    mlp, y0 = MLP(2, hidden=(8,)).double(), states().requires_grad_()
    spans = own_spans()
    q = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * torch.tensor([0, 0.1, 0.35, 0.8, 1], dtype=D)
    wanted = [y0, *mlp.parameters()]
    dense = of.solve(mlp, y0, spans, solver=LOOSE, gradient=gradient, dense=True)
    asked = of.solve(mlp, y0, q, solver=LOOSE, gradient=of.Backprop())
    found, truth = (torch.autograd.grad((y[1:] ** 3).sum(), wanted) for y in (dense(q), asked.y))
    for one, other in zip(found, truth, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("own", [False, True], ids=["common times", "own times"])
@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=["Backprop", "Checkpointed"])
def test_gradients_by_finite_differences(gradient: of.Gradient, own: bool) -> None:
    """solution(t) is differentiable with respect to t, the first and the last times of the solve, and y₀."""
    by = Dopri5(0.9, 1e3, first_step=0.1, max_step=0.1, per_sample=True)
    spans = own_spans()[:3] if own else torch.tensor([0.1, 1.3], dtype=D)
    q = torch.tensor([[0.31, 0.77], [0.9, 2.8], [-0.3, 0.1]], dtype=D) if own else torch.tensor([0.31, 0.77], dtype=D)

    def value(y0: Tensor, spans: Tensor, q: Tensor) -> Tensor:
        return of.solve(field, y0, spans, solver=by, gradient=gradient, params=(), dense=True)(q)

    inputs = tuple(each.requires_grad_() for each in (0.3 * states()[:3], spans, q))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-5, fast_mode=True)


def test_second_derivatives_by_backprop() -> None:
    """By Backprop, solution(t) is twice differentiable."""
    y0, q = states()[:2].requires_grad_(), torch.tensor([[0.4], [0.7]], dtype=D, requires_grad=True)
    by = Dopri5(0.9, 1e3, first_step=0.5, max_step=0.5, per_sample=True)

    def value(y0: Tensor, q: Tensor) -> Tensor:
        return of.solve(field, y0, [0.1, 1.3], solver=by, gradient=of.Backprop(), dense=True)(q)

    assert torch.autograd.gradgradcheck(value, (y0, q), atol=1e-6, fast_mode=True)


def test_tuples_and_flows() -> None:
    """Tuple states come back as tuples; a flow's solution(t) is its trajectory, with penalties and divergences too."""
    q, y0 = torch.tensor([0.0, 0.4, 1.0], dtype=D), states()
    torch.manual_seed(0)
    flow = of.Flow(MLP(2).double(), LOOSE, options=of.FlowOptions(regularizers=[of.Kinetic(0.1)]))
    y, logdet = flow.trajectory(y0, q, divergence=of.Exact(), dense=True)(q)
    wanted = flow.trajectory(y0, q, divergence=of.Exact()).y
    assert torch.allclose(y, wanted[0], atol=1e-12)
    assert torch.allclose(logdet, wanted[1], atol=1e-12)
    wide = of.Flow(MLP(4).double(), LOOSE, options=of.FlowOptions(augment=2))
    assert torch.allclose(wide.trajectory(y0, q, dense=True)(q), wide.trajectory(y0, q).y, atol=1e-12)


def test_many_times_cost_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many times, samples and steps there are, a call takes one product and no evaluation of the field."""
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return field(t, y)

    solution = of.solve(counted, states(40), [0.0, 2.0], solver=LOOSE, params=(), dense=True)
    before, products, product = calls, 0, Tensor.__matmul__

    def seen(left: Tensor, right: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return product(left, right)

    monkeypatch.setattr(Tensor, "__matmul__", seen)
    assert solution(torch.linspace(0, 2, 1000, dtype=D)).shape == (1000, 40, 2)
    assert (products, calls) == (1, before)


def test_states_of_any_shape() -> None:
    """Each sample may be a number, or an image; in float32 too, and a batch of one; no times give no states."""
    for shape in ((4,), (4, 2, 3, 2), (1, 2)):
        y0 = torch.linspace(0.5, 2, math.prod(shape)).view(shape)
        q = torch.linspace(0, 1, 7)
        with torch.no_grad():
            solution = of.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=Dopri5(1e-6, 1e-6, per_sample=True), dense=True)
        assert solution(q).dtype == torch.float32
        assert torch.allclose(solution(q), y0 * torch.exp(-q).view(-1, *(1,) * y0.dim()), atol=1e-5)
        assert solution(torch.empty(0)).shape == (0, *shape)


def test_what_cannot_be_given_is_refused() -> None:
    """Times outside name the sample; shapes that are none, and gradients that know no steps: a clear error."""
    y0 = states().requires_grad_()
    solution = of.solve(field, y0, own_spans(), solver=LOOSE, params=(), dense=True)
    with pytest.raises(
        of.SettingError, match=r"t = 1\.5 lies outside of the solution of sample 0, which goes from 0 to 1"
    ):
        solution(torch.tensor([0.3, 1.5]))
    with pytest.raises(of.SettingError, match="t = nan lies outside of the solution of sample 0"):
        solution(math.nan)
    with pytest.raises(of.SettingError, match=r"or such of each sample, \(4, m\); its shape is \(3, 2\)"):
        solution(torch.ones(3, 2))
    with pytest.raises(of.GradientError, match="Adjoint does not support dense output"):
        of.solve(field, y0, [0.0, 1.0], solver=LOOSE, gradient=of.Adjoint(), params=(), dense=True)
