"""Renders the page of the label probes: an overview, then a section for each probe."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.label_probes.probes import PENALTY, PROBES, LabelProbe

MODELS = ("tiny.en", "base")
Results = dict[str, dict[str, Any]]  # results of one probe, by model

# Columns of the table of all probes.
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
# Columns of the table of one probe, by the keys of its rows.
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
    # One noisy copy at 10 dB and one at 0 dB.
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
        results: results by probe, then by model, as in `probes.json`.
        out: the output folder in the commands that the page shows.

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
    config = result["provenance"]["config"]
    n_splits = len(config["seeds"])
    folds = f"{config['folds']} folds, {n_splits} split{'s' if n_splits > 1 else ''}"
    rows = [
        [
            str(row["layer"]),
            *(_percent(row[name]) for name in columns),
            f"{_percent(row['low'])} to {_percent(row['high'])}",
        ]
        for row in result["table"]
    ]
    # Many classes, such as phones, are only counted.
    class_summary = classes if len(counts) < 12 else str(len(counts))
    table = _markdown(["layer", *columns, "95 % interval"], rows)
    caption = f"{model}: {result['rows']} rows{groups}; {folds}; classes: {class_summary}."
    return [caption, "", *table, ""]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _anchor(title: str) -> str:
    """Returns the anchor that Markdown renderers give to a heading.

    Example:
        >>> _anchor("Gender, LibriSpeech")
        'gender-librispeech'
    """
    dashed = title.lower().replace(" ", "-")
    return "".join(letter for letter in dashed if letter.isalnum() or letter == "-")


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


_HEAD = f"""# Probes by layer, on real recordings

This page has linear probes of each encoder layer of tiny.en and base. They follow experiment E1 of
arXiv 2508.15882, and add controls. `python -m experiments.label_probes` makes this page and its
numbers ([probes.json](probes.json)). The paper probes large-v3 (32 encoder layers) on 337 to 2,500
utterances. Models and data here are far smaller, so only patterns can be compared.

* **Features.** A probe reads the residual stream after one layer (`encoder.resid_post`, layers from
  0). The stream is averaged over the frames of speech. Probes of phones read single frames.
* **Fit.** The probes are multinomial logistic regressions with λ = {PENALTY:g}, which was fixed
  beforehand. Features are standardised within the fold. The paper does not state its averaging,
  penalty and folds, so these are our choice.
* **Folds.** The line above each table gives the number of folds and of splits. A split is a random
  assignment of groups to folds, and scores are averaged over the splits.
* **Scores.** Scores are percentages of held-out rows. **The best layer is selected on the test
  rows**, so its score is slightly too high. The score of the last layer does not have this bias.
* **Intervals.** The bootstrap resamples whole groups. Predictions of different folds depend on each
  other, because the folds share training rows. `Bank.summary` therefore widens intervals by √2. The
  numbers of this page are of 23 November 2026, before this change, so that their intervals are up
  to √2 too narrow. Those of E1 to E4 are widened.
* **Small classes.** Probes of few recordings show that a label can be probed. They do not measure
  differences between groups of people.

| column | score of |
|---|---|
| shuffled | the probe, fitted to permuted labels in the same folds |
| majority | the most frequent class |
| control_task | a probe of a random label per speaker (Hewitt and Liang 2019), with folds by row |
| selectivity | the probe minus the control task, both with folds by row |
| mel | a probe of the mean log-mel features |
| embed | a probe of the encoder's input, after its convolutions |

**Results.** Gender, speaker and dialect region are predicted best after the first layers, and worse
towards the last layer. (Each dialect region has one to three speakers here.) Noise and phones are
predicted best in the middle. In the paper, all attributes are predicted best in upper layers (22 to
27 of 32).

The mean log-mel features already predict much of gender and speaker. The encoder's input predicts
nearly all of both. A high accuracy is therefore informative about layers only in comparison with
these baselines. The native language of new speakers cannot be predicted from so few recordings,
because the interval contains the majority baseline.
"""
