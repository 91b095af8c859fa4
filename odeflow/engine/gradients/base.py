"""Gradient: the contract of gradient methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.equation import Equation
from odeflow.engine.equation.state import Field
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.history import is_nested, without_history
from odeflow.engine.gradients.reversible_heun import is_reversible_heun
from odeflow.engine.gradients.times import follow, move_rows, moved, on_fixed_clock
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.errors import GradientError, PluginError
from odeflow.plugin.plugin import Plugin, expression, required

Feature = Literal[
    "dense output and events",
    "times of each sample's own, (B, T)",
    "per_sample=True",
    "norm='max_sample'",
    "jump_ts, or paths with breaks",
    "black-box solvers",
    "solvers other than explicit Runge–Kutta methods and ReversibleHeun",
    "stochastic equations",
]
"""Features of a solve that a gradient may not support."""

USES: dict[Feature, Callable[[Solver, Field, Tensor, Mesh | None], bool]] = {
    "dense output and events": lambda solver, field, t, mesh: mesh is not None,
    "times of each sample's own, (B, T)": lambda solver, field, t, mesh: t.dim() > 1,
    "per_sample=True": lambda solver, field, t, mesh: solver.per_sample,
    "norm='max_sample'": lambda solver, field, t, mesh: (
        isinstance(solver, Stepper) and isinstance(solver.control, Adaptive) and solver.control.norm == "max_sample"
    ),
    "jump_ts, or paths with breaks": lambda solver, field, t, mesh: bool(solver.jump_ts),
    "black-box solvers": lambda solver, field, t, mesh: not solver.shows_steps,
    "solvers other than explicit Runge–Kutta methods and ReversibleHeun": lambda solver, field, t, mesh: (
        not (isinstance(solver, RungeKutta) or is_reversible_heun(solver))
    ),
    "stochastic equations": lambda solver, field, t, mesh: isinstance(field, Equation),
}
"""(solver, field, t, mesh) ↦ whether a solve uses the feature."""


class Gradient(Plugin, ABC):
    """A method to compute ∂L/∂y₀, ∂L/∂θ and ∂L/∂t from ∂L/∂y.

    A subclass sets `needs_params` and implements `differentiate`. Times, dense output and events are handled by this
    class. For a custom backward pass, solve under `torch.no_grad()` and return `with_backward(…)`.

    Raises:
        PluginError: A subclass does not set `needs_params`, or lists an unknown feature.
    """

    kind = "gradient"
    needs_params: ClassVar[bool] = required()
    """Whether gradients reach only the parameters passed as `params`, rather than all used by the field."""
    discrete: ClassVar[bool] = True
    """Whether it differentiates the discrete solution, whose steps move with the times, rather than the exact one."""
    exact: ClassVar[bool] = False
    """Whether it computes the derivative of the discrete solution to rounding, as a compiled backward pass does."""
    unsupported: ClassVar[frozenset[Feature]] = frozenset()
    """Features that the gradient does not support."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        concrete = not getattr(cls.differentiate, "__isabstractmethod__", False)
        if concrete and not isinstance(cls.needs_params, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PluginError(
                f"the gradient {cls.__name__} must set needs_params: True if its gradients reach only the tensors of "
                "`params`, False if they reach all that the field uses, as by autograd"
            )
        if unknown := cls.unsupported - set(USES):
            raise PluginError(
                f"{cls.__name__}: unsupported must hold features among {', '.join(map(repr, USES))}; "
                f"got {', '.join(map(repr, sorted(unknown)))}"
            )

    def __repr__(self) -> str:
        return expression(self)

    @abstractmethod
    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        """The solution with a graph to y0 and the parameters.

        Args:
            solver: The solver.
            field: The vector field on one Tensor.
            y0: (*state), the state at t[0].
            t: (T,), the times, or (B, T), per-sample times; without gradient.
            params: The other tensors to differentiate with respect to.
            mesh: Requests steps for dense output and events. It is passed in the solver's `Observer`.

        Returns:
            Solution with all rows returned by the solver. Its statistics are completed by the backward pass.
        """

    def solve(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None = None
    ) -> Solution:
        """The solution at the requested times, with a graph to y0, t and the parameters.

        Args:
            solver: As for `differentiate`.
            field: As for `differentiate`.
            y0: As for `differentiate`.
            t: As for `differentiate`, but may require a gradient.
            params: As for `differentiate`.
            mesh: As for `differentiate`.

        Raises:
            GradientError: The solve uses an unsupported feature.
        """
        if self.needs_params and any(hasattr(each, "placements") for each in params):  # of a DTensor
            raise GradientError(
                f"{type(self).__name__} cannot differentiate a field whose parameters are sharded, which has them only "
                "while it is evaluated: apply fully_shard to the whole model as one unit, not to the field; or use "
                "Backprop and fixed steps"
            )
        if self.needs_params and is_nested(params):
            raise GradientError(
                f"{type(self).__name__} cannot differentiate with respect to a tensor and what it was computed from, "
                "such as a context and parameters of the dynamics that gave it: compute the context by a module "
                "outside of the dynamics, pass one of them in params, or use gradient=Backprop()"
            )
        for feature, uses in USES.items():
            if feature in self.unsupported and uses(solver, field, t, mesh):
                came = f" (got {type(solver).__name__})" if "solvers" in feature else ""
                raise GradientError(
                    f"{type(self).__name__} does not support {feature}{came}; use Checkpointed or Backprop"
                )
        if not t.requires_grad:
            return self._rows(solver, field, y0, t, params, mesh).select_outputs(mesh)
        if isinstance(solver, RungeKutta) and solver.compiled is not None:
            solver.compiled.refuse(field, "the times require a gradient")
        return (self._on_fixed_clock if self.discrete else self._along_field)(solver, field, y0, t, params, mesh)

    def _rows(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        """All rows, by `differentiate` or by a compiled solve with the same gradient."""
        run = None
        if self.exact and isinstance(solver, RungeKutta) and solver.compiled is not None:
            if self.compiles(mesh):
                run = solver.run(field, y0, t, mesh, differentiated=True)
            else:
                solver.compiled.refuse(field, f"{type(self).__name__} with these options has its own backward pass")
        if run is None:
            return self.differentiate(solver, field, y0, t, params, mesh)
        if not self.needs_params:
            params = run.params

        def again(y0: Tensor, *params: Tensor) -> Tensor:
            """The rows with a graph, for second derivatives."""
            return self.differentiate(solver, field, y0, t, params, mesh).y

        tensors, run.tensors = run.tensors, []
        # autograd refuses a backward pass after a change of what was saved, as of what it records itself
        watched = () if self.needs_params else run.parts.tensors

        def backward(grad_y: Tensor, *saved: Tensor) -> tuple[Tensor, list[Tensor | None]]:
            return run.pulled(params, grad_y, *saved[: len(tensors)])

        retry = None if self.needs_params else again
        return with_backward(run.solution, backward, y0, params, *tensors, *watched, again=retry)

    def compiles(self, mesh: Mesh | None) -> bool:
        """Whether, as far as its options go, the backward pass of a compiled solve may replace an `exact` gradient."""
        return True

    def _on_fixed_clock(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        """The solution whose steps move with the first and the last time, passed as parameters of the field."""
        jumps = solver.jump_ts

        def run(t: Tensor, y0: Tensor) -> Solution:
            ends, others = t[..., [0, -1]], (param for param in params if param is not t)
            return self.differentiate(solver, on_fixed_clock(field, ends, jumps), y0, t.detach(), (ends, *others), mesh)

        rows = run(t, y0) if t.is_leaf or not self.needs_params else without_history(run, t, y0, params)
        solution = replace(rows, t=t).select_outputs(mesh, partial(moved, t, jumps))
        return replace(solution, y=move_rows(field, t, solution.y, jumps, traced=not self.needs_params))

    def _along_field(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        """The solution with the exact derivatives: ∂yᵢ/∂tᵢ = f(tᵢ, yᵢ), and ∂/∂t₀ = −f(t₀, y₀) at the start."""
        times = t.movedim(-1, 0)
        start = follow(field, times[:1], -times[:1], y0[None])[0]
        rows = self.differentiate(solver, field, start, t.detach(), params, mesh)
        solution = replace(rows, t=t).select_outputs(mesh)
        inner = times[1 : len(solution.y)]
        return replace(solution, y=torch.cat((y0[None], follow(field, inner, inner, solution.y[1:]))))
