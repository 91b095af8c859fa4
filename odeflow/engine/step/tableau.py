"""Tableau: the coefficients of a Runge–Kutta method, verified at construction."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement
from numbers import Real
from typing import cast

import numpy as np

from odeflow.errors import TableauError

TOLERANCE = 1e-10
HIGHEST_CHECKED_ORDER = 8


@dataclass(frozen=True)
class Tree:
    """A rooted tree: one order condition of a Runge–Kutta method (Hairer, Nørsett & Wanner, II.2).

    The condition of tree τ is Σᵢ bᵢ Φᵢ(τ) = 1/γ(τ), where the weight Φᵢ of a tree is the product over its branches
    of cᵢ for a single node and of Σⱼ aᵢⱼ Φⱼ for a larger branch, and the density γ is the product of the sizes of
    the tree and of all its subtrees.
    """

    branches: tuple["Tree", ...] = ()

    @cached_property
    def order(self) -> int:
        """The number of nodes."""
        return 1 + sum(branch.order for branch in self.branches)

    @cached_property
    def density(self) -> int:
        """The density γ: the order condition is Σ b Φ = 1/γ."""
        value = self.order
        for branch in self.branches:
            value *= branch.density
        return value

    @cached_property
    def formula(self) -> str:
        """Φ in matrix notation, where powers of c are vectors: `cAc²`."""
        leaves = sum(not branch.branches for branch in self.branches)
        text = {0: "", 1: "c"}.get(leaves, "c" + "⁰¹²³⁴⁵⁶⁷"[min(leaves, 7)])
        for branch in self.branches:
            if branch.branches:
                inner = branch.formula
                text += f"A{inner}" if len(branch.branches) == 1 or not inner.count("A") else f"A({inner})"
        return text

    def weights(self, a: tuple[tuple[float, ...], ...], c: tuple[float, ...]) -> list[float]:
        """Φᵢ for every stage i."""
        product = [1.0] * len(c)
        for branch in self.branches:
            if branch.branches:
                inner = branch.weights(a, c)
                factor = [sum(x * y for x, y in zip(row, inner, strict=False)) for row in a]
            else:
                factor = list(c)
            product = [x * y for x, y in zip(product, factor, strict=True)]
        return product


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` nodes, each once: 1, 1, 2, 4, 9, 20, 48, 115 of them for orders 1 to 8."""

    def forests(nodes: int, largest: int) -> Iterator[tuple[Tree, ...]]:
        if nodes == 0:
            yield ()
        for size in range(min(nodes, largest), 0, -1):
            for count in range(1, nodes // size + 1):
                for chosen in combinations_with_replacement(trees(size), count):
                    for rest in forests(nodes - size * count, size - 1):
                        yield chosen + rest

    return tuple(Tree(branches) for branches in forests(order - 1, order - 1))


def check_coefficients(name: str, value: object, depth: int = 1) -> None:
    """Rejects coefficients that are not finite numbers.

    Args:
        name: Name of the coefficients.
        value: A number (depth 0), a tuple of numbers (depth 1), or a tuple of such tuples (depth 2).
        depth: The nesting depth.

    Raises:
        TableauError: A coefficient is not a finite number. The message names it.
    """
    if depth:
        if not isinstance(value, tuple):
            raise TableauError(f"{name} must be a tuple of {'tuples of ' * (depth - 1)}numbers; got {value!r}")
        for number, entry in enumerate(cast(tuple[object, ...], value)):
            check_coefficients(f"{name}[{number}]", entry, depth - 1)
    elif isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TableauError(f"{name} must be a finite number; got {value!r}")


def check_order(name: str, value: object) -> None:
    """Rejects orders that are not positive integers.

    Raises:
        TableauError: The order is not a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TableauError(f"{name} must be a positive integer; got {value!r}")


@dataclass(frozen=True)
class Tableau:
    """The Butcher tableau of a Runge–Kutta method with s stages, explicit or diagonally implicit.

        kᵢ = f(t + cᵢ h, y + h Σⱼ aᵢⱼ kⱼ),        y₁ = y + h Σᵢ bᵢ kᵢ

    Everything is checked at construction: lengths, row sums cᵢ = Σⱼ aᵢⱼ, and the order
    conditions of b, of `b_embedded` and of `dense`, up to order 8.

    Args:
        order: Order p of the solution with weights b.
        c: Nodes, s of them.
        a: Row i holds the coefficients to the left of the diagonal: `((), (1/2,), (0, 1/2))`.
        b: Weights, s of them.
        b_embedded: Weights of the embedded solution, whose difference from b estimates the error.
        embedded_order: Order of the embedded solution.
        dense: Dense output: row i holds the coefficients of θ, θ², … of bᵢ(θ) in y(t + θh) = y + h Σᵢ bᵢ(θ) kᵢ. An
            additional row is for f(t₁, y₁) at the end of the step. By default a quartic of order 4 is derived if one
            exists; otherwise dense output is cubic Hermite interpolation.
        dense_order: Order of the dense output.
        implicit: Whether rows of `a` may include the diagonal entry of an implicit stage.

    Raises:
        TableauError: An entry is not a finite number, an order is not a positive integer, or a length, a row sum or an
            order condition is wrong. The message names it.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    b_embedded: tuple[float, ...] | None = None
    embedded_order: int | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    dense_order: int | None = None
    implicit: bool = False

    def __post_init__(self) -> None:
        self._check_entries()
        self._check_lengths()
        for number, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if not abs(sum(row) - node) <= TOLERANCE:
                raise TableauError(
                    f"row {number} of a must sum to its node c[{number}] = {node:g}; it sums to {sum(row):g}. "
                    "A node that does not match its row costs the order on fields that depend on t"
                )
        self._check_order(self.b, self.order, "")
        if self.b_embedded is not None and self.embedded_order is not None:
            self._check_order(self.b_embedded, self.embedded_order, " of the embedded weights")
        if self.dense is not None and self.dense_order is not None:
            self._check_dense(self.dense, self.dense_order)
        _ = self.fsal, self.stiffness_weights, self.error_weights  # before torch.compile, which cannot enter locks

    @property
    def stages(self) -> int:
        """Number of stages s."""
        return len(self.c)

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is f(t₁, y₁), the first stage of the next step ("first same as last")."""
        return self.stages > 1 and self.c[-1] == 1 and self.a[-1] == self.b[:-1] and self.b[-1] == 0

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is implicit and its state is y₁."""
        return self.c[-1] == 1 and self.a[-1] == self.b

    @cached_property
    def stiffness_weights(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The s weights of k for kₛ − kₛ₋₁ and for (gₛ − gₛ₋₁)/h, if the last two stages g have the same node."""
        if self.stages < 2 or self.c[-1] != self.c[-2]:
            return None
        rows = [(*row, *(0.0,) * (self.stages - len(row))) for row in self.a[-2:]]
        return (*(0.0,) * (self.stages - 2), -1.0, 1.0), tuple(x - y for x, y in zip(rows[1], rows[0], strict=True))

    @property
    def error_order(self) -> int | None:
        """Order q of the less accurate solution of the pair; None without embedded weights."""
        return None if self.embedded_order is None else min(self.order, self.embedded_order)

    @cached_property
    def error_weights(self) -> tuple[float, ...] | None:
        """`b` − `b_embedded`; None without embedded weights."""
        if self.b_embedded is None:
            return None
        return tuple(x - y for x, y in zip(self.b, self.b_embedded, strict=True))

    @cached_property
    def interpolation(self) -> tuple[tuple[float, ...], ...]:
        """Row i: the coefficients of θ, θ², … of bᵢ(θ). The last row is for f(t₁, y₁) at the end of the step.

        Without `dense` this is a quartic, or cubic Hermite interpolation,
        y + (3θ² − 2θ³)(y₁ − y) + h(θ − 2θ² + θ³) k₁ + h(θ³ − θ²) f(t₁, y₁).
        """
        if self.quartic is not None:
            return self.quartic
        if self.dense is not None:
            ends = self.fsal or len(self.dense) > self.stages
            return self.dense if ends else (*self.dense, (0.0,) * len(self.dense[0]))
        weights = self.b[:-1] if self.fsal else self.b
        first, *others = ((0.0, 3 * weight, -2 * weight) for weight in weights)
        return ((1.0, first[1] - 2, first[2] + 1), *others, (0.0, -1.0, 1.0))

    @cached_property
    def quartic(self) -> tuple[tuple[float, ...], ...] | None:
        """C¹ dense output of order 4, if the tableau has no `dense` and one exists.

        It is the minimum-norm solution of the linear equations for its coefficients: the order conditions of trees with
        up to four nodes, for each power of θ, and values and derivatives at θ = 0 and 1.
        """
        ends = self.fsal or self.stiffly_accurate
        if self.dense is not None or self.order < 4 or (self.implicit and not ends):
            return None
        a, c = (self.a, self.c) if ends else ((*self.a, self.b), (*self.c, 1.0))
        count, powers = len(c), np.arange(1, 5)
        unit = np.eye(count)
        conditions = [
            (np.outer(tree.weights(a, c), powers == power), (power == order) / tree.density)
            for order in powers
            for tree in trees(int(order))
            for power in powers
        ]
        sides = ((powers == 1, unit[0]), (powers > 0, [*self.b, 0.0][:count]), (powers, unit[-1]))
        conditions += [(np.outer(unit[stage], at), wanted[stage]) for at, wanted in sides for stage in range(count)]
        matrix = np.stack([condition.ravel() for condition, _ in conditions])
        wanted = np.array([value for _, value in conditions], dtype=float)
        found = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        if np.abs(matrix @ found - wanted).max() > TOLERANCE:
            return None
        return tuple(map(tuple, found.reshape(count, 4).tolist()))

    @property
    def interpolation_order(self) -> int:
        """Order of `interpolation`: 4 for a quartic; 3 for Hermite, if the method has at least that order."""
        if self.dense_order is not None:
            return self.dense_order
        return 4 if self.quartic is not None else min(self.order, 3)

    def _check_entries(self) -> None:
        check_order("order", self.order)
        for name, order in (("embedded_order", self.embedded_order), ("dense_order", self.dense_order)):
            if order is not None:
                check_order(name, order)
        for name, row in (("c", self.c), ("b", self.b), ("b_embedded", self.b_embedded or ())):
            check_coefficients(name, row)
        for name, rows in (("a", self.a), ("dense", self.dense or ())):
            check_coefficients(name, rows, depth=2)

    def _check_lengths(self) -> None:
        stages = len(self.c)
        lengths = {"a": len(self.a), "b": len(self.b)}
        if self.b_embedded is not None:
            lengths["b_embedded"] = len(self.b_embedded)
        for name, length in lengths.items():
            if length != stages:
                raise TableauError(f"{name} must have one entry a stage, {stages} as c has; it has {length}")
        for number, row in enumerate(self.a):
            if len(row) not in (number, number + self.implicit):
                wanted = f"{number} or, with the diagonal, {number + 1}" if self.implicit else f"{number}"
                method = "a diagonally implicit method" if self.implicit else "an explicit method"
                raise TableauError(f"row {number} of a must have {wanted} entries ({method}); it has {len(row)}")
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise TableauError("b_embedded and embedded_order go together; one of them is missing")
        if (self.dense is None) != (self.dense_order is None):
            raise TableauError("dense and dense_order go together; one of them is missing")

    def _check_order(self, weights: tuple[float, ...], order: int, whose: str) -> None:
        for checked in range(1, min(order, HIGHEST_CHECKED_ORDER) + 1):
            for tree in trees(checked):
                value = sum(x * y for x, y in zip(weights, tree.weights(self.a, self.c), strict=True))
                if not abs(value - 1 / tree.density) <= TOLERANCE:
                    raise TableauError(
                        f"order {checked}{whose} needs Σb{tree.formula} = {1 / tree.density:.6g}; "
                        f"this tableau gives {value:.6g}"
                    )

    def _check_dense(self, dense: tuple[tuple[float, ...], ...], order: int) -> None:
        """Checks Σ bᵢ(θ) Φᵢ(τ) = θ^|τ| / γ(τ) for every tree τ and each power of θ, and bᵢ(1) = bᵢ."""
        if len(dense) not in (self.stages, self.stages + (not self.fsal)):
            raise TableauError(
                f"dense must have one entry a stage, {self.stages} as c has, and may have one more for the slope at "
                f"the step's end if no stage is there already; it has {len(dense)}"
            )
        if len({len(row) for row in dense}) > 1:
            raise TableauError(f"the rows of dense must be of one length; they have {[len(row) for row in dense]}")
        for weight, row in zip((*self.b, 0.0), dense, strict=False):
            if not abs(sum(row) - weight) <= TOLERANCE:
                raise TableauError(
                    f"dense output must reach y₁ at θ = 1: a row sums to {sum(row):g}, its b is {weight:g}"
                )
        a, c = (self.a, self.c) if self.fsal else ((*self.a, self.b), (*self.c, 1.0))
        powers = list(zip(*self.interpolation, strict=True))
        for checked in range(1, min(order, HIGHEST_CHECKED_ORDER) + 1):
            for tree in trees(checked):
                weights = tree.weights(a, c)
                for power, column in enumerate(powers, start=1):
                    value = sum(x * y for x, y in zip(column, weights, strict=True))
                    wanted = (power == checked) / tree.density
                    if not abs(value - wanted) <= TOLERANCE:
                        raise TableauError(
                            f"dense output of order {checked} needs {wanted:.6g} as the coefficient of θ^{power} in "
                            f"Σb(θ){tree.formula}; this tableau gives {value:.6g}"
                        )
