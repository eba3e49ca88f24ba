"""Probes row by row: planted layers are found, held-out groups stay out, numbers agree with scikit-learn's."""

import numpy as np
import planted
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from experiments.studies import probing
from experiments.studies.probing import (
    Probing,
    Untestable,
    accuracy,
    answers,
    ask,
    by_group,
    concatenate,
    layers_between,
)
from interventions.stats.roc import auroc

CONFIG = Probing(folds=4, splits=2)


@pytest.fixture(scope="module")
def arrays():
    labels, groups = planted.rows(["a", "b"], 24, 3)
    return concatenate(
        {
            "known": lambda: planted.asked("known", labels, groups, 6.0, CONFIG, mel=3),
            "nothing": lambda: planted.asked("nothing", labels, groups, 0.0, CONFIG, seed=2, mel=3),
            "one kind": lambda: planted.asked("one kind", labels[:3], groups[:3], 0.0, CONFIG),
        }
    )


def test_what_was_planted_is_found_where_it_was(arrays):
    one = answers(arrays, "known")
    curve = [accuracy(one, str(layer)).mean() for layer in one.layer.values]
    assert list(one.layer.values) == ["mel", "embedding", "0", "1", "2", "3"]
    assert curve[-1] > 0.95
    assert max(curve[:3]) < 0.7
    assert accuracy(one, "3", "shuffled").mean() < 0.65
    assert (
        abs(np.mean([accuracy(answers(arrays, "nothing"), str(n)).mean() for n in range(4)]) - 0.5)
        < 0.12
    )


def test_what_cannot_be_asked_says_why(arrays):
    assert probing.questions(arrays) == ["known", "nothing"]
    assert "one kind only" in probing.why_not(arrays, "one kind")
    with pytest.raises(Untestable, match="too few"):
        ask("alone", np.zeros((2, 4, 3)), np.array(list("aabb")), np.array(list("1112")), CONFIG)
    empty = concatenate({})
    assert (probing.questions(empty), probing.numbers(empty), probing.draw(empty, {"x": "x"})) == (
        [],
        {},
        {},
    )


def test_layers_are_found_by_depth(arrays):
    assert layers_between(arrays, 0.69, 0.91) == ["2"]
    assert layers_between(arrays, 0, 0.5) == ["0", "1"]


def test_accuracy_is_balanced_whatever_the_groups(arrays):
    one = answers(arrays, "known").isel(example=slice(0, 50))
    one = one.assign(right=(one.right > 0.5) * 1.0)
    for layer in ("0", "3"):
        said = np.where(
            one.right.sel(layer=layer) == 1, one.label, np.where(one.label == "a", "b", "a")
        )
        assert accuracy(one, layer).mean() == pytest.approx(
            balanced_accuracy_score(one.label, said)
        )
    values, groups = np.arange(6.0), np.array(list("aaabbc"))
    assert by_group(values, groups).mean() == pytest.approx(values.mean())


def test_ranking_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, groups = rng.random(60) < 0.4, np.repeat(np.arange(20), 3)
    scores, other = rng.normal(size=60).round(1) + positive, rng.normal(size=60).round(1)
    found = auroc(scores, positive, groups)
    assert found.value == pytest.approx(roc_auc_score(positive, scores))
    assert found.low < found.value < found.high
    assert found.n == 20
    gain = auroc(scores, positive, groups, against=other)
    assert gain.value == pytest.approx(found.value - roc_auc_score(positive, other))
    with pytest.raises(ValueError, match="both classes"):
        auroc(scores, positive | True, groups)
