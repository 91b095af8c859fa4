"""odeflow: a plugin-based modelling framework for neural differential equations on PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odeflow.bijection import Bijection as Bijection
    from odeflow.bijection import Logit as Logit
    from odeflow.bijection import MovingBatchNorm as MovingBatchNorm
    from odeflow.bijection import Planar as Planar
    from odeflow.checkpoint import load as load
    from odeflow.cnf import CNF as CNF
    from odeflow.data import DataModule as DataModule
    from odeflow.data import Series as Series
    from odeflow.data import Trajectories as Trajectories
    from odeflow.diagnosis import Diagnosis as Diagnosis
    from odeflow.diagnosis import diagnose as diagnose
    from odeflow.divergence import Divergence as Divergence
    from odeflow.divergence import Exact as Exact
    from odeflow.divergence import Hutchinson as Hutchinson
    from odeflow.divergence import HutchPlusPlus as HutchPlusPlus
    from odeflow.dynamics import Dynamics as Dynamics
    from odeflow.dynamics import Modifier as Modifier
    from odeflow.errors import CheckpointError as CheckpointError
    from odeflow.errors import ConformanceError as ConformanceError
    from odeflow.errors import DataError as DataError
    from odeflow.errors import GradientError as GradientError
    from odeflow.errors import OdeflowError as OdeflowError
    from odeflow.errors import PluginError as PluginError
    from odeflow.errors import RecipeError as RecipeError
    from odeflow.errors import SettingError as SettingError
    from odeflow.errors import SolveError as SolveError
    from odeflow.errors import StateError as StateError
    from odeflow.errors import TableauError as TableauError
    from odeflow.event import Crossings as Crossings
    from odeflow.event import Event as Event
    from odeflow.flow import Flow as Flow
    from odeflow.flow import solve as solve
    from odeflow.gradient import Adjoint as Adjoint
    from odeflow.gradient import Backprop as Backprop
    from odeflow.gradient import Checkpointed as Checkpointed
    from odeflow.gradient import Gradient as Gradient
    from odeflow.gradient import InterpolatedAdjoint as InterpolatedAdjoint
    from odeflow.gradient import Reversible as Reversible
    from odeflow.implicit import AdaptiveImplicitRungeKutta as AdaptiveImplicitRungeKutta
    from odeflow.implicit import ImplicitRungeKutta as ImplicitRungeKutta
    from odeflow.marginals import Marginals as Marginals
    from odeflow.multistep import Multistep as Multistep
    from odeflow.plugin import Plugin as Plugin
    from odeflow.plugin import check_least as check_least
    from odeflow.regularization import Jacobian as Jacobian
    from odeflow.regularization import Kinetic as Kinetic
    from odeflow.regularization import Regularizer as Regularizer
    from odeflow.regularization import Taylor as Taylor
    from odeflow.rosenbrock import Rosenbrock as Rosenbrock
    from odeflow.rosenbrock import RosenbrockTableau as RosenbrockTableau
    from odeflow.runge_kutta import AdaptiveRungeKutta as AdaptiveRungeKutta
    from odeflow.runge_kutta import RungeKutta as RungeKutta
    from odeflow.solver import Solution as Solution
    from odeflow.solver import Solver as Solver
    from odeflow.solver import Stats as Stats
    from odeflow.symplectic import Symplectic as Symplectic
    from odeflow.tableau import Tableau as Tableau
    from odeflow.task import Task as Task
    from odeflow.units import Units as Units

__version__ = "0.1.0"

_HOMES = {
    "bijection": ("Bijection", "Logit", "MovingBatchNorm", "Planar"),
    "checkpoint": ("load",),
    "cnf": ("CNF",),
    "data": ("DataModule", "Series", "Trajectories"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "divergence": ("Divergence", "Exact", "HutchPlusPlus", "Hutchinson"),
    "dynamics": ("Dynamics", "Modifier"),
    "errors": (
        "CheckpointError",
        "ConformanceError",
        "DataError",
        "GradientError",
        "OdeflowError",
        "PluginError",
        "RecipeError",
        "SettingError",
        "SolveError",
        "StateError",
        "TableauError",
    ),
    "event": ("Crossings", "Event"),
    "flow": ("Flow", "solve"),
    "gradient": ("Adjoint", "Backprop", "Checkpointed", "Gradient", "InterpolatedAdjoint", "Reversible"),
    "marginals": ("Marginals",),
    "implicit": ("AdaptiveImplicitRungeKutta", "ImplicitRungeKutta"),
    "multistep": ("Multistep",),
    "plugin": ("Plugin", "check_least"),
    "regularization": ("Jacobian", "Kinetic", "Regularizer", "Taylor"),
    "rosenbrock": ("Rosenbrock", "RosenbrockTableau"),
    "runge_kutta": ("AdaptiveRungeKutta", "RungeKutta"),
    "solver": ("Solution", "Solver", "Stats"),
    "symplectic": ("Symplectic",),
    "tableau": ("Tableau",),
    "task": ("Task",),
    "units": ("Units",),
}
_HOME_OF = {name: f"odeflow.{home}" for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import odeflow` alone costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'odeflow' has no attribute {name!r}; public names: {', '.join(_HOME_OF)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
