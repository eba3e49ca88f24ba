"""E3 probes the states of an audio language model. Random weights give no results."""

from pathlib import Path

import numpy as np
import pytest
from small_speech import tone

import jaxasr
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies import e3_transcription_quality as e3
from experiments.studies.features import transcript_features
from jaxasr.language.toy import write_toy

N = 16


@pytest.fixture(scope="module")
def asr(tmp_path_factory):
    return jaxasr.load(write_toy(tmp_path_factory.mktemp("toy") / "toy"))


def test_features_are_those_of_a_plain_pass(asr):
    audio = tone(300, seconds=1.2)
    item = transcript_features(asr, audio, max_new_tokens=5)
    inputs = asr.inputs([audio], language="en")
    generated = asr.generate(inputs, max_new_tokens=5)
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    tokens = np.array([[*inputs.tokens[0], *generated.ids[0], asr.config.eos[0]]])
    readout = jaxasr.select("decoder.embed", "decoder.resid_post")
    acts = asr.model.decode(tokens, memory, readout=readout)[1]
    states = np.concatenate([acts["decoder.embed"][None], acts["decoder.resid_post"]])[:, 0]
    np.testing.assert_allclose(item["last"], states[:, -1], atol=1e-5)
    np.testing.assert_allclose(item["first"], states[:, inputs.tokens.shape[1] - 1], atol=1e-5)
    assert str(item["text"]) == generated.text[0]
    np.testing.assert_allclose(item["logprob"], generated.avg_logprob[0], rtol=1e-6)
    assert np.isnan(item["no_speech"])


def test_the_study_probes_the_states_of_bad_and_faultless_texts(asr, tmp_path, monkeypatch):
    clips = tuple(
        Utterance(
            f"u{i}",
            Path(f"u{i}"),
            speaker=f"s{i // 2}",
            transcript="The captain read the old letter",
            labels={"lang": "en", "set": "one"},
            read=lambda i=i: tone(200 + 50 * i, seconds=0.5, seed=i),
        )
        for i in range(N)
    )
    # No text of a random model is free of errors, so every second one is declared to be.
    planted = lambda text, clip: dict.fromkeys(e3.QUESTION_TITLES, float(int(clip.id[1:]) % 2))  # noqa: E731
    monkeypatch.setattr(e3, "error_rates", planted)
    config = e3.Config(recordings=N, folds=2, splits=1, max_new_tokens=3, worst=1.0)
    cache = ItemCache(tmp_path / "items")
    arrays = e3.run(asr, Corpus("tones", "memory", clips), config, cache)
    assert arrays.attrs["family"] == "qwen2_audio"
    assert arrays.number.values.tolist() == ["improbability", "compression", "length"]
    assert np.isfinite(arrays.reported).all()
    findings = e3.STUDY.analyse(arrays, config).findings
    predicts = findings["predicts"]
    assert predicts.claim.paper_value == 0.702
    assert predicts.evidence is not None
    assert predicts.evidence.n == N // 2  # speakers
    assert findings["deepens"].claim.paper_value is None
    assert set(e3.STUDY.draw(arrays, config)) == {"accuracy_by_layer", "auroc"}
    del arrays.attrs["family"]  # as in a result of Whisper
    assert e3.STUDY.analyse(arrays, config).findings["predicts"].claim.paper_value == 0.934
