"""`jaxasr probe` fits probes of both stacks of an audio language model."""

import json

import numpy as np
import pandas
import pytest
from small_speech import tone, write
from typer.testing import CliRunner

import interventions as iv
import jaxasr
from experiments import cli, store
from experiments.analyses.probe_question import ProbeQuestion
from experiments.analyses.probe_rows import read_rows
from experiments.data.corpora import open_corpus
from interventions import probes
from jaxasr.language.toy import write_toy

N = 12  # recordings, each a low and a high tone of 0.2 s, or the other way round


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where, rows = tmp_path_factory.mktemp("corpus"), []
    for i in range(N):
        tones = [tone(hz, seconds=0.2, seed=i) for hz in (300 + i, 3000 + i)]
        names = ["low", "high"]
        if i % 2:
            tones, names = tones[::-1], names[::-1]
        write(where / f"{i}.wav", np.concatenate(tones))
        spans = [[0.0, 0.2, names[0]], [0.2, 0.4, names[1]]]
        rows.append({"path": f"{i}.wav", "speaker": f"s{i % 4}", "phones": spans})
        rows[-1] |= {"first": names[0], "transcript": names[0]}
    (where / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return where


def test_one_command_fits_probes_of_the_language_model_at_audio_tokens(folder, tmp_path):
    toy, out = write_toy(tmp_path / "toy"), tmp_path / "out"
    options = ["--label", "first", "--group", "speaker", "--folds", "2", "--pool", "audio"]
    options += ["--text", "transcript"]
    places = ["--model", str(toy), "--site", "decoder.resid_post", "--out", str(out)]
    done = CliRunner().invoke(cli.app, ["probe", str(folder), *options, *places])
    assert done.exit_code == 0, (done.output, done.exception)
    table = pandas.read_csv(out / "table.csv")
    assert table.layer.tolist() == [0, 1]
    activations = store.open(out / "activations")
    X, y = activations.activations("decoder.resid_post", "audio"), []
    labels = {clip.id: clip.label("first") for clip in open_corpus(folder).utterances}
    speakers = {clip.id: clip.speaker for clip in open_corpus(folder).utterances}
    y, groups = (np.array([names[i] for i in activations.ids]) for names in (labels, speakers))
    bank = iv.fit_probes(X, y, groups, folds=2)
    np.testing.assert_allclose(table.accuracy, bank.accuracy.mean(("fold", "seed")).values.ravel())
    saved = probes.Bank.load(out / "bank")
    np.testing.assert_array_equal(saved.predict(X).values, bank.predict(X).values)
    # The pool is the mean of a plain pass over the audio tokens.
    asr = jaxasr.load(toy)
    clip = next(c for c in open_corpus(folder).utterances if c.id == activations.ids[0])
    inputs = asr.inputs([clip.samples()], language="en")
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    readout = jaxasr.select("decoder.resid_post")
    acts = asr.model.decode(inputs.tokens, memory, readout=readout)[1]["decoder.resid_post"]
    is_audio = inputs.tokens[0] == asr.config.audio_token
    np.testing.assert_allclose(X[:, 0], np.asarray(acts)[:, 0, is_audio].mean(1), atol=1e-4)


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral"])
def test_audio_tokens_have_the_label_at_their_middle(folder, tmp_path, family):
    asr, corpus = jaxasr.load(write_toy(tmp_path / "toy", family)), open_corpus(folder)
    sites = ("decoder.resid_post", "decoder.embed", "encoder.project", "encoder.embed")
    options = {"pool": "frames", "max_new_tokens": 2, "batch": 6}
    stored = store.extract(asr, corpus, tmp_path / "store", sites=sites, **options)
    per_token = asr.config.audio_language.frames_per_token
    n = 20 // per_token  # audio tokens of 0.4 s
    for site in ("decoder.resid_post", "encoder.project"):
        question = ProbeQuestion("phone", site=site, pool="frames", folds=2)
        rows = read_rows(stored, corpus, question, asr)
        assert rows.X.shape[1] == n * N
        labels = {clip.id: clip.label("first") for clip in corpus.utterances}
        for i, name in enumerate(stored.ids):
            first = labels[name]
            second = "high" if first == "low" else "low"
            expected = [
                first if token * per_token + per_token // 2 < 10 else second for token in range(n)
            ]
            assert rows.y[i * n : (i + 1) * n].tolist() == expected
        x, offsets = stored.frames(site)
        starts = offsets[:-1]
        if site.startswith("decoder."):
            starts = starts + stored.dataset.first_audio_token.values
        expected = np.concatenate([x[:, start : start + n] for start in starts], axis=1)
        np.testing.assert_array_equal(rows.X, expected)
    # Below the language model there are the audio tokens; below the projection, their frames.
    embedding = stored.frames("encoder.embed")[0][0].reshape(n * N, per_token, -1).mean(1)
    np.testing.assert_allclose(rows.baselines["embed"], embedding, rtol=1e-6)
    mel = jaxasr.log_mel(corpus.utterances[0].samples(), 80, 200)[:, : 2 * per_token].mean(1)
    at = n * stored.ids.index(corpus.utterances[0].id)
    np.testing.assert_allclose(rows.baselines["mel"][at], mel, rtol=1e-4, atol=1e-5)
