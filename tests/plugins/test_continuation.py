"""Laws of continuation: times go on as regularly as they came."""

from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from odeflow_data.continuation import continued

DAYS = [date(2024, 1, 1) + timedelta(days=day) for day in range(800)]
MONTHS = [day for day in DAYS if day.day == 1]
ENDS = [day for day in DAYS if (day + timedelta(days=1)).day == 1]


@pytest.mark.parametrize(
    "dates",
    [
        DAYS[:60],
        DAYS[:70:7],
        MONTHS,
        MONTHS[::3],
        MONTHS[::12],
        ENDS,
        ENDS[::6],
        [day for day in DAYS if day.day == 29 and day.month > 2][:9],
        [datetime(2024, 1, 1) + timedelta(minutes=10 * step) for step in range(40)],
        [1700, 1701, 1702, 1703],
        [0.0, 0.25, 0.5, 0.75],
    ],
)
def test_the_rest_of_a_regular_series_is_found(dates: list[Any]) -> None:
    """From its first part a series of days, weeks, months, month ends, years, minutes or numbers is continued exactly."""
    known = max(2, len(dates) // 2)
    found = continued(pl.Series(dates[:known]), len(dates) - known)
    assert found.to_list() == dates[known:]


def test_gaps_do_not_change_the_step() -> None:
    """The median step counts, of months as of numbers, and of a series without any regularity."""
    assert continued(pl.Series([*MONTHS[:5], MONTHS[7]]), 2).to_list() == MONTHS[8:10]
    assert continued(pl.Series([0.0, 1.0, 2.0, 5.0]), 2).to_list() == [6, 7]
    odd = pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 2, 3), datetime(2024, 1, 2, 5)])
    assert continued(odd, 1)[0] == datetime(2024, 1, 2, 5) + timedelta(hours=14.5)


def test_a_time_of_day_survives_a_change_of_clocks() -> None:
    """Daily measurements at noon in Berlin are at noon in summer, too, 23 hours after the last ones of winter."""
    noon = pl.Series([datetime(2024, 3, day, 12) for day in (27, 28, 29, 30)]).dt.replace_time_zone("Europe/Berlin")
    found = continued(noon, 2)
    assert found.dt.hour().to_list() == [12, 12]
    assert (found - noon[-1]).to_list() == [timedelta(hours=23), timedelta(hours=47)]
