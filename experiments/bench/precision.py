"""Compares number formats with float32: `python -m experiments.bench precision`.

Every policy of `jaxasr.precision.PRECISIONS` runs the same sweeps and generates the same texts. The
reference is "float32". With --out, the results are saved after each policy, and a second call with
another model or policy adds to them.
"""

import datetime
import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from experiments.bench import machine, options, precision_effects as effects
from experiments.bench.recordings import SETS

MIN_SECONDS = 2.0  # shorter recordings have too few tokens
REFERENCE = "float32"


def load_recordings(n: int, n_mels: int) -> dict[str, Any]:
    """Returns log-mel features, transcripts and the shortest length of `n` recordings.

    Raises:
        FileNotFoundError: there is no data folder.
    """
    from experiments.data import real_speech
    from jaxasr.audio import load_audio, log_mel, pad_or_trim
    from jaxasr.config import FRAMES_PER_S, N_SAMPLES, SAMPLE_RATE

    if real_speech.folder() is None:
        raise FileNotFoundError("--data: expected a folder of recordings with manifest.jsonl.")
    labelled = real_speech.recordings(SETS, "en", labelled=True)
    clips = real_speech.select_evenly([c for c in labelled if c.duration_s >= MIN_SECONDS], n)
    audios = [load_audio(clip.path)[:N_SAMPLES] for clip in clips]
    return {
        "mels": np.stack([np.asarray(log_mel(pad_or_trim(audio), n_mels)) for audio in audios]),
        "references": [clip.transcript for clip in clips],
        "paths": [str(clip.path.name) for clip in clips],
        "n_frames": int(min(map(len, audios)) / SAMPLE_RATE * FRAMES_PER_S),
    }


class Comparison:
    """The recordings of one model, and the results of its float32 reference.

    Args:
        model: a model that `jaxasr.load` accepts.
        n: number of recordings.
        sweeps: names of `precision_effects.SWEEPS`.
    """

    def __init__(self, model: str, n: int, sweeps: list[str]):
        import jaxasr

        self.model, self.sweeps = model, sweeps
        reference = jaxasr.load(model, precision=REFERENCE)
        data = load_recordings(n, reference.config.n_mels)
        generated = effects.generate(reference, data["mels"])
        is_long = generated[1] >= effects.N_TEXT_TOKENS
        self.references = [text for text, keep in zip(data["references"], is_long) if keep]
        self.paths = [path for path, keep in zip(data["paths"], is_long) if keep]
        self.generated = generated[0][is_long], generated[1][is_long]
        self.task = effects.make_task(
            reference, data["mels"][is_long], self.generated[0], data["n_frames"]
        )
        self.effects = effects.effects(reference, self.task, sweeps)
        self.wer = self._error_rate(reference, self.generated)

    def measure(self, policy: str) -> dict[str, Any]:
        """Returns the row of one policy."""
        import jaxasr

        start, asr = time.perf_counter(), jaxasr.load(self.model, precision=policy)
        generated = effects.generate(asr, self.task.mels)
        changes = effects.effects(asr, self.task, self.sweeps)
        correlations = {
            name: effects.rank_correlations(self.effects[name], changes[name])
            for name in self.sweeps
        }
        return {
            "rank_correlation": {
                name: {"mean": float(np.mean(values)), "min": min(values), "recordings": values}
                for name, values in correlations.items()
            },
            "equal_tokens": effects.equal_share(self.generated, generated),
            "wer": self._error_rate(asr, generated),
            "seconds": time.perf_counter() - start,
        }

    def describe(self) -> dict[str, Any]:
        """Returns the numbers of the reference."""
        return {
            "n": len(self.paths),
            "recordings": self.paths,
            "wer_float32": self.wer,
            "n_cells": {name: changes.shape[1] for name, changes in self.effects.items()},
            "median_effect": {
                name: float(np.median(np.abs(changes))) for name, changes in self.effects.items()
            },
        }

    def _error_rate(self, asr: Any, generated: tuple[np.ndarray, np.ndarray]) -> float:
        texts = [asr.tokenizer.decode(ids[:n]) for ids, n in zip(*generated, strict=True)]
        return effects.word_error_rate(texts, self.references)


def table(name: str, model: dict[str, Any]) -> Table:
    """Returns the table of one model, with a row per policy."""
    sweeps = list(model["reference"]["n_cells"])
    lines = Table(name, *sweeps, "equal tokens", "WER", box=None, pad_edge=False)
    blanks = ["1"] * len(sweeps)
    lines.add_row(REFERENCE, *blanks, "100 %", f"{model['reference']['wer_float32']:.3f}")
    for policy, row in model["policies"].items():
        agreement = [row["rank_correlation"][name] for name in sweeps]
        cells = [f"{numbers['mean']:.4f} ({numbers['min']:.3f})" for numbers in agreement]
        lines.add_row(policy, *cells, f"{100 * row['equal_tokens']:.1f} %", f"{row['wer']:.3f}")
    return lines


def main(
    model: options.Models = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="mixed, bfloat16, high; may be repeated. Default: mixed and bfloat16."),
    ] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Name of a sweep; may be repeated. Default: all four.")
    ] = None,
    clips: Annotated[int, typer.Option(help="Number of recordings.")] = 24,
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures how well sweeps and texts of other number formats agree with those of float32.

    A cell of the table is the mean over recordings of the rank correlation of effects, with the
    smallest one in parentheses.
    """
    options.set_data_folder(data)
    console, results = options.make_console(160), _read(out)
    sweeps = sweep or list(effects.SWEEPS)
    for name in model or ["tiny.en"]:
        comparison = Comparison(name, clips, sweeps)
        entry = results["models"].setdefault(name, {"policies": {}})
        entry["reference"] = _add_sweeps(entry.get("reference", {}), comparison.describe())
        for one in policy or ["mixed", "bfloat16"]:
            earlier = entry["policies"].get(one, {}).get("rank_correlation", {})
            row = comparison.measure(one)
            row["rank_correlation"] = earlier | row["rank_correlation"]
            entry["policies"][one] = row
            results |= _describe_machine()
            options.save(out, results)
        console.print(
            f"\n{name}: {entry['reference']['n']} recordings, rank correlation with float32"
        )
        console.print(table(name, entry))


def _add_sweeps(earlier: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers of the reference with those of sweeps that were measured earlier."""
    if earlier.get("recordings") != reference["recordings"]:
        return reference
    by_sweep = "n_cells", "median_effect"
    return reference | {name: earlier[name] | reference[name] for name in by_sweep}


def _read(out: Path | None) -> dict[str, Any]:
    return json.loads(out.read_text()) if out and out.exists() else {"models": {}}


def _describe_machine() -> dict[str, Any]:
    import jax

    from interventions.storage.provenance import commit, device, versions

    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "backend": jax.default_backend(),
        "device": device(),
        "load": machine.load_average(),
        "versions": versions(),
    }
