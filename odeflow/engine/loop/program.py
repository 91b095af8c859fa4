"""Program: a whole solve as compiled code, forward with its tape, and backward over the tape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from odeflow.engine.equation.clock import DTYPE, SAME_STEP
from odeflow.engine.equation.parts import CompileError, Parts, Replaced
from odeflow.engine.equation.state import Field, check_shape
from odeflow.engine.loop.adaptive import FIRST_CHANGE, SMALLEST_PART, STIFFNESS_EVERY
from odeflow.engine.loop.control import SMALLEST_STEP
from odeflow.engine.loop.controller import LARGEST_GROWTH, LARGEST_SHRINKAGE, SAFETY

Tensors = tuple[Tensor, ...]
Weights = Sequence[float]
SPACING = torch.finfo(DTYPE).eps


@dataclass(frozen=True)
class Method:
    """What the code of a program depends on, besides the field and the state.

    Attributes:
        a: Coefficients of the stages, without the one at the end of the step.
        b: Weights.
        c: Nodes.
        error: Weights of the error estimate; empty without one.
        stiffness: As `Tableau.stiffness_weights`.
        interpolation: As `Tableau.interpolation`.
        gains: The gains of the step size controller; None for fixed steps.
        exponent: The exponent of the error in the controller.
        start_exponent: The exponent of the first step.
        per_sample_norm: Whether the error is that of the worst sample.
        per_span: Whether the tolerances bound the error per unit of the span.
        rows: Whether there are outputs inside steps, from the stages.
    """

    a: tuple[Weights, ...]
    b: Weights
    c: Weights
    error: Weights
    stiffness: tuple[Weights, Weights] | None
    interpolation: tuple[Weights, ...]
    gains: tuple[float, ...] | None
    exponent: float
    start_exponent: float
    per_sample_norm: bool
    per_span: bool
    rows: bool


class Loop:
    """The code of a solve: the loop over its steps. A function of tensors only, which the compiler can follow.

    Args:
        method: The method.
        field: The field, traced: (*tensors, t, y) ↦ (value,).
    """

    def __init__(self, method: Method, field: GraphModule) -> None:
        self.method, self.field = method, field

    def forward(
        self,
        fresh: Tensor,
        settings: Tensor,
        y: Tensor,
        first: Tensor,
        numbers: Tensor,
        counts: Tensor,
        tape_y: Tensor,
        tape_clock: Tensor,
        tape_slopes: Tensor,
        tensors: Tensors,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes steps until the end, or until the tape is full.

        Args:
            fresh: (), whether the solve begins; it goes on otherwise.
            settings: (9,), float64: the first and the last time, rtol, atol, the size of the first step (nan if it is to be
                selected), the bounds of the step size, the maximum number of attempts, and the number of fixed steps.
            y: (*state), the state.
            first: (*state), the vector field there; any values if the solve begins.
            numbers: (7,), float64: time, step size, two past ratios of the controller (0 if there are none), the sum of
                the estimates of h|λ|, the smallest permitted step, and the norm of the state at the start.
            counts: (3,), int64: attempts, accepted steps, and steps on this tape.
            tape_y: (room, *state), is filled with the states at the starts of the steps.
            tape_clock: (room, 4), float64, with start, size and end of the steps, and the size of the next.
            tape_slopes: (room, s + 1, *state), with the stage derivatives, if there are outputs inside steps.
            tensors: The tensors of the field.

        Returns:
            y, first, numbers and counts at the end.
        """
        method = self.method
        t0, end, rtol, atol, given, min_step, max_step, max_steps, num_steps = (
            each.clone() for each in settings.unbind()
        )
        span, sign = (end - t0).abs(), (end - t0).sign()
        scale = partial(_scale, rtol.to(y), atol.to(y))
        norm = _worst_sample if method.per_sample_norm else _mean
        evaluate = partial(self.evaluate, tensors)
        start = torch.where(fresh, t0, numbers[0])
        slope = torch.where(fresh, evaluate(start, y), first)
        h, least, size = numbers[1].clone(), numbers[5].clone(), numbers[6].clone()
        if method.gains is not None:
            unit = scale(y.abs())
            size, speed = norm(y / unit), norm(slope / unit)
            usual = torch.minimum(size, speed * span) > 1e-5
            measure = torch.where(usual, size / speed, span)
            trial = torch.minimum(torch.where(usual, 0.01, 1e-6) * measure, span) * sign
            change = norm((evaluate(t0 + trial, y + trial.to(y) * slope) - slope) / unit) / trial.abs() * measure
            steepest = torch.maximum(speed, change) * measure
            chosen = 100 * trial.abs()
            best = measure * (FIRST_CHANGE / steepest) ** method.start_exponent
            chosen = torch.where(steepest > 1e-15, torch.minimum(chosen, best), chosen)
            chosen = torch.where(given.isnan(), chosen, given)
            chosen = torch.minimum(torch.minimum(torch.maximum(chosen, min_step), span), max_step)
            chosen = torch.where((size + speed).isfinite(), chosen, torch.nan)
            h = torch.where(fresh, chosen * sign, h)
            least = torch.where(fresh, SMALLEST_PART * chosen, least)
            size = torch.where(fresh, size, numbers[6])
        room = tape_clock.shape[0]

        def cond(t, h, y, k1, past1, past2, stiffness, attempts, accepted, n):
            going = ((end - t) * sign > 0) & (n < room)
            if method.gains is None:
                return going
            smallest = torch.maximum(torch.maximum(torch.minimum(min_step, span), SMALLEST_STEP * SPACING * t.abs()), least)
            return going & (attempts < max_steps) & (h.abs() >= smallest)

        def body(t, h, y, k1, past1, past2, stiffness, attempts, accepted, n):
            if method.gains is None:
                t1 = torch.where(accepted + 1 >= num_steps, end, t0 + (end - t0) * ((accepted + 1) / num_steps))
                cut = n < 0
            else:
                left, length = (end - t).abs(), h.abs()
                cut = left < length * (1 - SAME_STEP)
                t1 = torch.where(left <= length * (1 + SAME_STEP), end, t + h)
            step = t1 - t
            y1, slopes = stages(method, evaluate, t, step, y, k1)
            slopes.append(evaluate(t1, y1))
            if method.gains is None:
                ok = n >= 0
            else:
                estimate = combined(method.error, slopes)
                error = norm(estimate / scale(torch.maximum(y.abs(), y1.abs())))
                error = error * (span if method.per_span else step.abs())
                ok = error <= 1
                factor, past1, past2 = self._factor(error, ok, cut, past1, past2, accepted)
                size = step.abs() * factor
                size = torch.where(ok & cut, torch.maximum(size, h.abs()), size)
                h = torch.minimum(size, max_step) * sign
                if method.stiffness is not None:
                    seen = self._stiffness(method.stiffness, slopes)
                    due = ok & ((accepted + 1) % STIFFNESS_EVERY == 0)
                    stiffness = stiffness + torch.where(due, seen, 0.0)
            tape_y.index_copy_(0, n.reshape(1), y[None])
            tape_clock.index_copy_(0, n.reshape(1), torch.stack((t, step, t1, h))[None])
            if method.rows:
                tape_slopes.index_copy_(0, n.reshape(1), torch.stack(slopes)[None])
            return (
                torch.where(ok, t1, t),
                h.clone(),
                torch.where(ok, y1, y),
                torch.where(ok, slopes[-1], k1),
                past1.clone(),
                past2.clone(),
                stiffness.clone(),
                attempts + 1,
                accepted + ok,
                n + ok,
            )

        carried = (
            start.clone(),
            h,
            y.clone(),
            slope.clone(),
            numbers[2].clone(),
            numbers[3].clone(),
            numbers[4].clone(),
            *(each.clone() for each in counts.unbind()),
        )
        t, h, y, slope, past1, past2, stiffness, *counted = cast(Tensors, while_loop(cond, body, carried))
        return y, slope, torch.stack((t, h, past1, past2, stiffness, least, size)), torch.stack(counted)

    def evaluate(self, tensors: Tensors, t: Tensor, y: Tensor) -> Tensor:
        """The field at (t, y), t in float64."""
        return cast(Tensors, self.field(*tensors, t.to(y), y))[0]

    def _factor(
        self, error: Tensor, ok: Tensor, cut: Tensor, past1: Tensor, past2: Tensor, accepted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(factor of the step size, the two past ratios), as by `Controller`."""
        gains = self.method.gains or (1.0,)
        finite = error < torch.inf
        ratio = SAFETY * torch.where(finite, error, 1.0).clamp_min(1e-30) ** self.method.exponent
        factor = ratio
        if gains != (1.0,):
            past = (past1, past2)[: len(gains) - 1]
            filtered = ratio ** gains[0]
            known = ok & ~cut
            for gain, each in zip(gains[1:], past, strict=False):
                filtered = filtered * each.clamp_min(1e-30) ** gain
            for each in past:
                known = known & (each > 0)
            factor = torch.where(known, filtered, ratio)
            updated = ok & ~cut
            past1, past2 = torch.where(updated, ratio, past1), torch.where(updated, past1, past2)
        factor = factor.clamp(LARGEST_SHRINKAGE, LARGEST_GROWTH)
        return torch.where(finite, factor, LARGEST_SHRINKAGE), past1, past2

    def _stiffness(self, weights: tuple[Weights, Weights], slopes: list[Tensor]) -> Tensor:
        """h|λ| from the last two stages."""
        of_slopes, of_stages = (combined(each, slopes).square().sum().double() for each in weights)
        return torch.where(of_stages > 0, (of_slopes / of_stages).sqrt(), 0.0)

    def backward(
        self,
        pull: GraphModule,
        grad: Tensor,
        count: Tensor,
        tape_y: Tensor,
        tape_clock: Tensor,
        rows: tuple[Tensor, Tensor] | None,
        grads: Tensors,
        tensors: Tensors,
    ) -> tuple[Tensor, Tensors]:
        """The vector–Jacobian product of the steps on a tape, last first.

        Args:
            pull: The traced product of one step, (t, h, y, ∂L/∂y₁, ∂L/∂k, *tensors) ↦ (∂L/∂y, ∂L/∂θ).
            grad: (*state), ∂L/∂y at the end.
            count: (), the number of steps.
            tape_y: As of `forward`.
            tape_clock: As of `forward`.
            rows: The gradients from the outputs, if these may lie inside steps: to the states at the starts of the steps,
                (room, *state), and to their stage derivatives, (room, s + 1, *state).
            grads: ∂L/∂θ of the steps behind this tape.
            tensors: The tensors of the field.

        Returns:
            ∂L/∂y at the start, and ∂L/∂θ.
        """

        def cond(n, grad, *grads):
            return n > 0

        def body(n, grad, *grads):
            m = (n - 1).reshape(1)
            y, (t, h, *_) = tape_y.index_select(0, m)[0], tape_clock.index_select(0, m)[0].unbind()
            if rows is None:
                pulled = pull(t, h, y, grad, *tensors)
            else:
                of_states, of_slopes = (each.index_select(0, m)[0] for each in rows)
                pulled = pull(t, h, y, grad, of_slopes, *tensors)
                pulled = (pulled[0] + of_states, *pulled[1:])
            totals = (total + each for total, each in zip(grads, pulled[1:], strict=True))
            return n - 1, pulled[0].clone(), *totals

        _, grad, *totals = cast(
            Tensors, while_loop(cond, body, (count.clone(), grad.clone(), *(each.clone() for each in grads)))
        )
        return grad, tuple(totals)


def stages(
    method: Method, evaluate: Field, t: Tensor, h: Tensor, y: Tensor, first: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """(y₁, the stage derivatives k₁ …) of a step of size h from (t, y), both in float64, with k₁ given."""
    slopes, size = [first], h.to(y)
    for number in range(1, len(method.b)):
        stage = y + size * combined(method.a[number], slopes)
        slopes.append(evaluate(t + method.c[number] * h, stage))
    return y + size * combined(method.b, slopes), slopes


def combined(weights: Weights, slopes: Sequence[Tensor]) -> Tensor:
    """Σ w k."""
    total = None
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            total = slope * weight if total is None else total + slope * weight
    return torch.zeros_like(slopes[0]) if total is None else total


def _scale(rtol: Tensor, atol: Tensor, size: Tensor) -> Tensor:
    return atol + rtol * size


def _mean(value: Tensor) -> Tensor:
    return value.square().mean().sqrt().double()


def _worst_sample(value: Tensor) -> Tensor:
    return value.flatten(1).square().mean(1).amax().sqrt().double()


@dataclass(frozen=True)
class Pull:
    """The vector–Jacobian product of a step, traced.

    Attributes:
        graph: (t, h, y, ∂L/∂y₁, *tensors), or with ∂L/∂k behind ∂L/∂y₁, ↦ (∂L/∂y, ∂L/∂θ of the tensors used).
        used: The indices of the tensors with a gradient.
    """

    graph: GraphModule
    used: tuple[int, ...]


def traced_field(replaced: Replaced, parts: Parts, y: Tensor) -> GraphModule:
    """The field as a graph, (*tensors, t, y) ↦ (value,).

    Raises:
        CompileError: The graph would not have the values of the field.
    """

    def field(*inputs: Tensor) -> tuple[Tensor]:
        *tensors, t, y = inputs
        value = replaced.over(tuple(tensors))(t, y)
        check_shape(value, y.shape)
        return (value,)

    with torch.no_grad():
        return _checked(_traced(field, *parts.tensors, y.new_zeros(()), y))


def traced_pull(method: Method, replaced: Replaced, parts: Parts, y: Tensor) -> Pull:
    """The vector–Jacobian product of a step.

    The step is traced together with its derivative: autograd that runs inside the field leaves values in a graph of the
    field alone, whose derivative would be another.

    Raises:
        CompileError: The graph would not have the values of the step.
    """
    used: list[int] = []
    count = len(method.b) + 1

    def pull(*inputs: Tensor) -> tuple[Tensor, ...]:
        t, h, y, *grads = inputs[: 4 + method.rows]
        with torch.enable_grad():
            y, *tensors = (
                each.detach().requires_grad_(wanted)
                for each, wanted in zip((y, *inputs[4 + method.rows :]), (True, *wants), strict=True)
            )
            field = replaced.over(tuple(tensors))
            evaluate: Field = lambda t, y: field(t.to(y), y)  # noqa: E731
            y1, slopes = stages(method, evaluate, t, h, y, evaluate(t, y))
            outputs, cotangents = [y1], grads[:1]
            if method.rows:
                outputs += [*slopes, evaluate(t + h, y1)]
                cotangents += grads[1].unbind()
            leaves = [y, *(tensor for tensor in tensors if tensor.requires_grad)]
            known = [number for number, output in enumerate(outputs) if output.requires_grad]
            outputs, cotangents = [outputs[number] for number in known], [cotangents[number] for number in known]
            found: tuple[Tensor | None, ...] = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
        indices = [number for number, want in enumerate(wants) if want]
        used[:] = [number for number, each in zip(indices, found[1:], strict=True) if each is not None]
        first = torch.zeros_like(y) if found[0] is None else found[0]
        return first, *(each for each in found[1:] if each is not None)

    wants = [tensor.requires_grad for tensor in parts.tensors]
    time = torch.zeros((), dtype=DTYPE, device=y.device)
    of_slopes = [y.new_zeros(count, *y.shape)] if method.rows else []
    graph = _checked(_traced(pull, time, time + 1, y, y, *of_slopes, *parts.tensors))
    return Pull(graph, tuple(used))


def _traced(function: Callable[..., Tensors], *inputs: Tensor) -> GraphModule:
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*(each.detach() for each in inputs))


def _checked(graph: GraphModule) -> GraphModule:
    """The graph.

    Raises:
        CompileError: It draws random numbers, changes its inputs, or uses a tensor with a gradient that is no input.
    """
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target)
            if isinstance(value, Tensor) and value.requires_grad:
                raise CompileError("it uses a tensor that requires a gradient and is none of its parameters")
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise CompileError("it draws random numbers")
        for value, argument in zip(node.args, node.target._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and _is_input(value):
                raise CompileError("it changes one of its tensors")
    return graph


def _is_input(node: Any) -> bool:
    """Whether a node is an input of its graph, a constant, or a view of one."""
    while isinstance(node, torch.fx.Node) and node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        info = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
        if info is None:
            return False
        node = node.args[0]
    return isinstance(node, torch.fx.Node)
