"""RungeKutta and AdaptiveRungeKutta: a tableau is all that a method adds."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from odeflow.compiled import CompiledStages, CompiledSteps
from odeflow.controller import Controller, Gains
from odeflow.errors import SettingError
from odeflow.field import SameNoise
from odeflow.solver import Jump, Quadrature, Solution, Solver, Tape
from odeflow.stages import stages_of
from odeflow.state import Field
from odeflow.stepping import SAME_STEP, ErrorControl, FixedSteps, Norm, StepControl, run
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
        step_at: Times at which the field jumps, where a step ends.

    Raises:
        SettingError: Compiled steps cannot end where the field jumps.
    """

    tableau: ClassVar[Tableau] = _required()

    def __init__(self, compile: bool = False, step_at: Sequence[float] = ()) -> None:  # noqa: A002
        if compile and step_at:
            raise SettingError(f"{type(self).__name__}: step_at needs compile=False: it chooses a side at every stage")
        self.compile, self.compiled_steps = compile, CompiledSteps()
        self.step_at = tuple(step_at)

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
        return run(stages, self.control(float(t[0]), float(t[-1])), y0, t, tape=tape, jump=jump, step_at=self.step_at)


class RungeKutta(ExplicitRungeKutta):
    """An explicit Runge–Kutta method with equal steps. Subclasses set `tableau`, and that is all.

    Args:
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        step_at: Times at which the field jumps. A step ends at each, one more than without, and the field is evaluated
            on its own side of it throughout.
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
        step_at: Sequence[float] = (),
    ) -> None:
        super().__init__(compile, step_at)
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
        controller: How the next step's size follows from the errors of the last: "I", by the last alone; "PI" and
            "PID", which make the sizes smoother; or the gains (β₁, β₂, β₃) of such a controller (see `Controller`).
        norm: What of a step's scaled error must be at most 1: "rms", the root mean square over everything;
            "max_sample", the largest of the samples' root mean squares, so that a batch mate cannot hide an error. The
            latter needs a state of one Tensor (B, d, …).
        step_at: Times at which the field jumps. A step ends at each, and the field is evaluated on its own side of it
            throughout.
        compile: Whether `torch.compile` makes one call of each step, forward and in the backward pass of `Backprop` and
            `Checkpointed`. Pays where many solves are of small states: compiling takes up to a minute.

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
        compile: bool = False,  # noqa: A002
        controller: Gains = "I",
        norm: Norm = "rms",
        step_at: Sequence[float] = (),
    ) -> None:
        super().__init__(compile, step_at)
        name = type(self).__name__
        if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
            raise SettingError(f"{name}: rtol and atol must not be negative, nor both 0; got {rtol} and {atol}")
        for option, value in {"first_step": first_step, "max_step": max_step, "max_steps": max_steps}.items():
            if value is not None and not value > 0:
                raise SettingError(f"{name}: {option} must be positive; got {value}")
        if not 0 <= min_step <= (max_step or math.inf):
            raise SettingError(f"{name}: min_step must lie between 0 and max_step; got {min_step}")
        if norm not in ("rms", "max_sample"):
            raise SettingError(f"{name}: norm must be 'rms' or 'max_sample'; got {norm!r}")
        Controller(controller, self.order)  # refuses what is none
        self.rtol, self.atol = rtol, atol
        self.controller: Gains = controller
        self.norm: Norm = norm
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

    def control(self, t0: float, t1: float) -> StepControl:
        return ErrorControl(
            rtol=self.rtol,
            atol=self.atol,
            order=min(self.order, self.tableau.embedded_order or 0),
            first_step=self.first_step,
            min_step=self.min_step,
            max_step=self.max_step or math.inf,
            max_steps=self.max_steps,
            controller=self.controller,
            norm=self.norm,
        )
