"""The store of an audio language model holds what single, unpadded passes give."""

from pathlib import Path

import numpy as np
import pytest
from small_speech import small_recogniser, tone, tones

import jaxasr
from experiments import store
from experiments.data.corpora import Corpus, Utterance
from experiments.store import pools
from jaxasr.language.toy import write_toy

LENGTHS_S = [0.5, 1.01, 0.3, 2.0, 0.7]
FRAMES = [25, 51, 15, 100, 35]  # encoder frames of 20 ms, without padding
AUDIO_TOKENS = {"qwen2_audio": [12, 25, 7, 50, 17], "voxtral": [7, 13, 4, 25, 9]}
ENCODER = ("encoder.conv1", "encoder.resid_post", "encoder.ln_post", "encoder.project")
DECODER = ("decoder.embed", "decoder.resid_post", "decoder.attn.k_rot")
OPTIONS = {"pool": ("speech", "audio", "all", "last", 3, "frames"), "batch": 2}


@pytest.fixture(scope="module", params=["qwen2_audio", "voxtral"])
def asr(request, tmp_path_factory):
    return jaxasr.load(write_toy(tmp_path_factory.mktemp("toy") / "toy", request.param))


@pytest.fixture(scope="module")
def full(asr, tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "store"
    sites = (*ENCODER, *DECODER)
    return store.extract(asr, tones(LENGTHS_S), path, sites=sites, max_new_tokens=6, **OPTIONS)


def plain_passes(asr, audio):
    """Returns the activations of one recording, where its audio is, and the number of tokens."""
    inputs = asr.inputs([audio], language="en")
    memory, encoded = asr.model.encode(
        inputs.mel, lengths=inputs.lengths, readout=jaxasr.select(*ENCODER)
    )
    [ids] = asr.generate(inputs, max_new_tokens=6).ids
    tokens = np.array([[*inputs.tokens[0], *ids, asr.config.eos[0]]])
    # A generated audio token is text, and `decode` refuses it.
    assert asr.config.audio_token not in ids
    _, decoded = asr.model.decode(tokens, memory, readout=jaxasr.select(*DECODER))
    first = int(np.argmax(inputs.tokens[0] == asr.config.audio_token))
    return encoded | decoded, first, inputs.tokens.shape[1], tokens.shape[1]


def test_pools_and_frames_equal_those_of_plain_passes(asr, full):
    assert full.ids == ["u2", "u0", "u4", "u1", "u3"]
    for i, utterance in enumerate(tones(LENGTHS_S).utterances):
        row = full.ids.index(utterance.id)
        acts, first, n_prompt, n_tokens = plain_passes(asr, utterance.samples())
        n_audio = AUDIO_TOKENS[asr.config.family][i]
        for site in full.sites:
            n_features = full.activations(site, "last").shape[-1]
            x = np.asarray(acts[site])
            x = x.reshape(-1, x.shape[1 + (site in jaxasr.sites.LAYERED)], n_features)
            clock, scale = pools.clock_of(asr.config, site), 1 + (site == "encoder.conv1")
            n = {"encoder": FRAMES[i] * scale, "audio": n_audio, "decoder": n_tokens}[clock]
            speech = slice(n_prompt, n_tokens - 1) if clock == "decoder" else slice(n)
            audio = slice(first, first + n_audio) if clock == "decoder" else speech
            last = slice(n - scale, n)
            expected = {
                "speech": x[:, speech].mean(1),
                "audio": x[:, audio].mean(1),
                "all": (x[:, :n] if clock == "decoder" else x).mean(1),
                "last": x[:, last].mean(1),
                "3": x[:, 3 * scale : 4 * scale].mean(1),
            }
            for pool, value in expected.items():
                pooled = full.activations(site, pool)[:, row]
                np.testing.assert_allclose(pooled, value, rtol=1e-4, atol=2e-5, err_msg=site)
            frames, offsets = full.frames(site)
            frames = frames[:, offsets[row] : offsets[row + 1]]
            np.testing.assert_allclose(frames, x[:, :n], rtol=1e-4, atol=2e-5, err_msg=site)
        assert full.dataset.n_frames.values[row] == FRAMES[i]
        assert full.dataset.n_audio_tokens.values[row] == n_audio
        assert full.dataset.first_audio_token.values[row] == first


def test_names_of_the_time_axes_tell_steps_of_different_lengths(asr, full):
    dims = {site: full.dataset[f"{site}.frames"].dims[-2] for site in full.sites}
    is_pooled_first = asr.config.family == "qwen2_audio"
    assert dims["encoder.ln_post"] == ("audio_frame" if is_pooled_first else "encoder_frame")
    assert dims["encoder.project"] == "audio_frame"
    assert dims["encoder.conv1"] == "encoder_mel_frame"
    assert dims["decoder.attn.k_rot"] == "decoder_frame"
    full.verify()


def test_a_transcript_is_read_after_the_prompt(asr, tmp_path):
    audio = tone(300, seconds=0.5)
    clip = Utterance("a", Path("a"), read=lambda: audio, transcript="The captain.")
    forced = store.extract(
        asr,
        Corpus("one", "memory", (clip,)),
        tmp_path / "forced",
        sites=["decoder.resid_post"],
        pool=("last", "speech"),
        text="transcript",
        language="de",
        batch=1,
    )
    inputs = asr.inputs([audio], language="de")
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    tokens = [*inputs.tokens[0], *asr.tokenizer.encode(" The captain."), asr.config.eos[0]]
    readout = jaxasr.select("decoder.resid_post")
    x = np.asarray(
        asr.model.decode(np.array([tokens]), memory, readout=readout)[1][readout.sites[0]]
    )
    options = {"rtol": 1e-4, "atol": 2e-5}
    np.testing.assert_allclose(forced.activations(readout.sites[0], "last"), x[:, :, -1], **options)
    text = x[:, :, inputs.tokens.shape[1] : -1].mean(2)
    np.testing.assert_allclose(forced.activations(readout.sites[0]), text, **options)


def test_recordings_without_an_audio_token_or_longer_than_a_window_are_listed(asr, tmp_path):
    lengths = {"short": 0.01, "long": 2.1, "good": 0.4}
    clips = tuple(
        Utterance(name, Path(name), read=lambda n=n: tone(300, seconds=n))
        for name, n in lengths.items()
    )
    options = {"sites": ["decoder.resid_post"], "max_new_tokens": 2, "batch": 2}
    stored = store.extract(asr, Corpus("three", "memory", clips), tmp_path / "store", **options)
    assert stored.ids == ["good"]
    assert "longer than 2 s: 2.1 s" in stored.problems["long"]
    assert "shorter than an audio token" in stored.problems["short"]


def test_sites_and_pools_that_a_model_lacks_are_refused(asr, tmp_path):
    corpus, path = tones(LENGTHS_S), tmp_path / "store"
    with pytest.raises(ValueError, match=r"Unknown site 'decoder\.cross_attn\.z'"):
        store.extract(asr, corpus, path, sites=["decoder.cross_attn.z"])
    with pytest.raises(ValueError, match=r"Unknown site 'encoder\.project'"):
        store.extract(small_recogniser(), corpus, path, sites=["encoder.project"])
    with pytest.raises(ValueError, match="'audio' at sites of the decoder needs an audio language"):
        store.extract(small_recogniser(), corpus, path, sites=["decoder.embed"], pool="audio")
    assert not path.exists()
