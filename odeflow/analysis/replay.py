"""Records the solves of a module's flows, to repeat them with other solvers, gradients or times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from odeflow.engine.equation.state import State
from odeflow.engine.gradients import Gradient
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.errors import SettingError
from odeflow.flow.divergence import Divergence
from odeflow.flow.flow import Flow
from odeflow.paths import Brownian


@dataclass(frozen=True)
class Solve:
    """A recorded solve of a flow, which can be repeated with another solver, gradient or times.

    Attributes:
        flow: The flow.
        y0: (B, …) or a tuple of such tensors: the input.
        t: (T,) or (B, T), the requested times.
        cotangent: ∂L/∂y, (T, B, …) for each tensor of the result.
        divergence: The divergence of the log-determinants, if requested.
        context: (B, c, …), the context of the field, if any.
        noise: The Brownian motion of a stochastic field, or its seed, if given.
    """

    flow: Flow
    y0: State
    t: Tensor
    cotangent: tuple[Tensor, ...] = ()
    divergence: Divergence | None = None
    context: Tensor | None = None
    noise: Brownian | int | None = None

    def leading(self, count: int) -> "Solve":
        """The same solve for the first `count` samples; the loss is rescaled to their mean."""
        total = len(leaves(self.y0)[0])
        if count >= total:
            return self
        cotangent = tuple(leaf[:, :count] * (total / count) for leaf in self.cotangent)
        context = None if self.context is None else self.context[:count]
        t = self.t[:count] if self.t.dim() == 2 else self.t
        return replace(self, y0=mapped(lambda leaf: leaf[:count], self.y0), t=t, cotangent=cotangent, context=context)

    def again(
        self, solver: Solver | None = None, gradient: Gradient | None = None, t: Tensor | None = None
    ) -> Solution[Any]:
        """Repeats the solve, with the same random numbers each time.

        Args:
            solver: The solver; by default the flow's own.
            gradient: The gradient; by default the flow's own.
            t: (T,), the times; by default the recorded ones.

        Returns:
            Solution, as of `Flow.trajectory`.
        """
        flow = self.flow
        kept = flow.solver, flow.gradient, flow.stats
        flow.solver, flow.gradient, flow.stats = solver or flow.solver, gradient or flow.gradient, None
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                times = self.t if t is None else t
                return flow.trajectory(
                    self.y0, times, divergence=self.divergence, context=self.context, noise=self.noise
                )
        finally:
            flow.solver, flow.gradient, flow.stats = kept


def flows(module: nn.Module) -> list[Flow]:
    """The flows in a module.

    Raises:
        SettingError: The module has no flow.
    """
    found = [each for each in module.modules() if isinstance(each, Flow)]
    if not found:
        raise SettingError(f"{type(module).__name__} contains no Flow, so there is nothing to solve")
    return found


def record(module: nn.Module, loss: Callable[[], Tensor]) -> list[Solve]:
    """Records the solves of a module's flows during the computation of a loss.

    Args:
        module: The module with the flows.
        loss: Computes a loss, (), with the module.

    Returns:
        One solve per call of a flow, in order, with ∂L/∂y.

    Raises:
        SettingError: The module has no flow, or the loss uses none.
    """
    asked = flows(module)
    seen: list[tuple[Solve, State]] = []
    for flow in asked:
        vars(flow)["trajectory"] = partial(_noted, flow, seen)  # shadows the method, which forward calls too
    try:
        with torch.enable_grad():
            value = loss()
    finally:
        for flow in asked:
            del vars(flow)["trajectory"]
    if not seen:
        raise SettingError(f"the loss of {type(module).__name__} solves none of its flows")
    results = [leaf for _, y in seen for leaf in leaves(y)]
    grads = iter(torch.autograd.grad(value, results, allow_unused=True, materialize_grads=True))
    return [replace(solve, cotangent=tuple(next(grads) for _ in leaves(y))) for solve, y in seen]


def _noted(
    flow: Flow,
    seen: list[tuple[Solve, State]],
    y0: State,
    t: Tensor | Sequence[float],
    *,
    divergence: Divergence | None = None,
    context: Tensor | None = None,
    dense: bool = False,
    noise: Brownian | int | None = None,
) -> Solution[Any]:
    solution = Flow.trajectory(flow, y0, t, divergence=divergence, context=context, dense=dense, noise=noise)
    for leaf in leaves(solution.y):
        if not leaf.requires_grad:  # no parameters upstream, but the loss depends on it
            leaf.requires_grad_()
    context = None if context is None else context.detach()
    solve = Solve(
        flow, mapped(torch.Tensor.detach, y0), solution.t.detach(), divergence=divergence, context=context, noise=noise
    )
    seen.append((solve, solution.y))
    return solution


def leaves(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


def mapped(change: Callable[[Tensor], Tensor], state: State) -> State:
    """Applies a function to each tensor of a state."""
    return tuple(change(leaf) for leaf in state) if isinstance(state, tuple) else change(state)
