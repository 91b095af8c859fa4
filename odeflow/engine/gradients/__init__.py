"""Gradient methods, one file each."""

from odeflow.engine.gradients.adjoint import Adjoint
from odeflow.engine.gradients.backprop import Backprop
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.gradients.checkpointed import Checkpointed
from odeflow.engine.gradients.interpolated_adjoint import InterpolatedAdjoint
from odeflow.engine.gradients.reversible import Reversible

__all__ = ["Adjoint", "Backprop", "Checkpointed", "Gradient", "InterpolatedAdjoint", "Reversible", "with_backward"]
