"""Laws of the planar field: its closed divergence, its time, its width."""

import pytest
import torch

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_dynamics import PlanarCNF
from odeflow_solvers import Dopri5

HALF = torch.full((), 0.5, dtype=torch.float64)


def field(units: int = 16, dim: int = 3) -> PlanarCNF:
    torch.manual_seed(0)
    return PlanarCNF(dim, units).double()


@pytest.mark.parametrize("shape", [(7, 3), (7, 2, 3)])
def test_the_divergence_is_the_trace_of_the_jacobian(shape: tuple[int, ...]) -> None:
    """In closed form and by autograd it is the same, for each sample, vectors or rows of vectors."""
    planar, y = field(), torch.randn(shape, dtype=torch.float64)
    for sample, value in zip(y, planar.divergence(HALF, y), strict=True):
        jacobian = torch.func.jacrev(lambda row: planar(HALF, row[None])[0])(sample)
        trace = jacobian.reshape(sample.numel(), sample.numel()).trace()
        assert abs(trace - value) < 1e-10
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    wanted = torch.cat([planar.divergence(time, sample[None]) for time, sample in zip(times, y, strict=True)])
    assert torch.allclose(planar.divergence(times, y), wanted, rtol=0, atol=1e-12)


def test_the_slope_is_the_sum_over_the_units() -> None:
    """dy/dt = Σ σ u tanh(wᵀy + b), unit by unit, with the gates in what is called u here."""
    planar, y = field(units=5), torch.randn(4, 3, dtype=torch.float64)
    u, w, b = planar._parameters_at(HALF, y)
    assert (u.shape, w.shape, b.shape) == ((5, 3), (5, 3), (5,))
    slope = sum(torch.tanh(y @ w[n] + b[n])[:, None] * u[n] for n in range(5))
    assert torch.allclose(planar(HALF, y), slope, atol=1e-14)


def test_time_enters() -> None:
    """u, w, b and the gates all change with t, and with them slope and divergence."""
    planar, y = field(), torch.randn(6, 3, dtype=torch.float64)
    for now, then in zip(planar._parameters_at(HALF, y), planar._parameters_at(HALF + 1, y), strict=True):
        assert (now - then).abs().mean() > 1e-3
    assert (planar(HALF, y) - planar(HALF + 1, y)).abs().mean() > 1e-3
    assert (planar.divergence(HALF, y) - planar.divergence(HALF + 1, y)).abs().mean() > 1e-3


def test_gradients_reach_all_parameters() -> None:
    """The log-likelihood of a flow has a gradient in every parameter, each row of the last layer included."""
    planar = field(dim=2)
    cnf = of.CNF([of.Flow(planar, Dopri5(1e-5, 1e-5))], shape=(2,)).double()
    cnf().log_prob(torch.randn(8, 2, dtype=torch.float64)).mean().backward()
    for name, param in planar.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().flatten(1).sum(1).min() > 0 if param.dim() > 1 else param.grad.abs().min() > 0, name


def test_more_units_do_not_start_larger() -> None:
    """At the start the slope is about as large with a thousand units as with ten."""
    y = torch.randn(200, 3, dtype=torch.float64)
    sizes = [field(units)(HALF, y).square().mean().sqrt().item() for units in (10, 1000)]
    assert 0.3 < sizes[0] / sizes[1] < 3


def test_it_is_built_again_from_its_spec() -> None:
    """Units and widths are kept in a spec."""
    planar = build(PlanarCNF(2, units=8, hidden=(5,)).spec)
    assert isinstance(planar, PlanarCNF)
    assert [tuple(param.shape) for param in planar.parameters()] == [(5, 1), (5,), (48, 5), (48,)]


def test_errors() -> None:
    """Numbers that are not positive and states of another length are refused with what came."""
    with pytest.raises(of.SettingError, match="PlanarCNF: units must be at least 1; got 0"):
        PlanarCNF(2, units=0)
    with pytest.raises(of.SettingError, match=r"PlanarCNF: hidden must be at least 1; got \[8, 0\]"):
        PlanarCNF(2, hidden=(8, 0))
    with pytest.raises(of.StateError, match=r"PlanarCNF\(dim=2\) takes states \(…, 2\); got \(4, 3\)"):
        PlanarCNF(2)(torch.zeros(()), torch.zeros(4, 3))
