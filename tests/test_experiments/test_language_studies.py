"""Studies run on an audio language model with one command. Random weights give no results."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxasr
from experiments.cli import app
from experiments.studies import registry
from experiments.studies.reproduce import builtin, check_support, reproduce
from interventions.storage.results import load_result, save_result
from jaxasr.language.toy import write_toy

E8 = registry.study("E8")


@pytest.fixture(scope="module", params=["qwen2_audio", "voxtral"])
def asr(request, tmp_path_factory):
    return jaxasr.load(write_toy(tmp_path_factory.mktemp("toy") / "toy", request.param))


@pytest.fixture(scope="module")
def corpus():
    """Returns twelve recordings of the package, each of another speaker."""
    every = builtin()
    speech = [clip for clip in every.utterances if clip.transcript][:12]
    clips = [dataclasses.replace(c, speaker=f"speaker {i}") for i, c in enumerate(speech)]
    return dataclasses.replace(every, utterances=tuple(clips))


def test_saturation_is_compared_with_a_result_of_whisper(asr, corpus, tmp_path):
    first = reproduce("E8", E8, asr, corpus, tmp_path / "lm", preset="builtin")
    assert first["findings"]["earlier_than_qwen"]["verdict"] == "untestable"
    assert first["findings"]["saturates_late"]["verdict"] != "untestable"
    arrays = load_result(tmp_path / "lm" / "arrays.nc")
    assert arrays.attrs["family"] == asr.config.family
    assert arrays.sizes["depth"] == asr.config.n_text_layer
    # Stands for a result of Whisper, which settles earlier by 0.1 to 0.2 of the depth.
    earlier = arrays.saturation - np.linspace(0.1, 0.2, arrays.sizes["example"])
    whisper = arrays.assign(saturation=earlier)
    del whisper.attrs["family"]
    save_result(whisper, tmp_path / "whisper.nc")
    options = {"preset": "builtin", "compare": tmp_path / "whisper.nc"}
    result = reproduce("E8", E8, asr, corpus, tmp_path / "lm", **options)
    row = result["findings"]["earlier_than_qwen"]
    assert row["verdict"] == "supported"
    np.testing.assert_allclose(row["ours"]["value"], -0.15, atol=1e-6)
    same = {"preset": "builtin", "compare": tmp_path / "lm" / "arrays.nc"}
    with pytest.raises(ValueError, match="expected a result of Whisper and one of an audio"):
        reproduce("E8", E8, asr, corpus, tmp_path / "lm", **same)


def test_answers_are_compared_with_probes(asr, corpus, tmp_path, monkeypatch):
    genders = ["F", "M"] * 6
    speech = [clip for clip in builtin().utterances if clip.transcript][:12]
    clips = tuple(
        dataclasses.replace(clip, speaker=f"s{i}", labels={**clip.labels, "gender": genders[i]})
        for i, clip in enumerate(speech)
    )
    labelled = dataclasses.replace(corpus, utterances=clips)
    asked = []
    monkeypatch.setattr(
        type(asr), "ask", lambda self, audio, *rest, **options: asked.append(audio) or "A woman."
    )
    settings = {"preset": "builtin", "quick": True}
    result = reproduce("E1", registry.study("E1"), asr, labelled, tmp_path / "E1", **settings)
    arrays = load_result(tmp_path / "E1" / "arrays.nc")
    gender = arrays.isel(example=np.flatnonzero(arrays.question == "gender"))
    np.testing.assert_array_equal(gender.answered, gender.label == "F")
    assert np.isnan(arrays.answered[arrays.question != "gender"]).all()
    assert len(asked) == gender.sizes["example"]
    row = result["findings"]["knows_more_than_it_says"]
    assert row["verdict"] != "untestable"
    # Half of the answers are right, so the difference is the accuracy of the probes minus 0.5.
    assert -0.5 <= row["ours"]["value"] <= 0.5


def test_other_studies_raise_before_they_compute(asr, corpus, tmp_path):
    with pytest.raises(ValueError, match=r"E2: expected a model of the family whisper, got"):
        reproduce("E2", registry.study("E2"), asr, corpus, tmp_path / "E2")
    assert not (tmp_path / "E2").exists()
    with pytest.raises(ValueError, match="E7: no claim compares models"):
        check_support("E7", registry.study("E7"), "whisper", compares=True)


def test_one_command_runs_the_study(tmp_path):
    folder = write_toy(tmp_path / "toy")
    data = Path(__file__).parents[2] / "experiments/assets/speech"
    options = ["--data", str(data), "--model", str(folder), "--out", str(tmp_path / "out")]
    command = ["reproduce", "E8", "--preset", "builtin", "--quick", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "E8" / "result.json").exists()
    other = ["--overwrite", "--compare", str(tmp_path / "none")]
    refused = CliRunner().invoke(app, [*command, *other])
    assert refused.exit_code != 0
    assert "E8/arrays.nc" in refused.output + str(refused.exception)
