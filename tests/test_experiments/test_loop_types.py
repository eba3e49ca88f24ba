"""Planted attention decides about the type of a loop, and loops survive planted changes."""

import numpy as np
import pytest

from experiments.data.corpora import Utterance
from experiments.studies.loops import types
from experiments.studies.loops.stickiness import stickiness
from experiments.studies.loops.types import TextAttention, measure_type, type_of
from interventions.generation.transcripts import Repeat

PERIOD, COPIES = 4, 8
LOOP = [90, 91, *list(range(PERIOD)) * COPIES, 92]
STILL = np.full(len(LOOP), 40)
MOVING = np.arange(len(LOOP)) * 12  # 0.24 s per token


def uniform(n: int) -> np.ndarray:
    """Returns causal attention of two layers of three heads that is equal on all keys."""
    weights = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    return np.broadcast_to(weights, (2, 3, n, n)).copy()


def with_head(distance: int, weight: float = 0.9) -> np.ndarray:
    """Plants a head, layer 1, head 2, that attends to the token at a distance."""
    weights = uniform(len(LOOP))
    weights[1, 2] *= 1 - weight
    for query in range(distance, len(LOOP)):
        weights[1, 2, query, query - distance] += weight
    return weights


CLEAN = [TextAttention(MOVING, uniform(len(LOOP)))]


@pytest.mark.parametrize(
    ("frames", "weights", "expected"),
    [
        (STILL, uniform(len(LOOP)), "acoustic"),
        (MOVING, with_head(PERIOD - 1), "induction"),
        (MOVING, with_head(2 * PERIOD - 1), "induction"),
        (STILL, with_head(PERIOD - 1), "both"),
        (MOVING, uniform(len(LOOP)), "neither"),
        (MOVING, with_head(PERIOD - 2), "neither"),
    ],
)
def test_planted_attention_gives_the_type(frames, weights, expected):
    numbers = measure_type(TextAttention(frames, weights), LOOP, CLEAN)
    assert numbers["period"] == PERIOD
    assert type_of(numbers["movement"], numbers["copying"]) == expected


def test_a_head_that_has_the_distance_in_clean_speech_does_not_copy():
    attention = TextAttention(MOVING, with_head(PERIOD - 1))
    clean = [TextAttention(MOVING, with_head(PERIOD - 1))]
    assert measure_type(attention, LOOP, clean)["copying"] < 0.1


def test_reading_the_same_span_for_each_copy_is_standing_still():
    frames = np.array([0, 0, *list(range(100, 140, 10)) * COPIES, 0])
    assert measure_type(TextAttention(frames, uniform(len(LOOP))), LOOP, CLEAN)["movement"] == 0


def test_the_loop_is_found_between_other_tokens():
    assert types.find_loop(LOOP) == (2, Repeat(PERIOD, COPIES))
    # Without a loop, the longest repetition is returned.
    assert types.find_loop([7, 5, 6, 5, 6]) == (1, Repeat(2, 2))


def test_attention_of_a_text_has_one_frame_per_token(asr, data_dir):
    clip = Utterance("a", data_dir / "triggers" / "d1381_speech_reversed.flac")
    ids = asr.tokenizer.encode(" no, no, no, no, no, no, no, no,")
    attention = types.read_attention(asr, clip, ids)
    assert attention.frames.shape == (len(ids),)
    layers, heads = asr.config.n_text_layer, asr.config.n_text_head
    assert attention.self_attention.shape == (layers, heads, len(ids), len(ids))
    # Each row sums to at most 1, because the prompt also gets attention.
    assert (attention.self_attention.sum(-1) <= 1 + 1e-5).all()


def test_stickiness_agrees_with_the_stored_outputs(asr, data_dir):
    """The data folder states that this loop survives timestamps, but not the other padding."""
    clip = Utterance("a", data_dir / "triggers" / "d1439_speech_speed.flac")
    result = stickiness(asr, clip.samples(), asr.tokenizer.prompt(), max_new_tokens=48)
    assert (result["survives_padding"], result["survives_timestamps"]) == (0, 1)
    assert result["survives_noise"] in (0, 1)
