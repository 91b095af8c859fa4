"""Continuation: the times that come after those of a series."""

import numpy as np
import polars as pl


def continued(times: pl.Series, count: int) -> pl.Series:
    """Times after the last one, by the median step.

    Dates that are as regular as the calendar go on by it: on the same day of each month or at its end, months or years
    apart, or at the same time of each day, whatever clocks do in between.

    Args:
        times: (N,), numbers or dates in increasing order, two at least.
        count: Number of times.

    Returns:
        (count,).
    """
    if isinstance(times.dtype, (pl.Date, pl.Datetime)):
        found = _by_calendar(times, count)
        if found is not None:
            return found
        moments = times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None)))
        step = int(np.median(np.diff(moments.dt.epoch("us").to_numpy())))
        return moments[-1] + pl.Series(step * np.arange(1, count + 1)).cast(pl.Duration("us"))
    values = times.to_numpy()
    return pl.Series(values[-1] + np.median(np.diff(values)) * np.arange(1, count + 1))


def _by_calendar(times: pl.Series, count: int) -> pl.Series | None:
    """The next dates if all are of one day of the month, or at its end, or of one time of the day; otherwise None."""
    if isinstance(times.dtype, pl.Datetime) and times.dt.time().n_unique() > 1:
        return None
    last = times[-1:]
    months = np.median(np.diff((12 * times.dt.year() + times.dt.month()).to_numpy()))
    at_end = (times.dt.month_end().dt.date() == times.dt.date()).all()
    if months >= 1 and (at_end or times.dt.day().n_unique() == 1):
        steps = [f"{round(months) * step}mo" for step in range(1, count + 1)]
        later = pl.concat([last.dt.offset_by(step) for step in steps])
        return later.dt.month_end() if at_end else later
    days = np.median(np.diff(times.dt.date().cast(pl.Int32).to_numpy()))
    if days < 1 or days != round(days):
        return None
    return pl.concat([last.dt.offset_by(f"{round(days) * step}d") for step in range(1, count + 1)])
