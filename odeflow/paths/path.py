"""Path: a function of time."""

from abc import ABC, abstractmethod

from torch import Tensor


class Path(ABC):
    """A function of time u(t), batched: an external input of a vector field, or the control of a controlled equation.

    `Flow.trajectory(y0, t, context=path)` calls its field with [y, u(t)], ends a step at each of the path's `breaks`,
    and passes gradients to its `tensors`. With `odeflow.solve` the field evaluates the path itself; then give
    `params=path.tensors` and a solver with `jump_ts=path.breaks`.

    A path is pure: the same question has the same answer, so that steps can be rerun in a backward pass.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> t = torch.linspace(0, 10, 21)
        >>> force = of.paths.Linear(t, torch.sin(t).view(1, -1, 1))  # an input common to all samples
        >>> force(torch.tensor(0.25)).shape
        torch.Size([1, 1])
        >>> from odeflow_dynamics import MLP
        >>> from odeflow_solvers import Tsit5
        >>> flow = of.Flow(MLP(dim=2 + 1), Tsit5())  # the field of a state of size 2 and an input of size 1
        >>> flow.trajectory(torch.zeros(4, 2), [0.0, 5.0, 10.0], context=force).y.shape
        torch.Size([3, 4, 2])
    """

    breaks: tuple[float, ...] = ()
    """The times, in ascending order, at which the derivative jumps. A step of a solve must end at each."""
    continuous: bool = True
    """Whether the path itself does not jump. A continuous one needs no stops at the ends of a solve."""
    tensors: tuple[Tensor, ...] = ()
    """The tensors that the path is evaluated from, for gradients."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """u(t).

        Args:
            t: (), the time, or (B,), per-sample times.

        Returns:
            (B, c, …); B = 1 with t of shape () if the path is common to all samples.

        Raises:
            StateError: The number of times is not that of the samples.
        """

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """du/dt, shapes as of u(t). At a break it is the derivative on the right."""

    def increment(self, t0: Tensor, t1: Tensor) -> Tensor:
        """u(t₁) − u(t₀), shapes as of u(t)."""
        return self(t1) - self(t0)

    def stops(self, start: float, end: float) -> tuple[float, ...]:
        """The breaks at which a step of a solve from `start` to `end` must end."""
        first, last = min(start, end), max(start, end)
        inside = (time for time in self.breaks if first <= time <= last)
        return tuple(time for time in inside if not self.continuous or first < time < last)
