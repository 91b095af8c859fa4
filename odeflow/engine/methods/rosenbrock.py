"""Rosenbrock: linearly implicit methods for stiff equations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odeflow.engine.equation.forward_mode import along
from odeflow.engine.equation.implicit_function import attach
from odeflow.engine.equation.jacobian import Jacobian
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.stages import weighted_sum
from odeflow.engine.step.tableau import TOLERANCE, Tree, check_coefficients, check_order, trees
from odeflow.engine.tape import Quadrature
from odeflow.errors import GradientError, TableauError
from odeflow.plugin.plugin import required

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RosenbrockTableau:
    """The coefficients of a Rosenbrock method with s stages, in the form without products with the Jacobian J.

        (I/(hγ) − J) uᵢ = f(t + αᵢ h, y + Σⱼ aᵢⱼ uⱼ) + Σⱼ cᵢⱼ uⱼ / h + γᵢ h ∂f/∂t,        y₁ = y + Σᵢ mᵢ uᵢ

    The order conditions of both solutions are checked at construction (Hairer & Wanner II, IV.7).

    Args:
        order: Order of the solution.
        gamma: γ.
        a: Row i holds the coefficients aᵢⱼ of the states, j < i.
        c: Row i holds the coefficients cᵢⱼ of the right-hand side, j < i.
        m: Weights of the solution.
        m_embedded: Weights of the embedded solution.
        embedded_order: Order of the embedded solution.

    Raises:
        TableauError: An entry is not a finite number, an order is not a positive integer, or a length or an order
            condition is wrong. The message names it.
    """

    order: int
    gamma: float
    a: Rows
    c: Rows
    m: tuple[float, ...]
    m_embedded: tuple[float, ...]
    embedded_order: int

    def __post_init__(self) -> None:
        check_order("order", self.order)
        check_order("embedded_order", self.embedded_order)
        check_coefficients("gamma", self.gamma, depth=0)
        for name, row in {"m": self.m, "m_embedded": self.m_embedded}.items():
            check_coefficients(name, row)
        for name, rows in {"a": self.a, "c": self.c}.items():
            check_coefficients(name, rows, depth=2)
            if [len(row) for row in rows] != list(range(len(self.m))):
                raise TableauError(f"row i of {name} must have i entries, for i from 0 to {len(self.m) - 1}")
        if len(self.m_embedded) != len(self.m):
            raise TableauError(f"m_embedded must have {len(self.m)} entries as m has; it has {len(self.m_embedded)}")
        for weights, order, whose in (
            (self.m, self.order, ""),
            (self.m_embedded, self.embedded_order, " of the embedded weights"),
        ):
            for tree in (tree for checked in range(1, order + 1) for tree in trees(checked)):
                value = _dot(_times(weights, self._gammas), self._weights(tree))
                if not abs(value - 1 / tree.density) <= TOLERANCE:
                    raise TableauError(
                        f"order {tree.order}{whose} needs Σb{tree.formula} = {1 / tree.density:.6g}, with α or "
                        f"β = α + γ for A; these coefficients give {value:.6g}"
                    )

    @property
    def error_order(self) -> int:
        """Order q of the less accurate of the two solutions."""
        return min(self.order, self.embedded_order)

    @property
    def error_weights(self) -> tuple[float, ...]:
        """`m` − `m_embedded`."""
        return tuple(x - y for x, y in zip(self.m, self.m_embedded, strict=True))

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        """The nodes α."""
        return tuple(sum(row) for row in self._alphas)

    @cached_property
    def time_weights(self) -> tuple[float, ...]:
        """γᵢ, the weights of ∂f/∂t."""
        return tuple(sum(row) for row in self._gammas)

    @cached_property
    def _gammas(self) -> Rows:
        """Γ = (I/γ − C)⁻¹ by rows, including the diagonal: uᵢ = h Σⱼ Γᵢⱼ kⱼ with stage derivatives k."""
        rows: list[tuple[float, ...]] = []
        for number, row in enumerate(self.c):
            known = _times(row, tuple(rows))
            rows.append((*(self.gamma * (known[j] if j < len(known) else 0.0) for j in range(number)), self.gamma))
        return tuple(rows)

    @cached_property
    def _alphas(self) -> Rows:
        """A Γ by rows: the coefficients of the stage derivatives k in the states."""
        return tuple(_times(row, self._gammas) for row in self.a)

    def _weights(self, tree: Tree) -> list[float]:
        """Φᵢ of a tree: with α at nodes with several branches, α + γ at nodes with one."""
        count = len(self.m)
        product = [1.0] * count
        for branch in tree.branches:
            inner = self._weights(branch)
            for number in range(count):
                factor = _dot(self._alphas[number], inner)
                if len(tree.branches) == 1:
                    factor += _dot(self._gammas[number], inner)
                product[number] *= factor
        return product


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=False))


def _times(weights: Sequence[float], rows: Rows) -> tuple[float, ...]:
    """The product of weights with the lower triangular matrix of these rows."""
    return tuple(
        sum(weight * row[j] for weight, row in zip(weights, rows, strict=False) if j < len(row))
        for j in range(len(weights))
    )


class RosenbrockStages(MemoryStages):
    """The stages of a Rosenbrock method.

    Args:
        tableau: The method.
        field: The vector field.
        quadrature: Accumulates integrals of the field's side results, if any.
        jacobian: Computes Jacobians; it is shared to reuse its knowledge of the field's structure.
    """

    def __init__(
        self,
        tableau: RosenbrockTableau,
        field: Field,
        quadrature: Quadrature | None = None,
        jacobian: Jacobian | None = None,
    ) -> None:
        super().__init__(tableau.order, field, quadrature)
        self.tableau = tableau
        self.jacobian = Jacobian() if jacobian is None else jacobian
        self.parts: list[Tensor] = []

    @property
    def traced(self) -> Callable[[Field], "RosenbrockStages"]:
        return partial(RosenbrockStages, self.tableau, jacobian=self.jacobian)

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        tableau, weight = self.tableau, h * self.tableau.gamma
        before, point, clock = self.jacobian.evaluations, y.detach(), self.inside(t)
        factors = self.jacobian.at(self.field, clock, point).factors(weight)
        change = self.jacobian.by_time(self.field, clock, point, h, self.window)
        self.evaluations += self.jacobian.evaluations - before
        parts = self.parts = []
        for number, (row, slopes) in enumerate(zip(tableau.a, tableau.c, strict=True)):
            state = weighted_sum(y, row, parts)
            slope = self.evaluate(t + tableau.nodes[number] * h, state) if number else self.first_slope(t, y)
            value = weight * weighted_sum(slope, [each / h for each in slopes], parts)
            if not number and forward_ad.unpack_dual(value).tangent is not None:
                raise GradientError(
                    "Rosenbrock methods cannot be differentiated in forward mode, as by dual tensors: use reverse "
                    "mode, or an implicit Runge–Kutta solver such as Kvaerno5"
                )
            time_step = weight * h * tableau.time_weights[number]
            part = factors.solve((value + time_step * change).detach())
            if torch.is_grad_enabled():
                value = value + self._along(clock, y, time_step, weight * part)
                part = attach(value, part, lambda grad: factors.solve(grad, adjoint=True))
            parts.append(part)
        return self.finish(weighted_sum(y, tableau.m, parts))

    def _along(self, t: float, y: Tensor, time_step: float, direction: Tensor) -> Tensor:
        """The derivative of the field along (time_step, direction), with a graph.

        Raises:
            GradientError: The field does not support forward mode.
        """
        clock = y.new_full((), t)
        self.evaluations += 1
        try:
            return along(self.field, (clock, y), (torch.full_like(clock, time_step), direction))[1].to(y)
        except (RuntimeError, NotImplementedError) as problem:
            raise GradientError(
                "the gradient through a Rosenbrock method needs the field's derivative in forward mode, which failed:"
                f" {str(problem).strip().partition(chr(10))[0]}. Use an implicit Runge–Kutta solver such as Kvaerno5"
            ) from problem

    def error(self) -> Tensor:
        with torch.no_grad():
            return weighted_sum(torch.zeros_like(self.y), self.tableau.error_weights, self.parts).reshape(-1) / self.h


class Rosenbrock(Stepper):
    """A Rosenbrock method. Subclasses only set `tableau`.

    Each stage solves one linear system with the same matrix I − hγJ. There is no iteration that can fail, but each step
    requires the exact Jacobian. Gradients require fields that support `torch.func.jvp`. Float64 is recommended.
    """

    tableau: ClassVar[RosenbrockTableau] = required()
    supports = ("per_sample",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "tableau" in vars(cls):
            cls.order, cls.error_order = cls.tableau.order, cls.tableau.error_order
        super().__init_subclass__(**kwargs)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> RosenbrockStages:
        return RosenbrockStages(self.tableau, field, quadrature)
