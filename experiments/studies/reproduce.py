"""Runs studies: settings, arrays, findings, figures and a page for each, and an index over all; what was computed is kept."""

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
from experiments.studies.study import Finding, Study
from interventions.storage.provenance import provenance
from interventions.storage.results import save_result
from interventions.storage.text_files import only_writer, plain, staging, write_json, write_text

PAPER_MODEL = "large-v3"


def material(where: Path | str | None = None) -> tuple[Corpus, str]:
    """The recordings at `where`, else those of the data folder, else the built-in ones; and the preset that goes with them."""
    found = where or real_speech.folder()
    return (
        (builtin(), "builtin")
        if found is None
        else (_named(open_corpus(found), Path(found).name), "here")
    )


def builtin() -> Corpus:
    """The recordings that come with the package: short sentences, single words and near-homophones by one synthetic voice."""
    with resources.as_file(resources.files("experiments").joinpath("assets", "speech")) as folder:
        return _named(open_corpus(folder), "built-in")


def _named(corpus: Corpus, name: str) -> Corpus:
    """A manifest goes by the name of its folder."""
    return dataclasses.replace(corpus, name=name) if corpus.layout == "manifest" else corpus


def reproduce(
    name: str,
    study: Study,
    asr: Any,
    corpus: Corpus,
    out: Path,
    *,
    preset: str = "here",
    quick: bool = False,
    seed: int = 0,
    steps: Progress | None = None,
    record: Callable[[Path], None] = lambda new: None,
) -> dict[str, Any]:
    """Runs one study into the folder `out`: `result.json`, `arrays.nc`, figures, `index.html`; returns what `result.json` holds.

    `record` writes what made the files into the folder that will replace them.
    Its expensive items are kept in `out/items`, apart for every model, corpus and settings: a second run uses them.
    Raises ValueError for an unknown preset, BlockingIOError while another process runs into `out`, and what the study raises.
    """
    with only_writer(out):
        return _reproduced(
            name,
            study,
            asr,
            corpus,
            out,
            study.configured(preset, quick=quick, seed=seed),
            preset,
            quick,
            steps,
            record,
        )


def _reproduced(
    name: str, study: Study, asr: Any, corpus: Corpus, out: Path, settings: Any, preset: str, quick: bool, steps: Progress | None,
    record: Callable[[Path], None],
) -> dict[str, Any]:  # fmt: skip
    steps, start, cpu = steps or Progress(quiet=True), time.perf_counter(), -time.process_time()
    sources = {
        "model": weights(asr),
        "data": {
            "corpus": corpus.name,
            "recordings": len(corpus),
            "sha256": corpus.sha256(transcripts=True),
        },
    }
    keep = Keep(
        out / "items" / fingerprint(name, study.version, sources, settings.sourced()), steps
    )
    arrays = study.run(asr, corpus, settings, keep)
    with steps(f"{name} analysis and figures"):
        analysis = study.analyse(arrays, settings)
        figures = {key: _png(figure) for key, figure in study.draw(arrays, settings).items()}
    known = provenance(**sources, seed=settings.seed)
    cpu += time.process_time() + keep.earlier_cpu_s
    taken = {"this_run": time.perf_counter() - start, "items_when_made": keep.seconds, "cpu": cpu}
    result = plain(
        {
            **{"id": name, "title": study.title, "section": study.section, "about": study.about},
            **{"preset": preset, "quick": quick, "figures": list(figures)},
            "findings": {key: _finding(found) for key, found in analysis.findings.items()},
            "numbers": analysis.numbers,
            "differs": _differs(study, sources, settings),
            "settings": settings.explained(),
            "seconds": {key: round(seconds, 2) for key, seconds in taken.items()},
            "provenance": known,
        }
    )
    with staging(out) as new:
        save_result(arrays, new / "arrays.nc", provenance=known)
        for key, png in figures.items():
            (new / f"{key}.png").write_bytes(png)
        write_text(new / "index.html", study_page.render(result, figures))
        write_json(new / "result.json", result)
        record(new)
    return result


def reproduce_all(
    names: Iterable[str],
    out: Path,
    one: Callable[[str, Study, Path], dict[str, Any]],
    say: Callable[[str, BaseException], None],
) -> dict[str, dict[str, Any] | None]:
    """`one(name, study, folder)` for every name; one that fails is said, noted for the index, and the others get their turn."""
    done: dict[str, dict[str, Any] | None] = {}
    for name in names:
        folder = out / name
        try:
            done[name] = one(name, registry.study(name), folder)
            (folder / "error.txt").unlink(missing_ok=True)
        except Exception as problem:
            done[name] = None
            write_text(folder / "error.txt", "".join(traceback.format_exception(problem)))
            say(name, problem)
        write_text(out / "index.html", study_page.index(out))
    return done


def _finding(found: Finding) -> dict[str, Any]:
    claim, evidence = dataclasses.asdict(found.claim), found.evidence
    return {
        **claim,
        "ours": evidence and dataclasses.asdict(evidence),
        "verdict": found.verdict,
        "why": found.why,
    }


def _differs(study: Study, sources: dict[str, Any], settings: Any) -> list[str]:
    """What is not as in the paper: model, recordings, every setting whose value was changed, and what the study says of its method."""
    model, corpus = sources["model"]["name"], sources["data"]
    changed = [(key, known) for key, known in settings.sourced().items() if "paper" in known]
    return [
        *([f"model {model}; paper: {PAPER_MODEL}"] if PAPER_MODEL not in str(model) else []),
        f"recordings {corpus['corpus']} ({corpus['recordings']}); paper: {study.data}",
        *(f"{key} {known['value']}; paper: {known['paper']}" for key, known in changed),
        *study.differs,
    ]


def _png(figure: Any) -> bytes:
    """Without the date and the version that would make equal pictures differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
