"""Packed rows attend to rows of their own column, and to stored keys of other positions."""

import numpy as np

from interventions.patching.packing import PackedRows, pack_columns


def test_a_row_attends_to_every_earlier_position_exactly_once():
    columns = [np.arange(2, 6), np.array([3, 5]), np.array([5])]
    rows = PackedRows.of(columns, n_stored=6, n_columns=5, n_rows=11)
    for row, position in enumerate(np.concatenate(columns)):
        assert sorted(rows.key_positions[rows.mask[row]]) == list(range(position + 1))
    column = np.repeat([0, 1, 2], [4, 2, 1])
    assert not rows.mask[:7, 6:13][column[:, None] != column].any()


def test_first_and_scored_rows_are_those_of_the_columns():
    rows = PackedRows.of([np.arange(2, 6), np.array([3, 5])], n_stored=6, n_columns=3, n_rows=9)
    np.testing.assert_array_equal(rows.positions[rows.first_rows[:2]], rows.first_positions[:2])
    np.testing.assert_array_equal(rows.positions[rows.scored_rows[:2]], [5, 5])
    assert rows.first_rows[2] == 9  # a padding column has no first row
    np.testing.assert_array_equal(np.flatnonzero(rows.is_first), [0, 4])


def test_padding_rows_attend_only_to_themselves():
    rows = PackedRows.of([np.array([3, 5])], n_stored=6, n_columns=1, n_rows=4)
    np.testing.assert_array_equal(rows.mask[2:], np.eye(10, dtype=bool)[8:])


def test_columns_are_packed_in_order_and_stay_whole():
    columns = [np.arange(n) for n in (5, 4, 3, 2, 1)]
    assert list(pack_columns(columns, 6)) == [[0], [1], [2, 3, 4]]
    assert list(pack_columns(columns, 3)) == [[0], [1], [2], [3, 4]]
    assert list(pack_columns([], 3)) == []
