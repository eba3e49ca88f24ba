"""A recording is cut to a window, times are printed as clocks, and steps are timed."""

import numpy as np
import pytest

from experiments.analyses.lens import cut_window
from experiments.commands.subtitles import clock
from experiments.progress import Progress


@pytest.mark.parametrize(("start", "length"), [(0.0, 480_000), (1.5, 480_000), (39.0, 16_000)])
def test_window_is_at_most_thirty_seconds(start, length):
    audio = np.arange(40 * 16_000, dtype=np.float32)
    samples = cut_window(audio, start)
    assert len(samples) == length
    assert samples[0] == round(start * 16_000)


def test_a_window_past_the_end_is_an_error():
    with pytest.raises(ValueError, match=r"expected less than the recording's 1\.00 s, got 1 s"):
        cut_window(np.zeros(16_000, np.float32), 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00.000"), (59.9996, "01:00.000"), (61.234, "01:01.234"), (3_725.5, "01:02:05.500")],
)
def test_a_clock_shows_hours_only_from_one_hour_on(seconds, text):
    assert clock(seconds, ".") == text


def test_steps_are_timed_and_printed_on_standard_error(capsys):
    steps = Progress()
    with steps("one [red]"):
        pass
    with steps.bar("two") as progress:
        progress(1, 2)
    assert list(steps.seconds) == ["one [red]", "two"]
    assert steps.total >= 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "one [red]" in output.err


def test_a_failed_step_is_not_counted():
    steps = Progress(quiet=True)
    with pytest.raises(KeyError), steps("bad"):
        raise KeyError
    assert not steps.seconds
