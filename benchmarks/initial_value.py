"""InitialValueProblem: what the solvers' own benchmarks solve, with scipy as the other side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

D = torch.float64


@dataclass(frozen=True)
class InitialValueProblem:
    """An initial value problem from t = 0.

    Attributes:
        name: What it is called.
        field: (t, y) ↦ dy/dt.
        y0: (d,), float64.
        end: Last time.
        part: Absolute tolerance as part of the relative one.
    """

    name: str
    field: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    end: float = 20.0
    part: float = 1.0

    def by_scipy(self, method: str, rtol: float, atol: float | None = None, t: Tensor | None = None) -> Any:
        """What scipy's `solve_ivp` returns.

        Args:
            method: Its method.
            rtol: The relative tolerance.
            atol: The absolute one; by default `part` of the relative one.
            t: (T,), the times wanted; by default those of its steps.
        """

        def field(t: float, y: np.ndarray) -> np.ndarray:
            return self.field(torch.tensor(t, dtype=D), torch.from_numpy(y)).numpy()

        atol, times = rtol * self.part if atol is None else atol, None if t is None else t.numpy()
        return solve_ivp(field, (0, self.end), self.y0.numpy(), method, times, rtol=rtol, atol=atol)


def states(solution: Any) -> Tensor:
    """(T, d), the states of a solution of scipy."""
    return torch.from_numpy(np.ascontiguousarray(solution.y.T))
