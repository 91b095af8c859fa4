"""Laws of the formulas of step sizes, which floats and tensors share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import odeflow as of
from odeflow.engine.equation.clock import FLOATS, SAME_STEP, TENSORS
from odeflow.engine.loop.step_size import first_size, next_size, step_end
from odeflow_solvers import RK4, Dopri5

sizes = st.floats(1e-12, 1e12)


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(size=sizes, speed=sizes, span=sizes, change=st.one_of(sizes, st.just(math.nan)), order=st.integers(1, 8))
def test_the_first_size_is_that_of_tensors(size: float, speed: float, span: float, change: float, order: int) -> None:
    """It is the same for floats and tensors, positive, and at most a hundred times the span."""
    found = first_size(FLOATS, size, speed, span, lambda h: change, order)
    traced = first_size(TENSORS, double(size), double(speed), double(span), lambda h: double(change), order)
    assert float(traced) == pytest.approx(found, rel=1e-12)
    assert 0 < found <= 100 * span


def test_the_first_size_follows_the_unit_of_time() -> None:
    """Measured in a unit of time that is ten times as long, the size is a tenth, also from a state of rest."""
    for size in (3.0, 0.0):
        one = first_size(FLOATS, size, 2.0, 5.0, lambda h: 7 * h, 5)
        other = first_size(FLOATS, size, 20.0, 0.5, lambda h: 700 * h, 5)
        assert other == pytest.approx(one / 10)
    assert first_size(FLOATS, 0.0, 2.0, 5.0, lambda h: 0.0, 5) == pytest.approx(100 * 1e-6 * 5)
    assert first_size(FLOATS, 1.0, 2.0, 5.0, lambda h: 0.0, 5) == pytest.approx(0.5 * 0.1 ** (1 / 6))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("left", "end", "cut"),
    [
        (0.5, 0.5, True),  # the stop is within the step
        (1 - 2 * SAME_STEP, 1 - 2 * SAME_STEP, True),
        (1 - SAME_STEP / 2, 1 - SAME_STEP / 2, False),  # as good as at its end: the error is informative
        (1 + SAME_STEP / 2, 1 + SAME_STEP / 2, False),
        (1 + 2 * SAME_STEP, 1.0, False),
        (3.0, 1.0, False),
    ],
)
def test_a_step_ends_at_a_stop_that_it_nearly_reaches(sign: int, left: float, end: float, cut: bool) -> None:
    """Within a millionth of its size; it counts as truncated if it is shorter by more than that."""
    assert step_end(FLOATS, 2.0, sign * 1.0, 2.0 + sign * left) == (pytest.approx(2.0 + sign * end, abs=1e-12), cut)
    t1, truncated = step_end(TENSORS, double(2.0), double(sign), double(2.0 + sign * left))
    assert (float(t1), bool(truncated)) == (pytest.approx(2.0 + sign * end, abs=1e-12), cut)


@pytest.mark.parametrize(
    ("accepted", "cut", "factor", "wanted"),
    [
        (True, False, 2.0, 0.8),
        (False, False, 0.5, 0.2),
        (True, True, 2.0, 1.0),
        (True, True, 3.0, 1.2),
        (False, True, 0.5, 0.2),
    ],
)
def test_a_truncated_step_does_not_shrink_the_next(accepted: bool, cut: bool, factor: float, wanted: float) -> None:
    """The next size is the last one times the factor; after a truncated step that was accepted at least the proposed one."""
    assert next_size(FLOATS, 0.4, 1.0, factor, accepted, cut, math.inf) == pytest.approx(wanted)
    assert next_size(FLOATS, 0.4, 1.0, factor, accepted, cut, 0.1) == 0.1
    tensors = (double(each) for each in (0.4, 1.0, factor))
    found = next_size(TENSORS, *tensors, torch.tensor(accepted), torch.tensor(cut), double(math.inf))
    assert float(found) == pytest.approx(wanted)


def test_bounds_of_options_are_included() -> None:
    """As many fixed steps as `max_steps`, and one tolerance of 0, are allowed; one step more, and two, are not."""
    y0 = torch.ones(1, 1)
    of.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=RK4(num_steps=4, max_steps=4), params=())
    with pytest.raises(of.SettingError, match="max_steps"):
        RK4(num_steps=5, max_steps=4)
    Dopri5(rtol=0.0, atol=1e-3)
    Dopri5(rtol=1e-3, atol=0.0)
    with pytest.raises(of.SettingError, match="nor both 0"):
        Dopri5(rtol=0.0, atol=0.0)
