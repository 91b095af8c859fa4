"""The ways to differentiate through a solve, one file each."""

from odeflow.gradient.adjoint import Adjoint, InterpolatedAdjoint
from odeflow.gradient.backprop import Backprop
from odeflow.gradient.base import Gradient
from odeflow.gradient.checkpointed import Checkpointed
from odeflow.gradient.reversible import Reversible

__all__ = ["Adjoint", "Backprop", "Checkpointed", "Gradient", "InterpolatedAdjoint", "Reversible"]
