"""Compiled solves: whole solves as programs, made once for fields and states of the same form."""

import math
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad

from odeflow.engine.equation.clock import DTYPE
from odeflow.engine.equation.field import SameNoise, full_precision, transformed
from odeflow.engine.equation.parts import CompileError, Parts, Replaced, parts_of
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.adaptive import HALF, ErrorControl, warn_of_rounding
from odeflow.engine.loop.compiled_run import Part, Run
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.fixed import FixedSteps
from odeflow.engine.loop.program import Loop, Method, Numbers, Pull, stages, timed, traced, traced_field, traced_pull
from odeflow.engine.loop.replay import ReplayedBackward, ReplayedForward, replays
from odeflow.engine.output.mesh import Mesh, nodes
from odeflow.engine.step.tableau import Tableau
from odeflow.errors import OdeflowError

KEPT = 32  # maximum number of programs of a solver
FORMS = 8  # maximum number of programs of a module, for shapes of the state and attributes
ROOM = 128  # maximum number of steps on a tape
LEAST = 8  # minimum number
CHECKED = 3  # steps whose derivative is compared with that of the field
BYTES = 2**25  # of a tape
Code = Callable[..., tuple[Tensor, ...]]
MAKING = threading.RLock()
"""Held while a program is made: tracing and compiling change what all threads share."""


class CompiledSolves:
    """The programs of a solver. A copy of the solver makes its own.

    What cannot be compiled is solved uncompiled, with one warning that gives the reason.
    """

    def __init__(self) -> None:
        self.programs: dict[Hashable, Program | None] = {}
        self.made: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()
        self.warned: set[str] = set()

    def __deepcopy__(self, memo: object) -> "CompiledSolves":
        return CompiledSolves()

    def __reduce__(self) -> tuple[type["CompiledSolves"], tuple[()]]:
        return CompiledSolves, ()

    def run(
        self,
        tableau: Tableau,
        control: StepControl,
        field: Field,
        y0: Tensor,
        t: Tensor,
        mesh: Mesh | None,
        differentiated: bool,
    ) -> "Run | None":
        """A compiled solve; None if it must be solved uncompiled, or failed so that the uncompiled one says why.

        Args:
            tableau: The method.
            control: The step size control of this solve.
            field: The vector field, as passed by `solve`.
            y0: (*state), the state at t[0].
            t: (T,), the times.
            mesh: Requests rows for dense output.
            differentiated: Whether the run will be differentiated.
        """
        if not isinstance(field, SameNoise) or transformed():
            return None  # a field that a gradient wraps for one solve
        key: Hashable = None
        try:
            if mesh is not None and mesh.watch is not None:
                raise CompileError("events are located between steps")
            if y0.dtype in HALF:
                raise CompileError(f"the state is in {y0.dtype}")
            with MAKING:  # while a program is made, the modules of its field have other tensors
                parts = parts_of(field.field)
            if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
                raise CompileError("it is differentiated in forward mode")
            method = _method(tableau, control, len(t) > 2 or mesh is not None)
            key = parts.key, method, y0.shape, y0.dtype, y0.device, torch.get_default_dtype()
            program = self.programs.get(key)
            if program is not None and program.made(differentiated):
                return program.run(control, field.field, parts, y0, t, mesh)
            with MAKING:
                if key not in self.programs:
                    self._make_room(parts)
                    self.programs[key] = Program(method, field.field, parts, y0)
                program = self.programs[key]
                if program is None:
                    return None
                if differentiated:
                    program.differentiable(field.field, parts, float(t[0]), y0)
                return program.run(control, field.field, parts, y0, t, mesh)
        except CompileError as problem:
            reason = str(problem)
        except OdeflowError:
            raise
        except Exception as problem:  # a compiler raises many types
            with torch.no_grad():
                field.field(y0.new_full((), float(t[0])), y0)  # raises the field's own errors
            reason = f"{type(problem).__name__}: {' '.join(str(problem).split()[:40])}"
        if key is not None:
            self.programs[key] = None
        self.refuse(field, reason)
        return None

    def refuse(self, field: Field, reason: str) -> None:
        """Warns, once for each reason, that a solve runs uncompiled."""
        text = f"compile=True: solves over {_name(field)} run uncompiled: {reason}"
        if text not in self.warned:
            self.warned.add(text)
            warnings.warn(text, stacklevel=2)

    def _make_room(self, parts: Parts) -> None:
        """Discards the oldest program, if there are many, and counts those of the field.

        Raises:
            CompileError: The field had too many.
        """
        owner = parts.modules[0] if parts.modules else None
        if owner is None:
            raise CompileError("only modules are compiled")
        count = self.made.get(owner, 0)
        if count >= FORMS:
            raise CompileError(
                f"{FORMS} forms of it were compiled; use batches of one size, and a buffer for a number that changes"
            )
        self.made[owner] = count + 1
        while len(self.programs) >= KEPT:
            del self.programs[next(iter(self.programs))]


def _name(field: Field) -> str:
    """The name of the innermost field."""
    inner: Any = field
    while not isinstance(inner, torch.nn.Module | FunctionType | MethodType) and hasattr(inner, "field"):
        inner = inner.field
    return str(getattr(inner, "__qualname__", type(inner).__name__))


def _method(tableau: Tableau, control: StepControl, rows: bool) -> Method:
    """What the code depends on."""
    controller, per_sample, shared = None, False, False
    if isinstance(control, ErrorControl):
        controller, per_sample, shared = control.controller, control.norm == "max_sample", control.shared
    return Method(tableau, controller, per_sample, shared, rows)


class Program:
    """The compiled code of the solves over fields and states of one form.

    Args:
        method: What the code depends on.
        field: A field of this form.
        parts: Its parts.
        like: A state.

    Raises:
        CompileError: The field cannot be traced.
    """

    def __init__(self, method: Method, field: Field, parts: Parts, like: Tensor) -> None:
        self.method, self.held = method, parts.held
        self.loop = Loop(method, traced_field(Replaced(field, parts), parts, like))
        if parts_of(field).key != parts.key:
            raise CompileError("it changes its attributes when it is called")
        self.forward: Code | None = None
        self.backward: Code | None = None
        self.pull: Pull | None = None
        self.replayed = replays(like.device)
        self.verified = False  # whether its first step was compared with that of the field
        self.stages = method.stages + 1  # with the one at the end of the step
        steps = BYTES // max(1, like.numel() * like.element_size() * (1 + method.rows * self.stages))
        self.room = max(LEAST, min(steps, ROOM))

    def made(self, differentiated: bool) -> bool:
        """Whether all that a solve needs is compiled and verified."""
        return self.forward is not None and self.verified and (self.pull is not None or not differentiated)

    def differentiable(self, field: Field, parts: Parts, t0: float, like: Tensor) -> None:
        """Makes the backward pass, if there is none yet.

        Raises:
            CompileError: The field's derivative cannot be traced, or compiled.
        """
        if self.pull is None:
            self.pull = traced_pull(self.method, Replaced(field, parts), parts, like)
            self._check_pull(self.pull, field, parts, t0, like)

    def run(
        self, control: StepControl, field: Field, parts: Parts, y0: Tensor, t: Tensor, mesh: Mesh | None
    ) -> "Run | None":
        """A solve; None if it failed.

        Raises:
            CompileError: The compiler failed, or its code has other values than the field.
        """
        run = Run(self, parts, t, y0.detach(), () if mesh is None else nodes(len(self.method.tableau.interpolation[0])))
        y, last = run.y0, float(run.times[-1])
        settings = torch.tensor(_settings(control, float(run.times[0]), last), dtype=DTYPE, device=y.device)
        numbers, first = y.new_zeros(len(Numbers._fields), dtype=DTYPE), torch.zeros_like(y)
        slopes = y.new_empty((self.room if self.method.rows else 1, self.stages, *y.shape))
        tensors = [tensor.detach() for tensor in (*parts.tensors, *self.loop.field.constants)]
        while True:
            states, clock = y.new_empty((self.room + 1, *y.shape)), y.new_empty((self.room, 4), dtype=DTYPE)
            states[:1].copy_(y)
            inputs = settings, numbers, first, states, clock.view(-1), slopes.flatten(0, 1), *tensors
            if self.forward is None:
                self.forward = (
                    ReplayedForward(self.loop, inputs, _compiled_pass)
                    if self.replayed
                    else _compiled(self.loop.forward, inputs)
                )
            with torch.no_grad():
                self.forward(*inputs)
            reached = Numbers._make(numbers.tolist())
            part = Part(states, clock, int(reached.taped))
            if not self.verified:
                self._check_step(field, part)
            ended = reached.t == last and part.steps > 0
            if not ended and part.steps < self.room:
                return None
            run.add(part, slopes)
            if ended:
                break
            y = states[part.steps]
            numbers[Numbers._fields.index("taped")] = 0
        if isinstance(control, ErrorControl):
            warn_of_rounding(control.rtol, control.atol, reached.size, y0.dtype)
        run.finish(reached, states[part.steps], mesh)
        return run

    def _check_step(self, field: Field, part: "Part") -> None:
        """Compares the first step with that of the field itself.

        Raises:
            CompileError: They differ.
        """
        if part.steps:
            t, h, y = part.clock[0, 0], part.clock[0, 1], part.y[0]
            found = part.y[1]
            with torch.no_grad():
                wanted, _ = stages(self.method, timed(field), t, h, y, timed(field)(t, y))
            _check(found - y, wanted - y, y, "step")
            self.verified = True

    def _check_pull(self, pull: Pull, field: Field, parts: Parts, t0: float, like: Tensor) -> None:
        """Compares the derivative of a few steps from (t0, like) with that of the field itself.

        Raises:
            CompileError: They differ.
        """
        h, evaluate = 1e-2, timed(field)
        times = torch.tensor([t0 + number * h for number in range(CHECKED)], dtype=DTYPE, device=like.device)
        clock = like.new_zeros(self.room, 4, dtype=DTYPE)
        clock[:CHECKED, 0], clock[:CHECKED, 1] = times, h
        grad = torch.linspace(0.5, 1, like.numel(), dtype=like.dtype, device=like.device).view_as(like)
        with torch.enable_grad(), full_precision(like):
            states = [like.detach().requires_grad_()]
            for t in times:
                slope = evaluate(t, states[-1])
                states.append(stages(self.method, evaluate, t, clock[0, 1], states[-1], slope)[0])
            leaves = [states[0], *(parts.tensors[number] for number in pull.used)]
            wanted = torch.autograd.grad(states[-1], leaves, grad, allow_unused=True, materialize_grads=True)
        tape = like.new_zeros(self.room + 1, *like.shape)
        tape[: CHECKED + 1] = torch.stack(states).detach()
        rows = None
        if self.method.rows:
            rows = like.new_zeros((self.room + 1, *like.shape)), like.new_zeros((self.room, self.stages, *like.shape))
        found = self.pulled(grad, Part(tape, clock, CHECKED), rows, {}, parts)
        _check(found[0] - grad, wanted[0] - grad, grad, "derivative")
        for number, other in zip(pull.used, wanted[1:], strict=True):
            _check(found[1][number], other, other, "derivative")

    def pulled(
        self, grad: Tensor, part: "Part", rows: tuple[Tensor, Tensor] | None, grads: dict[int, Tensor], parts: Parts
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The vector–Jacobian product of a tape, as of `Loop.backward`; ∂L/∂θ by the number of the tensor."""
        assert self.pull is not None
        used = self.pull.used
        tensors = [tensor.detach() for tensor in (*parts.tensors, *self.pull.graph.constants)]
        totals = [grads[number] if number in grads else torch.zeros_like(tensors[number]) for number in used]
        start = grad.clone(memory_format=torch.contiguous_format)
        count = torch.tensor(part.steps, device=None if self.replayed else grad.device)
        inputs = count, start, part.y, part.clock.view(-1), *(rows or ()), *totals, *tensors
        if self.backward is None:
            self.backward = (
                ReplayedBackward(self.loop, self.pull, inputs, _compiled_pass)
                if self.replayed
                else _compiled(partial(self.loop.backward, self.pull), inputs)
            )
        with torch.no_grad(), full_precision(grad):
            self.backward(*inputs)
        return start, dict(zip(used, totals, strict=True))


def _compiled(function: Code, inputs: Sequence[Tensor]) -> Code:
    """A method of `Loop`, compiled for inputs of this form.

    `torch.compile` would look at all inputs again in each call, whose forms `Parts.key` has.
    """
    from torch import _inductor  # takes seconds to import

    with torch.no_grad():
        graph = traced(function, *inputs)
        if inputs[0].device.type != "cpu":
            return cast(Code, _inductor.compile(graph, list(inputs)))
        from odeflow.engine.loop.passes import SmallFields, kept_buffers  # imports it

        options: dict[str, Any] = {
            "cpp_wrapper": True,
            "cpp.enable_floating_point_contract_flag": "fast",  # fused multiply–add
            "post_grad_custom_post_pass": SmallFields(),
        }
        with kept_buffers():
            return cast(Code, _inductor.compile(graph, list(inputs), options))


def _compiled_pass(function: Code, inputs: Sequence[Tensor]) -> Code:
    """A pass of a loop, compiled for inputs of this form; as traced where the compiler fails."""
    try:
        return _compiled(function, inputs)
    except Exception:  # a compiler raises many types
        with torch.no_grad():
            return traced(function, *inputs)


def _check(found: Tensor, wanted: Tensor, scale: Tensor, what: str) -> None:
    """Compares a value of compiled code with that of the field itself, up to rounding in values of a scale.

    Raises:
        CompileError: They differ.
    """
    rounding = torch.finfo(found.dtype).eps
    slack = rounding**0.25 * wanted.norm() + 100 * rounding * scale.norm()
    if bool(wanted.isfinite().all()) and not bool((found - wanted).norm() <= slack):
        raise CompileError(f"the compiled {what} differs from that of the field")


def _settings(control: StepControl, start: float, end: float) -> tuple[float, ...]:
    """The numbers of a solve, as of `Loop.forward`."""
    if isinstance(control, FixedSteps):
        return start, end, 0.0, 0.0, math.nan, 0.0, math.inf, 0.0, control.count
    assert isinstance(control, ErrorControl)
    first = math.nan if control.first_step is None else control.first_step
    return start, end, control.rtol, control.atol, first, control.min_step, control.max_step, control.max_steps, 0.0
