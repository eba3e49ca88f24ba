"""E5 patches an audio language model. Random weights give no results."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from language_words import write_toy_with_words
from small_speech import tone, write
from typer.testing import CliRunner

import jaxasr
from experiments.cli import app
from experiments.data.corpora import Utterance
from experiments.data.spoken_pairs import Reading, pairs
from experiments.item_cache import short_hash
from experiments.studies import registry
from experiments.studies.context import grid
from experiments.studies.context.spoken_word import is_testable
from experiments.studies.context.stimuli import Job, patch
from interventions.corruptions import white_noise_like
from interventions.storage.results import load_result
from jaxasr.language.inputs import features

E5 = registry.study("E5")
ALPHA = 0.5


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_with_words(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """Writes two recordings of each of ten sentences, whose sounds are tones."""
    where, rows = tmp_path_factory.mktemp("pairs"), []
    tokenizer = jaxasr.load(toy).tokenizer
    sentences = [pair for pair in pairs() if is_testable(tokenizer, pair)][:10]
    for i, pair in enumerate(sentences):
        for congruent, word in enumerate((pair.target, pair.expected)):
            write(where / f"{i}{congruent}.wav", tone(200 + 50 * i, seconds=1.0, seed=congruent))
            row = {"path": f"{i}{congruent}.wav", "speaker": "s", "lang": "en"}
            row |= {"transcript": pair.sentence.format(word), "congruent": bool(congruent)}
            rows.append(row | {"target": pair.target, "expected": pair.expected})
    (where / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return where


def test_patches_equal_single_edited_passes(toy):
    """Compares two places, moved half-way to white noise, with passes of the whole model."""
    asr, site_of = jaxasr.load(toy), {"encoder": "encoder.mlp_out", "decoder": "decoder.attn_out"}
    pair = next(pair for pair in pairs() if is_testable(asr.tokenizer, pair))
    audio = tone(300, seconds=1.3)
    clip = Utterance("clip", Path("clip"), read=lambda: audio)
    listed = [grid.Patch("none", stack, (), 0, 1, f"{stack}: none") for stack in site_of]
    listed += [
        grid.Patch("place", stack, (site,), 1, 2, f"{site} 1", alpha=ALPHA)
        for stack, site in site_of.items()
    ]
    scores = patch(asr, Job(Reading(pair, "v", odd=clip), "odd"), listed, 1, seed=0)
    words = [asr.tokenizer.encode(f" {word}")[0] for word in (pair.target, pair.expected)]
    before = asr.tokenizer.encode(" " + pair.sentence.partition("{}")[0].rstrip())
    inputs = asr.inputs([audio], language="en")
    tokens = np.array([[*inputs.tokens[0], *before]])
    seed = int(short_hash(0, clip.id)[:8], 16)
    noise, lengths = features([np.asarray(white_noise_like(audio, seed))], asr.config)
    readout = jaxasr.select(site_of["encoder"])
    noise_memory, noisy = asr.model.encode(noise, readout=readout, lengths=lengths)
    decoder_readout = jaxasr.select(site_of["decoder"])
    noisy |= asr.model.decode(tokens, noise_memory, readout=decoder_readout)[1]

    def difference(stack):
        def move(x, at):
            value = noisy[site_of[stack]][at.layer]
            return jnp.where(at.layer == 1, x + ALPHA * (value - x), x)

        edits = {} if stack is None else {site_of[stack]: move}
        in_encoder = edits if stack == "encoder" else {}
        memory, _ = asr.model.encode(inputs.mel, in_encoder, lengths=inputs.lengths)
        in_decoder = edits if stack == "decoder" else {}
        logits, _ = asr.model.decode(tokens, memory, in_decoder)
        return float(logits[0, -1, words[0]] - logits[0, -1, words[1]])

    plain, encoder, decoder = map(difference, (None, "encoder", "decoder"))
    expected = [plain, plain, encoder, decoder]
    np.testing.assert_allclose(scores["difference"], expected, atol=1e-5)
    assert len({*np.round(expected, 5)}) == 3  # both patches have an effect


def test_one_command_runs_the_study_without_aligning_words(toy, folder, tmp_path):
    command = ["reproduce", "E5", "--preset", "builtin", "--quick", "--data", str(folder)]
    done = CliRunner().invoke(app, [*command, "--model", str(toy), "--out", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    arrays = load_result(tmp_path / "E5" / "arrays.nc")
    assert arrays.attrs["family"] == "qwen2_audio"
    assert sum(arrays.condition.values == "odd") == 3
    assert not any("cross" in name for name in arrays.place.values)
    places = arrays.difference.values[arrays.condition.values == "odd"]
    known = arrays.window.values == "whole"
    assert np.isfinite(places[:, known]).all()
    assert np.isnan(places[:, ~known]).all()
    result = json.loads((tmp_path / "E5" / "result.json").read_text())
    assert "70.1 %" in result["findings"]["anywhere"]["paper"]
    assert "frames are not known" in json.dumps(result["findings"]["context_frames"])
    assert "aligned by cross-attention" in json.dumps(result["findings"]["spliced_context"])
