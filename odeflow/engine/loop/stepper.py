"""Stepper: solvers that go through the one loop over steps, with the options that all of them share."""

import copy
import inspect
import math
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from types import FunctionType
from typing import Any, ClassVar, Self

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.adaptive import Adaptive, ErrorPer, Norm
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.controller import Gains
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.integrate import run
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.step.carried import MemoryStages, MemoryTape
from odeflow.engine.step.compiled import CompiledSteps
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature
from odeflow.errors import SettingError

ESTIMATED = (*(field.name for field in fields(Adaptive)), "per_sample")
"""Options of methods with an error estimate."""
CHOSEN = tuple(option for option in ESTIMATED if option not in ("rtol", "atol"))
"""Those that contradict fixed steps; tolerances beside them judge no step."""


class Stepper(Solver):
    """A solver made of steps. A family of methods says what one step is, its control how large the steps are.

    A method with an error estimate takes steps under error control, or fixed ones if `step_size` or `num_steps` is
    given; one without takes fixed steps. The signature of each class holds the options that its methods can use.

    Args:
        rtol: Relative tolerance of one step's error.
        atol: Absolute tolerance, in the state's unit.
        step_size: Size of fixed steps, in the field's time. The interval is divided into the fewest equal steps that
            are not larger.
        num_steps: Number of fixed steps between the first and the last time; the other way to say it.
        first_step: Size of the first step, in the field's time; chosen from the field by default.
        min_step: Smallest step; below it the solve fails. 0: as small as the time's floating point allows.
        max_step: Largest step; unbounded by default.
        max_steps: Largest number of attempted steps.
        controller: How the next step's size follows from the errors of the last: "I", by the last alone; "PI" and
            "PID", which make the sizes smoother; or the gains (β₁, β₂, β₃) of such a controller (see `Controller`).
        norm: What of a step's scaled error must be at most 1: "rms", the root mean square over everything;
            "max_sample", the largest of the samples' root mean squares, so that a batch mate cannot hide an error. The
            latter needs a state of one Tensor (B, d, …). With `per_sample` it is each sample's own in either case.
        error_per: What the tolerances bound: "step", the error of each step; "span", the errors of all steps in sum, so
            that the error at the end is about the tolerance times what the problem amplifies, or less ("error per unit
            step").
        jump_ts: Times at which the field jumps. A step ends at each, with fixed steps one more than without, and the
            field is evaluated on its own side of it throughout.
        compile: Whether `torch.compile` makes one call of each step, forward and in the backward pass of `Backprop` and
            `Checkpointed`. Pays where many solves are of small states: compiling takes up to a minute.
        per_sample: Whether each sample has its own clock, step size and accepted steps, so that its solution does not
            depend on the rest of the batch. The field is then called with t of shape (b,) and y of shape (b, *state),
            and may be called with some samples only.
        newton_tol: Error ε up to which Newton's iteration solves the equations of a step, ε·(1 + |y|) entry by entry.
            By default 1e-10 with fixed steps, and with adaptive ones the part √rtol, at most 0.03, of the tolerances.
            Smaller makes gradients, which are those of the exact solution of these equations, more exact.
        order: Order of the method, of families that have several.

    Raises:
        SettingError: A value is out of range, the method cannot use an option, or options contradict each other.
    """

    error_order: int | None = None
    """Order q of the weaker of the two solutions whose difference is the error; None: there is no estimate."""
    orders: ClassVar[range] = range(0)
    """Orders among which the option `order` chooses."""
    supports: ClassVar[tuple[str, ...]] = ()
    """The options of single families that this one supports: "compile", "per_sample", "newton_tol"."""
    control: Fixed | Adaptive

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        *,
        step_size: float | None = None,
        num_steps: int | None = None,
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        controller: Gains = "I",
        norm: Norm = "rms",
        error_per: ErrorPer = "step",
        jump_ts: Sequence[float] | None = None,
        compile: bool = False,  # noqa: A002
        per_sample: bool = False,
        newton_tol: float | None = None,
        order: int | None = None,
    ) -> None:
        name = type(self).__name__
        with naming(name):
            fixed = None if step_size is None and num_steps is None else Fixed(step_size, num_steps)
            adaptive = Adaptive(rtol, atol, first_step, min_step, max_step, max_steps, controller, norm, error_per)
            family = {"compile": compile, "per_sample": per_sample, "newton_tol": newton_tol, "order": order}
            values = {**vars(adaptive), **family}
            given = [option for option, value in values.items() if value != SIGNATURE.parameters[option].default]
            self._check_use(given, fixed)
            self.jump_ts = _jumps(jump_ts)
            if compile and (jump_ts or per_sample):
                other = "jump_ts" if jump_ts else "per_sample"
                raise SettingError(f"{other} needs compile=False: compiled steps have one clock and know no jumps")
            if newton_tol is not None and not 0 < newton_tol < 1:
                raise SettingError(f"newton_tol must be positive and below 1; got {newton_tol}")
            if order is not None:
                if not isinstance(order, int) or order not in self.orders:  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise SettingError(
                        f"order must be a whole number from {self.orders[0]} to {self.orders[-1]}; got {order}"
                    )
                self.order = order
        self.control = fixed or adaptive
        self.per_sample, self.newton_tol = per_sample, newton_tol
        self.compiled = CompiledSteps() if compile else None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__init__.__code__ is Stepper.__init__.__code__:  # no constructor of its own
            cls.__init__ = _narrowed(_usable(cls))

    def _check_use(self, given: Sequence[str], fixed: Fixed | None) -> None:
        """Refuses options that the method cannot use, or not beside the others.

        Raises:
            SettingError: There is one.
        """
        useless = [option for option in given if option not in _usable(type(self))]
        if self.error_order is None and (fixed is None or useless):
            raise SettingError(
                "the method has no error estimate, so it takes fixed steps: give step_size or num_steps"
                + (f", and not {', '.join(useless)}" if useless else "")
            )
        if useless:
            raise SettingError(f"the method does not support {', '.join(useless)}")
        stray = [option for option in given if fixed and option in CHOSEN]
        if stray:
            raise SettingError(
                f"fixed steps, of step_size or num_steps, have no use for {', '.join(stray)}; leave one out"
            )

    shows_steps = True

    @abstractmethod
    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> Stages:
        """What the steps of a solve are made of.

        Raises:
            StateError: The family cannot integrate such states.
        """

    def time_resolution(self, span: float) -> float:
        return self.control.time_resolution(span)

    def step_control(self, t0: float, t1: float) -> StepControl:
        """The control of the steps of a solve from t0 to t1."""
        return self.control.steps(t0, t1, self.error_order or self.order)

    def with_control(self, control: Fixed | Adaptive) -> Self:
        """This solver with another choice of steps.

        Raises:
            SettingError: The method cannot take such steps.
        """
        name = type(self).__name__
        if self.error_order is None and isinstance(control, Adaptive):
            raise SettingError(f"{name}: the method has no error estimate, so it takes fixed steps")
        if self.per_sample and isinstance(control, Fixed):
            raise SettingError(f"{name}: per_sample needs adaptive steps")
        solver = copy.copy(self)
        solver.control = control
        return solver

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        stages, control = self.stages(field, y0, observer.quadrature), self.step_control(float(t[0]), float(t[-1]))
        if observer.tape is None or not isinstance(stages, MemoryStages):
            return run(stages, control, y0, t, observer, self.jump_ts)
        memory = MemoryTape(observer.tape, stages)
        solution = run(stages, control, y0, t, replace(observer, tape=memory), self.jump_ts)
        memory.close()
        return solution


SIGNATURE = inspect.signature(Stepper.__init__)


def _usable(cls: type[Stepper]) -> set[str]:
    """The options that the methods of a class can use."""
    family = {"compile", "per_sample", "newton_tol"}.difference(cls.supports)
    useless = family.union(() if cls.orders else ("order",), ESTIMATED if cls.error_order is None else ())
    return set(SIGNATURE.parameters) - useless


def _narrowed(options: set[str]) -> Any:
    """The constructor of `Stepper` with only these options in its signature, for command lines and error messages."""
    original: Any = Stepper.__init__
    init: Any = FunctionType(
        original.__code__, original.__globals__, original.__name__, original.__defaults__, original.__closure__
    )
    init.__kwdefaults__ = original.__kwdefaults__
    parameters = [parameter for name, parameter in SIGNATURE.parameters.items() if name in options]
    init.__signature__ = SIGNATURE.replace(parameters=parameters)
    init.__annotations__ = {
        name: hint for name, hint in original.__annotations__.items() if name in {*options, "return"}
    }
    return init


@contextmanager
def naming(solver: str) -> Generator[None]:
    """Begins the message of a `SettingError` with the solver's name."""
    try:
        yield
    except SettingError as problem:
        raise SettingError(f"{solver}: {problem}") from problem


def _jumps(jump_ts: Sequence[float] | None) -> tuple[float, ...]:
    """The times at which the field jumps.

    Raises:
        SettingError: They are no numbers.
    """
    try:
        times = tuple(float(time) for time in (() if jump_ts is None else jump_ts))
    except (TypeError, ValueError) as problem:
        raise SettingError(f"jump_ts must be a list of times; got {jump_ts!r}") from problem
    if any(math.isnan(time) for time in times):
        raise SettingError(f"jump_ts must be a list of times; got {jump_ts!r}")
    return times
