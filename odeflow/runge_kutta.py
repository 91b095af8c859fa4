"""RungeKutta and AdaptiveRungeKutta: a tableau is all that a method adds."""

import copy
import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor

from odeflow.clocks import OwnClocks
from odeflow.compiled import CompiledStages, CompiledSteps
from odeflow.errors import SettingError
from odeflow.field import SameNoise
from odeflow.per_sample import PerSample
from odeflow.solver import Jump, Quadrature, Solution, Solver, Tape
from odeflow.stages import stages_of
from odeflow.state import Field
from odeflow.stepping import SAME_STEP, ErrorControl, FixedSteps, StepControl, run
from odeflow.tableau import Tableau


class _Required:
    """A class attribute that concrete subclasses must set; ABCMeta reads the flag, as it does of abstract methods."""

    __isabstractmethod__ = True


def _required() -> Any:
    return _Required()


class ExplicitRungeKutta(Solver):
    """What methods with equal steps and with chosen ones share: subclass `RungeKutta` or `AdaptiveRungeKutta`.

    Args:
        compile: Whether `torch.compile` makes one call of each step, forwards and backwards.
    """

    tableau: ClassVar[Tableau] = _required()

    def __init__(self, compile: bool = False) -> None:  # noqa: A002
        self.compile, self.compiled_steps = compile, CompiledSteps()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls):
            cls.order = cls.tableau.order

    @abstractmethod
    def control(self, t0: float, t1: float) -> StepControl:
        """The control of the steps of a solve from t0 to t1."""

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        *,
        tape: Tape | None = None,
        quadrature: Quadrature | None = None,
        jump: Jump | None = None,
    ) -> Solution:
        if self.compile and isinstance(field, SameNoise):  # as `solve` gives it; gradients make fields for one solve
            stages = CompiledStages(self.tableau, field, self.compiled_steps)
        else:
            stages = stages_of(self.tableau, field, y0, quadrature)
        return run(stages, self.control(float(t[0]), float(t[-1])), y0, t, tape=tape, jump=jump)


class RungeKutta(ExplicitRungeKutta):
    """An explicit Runge–Kutta method with equal steps. Subclasses set `tableau`, and that is all.

    Args:
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        compile: Whether `torch.compile` makes one call of each step, forward and in the backward pass of `Backprop` and
            `Checkpointed`. Pays where many solves are of small states: compiling takes up to a minute.

    Raises:
        SettingError: Neither or both were given, or not positive.
    """

    def __init__(
        self,
        step_size: float | None = None,
        num_steps: int | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        super().__init__(compile)
        if (step_size is None) == (num_steps is None):
            given = "neither" if step_size is None else "both"
            raise SettingError(f"{type(self).__name__} needs either step_size or num_steps; {given} was given")
        for name, value in {"step_size": step_size, "num_steps": num_steps}.items():
            if value is not None and not value > 0:
                raise SettingError(f"{type(self).__name__}: {name} must be positive; got {value}")
        self.step_size, self.num_steps = step_size, num_steps

    def control(self, t0: float, t1: float) -> StepControl:
        span = abs(t1 - t0)
        return FixedSteps(t0, t1, self.num_steps or max(1, math.ceil(span / (self.step_size or span) - SAME_STEP)))


class AdaptiveRungeKutta(ExplicitRungeKutta):
    """An explicit Runge–Kutta pair with error control. Subclasses set `tableau`, with embedded weights.

    Args:
        rtol: Relative tolerance of one step's error.
        atol: Absolute tolerance, in the state's unit.
        first_step: Size of the first step, in the field's time; chosen from the field by default.
        min_step: Smallest step; below it the solve fails. 0: as small as the time's floating point allows.
        max_step: Largest step; unbounded by default.
        max_steps: Largest number of attempted steps.
        compile: Whether `torch.compile` makes one call of each step, forward and in the backward pass of `Backprop` and
            `Checkpointed`. Pays where many solves are of small states: compiling takes up to a minute.
        per_sample: Whether each sample has its own clock, step size and accepted steps, so that its solution does not
            depend on the rest of the batch. The field is then called with t of shape (b,) and y of shape (b, *state),
            and may be called with some samples only.

    Raises:
        SettingError: A value is out of range, or both `compile` and `per_sample` are set.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        compile: bool = False,  # noqa: A002
        per_sample: bool = False,
    ) -> None:
        super().__init__(compile)
        name = type(self).__name__
        if compile and per_sample:
            raise SettingError(f"{name}: steps of each sample's own are not compiled; set compile or per_sample")
        if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
            raise SettingError(f"{name}: rtol and atol must not be negative, nor both 0; got {rtol} and {atol}")
        for option, value in {"first_step": first_step, "max_step": max_step, "max_steps": max_steps}.items():
            if value is not None and not value > 0:
                raise SettingError(f"{name}: {option} must be positive; got {value}")
        if not 0 <= min_step <= (max_step or math.inf):
            raise SettingError(f"{name}: min_step must lie between 0 and max_step; got {min_step}")
        self.rtol, self.atol, self.per_sample = rtol, atol, per_sample
        self.first_step, self.min_step, self.max_step, self.max_steps = first_step, min_step, max_step, max_steps

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls) and cls.tableau.embedded_order is None:
            raise SettingError(f"{cls.__name__} adapts its steps, so its tableau needs b_embedded and embedded_order")

    def starting_with(self, first_step: float) -> Self:
        """This solver with another first step."""
        solver = copy.copy(self)
        solver.first_step = first_step
        return solver

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        *,
        tape: Tape | None = None,
        quadrature: Quadrature | None = None,
        jump: Jump | None = None,
    ) -> Solution:
        if not self.per_sample or quadrature is not None or jump is not None:  # an adjoint equation is solved jointly
            return super().integrate(field, y0, t, tape=tape, quadrature=quadrature, jump=jump)
        return PerSample(self.tableau, self.control(0.0, 0.0), OwnClocks(field), tape).solve(y0, t)

    def control(self, t0: float, t1: float) -> ErrorControl:
        return ErrorControl(
            rtol=self.rtol,
            atol=self.atol,
            order=min(self.order, self.tableau.embedded_order or 0),
            first_step=self.first_step,
            min_step=self.min_step,
            max_step=self.max_step or math.inf,
            max_steps=self.max_steps,
        )
