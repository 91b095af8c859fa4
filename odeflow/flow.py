"""solve() and Flow: how people integrate."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from odeflow.divergence import Divergence
from odeflow.dynamics import Dynamics
from odeflow.errors import GradientError, SettingError, StateError
from odeflow.field import SameNoise
from odeflow.gradient import Checkpointed, Gradient
from odeflow.regularization import Rate, Regularizer, with_rates
from odeflow.runge_kutta import AdaptiveRungeKutta
from odeflow.solver import Solution, Solver, Stats
from odeflow.state import PackedField, Packing, State, check_dtype


def solve(
    field: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor | Sequence[float],
    *,
    solver: Solver,
    gradient: Gradient | None = None,
    params: Iterable[Tensor] | None = None,
) -> Solution:
    """Solves dy/dt = field(t, y) from y(t[0]) = y0.

    Args:
        field: The vector field, a module or a function; t comes as a Tensor of shape (), or of shape (B,) where the
            solver steps per sample.
        y0: (B, *state) or a tuple of such tensors, which the field then takes and returns too.
        t: (T,), at least two times, strictly increasing or strictly decreasing. A Tensor may carry a gradient. Where
            the solver steps per sample, each may have its own times in a row of (B, T), all rows in one direction.
        solver: Integrates.
        gradient: How to differentiate; `Checkpointed()` by default.
        params: What gradients are wanted for besides y0 and t. By default the parameters of the field, a module;
            `Backprop` finds all that the field uses by itself.

    Returns:
        Solution with y of shape (T, B, *state), or a tuple of such tensors.

    Raises:
        StateError: The state, or what the field made of it, has a wrong shape or dtype.
        SettingError: The times are not strictly monotone.
        GradientError: The field is a function and the gradient must be told its parameters.
        SolveError: The integration could not go on.
    """
    gradient = Checkpointed() if gradient is None else gradient
    times = _checked_times(t)
    if times.dim() == 2:
        _check_own_times(times, y0, solver)
    if isinstance(y0, tuple):
        packing = Packing.of(y0, solver.per_sample)
        solution = _solve(PackedField(packing, field), packing.pack(y0), times, field, solver, gradient, params)
        assert isinstance(solution.y, Tensor)
        return replace(solution, y=packing.unpack(solution.y))
    return _solve(field, y0.contiguous(), times, field, solver, gradient, params)


def _solve(
    packed: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t: Tensor,
    field: object,
    solver: Solver,
    gradient: Gradient,
    params: Iterable[Tensor] | None,
) -> Solution:
    check_dtype(y0)
    packed = SameNoise(packed)
    if not torch.is_grad_enabled():
        return replace(solver.integrate(packed, y0, t.detach()), t=t)
    if params is None:
        if isinstance(field, nn.Module):
            params = field.parameters()
        elif gradient.needs_params:
            name = type(gradient).__name__
            raise GradientError(
                f"the field is a {type(field).__name__}, so {name} cannot know which tensors inside it want gradients. "
                "Pass params=(…), which may be empty, make the field an nn.Module, or use gradient=Backprop()"
            )
    wanted = tuple(param for param in params or () if param.requires_grad)
    if gradient.needs_params and not (wanted or y0.requires_grad or t.requires_grad):
        with torch.no_grad():
            return solver.integrate(packed, y0, t)
    return gradient.solve(solver, packed, y0, t, wanted)


def _checked_times(t: Tensor | Sequence[float]) -> Tensor:
    times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    if times.dim() not in (1, 2) or times.shape[-1] < 2:
        raise SettingError(f"t must hold at least two times, (T,); its shape is {tuple(times.shape)}")
    if not times.is_floating_point():
        times = times.double()
    steps = times.detach().diff()
    up, down = (steps > 0).all(-1), (steps < 0).all(-1)
    if not (bool(up.all()) or bool(down.all())):
        where, row = "", times
        if times.dim() == 2:
            number = int((up if up.sum() > down.sum() else down).logical_not().nonzero()[0])
            where, row = f" in every row, and in all rows in the same direction; row {number}", times[number]
        raise SettingError(
            f"t must be strictly increasing or strictly decreasing, and finite{where or '; it'} "
            f"goes {', '.join(f'{time:g}' for time in row.tolist()[:6])}{' …' if len(row) > 6 else ''}"
        )
    return times


def _check_own_times(t: Tensor, y0: State, solver: Solver) -> None:
    """Refuses times (B, T) where they cannot be."""
    batch = len(y0[0] if isinstance(y0, tuple) else y0)
    if not solver.per_sample:
        raise SettingError(
            f"t has the shape {tuple(t.shape)}, times of each sample's own, but {type(solver).__name__} takes the "
            "steps of all samples together. Give times (T,), or an adaptive solver per_sample=True"
        )
    if len(t) != batch:
        raise SettingError(f"t of shape (B, T) must have a row for each of the {batch} samples; got {tuple(t.shape)}")


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
        regularizers: Sequence[Regularizer] = (),
        steer: float = 0.0,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        if t0 == t1:
            raise SettingError(f"a flow needs two different times; t0 and t1 are both {t0}")
        if augment < 0:
            raise SettingError(f"augment must not be negative; got {augment}")
        if not 0 <= steer < abs(t1 - t0):
            raise SettingError(f"steer must lie between 0 and the flow's duration {abs(t1 - t0):g}; got {steer}")
        if lift not in ("zero", "learned"):
            raise SettingError(f"lift must be 'zero' or 'learned'; got {lift!r}")
        self.dynamics, self.solver = dynamics, solver
        self.lift = _lift(dynamics, augment) if lift == "learned" else None
        self.gradient = Checkpointed() if gradient is None else gradient
        self.t0, self.t1, self.augment, self.warm_start = t0, t1, augment, warm_start
        self.regularizers, self.steer = tuple(regularizers), steer
        self.stats, self.penalties = None, {}

    def forward(self, y0: State) -> State:
        """The state at t₁.

        Args:
            y0: (B, d, …) at t₀, or a tuple of such tensors.

        Returns:
            (B, d + augment, …), or a tuple as y0.
        """
        y = self.trajectory(y0, self.span()).y
        return y[-1] if isinstance(y, Tensor) else tuple(leaf[-1] for leaf in y)

    def span(self) -> tuple[float, float]:
        """(t0, t1), with a new t1 at each call in training with `steer`."""
        if not (self.training and self.steer):
            return self.t0, self.t1
        return self.t0, self.t1 + self.steer * (2 * torch.rand(()).item() - 1)

    def trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence | None = None,
        context: Tensor | None = None,
    ) -> Solution:
        """The states at all the times t, of which the first is that of y0.

        Args:
            y0: (B, d, …), or a tuple of such tensors.
            t: (T,), strictly monotone, or (B, T) as `solve` takes them.
            divergence: Makes the result a pair, of which the second is log |det ∂y(t)/∂y(t[0])|, (T, B).
            context: (B, c, …), what the field shall see beside the state: it is called with [y, context] along
                dimension 1, and the first d entries of its slope are used.

        Returns:
            Solution with y of shape (T, B, d + augment, …), the first of the pair with a divergence.

        Raises:
            StateError: The state is a tuple where that cannot be, or has other dimensions than its input where its
                density is wanted.
        """
        if divergence is not None and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():  # a divergence is a derivative, and needs a graph
                y0, t, context = _usual(y0), _usual(t), _usual(context)
                return Flow.trajectory(self, y0, t, divergence=divergence, context=context)
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
            solution = self._solve(field, state, t, params)
            return replace(solution, y=self._left(solution.y))
        if isinstance(state, tuple):
            raise StateError("regularizers need a state of shape (B, d, …); got a tuple")
        start = (state, state.new_zeros(len(state), len(rates)))
        solution = self._solve(with_rates(field, rates), start, t, params)
        y, integrals = solution.y
        self.penalties = {
            regularizer.name: regularizer.weight * integrals[-1, :, number].mean().abs()
            for number, regularizer in enumerate(regularizers)
        }
        return replace(solution, y=self._left(y) if divergence is None else (y, integrals[:, :, -1]))

    def _solve(self, field: Any, state: State, t: Tensor | Sequence[float], params: list[Tensor]) -> Solution:
        """A solve by the flow's own solver and gradient, whose statistics are kept."""
        solver, last = self.solver, self.stats
        if self.warm_start and isinstance(solver, AdaptiveRungeKutta) and last is not None and last.suggested_step:
            solver = solver.starting_with(last.suggested_step)
        solution = solve(field, state, t, solver=solver, gradient=self.gradient, params=params)
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


def _usual(value: Any) -> Any:
    """A tensor that autograd may save, as those made in inference mode are not; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _lift(dynamics: nn.Module, augment: int) -> nn.Linear:
    """The learned map from a state to the dimensions that are appended to it."""
    if not isinstance(dynamics, Dynamics):
        raise SettingError(f"a learned lift needs a Dynamics, for its width; got {type(dynamics).__name__}")
    if not 0 < augment < dynamics.width:
        raise SettingError(f"a learned lift needs augment between 1 and {dynamics.width - 1}; got {augment}")
    return nn.Linear(dynamics.width - augment, augment)
