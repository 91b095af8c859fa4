"""BidirectionalSpirals: spirals in both directions, each observed at random times with noise."""

import math
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData
from odeflow_data.shares import Shares

STOP, GROWTH, REACH, CENTRE = 6 * math.pi, 0.3, 50.0, 5.0
OFFSETS = {"before": -1, "stretch": 0, "beyond": 1}
"""Number of stretches between the observed one and the targets."""


class BidirectionalSpirals(SeriesData):
    """1000 spirals in the plane, half clockwise, each observed at 100 random times of a stretch of its own, with noise.

    With u from 0 to 6π on a dense grid, a counter-clockwise spiral is at r = 0.3 u in the direction u from (5, 0), a
    clockwise one at r = 0.3 · 50 / z in the direction z = 6π + 1 − u from (−5, 0). A spiral's stretch begins at a
    random grid point, at least its own length from both ends; its times are counted from there. On the stretch,
    `points` grid points are drawn without replacement and observed with Gaussian noise; `observations` of these are
    known to the model. Labels: 1 is counter-clockwise.

    Training sees and predicts the noisy known observations and nothing else. Validation and test see theirs, and
    predict the noiseless truth, either at all `points` of the stretch (`predict: stretch`), or at as many on the next
    one (`predict: beyond`; the paper speaks of "100 time points extending beyond those that were used for training"),
    or on the one before it (`predict: before`).
    An observation and the truth at its time are two entries of a series with the same time, the observation first.
    `truth` is the position of a spiral at any time.

    The paper leaves the spirals open; they are those of the authors' example, which observes 100 equidistant points
    (`grid: 500`, `stretch: 100`) and leaves the direction of each spiral to a coin. Here exactly half have either.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5.1; torchdiffeq,
        `examples/latent_ode.py`.

    Args:
        spirals: Number of spirals.
        observations: Number of observations of each spiral: 30, 50 and 100 in the paper.
        points: Number of points of each stretch, of which observations are drawn, and of targets.
        noise: Standard deviation of the noise.
        grid: Number of points on the dense grid.
        stretch: Number of grid points in a stretch.
        predict: The stretch that validation and test predict.
        batch_size: Number of spirals in a batch; the last one may be smaller.
        split: The fractions of the spirals for validation and testing.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        spirals: int = 1000,
        observations: int = 100,
        points: int = 100,
        noise: float = 0.3,
        grid: int = 1000,
        stretch: int = 200,
        predict: Literal["before", "stretch", "beyond"] = "stretch",
        batch_size: int = 100,
        split: Shares = Shares(),
    ) -> None:
        super().__init__(batch_size, Seen(share=1.0), split.seed)
        if not 1 <= observations <= points <= stretch or 3 * stretch > grid:
            raise of.SettingError(
                "BidirectionalSpirals: wanted 1 ≤ observations ≤ points ≤ stretch ≤ grid / 3; "
                f"got {observations}, {points}, {stretch} and {grid} / 3"
            )
        of.check_least(self, 1, spirals=spirals)
        of.check_least(self, 0, noise=noise)
        self.dim, self.num_classes = 2, 2
        self.spirals, self.observations, self.points, self.noise = spirals, observations, points, noise
        self.grid, self.stretch, self.predict = grid, stretch, predict
        self.split = split

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        split = self.split.rows(self.spirals, generator, self)
        self.rows = dict(zip(("train", "val", "test"), split, strict=True))
        step = STOP / (self.grid - 1)
        room = self.grid - (3 if self.predict == "beyond" else 2) * self.stretch
        self.start = step * (self.stretch + torch.randint(room + 1, (self.spirals,), generator=generator).double())
        self.counter_clockwise = torch.randperm(self.spirals, generator=generator) % 2

        everyone = torch.arange(self.spirals)
        t = step * self._drawn(self.points, self.stretch, generator)
        known = t.gather(1, self._drawn(self.observations, self.points, generator))
        y = self._place(everyone, known)
        y += self.noise * torch.randn(y.shape, generator=generator, dtype=y.dtype)
        observed = of.Series.observed(known, y)._replace(label=self.counter_clockwise)
        if self.predict != "stretch":
            t = step * (OFFSETS[self.predict] * self.stretch + self._drawn(self.points, self.stretch, generator))
        judged = _beside(observed, t, self._place(everyone, t))
        self.train, self.val, self.test = (
            _single((observed if part == "train" else judged).take(rows)) for part, rows in self.rows.items()
        )

    def truth(self, index: Tensor, t: Tensor, part: Literal["train", "val", "test"] = "test") -> Tensor:
        """The positions of spirals at any times, also before and after their stretch.

        Args:
            index: (B,), numbers of the spirals in their part, which batches of validation and test keep in order.
            t: (T,) or (B, T), times as in the batches; negative ones lie before the stretch.
            part: Training, validation or test.

        Returns:
            (B, T, 2), without noise.
        """
        rows = self.rows[part][index]
        return self._place(rows, t.double().expand(len(rows), -1)).float()

    def _place(self, rows: Tensor, t: Tensor) -> Tensor:
        """(B, T, 2), the positions of these spirals at the times t, (B, T)."""
        u = self.start[rows, None] + t
        counter = self.counter_clockwise[rows, None] == 1
        z = STOP + 1 - u
        angle = torch.where(counter, u, z)
        radius = GROWTH * torch.where(counter, u, REACH / z)
        centre = torch.where(counter, CENTRE, -CENTRE)
        return torch.stack([centre + radius * angle.cos(), radius * angle.sin()], dim=2)

    def _drawn(self, count: int, choices: int, generator: torch.Generator) -> Tensor:
        """(N, count), for each spiral a sorted sample of the numbers below `choices`, without replacement."""
        chance = torch.rand(self.spirals, choices, generator=generator)
        return chance.argsort(dim=1)[:, :count].sort(dim=1).values


def _beside(observed: of.Series, t: Tensor, truth: Tensor) -> of.Series:
    """The observations, seen, and the truth, as targets, in the order of time.

    Args:
        observed: N series.
        t: (N, T), the times of the truth.
        truth: (N, T, d).
    """
    times, order = torch.cat([observed.t, t], dim=1).sort(dim=1, stable=True)
    place = order[:, :, None].expand(-1, -1, truth.shape[2])
    seen = place < observed.t.shape[1]
    return of.Series(times, torch.cat([observed.y, truth], dim=1).gather(1, place), seen, ~seen, observed.label)


def _single(whole: of.Series) -> of.Series:
    """The series in float32."""
    return whole._replace(t=whole.t.float(), y=whole.y.float())
