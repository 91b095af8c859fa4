"""Symplectic: compositions of Störmer–Verlet steps, for long-time mechanics."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.field import recorder, transformed
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.step.tableau import TOLERANCE, check_coefficients, check_order
from odeflow.engine.tape import Quadrature
from odeflow.errors import StateError, TableauError
from odeflow.plugin.plugin import required


class SymplecticStages(MemoryStages):
    """Kick–drift–kick: p += h/2 F(t, q), q += h v(t + h/2, p), p += h/2 F(t + h, q), for each substep.

    Each evaluation of the field uses only one half of its value. The last force is reused in the next step.

    Args:
        order: Order of the method.
        weights: Sizes of the substeps as fractions of the step.
        field: The vector field.
        quadrature: Accumulates integrals of the field's side results, if any.
        checked: Whether separability has already been verified.
    """

    def __init__(
        self,
        order: int,
        weights: tuple[float, ...],
        field: Field,
        quadrature: Quadrature | None = None,
        checked: bool = False,
    ) -> None:
        super().__init__(order, field, quadrature)
        self.weights = weights
        self.force: Tensor | None = None  # at the start of the step
        self.checked = checked or recorder() is not None or transformed()  # there nothing may depend on values

    @property
    def traced(self) -> Callable[[Field], "SymplecticStages"]:
        return partial(SymplecticStages, self.order, self.weights, checked=True)

    def _check(self, t: float, y: Tensor) -> None:
        """Rejects fields that are not separable near y.

        Raises:
            StateError: The derivative of one half depends on that half.
        """
        with torch.no_grad():
            q, p = halves(y)
            moved_q, moved_p = q + 0.1 * (1 + q.abs()), p + 0.1 * (1 + p.abs())
            slopes = [halves(self.evaluate(t, state)) for state in (joined(q, moved_p), joined(moved_q, moved_p))]
            force = halves(self.first_slope(t, y))[1]
        pairs = {"dq/dt depends on q": (slopes[0][0], slopes[1][0]), "dp/dt depends on p": (force, slopes[0][1])}
        for what, (one, other) in pairs.items():
            if float((one - other).norm()) > torch.finfo(y.dtype).eps ** 0.5 * float(one.norm()):
                raise StateError(
                    f"a symplectic method needs a separable field, dq/dt = v(t, p) and dp/dt = F(t, q), but {what}. "
                    "Use another solver such as ImplicitMidpoint; if this is the equation of Adjoint, which is not "
                    "separable, give that a solver of its own or use Checkpointed"
                )
        self.checked = True

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        if not self.checked:
            self._check(t, y)
            self.first = None  # without a graph
        self.begin(t, h, y)
        q, p = halves(y)
        force = halves(self.first_slope(t, y))[1] if self.force is None else self.force
        for weight in self.weights:
            size = weight * h
            p = p.add(force, alpha=size / 2)
            q = q.add(halves(self.evaluate(t + size / 2, joined(q, p)))[0], alpha=size)
            t = t + size
            force = halves(self.evaluate(t, joined(q, p)))[1]
            p = p.add(force, alpha=size / 2)
        self.last_force = force
        return self.finish(joined(q, p))

    def advance(self) -> None:
        super().advance()
        self.force = self.last_force

    def forget_slope(self) -> None:
        super().forget_slope()
        self.force = None


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    """(q, p): the halves of a state along dimension 1, or along its only dimension."""
    return y.chunk(2, dim=min(1, y.dim() - 1))  # pyright: ignore[reportReturnType]


def joined(q: Tensor, p: Tensor) -> Tensor:
    """The state of the halves (q, p)."""
    return torch.cat((q, p), dim=min(1, q.dim() - 1))


class Symplectic(Stepper):
    """A symplectic method for dq/dt = v(t, p), dp/dt = F(t, q), with a fixed step size.

    Subclasses set `order` and `weights`. The state is a tuple of positions and momenta, or a tensor with these halves
    along dimension 1 (or its only dimension). The field must be separable: dq/dt independent of q, dp/dt of p. Other
    fields are rejected.

    The energy error stays bounded over very long times, since the method nearly exactly solves a perturbed Hamiltonian
    system, and solves are time-reversible.
    """

    order: int = required()
    weights: ClassVar[tuple[float, ...]] = required()
    straight = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "weights" in vars(cls):
            check_coefficients(f"{cls.__name__}: weights", cls.weights)
            check_order(f"{cls.__name__}: order", cls.order)
            if not abs(sum(cls.weights) - 1) <= TOLERANCE:
                raise TableauError(f"{cls.__name__}: weights must sum to 1; they sum to {sum(cls.weights)}")

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> SymplecticStages:
        if y0.dim() == 0 or y0.shape[min(1, y0.dim() - 1)] % 2:
            raise StateError(
                f"{type(self).__name__} needs a state of positions and as many momenta: a tuple (q, p), or a tensor of "
                f"even size along dimension 1; got shape {tuple(y0.shape)}"
            )
        return SymplecticStages(self.order, self.weights, field, quadrature)
