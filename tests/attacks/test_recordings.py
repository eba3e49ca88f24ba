"""Reads damaged recordings of each kind. `python -m tests.attacks.recordings` reads thousands."""

from collections.abc import Iterator

import pytest

from attacks.recordings import attack, mutate_recording
from attacks.sample_files import intact_recordings


@pytest.fixture(scope="module")
def intact() -> dict[str, bytes]:
    return intact_recordings()


def damaged(intact: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yields the first half of each recording, then one mutated recording of each kind."""
    for kind, content in intact.items():
        yield kind, content[: len(content) // 2]
    for number in range(len(intact)):
        yield mutate_recording(intact, number, seed=2)


def test_damaged_recordings_give_the_same_result_in_any_memory(intact, tmp_path):
    results = list(attack(damaged(intact), tmp_path))
    faults = [
        (path, outcomes)
        for _, path, verdict, outcomes in results
        if verdict not in ("read", "refused")
    ]
    assert not faults
    # The first half of these files holds no samples, because the index is at the end of the file or
    # the file is a single block.
    refused = {kind for kind, _, verdict, _ in results[: len(intact)] if verdict == "refused"}
    assert refused == {"m4a", "mov", "wavpack"}
