"""Labels of encoder frames, and that the clock is the encoder's own."""

import numpy as np
import pytest
from small_speech import SMALL, small_recogniser, tone

import jaxasr
from experiments.data.corpora import Span, Utterance
from experiments.data.frame_labels import energy, frame_labels, pitch, span_labels


@pytest.fixture(scope="module")
def reached():
    """The frames of the encoder's input that a click at a sample moves."""
    model, carrier = small_recogniser().model, tone(1000, 10.0)
    embed = jaxasr.select("encoder.embed")

    def of(audio: np.ndarray) -> np.ndarray:
        return np.asarray(
            model.encode(jaxasr.log_mel(audio, SMALL.n_mels)[None], readout=embed)[1][
                "encoder.embed"
            ][0]
        )

    def reach(sample: int) -> list[int]:
        clicked = carrier.copy()
        clicked[sample - 5 : sample + 5] += 0.2
        moved = np.abs(of(clicked) - of(carrier)).sum(-1)
        return np.flatnonzero(moved > 1e-4).tolist()

    return reach


@pytest.mark.parametrize("frame", [7, 333])
def test_the_clock_is_the_encoder_s(reached, frame):
    """Mel frame j is centred at sample 160 j, encoder frame i at mel frame 2 i: at 20 i ms, where its own 20 ms begin."""
    assert reached(320 * frame) == [frame - 1, frame, frame + 1]
    assert reached(320 * frame + 160) == [frame - 1, frame, frame + 1, frame + 2]


def test_spans_take_the_frames_whose_middle_they_cover():
    spans = [
        Span(0.0, 0.1, "sil"),
        Span(0.1, 0.131, "ah"),
        Span(0.131, 0.15, "t"),
        Span(0.17, 0.2, "s"),
    ]
    #             0 … 4 are sil; 5 has its middle at 110 ms, 6 at 130; 7 at 150 is past "t", which never covers a middle; 8 at 170
    assert span_labels(spans, 11).tolist() == ["sil"] * 5 + ["ah", "ah", "", "s", "s", ""]


def test_times_that_floats_cannot_hold_exactly():
    phones = [Span(i * 0.02, (i + 1) * 0.02, str(i)) for i in range(1500)]
    assert span_labels(phones, 1500).tolist() == [str(i) for i in range(1500)]


def test_energy_in_decibels_of_full_scale():
    loud = 0.5 * np.sin(2 * np.pi * 400 * np.arange(3300) / 16_000).astype(np.float32)
    found = energy(np.concatenate([loud, np.zeros(500, np.float32)])[:3500])
    assert len(found) == 11
    np.testing.assert_allclose(found[:10], 10 * np.log10(0.125), atol=1e-3)
    assert energy(np.zeros(1000, np.float32)).tolist() == [-100.0] * 4


def test_pitch_of_a_voice_that_steps():
    def voice(hz: float) -> np.ndarray:
        time = np.arange(8_000) / 16_000
        return (
            sum(np.sin(2 * np.pi * k * hz * time) / k for k in range(1, 8)).astype(np.float32) / 4
        )

    audio = np.concatenate([voice(110), voice(220), np.zeros(4_000, np.float32)])
    f0 = pitch(audio)
    assert len(f0) == 63
    np.testing.assert_allclose(f0[3:22], 110, rtol=0.02)
    np.testing.assert_allclose(f0[28:47], 220, rtol=0.02)
    assert np.isnan(f0[55:]).all()


def test_labels_of_an_utterance():
    spans = {"phones": (Span(0.0, 0.04, "s"), Span(0.04, 0.1, "iy"))}
    one = Utterance(
        "u", None, "s7", labels={"noise": "clean"}, tiers=spans, read=lambda: tone(300, 0.095)
    )
    assert frame_labels(one, "phone").tolist() == ["s", "s", "iy", "iy", "iy"]
    assert frame_labels(one, "phone", 3).tolist() == ["s", "s", "iy"]
    assert frame_labels(one, "speaker").tolist() == ["s7"] * 5
    assert frame_labels(one, "noise", 2).tolist() == ["clean"] * 2
    assert np.isnan(frame_labels(one, "energy", 7)[5:]).all()
    with pytest.raises(ValueError, match="expected 'u' to have aligned words; it has: phones"):
        frame_labels(one, "word")
