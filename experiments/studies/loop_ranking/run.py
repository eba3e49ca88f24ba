"""Runs a ranking: patches a user's recordings, and writes the files of the result."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from experiments.data.corpora import Corpus
from experiments.item_cache import ItemCache, short_hash
from experiments.progress import Progress
from experiments.runtime import describe_weights
from experiments.studies.ablation import COMPONENT_SITES, HEAD_SITES, MEAN, NOISE, ZERO, mean_edits
from experiments.studies.forest import png
from experiments.studies.loop_figures import draw_maps, draw_parts
from experiments.studies.loop_patches import Patched, Patcher, patch_loops
from experiments.studies.loop_ranking import page
from experiments.studies.loop_ranking.ranking import Ranking, candidate_cells
from experiments.studies.loop_ranking.recordings import Limits, Recordings, select_recordings
from interventions.storage.process_parts import part_folder
from interventions.storage.provenance import provenance
from interventions.storage.results import save_result
from interventions.storage.text_files import (
    only_writer,
    staging,
    to_json_types,
    write_json,
    write_text,
)
from jaxasr import Recogniser
from jaxasr.processes import Process

ITEMS = "items"  # subfolder of the output with the finished recordings
_SITES = (*COMPONENT_SITES, *HEAD_SITES)
_VERSION = 1  # to increase when an item changes


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a ranking.

    Attributes:
        max_new_tokens: largest number of tokens per text.
        seed: seed of the noise, the division, the bootstraps and the permutations.
        kinds: kinds of patch.
        n_random: seeds of random directions.
        n_heads: heads per kind of patch that get a control and a cost.
        limits: largest numbers of recordings.
    """

    max_new_tokens: int = 64
    seed: int = 0
    kinds: tuple[str, ...] = (NOISE, ZERO, MEAN)
    n_random: int = 3
    n_heads: int = 5
    limits: Limits = dataclasses.field(default_factory=Limits)

    def quick(self) -> "Settings":
        """Returns settings for a result in minutes: white noise only, on a few recordings."""
        return dataclasses.replace(
            self, kinds=(NOISE,), n_random=1, n_heads=3, limits=Limits(loops=6, clean=12, means=0)
        )


def rank_loops(
    asr: Recogniser,
    loops: Corpus,
    clean: Corpus,
    out: Path,
    settings: Settings,
    steps: Progress,
    *,
    record: Callable[[Path], None] = lambda new: None,
    process: Process | None = None,
) -> dict[str, Any]:
    """Ranks the heads and layers of the decoder by the loops that they resolve.

    Writes `index.html`, `result.json`, `arrays.nc` and figures. Finished recordings are kept in
    `out/items`, and a later run with more recordings uses them.

    Args:
        asr: the model.
        loops: recordings that are expected to loop.
        clean: recordings of clean speech, with transcripts for the word error rate.
        out: folder for the files.
        settings: settings of the ranking.
        steps: shows progress.
        record: function that adds the record of the run to the folder of the new files.
        process: this process. Several processes divide the recordings, and the first one writes
            the files.

    Returns:
        The content of `result.json`. Empty in all processes but the first.

    Raises:
        ValueError: no recording loops, or fewer than two are clean.
        BlockingIOError: another process is writing to `out`.
    """
    process = process or Process()
    key = [describe_weights(asr), settings.max_new_tokens, settings.seed, _VERSION]
    items = out / ITEMS / short_hash("loops", *key)
    with only_writer(out if process.is_first else part_folder(items, process)):
        start, cache = time.perf_counter(), ItemCache(items, steps, process)
        with cache.others.reporting_failure():
            recordings = select_recordings(
                asr, loops, clean, cache, settings.max_new_tokens, settings.limits
            )
            patched = _patch(asr, recordings, settings, cache)
        if not process.is_first:
            return {}
        with steps("rank the parts"):
            ranking = Ranking(patched, recordings.loops, recordings.clean, settings.seed)
            figures = {
                "parts": png(draw_parts(ranking.outcomes, settings.seed)),
                "maps": png(draw_maps(ranking.arrays)),
            }
            sources = {
                "model": describe_weights(asr),
                "data": {"loops": _describe(loops), "clean": _describe(clean)},
            }
            result = to_json_types(
                {
                    **_describe_recordings(recordings, ranking),
                    "settings": dataclasses.asdict(settings),
                    "ranking": ranking.numbers(),
                    "seconds": {
                        "this_run": round(time.perf_counter() - start, 1),
                        "items_when_made": round(cache.seconds, 1),
                    },
                    "provenance": provenance(**sources, seed=settings.seed),
                }
            )
        _write(out, result, ranking.arrays, figures, record)
    return result


def _patch(
    asr: Recogniser, recordings: Recordings, settings: Settings, cache: ItemCache
) -> Patched:
    means = recordings.for_means if MEAN in settings.kinds else []
    patcher = Patcher(
        asr,
        _SITES,
        cache,
        "loops",
        settings.max_new_tokens,
        settings.seed,
        means=dict(mean_edits(asr, means, _SITES)) if means else None,
        means_key=f" {short_hash([clip.id for clip in means])[:6]}",
    )
    sources = [str(clip.label("source")) for clip in recordings.loops]

    def select_cells(arrays: xr.Dataset) -> list[int]:
        return candidate_cells(arrays, sources, settings.n_heads, settings.seed)

    kinds = [kind for kind in settings.kinds if kind != MEAN or means]
    return patch_loops(
        patcher, recordings.loops, recordings.clean, kinds, settings.n_random, select_cells
    )


def _describe(corpus: Corpus) -> dict[str, Any]:
    return {
        "corpus": corpus.name,
        "recordings": len(corpus),
        "sha256": corpus.sha256(transcripts=True),
    }


def _describe_recordings(recordings: Recordings, ranking: Ranking) -> dict[str, Any]:
    """Returns the numbers and texts of the recordings, and why some are left out."""
    clips, speech = recordings.loops, ranking.speech
    return {
        "loops": [
            {name: clip.label(name) for name in ("name", "source", "text")} for clip in clips
        ],
        "sources_of_loops": len(set(ranking.sources)),
        "loops_left_out": [dataclasses.asdict(item) for item in recordings.loops_left_out],
        "clean": {
            "n": len(recordings.clean),
            "speakers": len(set(speech.source.values)),
            "with_transcript": int(speech.baseline_wer.notnull().sum()),
            "word_error_rate": float(speech.baseline_wer.mean()),
            "for_means": len(recordings.for_means),
        },
        "clean_left_out": [dataclasses.asdict(item) for item in recordings.clean_left_out],
        "chosen_with": int(ranking.division.choosing.sum()),
        "judged_with": int(ranking.division.judging.sum()),
        "why_undivided": ranking.division.why_undivided,
    }


def _write(
    out: Path,
    result: dict[str, Any],
    arrays: xr.Dataset,
    figures: dict[str, bytes],
    record: Callable[[Path], None],
) -> None:
    """Writes all files. They replace earlier ones together."""
    with staging(out) as new:
        save_result(arrays, new / "arrays.nc", provenance=result["provenance"])
        for name, image in figures.items():
            (new / f"{name}.png").write_bytes(image)
        write_text(new / "index.html", page.render(result, figures))
        write_json(new / "result.json", result)
        record(new)
