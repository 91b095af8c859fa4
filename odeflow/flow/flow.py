"""Flow: a layer that carries a state along a vector field."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from odeflow.engine.equation.field import entering, outside_inference, uncompiled, usual
from odeflow.engine.equation.state import S, State
from odeflow.engine.gradients import Checkpointed, Gradient
from odeflow.engine.loop.stepper import AdaptiveStepper
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.errors import SettingError, StateError
from odeflow.flow.divergence import Divergence
from odeflow.flow.dynamics import Dynamics
from odeflow.flow.regularizers import Rate, Regularizer, with_rates
from odeflow.plugin.plugin import check_kind


class Flow(nn.Module):
    """A layer that carries a state along a vector field: y(t₀) ↦ y(t₁).

    Args:
        dynamics: The vector field, a module taking (t, y).
        solver: Integrates.
        gradient: How to differentiate; `Checkpointed()` by default.
        t0: First time.
        t1: Last time; may lie before t0.
        augment: Number of dimensions that are appended to the state along dimension 1 (features or channels) before
            it is solved (Dupont et al. 2019). The dynamics and the results have the augmented size.
        lift: What is appended: "zero"; or "learned", a linear map of the state along dimension 1 (Massaroli et al.
            2020), which needs a `Dynamics` for its width.
        regularizers: What is integrated along with the state in training, for `penalties`.
        steer: In training the last time of `forward` is drawn from (t1 − steer, t1 + steer), which makes the dynamics
            easier to solve (Ghosh et al. 2020, "STEER").
        warm_start: Begin each solve with the step that suited the beginning of the last one, instead of two
            evaluations that look for it. For adaptive solvers; results then depend, within the tolerance, on what was
            solved before.

    Attributes:
        stats: What the last solve took; None before the first.
        penalties: The regularisers' penalties of the last solve by name, weighted and averaged over the batch, to be
            added to the loss; a `Task` does that. Empty outside training.
    """

    stats: Stats | None
    penalties: dict[str, Tensor]

    def __init__(
        self,
        dynamics: nn.Module,
        solver: Solver,
        gradient: Gradient | None = None,
        t0: float = 0.0,
        t1: float = 1.0,
        augment: int = 0,
        lift: Literal["zero", "learned"] = "zero",
        regularizers: Regularizer | Sequence[Regularizer] = (),
        steer: float = 0.0,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        check_kind("dynamics", dynamics, nn.Module, "MLP(dim=2); of odeflow.solve it may be a function")
        check_kind("solver", solver, Solver, "Dopri5()")
        gradient = Checkpointed() if gradient is None else gradient
        check_kind("gradient", gradient, Gradient, "Checkpointed()")
        regularizers = (regularizers,) if isinstance(regularizers, Regularizer) else tuple(regularizers)
        for each in regularizers:
            check_kind("regularizer", each, Regularizer, "Kinetic(weight=0.1)")
        if t0 == t1:
            raise SettingError(f"a flow needs two different times; t0 and t1 are both {t0}")
        if augment < 0 or augment != int(augment):
            raise SettingError(f"augment must be a whole number, and not negative; got {augment}")
        if not 0 <= steer < abs(t1 - t0):
            raise SettingError(f"steer must lie between 0 and the flow's duration {abs(t1 - t0):g}; got {steer}")
        if lift not in ("zero", "learned"):
            raise SettingError(f"lift must be 'zero' or 'learned'; got {lift!r}")
        self.dynamics, self.solver = dynamics, solver
        self.lift = _lift(dynamics, augment) if lift == "learned" else None
        self.gradient = gradient
        self.t0, self.t1, self.augment, self.warm_start = t0, t1, augment, warm_start
        self.regularizers, self.steer = regularizers, steer
        self.stats, self.penalties = None, {}

    def forward(self, y0: S) -> S:
        """The state at t₁.

        Args:
            y0: (B, d, …) at t₀, or a tuple of such tensors.

        Returns:
            (B, d + augment, …), or a tuple as y0.
        """
        y = self.trajectory(y0, self.span()).y
        return cast(S, y[-1] if isinstance(y, Tensor) else tuple(leaf[-1] for leaf in y))

    if TYPE_CHECKING:  # nn.Module's own call tells nothing of types

        def __call__(self, y0: S) -> S: ...

    def span(self) -> tuple[float, float]:
        """(t0, t1), with a new t1 at each call in training with `steer`."""
        if not (self.training and self.steer):
            return self.t0, self.t1
        return self.t0, self.t1 + self.steer * (2 * torch.rand(()).item() - 1)

    @overload
    def trajectory(
        self,
        y0: S,
        t: Tensor | Sequence[float],
        *,
        divergence: None = None,
        context: Tensor | None = None,
        dense: bool = False,
    ) -> Solution[S]: ...
    @overload
    def trajectory(
        self,
        y0: Tensor,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence,
        context: Tensor | None = None,
        dense: bool = False,
    ) -> Solution[tuple[Tensor, ...]]: ...
    @overload
    def trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence | None,
        context: Tensor | None = None,
        dense: bool = False,
    ) -> Solution[Any]: ...
    @uncompiled
    def trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence | None = None,
        context: Tensor | None = None,
        dense: bool = False,
    ) -> Solution[Any]:
        """The states at all the times t, of which the first is that of y0.

        Args:
            y0: (B, d, …), or a tuple of such tensors.
            t: (T,), strictly monotone, or (B, T) as `solve` takes them.
            divergence: Makes the result a pair, of which the second is log |det ∂y(t)/∂y(t[0])|, (T, B).
            context: (B, c, …), what the field shall see beside the state: it is called with [y, context] along
                dimension 1, and the first d entries of its slope are used.
            dense: Whether the solution can be called, `solution(t)`, for the states at any time between.

        Returns:
            Solution with y of shape (T, B, d + augment, …), the first of the pair with a divergence.

        Raises:
            StateError: The state is a tuple where that cannot be, or has other dimensions than its input where its
                density is wanted.
        """
        if torch.is_inference_mode_enabled():
            with outside_inference():
                y0, t, context = usual(y0), usual(t), usual(context)
                again: Any = Flow.trajectory
                return again(self, y0, t, divergence=divergence, context=context, dense=dense)
        y0 = tuple(entering(leaf) for leaf in y0) if isinstance(y0, tuple) else entering(y0)
        state, field = self._entered(y0), self.dynamics
        params: list[Tensor] = list(self.dynamics.parameters())
        if context is not None:
            field = _InContext(self.dynamics, context)
            params.append(context)
        regularizers = self.regularizers if self.training else ()
        rates: list[Rate] = [regularizer.rate for regularizer in regularizers]
        if divergence is not None:
            if not isinstance(y0, Tensor) or not isinstance(state, Tensor) or state.shape != y0.shape:
                raise StateError("the density of a flow needs a state of its input's shape: no tuple, no augmentation")
            rates.append(divergence.along(state))
        elif not rates:
            self.penalties = {}
            return self._solve(field, state, t, params, dense).unpacked(self._left)
        if isinstance(state, tuple):
            raise StateError("regularizers need a state of shape (B, d, …); got a tuple")
        start = (state, state.new_zeros(len(state), len(rates)))
        solution = self._solve(with_rates(field, rates), start, t, params, dense)
        _, integrals = solution.y
        self.penalties = {
            regularizer.name: regularizer.weight * integrals[-1, :, number].mean().abs()
            for number, regularizer in enumerate(regularizers)
        }

        def seen(pair: State) -> State:
            y, integrals = pair
            return self._left(y) if divergence is None else (y, integrals[:, :, -1])

        return solution.unpacked(seen)

    def _solve(
        self, field: Any, state: S, t: Tensor | Sequence[float], params: list[Tensor], dense: bool
    ) -> Solution[S]:
        """A solve by the flow's own solver and gradient, whose statistics are kept."""
        solver, last = self.solver, self.stats
        if self.warm_start and isinstance(solver, AdaptiveStepper) and last is not None and last.suggested_step:
            solver = solver.starting_with(last.suggested_step)
        solution = solve(field, state, t, solver=solver, gradient=self.gradient, params=params, dense=dense)
        self.stats = solution.stats
        return solution

    def _entered(self, y0: State) -> State:
        state = self._augmented(y0)
        if isinstance(self.dynamics, Dynamics) and isinstance(state, Tensor) and state.dim() > 0:
            return self.dynamics.enter(state)
        return state

    def _left(self, y: State) -> State:
        if isinstance(self.dynamics, Dynamics) and isinstance(y, Tensor) and y.dim() > 1:
            return self.dynamics.leave(y.flatten(0, 1)).unflatten(0, y.shape[:2])
        return y

    def _augmented(self, y0: State) -> State:
        if not self.augment:
            return y0
        if isinstance(y0, tuple) or y0.dim() < 2:
            raise StateError("augment needs a state of shape (B, d, …); got a tuple or fewer dimensions")
        if self.lift is None:
            return torch.cat([y0, y0.new_zeros(y0.shape[0], self.augment, *y0.shape[2:])], dim=1)
        return torch.cat([y0, self.lift(y0.movedim(1, -1)).movedim(-1, 1)], dim=1)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which have no penalties: those are of the last solve's graph."""
        return {**self.__dict__, "penalties": {}}

    def extra_repr(self) -> str:
        """Times and augmentation, for `print`."""
        return f"t0={self.t0}, t1={self.t1}, augment={self.augment}"


@dataclass(frozen=True)
class _InContext:
    """A field that sees a context beside the state.

    Attributes:
        field: The field on [y, context].
        context: (B, c, …).
    """

    field: nn.Module
    context: Tensor

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, torch.cat([y, self.context], dim=1))[:, : y.shape[1]]


def _lift(dynamics: nn.Module, augment: int) -> nn.Linear:
    """The learned map from a state to the dimensions that are appended to it."""
    if not isinstance(dynamics, Dynamics):
        raise SettingError(f"a learned lift needs a Dynamics, for its width; got {type(dynamics).__name__}")
    if not 0 < augment < dynamics.width:
        raise SettingError(f"a learned lift needs augment between 1 and {dynamics.width - 1}; got {augment}")
    return nn.Linear(dynamics.width - augment, augment)
