"""RungeKutta and AdaptiveRungeKutta: a tableau is all that a method adds."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from odeflow.engine.equation.field import SameNoise
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.control import ErrorPer, Norm
from odeflow.engine.loop.controller import Gains
from odeflow.engine.loop.per_sample.stepping import PerSample
from odeflow.engine.loop.stepper import AdaptiveStepper, FixedStepper, Stepper
from odeflow.engine.output.solution import Solution
from odeflow.engine.step.compiled import CompiledStages, CompiledSteps
from odeflow.engine.step.stages import Stages, stages_of
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature
from odeflow.errors import SettingError
from odeflow.plugin.plugin import required


class ExplicitRungeKutta(Stepper):
    """What methods with equal steps and with chosen ones share: subclass `RungeKutta` or `AdaptiveRungeKutta`.

    Args:
        compile: Whether `torch.compile` makes one call of each step, forwards and backwards.
        jump_ts: Times at which the field jumps, where a step ends.

    Raises:
        SettingError: Compiled steps cannot end where the field jumps.
    """

    tableau: ClassVar[Tableau] = required()

    def __init__(self, compile: bool, jump_ts: Sequence[float] | None) -> None:  # noqa: A002
        if compile and jump_ts:
            raise SettingError(f"{type(self).__name__}: jump_ts needs compile=False: it chooses a side at every stage")
        self.compile, self.compiled_steps = compile, CompiledSteps()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls):
            cls.order = cls.tableau.order
            if cls.tableau.implicit:
                raise SettingError(f"{cls.__name__} is explicit, its tableau is not: subclass ImplicitRungeKutta")

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> Stages:
        if self.compile and isinstance(field, SameNoise):  # as `solve` gives it; gradients make fields for one solve
            return CompiledStages(self.tableau, field, self.compiled_steps)
        return stages_of(self.tableau, field, y0, quadrature)


class RungeKutta(ExplicitRungeKutta, FixedStepper):
    """An explicit Runge–Kutta method with equal steps. Subclasses set `tableau`, and that is all.

    Args:
        step_size: Size of a step, in the field's time. The interval is divided into the fewest equal steps that are
            not larger.
        num_steps: Number of steps between the first and the last time; the other way to say it.
        jump_ts: Times at which the field jumps. A step ends at each, one more than without, and the field is evaluated
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
        jump_ts: Sequence[float] | None = None,
    ) -> None:
        ExplicitRungeKutta.__init__(self, compile, jump_ts)
        FixedStepper.__init__(self, step_size, num_steps, jump_ts)


class AdaptiveRungeKutta(ExplicitRungeKutta, AdaptiveStepper):
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
            latter needs a state of one Tensor (B, d, …). With `per_sample` it is each sample's own in either case.
        error_per: What the tolerances bound: "step", the error of each step; "span", the errors of all steps in sum, so
            that the error at the end is about the tolerance times what the problem amplifies, or less ("error per unit
            step").
        jump_ts: Times at which the field jumps. A step ends at each, and the field is evaluated on its own side of it
            throughout.
        compile: Whether `torch.compile` makes one call of each step, forward and in the backward pass of `Backprop` and
            `Checkpointed`. Pays where many solves are of small states: compiling takes up to a minute.
        per_sample: Whether each sample has its own clock, step size and accepted steps, so that its solution does not
            depend on the rest of the batch. The field is then called with t of shape (b,) and y of shape (b, *state),
            and may be called with some samples only.

    Raises:
        SettingError: A value is out of range, or both `compile` and `per_sample` were set.
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
        jump_ts: Sequence[float] | None = None,
        per_sample: bool = False,
        error_per: ErrorPer = "step",
    ) -> None:
        ExplicitRungeKutta.__init__(self, compile, jump_ts)
        AdaptiveStepper.__init__(
            self, rtol, atol, first_step, min_step, max_step, max_steps, controller, norm, error_per, jump_ts
        )
        if per_sample and compile:
            raise SettingError(f"{type(self).__name__}: per_sample=True does not go with compile; leave one out")
        self.per_sample = per_sample

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls) and cls.tableau.embedded_order is None:
            raise SettingError(f"{cls.__name__} adapts its steps, so its tableau needs b_embedded and embedded_order")

    @property
    def error_order(self) -> int:
        return min(self.order, self.tableau.embedded_order or 0)

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        adjoint = observer.quadrature is not None or observer.jump is not None  # whose equation is solved jointly
        if adjoint or not self.per_sample:
            return super().integrate(field, y0, t, observer)
        return PerSample(self.tableau, self.control(0.0, 0.0), field, y0, t, observer, self.jump_ts).solve()
