"""Laws of the tableau: it refuses what contradicts itself."""

import contextlib
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import odeflow as of
from odeflow.engine.step.tableau import HIGHEST_CHECKED_ORDER, Tree, trees
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import AdamsBashforth

RK4 = {
    "order": 4,
    "c": (0, 1 / 2, 1 / 2, 1),
    "a": ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    "b": (1 / 6, 1 / 3, 1 / 3, 1 / 6),
}
EXPLICIT = of.RungeKutta
TABLEAUS = {name: cls.tableau for name, cls in plugins("solver").items() if issubclass(cls, EXPLICIT)}


def test_number_of_trees() -> None:
    """There are 1, 1, 2, 4, 9, 20, 48, 115 rooted trees with 1 to 8 nodes (Hairer, Nørsett & Wanner, table II.2.1)."""
    for count in (len, lambda found: len(set(found))):  # none of them twice
        assert [count(trees(order)) for order in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(tree.order == order for order in range(1, 9) for tree in trees(order))


def test_density_of_known_trees() -> None:
    """γ of the bushy and of the tall tree with n nodes are n and n!."""
    leaf = Tree()
    assert Tree((leaf,) * 4).density == 5
    assert Tree((Tree((Tree((leaf,)),)),)).density == 24
    assert {tree.formula for tree in trees(4)} == {"c³", "cAc", "Ac²", "AAc"}


def test_a_true_tableau_passes() -> None:
    """The classical tableau is accepted, with its number of stages."""
    tableau = of.Tableau(**RK4)
    assert tableau.stages == 4
    assert not tableau.fsal


def test_shifted_nodes_are_refused() -> None:
    """Nodes shifted by one stage, an error unseen on autonomous fields, name the row and what it sums to."""
    with pytest.raises(of.TableauError, match=r"row 1 of a must sum to its node c\[1\] = 1; it sums to 0\.5"):
        of.Tableau(**{**RK4, "c": (0, 1, 1 / 2, 1 / 2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": (1 / 6, 1 / 3, 1 / 3, 1 / 3)}, r"order 1 needs Σb = 1; this tableau gives 1\.16667"),
        ({"b": (1 / 4, 1 / 4, 1 / 4, 1 / 4)}, r"order 3 needs ΣbAc = 0\.166667; this tableau gives 0\.1875"),
        ({"b": (1 / 3, 1 / 6, 1 / 6, 1 / 3)}, r"order 3 needs Σb(c²|Ac) = "),
        ({"order": 5}, r"order 5 needs Σb"),
        ({"a": ((), (1 / 2,), (1 / 2, 0), (1, 0, 0))}, r"order 3 needs ΣbAc = 0\.166667; this tableau gives 0$"),
        ({"b": (1 / 6, 1 / 3, 1 / 2)}, "b must have one entry a stage, 4 as c has; it has 3"),
        ({"a": ((), (1 / 2,), (0, 1 / 2, 0), (0, 0, 1))}, r"row 2 of a must have 2 entries \(an explicit method\)"),
        ({"b_embedded": (1, 0, 0, 0)}, "b_embedded and embedded_order go together"),
        ({"b_embedded": (1, 0, 0, 0), "embedded_order": 2}, "order 2 of the embedded weights needs Σbc = 0.5"),
        ({"dense": ((1,), (0,), (0,), (0,))}, "dense and dense_order go together"),
        ({"dense": ((1,), (0,), (0,), (0,)), "dense_order": 1}, "dense output must reach y₁ at θ = 1"),
        ({"dense": ((1,), (0,), (0,)), "dense_order": 1}, "dense must have one entry a stage, 4 as c has, .* it has 3"),
        (
            {"dense": ((1 / 6,), (1 / 3,), (1 / 3, 0), (1 / 6,)), "dense_order": 1},
            r"rows of dense must be of one length; they have \[1, 1, 2, 1\]",
        ),
        (
            {"dense": ((1 / 6,), (1 / 3,), (1 / 3,), (1 / 6,)), "dense_order": 2},
            r"dense output of order 2 needs 0 as the coefficient of θ\^1 in Σb\(θ\)c; this tableau gives 0\.5",
        ),
    ],
)
def test_wrong_tableaus_are_refused(change: dict[str, object], message: str) -> None:
    """A wrong length, row sum or order condition is refused, and named."""
    with pytest.raises(of.TableauError, match=message):
        of.Tableau(**{**RK4, **change})


ROSENBROCK = {"order": 1, "gamma": 1.0, "a": ((),), "c": ((),), "m": (1.0,), "m_embedded": (1.0,), "embedded_order": 1}
PAIR = {**RK4, "b_embedded": (1 / 6, 1 / 3, 1 / 3, 1 / 6), "embedded_order": 4}
DENSE = {**RK4, "dense": ((1 / 6,), (1 / 3,), (1 / 3,), (1 / 6,)), "dense_order": 1}


def replaced(entries: Any, place: tuple[int, ...], value: object) -> Any:
    """Nested tuples with another entry at a place."""
    if not place:
        return value
    return tuple(replaced(each, place[1:], value) if i == place[0] else each for i, each in enumerate(entries))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True, 1j, [1.0]], ids=repr)
@pytest.mark.parametrize(
    ("tableau", "valid", "name", "place"),
    [
        (of.Tableau, RK4, "c", (1,)),
        (of.Tableau, RK4, "a", (2, 1)),
        (of.Tableau, RK4, "b", (0,)),
        (of.Tableau, PAIR, "b_embedded", (3,)),
        (of.Tableau, DENSE, "dense", (1, 0)),
        (of.RosenbrockTableau, ROSENBROCK, "gamma", ()),
        (of.RosenbrockTableau, ROSENBROCK, "m", (0,)),
        (of.RosenbrockTableau, ROSENBROCK, "m_embedded", (0,)),
    ],
)
def test_coefficients_are_finite_numbers(
    tableau: type, valid: dict[str, Any], name: str, place: tuple[int, ...], value: object
) -> None:
    """A coefficient that is nan, infinite or no number is refused by the place where it stands."""
    tableau(**valid)
    where = re.escape(name + "".join(f"[{number}]" for number in place))
    with pytest.raises(of.TableauError, match=rf"^{where} must be a finite number; got {re.escape(repr(value))}$"):
        tableau(**{**valid, name: replaced(valid[name], place, value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((1.0,),)}, "row i of a must have i entries, for i from 0 to 0"),
        ({"m_embedded": (1.0, 0.0)}, "m_embedded must have 1 entries as m has; it has 2"),
    ],
)
def test_lengths_of_rosenbrock_tableaus(change: dict[str, Any], message: str) -> None:
    """Coefficients for another number of stages are refused by their name."""
    with pytest.raises(of.TableauError, match=re.escape(message)):
        of.RosenbrockTableau(**(ROSENBROCK | change))


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, math.nan, "4"], ids=repr)
@pytest.mark.parametrize(
    ("tableau", "valid", "name"),
    [
        (of.Tableau, RK4, "order"),
        (of.Tableau, PAIR, "embedded_order"),
        (of.Tableau, DENSE, "dense_order"),
        (of.RosenbrockTableau, ROSENBROCK, "order"),
        (of.RosenbrockTableau, ROSENBROCK, "embedded_order"),
    ],
)
def test_orders_are_positive_integers(tableau: type, valid: dict[str, Any], name: str, value: object) -> None:
    """An order that is no positive integer is refused by its name."""
    with pytest.raises(of.TableauError, match=rf"^{name} must be a positive integer; got {re.escape(repr(value))}$"):
        tableau(**{**valid, name: value})


@pytest.mark.parametrize("huge", [1e308, -1e308])
def test_coefficients_that_overflow_are_refused(huge: float) -> None:
    """Coefficients whose sums are not finite fulfil no condition."""
    with pytest.raises(of.TableauError, match="order 1 needs Σb = 1; this tableau gives"):
        of.Tableau(**{**RK4, "b": (huge, huge, -huge, -huge)})


def test_coefficients_are_tuples() -> None:
    """Lists, which a frozen tableau cannot hold, and single numbers are refused."""
    for name, value in {"c": [0, 0.5, 0.5, 1], "b": 1.0, "a": ((), 0.5, (0, 0.5), (0, 0, 1))}.items():
        with pytest.raises(of.TableauError, match=rf"^{name}.* must be a tuple of .*numbers; got "):
            of.Tableau(**{**RK4, name: value})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"order": 2, "weights": (math.nan, 1.0)}, r"weights\[0\] must be a finite number; got nan"),
        ({"order": 0, "weights": (1.0,)}, "order must be a positive integer; got 0"),
        ({"order": 2, "weights": (0.5,)}, "weights must sum to 1; they sum to 0.5"),
    ],
)
def test_symplectic_coefficients_are_checked(attributes: dict[str, object], message: str) -> None:
    """A symplectic method's weights are finite and sum to 1, its order is a positive integer."""
    with pytest.raises(of.TableauError, match=f"^Wrong: {message}"):
        type("Wrong", (of.Symplectic,), attributes)


@pytest.mark.parametrize("order", [0, 9, 2.0, 1.5])
def test_orders_of_adams_methods_are_checked(order: Any) -> None:
    """Methods of Adams, whose coefficients follow from the order, are of the orders 1 to 8."""
    with pytest.raises(of.SettingError, match=f"order must be a whole number from 1 to 8; got {order}"):
        AdamsBashforth(order=order, num_steps=2)


def test_order_is_not_understated_by_more_than_it_must() -> None:
    """No registered tableau, embedded solution or dense output fulfils the conditions of one order more than claimed.

    Conditions of order 9 are not checked.
    """
    for tableau in TABLEAUS.values():
        higher = [{"order": tableau.order + 1}]
        if tableau.embedded_order:
            higher.append({"embedded_order": tableau.embedded_order + 1})
        if tableau.dense_order:
            higher.append({"dense_order": tableau.dense_order + 1})
        for change in higher:
            (order,) = change.values()
            if order <= HIGHEST_CHECKED_ORDER:
                with pytest.raises(of.TableauError, match=f"order {order} (of the embedded weights )?needs"):
                    replace(tableau, **change)


@pytest.mark.parametrize("name", TABLEAUS)
def test_dense_output_fulfils_its_order_conditions(name: str) -> None:
    """Every interpolant, Hermite's too, fulfils Σ bᵢ(θ) Φᵢ(τ) = θ^|τ| / γ(τ) up to its order, and reaches bᵢ at θ = 1."""
    tableau = TABLEAUS[name]
    end = (tableau.a, tableau.c) if tableau.fsal else ((*tableau.a, tableau.b), (*tableau.c, 1.0))
    for theta in (0.1, 0.37, 0.5, 0.92, 1.0):
        weights = [sum(x * theta ** (power + 1) for power, x in enumerate(row)) for row in tableau.interpolation]
        for order in range(1, tableau.interpolation_order + 1):
            for tree in trees(order):
                value = sum(w * phi for w, phi in zip(weights, tree.weights(*end), strict=True))
                assert value == pytest.approx(theta**order / tree.density, abs=1e-12)
        if theta == 1:
            assert weights[: tableau.stages] == pytest.approx(tableau.b, abs=1e-11)


def test_order_of_the_error_is_that_of_the_weaker_solution() -> None:
    """Where the embedded solution is the better one, as Fehlberg had it, steps are still chosen by the other's order."""
    kept = TABLEAUS["Fehlberg45"]

    class Original(of.RungeKutta):
        tableau = of.Tableau(4, kept.c, kept.a, kept.b_embedded, b_embedded=kept.b, embedded_order=5)

    advanced = look_up("solver", "Fehlberg45")()
    assert Original().order == 4
    for solver in (Original(), advanced):
        assert solver.step_control(0.0, 1.0).controller.exponent == -1 / 5


def test_a_runge_kutta_method_is_its_tableau() -> None:
    """A subclass with a tableau is whole; without one it stays abstract."""

    class Ralston(of.RungeKutta):
        tableau = of.Tableau(order=2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4))

    assert Ralston(num_steps=3).order == 2
    with pytest.raises(TypeError, match="abstract"):
        of.RungeKutta(num_steps=3)  # pyright: ignore


def kutta(u: float, v: float) -> dict[str, Any]:
    """The method of order 3 with the nodes 0, u and v (Hairer, Nørsett & Wanner, exercise II.1.4)."""
    b2, b3 = (2 - 3 * v) / (6 * u * (u - v)), (2 - 3 * u) / (6 * v * (v - u))
    a32 = 1 / (6 * b3 * u)
    return {"order": 3, "c": (0, u, v), "a": ((), (u,), (v - a32, a32)), "b": (1 - b2 - b3, b2, b3)}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(0.1, 1), st.floats(0.1, 1), st.integers(0, 2), st.sampled_from([-1e-3, 1e-3, 0.1]))
def test_a_family_of_methods_is_accepted_and_its_neighbours_are_not(u: float, v: float, place: int, by: float) -> None:
    """Every method of order 3 with these nodes is accepted; with one weight changed, or a node moved, none is."""
    assume(abs(u - v) > 0.1 and abs(2 - 3 * u) > 0.1)
    method = kutta(u, v)
    assert of.Tableau(**method).stages == 3
    weights, nodes = list(method["b"]), list(method["c"])
    weights[place] += by
    nodes[place] += by
    for changed in ({"b": tuple(weights)}, {"c": tuple(nodes)}, {"order": 4}):
        with pytest.raises(of.TableauError):
            of.Tableau(**{**method, **changed})


ENTRIES = st.one_of(st.floats(), st.integers(-(10**30), 10**30), st.sampled_from([None, "x", True, 1j, [], ()]))
ROWS = st.one_of(st.lists(ENTRIES, max_size=5).map(tuple), ENTRIES)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    order=st.one_of(st.integers(-1, 12), ENTRIES),
    c=ROWS,
    a=st.one_of(st.lists(ROWS, max_size=5).map(tuple), ENTRIES),
    b=ROWS,
    embedded=ROWS,
    dense=st.one_of(st.none(), st.lists(ROWS, max_size=5).map(tuple)),
    implicit=st.booleans(),
)
@example(order=1, c=(0,), a=((),), b=(1,), embedded=None, dense=None, implicit=False)
@example(order=1, c=(0.0, 1e308), a=((), (1e308,)), b=(1.0, 0.0), embedded=None, dense=None, implicit=False)
def test_anything_is_a_tableau_or_refused(
    order: Any, c: Any, a: Any, b: Any, embedded: Any, dense: Any, implicit: bool
) -> None:
    """Whatever the coefficients are, they are accepted, or the error is one of tableaus."""
    with contextlib.suppress(of.TableauError):
        of.Tableau(order, c, a, b, embedded, 1 if embedded is not None else None, dense, 1 if dense else None, implicit)
