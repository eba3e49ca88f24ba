"""`jaxasr probe`: what every layer knows of a label, with the controls that make it believable."""

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

EXAMPLE = "jaxasr probe speech.jsonl --label gender --group speaker --site encoder.resid_post --out gender-probe"

FRAME_LABELS = "phone, word, energy, f0"
_FILES = ("table.csv", "accuracy.png", "result.json", "bank")


def probe(
    manifest: Annotated[
        str,
        typer.Argument(
            help="A manifest (.jsonl, .csv), a folder of LibriSpeech, Common Voice or TIMIT, or hf:NAME."
        ),
    ],
    label: Annotated[
        str,
        typer.Option(
            "--label",
            help=f"What to tell: a column, speaker, noise, or of every frame {FRAME_LABELS}.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the figure, table.csv, result.json, the bank and the store.",
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", help="Column, such as speaker, that never is on both sides of a fold."
        ),
    ] = None,
    site: Annotated[
        str, typer.Option("--site", help="Where to read, see `jaxasr info`.")
    ] = "encoder.resid_post",
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            help="speech, all, last, a position, or frames. Default: speech; of decoder sites last.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="COLUMN=VALUE[,VALUE …]: only these rows; may be repeated."),
    ] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            "--noise",
            help="snr:10, snr:10:FOLDER …: every recording once more in noise, in column noise.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="class, or value for numbers (ridge regression, R²).")
    ] = "class",
    types: Annotated[
        str | None,
        typer.Option(
            "--types", help="Column of the control task: a random label each (Hewitt & Liang)."
        ),
    ] = None,
    penalty: Annotated[
        list[float] | None,
        typer.Option("--penalty", help="Strength of λ/2 ‖W‖²; may be repeated. Default: 1."),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Of the cross-validation.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Ways to make the folds.")] = 1,
    min_count: Annotated[
        int, typer.Option("--min-count", min=0, help="Classes with fewer rows are left out.")
    ] = 0,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Frames that are drawn where there are more.")
    ] = 6000,
    text: Annotated[
        str, typer.Option("--text", help="What decoder sites are read over: greedy or transcript.")
    ] = "greedy",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Recordings in a pass.")] = 8,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder of activations, kept and shared. Default: in --out."),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Fits linear probes of every layer for a label, and shows accuracy by layer beside its controls.

    An interrupted run goes on where it was. Recordings that cannot be read are listed and left out.
    """
    from experiments import runtime
    from experiments.commands.output import checked, made
    from experiments.progress import Progress

    where_it_is = str(Path(manifest).resolve()) if Path(manifest).exists() else manifest
    asked = {
        "manifest": where_it_is,
        "label": label,
        "group": group,
        "site": site,
        "pool": pool,
        "where": where,
        "noise": noise,
    }
    asked |= {
        "target": target,
        "types": types,
        "penalty": penalty,
        "folds": folds,
        "seeds": seeds,
        "min_count": min_count,
    }
    asked |= {"max_rows": max_rows, "text": text, "dtype": dtype.value}
    output = checked(out, dict.fromkeys(_FILES, made("probe", [], model, **asked)), overwrite)
    if text not in ("greedy", "transcript"):
        raise ValueError(f"--text: expected greedy or transcript, got {text!r}.")
    steps = Progress()
    with steps("start JAX"):
        runtime.start(device)
        from experiments.analyses.probe import FRAME_LABELS as framed, VALUES, Question, check
    pool = pool or (
        "frames" if label in framed else "last" if site.startswith("decoder.") else "speech"
    )
    target = "value" if label in VALUES else target
    question = Question(
        label,
        site,
        pool,
        group,
        types,
        target,
        tuple(penalty or (1.0,)),
        folds,
        tuple(range(seeds)),
        min_count,
        max_rows,
    )
    corpus, rows = _corpora(manifest, where or [], noise or [])
    check(rows, question)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    known = _extracted(asr, corpus, question, store or out / "activations", text, batch, steps)
    found = run(
        asr, rows, known, question, output, steps, {"noise": noise or [], "where": where or []}
    )
    steps.print_total()
    _show(found, json)


def _corpora(manifest: str, where: list[str], noise: list[str]) -> tuple[Any, Any]:
    """What is heard, and what of it is asked about: a condition on the column `noise` leaves out rows, not recordings."""
    from experiments.data.corpora import open_corpus, with_noise

    wanted = dict(_condition(text) for text in where)
    late = {column: wanted.pop(column) for column in ("noise",) if noise and column in wanted}
    heard = with_noise(open_corpus(manifest).where(wanted), noise)
    return heard, heard.where(late)


def _condition(text: str) -> tuple[str, list[str]]:
    column, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"--where: expected COLUMN=VALUE or COLUMN=VALUE,VALUE, got {text!r}.")
    return column, values.split(",")


def _extracted(
    asr: Any, corpus: Any, question: Any, path: Path, text: str, batch: int, steps: Any
) -> Any:
    """The store of the activations: the one that is there when it has all of them, else made or finished now."""
    from experiments import store

    sites, pools = (question.site, question.floor), _pools(question)
    if store.covers(path, asr, corpus, sites, pools, text):
        found = store.open(path)
        with steps("check the activations that are there"):
            found.verify_checksums()
        return found
    with steps.bar(f"activations of {len(corpus)} recordings") as progress:
        found = store.extract(
            asr, corpus, path, sites=sites, pool=pools, text=text, batch=batch, progress=progress
        )
    speed = found.attrs["speed"]
    steps.note(
        f"{speed['utterances']} recordings, {speed['utterances'] / max(speed['seconds'], 1e-3):.2f} a second"
    )
    return found


def _pools(question: Any) -> tuple[str, ...]:
    usual = ("speech", "all")
    return usual if question.pool in usual else (*usual, question.pool)


def run(
    asr: Any, corpus: Any, known: Any, question: Any, output: Any, steps: Any, more: dict[str, Any]
) -> dict[str, Any]:
    """Fits, writes everything into the folder of `output`, and gives what `result.json` holds."""
    import dataclasses

    from experiments.analyses import probe as probing
    from experiments.runtime import weights
    from interventions.storage.provenance import provenance
    from interventions.storage.text_files import write_json, write_text

    for name, problem in known.problems.items():
        steps.note(f"left out {name}: {problem}")
    rows = probing.rows(known, corpus, question, asr)
    with steps.bar(f"probes of {len(rows.X)} layers, {len(rows.y)} rows") as progress:
        answer = probing.answer(rows, question, progress)
    settings = dataclasses.asdict(question) | more
    about = provenance(
        model=weights(asr),
        data={"corpus": corpus.name, "store": known.attrs["checksums"]},
        config=settings,
    )
    result = {
        "question": settings,
        "rows": len(rows.y),
        "classes": _counts(rows.y) if question.target == "class" else None,
        "groups": None if rows.groups is None else len(set(rows.groups)),
        "left_out": {"recordings": known.problems, "rows": rows.left_out},
        "table": answer.table.to_dict("records"),
        "provenance": about,
    }
    with steps("write"), output.writing() as new:
        write_text(new / "table.csv", answer.table.to_csv(index=False, float_format="%.5f"))
        title = f"{question.label} at {question.site}, {question.pool}"
        probing.figure({weights(asr)["name"]: answer.table}, title).savefig(
            new / "accuracy.png", dpi=120
        )
        answer.bank.save(new / "bank", provenance=about)
        write_json(new / "result.json", result)
    return result


def _counts(y: Any) -> dict[str, int]:
    import numpy as np

    return dict(zip(*(part.tolist() for part in np.unique(y, return_counts=True))))


def _show(result: dict[str, Any], json: bool) -> None:
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json(result))
        return
    from rich.table import Table

    from experiments.progress import console

    classes = result["classes"]
    what = ", ".join(f"{name} {n}" for name, n in classes.items()) if classes else "values"
    print(
        printable(
            f"{result['rows']} rows ({what}); left out: {result['left_out']['rows'] or 'none'}"
        )
    )
    names = list(result["table"][0])
    shown = Table(*names, box=None, header_style="dim", pad_edge=False)
    for row in result["table"]:
        shown.add_row(
            *(
                f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name])
                for name in names
            )
        )
    console().print(shown)
