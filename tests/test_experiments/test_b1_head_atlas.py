"""B1 detects planted heads, and nothing if all heads are equal. Its means equal those by hand."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from four_layers import FOUR_LAYERS

import jaxasr
from experiments.item_cache import ItemCache
from experiments.studies.ablation import HEAD_SITES, TEXT_MEASURES, ablate, mean_edits
from experiments.studies.b1_head_atlas import CLAIMS, STUDY, Config
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE, WEAKER
from experiments.studies.halves import CHOOSE, halves
from experiments.studies.recordings import clean_speech
from experiments.studies.reproduce import builtin
from interventions import Patch, only
from interventions.edits import site_cells

# One cell per decoder head of a model with four layers of three heads.
CELLS = site_cells(FOUR_LAYERS, HEAD_SITES)
N = 40  # recordings of each kind, each from a source of its own


def make_results(silenced: np.ndarray, stopped: np.ndarray, wer: np.ndarray) -> xr.Dataset:
    """Makes the results of a run.

    Args:
        silenced: bool [N, cell], whether a text without speech loses all words.
        stopped: bool [N, cell], whether a loop stops.
        wer: word error rates of clean speech [N, cell].
    """
    shape = (3 * N, 1, len(CELLS["site"]))
    values = {name: np.zeros(shape) for name in TEXT_MEASURES}
    values["insertions"][:N, 0] = 5 * (1 - silenced)
    values["loop"][N : 2 * N, 0] = 1 - stopped
    values["wer"][2 * N :, 0], values["length"] = wer, np.full(shape, 9.0)
    values["unchanged"] = np.zeros(shape)
    baseline = {name: np.zeros(3 * N) for name in TEXT_MEASURES}
    baseline["insertions"][:N] = 5
    baseline["cer"][N : 2 * N] = np.nan  # the words of loops are not known
    return xr.Dataset(
        {name: (("example", "kind", "cell"), value) for name, value in values.items()}
        | {f"baseline_{name}": ("example", value) for name, value in baseline.items()},
        {
            "example": np.arange(3 * N),
            "recording": ("example", np.repeat(["nonspeech", "loop", "clean"], N)),
            "source": ("example", [f"source {n}" for n in range(3 * N)]),
            "kind": ["zero"],
            "site": ("cell", [HEAD_SITES[i] for i in CELLS["site"]]),
            "layer": ("cell", CELLS["layer"]),
            "head": ("cell", CELLS["head"]),
        },
    )


def planted_results() -> xr.Dataset:
    """The share of texts silenced and loops stopped grows with the head. No head has a cost."""
    rng, share = np.random.default_rng(0), np.linspace(0, 0.5, len(CELLS["site"]))
    share[-1] = 0.95
    silenced, stopped = rng.random((2, N, len(share))) < share
    return make_results(silenced, stopped, np.zeros(silenced.shape))


def results_without_effect(seed: int) -> xr.Dataset:
    """All heads silence texts and stop loops as often as under the nulls, and have a cost."""
    rng, shape = np.random.default_rng(seed), (N, len(CELLS["site"]))
    silenced, stopped = rng.random(shape) < 0.1, rng.random(shape) < 0.5
    return make_results(silenced, stopped, rng.uniform(0, 0.3, silenced.shape))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_heads_are_detected():
    by_key = verdicts(planted_results())
    # Forty recordings without a change are too few to exclude a cost of two words in a hundred.
    costs = dict.fromkeys(("silences_cheaply", "unloops_cheaply"), UNDECIDED)
    assert by_key == dict.fromkeys(CLAIMS, SUPPORTED) | costs
    numbers = STUDY.analyse(planted_results(), Config()).numbers
    assert numbers["heads"]["self 3.2"]["unlooped"] > 0.8
    assert numbers["chosen"]["unloops"]["head"] == "self 3.2"
    assert numbers["plain"]["words_without_speech"] == 1


def test_heads_are_judged_on_the_sources_that_did_not_choose_them():
    """The only effect is in the half that chooses, so that the other half contradicts it."""
    data = planted_results()
    choosing = halves(data.source.values) == CHOOSE
    stopped, silenced = np.zeros((2, N, len(CELLS["site"])))
    stopped[choosing[N : 2 * N], 5] = silenced[choosing[:N], 7] = 1
    data = make_results(silenced, stopped, np.zeros(silenced.shape))
    analysis = STUDY.analyse(data, Config())
    chosen = analysis.numbers["chosen"]
    assert [chosen[key]["choosing"] for key in ("silences", "unloops")] == [1, 1]
    evidence = {key: analysis.findings[key].evidence for key in chosen}
    assert [evidence[key].value for key in ("silences", "unloops")] == [0, 0]
    assert evidence["unloops"].n == N - choosing[N : 2 * N].sum()


def test_recordings_of_one_source_are_one_unit():
    data = planted_results()
    pairs = [f"source {n // 2}" for n in range(3 * N)]
    findings = STUDY.analyse(data.assign_coords(source=("example", pairs)), Config()).findings
    assert max(finding.evidence.n for finding in findings.values()) == N // 2


def test_equal_heads_are_distinguished_only_by_chance():
    """Per claim, one of forty runs is beyond the null by chance. Over three have p = 0.02."""
    runs = [verdicts(results_without_effect(seed)) for seed in range(40)]
    assert max(sum(run[key] in (SUPPORTED, WEAKER) for run in runs) for key in CLAIMS) <= 3


def test_without_loops_the_other_claims_are_judged():
    data = planted_results()
    data = data.isel(example=np.flatnonzero(data.recording.values != "loop"))
    untestable = {key for key, verdict in verdicts(data).items() if verdict == UNTESTABLE}
    assert untestable == {"unloops", "unloops_cheaply", "same_heads"}
    assert STUDY.draw(data, Config())


def test_mean_ablation_equals_an_edit_made_by_hand(asr):
    """The mean of cross-attention head 1.2 over two texts is patched into a third text."""
    first, second, scored = clean_speech(builtin(), asr, 3, 24)
    means = mean_edits(asr, [first, second], HEAD_SITES)
    ablated = ablate(asr, scored, HEAD_SITES, "mean", 8, means=means)

    site, activations = "decoder.cross_attn.z", []
    prompt = asr.tokenizer.prompt("en")
    for clip in (first, second):
        memory, _ = asr.model.encode(jaxasr.log_mel(clip.samples(), asr.config.n_mels)[None])
        [ids] = asr.generate(memory, prompt, max_new_tokens=48).ids
        tokens = np.array([[*prompt, *ids]])
        _, acts = asr.model.decode(tokens, memory, readout=jaxasr.select(site))
        activations.append(np.asarray(acts[site])[1, 0, :, 2])
    mean = np.concatenate(activations).mean(0)
    np.testing.assert_allclose(np.asarray(means[site].value)[1, 0, 0, 2], mean, atol=2e-5)

    edit = only(Patch(mean), layers=1, heads=2)
    memory, _ = asr.model.encode(jaxasr.log_mel(scored.samples(), asr.config.n_mels)[None])
    by_hand = asr.generate(memory, prompt, max_new_tokens=8, edits={site: edit})
    cells = site_cells(asr.config, HEAD_SITES)
    [cell] = np.flatnonzero((cells["site"] == 0) & (cells["layer"] == 1) & (cells["head"] == 2))
    assert ablated["avg_logprob"][cell] == pytest.approx(by_hand.avg_logprob[0], abs=1e-4)
    assert ablated["avg_logprob"][cell] != pytest.approx(ablated["baseline_avg_logprob"], abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ablation": "median"}, "ablation: expected 'zero' or 'mean', got 'median'"),
        ({"ablation": "mean", "n_mean": 0}, "n_mean: expected clean recordings"),
    ],
)
def test_a_run_refuses_impossible_ablations(asr, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("experiments.studies.b1_head_atlas.mine_loops", lambda *_: [])
    config = dataclasses.replace(Config(), n_clean=2, max_new_tokens=24, **changes)
    with pytest.raises(ValueError, match=message):
        STUDY.run(asr, builtin(), config, ItemCache(tmp_path))
