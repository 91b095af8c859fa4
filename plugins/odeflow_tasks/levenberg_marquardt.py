"""LevenbergMarquardt: nonlinear least squares."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import odeflow as of
from odeflow_tasks.sensitivity import Entry

SMALLEST_DAMPING = 1e-12
NEGLIGIBLE = 1e-14
"""Relative reduction of the sum of squares that is not worth a step."""
LARGEST_STEP = 2.0
"""Maximum change of an entry of a parameter in one step; logarithms of rates and initial states are of order 1."""


class LeastSquares(Protocol):
    """A task whose loss is half the sum of squared residuals of its last training batch, such as `Trajectory`."""

    fitted: Any

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name."""
        ...

    def residuals(self, batch: Any) -> Tensor:
        """(R,)."""
        ...

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        ...

    def linearised(self, batch: Any, entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
        """(R,) and (R, P), the residuals and their derivatives with respect to P entries of parameters."""
        ...


class LevenbergMarquardt(Optimizer):
    """Minimises ½‖r(θ)‖², the squares of the residuals of the task `Trajectory`. Every batch contains all data.

    A step solves (JᵀJ + λ diag JᵀJ) δ = −Jᵀr with the Jacobian J of the residuals. If δ reduces the sum of squares it
    is taken and the damping λ falls; otherwise, or if the equations cannot be solved there, λ rises and the step is
    tried again. A dozen steps do what thousands of steps of gradient descent do, but each takes a solve for every
    parameter: it is for equations with few parameters, not for networks.

    Source: Marquardt (1963), "An Algorithm for Least-Squares Estimation of Nonlinear Parameters", SIAM J. 11, 431–441.

    Args:
        params: The parameters.
        damping: The initial λ.
        tries: Maximum number of values of λ tried in a step.

    Raises:
        SettingError: An option is out of range.

    Example:
        >>> LevenbergMarquardt([nn.Parameter(torch.zeros(2))], damping=0.1).damping
        0.1
    """

    def __init__(self, params: Iterable[Any], damping: float = 1e-2, tries: int = 12) -> None:
        if not damping > 0 or tries < 1:
            raise of.SettingError(
                f"LevenbergMarquardt: damping must be positive and tries at least 1; got {damping} and {tries}"
            )
        super().__init__(params, {"lr": 1.0})
        self.damping, self.tries = damping, tries
        self.problem: LeastSquares | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step.

        Args:
            closure: Evaluates the loss of a batch.

        Returns:
            The loss before the step.

        Raises:
            SettingError: The task has no residuals.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.problem is None:
            raise of.SettingError(
                "LevenbergMarquardt minimises squared residuals, which the task Trajectory has; use Adam for others"
            )
        named = {name: part for name, part in self.problem.named_parameters() if part.requires_grad and part.numel()}
        entries = [(name, index) for name, part in named.items() for index in range(part.numel())]
        value, jacobian = self.problem.linearised(self.problem.fitted, entries)
        self._search([*named.values()], value, jacobian)
        return loss

    def _search(self, parameters: Sequence[Tensor], residuals: Tensor, jacobian: Tensor) -> None:
        """Moves the parameters by the first step that reduces the sum of squares, if there is one."""
        begun, sizes = [each.detach().clone() for each in parameters], [each.numel() for each in parameters]
        square = self._summed(residuals.square().sum())
        information, gradient = self._summed(jacobian.T @ jacobian), self._summed(jacobian.T @ residuals)
        for _ in range(self.tries):
            change = _solved(information, gradient, self.damping).clamp(-LARGEST_STEP, LARGEST_STEP)
            if -(gradient @ change) < NEGLIGIBLE * square:
                break
            for part, before, moved in zip(parameters, begun, change.split(sizes), strict=True):
                part.data = before + moved.view_as(part).to(part)
            if self._square() < square:
                self.damping = max(self.damping / 5, SMALLEST_DAMPING)
                return
            self.damping *= 4
        self.damping = min(self.damping, 1.0)
        for part, before in zip(parameters, begun, strict=True):
            part.data = before

    def _square(self) -> float:
        """The sum of squares; inf where there is no solution."""
        assert self.problem is not None
        try:
            with torch.no_grad():
                square = self.problem.residuals(self.problem.fitted).square().sum().nan_to_num(torch.inf)
        except of.SolveError:
            square = torch.tensor(torch.inf, device=self.param_groups[0]["params"][0].device)
        return float(self._summed(square))

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over all processes, so that all take the same step."""
        assert self.problem is not None
        return self.problem.summed(value)


def _solved(information: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """(P,), the step; 0 for parameters that do not matter."""
    diagonal = information.diagonal()
    scale = diagonal.where(diagonal > 0, 1.0).sqrt()
    matrix = information / scale / scale[:, None]
    damped = matrix + damping * torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
    return -torch.linalg.solve(damped, gradient / scale) / scale
