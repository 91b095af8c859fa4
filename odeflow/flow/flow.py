"""Flow: a layer that integrates a vector field."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn

from odeflow.engine.equation.equation import StochasticField
from odeflow.engine.equation.field import entering, outside_inference, parameters_of, recorder, uncompiled, usual
from odeflow.engine.equation.state import S, State
from odeflow.engine.gradients import Checkpointed, Gradient
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.recording import obstacle
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.methods.multistep import Multistep
from odeflow.engine.output.solution import Solution, SolveError, Stats
from odeflow.engine.solve import checked_times, recorded, solve
from odeflow.engine.solver import Solver
from odeflow.errors import SettingError, StateError
from odeflow.flow.divergence import Divergence
from odeflow.flow.dynamics import Dynamics
from odeflow.flow.options import FlowOptions
from odeflow.flow.regularizers import Rate, with_rates
from odeflow.paths import Brownian, Constant, Derivative, Path
from odeflow.plugin.plugin import check_kind

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Flow(nn.Module):
    """A layer that integrates a vector field: y(t₀) ↦ y(t₁).

    Args:
        dynamics: The vector field, a module called with (t, y).
        solver: The numerical method.
        gradient: The method of differentiation; `Checkpointed()` by default.
        options: Times, augmentation, penalties and others.

    Raises:
        SettingError: An argument has the wrong type, the times are equal, or an option is unsupported: `steer`, a
            learned lift or `fallback_steps`.

    Attributes:
        stats: Statistics of the last solve; None before the first.
        penalties: The regularisers' penalties of the last solve by name, weighted and averaged over the batch. A `Task`
            adds them to the loss. Empty outside training.
    """

    stats: Stats | None
    penalties: dict[str, Tensor]

    def __init__(
        self,
        dynamics: nn.Module,
        solver: Solver,
        gradient: Gradient | None = None,
        options: FlowOptions = FlowOptions(),
    ) -> None:
        super().__init__()
        check_kind("dynamics", dynamics, nn.Module, "MLP(dim=2); of odeflow.solve it may be a function")
        check_kind("solver", solver, Solver, "Dopri5()")
        gradient = Checkpointed() if gradient is None else gradient
        check_kind("gradient", gradient, Gradient, "Checkpointed()")
        check_kind("options", options, FlowOptions, "FlowOptions(t1=2.0)")
        t0, t1, steer = options.t0, options.t1, options.steer
        if t0 == t1:
            raise SettingError(f"t0 and t1 must differ; both are {t0}")
        if not 0 <= steer < abs(t1 - t0):
            raise SettingError(f"steer must lie between 0 and the flow's duration {abs(t1 - t0):g}; got {steer}")
        if options.fallback_steps is not None and isinstance(solver, Stepper) and solver.per_sample:
            raise SettingError("flow.fallback_steps repeats a solve with common steps; the solver has per_sample=True")
        self.dynamics, self.solver, self.gradient, self.options = dynamics, solver, gradient, options
        self.lift = _lift(dynamics, options.augment) if options.lift == "learned" else None
        self.stats, self.penalties = None, {}

    def forward(self, y0: S, *, context: Tensor | Path | None = None, noise: Brownian | int | None = None) -> S:
        """The state at t₁.

        Args:
            y0: (B, d, …) at t₀, or a tuple of such tensors.
            context: As for `trajectory`.
            noise: As for `trajectory`.

        Returns:
            (B, d + augment, …), or a tuple as y0.
        """
        y = self.trajectory(y0, self.span(), context=context, noise=noise).y
        return cast(S, y[-1] if isinstance(y, Tensor) else tuple(leaf[-1] for leaf in y))

    if TYPE_CHECKING:  # nn.Module's __call__ is untyped

        def __call__(
            self, y0: S, *, context: Tensor | Path | None = None, noise: Brownian | int | None = None
        ) -> S: ...

    def span(self) -> tuple[float, float]:
        """(t0, t1). In training with `steer`, each call draws a new t1."""
        t0, t1, steer = self.options.t0, self.options.t1, self.options.steer
        return t0, t1 + steer * (2 * torch.rand(()).item() - 1) if self.training and steer else t1

    @overload
    def trajectory(
        self,
        y0: S,
        t: Tensor | Sequence[float],
        *,
        divergence: None = None,
        context: Tensor | Path | None = None,
        dense: bool = False,
        noise: Brownian | int | None = None,
    ) -> Solution[S]: ...
    @overload
    def trajectory(
        self,
        y0: Tensor,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence,
        context: Tensor | Path | None = None,
        dense: bool = False,
        noise: Brownian | int | None = None,
    ) -> Solution[tuple[Tensor, ...]]: ...
    @overload
    def trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence | None,
        context: Tensor | Path | None = None,
        dense: bool = False,
        noise: Brownian | int | None = None,
    ) -> Solution[Any]: ...
    def trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        *,
        divergence: Divergence | None = None,
        context: Tensor | Path | None = None,
        dense: bool = False,
        noise: Brownian | int | None = None,
    ) -> Solution[Any]:
        """The states at the times t. The first time is that of y0.

        Args:
            y0: (B, d, …), or a tuple of such tensors.
            t: (T,), strictly monotone, or (B, T) as in `solve`.
            divergence: If given, the result is a pair whose second entry is log |det ∂y(t)/∂y(t[0])|, (T, B).
            context: The external input u: a constant (B, c, …), or a path. It is concatenated with the state: the
                field is called with [y, u(t)] along dimension 1, and the first d entries of its output are used.
                Numbers (B, c) beside an image become channels of equal pixels. A step ends at each break of the path. A
                `driven` field, of a controlled equation, is called with [y, du/dt].
            dense: Whether to compute dense output: `solution(t)` is then the state at any time in between.
            noise: The Brownian motion of `Stochastic` dynamics, or its seed; by default drawn by PyTorch's generator.

        Returns:
            Solution with y of shape (T, B, d + augment, …); the first entry of the pair if a divergence is given.

        Raises:
            StateError: The state is a tuple where tuples are not supported, or a density is requested and the state
                does not have the shape of the input, or the samples of the path are not those of the state.
            SettingError: The solver cannot stop at the breaks of the path.
        """
        plain = context is None and divergence is None and not dense
        if recorder() == "torch.compile" and not (plain and self._compiles_whole(y0, t)):
            return self._uncompiled(y0, t, divergence, context, dense, noise)
        return self._trajectory(y0, t, divergence, context, dense, noise)

    def _compiles_whole(self, y0: State, t: Tensor | Sequence[float]) -> bool:
        """Whether `torch.compile` can make one graph of a solve, with the same values and gradients."""
        if isinstance(self.dynamics, StochasticField):
            return False  # Brownian paths are drawn from generators of their own
        if isinstance(self.solver, Multistep):
            return False  # fractions, of which its weights are made, take long to trace
        if torch.is_grad_enabled() and not (self.gradient.exact and self.gradient.compiles(None)):
            return False
        if self.training and (self.options.regularizers or any(isinstance(each, DROPOUT) for each in self.modules())):
            return False  # a solve has the same noise at every evaluation
        return obstacle(self.solver, t, y0 if isinstance(y0, Tensor) else y0[0]) is None

    def _trajectory(
        self,
        y0: State,
        t: Tensor | Sequence[float],
        divergence: Divergence | None,
        context: Tensor | Path | None,
        dense: bool,
        noise: Brownian | int | None,
    ) -> Solution[Any]:
        if recorder() is None and torch.is_inference_mode_enabled():
            with outside_inference():
                y0, t, context = usual(y0), usual(t), usual(context)
                return self._trajectory(y0, t, divergence, context, dense, noise)
        y0 = tuple(entering(leaf) for leaf in y0) if isinstance(y0, tuple) else entering(y0)
        state, field, solver = self._entered(y0), self.dynamics, self.solver
        params = parameters_of(self.dynamics)
        if context is not None:
            path = Constant(context) if isinstance(context, Tensor) else context
            check_kind("context", path, Path, "a Tensor, or odeflow.paths.Linear(t, x)")
            path = Derivative(path) if isinstance(self.dynamics, Dynamics) and self.dynamics.driven else path
            field = _in_context(self.dynamics, path)
            params.extend(path.tensors)
            if stops := _stops(path, t):
                solver = solver.stopping_at(stops)
        regularizers = self.options.regularizers if self.training else ()
        rates: list[Rate] = [regularizer.rate for regularizer in regularizers]
        if divergence is not None:
            if isinstance(field, StochasticField):
                raise SettingError(f"{type(self.dynamics).__name__} is stochastic: its flow has no density")
            if not isinstance(y0, Tensor) or not isinstance(state, Tensor) or state.shape != y0.shape:
                raise StateError("the density of a flow needs a state of its input's shape: no tuple, no augmentation")
            rates.append(divergence.along(state))
        elif not rates:
            self.penalties = {}
            return self._solve(solver, field, state, t, params, dense, noise).unpacked(self._left)
        if isinstance(state, tuple):
            raise StateError("regularizers need a state of shape (B, d, …); got a tuple")
        start = (state, state.new_zeros(len(state), len(rates)))
        solution = self._solve(solver, with_rates(field, tuple(rates)), start, t, params, dense, noise)
        _, integrals = solution.y
        self.penalties = {
            regularizer.name: regularizer.weight * integrals[-1, :, number].mean().abs()
            for number, regularizer in enumerate(regularizers)
        }

        def seen(pair: State) -> State:
            y, integrals = pair
            return self._left(y) if divergence is None else (y, integrals[:, :, -1])

        return solution.unpacked(seen)

    _uncompiled = uncompiled(_trajectory)

    def _solve(
        self,
        solver: Solver,
        field: Any,
        state: S,
        t: Tensor | Sequence[float],
        params: list[Tensor],
        dense: bool,
        noise: Brownian | int | None,
    ) -> Solution[S]:
        """Solves with the flow's gradient, and stores the statistics."""
        last = self.stats
        first = last.suggested_step if self.options.warm_start and last is not None else None
        if first and isinstance(solver, Stepper) and isinstance(solver.control, Adaptive):
            solver = solver.with_control(replace(solver.control, first_step=first))
        if recorder() == "torch.compile":
            solution = recorded(field, state, t, solver)
        else:

            def attempt(solver: Solver) -> Solution[S]:
                return solve(
                    field, state, t, solver=solver, gradient=self.gradient, params=params, dense=dense, noise=noise
                )

            solution = self._with_fallback(attempt, solver)
        self.stats = solution.stats
        return solution

    def _with_fallback(self, attempt: Callable[[Solver], Solution[S]], solver: Solver) -> Solution[S]:
        """A solve, which is repeated with `fallback_steps` if it takes too many steps."""
        steps = self.options.fallback_steps
        try:
            return attempt(solver)
        except SolveError as error:
            if steps is None or not error.exhausted or not isinstance(solver, Stepper):
                raise
            warnings.warn(f"a solve is repeated with {steps} fixed steps, without error control: {error}", stacklevel=2)
            spent = 0 if error.partial is None else error.partial.stats.nfe_forward
        solution = attempt(solver.with_control(Fixed(None, steps)))
        solution.stats.fallbacks = 1
        solution.stats.nfe_forward += spent
        return solution

    def _entered(self, y0: State) -> State:
        state = self.augmented(y0)
        if isinstance(self.dynamics, Dynamics) and isinstance(state, Tensor) and state.dim() > 0:
            return self.dynamics.enter(state)
        return state

    def _left(self, y: State) -> State:
        if isinstance(self.dynamics, Dynamics) and isinstance(y, Tensor) and y.dim() > 1:
            if recorder():  # a product of sizes would fix the number of samples
                return torch.stack([self.dynamics.leave(row) for row in y])
            return self.dynamics.leave(y.flatten(0, 1)).unflatten(0, y.shape[:2])
        return y

    def augmented(self, y0: S) -> S:
        """The augmented state, (B, d + augment, …), according to `augment` and `lift`.

        Args:
            y0: (B, d, …).

        Raises:
            StateError: The state does not have this form.
        """
        augment = self.options.augment
        if not augment:
            return y0
        if isinstance(y0, tuple) or y0.dim() < 2:
            raise StateError("augment needs a state of shape (B, d, …); got a tuple or fewer dimensions")
        if self.lift is None:
            more = y0.new_zeros(y0.shape[0], augment, *y0.shape[2:])
        else:
            more = self.lift(y0.movedim(1, -1)).movedim(-1, 1)
        return cast(S, torch.cat([y0, more], dim=1))

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies, without penalties: those belong to the graph of the last solve."""
        return {**self.__dict__, "penalties": {}}

    def extra_repr(self) -> str:
        """Times and augmentation, solver and gradient, for `print`."""
        times = f"t0={self.options.t0}, t1={self.options.t1}, augment={self.options.augment}"
        return f"{times},\nsolver={self.solver!r},\ngradient={self.gradient!r},"


@dataclass(frozen=True)
class _InContext:
    """A field whose input is the state concatenated with an external input.

    Attributes:
        field: The field on [y, u].
        path: The input u(t).
    """

    field: Callable[[Tensor, Tensor], Tensor]
    path: Path

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, self.joined(t, y))[:, : y.shape[1]]

    def joined(self, t: Tensor, y: Tensor) -> Tensor:
        """[y, u(t)]."""
        u = self.path(t)
        if len(u) == 1:
            u = u.expand(len(y), *u.shape[1:])
        if len(u) != len(y):
            raise StateError(
                f"the context has {len(u)} samples and the state {len(y)}; the context may also have a single one"
            )
        if u.dim() == 2 < y.dim():  # numbers of each sample, laid over the pixels of an image
            u = u.view(*u.shape, *(1,) * (y.dim() - 2)).expand(*u.shape, *y.shape[2:])
        return torch.cat([y, u], dim=1)


class _StochasticInContext(StochasticField):
    """A stochastic field whose input is the state concatenated with an external input.

    Args:
        field: The field on [y, u].
        path: The input u(t).
    """

    def __init__(self, field: StochasticField, path: Path) -> None:
        self.field, self.noise, self.calculus, self.shares = field, field.noise, field.calculus, field.shares
        self.drift, self.spread = _InContext(field, path), _InContext(field.diffusion, path)

    @property
    def label(self) -> str:
        return self.field.label

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.drift(t, y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.spread(t, y)

    def both(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self.field.both(t, self.drift.joined(t, y))
        return f[:, : y.shape[1]], g[:, : y.shape[1]]


def _in_context(dynamics: nn.Module, path: Path) -> Any:
    """The dynamics, with drift and diffusion, on the state concatenated with an external input."""
    if not isinstance(dynamics, StochasticField):
        return _InContext(dynamics, path)
    return _StochasticInContext(dynamics, path)


def _stops(path: Path, t: Tensor | Sequence[float]) -> tuple[float, ...]:
    """The breaks of a path at which a step of a solve must end."""
    if not path.breaks:
        return ()
    times = checked_times(t).detach()
    ends = times[..., 0], times[..., -1]
    return path.stops(*(float(end) for end in (torch.minimum(*ends).min(), torch.maximum(*ends).max())))


def _lift(dynamics: nn.Module, augment: int) -> nn.Linear:
    """The learned linear map from a state to its appended dimensions."""
    if not isinstance(dynamics, Dynamics):
        raise SettingError(f"a learned lift needs a Dynamics, for its width; got {type(dynamics).__name__}")
    if not 0 < augment < dynamics.width:
        raise SettingError(f"a learned lift needs augment between 1 and {dynamics.width - 1}; got {augment}")
    return nn.Linear(dynamics.width - augment, augment)
