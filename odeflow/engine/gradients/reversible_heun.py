"""The gradient of solves by the reversible Heun method, whose steps are undone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.loop.integrate import run
from odeflow.engine.methods.reversible_heun import ReversibleHeunStages
from odeflow.engine.methods.stochastic import StochasticSolver
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.tape import Observer, Segment, Tape


def is_reversible_heun(solver: object) -> bool:
    """Whether a solver takes the steps of the reversible Heun method."""
    return isinstance(solver, StochasticSolver) and issubclass(solver.steps, ReversibleHeunStages)


def reversed_heun(
    solver: StochasticSolver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...]
) -> Solution:
    """The solution, whose backward pass undoes the steps from the last state. Arguments as of `Gradient.differentiate`.

    Of each step two numbers and the row of the solution at its end are stored.

    Source: Kidger et al. (2021), "Efficient and Accurate Gradients for Neural SDEs", algorithms 1 and 2.
    """
    with torch.no_grad():
        stages, tape = solver.stages(field, y0, None), Spans()
        assert isinstance(stages, ReversibleHeunStages)
        stages.ends_at_outputs, stages.carries = True, False  # the tape needs no states
        control = solver.step_control(float(t[0]), float(t[-1]), field)
        solution = run(stages, control, y0, t, Observer(tape=tape))
    assert stages.z is not None
    way = _Way(solver, field, params, solution.stats, tape.steps)
    return with_backward(solution, way.backward, y0, params, solution.y[-1].clone(), stages.z)


class Spans(Tape):
    """A tape of times alone.

    Attributes:
        steps: (start, end, row at the end or None) of each step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, float, int | None]] = []

    def append(self, segment: Segment) -> None:
        assert segment.span is not None
        self.steps.append((*segment.span, segment.end_row))


@dataclass
class _Node:
    """f and g at a node z, with their graph, and what is known of ∂L/∂f and of ∂L/∂(g ΔW) for the step after it.

    Attributes:
        z: The node, a leaf.
        f: The drift there.
        g: The diffusion there.
        dw: ΔW of the step after it; None at the end.
        to_f: ∂L/∂f by the step after it.
        to_noise: ∂L/∂(g ΔW) by the step after it.
    """

    z: Tensor
    f: Tensor
    g: Tensor
    dw: Tensor | None = None
    to_f: Tensor | None = None
    to_noise: Tensor | None = None


@dataclass(frozen=True)
class _Way:
    """The steps of a solve, for reversal.

    Attributes:
        solver: The solver.
        field: The equation, or a vector field.
        params: The tensors to differentiate with respect to.
        stats: Statistics of the solve.
        steps: (start, end, row at the end or None) of each step.
    """

    solver: StochasticSolver
    field: Field
    params: tuple[Tensor, ...]
    stats: Stats
    steps: list[tuple[float, float, int | None]]

    def backward(self, grad_y: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """(∂L/∂y₀, ∂L/∂θ), from the pair at the end."""
        stages = self.solver.stages(self.field, y, None)
        assert isinstance(stages, ReversibleHeunStages)
        of_y, of_z = torch.zeros_like(y), torch.zeros_like(y)
        grads: list[Tensor | None] = [None] * len(self.params)
        with full_precision(y):
            node = self._node(stages, self.steps[-1][1], z)
            for start, end, row in reversed(self.steps):
                if row is not None:
                    of_y = of_y + grad_y[row]
                h = end - start
                dw = stages.increment(start, h)
                noise = stages.product(node.g.detach(), dw)
                before = self._node(stages, start, stages.reflected(y, z, node.f.detach(), -h, -noise))
                mean = (node.f.detach() + before.f.detach()) * (h / 2)
                y = y - mean - (noise + stages.product(before.g.detach(), dw)) / 2
                of_z = of_z + self._pulled(stages, node, of_y * (h / 2), of_y / 2, dw, grads)
                before.dw, before.to_f, before.to_noise = dw, of_y * (h / 2) + of_z * h, of_y / 2 + of_z
                of_y, of_z = of_y + 2 * of_z, -of_z
                node, z = before, before.z.detach()
            of_z = of_z + self._pulled(stages, node, None, None, None, grads)
        self.stats.nfe_backward += stages.evaluations
        return of_y + of_z + grad_y[0], grads

    def _node(self, stages: ReversibleHeunStages, t: float, z: Tensor) -> _Node:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            return _Node(leaf, *stages.values(t, leaf))

    def _pulled(
        self,
        stages: ReversibleHeunStages,
        node: _Node,
        to_f: Tensor | None,
        to_noise: Tensor | None,
        dw: Tensor | None,
        grads: list[Tensor | None],
    ) -> Tensor:
        """∂L/∂z by f and g at a node; adds ∂L/∂θ to `grads`.

        Args:
            stages: The steps.
            node: The node.
            to_f: ∂L/∂f by the step before the node, if there is one.
            to_noise: ∂L/∂(g ΔW) by it.
            dw: ΔW of it.
            grads: ∂L/∂θ so far.
        """
        pairs: list[tuple[Tensor, Tensor | None]] = [(node.f, to_f), (node.f, node.to_f)]
        with torch.enable_grad():
            for increment, weight in ((dw, to_noise), (node.dw, node.to_noise)):
                if increment is not None:
                    pairs.append((stages.product(node.g, increment), weight))
        pairs = [(value, weight) for value, weight in pairs if weight is not None and value.requires_grad]
        if not pairs:
            return torch.zeros_like(node.z)
        found: tuple[Any, ...] = torch.autograd.grad(
            [value for value, _ in pairs],
            (node.z, *self.params),
            [weight for _, weight in pairs],
            allow_unused=True,
        )
        accumulate(grads, found[1:])
        return torch.zeros_like(node.z) if found[0] is None else found[0]
