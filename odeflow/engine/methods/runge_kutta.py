"""RungeKutta: explicit methods, each defined by its tableau."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.loop.compiled_run import Run
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.step.large import stages_of
from odeflow.engine.step.stages import Stages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature
from odeflow.errors import SettingError
from odeflow.plugin.plugin import required


class RungeKutta(Stepper):
    """An explicit Runge–Kutta method. Subclasses only set `tableau`.

    With embedded weights it is adaptive.

    Raises:
        SettingError: As in `Stepper`, or the tableau of a subclass is implicit.
    """

    tableau: ClassVar[Tableau] = required()
    supports = ("compile", "per_sample")
    straight = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "tableau" in vars(cls):
            cls.order, cls.error_order = cls.tableau.order, cls.tableau.error_order
            if cls.tableau.implicit:
                raise SettingError(f"{cls.__name__} is explicit, its tableau is not: subclass ImplicitRungeKutta")
        super().__init_subclass__(**kwargs)

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> Stages:
        return stages_of(self.tableau, field, y0, quadrature)

    def run(self, field: Field, y0: Tensor, t: Tensor, mesh: Mesh | None, differentiated: bool = False) -> Run | None:
        """A compiled solve, as of `CompiledSolves.run`; None if it must be solved uncompiled."""
        if self.compiled is None:
            return None
        control = self.step_control(float(t[0]), float(t[-1]))
        return self.compiled.run(self.tableau, control, field, y0, t, mesh, differentiated)

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        if not torch.is_grad_enabled() and observer == Observer(observer.mesh):
            run = self.run(field, y0, t, observer.mesh)
            if run is not None:
                return run.solution
        return super().integrate(field, y0, t, observer)
