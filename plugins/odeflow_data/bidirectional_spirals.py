"""BidirectionalSpirals: spirals in both directions, each observed at random times with noise."""

import math
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow_data.series import SeriesData, random_split, rows_of

STOP, GROWTH, REACH, CENTRE = 6 * math.pi, 0.3, 50.0, 5.0
"""Last time on a spiral; growth of the radius per radian; radius × angle, over the growth, of a clockwise one; ∓ x of
the centres."""


class BidirectionalSpirals(SeriesData):
    """1000 spirals in the plane, half clockwise, each observed at 100 random times of a stretch of its own, with noise.

    With u from 0 to 6π on a dense grid, a counter-clockwise spiral is at r = 0.3 u in the direction u from (5, 0), a
    clockwise one at r = 0.3 · 50 / z in the direction z = 6π + 1 − u from (−5, 0). A spiral's stretch begins at a
    random grid point, no nearer to both ends than its own length; its times are counted from there. On the stretch,
    `points` grid points are drawn without replacement and get Gaussian noise; `observations` of these are known to
    the model. Labels: 1 is counter-clockwise.

    Training sees and predicts the noisy known observations and nothing else. Validation and test see theirs, and
    predict the noiseless truth, either at all `points` of the stretch (`predict: stretch`), or at as many after it
    (`predict: beyond`; the paper speaks of "100 time points extending beyond those that were used for training").
    An observation and the truth at its time are two entries of a series with the same time, the observation first.
    `truth` tells where a spiral is at any time.

    The paper leaves the spirals open; they are those of the authors' example, which takes 100 equidistant points:
    `grid=500, stretch=100`. There the direction of each spiral is a coin's, here exactly half have either.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5.1; torchdiffeq,
        `examples/latent_ode.py`.

    Args:
        spirals: Number of spirals.
        observations: Number of the points of each that are known: 30, 50 and 100 in the paper.
        points: Number of times at which each is observed.
        noise: Standard deviation of the noise.
        grid: Number of points on the dense grid.
        stretch: How many of them make a stretch.
        predict: Where validation and test predict.
        batch_size: Number of spirals in a batch; the last one may be smaller.
        val: Share of the spirals that validate.
        test: Share of the spirals that test.
        seed: Of all that is drawn.

    Raises:
        SettingError: A number is out of its range.
    """

    def __init__(
        self,
        spirals: int = 1000,
        observations: int = 100,
        points: int = 100,
        noise: float = 0.3,
        grid: int = 1000,
        stretch: int = 200,
        predict: Literal["stretch", "beyond"] = "stretch",
        batch_size: int = 100,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, "interpolation", 1.0, seed)
        if not 1 <= observations <= points <= stretch or 3 * stretch > grid:
            raise of.SettingError(
                "BidirectionalSpirals: wanted 1 ≤ observations ≤ points ≤ stretch ≤ grid / 3; "
                f"got {observations}, {points}, {stretch} and {grid} / 3"
            )
        if noise < 0:
            raise of.SettingError(f"BidirectionalSpirals: noise is a standard deviation; got {noise}")
        if predict not in ("stretch", "beyond"):
            raise of.SettingError(f"BidirectionalSpirals: predict must be 'stretch' or 'beyond'; got {predict!r}")
        self.dim, self.num_classes = 2, 2
        self.spirals, self.observations, self.points, self.noise = spirals, observations, points, noise
        self.grid, self.stretch, self.predict = grid, stretch, predict
        self.val_share, self.test_share = val, test

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        train, val, test = random_split(self.spirals, self.val_share, self.test_share, generator, type(self).__name__)
        step = STOP / (self.grid - 1)
        self.counter_clockwise = (
            torch.randperm(self.spirals, generator=generator) % 2
        )  # half of them, whatever the parts
        room = self.grid - (3 if self.predict == "beyond" else 2) * self.stretch
        start = self.stretch + torch.randint(room + 1, (self.spirals,), generator=generator)
        self.start = step * start.double()
        t = step * self._times(generator)
        truth = self._place(torch.arange(self.spirals), t)
        noisy = truth + self.noise * torch.randn(truth.shape, generator=generator, dtype=truth.dtype)
        chosen = torch.rand(t.shape, generator=generator).argsort(dim=1) < self.observations
        known = chosen[:, :, None].expand_as(truth)
        label = self.counter_clockwise

        observed = of.Series(t, noisy.masked_fill(~known, 0.0), known, known, label)
        later = t if self.predict == "stretch" else step * (self.stretch + self._times(generator))
        both = torch.cat([t, later], dim=1)
        order = both.sort(dim=1, stable=True)  # stable: an observation before the truth at its time
        values = torch.cat([observed.y, self._place(torch.arange(self.spirals), later)], dim=1)
        seen = torch.cat([known, torch.zeros_like(known)], dim=1)
        target = torch.cat([torch.zeros_like(known), torch.ones_like(known)], dim=1)
        turned = (part.gather(1, order.indices[:, :, None].expand_as(part)) for part in (values, seen, target))
        judged = of.Series(order.values, *turned, label)
        self.train = _kept(_single(rows_of(observed, train)))
        self.val, self.test = (_kept(_single(rows_of(judged, part))) for part in (val, test))
        self.order = {"train": train, "val": val, "test": test}

    def truth(self, index: Tensor, t: Tensor, part: Literal["train", "val", "test"] = "test") -> Tensor:
        """Where spirals are at any times, before and after their stretch, too.

        Args:
            index: (B,), numbers of the spirals in their part.
            t: (T,) or (B, T), times as in the batches; negative ones lie before the stretch.
            part: Training, validation or test, unshuffled.

        Returns:
            (B, T, 2), without noise.
        """
        rows = self.order[part][index]
        return self._place(rows, t.double().expand(len(rows), -1)).float()

    def _times(self, generator: torch.Generator) -> Tensor:
        """(N, points), numbers of the grid points of a stretch that are observed, in increasing order."""
        chance = torch.rand(self.spirals, self.stretch, generator=generator)
        return chance.argsort(dim=1)[:, : self.points].sort(dim=1).values.double()

    def _place(self, rows: Tensor, t: Tensor) -> Tensor:
        """(B, T, 2), where the spirals of these numbers are at the times t: (B, T)."""
        u = self.start[rows, None] + t
        counter = self.counter_clockwise[rows, None] == 1
        z = STOP + 1 - u
        angle = torch.where(counter, u, z)
        radius = GROWTH * torch.where(counter, u, REACH / z)
        centre = torch.where(counter, CENTRE, -CENTRE)
        return torch.stack([centre + radius * angle.cos(), radius * angle.sin()], dim=2)


def _single(whole: of.Series) -> of.Series:
    return whole._replace(t=whole.t.float(), y=whole.y.float())


def _kept(whole: of.Series) -> of.Series:
    """Without the times at which a series neither shows nor wants anything; all series have as many others."""
    used = (whole.seen | whole.target).any(dim=2)
    count = int(used.sum(dim=1)[0])
    shape = (len(used), count)
    t, y = whole.t[used].reshape(shape), whole.y[used].reshape(*shape, -1)
    seen, target = (part[used].reshape(*shape, -1) for part in (whole.seen, whole.target))
    return of.Series(t, y, seen, target, whole.label)
