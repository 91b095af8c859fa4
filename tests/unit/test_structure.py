"""Structures: data are of a declared type, or the first part that is not is named."""

from typing import Annotated, Any, NotRequired, TypedDict

import pytest
import torch
from torch import Tensor

from odeflow.plugin.structure import Only, like, mismatch


class Inner(TypedDict):
    count: Annotated[int, Only(lambda value: value >= 0, "a count")]
    rate: NotRequired[float | None]


class Outer(TypedDict):
    inner: list[Inner]
    weights: dict[str, Tensor]


SOUND = {"inner": [{"count": 1}, {"count": 2, "rate": 3, "more": object()}], "weights": {"a": torch.zeros(2)}}


def test_what_is_declared_has_no_mismatch():
    """Entries that are not declared, whole numbers as numbers, and tuples as lists are fine."""
    assert mismatch(SOUND, Outer) is None
    assert mismatch((1, 2.5), list[float]) is None
    assert mismatch(object(), Any) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "it must be a mapping; got []"),
        ({"inner": []}, "it has no 'weights'"),
        ({**SOUND, "inner": {}}, "inner must be a list; got {}"),
        ({**SOUND, "inner": [{"count": 1}, {}]}, "inner[1] has no 'count'"),
        ({**SOUND, "inner": [{"count": -1}]}, "inner[0]/count must be a count; got -1"),
        ({**SOUND, "inner": [{"count": True}]}, "inner[0]/count must be a whole number; got True"),
        ({**SOUND, "inner": [{"count": 1, "rate": "x"}]}, "inner[0]/rate must be a number or nothing; got 'x'"),
        ({**SOUND, "weights": {"a": 1}}, "weights/a must be a tensor; got 1"),
        ({**SOUND, "weights": {3: torch.zeros(1)}}, "a key of weights must be text; got 3"),
    ],
)
def test_the_first_mismatch_is_named(value, told):
    """The message has the place, the declared type and the value."""
    assert mismatch(value, Outer) == told


def test_data_like_an_example():
    """Entries may be absent; those that are there have the types of the example."""
    kind = like({"rates": [0.1], "step": 3, "inner": {"flag": False}, "unknown": None})
    assert mismatch({"step": 2.5, "unknown": "x", "inner": {}}, kind) is None
    assert mismatch({"rates": 0.1}, kind) == "rates must be a list; got 0.1"
    assert mismatch({"inner": {"flag": 0}}, kind) == "inner/flag must be true or false; got 0"
