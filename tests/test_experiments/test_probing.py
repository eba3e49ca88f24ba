"""Probes find planted layers, keep groups in one fold, and agree with scikit-learn's scores."""

import numpy as np
import planted
import pytest
import xarray as xr
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from experiments.studies import probing
from experiments.studies.probing import (
    ProbingSettings,
    Untestable,
    concatenate,
    probe_layers,
    reason_untestable,
    rows_of,
)
from experiments.studies.probing_analysis import accuracy, layers_between, summarize_probes
from experiments.studies.probing_figures import accuracy_figure
from interventions.stats.groups import group_scores
from interventions.stats.roc import auroc_interval

CONFIG = ProbingSettings(folds=4, splits=2)


@pytest.fixture(scope="module")
def arrays() -> xr.Dataset:
    labels, groups = planted.rows(["a", "b"], n_groups=24, each=3)
    # `mel=3` adds a baseline "mel" of three uninformative features.
    questions = {
        "planted": lambda: planted.probe("planted", labels, groups, 6.0, CONFIG, mel=3),
        "noise": lambda: planted.probe("noise", labels, groups, 0.0, CONFIG, seed=2, mel=3),
        "one class": lambda: planted.probe("one class", labels[:3], groups[:3], 0.0, CONFIG),
    }
    return concatenate(questions)


def mean_accuracy(rows: xr.Dataset, layer: str, variable: str = "correct") -> float:
    return float(accuracy(rows, layer, variable).mean())


def test_a_planted_effect_is_found_in_its_layers(arrays):
    rows = rows_of(arrays, "planted")
    curve = [mean_accuracy(rows, str(layer)) for layer in rows.layer.values]
    assert list(rows.layer.values) == ["mel", "embedding", "0", "1", "2", "3"]
    assert curve[-1] > 0.95
    assert max(curve[:3]) < 0.7
    assert mean_accuracy(rows, "3", "shuffled") < 0.65
    noise = [mean_accuracy(rows_of(arrays, "noise"), str(layer)) for layer in range(4)]
    assert abs(np.mean(noise) - 0.5) < 0.12


def test_an_untestable_question_has_a_reason(arrays):
    assert probing.questions(arrays) == ["planted", "noise"]
    assert "one class only" in reason_untestable(arrays, "one class")
    labels, groups = np.array(list("aabb")), np.array(list("1112"))
    with pytest.raises(Untestable, match="at least two speakers"):
        probe_layers("few", np.zeros((2, 4, 3)), labels, groups, CONFIG)
    with pytest.raises(KeyError, match="one class"):
        rows_of(arrays, "one class")


def test_without_questions_there_are_no_numbers_and_figures():
    empty = concatenate({})
    assert probing.questions(empty) == []
    assert summarize_probes(empty) == {}
    assert accuracy_figure(empty, {"x": "x"}) == {}


def test_layers_are_selected_by_depth(arrays):
    assert layers_between(arrays, 0.69, 0.91) == ["2"]
    assert layers_between(arrays, 0, 0.5) == ["0", "1"]


def test_accuracy_is_balanced_for_unequal_classes(arrays):
    rows = rows_of(arrays, "planted").isel(example=slice(0, 50))
    rows = rows.assign(correct=(rows.correct > 0.5) * 1.0)
    other = np.where(rows.label == "a", "b", "a")
    for layer in ("0", "3"):
        predicted = np.where(rows.correct.sel(layer=layer) == 1, rows.label, other)
        expected = balanced_accuracy_score(rows.label, predicted)
        assert mean_accuracy(rows, layer) == pytest.approx(expected)


def test_group_values_have_the_mean_of_the_rows():
    values, groups = np.arange(6.0), np.array(list("aaabbc"))
    assert group_scores(values, groups).mean() == pytest.approx(values.mean())


def test_auroc_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, groups = rng.random(60) < 0.4, np.repeat(np.arange(20), 3)
    scores, other = rng.normal(size=60).round(1) + positive, rng.normal(size=60).round(1)
    area = auroc_interval(scores, positive, groups)
    assert area.value == pytest.approx(roc_auc_score(positive, scores))
    assert area.low < area.value < area.high
    assert area.n == 20
    gain = auroc_interval(scores, positive, groups, against=other)
    assert gain.value == pytest.approx(area.value - roc_auc_score(positive, other))
    with pytest.raises(ValueError, match="both classes"):
        auroc_interval(scores, positive | True, groups)
