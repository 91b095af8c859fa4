"""Stepper: the base of all solvers that use the integration loop, with their common options."""

import copy
import inspect
import math
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import FunctionType
from typing import Any, ClassVar, Self

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.adaptive import MOST_ADAPTIVE, Adaptive, ErrorPer, Norm
from odeflow.engine.loop.compiled import CompiledSolves
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.controller import Gains
from odeflow.engine.loop.fixed import MOST_FIXED, Fixed
from odeflow.engine.loop.integrate import run
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.step.per_sample import SampleStages
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature
from odeflow.errors import SettingError

ESTIMATED = (*(field.name for field in fields(Adaptive) if field.name != "max_steps"), "per_sample")
"""Options of methods with an error estimate."""
CHOSEN = tuple(option for option in ESTIMATED if option not in ("rtol", "atol"))
"""Options that contradict a fixed step size. The tolerances are allowed but unused."""
NOT_COMPILED = "needs compile=False: compiled solves have one clock and know no jumps"


class Stepper(Solver):
    """A solver that takes steps. The family of methods defines a step; the step size control defines its size.

    A method with an error estimate is adaptive unless `step_size` or `num_steps` is given; a method without one has a
    fixed step size. The signature of each class contains the options that its methods support.

    A family implements `stages` and declares by `required` what its methods set, as `RungeKutta` does `tableau`. Each
    method has an `order`, and an `error_order` if its stages implement `error`.

    Example:
        >>> class ForwardEuler(of.Stepper):
        ...     order = 1
        ...
        ...     def stages(self, field, y0, quadrature):
        ...         return EulerStages(self.order, field, quadrature)  # see `MemoryStages`

    Args:
        rtol: Relative tolerance of the local error.
        atol: Absolute tolerance, in the unit of the state.
        step_size: Fixed step size, in the field's time. The interval is divided into the fewest
            equal steps not larger than this.
        num_steps: Number of steps between the first and the last time; an alternative to `step_size`.
        first_step: Initial step size, in the field's time; selected automatically by default.
        min_step: Minimum step size; the solve fails below it. 0: limited by floating-point resolution only.
        max_step: Maximum step size; unbounded by default.
        max_steps: Maximum number of attempted steps; by default 10,000, with a fixed step size 1,000,000.
        controller: The step size controller: "I", which uses only the last error; "PI" or "PID", which give smoother
            step sizes; or the gains (β₁, β₂, β₃) of such a controller (see `Controller`).
        norm: The norm of the scaled error, which must be at most 1: "rms", the root mean square over the whole state;
            "max_sample", the largest root mean square of a sample, so that the batch does not average out its error.
            The latter requires a single Tensor (B, d, …) as state. With `per_sample` each sample has its own norm.
        error_per: What the tolerances bound: "step", the local error of each step; "span", the sum of all local errors
            ("error per unit step"), so that the global error is at most about the tolerance times the problem's error
            amplification.
        jump_ts: Times at which the field is discontinuous. A step ends at each (a fixed step size then takes one more
            step), and each step evaluates the field only on its own side.
        compile: Whether to run each solve as one program, compiled, and its backward pass, for
            `Backprop` and `Checkpointed`, as another. Pays off for many solves of small states of the same shape:
            compilation takes up to a minute each, seconds if it is in the compiler's cache on disk. What cannot be
            compiled is solved uncompiled, with a warning that says why.
        per_sample: Whether each sample has its own clock, step size and accepted steps, so that its solution does not
            depend on the rest of the batch. The field is then called with t of shape (b,) and y of shape (b, *state),
            possibly for a subset of the samples.
        newton_tol: Tolerance ε of Newton's iteration for implicit stages: its error is at most ε·(1 + |y|) entrywise.
            By default 1e-10 for a fixed step size; for an adaptive one the fraction √rtol, at most 0.03, of the
            tolerances. Gradients are those of the exact stage equations, so smaller values make them more accurate.
        order: Order of the method, for families with several.

    Raises:
        SettingError: A value is out of range, the method does not support an option, or options contradict each other.
    """

    error_order: int | None = None
    """Order q of the less accurate solution of the pair; None without an error estimate."""
    orders: ClassVar[range] = range(0)
    """Valid values of the option `order`."""
    supports: ClassVar[tuple[str, ...]] = ()
    """The family-specific options supported: "compile", "per_sample", "newton_tol"."""
    straight: ClassVar[bool] = False
    """Whether fixed steps are straight code, without decisions that depend on values: `torch.export` can record it."""
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
        max_steps: int | None = None,
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
            if max_steps is not None and max_steps < 1:
                raise SettingError(f"max_steps must be positive; got {max_steps}")
            fixed = None
            if step_size is not None or num_steps is not None:
                fixed = Fixed(step_size, num_steps, max_steps or MOST_FIXED)
            most = max_steps or MOST_ADAPTIVE
            adaptive = Adaptive(rtol, atol, first_step, min_step, max_step, most, controller, norm, error_per)
            family = {"compile": compile, "per_sample": per_sample, "newton_tol": newton_tol, "order": order}
            values = {**vars(adaptive), **family}
            del values["max_steps"]  # which every method supports
            given = [option for option, value in values.items() if value != SIGNATURE.parameters[option].default]
            self._check_use(given, fixed)
            self.jump_ts = _jumps(jump_ts)
            if compile and (jump_ts or per_sample):
                other = "jump_ts" if jump_ts else "per_sample"
                raise SettingError(f"{other} {NOT_COMPILED}")
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
        self.compiled = CompiledSolves() if compile else None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__init__.__code__ is Stepper.__init__.__code__:  # no constructor of its own
            cls.__init__ = _narrowed(_usable(cls))

    def _check_use(self, given: Sequence[str], fixed: Fixed | None) -> None:
        """Rejects unsupported options and contradictory ones.

        Raises:
            SettingError: The method does not support an option, or not in combination with the others.
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
        """The stages of the steps of a solve, new ones for each solve.

        Args:
            field: The vector field.
            y0: (*state), the initial state; a tuple state is one flat tensor here.
            quadrature: Accumulates integrals of the field's side results, if any; the stages take it.

        Raises:
            StateError: The family does not support such states.
        """

    def time_resolution(self, span: float) -> float:
        return self.control.time_resolution(span)

    def step_control(self, t0: float, t1: float, field: Field | None = None) -> StepControl:
        """The step size control of a solve from t0 to t1."""
        return self.control.steps(t0, t1, self.error_order or self.order)

    def with_control(self, control: Fixed | Adaptive) -> Self:
        """This solver with other step size options.

        Raises:
            SettingError: The method does not support them.
        """
        name = type(self).__name__
        if self.error_order is None and isinstance(control, Adaptive):
            raise SettingError(f"{name}: the method has no error estimate, so it takes fixed steps")
        if self.per_sample and isinstance(control, Fixed):
            raise SettingError(f"{name}: per_sample needs adaptive steps")
        solver = copy.copy(self)
        solver.control = control
        return solver

    def stopping_at(self, times: Sequence[float]) -> Self:
        if self.compiled is not None:
            raise SettingError(f"{type(self).__name__}: a path with breaks, as at t = {times[0]:g}, {NOT_COMPILED}")
        solver = copy.copy(self)
        solver.jump_ts = tuple(sorted({*self.jump_ts, *times}))
        return solver

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        stages = self.stages(field, y0, observer.quadrature)
        control = self.step_control(float(t[..., 0].min()), float(t[..., -1].max()), field)
        if self.per_sample and observer.quadrature is None and observer.jump is None:  # an adjoint is solved jointly
            stages = SampleStages(stages)
        return run(stages, control, y0, t, observer, self.jump_ts)


SIGNATURE = inspect.signature(Stepper.__init__)


def _usable(cls: type[Stepper]) -> set[str]:
    """The options that the methods of a class support."""
    family = {"compile", "per_sample", "newton_tol"}.difference(cls.supports)
    useless = family.union(() if cls.orders else ("order",), ESTIMATED if cls.error_order is None else ())
    return set(SIGNATURE.parameters) - useless


def _narrowed(options: set[str]) -> Any:
    """The constructor of `Stepper` with its signature restricted to these options, for command line and messages."""
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
    """Prefixes the message of a `SettingError` with the solver's name."""
    try:
        yield
    except SettingError as problem:
        raise SettingError(f"{solver}: {problem}") from problem


def _jumps(jump_ts: Sequence[float] | None) -> tuple[float, ...]:
    """The times at which the field is discontinuous.

    Raises:
        SettingError: The times are not finite numbers.
    """
    try:
        times = tuple(float(time) for time in (() if jump_ts is None else jump_ts))
    except (TypeError, ValueError) as problem:
        raise SettingError(f"jump_ts must be a list of times; got {jump_ts!r}") from problem
    if any(math.isnan(time) for time in times):
        raise SettingError(f"jump_ts must be a list of times; got {jump_ts!r}")
    return times
