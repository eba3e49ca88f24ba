"""Renders the page of the label probes: an overview, then a section for each probe."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.label_probes.probes import PENALTY, PROBES, LabelProbe

MODELS = ("tiny.en", "base")
Results = dict[str, dict[str, Any]]  # results of one probe, by model

_OVERVIEW_COLUMNS = (
    "probe",
    "model",
    "rows",
    "classes",
    "best layer",
    "% [95 %]",
    "last layer",
    "shuffled",
    "majority",
    "mel",
    "embed",
    "the paper",
)
_COLUMNS = (
    "accuracy",
    "balanced",
    "shuffled",
    "majority",
    "control_task",
    "selectivity",
    "mel",
    "embed",
)


def command(probe: LabelProbe, model: str, out: Path, manifest: Path, noises: str) -> list[str]:
    """Returns the command-line arguments of `jaxasr` that run a probe.

    Args:
        probe: the probe.
        model: name of the model.
        out: folder for activations and results.
        manifest: the recordings.
        noises: folder with recordings of noise.
    """
    store = f"{model}-{probe.manifest}{'-noise' if probe.noise else ''}"
    noise_options = [
        argument
        for snr in (("10", "0") if probe.noise else ())
        for argument in ("--noise", f"snr:{snr}:{noises}")
    ]
    return [
        *("probe", str(manifest)),
        *("--label", probe.label),
        *("--model", model),
        *("--penalty", f"{PENALTY:g}"),
        *("--store", str(out / "stores" / store)),
        *("--out", str(out / "probes" / f"{model}-{probe.name}")),
        *(("--group", probe.group) if probe.group else ()),
        *noise_options,
        *probe.options,
    ]


def render(results: dict[str, Results], out: Path) -> str:
    """Renders the page of all probes.

    Args:
        results: results by probe, then by model, with rows, classes, groups and table.
        out: the output folder, as the commands on the page write it.

    Returns:
        Markdown.
    """
    probes = [probe for probe in PROBES if probe.name in results]
    overview = _markdown(
        _OVERVIEW_COLUMNS,
        (
            _overview_row(probe, model, results[probe.name][model])
            for probe in probes
            for model in _models(results[probe.name])
        ),
    )
    sections = [_section(probe, results[probe.name], out) for probe in probes]
    return "\n".join([_HEAD, "## All of them", "", *overview, "", *sections])


def _models(results: Results) -> list[str]:
    return [model for model in MODELS if model in results]


def _overview_row(probe: LabelProbe, model: str, result: dict[str, Any]) -> list[str]:
    best = max(result["table"], key=lambda row: row["accuracy"])
    interval = f"[{_percent(best['low'])}, {_percent(best['high'])}]"
    return [
        f"[{probe.title}](#{_anchor(probe.title)})",
        model,
        str(result["rows"]),
        str(len(result["classes"])),
        f"{best['layer']} of {len(result['table'])}",
        f"**{_percent(best['accuracy'])}** {interval}",
        _percent(result["table"][-1]["accuracy"]),
        *(_percent(best[name]) for name in ("shuffled", "majority", "mel", "embed")),
        probe.paper,
    ]


def _section(probe: LabelProbe, results: Results, out: Path) -> str:
    manifest = out / "manifests" / f"{probe.manifest}.jsonl"
    arguments = command(probe, "MODEL", out, manifest, os.path.join("$JAXASR_DATA", "noise_esc10"))
    paper = "" if probe.paper == "—" else f" The paper: {probe.paper}."
    lines = [
        f"## {probe.title}",
        "",
        f"{probe.note}{paper}",
        "",
        f"![{probe.title}](probes/{probe.name}.png)",
        "",
        "```",
        f"jaxasr {' '.join(arguments)}",
        "```",
        "",
    ]
    for model in _models(results):
        lines += _model_table(probe, model, results[model])
    return "\n".join(lines)


def _model_table(probe: LabelProbe, model: str, result: dict[str, Any]) -> list[str]:
    columns = [name for name in _COLUMNS if name in result["table"][0]]
    counts, groups = result["classes"], ""
    classes = ", ".join(f"{name} {n}" for name, n in counts.items())
    if result["groups"]:
        groups = f", {result['groups']} groups ({probe.group})"
    rows = [
        [
            str(row["layer"]),
            *(_percent(row[name]) for name in columns),
            f"{_percent(row['low'])} to {_percent(row['high'])}",
        ]
        for row in result["table"]
    ]
    summary = classes if len(counts) < 12 else str(len(counts))
    table = _markdown(["layer", *columns, "95 % interval"], rows)
    return [f"{model}: {result['rows']} rows{groups}; classes: {summary}.", "", *table, ""]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _anchor(title: str) -> str:
    """Returns the anchor that Markdown renderers give a heading."""
    dashed = title.lower().replace(" ", "-")
    return "".join(letter for letter in dashed if letter.isalnum() or letter == "-")


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


_HEAD = f"""# Probes by layer, on real recordings

Linear probes of each encoder layer of tiny.en and base, with controls, after experiment E1 of
arXiv 2508.15882. `python -m experiments.label_probes` makes this page and its numbers
([probes.json](probes.json)). The paper probes large-v3 (32 encoder layers) on 337 to 2,500
utterances. Models and data here are far smaller, so compare patterns, not digits.

* Features: the residual stream after each layer (`encoder.resid_post`, layers from 0), averaged
  over the frames of speech; single frames for phones.
* Multinomial logistic regression on features standardised within the fold, λ = {PENALTY:g} for all
  probes, fixed beforehand; 5 folds and 3 assignments to folds unless an option differs. Pooling, λ
  and folds are our choice; the paper does not state its own.
* Scores are percentages of held-out rows. Intervals are bootstraps of whole groups that treat
  predictions of different folds as independent. These share training rows, so honest intervals are
  up to √2 wider (as in E1 to E4). **The best layer is selected on the test rows**, so its score is
  slightly optimistic; that of the last layer is not.
* shuffled: permuted labels, same folds. majority: the most frequent class. control_task: a random
  label for every speaker (Hewitt and Liang 2019), folds by row; selectivity is the probe's score
  beyond it in those folds. mel: mean log-mel features. embed: the encoder's input, after its
  convolutions.
* Small cells show that labels work, not a difference between groups of people.

**Results.** Attributes of the speaker (gender, identity, and dialect region, which here is nearly
the speaker) are predicted best after the first layers and worse towards the last; noise and phones
are predicted best in the middle. In the paper, all attributes are predicted best in upper layers
(22 to 27 of 32). The mean log-mel features already predict much of gender and identity, and the
encoder's input nearly all of it: without such baselines, a high accuracy is not informative about
layers. The native language of unseen speakers cannot be predicted from this many recordings,
because the interval contains the majority baseline.
"""
