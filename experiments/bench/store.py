"""Activations of a corpus on disk, against torch with forward hooks: `python -m experiments.bench store`."""

import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import machine, recordings
from experiments.bench.worker import Worker, threads

SETS = ("libri_train100", "timit", "libri_test_other", "ravdess")


class Ours:
    """A worker: `extract` as anybody calls it, sound files to a finished store."""

    def __init__(self, job: dict[str, Any]):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def run(self, number: int) -> float:
        """Seconds."""
        from experiments import store

        out = Path(self.job["folder"]) / f"store-{number}"
        start = time.perf_counter()
        store.extract(
            self.asr, _corpus(self.job["files"]), out, pool=("speech",), batch=self.job["batch"]
        )
        return time.perf_counter() - start

    def values(self, number: int) -> str:
        """A file of the activations, [L, N, D], to be compared."""
        from experiments import store

        found = store.open(Path(self.job["folder"]) / f"store-{number}")
        file = Path(self.job["folder"]) / "ours.npy"
        np.save(file, found.activations("encoder.resid_post"))
        return str(file)

    def disk(self, megabytes: int) -> dict[str, float]:
        """MB/s of a store of this size, all checked; and of one plain file on the same disk."""
        folder = Path(self.job["folder"])
        return _store_speed(self.asr, folder / "large", megabytes) | _raw_speed(
            folder / "raw", megabytes
        )


def _corpus(files: list[str]) -> Any:
    from experiments.data.corpora import Corpus, Utterance

    return Corpus("bench", "memory", tuple(Utterance(file, Path(file)) for file in files))


def _store_speed(asr: Any, path: Path, megabytes: int) -> dict[str, float]:
    from experiments import store
    from experiments.store import layout
    from experiments.store.passes import Job

    site, batch = "encoder.resid_post", 64
    config = asr.config
    n = (
        max(1, megabytes * 10**6 // (4 * config.n_audio_layer * config.n_audio_state) // batch)
        * batch
    )
    settings = {"sites": [site], "pools": ["speech"], "text": None}
    wanted = layout.identity({}, {}, settings)
    group = layout.create(
        path,
        wanted,
        Job((site,), ("speech",), False, None, "en", 1),
        config,
        list(map(str, range(n))),
        "float32",
        batch,
    )
    x = (
        np.random.default_rng(0)
        .normal(size=(config.n_audio_layer, batch, config.n_audio_state))
        .astype(np.float32)
    )
    start = time.perf_counter()
    for first in range(0, n, batch):
        group[site][0, :, first : first + batch] = x
    wrote = time.perf_counter() - start
    group["status"][:] = layout.DONE
    start = time.perf_counter()
    size = store.open(path).activations(site).nbytes
    return {
        "store_write": size / wrote / 1e6,
        "store_read": size / (time.perf_counter() - start) / 1e6,
    }


def _raw_speed(path: Path, megabytes: int) -> dict[str, float]:
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    wrote = time.perf_counter() - start
    start = time.perf_counter()
    size = len(path.read_bytes())
    return {"raw_write": size / wrote / 1e6, "raw_read": size / (time.perf_counter() - start) / 1e6}


class Torch:
    """A worker: `transformers`' encoder with fused attention, a hook on every layer that pools over true frames, then one file."""

    def __init__(self, job: dict[str, Any]):
        import torch
        import transformers
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads())
        self.torch, self.job, self.kept = torch, job, []
        whole = WhisperForConditionalGeneration.from_pretrained(
            job["huggingface"], attn_implementation="sdpa"
        )
        self.encoder = whole.model.encoder.eval().requires_grad_(False)
        self.features = WhisperFeatureExtractor(feature_size=job["n_mels"])
        for layer in self.encoder.layers:
            layer.register_forward_hook(self._pool)

    def _pool(self, module: Any, args: Any, out: Any) -> None:
        x = out[0] if isinstance(out, tuple) else out
        self.kept.append((x * self.mask).sum(1) / self.mask.sum(1))

    def run(self, number: int) -> float:
        """Seconds, sound files to activations in a file."""
        start, rows = time.perf_counter(), []
        files = self.job["files"]
        for first in range(0, len(files), self.job["batch"]):
            rows.append(self._batch(files[first : first + self.job["batch"]]))
        np.save(Path(self.job["folder"]) / "torch.npy", np.concatenate(rows, axis=1))
        return time.perf_counter() - start

    def _batch(self, files: list[str]) -> np.ndarray:
        from jaxasr.audio import load_audio, n_frames

        audios = [load_audio(file) for file in files]
        frames = self.torch.tensor([n_frames(len(audio)) for audio in audios])
        self.mask = (self.torch.arange(1500)[None] < frames[:, None]).float()[..., None]
        self.kept = []
        with self.torch.inference_mode():
            self.encoder(
                self.features(audios, sampling_rate=16_000, return_tensors="pt").input_features
            )
            return self.torch.stack(self.kept).numpy()


def main(
    model: Annotated[str, typer.Option(help="A model as `jaxasr.load` takes it.")] = "tiny.en",
    clips: Annotated[int, typer.Option(help="Recordings; full batches are best.")] = 32,
    batch: Annotated[int, typer.Option(help="Recordings at a time.")] = 8,
    rounds: Annotated[int, typer.Option(help="Times that each goes over them all, in turn.")] = 3,
    megabytes: Annotated[
        int, typer.Option(help="Size of the store that the disk is measured with.")
    ] = 256,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with manifest.jsonl; default: as for `transcribe`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Pools all encoder layers over speech, sound files to disk, here and in torch, in turn. Fails when their values differ."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console = Console(width=None if Console().is_terminal else 120)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        prepared = recordings.prepared({"model": model, "clips": 1, "folder": scratch})
        job = {**prepared, "batch": batch, "files": _files(clips)}
        described = machine.described()
        kinds = {"jaxasr": "Ours"} | ({"torch": "Torch"} if "torch" in machine.libraries() else {})
        workers = {
            name: stack.enter_context(Worker(f"experiments.bench.store:{kind}", job))
            for name, kind in kinds.items()
        }
        for worker in workers.values():
            worker.ask("run", number=0)  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(1, rounds + 1):
            for name, worker in workers.items():
                seconds[name].append(worker.ask("run", number=number))
        worst = _difference(workers["jaxasr"].ask("values", number=1), Path(scratch) / "torch.npy")
        disk = workers["jaxasr"].ask("disk", megabytes=megabytes)
    found = {
        "model": model,
        "clips": clips,
        "batch": batch,
        "seconds": seconds,
        "largest_difference": worst,
        "disk_mb_per_s": disk,
    }
    _print(console, found, machine.title(described))
    if out:
        out.write_text(json.dumps({**machine.report(described), **found}, indent=1) + "\n")
    if worst is not None and worst > 1e-3:
        raise typer.Exit(1)


def _files(n: int) -> list[str]:
    from experiments.data import real_speech as data

    found = [str(clip.path) for clip in data.spread(data.recordings(SETS), n)]
    if len(found) < n:
        raise ValueError(
            f"--clips {n}: there are {len(found)} recordings here. Set JAXASR_DATA, or ask for fewer."
        )
    return found


def _difference(ours: str, theirs: Path) -> float | None:
    """The largest, relative to the largest reference value of its layer."""
    if not theirs.exists():
        return None
    a, b = np.load(ours), np.load(theirs)
    # The last layer's output: in torch, too, before its final norm.
    return float((np.abs(a - b).max((1, 2)) / np.abs(b).max((1, 2))).max())


def _print(console: Console, found: dict[str, Any], title: Any) -> None:
    console.print(
        title, f"\n\n{found['model']}, {found['clips']} recordings, batch {found['batch']}"
    )
    ours = found["seconds"]["jaxasr"]
    table = Table("", "recordings/s", "× ours", box=None, pad_edge=False, header_style="dim")
    for name, seconds in found["seconds"].items():
        ratio = statistics.median(s / o for s, o in zip(seconds, ours))
        table.add_row(name, f"{found['clips'] / statistics.median(seconds):.2f}", f"{ratio:.2f}")
    console.print(table)
    console.print(
        "MB/s: "
        + ", ".join(
            f"{name.replace('_', ' ')} {value:.0f}"
            for name, value in found["disk_mb_per_s"].items()
        )
    )
    console.print(f"Largest difference, relative: {found['largest_difference']}")
