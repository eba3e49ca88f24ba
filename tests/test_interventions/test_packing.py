"""Packed rows attend to rows of their own column, and to stored keys of other positions."""

import numpy as np

from interventions.patching.packing import Column, PackedRows, pack_columns


def column(rows, edited):
    return Column(np.array(rows), np.array(edited))


def test_a_row_attends_to_every_earlier_position_exactly_once():
    columns = [column(range(2, 6), [2]), column([3, 5], [3]), column([5], [5])]
    rows = PackedRows.of(columns, n_stored=6, n_columns=5, n_rows=11, n_edited=5)
    for row, position in enumerate(np.concatenate([column.rows for column in columns])):
        assert sorted(rows.key_positions[rows.mask[row]]) == list(range(position + 1))
    column_of_row = np.repeat([0, 1, 2], [4, 2, 1])
    assert not rows.mask[:7, 6:13][column_of_row[:, None] != column_of_row].any()


def test_edited_and_scored_rows_are_those_of_the_columns():
    columns = [column(range(2, 6), [2, 3]), column([3, 5], [3])]
    rows = PackedRows.of(columns, n_stored=6, n_columns=3, n_rows=9, n_edited=4)
    np.testing.assert_array_equal(rows.edited_positions[:3], [2, 3, 3])
    np.testing.assert_array_equal(rows.positions[rows.edited_rows[:3]], [2, 3, 3])
    np.testing.assert_array_equal(rows.positions[rows.scored_rows[:2]], [5, 5])
    assert rows.edited_rows[3] == 9  # padding has no row
    np.testing.assert_array_equal(np.flatnonzero(rows.is_edited), [0, 1, 4])


def test_padding_rows_attend_only_to_themselves():
    rows = PackedRows.of([column([3, 5], [3])], n_stored=6, n_columns=1, n_rows=4, n_edited=1)
    np.testing.assert_array_equal(rows.mask[2:], np.eye(10, dtype=bool)[8:])


def test_batches_have_similar_sizes_and_whole_columns():
    assert pack_columns((5, 4, 3, 2, 1), 15) == [[0, 1, 2, 3, 4]]
    assert pack_columns((5, 4, 3, 2, 1), 6) == [[0], [1, 4], [2, 3]]
    assert pack_columns((5, 4, 3, 2, 1), 3) == [[0], [1, 4], [2, 3]]
    assert pack_columns((4, 4, 4), 7) == [[0], [1], [2]]
    assert pack_columns([], 3) == []


def test_windows_of_decreasing_columns_need_little_padding():
    sizes = range(261, 11, -25)
    for max_rows in (261, 300, 512):
        batches = pack_columns(sizes, max_rows)
        assert sorted(i for batch in batches for i in batch) == list(range(10))
        padded = len(batches) * max(sum(sizes[i] for i in batch) for batch in batches)
        assert padded <= 1.06 * sum(sizes)
