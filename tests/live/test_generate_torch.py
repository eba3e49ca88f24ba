"""Cached generation gives the same greedy tokens as a plain loop over the torch model."""

import pytest

pytest.importorskip("torch")

from experiments.bench.parity import WITHOUT_SPEECH, compare_tokens
from experiments.data import real_speech

N = 12


def test_greedy_tokens_agree_with_torch(asr):
    clips = [clip for clip in real_speech.recordings() if clip.set not in WITHOUT_SPEECH]
    comparisons = list(
        compare_tokens(
            asr,
            real_speech.select_evenly(clips, N)
            or [real_speech.Recording(real_speech.DEMO, "demo", "", "en", 0.0)],
            batch=4,
        )
    )
    assert len(comparisons) == (N if clips else 1)
    assert not [row for row in comparisons if row.verdict == "DIFFERENT"]
    assert sum(row.n_tokens for row in comparisons) >= 5 * len(comparisons)
