"""Frames and audio tokens of padding are no places: edits, knock-outs and means leave them out."""

import jax.numpy as jnp
import numpy as np
import pytest
from audio_language import LENGTHS, tiny_mel, tiny_model

import interventions as iv
import jaxasr
from interventions.patching.sources import mean_over_time

SHORT, N_FRAMES, N_TOKENS = 2, 5, 2  # the shortest row, its encoder frames and audio tokens
PATTERN, SCORES = "encoder.attn.pattern", "encoder.attn.scores"


def encode(edits=None, change=0.0, lengths=LENGTHS):
    """Returns the audio of the short row, and its pattern at the frames of the recording.

    `change` is added to the padding of the short row. Its first two frames of padding belong to the
    recording, because the convolutions read them.
    """
    model = tiny_model()
    mel = tiny_mel(model.config)
    mel[SHORT, :, LENGTHS[SHORT] + 2 :] += change
    memory, acts = model.encode(mel, edits, jaxasr.select(PATTERN), lengths=lengths)
    assert np.isfinite(memory.xa).all()
    pattern = np.asarray(acts[PATTERN])[:, SHORT, :, :N_FRAMES]
    return np.asarray(memory.xa)[SHORT, :N_TOKENS], pattern


@pytest.mark.parametrize(
    "edits",
    [
        {},
        {SCORES: iv.knockout(range(N_FRAMES))},
        {SCORES: iv.knockout(frames=range(1, 9))},
        {PATTERN: iv.attend_only_to(range(19))},
        {PATTERN: iv.attend_only_to(range(3, 10))},
        {PATTERN: iv.attend_only_to(range(N_FRAMES, 10))},
        {"encoder.embed": iv.Noise(0, 0.5)},
    ],
)
def test_no_edit_makes_a_frame_attend_to_padding(edits):
    audio, pattern = encode(edits)
    assert not pattern[..., N_FRAMES:].any()
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(audio, encode(edits, change=7.0)[0])


def test_uniform_attention_is_divided_among_frames_of_the_recording():
    _, pattern = encode({PATTERN: iv.attend_only_to(range(3, 10))})
    np.testing.assert_allclose(pattern[..., :N_FRAMES], [[[[0, 0, 0, 0.5, 0.5]] * 5] * 3] * 3)


@pytest.mark.parametrize("edit", [iv.knockout(range(N_FRAMES)), iv.knockout(frames=range(7))])
def test_a_knockout_of_the_whole_recording_leaves_its_row_unchanged(edit):
    audio, pattern = encode({SCORES: edit})
    plain, plain_pattern = encode()
    np.testing.assert_array_equal(audio, plain)
    np.testing.assert_array_equal(pattern, plain_pattern)


def test_a_knockout_of_all_keys_is_refused_by_keys_and_by_frames(request):
    everywhere = {"keys": range(20)}, {"frames": range(20)}
    for arguments in everywhere:
        with pytest.raises(ValueError, match=r"expected some of the 20 keys .* got all 20 keys"):
            encode({SCORES: iv.knockout(**arguments)})
    whisper = request.getfixturevalue("tiny_model")
    mel = np.zeros((1, 7, 22), np.float32)
    memory, _ = whisper.encode(mel)
    for name in ("keys", "frames"):
        everything = iv.knockout(**{name: range(11)})
        edits = {"decoder.cross_attn.scores": everything}
        with pytest.raises(ValueError, match=f"{name}: expected some of the 11 keys"):
            whisper.encode(mel, {SCORES: everything})
        with pytest.raises(ValueError, match=f"{name}: expected some of the 11 keys"):
            whisper.decode(np.zeros((1, 3), np.int32), memory, edits)


def test_a_query_that_may_attend_only_to_knocked_out_audio_keeps_its_scores():
    model = tiny_model()
    memory, _ = model.encode(tiny_mel(model.config)[:1])
    tokens = np.array([[98] * 10 + [3, 4]])  # the audio comes first, so its queries see only audio
    readout = jaxasr.select("decoder.attn.pattern")
    edits = {"decoder.attn.scores": iv.knockout(frames=range(10))}
    logits, acts = model.decode(tokens, memory, edits, readout)
    _, plain = model.decode(tokens, memory, None, readout)
    pattern, before = (np.asarray(x["decoder.attn.pattern"])[0, 0] for x in (acts, plain))
    np.testing.assert_array_equal(pattern[:, :10], before[:, :10])
    assert not pattern[:, 10:, :10].any()
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("site", ["encoder.resid_post", "encoder.pool", "encoder.project"])
def test_edits_have_negative_positions_at_padding(site):
    seen = []

    def edit(x, at):
        seen.append(at.positions)
        return jnp.where((at.positions >= 0)[..., None], x, 0)

    model = tiny_model()
    n_steps = [20, 15, 5] if site == "encoder.resid_post" else [10, 7, 2]
    readout = jaxasr.select(site)
    _, acts = model.encode(tiny_mel(model.config), {site: edit}, readout, lengths=LENGTHS)
    is_real = np.asarray(acts[site]).reshape(-1, *acts[site].shape[-3:]).any((0, 3))
    assert is_real.sum(1).tolist() == n_steps
    assert seen


@pytest.mark.parametrize("tool", [iv.sweep, iv.attribution])
def test_a_mean_ablation_does_not_depend_on_the_padding(tool):
    model, effects = tiny_model(), []
    mel, lengths = tiny_mel(model.config)[SHORT:], LENGTHS[SHORT:]
    options = {"site": "encoder.resid_post", "over": ("layer",), "metric": iv.logprob(5)}
    for change in (0.0, 7.0):
        mel[:, :, LENGTHS[SHORT] + 2 :] += change  # the convolutions read two frames of padding
        run = iv.Run(np.array([[3, 98, 98, 4, 5]]), mel, lengths=lengths)
        effects.append(tool(model, run, "mean", **options).values)
    np.testing.assert_allclose(*effects, atol=1e-6)


@pytest.mark.parametrize(
    ("site", "n_steps"),
    [("encoder.conv1", 9), ("encoder.conv2", 5), (PATTERN, 5), ("encoder.project", 2)],
)
def test_a_mean_covers_only_the_recording(site, n_steps):
    config = tiny_model().config
    _, acts = tiny_model().encode(tiny_mel(config), None, jaxasr.select(site), lengths=LENGTHS)
    x = acts[site]
    mean = mean_over_time(config, x, site, LENGTHS)
    # The time axis is the second to last one at all these sites.
    row = (slice(None), SHORT) if site == PATTERN else (SHORT,)
    np.testing.assert_allclose(
        mean[row], x[row][..., :n_steps, :].mean(-2, keepdims=True), atol=1e-6
    )
    assert mean_over_time(tiny_model("voxtral").config, x, site, LENGTHS).shape == mean.shape
