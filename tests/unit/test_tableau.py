"""Laws of the tableau: it refuses what contradicts itself."""

import pytest

import odeflow as of
from odeflow.registry import plugins
from odeflow.tableau import Tree, trees

RK4 = {
    "order": 4,
    "c": (0, 1 / 2, 1 / 2, 1),
    "a": ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    "b": (1 / 6, 1 / 3, 1 / 3, 1 / 6),
}


def test_number_of_trees() -> None:
    """There are 1, 1, 2, 4, 9 rooted trees with 1 to 5 nodes (Hairer, Nørsett & Wanner, table II.2.1)."""
    assert [len(set(trees(order))) for order in range(1, 6)] == [1, 1, 2, 4, 9]
    assert all(tree.order == order for order in range(1, 6) for tree in trees(order))


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
        ({"dense": ((1,), (0,), (0,), (0,))}, "dense output must reach y₁ at θ = 1"),
    ],
)
def test_wrong_tableaus_are_refused(change: dict[str, object], message: str) -> None:
    """A wrong length, row sum or order condition is refused, and named."""
    with pytest.raises(of.TableauError, match=message):
        of.Tableau(**{**RK4, **change})


def test_order_is_not_understated_by_more_than_it_must() -> None:
    """No registered tableau fulfils the conditions of one order more than it claims (up to the fifth)."""
    for cls in plugins("solver").values():
        if not issubclass(cls, (of.RungeKutta, of.AdaptiveRungeKutta)) or cls.order >= 5:
            continue
        true = cls.tableau
        with pytest.raises(of.TableauError, match=f"order {true.order + 1} needs"):
            of.Tableau(order=true.order + 1, c=true.c, a=true.a, b=true.b)


def test_dense_output_fulfils_its_order_conditions() -> None:
    """The interpolant of Dopri5 fulfils Σ bᵢ(θ) Φᵢ(τ) = θ^|τ| / γ(τ) up to order 4 at every θ."""
    from odeflow_solvers import Dopri5

    tableau = Dopri5.tableau
    assert tableau.dense is not None
    for theta in (0.1, 0.37, 0.5, 0.92):
        weights = [sum(x * theta ** (power + 1) for power, x in enumerate(row)) for row in tableau.dense]
        for order in range(1, 5):
            for tree in trees(order):
                value = sum(w * phi for w, phi in zip(weights, tree.weights(tableau.a, tableau.c), strict=True))
                assert value == pytest.approx(theta**order / tree.density, abs=1e-13)


def test_a_runge_kutta_method_is_its_tableau() -> None:
    """A subclass with a tableau is whole; without one it stays abstract; an adaptive one needs embedded weights."""

    class Ralston(of.RungeKutta):
        tableau = of.Tableau(order=2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4))

    assert Ralston(num_steps=3).order == 2
    with pytest.raises(TypeError, match="abstract"):
        of.RungeKutta(num_steps=3)  # pyright: ignore
    with pytest.raises(of.SettingError, match="needs b_embedded and embedded_order"):

        class Fixed(of.AdaptiveRungeKutta):
            tableau = Ralston.tableau
