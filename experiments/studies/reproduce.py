"""Runs studies and writes the results, a page per study, and an index of the pages."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from experiments.data import real_speech
from experiments.data.corpora import Corpus, join, open_corpus
from experiments.item_cache import ItemCache, short_hash
from experiments.progress import Progress
from experiments.runtime import describe_weights
from experiments.studies import forest, registry, study_page
from experiments.studies.finding_rows import finding_row
from experiments.studies.study import Analysis, Settings, Study
from interventions.storage.process_parts import part_folder
from interventions.storage.provenance import provenance
from interventions.storage.results import load_result, save_result
from interventions.storage.text_files import (
    only_writer,
    staging,
    to_json_types,
    write_json,
    write_text,
)
from jaxasr import Recogniser
from jaxasr.processes import Process

PAPER_MODEL = "large-v3"  # checkpoint of Whisper that the paper studies

Result = dict[str, Any]


def open_recordings(paths: Sequence[Path | str] = ()) -> tuple[Corpus, str]:
    """Opens the recordings of a run.

    Args:
        paths: paths of corpora, which are joined. If empty, the data folders
            (`experiments.data.real_speech`) are opened. If there are none, the recordings of the
            package are opened.

    Returns:
        The corpus, and the preset for it: "here" or "builtin".
    """
    sources = paths or real_speech.folders()
    if not sources:
        return builtin(), "builtin"
    corpora = [_name_manifest(open_corpus(path), Path(path).name) for path in sources]
    return join(corpora), "here"


def builtin() -> Corpus:
    """Opens the recordings of the package, which a synthetic voice speaks.

    Example:
        >>> builtin().name
        'built-in'
    """
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _name_manifest(open_corpus(folder), "built-in")


def _name_manifest(corpus: Corpus, name: str) -> Corpus:
    """Renames a corpus that was read from a manifest. All others keep their names."""
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
    process: Process | None = None,
    compare: Path | None = None,
) -> Result:
    """Runs one study, and writes `result.json`, `arrays.nc`, figures and `index.html`.

    Expensive items are stored in `out/items`, in a folder per model, corpus and settings. A later
    run reuses them.

    Args:
        name: id of the study, such as "E7".
        study: the study to run.
        asr: the model to study.
        corpus: the recordings.
        out: folder for the files.
        preset: "paper" or a key of `Study.presets`.
        quick: whether to apply the preset "quick", which uses fewer recordings.
        seed: seed of sampling, noise and resampling.
        steps: shows progress; None shows nothing.
        record: function that may add a description of the run. It is called with the folder of the
            new files, before they replace the old ones.
        process: this process. Several processes divide the items, and the first one writes the
            files.
        compare: `arrays.nc` of a run of this study with another model. None: claims that compare
            models are not testable.

    Returns:
        The content of `result.json`. Empty in all processes but the first.

    Raises:
        ValueError: the preset is unknown, or the study does not support the model's family or a
            comparison.
        BlockingIOError: another process is writing to `out`.
        Exception: the study fails.
    """
    check_support(name, study, asr.config.family, compares=compare is not None)
    steps, clock = steps or Progress(quiet=True), _Clock()
    other = None if compare is None else load_result(compare)
    settings, sources = study.configured(preset, quick=quick, seed=seed), _sources(asr, corpus)
    process = process or Process()
    # Only values of settings are hashed, so that a reworded reason keeps the stored items. With
    # more recordings, a run computes the additional items only.
    every_value = dataclasses.asdict(settings)
    values = {key: value for key, value in every_value.items() if key not in study.counts}
    items = out / "items" / short_hash(name, study.version, sources, values)
    with only_writer(out if process.is_first else part_folder(items, process)):
        cache = ItemCache(items, steps, process)
        with cache.others.reporting_failure():
            arrays = study.run(asr, corpus, settings, cache)
        if not process.is_first:
            return {}
        with steps(f"{name} analysis and figures"):
            analysis = study.analyse(arrays, settings)
            if other is not None and study.compare is not None:
                compared = study.compare(arrays, other, settings.seed)
                analysis = Analysis({**analysis.findings, **compared}, analysis.numbers)
            findings = {key: finding_row(value) for key, value in analysis.findings.items()}
            plots = {"forest": forest.draw_forest({"": findings})} if findings else {}
            plots |= study.draw(arrays, settings)
            figures = {key: forest.png(figure) for key, figure in plots.items()}
        result = to_json_types(
            {
                **{"id": name, "title": study.title, "section": study.section},
                **{"about": study.about, "preset": preset, "quick": quick},
                "version": study.version,
                "figures": list(figures),
                "findings": findings,
                "numbers": analysis.numbers,
                "differs": _differences(study, sources, settings),
                "settings": settings.with_defaults(),
                "seconds": clock.seconds(cache),
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


def check_support(name: str, study: Study, family: str, compares: bool = False) -> None:
    """Raises ValueError unless a study supports a family of models, and a comparison if asked."""
    if family not in study.families:
        supported = [
            key for key in registry.study_modules() if family in registry.study(key).families
        ]
        raise ValueError(
            f"{name}: expected a model of the family {' or '.join(study.families)}, got {family}. "
            f"Experiments that support it: {', '.join(supported) or 'none'}."
        )
    if compares and study.compare is None:
        raise ValueError(f"{name}: no claim compares models. Leave out --compare.")


def reproduce_all(
    names: Iterable[str],
    out: Path,
    run_study: Callable[[str, Study, Path], Result],
    report_failure: Callable[[str, BaseException], None],
    process: Process | None = None,
) -> dict[str, Result | None]:
    """Runs several studies, and continues after a study that fails.

    The index is written after each study, and the traceback of a failure to `error.txt`.

    Args:
        names: ids of studies.
        out: folder for the index and for one folder per study.
        run_study: function of id, study and folder that runs a study and returns its result.
        report_failure: function of id and exception that is called when a study fails.
        process: this process. Only the first of several processes writes these files.

    Returns:
        The result of each study by id; None if the study failed.
    """
    results: dict[str, Result | None] = {}
    writes = process is None or process.is_first
    for name in names:
        folder = out / name
        try:
            results[name] = run_study(name, registry.study(name), folder)
            if writes:
                (folder / "error.txt").unlink(missing_ok=True)
        except Exception as problem:
            results[name] = None
            if writes:
                write_text(folder / "error.txt", "".join(traceback.format_exception(problem)))
            report_failure(name, problem)
        if writes:
            write_text(out / "index.html", study_page.index(out))
    return results


class _Clock:
    """Measures wall time and CPU time from its creation."""

    def __init__(self) -> None:
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def seconds(self, cache: ItemCache) -> dict[str, float]:
        # The CPU time includes that of earlier runs, whose items this run loaded.
        cpu = time.process_time() - self.cpu_start + cache.earlier_cpu_s
        wall = time.perf_counter() - self.start
        seconds = {"this_run": wall, "items_when_made": cache.seconds, "cpu": cpu}
        return {name: round(value, 2) for name, value in seconds.items()}


def _sources(asr: Recogniser, corpus: Corpus) -> dict[str, Any]:
    """Describes the model and the recordings of a run."""
    data = {"corpus": corpus.name, "recordings": len(corpus)}
    return {
        "model": describe_weights(asr),
        "data": data | {"sha256": corpus.sha256(transcripts=True)},
    }


def _differences(study: Study, sources: dict[str, Any], settings: Settings) -> list[str]:
    """Lists the differences from the paper in model, recordings, settings and method."""
    model, data = sources["model"]["name"], sources["data"]
    changed = [(key, row) for key, row in settings.with_sources().items() if "paper" in row]
    return [
        *([f"model {model}; paper: {PAPER_MODEL}"] if PAPER_MODEL not in str(model) else []),
        f"recordings {data['corpus']} ({data['recordings']}); paper: {study.data}",
        *(f"{key} {row['value']}; paper: {row['paper']}" for key, row in changed),
        *study.differs,
    ]
