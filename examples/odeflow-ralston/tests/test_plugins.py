"""The plugins keep the laws of their kinds."""

import pytest
import torch
from odeflow_ralston import Hamiltonian, Ralston3

from odeflow.testing import Check, dynamics_checks, solver_checks


@pytest.mark.parametrize("check", solver_checks(Ralston3), ids=str)
def test_ralston3(check: Check) -> None:
    """Order, both directions of time, dtype, tuples, batches, dense output, gradients, statistics."""
    check()


@pytest.mark.parametrize("check", dynamics_checks(Hamiltonian(dim=4), torch.randn(3, 4)), ids=str)
def test_hamiltonian(check: Check) -> None:
    """Shape, samples apart, gradients, the spec."""
    check()
