"""A solver and a vector field for odeflow."""

from odeflow_ralston.hamiltonian import Hamiltonian
from odeflow_ralston.ralston import Ralston

__all__ = ["Hamiltonian", "Ralston"]
