"""A few damaged recordings of each kind: see `recordings` for many."""

from collections.abc import Iterator

import pytest

from attacks.recordings import attack, mutated
from attacks.written import kinds


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    return kinds()


def damaged(sound: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for kind, content in sound.items():
        yield kind, content[: len(content) // 2]
    for number in range(len(sound)):
        yield mutated(sound, number, seed=2)


def test_damaged_recordings_are_read_or_refused_the_same_in_any_memory(sound, tmp_path):
    found = list(attack(damaged(sound), tmp_path))
    faults = [
        (path, outcomes)
        for _, path, verdict, outcomes in found
        if verdict not in ("read", "refused")
    ]
    assert not faults
    # Of these the first half says nothing: the index comes at the end, or all is one block.
    refused = {kind for kind, _, verdict, _ in found[: len(sound)] if verdict == "refused"}
    assert refused == {"m4a", "mov", "wavpack"}
