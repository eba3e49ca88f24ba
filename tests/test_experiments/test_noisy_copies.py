"""Noisy copies of a corpus have the given signal-to-noise ratio, and are always the same."""

from pathlib import Path

import numpy as np
import pytest
from small_speech import tone, write

from experiments.data.corpora import Corpus, Utterance, with_noise
from interventions.corruptions import add


def made_corpus(n: int = 3) -> Corpus:
    utterances = [
        Utterance(
            f"u{i}",
            Path(f"u{i}"),
            labels={"kind": i % 2},
            read=lambda i=i: tone(300, seconds=0.5, seed=i),
            start_s=0.1,
            end_s=0.4,
        )
        for i in range(n)
    ]
    return Corpus("made", "memory", tuple(utterances))


def test_noise_is_added_at_its_ratio(tmp_path):
    write(tmp_path / "noise" / "a.wav", tone(3000, seconds=0.1))
    corpus = with_noise(made_corpus(), ["snr:10", f"snr:0:{tmp_path / 'noise'}"])
    labels = [clip.label("noise") for clip in corpus.utterances]
    assert labels == ["clean"] * 3 + ["snr:10", "snr:0:noise"] * 3
    clean = corpus.utterances[0].samples()
    for clip, snr in ((corpus.utterances[3], 10), (corpus.utterances[4], 0)):
        noise = clip.samples() - clean
        assert len(noise) == len(clean) == 4_800
        ratio = 10 * np.log10(np.mean(clean**2) / np.mean(noise**2))
        assert ratio == pytest.approx(snr, abs=1e-3)
        np.testing.assert_array_equal(clip.samples(), clip.samples())  # the seed is fixed
    spectrum = np.abs(np.fft.rfft(corpus.utterances[4].samples() - clean))
    assert np.argmax(spectrum) * 16_000 / 4_800 == pytest.approx(3000, abs=10)
    for bad in ("snr:10:nowhere", "zero", "louder"):
        with pytest.raises(ValueError, match=r"noise|expected noise"):
            with_noise(made_corpus(), [bad])
    with pytest.raises(ValueError, match="silent"):
        add(clean, np.zeros(10, np.float32), snr_db=5)
