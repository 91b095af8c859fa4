"""BrownianTree: Brownian motion at any times."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.errors import SettingError
from odeflow.paths.brownian import Brownian, single_time

DEPTH = 24
NEAR = 1e-4  # of a leaf: such times are its ends
REMEMBERED = 8  # answers kept, for the ends of a step and its repetitions


@dataclass(frozen=True)
class _Node:
    """An interval of the tree and the path on it.

    Attributes:
        level: Number of halvings of the whole.
        index: Its place among the 2^level intervals of the level.
        start: (2, *shape), W and ∫ W at its start, as found where the tree was first split there.
        end: (2, *shape), the same at its end.
        w: (*shape), the increment.
        area: (*shape), the Lévy area H.
    """

    level: int
    index: int
    start: Tensor
    end: Tensor
    w: Tensor
    area: Tensor


class BrownianTree(Brownian):
    """Brownian motion on [t₀, t₁] as a tree of halved intervals, each drawn from its own seed given the one it halves.

    The increment W and the area H of an interval of length h, and independent normal Z, N of the variances h/16, h/12,
    give those of its halves:

        W/2 ± (3H/2 + Z),        H/4 − Z/2 ± N/2

    A time is found by descent, which ends where it is the end of an interval, at the latest after `depth` halvings;
    inside an interval of that size the path is its conditional mean, a parabola. Answers depend on the seed and the
    times alone: a finer question changes no coarser answer, and any solver sees the same path. All is computed in
    float64.

    Source: Gaines & Lyons (1997), "Variable step size control in the numerical solution of stochastic differential
    equations", for the tree; Foster, Oberhauser & Lyons (2020), "An optimal polynomial approximation of Brownian
    motion", for the areas.

    Args:
        seed: The seed.
        shape: The shape of W(t), with the batch as dimension 0.
        t0: First time.
        t1: Last time.
        depth: Number of halvings, at most 30. Steps should be long compared to (t₁ − t₀)/2^depth.
        dtype: As in `Brownian`.
        device: As in `Brownian`.

    Raises:
        SettingError: The times do not increase, or the depth is out of range.

    Example:
        >>> path = BrownianTree(0, (4, 2), 0.0, 1.0)
        >>> end = path(1.0)
        >>> _ = path(0.3)
        >>> bool(torch.equal(path(1.0), end))
        True
    """

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        t0: float,
        t1: float,
        depth: int = DEPTH,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(seed, shape, dtype, device)
        if not t0 < t1:
            raise SettingError(f"a Brownian path needs t0 < t1; got {t0} and {t1}")
        if not 0 <= depth <= 30:
            raise SettingError(f"depth must lie between 0 and 30; got {depth}")
        self.t0, self.t1, self.depth = float(t0), float(t1), depth
        self.branch: list[_Node] = []  # the last descent
        self.answers: dict[float, Tensor] = {}

    def __call__(self, t: Tensor | float) -> Tensor:
        return self._at(single_time(t))[0].to(self.dtype)

    def increment(self, t0: Tensor | float, t1: Tensor | float) -> Tensor:
        start, end = self._at(single_time(t0))[0], self._at(single_time(t1))[0]
        return (end - start).to(self.dtype)

    def increment_and_area(self, t0: Tensor | float, t1: Tensor | float) -> tuple[Tensor, Tensor]:
        first, last = single_time(t0), single_time(t1)
        if not first < last:
            raise SettingError(f"a Lévy area needs times that increase; got {first:g} and {last:g}")
        (w0, integral0), (w1, integral1) = self._at(first), self._at(last)
        w, h = w1 - w0, last - first
        area = (integral1 - integral0) / h - w0 - w / 2
        return w.to(self.dtype), area.to(self.dtype)

    def _at(self, t: float) -> Tensor:
        """(2, *shape), W(t) and its integral from t₀ to t, in float64.

        Raises:
            SettingError: The time is outside the path's.
        """
        found = self.answers.get(t)
        if found is None:
            place = (t - self.t0) / (self.t1 - self.t0) * 2**self.depth
            if not -NEAR <= place <= 2**self.depth + NEAR:
                raise SettingError(f"this Brownian path goes from t = {self.t0:g} to {self.t1:g}; got t = {t:g}")
            if len(self.answers) >= REMEMBERED:
                del self.answers[next(iter(self.answers))]
            found = self.answers[t] = self._found(round(place) if abs(place - round(place)) < NEAR else place)
        return found

    def _found(self, place: float) -> Tensor:
        """The answer at a place in units of leaves."""
        branch = self.branch or [self._root()]
        while len(branch) > 1 and not self._first(branch[-1]) <= place <= self._first(branch[-1], 1):
            branch.pop()
        while branch[-1].level < self.depth and place not in (self._first(branch[-1]), self._first(branch[-1], 1)):
            left, right = self._halves(branch[-1])
            branch.append(left if place <= self._first(right) else right)
        self.branch = branch
        node = branch[-1]
        theta = (place - self._first(node)) / 2 ** (self.depth - node.level)
        if theta in (0, 1):
            return node.end if theta else node.start
        return _inside(node.start, node.w, node.area, self._length(node.level), theta)

    def _first(self, node: _Node, ahead: int = 0) -> int:
        return (node.index + ahead) << (self.depth - node.level)

    def _length(self, level: int) -> float:
        return (self.t1 - self.t0) / 2**level

    def _root(self) -> _Node:
        w, area = self.draw(0, 2, dtype=torch.float64)
        length, start = self._length(0), torch.zeros(2, *self.shape, dtype=torch.float64, device=self.device)
        w, area = w * length**0.5, area * (length / 12) ** 0.5
        return _Node(0, 0, start, _inside(start, w, area, length, 1.0), w, area)

    def _halves(self, node: _Node) -> tuple[_Node, _Node]:
        length, level, index = self._length(node.level), node.level + 1, 2 * node.index
        z, n = self.draw(2**level + index, 2, dtype=torch.float64)
        half, tilt = node.w / 2, 1.5 * node.area + z * (length / 16) ** 0.5
        mean, part = node.area / 4 - z * (length / 64) ** 0.5, n * (length / 48) ** 0.5
        w, area = half + tilt, mean + part
        middle = _inside(node.start, w, area, length / 2, 1.0)
        left = _Node(level, index, node.start, middle, w, area)
        return left, _Node(level, index + 1, middle, node.end, half - tilt, mean - part)


def _inside(start: Tensor, w: Tensor, area: Tensor, length: float, theta: float) -> Tensor:
    """(2, *shape), W and ∫ W at the point θ of an interval, on the parabola with its increment and area."""
    w0, integral0 = start
    bend = theta * theta * (3 - 2 * theta)
    value = torch.add(w0, w, alpha=theta) + 6 * theta * (1 - theta) * area
    return torch.stack((value, integral0 + length * (theta * w0 + theta * theta / 2 * w + bend * area)))
