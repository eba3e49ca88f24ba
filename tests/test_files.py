"""Files appear whole or not at all; JSON is strict."""
import json

import numpy as np
import pytest

from experiments.files import to_json, write_text


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half\ud800")  # a lone surrogate has no UTF-8
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_file_can_be_read_by_others(tmp_path):
    assert write_text(tmp_path / "a", "x").stat().st_mode & 0o444 == 0o444


def test_json_of_arrays_and_of_what_is_not_finite():
    value = {"a": np.float32(0.5), "b": np.array([[1.0, np.nan]]), 3: (True, None, np.int64(4), np.bool_(True)), "p": float("-inf")}
    assert json.loads(to_json(value)) == {"a": 0.5, "b": [[1.0, None]], "3": [True, None, 4, True], "p": None}
