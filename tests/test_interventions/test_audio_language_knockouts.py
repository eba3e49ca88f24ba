"""Knock-outs by audio time and edits in files act on audio language models."""

import jax
import numpy as np
import pytest
from audio_language import LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens

import interventions as iv
import jaxasr


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def run(model):
    """Returns three recordings of different lengths, with tokens padded on the left."""
    mel = tiny_mel(model.config)
    n_audio = np.asarray(model.encode(mel, lengths=LENGTHS)[0].lengths)
    tokens, positions = tiny_tokens(model.config, n_audio)
    run = iv.Run(tokens, mel, positions=positions, lengths=LENGTHS)
    return run.encode(model)


def test_the_knocked_out_audio_gets_no_attention(model, run):
    readout = jaxasr.select("decoder.attn.pattern")
    edits = {"decoder.attn.scores": iv.knockout(frames=slice(1, 3))}
    logits, acts = run.decode(model, edits, readout)
    _, before = run.decode(model, None, readout)
    pattern, unedited = (np.asarray(x["decoder.attn.pattern"])[0] for x in (acts, before))
    for row in range(3):
        audio = np.flatnonzero(run.tokens[row] == model.config.audio_token)
        masked = np.isin(np.arange(run.tokens.shape[1]), audio[1:3])
        later = pattern[row, :, audio[-1] + 1 :]
        assert not later[..., masked].any()
        # The first layer gives the weight to the other keys, in proportion.
        old = unedited[row, :, audio[-1] + 1 :, ~masked]
        expected = np.moveaxis(old / old.sum(0), 0, -1)
        np.testing.assert_allclose(later[..., ~masked], expected, atol=1e-6)
        keys = iv.knockout(np.asarray(run.positions)[row, audio[1:3]])
        alone, _ = run.row(row).decode(model, {"decoder.attn.scores": keys})
        np.testing.assert_allclose(alone[0, -1], logits[row, -1], atol=1e-5)


def test_cached_generation_equals_a_teacher_forced_pass(model, run):
    edits = {"decoder.attn.scores": iv.knockout(frames=[0, 2])}

    def without_audio(logits, tokens, n_tokens, n_prompt):
        return logits.at[..., model.config.audio_token].set(-np.inf)

    options = {"positions": run.positions, "edits": edits, "rules": without_audio}
    out = jaxasr.generate(model, run.memory, run.tokens, max_new_tokens=4, **options)
    tokens = np.concatenate([run.tokens, out.tokens], 1)
    last = np.asarray(run.positions)[:, -1:] + np.arange(1, 5)
    positions = np.concatenate([run.positions, last], 1)
    logits, _ = model.decode(tokens, run.memory, edits, positions=positions)
    logprobs = np.asarray(jax.nn.log_softmax(without_audio(logits, 0, 0, 0)))[:, -5:-1]
    expected = np.take_along_axis(logprobs, np.asarray(out.tokens)[..., None], -1)[..., 0]
    for row, length in enumerate(np.asarray(out.lengths)):
        np.testing.assert_allclose(out.logprobs[row, :length], expected[row, :length], atol=1e-5)


def test_edits_of_the_new_sites_are_saved_and_loaded(model, run, tmp_path):
    _, acts = run.decode(model, None, jaxasr.select("decoder.attn.k_rot"))
    edits = {
        "decoder.attn.scores": iv.knockout(frames=slice(1, 3)),
        "decoder.attn.q_rot": iv.only(iv.Scale(2.0), heads=3, frames=[0, 1]),
        "decoder.attn.k_rot": iv.only(iv.Patch(acts["decoder.attn.k_rot"]), layers=1),
        "decoder.mlp.up": iv.only(iv.Zero(), layers=0, positions=2),
    }
    iv.save_edits(edits, tmp_path / "edits")
    loaded = iv.load_edits(tmp_path / "edits")
    expected, _ = run.decode(model, edits)
    np.testing.assert_array_equal(run.decode(model, loaded)[0], expected)
    assert not np.array_equal(expected, run.decode(model)[0])


def test_edits_of_pooled_audio_are_saved_and_loaded(model, tmp_path):
    edits = {"encoder.pool": iv.Scale(0.5), "encoder.project": iv.only(iv.Zero(), positions=1)}
    iv.save_edits(edits, tmp_path / "edits")
    mel, loaded = tiny_mel(model.config), iv.load_edits(tmp_path / "edits")
    memory, edited = (model.encode(mel, e, lengths=LENGTHS)[0].xa for e in (loaded, edits))
    np.testing.assert_array_equal(memory, edited)
    assert not np.asarray(memory)[:, 1].any()


def test_impossible_knockouts_raise(model, run, request):
    too_late = {"decoder.attn.scores": iv.knockout(frames=model.config.n_audio_tokens)}
    with pytest.raises(ValueError, match=r"frames: .* lies outside of 0 to"):
        run.decode(model, too_late)
    with pytest.raises(ValueError, match="keys: expected None with frames"):
        iv.knockout(1, frames=2)
    whisper = request.getfixturevalue("tiny_model")
    memory, _ = whisper.encode(np.zeros((1, 7, 22), np.float32))
    tokens = np.zeros((1, 3), np.int32)
    edit = iv.knockout(frames=slice(0, 4))
    with pytest.raises(ValueError, match=r"the keys at 'decoder\.attn\.scores' hold no audio"):
        whisper.decode(tokens, memory, {"decoder.attn.scores": edit})
    by_frame, _ = whisper.decode(tokens, memory, {"decoder.cross_attn.scores": edit})
    keys = {"decoder.cross_attn.scores": iv.knockout(slice(0, 4))}
    np.testing.assert_array_equal(by_frame, whisper.decode(tokens, memory, keys)[0])
