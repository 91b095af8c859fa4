"""BrownianGrid: Brownian motion on steps that are known beforehand."""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.errors import SettingError
from odeflow.paths.brownian import Brownian, single_time

SLACK = 1e-3  # of the shorter of the steps beside a time: it is then an end of theirs
AREAS = 1 << 31  # where the places of Lévy areas begin


class BrownianGrid(Brownian):
    """Brownian motion at the ends of given steps: one draw for each step, seeded by its number.

    Nothing is stored, and a step costs the draw of its numbers, in the backward pass again. The path depends on the
    steps: others, even with the same seed, have an independent one. To compare step sizes, use `BrownianTree`.

    Args:
        seed: The seed.
        shape: The shape of W(t), with the batch as dimension 0.
        times: The ends of the steps, at least two, increasing.
        dtype: As in `Brownian`.
        device: As in `Brownian`.

    Raises:
        SettingError: There are fewer than two times, or they do not increase.

    Example:
        >>> path = BrownianGrid(0, (4, 2), [0.0, 0.5, 1.0])
        >>> whole = path.increment(0.0, 1.0)
        >>> bool(torch.allclose(whole, path.increment(0.0, 0.5) + path.increment(0.5, 1.0)))
        True
    """

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        times: Sequence[float],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(seed, shape, dtype, device)
        self.times = [float(time) for time in times]
        if len(self.times) < 2 or not all(first < second for first, second in zip(self.times, self.times[1:])):  # noqa: B905
            raise SettingError(f"a grid needs at least two increasing times; got {self.times[:6]}")
        self.numbers = {time: number for number, time in enumerate(self.times)}

    def __call__(self, t: Tensor | float) -> Tensor:
        return self.increment(self.times[0], t)

    def increment(self, t0: Tensor | float, t1: Tensor | float) -> Tensor:
        first, last = self._number(t0), self._number(t1)
        if last == first + 1:
            return self._step(first)
        total = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for number in range(min(first, last), max(first, last)):
            total += self._step(number)
        return total if last >= first else -total

    def increment_and_area(self, t0: Tensor | float, t1: Tensor | float) -> tuple[Tensor, Tensor]:
        first, last = self._number(t0), self._number(t1)
        if last <= first:
            raise SettingError(f"a Lévy area needs times that increase; got {t0} and {t1}")
        w, area = self._step(first), self._area(first)
        start = self.times[first]
        for number in range(first + 1, last):  # ∫ W adds up: h (W/2 + H)
            old, more = self.times[number] - start, self.times[number + 1] - self.times[number]
            step, h = self._step(number), old + more
            integral = old * (w / 2 + area) + more * (w + step / 2 + self._area(number))
            w = w + step
            area = integral / h - w / 2
        return w, area

    def _step(self, number: int) -> Tensor:
        return self.draw(number).mul_((self.times[number + 1] - self.times[number]) ** 0.5)

    def _area(self, number: int) -> Tensor:
        return self.draw(AREAS + number).mul_(((self.times[number + 1] - self.times[number]) / 12) ** 0.5)

    def _number(self, t: Tensor | float) -> int:
        """The index of a time.

        Raises:
            SettingError: It is not an end of a step.
        """
        number = self.numbers.get(t) if isinstance(t, float) else None
        if number is not None:
            return number
        time = single_time(t)
        after = min(max(bisect_left(self.times, time), 1), len(self.times) - 1)
        step = self.times[after] - self.times[after - 1]
        for number in (after - 1, after):
            if abs(self.times[number] - time) <= SLACK * step:
                return number
        raise SettingError(
            f"this Brownian path is known at the ends of its {len(self.times) - 1} steps, of which t = {time:g} is "
            "none. Use odeflow.paths.BrownianTree, which answers for any time"
        )
