"""Kills one of two processes. `python -m tests.attacks.processes` runs more jobs."""

from attacks import processes


def test_a_killed_process_that_is_started_again_gives_the_bits_of_one_process(tmp_path):
    assert processes.compare("library", tmp_path, victim=1, kill_at=9) == (True, [])
