"""A law of every adaptive solve: its result is within a hundred tolerances of the truth, or it says that it is not.

Problems, dtypes, shapes, times and tolerances are drawn at random; the truth is scipy's, in float64 at 1e-12.
"""

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

import odeflow as of
from odeflow.engine.loop.stepper import Stepper
from odeflow.plugin.registry import look_up, plugins

ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, Stepper) and cls.error_order is not None]
EXPLICIT = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order]
SHAPES: list[list[tuple[int, ...]]] = [
    [()],
    [(0,)],
    [(1,)],
    [(3,)],
    [(0, 2)],
    [(1, 2)],
    [(5, 2)],
    [(2, 1, 2, 2)],
    [(3, 2), (3,)],
]
PROBLEMS = {  # y′ as a function of the scaled time s from 0 to 1, none of which amplifies errors more than tenfold
    "constant": lambda s, y: 0 * y + 1,
    "decay": lambda s, y: -3 * y,
    "growth": lambda s, y: 2 * y,
    "forced": lambda s, y: 6 * (s * 6).cos() - y,
    "logistic": lambda s, y: 2 * y * (1 - y / (1 + abs(y))),
    "swinging": lambda s, y: 3 * (s * 6).sin() * y,
}


@dataclass(frozen=True)
class Case:
    """What is solved, and how."""

    solver: str
    problem: str
    shapes: list[tuple[int, ...]]
    dtype: torch.dtype
    size: float
    t0: float
    shift: float | None
    span: float
    places: list[float]
    near: int
    t_dtype: torch.dtype
    rtol: float
    atol: float
    per_sample: bool
    dense: bool


def powers(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(int(10 * low), int(10 * high)).map(lambda tenths: 10.0 ** (tenths / 10))


signs = st.sampled_from([-1.0, 1.0])
cases = st.builds(
    Case,
    solver=st.sampled_from(ADAPTIVE),
    problem=st.sampled_from(list(PROBLEMS)),
    shapes=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    size=powers(-6, 4),
    t0=st.one_of(st.just(0.0), st.builds(lambda sign, size: sign * size, signs, powers(-12, 12))),
    shift=st.one_of(st.none(), st.builds(lambda sign, size: sign * size, signs, powers(-2, 6))),
    span=st.builds(lambda sign, size: sign * size, signs, powers(-12, 12)),
    places=st.lists(st.floats(0.01, 0.99), max_size=6),
    near=st.integers(0, 3),
    t_dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    rtol=powers(-14, -1),
    atol=powers(-14, -1),
    per_sample=st.booleans(),
    dense=st.booleans(),
)


def times_of(case: Case) -> Tensor:
    """The times, some of them neighbours among the floating-point numbers.

    They begin at t₀, or where the span is comparable with it.
    """
    start = case.t0 if case.shift is None else case.shift * case.span
    inner = torch.tensor(sorted(case.places), dtype=torch.float64) * case.span + start
    inner = inner.to(case.t_dtype)
    for _ in range(case.near if len(inner) else 0):
        inner = torch.cat(
            (inner, torch.nextafter(inner[-1:], inner.new_full((1,), math.copysign(math.inf, case.span))))
        )
    ends = torch.tensor([start, start + case.span], dtype=torch.float64).to(case.t_dtype)
    return torch.cat((ends[:1], inner, ends[1:]))


def truth(case: Case, times: Tensor, y0: list[Tensor]) -> list[Tensor]:
    """The solution by scipy in the scaled time, (T, *shape) each."""
    scaled = (times.double() - float(times[0])) / case.span
    start = torch.cat([leaf.double().flatten() for leaf in y0])

    def field(s: float, y: np.ndarray) -> np.ndarray:
        return PROBLEMS[case.problem](torch.tensor(s, dtype=torch.float64), torch.from_numpy(y)).numpy()

    if not len(start):
        return [leaf.expand(len(times), *leaf.shape) for leaf in y0]
    distinct, rows = scaled.unique(return_inverse=True)
    found = solve_ivp(
        field, (0.0, float(distinct[-1])), start.numpy(), "DOP853", distinct.numpy(), rtol=1e-12, atol=1e-14 * case.size
    )
    assert found.success, found.message
    flat = torch.from_numpy(found.y.T)[rows]
    parts = flat.split([leaf.numel() for leaf in y0], 1)
    return [part.reshape(len(times), *leaf.shape) for part, leaf in zip(parts, y0, strict=True)]


def outcome(case: Case) -> str:
    """Solves the case: "solved" within a hundred tolerances, "warned" of what may be wrong, or "refused" in words.

    Raises:
        AssertionError: The result is wrong, and nothing was said.
    """
    times, tuples = times_of(case), len(case.shapes) > 1
    generator = torch.Generator().manual_seed(0)
    y0 = [
        (case.size * (0.1 + torch.rand(shape, generator=generator, dtype=torch.float64))).to(case.dtype)
        for shape in case.shapes
    ]
    start = float(times[0])
    options = {"per_sample": True} if case.per_sample and case.solver in EXPLICIT else {}

    def slope(t: Tensor, y: Tensor) -> Tensor:
        s = (t.to(y) - start) / case.span
        return PROBLEMS[case.problem](s[(..., *(None,) * (y.dim() - s.dim()))], y) / case.span

    def field(t: Tensor, state: Any) -> Any:
        return tuple(slope(t, leaf) for leaf in state) if tuples else slope(t, state)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            solver = look_up("solver", case.solver)(rtol=case.rtol, atol=case.atol, max_steps=500, **options)
            solution = of.solve(
                field, tuple(y0) if tuples else y0[0], times, solver=solver, params=(), dense=case.dense
            )
        except of.OdeflowError:
            return "refused"
    if any(issubclass(each.category, UserWarning) for each in said):
        return "warned"
    found = solution.y if tuples else (solution.y,)
    for right, leaf in zip(truth(case, times, y0), found, strict=True):
        assert leaf.dtype == case.dtype
        assert leaf.shape == right.shape
        if case.solver == "Dopri8":  # whose dense output is of a lower order than its steps, as its page says
            right, leaf = right[-1], leaf[-1]
        eps = torch.finfo(case.dtype).eps
        size = right.abs().amax() if right.numel() else torch.tensor(0.0)
        allowed = 100 * (case.atol + (case.rtol + eps) * size)
        assert not right.numel() or float((leaf.double() - right).abs().max()) <= float(allowed), (leaf, right)
    return "solved"


def run(count: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases)
    def each(case: Case) -> None:
        outcomes[outcome(case)] += 1

    each()
    return outcomes


def test_results_are_right_or_something_is_said() -> None:
    """Some dozens of cases; most are solved."""
    outcomes = run(40)
    assert outcomes["solved"] > 10, outcomes


@pytest.mark.slow
def test_results_are_right_or_something_is_said_at_length() -> None:
    """Five thousand cases."""
    outcomes = run(5000)
    print(outcomes)  # noqa: T201
    assert outcomes["solved"] > 1500, outcomes
