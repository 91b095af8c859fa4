"""Laws of equations given as formulas, and of coefficients with bounds."""

import json
import math
from typing import Any

import pytest
import torch

import odeflow as of
from odeflow.plugin import registry
from odeflow_dynamics import Coefficient, DampedPendulum, Equations, LotkaVolterra
from odeflow_dynamics.formula import Formula

D = torch.float64


@pytest.mark.parametrize(
    ("known", "written"),
    [
        (
            LotkaVolterra(0.7, 0.8, 0.6, 0.9),
            Equations(
                {"x": "alpha*x - beta*x*y", "y": "delta*x*y - gamma*y"},
                {"alpha": 0.7, "beta": 0.8, "gamma": 0.6, "delta": 0.9},
            ),
        ),
        (
            DampedPendulum(2.0, 0.3),
            Equations({"a": "v", "v": "-stiffness*sin(a) - drag*v"}, {"stiffness": 2.0, "drag": 0.3}),
        ),
    ],
)
def test_formulas_are_the_fields_that_they_write(known: of.Dynamics, written: of.Dynamics) -> None:
    """A field written as formulas has the slopes of the one in code, also after its spec went through JSON."""
    registry.discover()
    y = 0.5 + torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    again = registry.build(json.loads(json.dumps(written.spec)))
    for field in (written, again):
        torch.testing.assert_close(field(torch.tensor(0.3), y), known(torch.tensor(0.3), y))


def test_formulas_contain_time_inputs_and_numbers() -> None:
    """t, pi, functions, constants and inputs are available; a constant formula has a slope for each sample."""
    field = Equations(
        {"x": "c*sin(2*pi*t) + min(u, w)", "y": "1", "z": "-(x - y)**2 / exp(z)"}, {"c": 2.0}, inputs=["u", "w"]
    )
    y = torch.tensor([[1.0, 2.0, 0.0, 3.0, 4.0], [2.0, 2.0, 0.0, 5.0, 4.0]])
    torch.testing.assert_close(
        field(torch.tensor(0.25), y), torch.tensor([[5.0, 1.0, -1.0], [6.0, 1.0, 0.0]]), rtol=1e-6, atol=1e-6
    )
    assert (field.width, field.states) == (3, ("x", "y", "z"))


@pytest.mark.parametrize("bounds", [(None, None), (0.0, None), (None, 5.0), (1.0, 4.0)])
@pytest.mark.parametrize("value", [1.5, 3.5])
def test_coefficients_keep_their_bounds(bounds: tuple[float | None, float | None], value: float) -> None:
    """A coefficient begins at its value, is monotone in x, and stays within its bounds for every x."""
    coefficient = Coefficient(value, *bounds).double()
    assert float(coefficient().detach()) == pytest.approx(value, rel=1e-6)
    values = coefficient.of(torch.linspace(-30, 30, 101, dtype=D))
    steps = values.diff()
    assert bool((steps >= 0).all()) or bool((steps <= 0).all())
    low, high = (math.inf * sign if each is None else each for sign, each in zip((-1, 1), bounds, strict=True))
    assert low <= float(values.min()) <= float(values.max()) <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"equations": {}}, "must contain a formula for each state; got none"),
        ({"equations": {"x": "k*"}}, r"dx/dt: cannot read 'k\*'; wanted is an expression of numbers, names"),
        ({"equations": {"x": "rate*x"}}, r"no quantity is named 'rate' in 'rate\*x'. There are k, t, x"),
        ({"equations": {"x": "kk*x"}}, "no quantity is named 'kk' .* Did you mean 'k'"),
        ({"equations": {"x": "x^2"}}, r"cannot read 'x\^2'.*Write powers as \*\*"),
        ({"equations": {"x": "lambda*x"}}, r"'lambda' cannot be a name in 'lambda\*x'"),
        ({"equations": {"x": "__import__('os').system('ls')"}}, "cannot read"),
        ({"equations": {"x": "x.data"}}, "cannot read"),
        ({"equations": {"t": "1"}}, "a name is a word .* other than .* t, tan.*; got 't'"),
        ({"constants": {"x": 1.0}}, "the name 'x' is used for several quantities"),
        ({"parameters": {"k": -1.0}}, r"k: a coefficient must be finite and lie between 0.0 and inf; got -1.0. Bounds"),
        ({"bounds": {"c": [None, None]}}, "bounds of c, but the parameters are k"),
        ({"bounds": {"k": [0.0]}}, r"bounds of k must be \[low, high\]"),
        ({"parameters": {"type": 1.0}}, "a parameter cannot be named 'type'"),
    ],
)
def test_senseless_equations_are_refused(options: dict[str, Any], message: str) -> None:
    """An invalid formula, name or bound is an error that says what was expected."""
    with pytest.raises(of.SettingError, match=message):
        Equations(**({"equations": {"x": "-k*x"}, "parameters": {"k": 1.0}} | options))


def test_formulas_know_their_names() -> None:
    """A formula lists the quantities in it, without functions."""
    assert Formula("f", "exp(a) + pi*b", {"a", "b", "c"}).names == {"a", "b"}


def test_states_of_another_width_are_refused() -> None:
    """A state without the inputs is an error that names both."""
    field = Equations({"x": "u"}, {}, inputs=["u"])
    with pytest.raises(of.StateError, match=r"\(…, 2\), of the states x, and inputs u; got \(3, 1\)"):
        field(torch.tensor(0.0), torch.zeros(3, 1))
