"""StochasticSolver: methods for stochastic equations."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.equation import (
    Calculus,
    Equation,
    Noise,
    StochasticField,
    first_leaf,
)
from odeflow.engine.equation.forward_mode import along
from odeflow.engine.equation.jacobian import separating
from odeflow.engine.equation.state import Field, State
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.control import StepControl
from odeflow.engine.loop.fixed import Fixed, FixedSteps
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.methods.stochastic_control import StochasticControl
from odeflow.engine.step.carried import MemoryStages
from odeflow.engine.tape import Quadrature
from odeflow.errors import SettingError
from odeflow.paths.brownian import Brownian
from odeflow.paths.brownian_grid import BrownianGrid
from odeflow.paths.brownian_tree import BrownianTree
from odeflow.plugin.plugin import required

SAME_POINT = 1e-3  # of a step: the distance of an output time that is a grid point

SUGGESTED: dict[tuple[Noise, Calculus], str] = {
    ("diagonal", "ito"): "Milstein or EulerMaruyama",
    ("scalar", "ito"): "Milstein or EulerMaruyama",
    ("general", "ito"): "EulerMaruyama",
    ("diagonal", "stratonovich"): "StochasticHeun or SPaRK",
    ("scalar", "stratonovich"): "StochasticHeun or SPaRK",
    ("general", "stratonovich"): "SPaRK or StochasticHeun",
    ("additive", "ito"): "ShARK",
    ("additive", "stratonovich"): "ShARK",
}
"""The solvers to use, by noise and calculus."""


class StochasticStages(MemoryStages):
    """A step of a method for dy = f dt + g dW: subclasses implement `step`.

    A step starts with `begin` and ends with `finish`, as in `MemoryStages`. Methods with an error estimate set
    `estimate` in it. A field without diffusion is solved as one whose noise is zero.

    Example:
        >>> class EulerMaruyamaStages(of.StochasticStages):
        ...     def step(self, t, h, y):
        ...         self.begin(t, h, y)
        ...         noise = self.product(self.diffuse(t, y), self.increment(t, h))
        ...         return self.finish(y + h * self.first_slope(t, y) + noise)

    Args:
        order: Order of the method without noise.
        field: The equation, or a vector field.
        quadrature: Accumulates integrals of the field's side results, if any.

    Attributes:
        equation: The equation.
        product: (g, ΔW) ↦ g ΔW, of the shape of the state.
        estimate: The estimate of the local error, as a function to be called if it is needed.
    """

    estimate: Callable[[], Tensor]

    def __init__(self, order: int, field: Field, quadrature: Quadrature | None = None) -> None:
        super().__init__(order, field, quadrature)
        self.ends_at_outputs = isinstance(field, Equation)
        self.equation = field if isinstance(field, Equation) else _noiseless(field)
        self.product = self.equation.product

    @property
    def traced(self) -> Callable[[Field], "StochasticStages"]:
        return partial(type(self), self.order)

    @abstractmethod
    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        """As in `Stages`."""

    def diffuse(self, t: float, y: Tensor) -> Tensor:
        """The diffusion g at (t, y)."""
        return self.equation.diffusion(y.new_full((), self.inside(t)), y)

    def values(self, t: float, y: Tensor, first: bool = False) -> tuple[Tensor, Tensor]:
        """(f, g) at (t, y); with `first` at the start of the step, where f may be known."""
        stacked = self.equation.stacked
        if stacked is None or (first and self.first is not None):
            return self.first_slope(t, y) if first else self.evaluate(t, y), self.diffuse(t, y)
        self.evaluations += 1
        f, g = stacked(y.new_full((), self.inside(t)), y)
        return f, g

    def increment(self, t: float, h: float) -> Tensor:
        """ΔW of the step."""
        return self.equation.path.increment(t, t + h)

    def increment_and_area(self, t: float, h: float) -> tuple[Tensor, Tensor]:
        """ΔW and the space–time Lévy area H of the step."""
        return self.equation.path.increment_and_area(t, t + h)

    def diffuse_along(self, t: float, y: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The diffusion at (t, y), and its derivative in a direction of the shape of y, by forward differentiation."""
        return along(partial(self.diffuse, t), (y,), (direction,))

    def error(self) -> Tensor:
        with torch.no_grad():
            return self.estimate().reshape(-1) / self.h


class StochasticSolver(Stepper):
    """A method for dy = f(t, y) dt + g(t, y) dW. Subclasses set `steps`, `order`, `strong` and `calculi`.

    With fixed steps the Brownian motion is drawn step by step (`BrownianGrid`); with adaptive ones it is a
    `BrownianTree`, and ends of rejected steps are visited again, without which the accepted steps would favour small
    noise. A step ends at every output time. An ordinary equation is solved as one without noise.

    Source: Kloeden & Platen (1992), "Numerical Solution of Stochastic Differential Equations", for orders; Foster &
    Jelinčič (2024), "On the convergence of adaptive approximations for stochastic differential equations", for
    rejected steps.
    """

    order: int = required()
    """Order without noise."""
    steps: ClassVar[type[StochasticStages]] = required()
    """The steps of the method."""
    strong: ClassVar[Mapping[Noise, float]] = required()
    """The kinds of noise it supports, and its strong order for each: the mean error of a path is O(hᵖ)."""
    calculi: ClassVar[tuple[Calculus, ...]] = required()
    """The calculi it supports. With additive noise they agree."""
    error_power: ClassVar[float] = 1.0
    """The power of h with which the error estimate falls where there is noise."""
    commuting: ClassVar[bool] = False
    """Whether it needs an entry of a diagonal diffusion to depend on that entry of the state alone."""

    def stages(self, field: Field, y0: Tensor, quadrature: Quadrature | None) -> StochasticStages:
        return self.steps(self.order, field, quadrature)

    def check(self, field: StochasticField, t: float, y0: State) -> None:
        """Rejects equations that the method does not solve, after `check_pair`.

        Args:
            field: The equation.
            t: First time.
            y0: The initial state.

        Raises:
            SettingError: The diffusion depends on the state in a way that its noise excludes.
        """
        name, solver = field.label, type(self).__name__
        if field.noise == "additive" and set(self.strong) == {"additive"} and _depends(field, t, y0, others=False):
            raise SettingError(
                f"{name} declares additive noise, but its diffusion depends on the state, for which {solver} would "
                f"converge to something else. Declare other noise, and use {SUGGESTED['diagonal', field.calculus]}"
            )
        strict = self.commuting or isinstance(self.control, Adaptive)
        if field.noise == "diagonal" and strict and _depends(field, t, y0, others=True):
            why = "" if self.commuting else " with adaptive steps"
            raise SettingError(
                f"{solver}{why} needs diagonal noise that commutes, but entries of the diffusion of {name} depend on "
                f"other entries of the state. Use fixed steps of "
                f"{'EulerMaruyama' if field.calculus == 'ito' else 'StochasticHeun'}"
            )

    def brownian(self, seed: int, shape: Sequence[int], times: Sequence[float], like: Tensor) -> Brownian:
        """The Brownian motion of a solve in the form that suits the steps.

        Args:
            seed: Its seed.
            shape: Its shape.
            times: The output times, increasing.
            like: A state, for dtype and device.
        """
        if not isinstance(self.control, Fixed):
            return BrownianTree(seed, shape, times[0], times[-1], dtype=like.dtype, device=like.device)
        control, ends = self._on_grid(times[0], times[-1]), [times[0]]
        for stop in sorted({*times[1:], *(time for time in self.jump_ts if times[0] < time < times[-1])}):
            while ends[-1] != stop:
                ends.append(control.propose(ends[-1], stop))
        return BrownianGrid(seed, shape, ends, dtype=like.dtype, device=like.device)

    def _on_grid(self, t0: float, t1: float) -> FixedSteps:
        """Fixed steps that end at an output time instead of a grid point that differs from it by little.

        Times in float32 are such, and a step would end at both.
        """
        assert isinstance(self.control, Fixed)
        size, span = self.control.step_size, abs(t1 - t0)
        count = self.control.count(span)
        if size is not None and span <= (count - 1 + SAME_POINT) * size:
            count = max(1, count - 1)  # of a span that is a multiple of the step up to rounding
        control = FixedSteps(t0, t1, count)
        control.slack = max(control.slack, SAME_POINT * span / count)
        return control

    def step_control(self, t0: float, t1: float, field: Field | None = None) -> StepControl:
        """As in `Stepper`.

        Raises:
            SettingError: The error estimate falls too slowly for `error_per="span"`.
        """
        if not isinstance(field, Equation):
            return super().step_control(t0, t1)
        if isinstance(self.control, Fixed):
            return self._on_grid(t0, t1)
        if self.control.error_per == "span" and self.error_power <= 1:
            raise SettingError(
                f"{type(self).__name__}: the error estimate of a step with noise falls only as its size, so no step "
                "size satisfies error_per='span'; use 'step'"
            )
        return StochasticControl(self.control, self.error_power - 1, t0, t1)


def _depends(field: StochasticField, t: float, y0: State, others: bool) -> bool:
    """Whether the diffusion depends on the state; with `others`, whether entries of it depend on other entries."""
    like = first_leaf(y0)
    size = like.shape[1:].numel()
    if (others and size < 2) or not like.numel():
        return False
    moves = torch.ones(1, size, dtype=torch.bool, device=like.device)
    if others:
        masks = separating(size, like.device)
        moves = torch.cat((masks, ~masks))

    def diffusion(shift: Tensor) -> Tensor:
        state = like + shift
        return field.diffusion(like.new_full((), t), (state, *y0[1:]) if isinstance(y0, tuple) else state)

    with torch.no_grad():
        still = diffusion(torch.zeros_like(like))
        slack = 100 * torch.finfo(like.dtype).eps * still.abs().max()
        count = len(like)
        for first in range(0, len(moves), count):  # each sample moves other entries
            moved = moves[(first + torch.arange(count)) % len(moves)].view_as(like)
            difference = (diffusion(0.1 * moved * (1 + like.abs())) - still).abs()
            if bool((difference * ~moved if others else difference).max() > slack):
                return True
    return False


class _Still(Brownian):
    """No noise, for ordinary equations."""

    def __call__(self, t: Tensor | float) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.device)

    def increment(self, t0: Tensor | float, t1: Tensor | float) -> Tensor:
        return self(t1)

    def increment_and_area(self, t0: Tensor | float, t1: Tensor | float) -> tuple[Tensor, Tensor]:
        return self(t0), self(t1)


def _noiseless(field: Field) -> Equation:
    """An ordinary equation as a stochastic one."""
    return Equation(field, _zeros, "additive", "ito", _Still(0, ()), _first)


def _zeros(t: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(y)


def _first(g: Tensor, dw: Tensor) -> Tensor:
    return g
