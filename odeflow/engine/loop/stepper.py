"""Stepper: solvers that go through the one loop over steps, of equal size or under error control."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.control import SAME_STEP, ErrorControl, ErrorPer, FixedSteps, Norm, StepControl
from odeflow.engine.loop.controller import Controller, Gains
from odeflow.engine.loop.integrate import run
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.step.carried import MemoryStages, MemoryTape
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature
from odeflow.errors import SettingError


class Stepper(Solver):
    """A solver made of steps: a family of methods says what one is, `FixedStepper` or `AdaptiveStepper` how large."""

    shows_steps = True

    @abstractmethod
    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> Stages:
        """What the steps of a solve are made of.

        Raises:
            StateError: The family cannot integrate such states.
        """

    @abstractmethod
    def control(self, t0: float, t1: float) -> StepControl:
        """The control of the steps of a solve from t0 to t1."""

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        stages, control = self.stages(field, y0, observer.quadrature), self.control(float(t[0]), float(t[-1]))
        if observer.tape is None or not isinstance(stages, MemoryStages):
            return run(stages, control, y0, t, observer, self.jump_ts)
        memory = MemoryTape(observer.tape, stages)
        solution = run(stages, control, y0, t, replace(observer, tape=memory), self.jump_ts)
        memory.close()
        return solution


def check_tolerances(name: str, rtol: float, atol: float) -> None:
    """Refuses tolerances that bound no error.

    Args:
        name: Of the solver, for the message.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        SettingError: One is negative, both are 0, or rtol allows an error of the solution's own size.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingError(f"{name}: rtol and atol must not be negative, nor both 0; got {rtol} and {atol}")
    if not rtol < 1:
        raise SettingError(f"{name}: rtol must be below 1, the error of no solution at all; got {rtol}")


def _jumps(name: str, jump_ts: Sequence[float] | None) -> tuple[float, ...]:
    """The times at which the field jumps.

    Raises:
        SettingError: They are no numbers.
    """
    try:
        times = tuple(float(time) for time in (() if jump_ts is None else jump_ts))
    except (TypeError, ValueError) as problem:
        raise SettingError(f"{name}: jump_ts must be a list of times; got {jump_ts!r}") from problem
    if any(math.isnan(time) for time in times):
        raise SettingError(f"{name}: jump_ts must be a list of times; got {jump_ts!r}")
    return times


class FixedStepper(Stepper):
    """Equal steps.

    Args:
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        jump_ts: Times at which the field jumps. A step ends at each, one more than without, and the field is evaluated
            on its own side of it throughout.

    Raises:
        SettingError: Neither or both of the first two were given, or not positive.
    """

    def __init__(
        self, step_size: float | None = None, num_steps: int | None = None, jump_ts: Sequence[float] | None = None
    ) -> None:
        if (step_size is None) == (num_steps is None):
            given = "neither" if step_size is None else "both"
            raise SettingError(f"{type(self).__name__} needs either step_size or num_steps; {given} was given")
        for name, value in {"step_size": step_size, "num_steps": num_steps}.items():
            if value is not None and not value > 0:
                raise SettingError(f"{type(self).__name__}: {name} must be positive; got {value}")
        self.step_size, self.num_steps = step_size, num_steps
        self.jump_ts = _jumps(type(self).__name__, jump_ts)

    def time_resolution(self, span: float) -> float:
        return 1e-3 * span / self._count(span)

    def control(self, t0: float, t1: float) -> StepControl:
        return FixedSteps(t0, t1, self._count(abs(t1 - t0)))

    def _count(self, span: float) -> int:
        return self.num_steps or max(1, math.ceil(span / (self.step_size or span) - SAME_STEP))


class AdaptiveStepper(Stepper):
    """Steps under error control.

    Args:
        rtol: Relative tolerance of one step's error.
        atol: Absolute tolerance, in the state's unit.
        first_step: Size of the first step, in the field's time; chosen from the field by default.
        min_step: Smallest step; below it the solve fails. 0: as small as the time's floating point allows.
        max_step: Largest step; unbounded by default.
        max_steps: Largest number of attempted steps.
        controller: How the next step's size follows from the errors: "I", "PI", "PID", or up to three gains.
        norm: Of the error: "rms", the root mean square over the whole state; "max_sample", the largest of the samples'.
        error_per: What the tolerances bound: "step", the error of each step; "span", the errors of all steps in sum, so
            that the error at the end is about the tolerance times what the problem amplifies, or less ("error per unit
            step").
        jump_ts: Times at which the field jumps. A step ends at each, and the field is evaluated on its own side of it
            throughout.

    Raises:
        SettingError: A value is out of range.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        controller: Gains = "I",
        norm: Norm = "rms",
        error_per: ErrorPer = "step",
        jump_ts: Sequence[float] | None = None,
    ) -> None:
        name = type(self).__name__
        check_tolerances(name, rtol, atol)
        for option, value in {"first_step": first_step, "max_step": max_step, "max_steps": max_steps}.items():
            if value is not None and not value > 0:
                raise SettingError(f"{name}: {option} must be positive; got {value}")
        if not 0 <= min_step <= (max_step or math.inf):
            raise SettingError(f"{name}: min_step must lie between 0 and max_step; got {min_step}")
        if norm not in ("rms", "max_sample"):
            raise SettingError(f"{name}: norm must be 'rms' or 'max_sample'; got {norm!r}")
        if error_per not in ("step", "span"):
            raise SettingError(f"{name}: error_per must be 'step' or 'span'; got {error_per!r}")
        Controller(controller, self.order)  # refuses what is none
        self.rtol, self.atol = rtol, atol
        self.controller: Gains = controller
        self.norm: Norm = norm
        self.error_per: ErrorPer = error_per
        self.jump_ts = _jumps(name, jump_ts)
        self.first_step, self.min_step, self.max_step, self.max_steps = first_step, min_step, max_step, max_steps

    @property
    @abstractmethod
    def error_order(self) -> int:
        """Order q of the weaker of the two solutions whose difference is the error."""

    def time_resolution(self, span: float) -> float:
        return 10 * (self.rtol or self.atol) * span

    def starting_with(self, first_step: float) -> Self:
        """This solver with another first step."""
        solver = copy.copy(self)
        solver.first_step = first_step
        return solver

    def control(self, t0: float, t1: float) -> ErrorControl:
        return ErrorControl(
            rtol=self.rtol,
            atol=self.atol,
            order=self.error_order,
            first_step=self.first_step,
            min_step=self.min_step,
            max_step=self.max_step or math.inf,
            max_steps=self.max_steps,
            controller=self.controller,
            norm=self.norm,
            error_per=self.error_per,
        )
