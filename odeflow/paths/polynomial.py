"""PiecewisePolynomial: paths that interpolate observations by polynomials."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from odeflow.errors import SettingError, StateError
from odeflow.paths.knots import Knots
from odeflow.paths.path import Path

Outside = Literal["hold", "extrapolate"]
MOST_BREAKS = 1000  # of all samples of a path with per-sample times


class PiecewisePolynomial(Path):
    """A path through observations, a polynomial between each two: ∑ₖ cₖ (t − tᵢ)ᵏ for tᵢ ≤ t < tᵢ₊₁.

    Each channel of a sample is interpolated between its own observations, whichever are missing: a row of missing
    values changes nothing. A channel that was never observed is 0, one that was observed once is constant. Evaluation
    is one search over the batch.

    A solve ends a step at every break of any sample. With per-sample times these may be many, so that more than
    1000 are an error.

    Args:
        t: (T,), times common to all samples, or (B, T), per-sample times; no gradient flows to them. Strictly
            increasing, except that rows whose values are all missing may repeat a time, to pad shorter series.
        x: (B, T, c, …), the values; B = 1 for a path common to all samples.
        mask: (B, T) or (B, T, c, …), whether a value is observed. By default those that are not nan.
        outside: The path before the first observation of a channel and after its last: "hold", that observation;
            "extrapolate", the polynomial next to it.

    Raises:
        DataError: The shapes do not match, or the times do not increase.
        SettingError: `outside` is unknown.
    """

    smooth: ClassVar[bool]
    """Whether the derivative is continuous between the first and the last observation."""

    def __init__(self, t: Tensor, x: Tensor, mask: Tensor | None = None, outside: Outside = "hold") -> None:
        if outside not in ("hold", "extrapolate"):
            raise SettingError(f"outside must be 'hold' or 'extrapolate'; got {outside!r}")
        self.knots, self.outside = Knots.of(t, x, mask), outside
        self.coefficients, self.origins = _assembled(self.knots, self.pieces(self.knots), outside == "hold")
        self.tensors = (self.coefficients,)
        self.ends = self.knots.times.clone()  # of the pieces
        if self.continuous:  # the last observation belongs to the last piece
            last = self.ends[:, -1:]
            self.ends[:, -1:] = torch.nextafter(last, torch.full_like(last, torch.inf))

    @abstractmethod
    def pieces(self, knots: Knots) -> Sequence[Tensor]:
        """The coefficients c₀, c₁, … of the pieces between observations, (B, T − 1, c, …) each."""

    @cached_property
    def breaks(self) -> tuple[float, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As in `Path`.

        Raises:
            SettingError: With per-sample times there are too many.
        """
        knots = self.knots
        if not self.smooth:
            times = knots.times[knots.seen]
        elif self.outside == "hold":
            ends = torch.cat((knots.t[:, :1], knots.at_last(knots.t)), 1)
            times = ends if knots.count is None else ends[(knots.count > 1).expand_as(ends)]
        else:
            return ()
        breaks = tuple(times.unique().tolist())
        if len(knots.times) > 1 and len(breaks) > MOST_BREAKS:
            smooth = "outside='extrapolate'" if self.smooth else "a smooth path, Hermite or NaturalCubic"
            raise SettingError(
                f"the samples of this {type(self).__name__} path have their own times, and {len(breaks)} kinks in all, "
                f"at most {MOST_BREAKS} of which a solve can stop at. Use {smooth}; round the times to a common grid; "
                "or hide the kinks from the solver, as Function(path, tensors=path.tensors)"
            )
        return breaks

    def __call__(self, t: Tensor) -> Tensor:
        time, coefficients = self._piece(t)
        value = coefficients[-1]
        for coefficient in coefficients[-2::-1]:
            value = value * time + coefficient
        return value

    def derivative(self, t: Tensor) -> Tensor:
        time, coefficients = self._piece(t)
        value = torch.zeros_like(coefficients[0])
        for power in range(len(coefficients) - 1, 0, -1):
            value = value * time + power * coefficients[power]
        return value

    def along(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """U and du/dt at several times at once, for a path whose times are common to all samples.

        Args:
            t: (m,).

        Returns:
            (B, m, c, …) each.

        Raises:
            StateError: The samples have times of their own.
        """
        if len(self.ends) > 1:
            raise StateError(f"the path has {len(self.ends)} samples with times of their own; ask for a time of each")
        t = t.to(self.origins)
        number = torch.searchsorted(self.ends[0], t.detach(), right=True)
        coefficients, origin = self.coefficients[:, number], self.origins[:, number]
        time = (t.view(1, -1, *(1,) * (origin.dim() - 2)) - origin).to(coefficients)
        (*lower, value), slope = coefficients.unbind(2), torch.zeros_like(coefficients[:, :, 0])
        for coefficient in reversed(lower):
            value, slope = value * time + coefficient, slope * time + value
        return value, slope

    def _piece(self, t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The time since the start of the piece, and its coefficients, each of or broadcastable to (B, c, …)."""
        times, ends = t.to(self.origins).reshape(-1, 1), self.ends
        samples = max(len(ends), len(self.coefficients))
        if len(times) > 1 and samples not in (1, len(times)):
            raise StateError(f"the path has {samples} samples; got {len(times)} times")
        where = times.detach().contiguous()
        if len(ends) == 1:
            number = torch.searchsorted(ends[0], where, right=True).squeeze(1)
        else:
            number = torch.searchsorted(ends, where.expand(len(ends), 1).contiguous(), right=True).squeeze(1)
        coefficients, origin = _rows(self.coefficients, number), _rows(self.origins, number)
        time = times.view(-1, *(1,) * (origin.dim() - 1)) - origin
        return time.to(coefficients), coefficients.unbind(1)


def _rows(table: Tensor, number: Tensor) -> Tensor:
    """(n, P, …) and (m,), where n or m may be 1 ↦ (max(n, m), …), the entry of each row."""
    if len(number) == 1:
        return table.index_select(1, number).squeeze(1)
    if len(table) == 1:
        return table[0].index_select(0, number)
    return table[torch.arange(len(table), device=table.device), number]


def _assembled(knots: Knots, pieces: Sequence[Tensor], hold: bool) -> tuple[Tensor, Tensor]:
    """The pieces of all channels over the intervals between the times of all rows, and those outside.

    Returns:
        The coefficients, (B, T + 1, k, c, …), and the starts of the pieces, (K, T + 1, 1, …) or (B, T + 1, c, …).
    """
    x, t, degree = knots.x, knots.t, len(pieces) - 1
    first, last, end = _constant(x[:, :1], degree), _constant(knots.at_last(x), degree), knots.at_last(t)
    inner = torch.stack(tuple(pieces), dim=2)
    if not hold and x.shape[1] > 1:
        first = inner[:, :1]
        several = torch.ones_like(x[:, :1], dtype=torch.bool) if knots.count is None else knots.count > 1
        last = torch.where(several[:, :, None], torch.stack([knots.at_last(each, 1) for each in pieces], 2), last)
        end = knots.at_last(t, 1)
    table, origins = torch.cat((first, inner, last), 1), torch.cat((t[:, :1], t[:, :-1], end), 1)
    if knots.count is None or knots.past is None:
        return table, origins
    outside = torch.arange(table.shape[1], device=x.device).view(1, -1, *(1,) * (x.dim() - 2)) >= knots.count
    table, origins = torch.where(outside[:, :, None], last, table), torch.where(outside, end, origins)
    past = knots.past
    return table.gather(1, past[:, :, None].expand_as(table)), origins.gather(1, past)


def _constant(value: Tensor, degree: int) -> Tensor:
    """(B, 1, c, …) ↦ the coefficients of a constant piece, (B, 1, degree + 1, c, …)."""
    return torch.stack((value, *(torch.zeros_like(value),) * degree), dim=2)


def cubic(knots: Knots, slopes: Tensor) -> tuple[Tensor, ...]:
    """The coefficients of the cubics with these derivatives at the observations.

    Args:
        knots: The observations.
        slopes: (B, T, c, …).
    """
    h, x = knots.steps(), knots.x
    chord, start, end = x.diff(dim=1) / h, slopes[:, :-1], slopes[:, 1:]
    return x[:, :-1], start, (3 * chord - 2 * start - end) / h, (start + end - 2 * chord) / h.square()
