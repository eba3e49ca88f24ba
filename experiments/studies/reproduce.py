"""Runs studies, and writes arrays, findings, figures and a page for each, plus an index."""

import dataclasses
import io
import time
import traceback
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from experiments.data import real_speech
from experiments.data.corpora import Corpus, open_corpus
from experiments.item_cache import Keep, fingerprint
from experiments.progress import Progress
from experiments.runtime import weights
from experiments.studies import registry, study_page
from experiments.studies.study import Finding, Settings, Study
from interventions.storage.provenance import provenance
from interventions.storage.results import save_result
from interventions.storage.text_files import only_writer, plain, staging, write_json, write_text
from jaxasr import Recogniser

PAPER_MODEL = "large-v3"

Result = dict[str, Any]


def open_recordings(path: Path | str | None = None) -> tuple[Corpus, str]:
    """Opens the recordings of a run.

    Args:
        path: a corpus. None: the data folder (`experiments.data.real_speech`), or the built-in
            recordings if there is none.

    Returns:
        The corpus, and the preset for it: "here" or "builtin".
    """
    source = path or real_speech.folder()
    if source is None:
        return builtin(), "builtin"
    return _name_manifest(open_corpus(source), Path(source).name), "here"


def builtin() -> Corpus:
    """Opens the package's recordings: sentences, words and near-homophones, synthetic voice."""
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _name_manifest(open_corpus(folder), "built-in")


def _name_manifest(corpus: Corpus, name: str) -> Corpus:
    """Names a manifest after its folder; a corpus with its own layout keeps its name."""
    return dataclasses.replace(corpus, name=name) if corpus.layout == "manifest" else corpus


def reproduce(
    name: str,
    study: Study,
    asr: Recogniser,
    corpus: Corpus,
    out: Path,
    *,
    preset: str = "here",
    quick: bool = False,
    seed: int = 0,
    steps: Progress | None = None,
    record: Callable[[Path], None] = lambda new: None,
) -> Result:
    """Runs one study and writes `result.json`, `arrays.nc`, figures and `index.html`.

    Expensive items are stored in `out/items`, in a folder per model, corpus and settings, and a
    second run reuses them.

    Args:
        name: id of the study, such as "E7".
        study: the study.
        asr: the recogniser to study.
        corpus: the recordings.
        out: folder for the files.
        preset: see `Study.presets`.
        quick: whether to use fewer recordings.
        seed: of sampling, noise and resampling.
        steps: reports progress; None reports nothing.
        record: is called with the folder of the new files before it replaces the old ones, and can
            add a file that describes the run.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: an unknown preset.
        BlockingIOError: another process runs into `out`.
        Exception: what the study raises.
    """
    steps, clock = steps or Progress(quiet=True), _Clock()
    settings, sources = study.configured(preset, quick=quick, seed=seed), _sources(asr, corpus)
    with only_writer(out):
        items = out / "items" / fingerprint(name, study.version, sources, settings.with_sources())
        keep = Keep(items, steps)
        arrays = study.run(asr, corpus, settings, keep)
        with steps(f"{name} analysis and figures"):
            analysis = study.analyse(arrays, settings)
            figures = {key: _png(figure) for key, figure in study.draw(arrays, settings).items()}
        result = plain(
            {
                **{"id": name, "title": study.title, "section": study.section},
                **{"about": study.about, "preset": preset, "quick": quick},
                "figures": list(figures),
                "findings": {key: _finding(value) for key, value in analysis.findings.items()},
                "numbers": analysis.numbers,
                "differs": _differences(study, sources, settings),
                "settings": settings.with_defaults(),
                "seconds": clock.seconds(keep),
                "provenance": provenance(**sources, seed=settings.seed),
            }
        )
        with staging(out) as new:
            save_result(arrays, new / "arrays.nc", provenance=result["provenance"])
            for key, png in figures.items():
                (new / f"{key}.png").write_bytes(png)
            write_text(new / "index.html", study_page.render(result, figures))
            write_json(new / "result.json", result)
            record(new)
    return result


def reproduce_all(
    names: Iterable[str],
    out: Path,
    run_study: Callable[[str, Study, Path], Result],
    report_failure: Callable[[str, BaseException], None],
) -> dict[str, Result | None]:
    """Runs several studies, writes the index after each, and continues after a failure.

    Args:
        names: ids of studies.
        out: folder of the index and of one folder per study.
        run_study: called with id, study and folder.
        report_failure: called with id and exception of a study that failed.

    Returns:
        The result of each study; None for one that failed.
    """
    results: dict[str, Result | None] = {}
    for name in names:
        folder = out / name
        try:
            results[name] = run_study(name, registry.study(name), folder)
            (folder / "error.txt").unlink(missing_ok=True)
        except Exception as problem:
            results[name] = None
            write_text(folder / "error.txt", "".join(traceback.format_exception(problem)))
            report_failure(name, problem)
        write_text(out / "index.html", study_page.index(out))
    return results


class _Clock:
    """Measures a run's wall time and CPU time from its construction on."""

    def __init__(self) -> None:
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def seconds(self, keep: Keep) -> dict[str, float]:
        cpu = time.process_time() - self.cpu_start + keep.earlier_cpu_s
        wall = time.perf_counter() - self.start
        seconds = {"this_run": wall, "items_when_made": keep.seconds, "cpu": cpu}
        return {name: round(value, 2) for name, value in seconds.items()}


def _sources(asr: Recogniser, corpus: Corpus) -> dict[str, Any]:
    data = {"corpus": corpus.name, "recordings": len(corpus)}
    return {"model": weights(asr), "data": data | {"sha256": corpus.sha256(transcripts=True)}}


def _finding(finding: Finding) -> dict[str, Any]:
    evidence = finding.evidence and dataclasses.asdict(finding.evidence)
    verdict = {"ours": evidence, "verdict": finding.verdict, "why": finding.why}
    return dataclasses.asdict(finding.claim) | verdict


def _differences(study: Study, sources: dict[str, Any], settings: Settings) -> list[str]:
    """Lists what differs from the paper: model, recordings, settings and method."""
    model, data = sources["model"]["name"], sources["data"]
    changed = [(key, row) for key, row in settings.with_sources().items() if "paper" in row]
    return [
        *([f"model {model}; paper: {PAPER_MODEL}"] if PAPER_MODEL not in str(model) else []),
        f"recordings {data['corpus']} ({data['recordings']}); paper: {study.data}",
        *(f"{key} {row['value']}; paper: {row['paper']}" for key, row in changed),
        *study.differs,
    ]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib, equal figures are equal files.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
