"""Processes divide items into contiguous shares."""

import pytest

from jaxasr.processes import Process, share, this_process


@pytest.mark.parametrize("n", [0, 1, 5, 8, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_all_items_once_and_differ_by_one_item_at_most(n, count):
    shares = [share(n, index, count) for index in range(count)]
    assert [item for items in shares for item in items] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_knows_its_share_and_the_others():
    assert list(Process(1, 3).share(4)) == [1]
    assert Process(1, 3).others() == [Process(0, 3), Process(2, 3)]
    assert [Process(i, 2).is_first for i in range(2)] == [True, False]
    assert this_process() == Process(0, 1)


def test_numbers_outside_of_the_range_are_refused():
    with pytest.raises(ValueError, match="index: expected a number from 0 to below 2, got 2"):
        Process(2, 2)
    with pytest.raises(ValueError, match="n: expected 0 or more items, got -1"):
        share(-1, 0, 1)
