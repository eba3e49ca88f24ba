"""Labels of encoder frames have the times of the encoder's receptive fields."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_speech import SMALL, small_recogniser, tone

import jaxasr
from experiments.data.corpora import Span, Utterance
from experiments.data.frame_labels import energy, frame_labels, pitch, span_labels


@pytest.fixture(scope="module")
def changed_frames() -> Callable[[int], list[int]]:
    """Returns a function of a sample number. The function adds a click at this sample, and returns
    the frames of the encoder's embedding that change.
    """
    model, carrier = small_recogniser().model, tone(1000, seconds=10.0)
    readout = jaxasr.select("encoder.embed")

    def embedding(audio: np.ndarray) -> np.ndarray:
        mel = jaxasr.log_mel(audio, SMALL.n_mels)[None]
        return np.asarray(model.encode(mel, readout=readout)[1]["encoder.embed"][0])

    def frames(sample: int) -> list[int]:
        clicked = carrier.copy()
        clicked[sample - 5 : sample + 5] += 0.2
        change = np.abs(embedding(clicked) - embedding(carrier)).sum(-1)
        return np.flatnonzero(change > 1e-4).tolist()

    return frames


@pytest.mark.parametrize("frame", [7, 333])
def test_a_click_changes_the_frames_around_its_time(changed_frames, frame):
    """The receptive field of encoder frame i is centred at 20 i ms, where its 20 ms begin."""
    assert changed_frames(320 * frame) == [frame - 1, frame, frame + 1]
    assert changed_frames(320 * frame + 160) == [frame - 1, frame, frame + 1, frame + 2]


def test_a_span_labels_the_frames_whose_middle_it_covers():
    spans = [
        Span(0.0, 0.1, "sil"),
        Span(0.1, 0.131, "ah"),
        Span(0.131, 0.15, "t"),
        Span(0.17, 0.2, "s"),
    ]
    # Frames 5, 6, 7 and 8 have their middles at 110, 130, 150 and 170 ms; "t" covers none.
    assert span_labels(spans, 11).tolist() == ["sil"] * 5 + ["ah", "ah", "", "s", "s", ""]


def test_span_times_are_not_exact_in_floating_point():
    phones = [Span(i * 0.02, (i + 1) * 0.02, str(i)) for i in range(1500)]
    assert span_labels(phones, 1500).tolist() == [str(i) for i in range(1500)]


def test_energy_is_in_decibels_of_full_scale():
    loud = 0.5 * np.sin(2 * np.pi * 400 * np.arange(3300) / 16_000).astype(np.float32)
    decibels = energy(np.concatenate([loud, np.zeros(500, np.float32)])[:3500])
    assert len(decibels) == 11
    np.testing.assert_allclose(decibels[:10], 10 * np.log10(0.125), atol=1e-3)
    assert energy(np.zeros(1000, np.float32)).tolist() == [-100.0] * 4


def test_pitch_follows_a_step():
    def voice(hz: float) -> np.ndarray:
        time = np.arange(8_000) / 16_000
        harmonics = [np.sin(2 * np.pi * k * hz * time) / k for k in range(1, 8)]
        return np.sum(harmonics, 0).astype(np.float32) / 4

    audio = np.concatenate([voice(110), voice(220), np.zeros(4_000, np.float32)])
    f0 = pitch(audio)
    assert len(f0) == 63
    np.testing.assert_allclose(f0[3:22], 110, rtol=0.02)
    np.testing.assert_allclose(f0[28:47], 220, rtol=0.02)
    assert np.isnan(f0[55:]).all()


def test_labels_of_an_utterance_by_kind():
    spans = {"phones": (Span(0.0, 0.04, "s"), Span(0.04, 0.1, "iy"))}
    options = {
        "labels": {"noise": "clean"},
        "tiers": spans,
        "read": lambda: tone(300, seconds=0.095),
    }
    utterance = Utterance("u", Path("u"), "s7", **options)
    assert frame_labels(utterance, "phone").tolist() == ["s", "s", "iy", "iy", "iy"]
    assert frame_labels(utterance, "phone", 3).tolist() == ["s", "s", "iy"]
    assert frame_labels(utterance, "speaker").tolist() == ["s7"] * 5
    assert frame_labels(utterance, "noise", 2).tolist() == ["clean"] * 2
    assert np.isnan(frame_labels(utterance, "energy", 7)[5:]).all()
    with pytest.raises(ValueError, match="expected 'u' to have aligned words; it has: phones"):
        frame_labels(utterance, "word")
