"""Defines `jaxasr probe`, which fits linear probes of every layer and their controls."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    DistributedOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

if TYPE_CHECKING:
    from experiments.analyses.probe_question import ProbeQuestion
    from experiments.commands.output import Output
    from experiments.data.corpora import Corpus
    from experiments.progress import Progress
    from experiments.store import Store
    from jaxasr import Recogniser

EXAMPLE = (
    "jaxasr probe speech.jsonl --label gender --group speaker --site encoder.resid_post "
    "--out gender-probe"
)

_FILES = ("table.csv", "accuracy.png", "result.json", "bank")
_MANIFEST_HELP = (
    "A manifest (.jsonl or .csv), a folder of LibriSpeech, Common Voice or TIMIT, or hf:NAME for a "
    "data set of the Hugging Face hub."
)
_LABEL_HELP = (
    "What the probes predict. For each recording: a column of the manifest, speaker, or noise. For "
    "each frame: phone, word, energy or f0."
)
_POOL_HELP = (
    "How activations become rows. One row per recording: speech (mean over the recording; in a "
    "decoder over its text), audio (mean over the audio tokens of an audio language model), all "
    "(mean that includes padding), last (the last position), or the number of a position. One row "
    "per frame or audio token: frames. Default: frames for a label of frames, last at decoder "
    "sites, else speech."
)
_NOISE_HELP = (
    "Adds a copy of every recording with noise at a ratio in dB: snr:10 (white noise) or "
    "snr:10:FOLDER (recorded noise). The column noise then names the noise of each row. May be "
    "repeated."
)
_TYPES_HELP = (
    "Column for the control task of Hewitt & Liang. In this task, each value of the column has a "
    "random label."
)
_BATCH_HELP = "Recordings per pass. An interrupted run continues with the number of its first run."
_OUT_HELP = "Folder for the figure, table.csv, result.json, the bank and the store."


def probe(
    manifest: Annotated[str, typer.Argument(help=_MANIFEST_HELP)],
    label: Annotated[str, typer.Option("--label", help=_LABEL_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help=_OUT_HELP)],
    model: ModelOption = DEFAULT_MODEL,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Column, such as speaker. Rows with the same value are in the same fold.",
        ),
    ] = None,
    site: Annotated[
        str, typer.Option("--site", help="Site to read. `jaxasr info` lists all sites.")
    ] = "encoder.resid_post",
    pool: Annotated[str | None, typer.Option("--pool", help=_POOL_HELP)] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="COLUMN=VALUE[,VALUE …]: use only these rows. May be repeated."
        ),
    ] = None,
    noise: Annotated[list[str] | None, typer.Option("--noise", help=_NOISE_HELP)] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Kind of label: class, or value for numbers (ridge regression, scored by R²).",
        ),
    ] = "class",
    types: Annotated[str | None, typer.Option("--types", help=_TYPES_HELP)] = None,
    penalty: Annotated[
        list[float] | None,
        typer.Option(
            "--penalty", help="Strength λ of the penalty λ/2 ‖W‖². May be repeated. Default: 1."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")
    ] = 5,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Number of random splits into folds.")
    ] = 1,
    min_count: Annotated[
        int, typer.Option("--min-count", min=0, help="Leave out classes with fewer rows than this.")
    ] = 0,
    max_rows: Annotated[
        int,
        typer.Option(
            "--max-rows",
            min=1,
            help="Largest number of frames. If there are more, a sample is used.",
        ),
    ] = 6000,
    text: Annotated[
        str,
        typer.Option(
            "--text",
            help="Text that the decoder reads at decoder sites: greedy (generated) or transcript.",
        ),
    ] = "greedy",
    batch: Annotated[int, typer.Option("--batch", min=1, help=_BATCH_HELP)] = 8,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            help="Folder for activations, which several probes can share. Default: in --out.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    distributed: DistributedOption = "auto",
) -> None:
    """Fits linear probes of every layer for a label, and compares their accuracy with controls.

    Lists recordings that cannot be read, and leaves them out. To continue after an interruption,
    run the same command again.
    """
    from experiments import runtime
    from experiments.analyses.probe_question import (
        TEXTS,
        ProbeQuestion,
        default_pool,
        default_target,
    )
    from experiments.progress import Progress

    if text not in TEXTS:
        raise ValueError(f"--text: expected {' or '.join(TEXTS)}, got {text!r}.")
    conditions = dict(_parse_condition(condition) for condition in where or [])
    question = ProbeQuestion(
        label=label,
        site=site,
        pool=pool or default_pool(label, site),
        group=group,
        types=types,
        target=default_target(label, target),
        penalties=tuple(penalty or (1.0,)),
        folds=folds,
        seeds=tuple(range(seeds)),
        min_count=min_count,
        max_rows=max_rows,
    )
    selection = {"noise": noise or [], "where": where or []}
    # A path is made absolute, so that it means the same from another working folder.
    source = str(Path(manifest).resolve()) if Path(manifest).exists() else manifest
    options = {"manifest": source, "text": text, "dtype": dtype.value, **selection}
    output = _open_output(out, question, model, overwrite, **options)
    # Errors in the manifest appear before JAX and the model are loaded.
    from experiments.analyses.probe_data import check_columns, open_activations, open_corpora

    corpus, probed_corpus = open_corpora(manifest, conditions, noise or [])
    check_columns(probed_corpus, question)
    steps = Progress()
    with steps("start JAX"):
        runtime.start(device, distributed)
        from experiments.analyses.probe import check_labels
        from jaxasr.processes import this_process
    check_labels(probed_corpus, question)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    folder, process = store or out / "activations", this_process()
    activations = open_activations(asr, corpus, question, folder, text, batch, steps, process)
    if activations is None:
        steps.note(f"finished {process.name}; process 0 fits the probes")
        return
    result = _fit(asr, probed_corpus, activations, question, output, steps, selection)
    steps.print_total()
    _print_result(result, json)


def _open_output(
    out: Path, question: "ProbeQuestion", model: str, overwrite: bool, **options: Any
) -> "Output":
    from experiments.commands.output import describe_origin, open_output

    description = describe_origin("probe", [], model, **dataclasses.asdict(question), **options)
    return open_output(out, dict.fromkeys(_FILES, description), overwrite)


def _parse_condition(text: str) -> tuple[str, list[str]]:
    """Parses `gender=F,M` to ("gender", ["F", "M"])."""
    column, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"--where: expected COLUMN=VALUE or COLUMN=VALUE,VALUE, got {text!r}.")
    return column, values.split(",")


def _fit(
    asr: "Recogniser",
    corpus: "Corpus",
    activations: "Store",
    question: "ProbeQuestion",
    output: "Output",
    steps: "Progress",
    selection: dict[str, list[str]],
) -> dict[str, Any]:
    """Fits the probes and writes their files. Returns the content of result.json."""
    from experiments.analyses.probe import draw_scores, fit_with_controls
    from experiments.analyses.probe_rows import read_rows
    from experiments.runtime import describe_weights
    from interventions.storage.provenance import provenance
    from interventions.storage.text_files import write_json, write_text

    for name, problem in activations.problems.items():
        steps.note(f"left out {name}: {problem}")
    rows = read_rows(activations, corpus, question, asr)
    with steps.bar(f"probes of {len(rows.X)} layers, {len(rows.y)} rows") as progress:
        probes = fit_with_controls(rows, question, progress)
    settings = dataclasses.asdict(question) | selection
    origin = provenance(
        model=describe_weights(asr),
        data={"corpus": corpus.name, "store": activations.attrs["checksums"]},
        config=settings,
    )
    result = {
        "question": settings,
        "rows": len(rows.y),
        "classes": _count_classes(rows.y) if question.target == "class" else None,
        "groups": None if rows.groups is None else len(set(rows.groups)),
        "left_out": {"recordings": activations.problems, "rows": rows.left_out},
        "table": probes.table.to_dict("records"),
        "provenance": origin,
    }
    title = f"{question.label} at {question.site} (pool: {question.pool})"
    with steps("write the results"), output.writing() as new:
        write_text(new / "table.csv", probes.table.to_csv(index=False, float_format="%.5f"))
        figure = draw_scores({describe_weights(asr)["name"]: probes.table}, title)
        figure.savefig(new / "accuracy.png", dpi=120)
        probes.bank.save(new / "bank", provenance=origin)
        write_json(new / "result.json", result)
    return result


def _count_classes(y: Any) -> dict[str, int]:
    import numpy as np

    values, counts = np.unique(y, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def _print_result(result: dict[str, Any], json: bool) -> None:
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json(result))
        return
    from experiments.pages.probe_table import print_table

    classes = result["classes"]
    labels = ", ".join(f"{name} {n}" for name, n in classes.items()) if classes else "values"
    left_out = result["left_out"]["rows"] or "none"
    print(printable(f"{result['rows']} rows ({labels}); left out: {left_out}"))
    print_table(result["table"])
