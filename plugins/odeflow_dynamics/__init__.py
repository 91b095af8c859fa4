"""The vector fields that come with odeflow, one file each."""

from odeflow_dynamics.convnet import ConvNet
from odeflow_dynamics.mlp import MLP

__all__ = ["MLP", "ConvNet"]
