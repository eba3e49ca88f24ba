"""Compares extraction of activations to disk with torch hooks.

Run it with `python -m experiments.bench store`.
"""

import contextlib
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

from experiments.bench import machine, options, recordings
from experiments.bench.models import Job
from experiments.bench.worker import Worker, threads

SETS = ("libri_train100", "timit", "libri_test_other", "ravdess")  # in the data folder
_MAX_DIFFERENCE = 1e-3  # relative to the largest activation of a layer


class JaxasrExtractor:
    """A worker that extracts activations from audio files to a store."""

    def __init__(self, job: Job):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def run(self, number: int) -> float:
        """Extracts the activations to a new store, and returns the seconds.

        Args:
            number: part of the store's name, different in each call.
        """
        from experiments import store
        from experiments.data.corpora import Corpus, Utterance

        corpus = Corpus(
            "bench", "memory", tuple(Utterance(file, Path(file)) for file in self.job["files"])
        )
        start = time.perf_counter()
        store.extract(
            self.asr, corpus, self._name_folder(number), pool=("speech",), batch=self.job["batch"]
        )
        return time.perf_counter() - start

    def values(self, number: int) -> str:
        """Copies the activations [L, N, D] of the store `number` to a NumPy file.

        Returns:
            The path of the file.
        """
        from experiments import store

        file = Path(self.job["folder"]) / "ours.npy"
        np.save(file, store.open(self._name_folder(number)).activations("encoder.resid_post"))
        return str(file)

    def disk(self, megabytes: int) -> dict[str, float]:
        """Measures how fast a store and a plain file of the same size are written and read.

        Returns:
            Four speeds in MB/s. The time to read the store includes its integrity checks.
        """
        folder = Path(self.job["folder"])
        stored = _measure_store_speed(self.asr, folder / "large", megabytes)
        return stored | _measure_raw_speed(folder / "raw", megabytes)

    def _name_folder(self, number: int) -> Path:
        return Path(self.job["folder"]) / f"store-{number}"


def _measure_store_speed(asr: Any, path: Path, megabytes: int) -> dict[str, float]:
    """Writes random numbers to a store and reads them. Returns MB/s."""
    from experiments import store
    from experiments.store import integrity, layout
    from experiments.store.passes import ExtractionJob

    site, batch, config = "encoder.resid_post", 64, asr.config
    n_layers, width = config.n_audio_layer, config.n_audio_state
    # Rounds the number of rows down to full batches. A float32 value has 4 bytes.
    n = max(1, megabytes * 10**6 // (4 * n_layers * width) // batch) * batch
    attributes = integrity.identity({}, {}, {"sites": [site], "pools": ["speech"], "text": None})
    job = ExtractionJob((site,), ("speech",), False, None, "en", 1)
    names = list(map(str, range(n)))
    group = layout.create(path, attributes, job, config, names, "float32", batch)
    x = np.random.default_rng(0).normal(size=(n_layers, batch, width)).astype(np.float32)
    start = time.perf_counter()
    for first in range(0, n, batch):
        group[site][0, :, first : first + batch] = x
    write_s = time.perf_counter() - start
    group["status"][:] = layout.DONE
    start = time.perf_counter()
    size = store.open(path).activations(site).nbytes
    read_s = time.perf_counter() - start
    return {"store_write": size / write_s / 1e6, "store_read": size / read_s / 1e6}


def _measure_raw_speed(path: Path, megabytes: int) -> dict[str, float]:
    """Writes random bytes to a file and reads them. Returns MB/s."""
    block = os.urandom(1 << 20)  # 1 MiB that no file system can compress
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
    write_s = time.perf_counter() - start
    start = time.perf_counter()
    size = len(path.read_bytes())
    read_s = time.perf_counter() - start
    return {"raw_write": size / write_s / 1e6, "raw_read": size / read_s / 1e6}


class TorchExtractor:
    """A worker that averages the encoder layers of `transformers` with hooks, and saves one file.

    Attention is fused. The hooks average over the frames of the recording, without padding.
    """

    def __init__(self, job: Job):
        import torch
        import transformers
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads())
        self.torch, self.job = torch, job
        self.pooled: list[Any] = []
        model = WhisperForConditionalGeneration.from_pretrained(
            job["huggingface"], attn_implementation="sdpa"
        )
        self.encoder = model.model.encoder.eval().requires_grad_(False)
        self.features = WhisperFeatureExtractor(feature_size=job["n_mels"])
        for layer in self.encoder.layers:
            layer.register_forward_hook(self._pool)

    def _pool(self, module: Any, args: Any, out: Any) -> None:
        x = out[0] if isinstance(out, tuple) else out  # depends on the version of transformers
        self.pooled.append((x * self.mask).sum(1) / self.mask.sum(1))

    def run(self, number: int) -> float:
        """Extracts the activations to one file, and returns the seconds. Ignores `number`."""
        start, files, batch = time.perf_counter(), self.job["files"], self.job["batch"]
        rows = [
            self._run_batch(files[first : first + batch]) for first in range(0, len(files), batch)
        ]
        np.save(Path(self.job["folder"]) / "torch.npy", np.concatenate(rows, axis=1))
        return time.perf_counter() - start

    def _run_batch(self, files: list[str]) -> np.ndarray:
        from jaxasr.audio import load_audio, n_frames

        audios = [load_audio(file) for file in files]
        frames = self.torch.tensor([n_frames(len(audio)) for audio in audios])
        # [batch, frames, 1], 1 for frames of the recording and 0 for padding
        self.mask = (self.torch.arange(1500)[None] < frames[:, None]).float()[..., None]
        self.pooled = []
        mels = self.features(audios, sampling_rate=16_000, return_tensors="pt").input_features
        with self.torch.inference_mode():
            self.encoder(mels)
            return self.torch.stack(self.pooled).numpy()


def main(
    model: options.Model = "tiny.en",
    clips: Annotated[int, typer.Option(help="Recordings, best a multiple of --batch.")] = 32,
    batch: Annotated[int, typer.Option(help="Recordings per pass.")] = 8,
    rounds: Annotated[
        int, typer.Option(help="How often each library extracts all recordings.")
    ] = 3,
    megabytes: Annotated[
        int, typer.Option(help="Size of the store in the measurement of the disk, in MB.")
    ] = 256,
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures how fast each library turns audio files into mean activations on disk.

    Fails if the activations of the libraries differ.
    """
    options.set_data_folder(data)
    console = options.make_console()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        job = recordings.prepare_job({"model": model, "clips": 1, "folder": scratch})
        job |= {"batch": batch, "files": _list_files(clips)}
        description = machine.describe_machine()
        classes = {"jaxasr": "JaxasrExtractor"} | (
            {"torch": "TorchExtractor"} if "torch" in machine.libraries() else {}
        )
        workers = {
            name: stack.enter_context(Worker(f"experiments.bench.store:{class_name}", job))
            for name, class_name in classes.items()
        }
        first_s = {
            name: worker.ask("run", number=0) for name, worker in workers.items()
        }  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(1, rounds + 1):
            for name, worker in workers.items():
                seconds[name].append(worker.ask("run", number=number))
        ours = workers["jaxasr"].ask("values", number=1)
        difference = _compare_with_torch(ours, Path(scratch) / "torch.npy")
        disk = workers["jaxasr"].ask("disk", megabytes=megabytes)
    numbers = {
        "model": model,
        "clips": clips,
        "batch": batch,
        "seconds": seconds,
        "first_s": first_s,
        "largest_difference": difference,
        "disk_mb_per_s": disk,
    }
    console.print(machine.title(description))
    _print(console, numbers)
    options.save(out, {**machine.report(description), **numbers})
    if difference is not None and difference > _MAX_DIFFERENCE:
        raise typer.Exit(1)


def _list_files(n: int) -> list[str]:
    from experiments.data import real_speech

    clips = real_speech.select_evenly(real_speech.recordings(SETS), n)
    if len(clips) < n:
        raise ValueError(
            f"--clips {n}: the data folder has {len(clips)} recordings. Give a smaller number, or "
            "name another folder with --data or JAXASR_DATA."
        )
    return [str(clip.path) for clip in clips]


def _compare_with_torch(ours: str, theirs: Path) -> float | None:
    """Returns the largest difference, relative to torch's largest value in the layer."""
    if not theirs.exists():
        return None
    x, reference = np.load(ours), np.load(theirs)
    largest = np.abs(reference).max((1, 2))
    return float((np.abs(x - reference).max((1, 2)) / largest).max())


def _print(console: Console, numbers: dict[str, Any]) -> None:
    clips, ours = numbers["clips"], numbers["seconds"]["jaxasr"]
    console.print(f"\n{numbers['model']}, {clips} recordings, batch {numbers['batch']}")
    table = Table(
        "", "recordings/s", "first s", "× ours", box=None, pad_edge=False, header_style="dim"
    )
    for name, seconds in numbers["seconds"].items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(seconds, ours))
        rate, first_s = clips / statistics.median(seconds), numbers["first_s"][name]
        table.add_row(name, f"{rate:.2f}", f"{first_s:.1f}", f"{ratio:.2f}")
    console.print(table)
    disk = numbers["disk_mb_per_s"].items()
    console.print("MB/s: " + ", ".join(f"{name.replace('_', ' ')} {mb:.0f}" for name, mb in disk))
    console.print(f"Largest relative difference: {numbers['largest_difference']}")
