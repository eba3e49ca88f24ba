"""PackedRows of a part see what their own column computes and, of the rest before them, what was stored."""

import numpy as np

from interventions.patching.packing import PackedRows, packed


def test_a_row_sees_every_position_before_it_exactly_once():
    columns = [np.arange(2, 6), np.array([3, 5]), np.array([5])]
    rows = PackedRows.of(columns, n_slots=6, n_columns=5, n_rows=11)
    for row, position in enumerate(np.concatenate(columns)):
        assert sorted(rows.keys[rows.mask[row]]) == list(range(position + 1))
    column = np.repeat([0, 1, 2], [4, 2, 1])
    assert not rows.mask[:7, 6:13][column[:, None] != column].any()


def test_columns_know_where_they_begin_and_end():
    rows = PackedRows.of([np.arange(2, 6), np.array([3, 5])], n_slots=6, n_columns=3, n_rows=9)
    np.testing.assert_array_equal(rows.position[rows.first_row[:2]], rows.start[:2])
    np.testing.assert_array_equal(rows.position[rows.scored_row[:2]], [5, 5])
    assert rows.first_row[2] == 9  # a column that fills up writes nowhere
    np.testing.assert_array_equal(np.flatnonzero(rows.is_first), [0, 4])


def test_rows_that_fill_up_see_only_themselves():
    rows = PackedRows.of([np.array([3, 5])], n_slots=6, n_columns=1, n_rows=4)
    np.testing.assert_array_equal(rows.mask[2:], np.eye(10, dtype=bool)[8:])


def test_columns_are_packed_in_order_and_none_is_cut():
    columns = [np.arange(n) for n in (5, 4, 3, 2, 1)]
    assert list(packed(columns, 6)) == [[0], [1], [2, 3, 4]]
    assert list(packed(columns, 3)) == [[0], [1], [2], [3, 4]]
    assert list(packed([], 3)) == []
