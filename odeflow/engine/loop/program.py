"""Program: a whole solve as compiled code, forward with its tape, and backward over the tape."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop_op
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from odeflow.engine.equation.clock import DTYPE, TENSORS
from odeflow.engine.equation.parts import CompileError, Parts, Replaced
from odeflow.engine.equation.state import Field, check_shape
from odeflow.engine.loop.adaptive import SMALLEST_PART, STIFFNESS_EVERY
from odeflow.engine.loop.control import SMALLEST_STEP
from odeflow.engine.loop.controller import Controller
from odeflow.engine.loop.step_size import first_size, next_size, step_end
from odeflow.engine.step.stages import roundings
from odeflow.engine.step.tableau import Tableau

Tensors = tuple[Tensor, ...]
Weights = Sequence[float]
SPACING = torch.finfo(DTYPE).eps


@dataclass(frozen=True)
class Method:
    """What the code of a program depends on, besides the field and the state.

    Attributes:
        tableau: The coefficients.
        controller: The step size controller; None for fixed steps.
        per_sample_norm: Whether the error is that of the worst sample.
        per_span: Whether the tolerances bound the error per unit of the span.
        rows: Whether there are outputs inside steps, from the stages.
    """

    tableau: Tableau
    controller: Controller | None
    per_sample_norm: bool
    per_span: bool
    rows: bool

    @property
    def stages(self) -> int:
        """Number of stages, without the one at the end of the step."""
        return self.tableau.stages - self.tableau.fsal


class Settings(NamedTuple):
    """The numbers of a solve, each (), float64. They are inputs of its program, so that other numbers compile nothing.

    Attributes:
        start: The first time.
        end: The last time.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        first_step: Size of the first step; nan if it is to be selected.
        min_step: Smallest step size.
        max_step: Largest step size.
        max_steps: Maximum number of attempted steps.
        num_steps: Number of fixed steps.
    """

    start: Tensor
    end: Tensor
    rtol: Tensor
    atol: Tensor
    first_step: Tensor
    min_step: Tensor
    max_step: Tensor
    max_steps: Tensor
    num_steps: Tensor


N = TypeVar("N", Tensor, float)


class Numbers(NamedTuple, Generic[N]):
    """The numbers that the loop goes on from, between two attempts of a step and from tape to tape.

    Attributes:
        t: The time.
        h: The signed size of the next step.
        past: The controller's ratio of the last accepted step; nan before the first.
        before: That of the step before.
        stiffness: The sum of the estimates of h|λ|.
        attempts: The attempted steps.
        accepted: The accepted ones.
        taped: Those on this tape.
        least: The smallest permitted step.
        size: The norm of the initial state in units of the tolerance.
    """

    t: N
    h: N
    past: N
    before: N
    stiffness: N
    attempts: N
    accepted: N
    taped: N
    least: N
    size: N


ATTEMPTS = Numbers._fields.index("attempts")


class Loop:
    """The code of a solve: functions of tensors only, which the compiler can follow.

    Args:
        method: The method.
        field: The field: (t, y, *tensors) ↦ (value,).
    """

    def __init__(self, method: Method, field: "Graph") -> None:
        self.method, self.field = method, field

    def forward(
        self,
        settings: Tensor,
        numbers: Tensor,
        first: Tensor,
        states: Tensor,
        clock: Tensor,
        slopes: Tensor,
        *tensors: Tensor,
    ) -> Tensors:
        """Takes steps until the end, or until the tape is full.

        What a loop passes on costs an allocation a step, so that its state is in buffers. Only the loop changes them:
        changed before it, too, they would be copied.

        Args:
            settings: (9,), the entries of `Settings`.
            numbers: (10,), float64, the entries of `Numbers`, which are changed; all 0 at the start of a solve.
            first: (*state), the vector field at the first state, unless the solve begins; then that at the end.
            states: (room + 1, *state), the first state, behind which those at the ends of the steps are written.
            clock: (room · 4,), float64, for start, size and end of each step, and the size of the next.
            slopes: (room · (s + 1), *state), for the stage derivatives, if there are outputs inside steps.
            tensors: The tensors of the field.

        Returns:
            The number of attempts, ().
        """
        start, slope = self._start(settings, states[0], tensors)
        inputs = settings, numbers, start, slope, first, states, clock, slopes, *tensors
        return _looped(self._going, self._attempt, torch.zeros_like(start[0]), inputs, changed=(1, 4, 5, 6, 7))

    def begin(self, settings: Tensor, numbers: Tensor, first: Tensor, states: Tensor, *others: Tensor) -> Tensors:
        """What `forward` does before its loop: sets `numbers` and `first`, if the solve begins."""
        start, slope = self._start(settings, states[0], others[2:])
        begins = numbers[ATTEMPTS] == 0
        first.copy_(torch.where(begins, slope, first))
        numbers.copy_(torch.where(begins, start, numbers))
        return (begins,)

    def attempt(
        self, settings: Tensor, numbers: Tensor, first: Tensor, states: Tensor, clock: Tensor, *others: Tensor
    ) -> Tensors:
        """A pass of the loop of `forward` on its own. If there is none, the numbers and `first` stay as they are.

        States, clock and slopes have room for a step more than the tape, where an attempt behind a full one writes.
        """
        before = numbers.clone(), first.clone()
        going = self._going(numbers[ATTEMPTS], settings, numbers, *before, first, states[1:])
        self._attempt(numbers[ATTEMPTS], settings, numbers, *before, first, states, clock, *others)
        for now, kept in zip((numbers, first), before, strict=True):
            now.copy_(torch.where(going, now, kept))
        return (going,)

    def _start(self, settings: Tensor, y: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """(the entries of `Numbers` before the first attempt, the vector field there)."""
        given, evaluate = Settings(*settings.unbind()), partial(self._evaluate, tensors)
        slope, zero = evaluate(given.start, y), torch.zeros_like(given.start)
        adaptive = self.method.controller is not None
        h, size = self._first_step(given, evaluate, y, slope) if adaptive else (zero, zero)
        unknown = torch.full_like(zero, torch.nan)
        start = Numbers(given.start, h, unknown, unknown, zero, zero, zero, zero, SMALLEST_PART * h.abs(), size)
        return torch.stack(start), slope

    def _going(
        self,
        attempts: Tensor,
        settings: Tensor,
        numbers: Tensor,
        start: Tensor,
        slope: Tensor,
        first: Tensor,
        states: Tensor,
        *others: Tensor,
    ) -> Tensor:
        """Whether there is a further attempt, ()."""
        given, now = Settings(*settings.unbind()), _current(numbers, start)
        left = ((given.end - now.t) * (given.end - given.start).sign() > 0) & (now.taped < len(states) - 1)
        if self.method.controller is None:
            return left
        smallest = torch.maximum(torch.minimum(given.min_step, _span(given)), now.least)
        smallest = torch.maximum(smallest, SMALLEST_STEP * SPACING * now.t.abs())
        return left & (now.attempts < given.max_steps) & (now.h.abs() >= smallest)

    def _attempt(
        self,
        attempts: Tensor,
        settings: Tensor,
        numbers: Tensor,
        start: Tensor,
        slope: Tensor,
        first: Tensor,
        states: Tensor,
        clock: Tensor,
        slopes: Tensor,
        *tensors: Tensor,
    ) -> Tensors:
        """An attempt of a step from the last state on the tape: writes its end, and changes `numbers` and `first`.

        The tensors are those of `forward`, and `numbers` and `first` at the start of the solve: `start` and `slope`.
        """
        given, now = Settings(*settings.unbind()), _current(numbers, start)
        number = now.taped.long().reshape(1)
        y, k = states.index_select(0, number)[0], torch.where(now.attempts == 0, slope, first)
        step = self._fixed_step if self.method.controller is None else self._adaptive_step
        after, y1, stages, ok = step(given, partial(self._evaluate, tensors), now, y, k)
        states.index_copy_(0, number + 1, y1[None])
        for place, value in enumerate((now.t, after.t - now.t, after.t, after.h)):
            clock.index_copy_(0, 4 * number + place, value.reshape(1))
        if self.method.rows:
            for place, each in enumerate(stages):
                slopes.index_copy_(0, len(stages) * number + place, each[None])
        first.copy_(torch.where(ok, stages[-1], k))
        after = after._replace(
            t=torch.where(ok, after.t, now.t),
            attempts=now.attempts + 1,
            accepted=now.accepted + ok,
            taped=now.taped + ok,
        )
        for place, value in enumerate(after):
            numbers.index_copy_(0, torch.full_like(number, place), value.reshape(1))
        return (attempts + 1,)

    def _evaluate(self, tensors: Tensors, t: Tensor, y: Tensor) -> Tensor:
        """The field at (t, y), t in float64."""
        return self.field(t.to(y), y, *tensors)[0]

    def _first_step(self, given: Settings, evaluate: Field, y: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """(signed size of the first step, norm of y); nan if the field is not finite."""
        span, sign, scale = _span(given), (given.end - given.start).sign(), _scale(given, y.abs())
        size, speed = self._norm(y / scale), self._norm(first / scale)

        def change(size: Tensor) -> Tensor:
            ahead = size * sign
            return self._norm((evaluate(given.start + ahead, y + ahead.to(y) * first) - first) / scale)

        h = first_size(TENSORS, size, speed, span, change, self.method.tableau.order)
        h = torch.where(given.first_step.isnan(), h, given.first_step)
        h = torch.minimum(torch.minimum(torch.maximum(h, given.min_step), span), given.max_step)
        return torch.where((size + speed).isfinite(), h, torch.nan) * sign, size

    def _fixed_step(
        self, given: Settings, evaluate: Field, now: Numbers[Tensor], y: Tensor, first: Tensor
    ) -> tuple[Numbers[Tensor], Tensor, list[Tensor], Tensor]:
        """As `_adaptive_step`, to the next point of the grid."""
        number = now.accepted + 1
        on_grid = given.start + (given.end - given.start) * (number / given.num_steps)
        t1 = torch.where(number >= given.num_steps, given.end, on_grid)
        y1, slopes = stages(self.method, evaluate, now.t, t1 - now.t, y, first)
        slopes.append(evaluate(t1, y1))
        return now._replace(t=t1), y1, slopes, number > 0

    def _adaptive_step(
        self, given: Settings, evaluate: Field, now: Numbers[Tensor], y: Tensor, first: Tensor
    ) -> tuple[Numbers[Tensor], Tensor, list[Tensor], Tensor]:
        """(numbers after it, y₁, the stage derivatives, whether it is accepted) of a step, as by `ErrorControl`."""
        method, controller = self.method, self.method.controller
        assert controller is not None
        t1, cut = step_end(TENSORS, now.t, now.h, given.end)
        step = t1 - now.t
        y1, slopes = stages(method, evaluate, now.t, step, y, first)
        slopes.append(evaluate(t1, y1))
        scaled = combined(method.tableau.error_weights or (), slopes) / _scale(given, torch.maximum(y.abs(), y1.abs()))
        error = self._norm(scaled) * (_span(given) if method.per_span else step.abs())
        ok = error <= 1
        past = (now.past, now.before)[: len(controller.unknown)]
        factor, past = controller.factor(error, cut, past)
        h = next_size(TENSORS, step.abs(), now.h.abs(), factor, ok, cut, given.max_step) * step.sign()
        stiffness = now.stiffness
        if (weights := method.tableau.stiffness_weights) is not None:
            due = ok & ((now.accepted + 1) % STIFFNESS_EVERY == 0)
            least = roundings(y) * y.square().sum().sqrt().double() / step.abs()
            stiffness = stiffness + torch.where(due, _stiffness(weights, slopes, least), 0.0)
        after = now._replace(t=t1, h=h, stiffness=stiffness, **dict(zip(("past", "before"), past, strict=False)))
        return after, y1, slopes, ok

    def _norm(self, value: Tensor) -> Tensor:
        """The root mean square of all entries, or the largest of a sample."""
        if self.method.per_sample_norm:
            return value.flatten(1).square().mean(1).amax().sqrt().double()
        return value.square().mean().sqrt().double()

    def backward(self, pull: "Pull", left: Tensor, grad: Tensor, *others: Tensor) -> Tensors:
        """The vector–Jacobian product of the steps on a tape, last first.

        Args:
            pull: That of a step.
            left: (), int64, the number of steps.
            grad: (*state), ∂L/∂y at the end, and then at the start.
            others: States and clock of the tape, as of `forward`. If there may be outputs inside steps, their
                gradients: to the states at the starts of the steps, (room + 1, *state), and to their stage derivatives,
                (room, s + 1, *state). ∂L/∂θ of the steps behind this tape, to which that of these is added. The tensors
                of the field.

        Returns:
            The number of steps that are left, (): 0.
        """
        rows, count = 2 * self.method.rows, len(pull.used)

        def going(left: Tensor, *inputs: Tensor) -> Tensor:
            return left > 0

        inputs, changed = (grad, *others), (0, *range(3 + rows, 3 + rows + count))
        return _looped(going, partial(self._step_back, pull), left.clone(), inputs, changed)

    def retreat(self, pull: "Pull", left: Tensor, *others: Tensor) -> Tensors:
        """A pass of the loop of `backward` on its own, which changes `left`, too."""
        (after,) = self._step_back(pull, left, *others)
        left.copy_(after)
        return (after,)

    def _step_back(
        self, pull: "Pull", left: Tensor, grad: Tensor, states: Tensor, clock: Tensor, *others: Tensor
    ) -> Tensors:
        """The vector–Jacobian product of the last step that is left."""
        rows, count = 2 * self.method.rows, len(pull.used)
        of_rows, totals, tensors = others[:rows], others[rows : rows + count], others[rows + count :]
        last = (left - 1).reshape(1)
        y, *of_rows = (each.index_select(0, last)[0] for each in (states, *of_rows))
        t, h = (clock.index_select(0, 4 * last + place)[0] for place in range(2))
        start, *found = pull.graph(t, h, y, grad, *of_rows[1:], *tensors)
        for total, each in zip(totals, found, strict=True):
            total.add_(each)
        grad.copy_(start + of_rows[0] if rows else start)
        return (left - 1,)


def _looped(
    going: Callable[..., Tensor],
    body: Callable[..., Tensors],
    count: Tensor,
    inputs: Tensors,
    changed: Iterable[int],
) -> Tensors:
    """A loop in a graph, over a count and buffers.

    Args:
        going: (count, *inputs) ↦ whether it goes on, ().
        body: (count, *inputs) ↦ (the next count,).
        count: The first.
        inputs: The other tensors.
        changed: The numbers of those that the body changes.
    """
    numbers = ",".join(str(1 + number) for number in changed)  # counted from the first argument of the body
    return while_loop_op(going, body, (count,), inputs, mutated_arg_indices=numbers)


def stages(
    method: Method, evaluate: Field, t: Tensor, h: Tensor, y: Tensor, first: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """(y₁, the stage derivatives k₁ …) of a step of size h from (t, y), both in float64, with k₁ given."""
    slopes, size, tableau = [first], h.to(y), method.tableau
    for number in range(1, method.stages):
        stage = y + size * combined(tableau.a[number], slopes)
        slopes.append(evaluate(t + tableau.c[number] * h, stage))
    return y + size * combined(tableau.b, slopes), slopes


def timed(field: Field) -> Field:
    """The field of a time in float64."""
    return lambda t, y: field(t.to(y), y)


def combined(weights: Weights, slopes: Sequence[Tensor]) -> Tensor:
    """Σ w k."""
    total = None
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            total = slope * weight if total is None else total + slope * weight
    return torch.zeros_like(slopes[0]) if total is None else total


def _current(numbers: Tensor, start: Tensor) -> Numbers[Tensor]:
    """The entries of `Numbers`: those at the start before the first attempt."""
    return Numbers(*torch.where(numbers[ATTEMPTS] == 0, start, numbers).unbind())


def _span(given: Settings) -> Tensor:
    return (given.end - given.start).abs()


def _scale(given: Settings, size: Tensor) -> Tensor:
    """The tolerance for a state of this size."""
    return given.atol.to(size) + given.rtol.to(size) * size


def _stiffness(weights: tuple[Weights, Weights], slopes: Sequence[Tensor], least: Tensor) -> Tensor:
    """h|λ| from the last two stages, as by `ExplicitStages.stiffness`; 0 where these differ by less than `least`."""
    of_slopes, of_stages = (combined(each, slopes).square().sum().double().sqrt() for each in weights)
    return torch.where(of_stages > least, of_slopes / of_stages, 0.0)


@dataclass(frozen=True)
class Graph:
    """A function of tensors as a graph.

    Attributes:
        module: The graph.
        constants: The tensors that it reads besides its inputs, which are its last inputs: others may change them.
    """

    module: GraphModule
    constants: Tensors

    def __call__(self, *inputs: Tensor) -> Tensors:
        return cast(Tensors, self.module(*inputs))


@dataclass(frozen=True)
class Pull:
    """The vector–Jacobian product of a step.

    Attributes:
        graph: (t, h, y, ∂L/∂y₁, *tensors), or with ∂L/∂k behind ∂L/∂y₁, ↦ (∂L/∂y, ∂L/∂θ of the tensors used).
        used: The indices of the tensors with a gradient.
    """

    graph: Graph
    used: tuple[int, ...]


def traced_field(replaced: Replaced, parts: Parts, y: Tensor) -> Graph:
    """The field as a graph, (t, y, *tensors) ↦ (value,).

    Raises:
        CompileError: The graph would not have the values of the field.
    """

    def field(*inputs: Tensor) -> tuple[Tensor]:
        t, y, *tensors = inputs
        value = replaced.over(tuple(tensors))(t, y)
        check_shape(value, y.shape)
        return (value,)

    with torch.no_grad():
        return _checked(traced(field, y.new_zeros(()), y, *parts.tensors))


def traced_pull(method: Method, replaced: Replaced, parts: Parts, y: Tensor) -> Pull:
    """The vector–Jacobian product of a step.

    The step is traced together with its derivative: autograd that runs inside the field leaves values in a graph of the
    field alone, whose derivative would be another.

    Raises:
        CompileError: The graph would not have the values of the step.
    """
    wants = [tensor.requires_grad for tensor in parts.tensors]
    used: list[int] = []

    def pull(*inputs: Tensor) -> Tensors:
        (t, h), start, grads, others = inputs[:2], inputs[2], inputs[3 : 4 + method.rows], inputs[4 + method.rows :]
        with torch.enable_grad():
            y = start.detach().requires_grad_()
            tensors = tuple(each.detach().requires_grad_(want) for each, want in zip(others, wants, strict=True))
            evaluate = timed(replaced.over(tensors))
            y1, slopes = stages(method, evaluate, t, h, y, evaluate(t, y))
            results, cotangents = [y1], [grads[0]]
            if method.rows:
                results += [*slopes, evaluate(t + h, y1)]
                cotangents += grads[1].unbind()
            pairs = [pair for pair in zip(results, cotangents, strict=True) if pair[0].requires_grad]
            leaves = {number: tensors[number] for number, want in enumerate(wants) if want}
            of_y, *found = _vjp(pairs, (y, *leaves.values()))
        known = {number: grad for number, grad in zip(leaves, found, strict=True) if grad is not None}
        used[:] = known
        return torch.zeros_like(y) if of_y is None else of_y, *known.values()

    time = torch.zeros((), dtype=DTYPE, device=y.device)
    of_slopes = [y.new_zeros(method.stages + 1, *y.shape)] if method.rows else []
    graph = _checked(traced(pull, time, time + 1, y, y, *of_slopes, *parts.tensors))
    return Pull(graph, tuple(used))


def _vjp(pairs: Sequence[tuple[Tensor, Tensor]], inputs: Tensors) -> tuple[Tensor | None, ...]:
    """The vector–Jacobian product of (result, cotangent) pairs; None for inputs without influence."""
    results, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(results, inputs, cotangents, allow_unused=True)


def traced(function: Callable[..., Tensors], *inputs: Tensor) -> GraphModule:
    """The graph of a function of tensors."""
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*(each.detach() for each in inputs))


def _checked(module: GraphModule) -> Graph:
    """The graph.

    Raises:
        CompileError: It draws random numbers, computes with complex ones, changes its inputs, or uses a tensor with a
            gradient that is no input.
    """
    constants: list[Tensor] = []
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            value = getattr(module, node.target)
            if isinstance(value, Tensor):
                if value.requires_grad:
                    raise CompileError(
                        "a tensor in it, as of a checkpoint, has a gradient and is none of its parameters"
                    )
                with module.graph.inserting_after(last):
                    last = module.graph.placeholder(node.name)
                constants.append(value)
                node.replace_all_uses_with(last)
                module.graph.erase_node(node)
                continue
        schema: Any = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        if isinstance(made := node.meta.get("val"), Tensor) and made.is_complex():
            raise CompileError("it computes with complex numbers")
        if torch.Tag.nondeterministic_seeded in node.target.tags and _draws(node, schema):
            raise CompileError("it draws random numbers")
        for value, argument in zip(node.args, schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and _is_input(value):
                raise CompileError("it changes one of its tensors")
    module.recompile()
    return Graph(module, tuple(constants))


def _draws(node: Any, schema: Any) -> bool:
    """Whether an operation that may draw random numbers does; attention without dropout does not."""
    given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)} | node.kwargs
    rates = [given.get(each.name, each.default_value) for each in schema.arguments if each.name == "dropout_p"]
    return rates != [0.0]


def _is_input(node: Any) -> bool:
    """Whether a node is an input of its graph, a constant, or a view of one."""
    while isinstance(node, torch.fx.Node) and node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        info = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
        if info is None:
            return False
        node = node.args[0]
    return isinstance(node, torch.fx.Node)
