"""Laws of the evaluation by several processes."""

import itertools
import math

import pytest

import odeflow as of
from odeflow.training.each_once import EachOnce


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_each_sample_is_in_one_process(processes: int, batch_size: int) -> None:
    """All processes have as many batches, none of them empty; together they have each sample once."""
    for count in range(processes, 40):
        samplers = [EachOnce(range(count), batch_size, processes, rank) for rank in range(processes)]
        given = [[*each] for each in samplers]
        assert sorted(itertools.chain(*given)) == [*range(count)]
        assert [len(each) for each in samplers] == [*map(len, given)]
        (size,) = {each.batch_size for each in samplers}
        assert size == batch_size if processes == 1 else size >= batch_size
        assert len({math.ceil(len(each) / size) for each in given}) == 1


def test_fewer_samples_than_processes() -> None:
    """Processes without a sample of their own repeat one, so that none of them has nothing to do."""
    assert [[*EachOnce(range(2), 4, 5, rank)] for rank in range(5)] == [[0], [1], [0], [1], [0]]


def test_no_samples() -> None:
    """Of an empty part there are no batches, in any process."""
    assert [[*EachOnce(range(0), 4, 2, rank)] for rank in range(2)] == [[], []]


def test_one_process_has_all_in_order() -> None:
    """Without other processes it is a plain loader."""
    loader = of.evaluation_loader(range(7), 3)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]
