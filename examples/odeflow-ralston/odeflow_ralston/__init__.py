"""A solver and a vector field for odeflow."""

from odeflow_ralston.hamiltonian import Hamiltonian
from odeflow_ralston.ralston3 import Ralston3

__all__ = ["Hamiltonian", "Ralston3"]
