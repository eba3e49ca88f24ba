"""Runs six computations that can be interrupted and resumed, on tiny models.

A job is called with the folder that it writes to. A second call with the same folder continues it.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import helper modules in tests/
N_RECORDINGS = 12  # of a corpus


def sweep(folder: Path) -> None:
    """Sweeps all heads of two examples, and writes the bytes of the values to `done.npy`."""
    import jax
    from golden.tiny import checkpoint, tiny_state

    import interventions as iv
    import jaxasr

    config = jaxasr.Config(
        n_mels=5,
        n_audio_ctx=11,
        n_audio_state=21,
        n_audio_head=3,
        n_audio_layer=3,
        n_vocab=101,
        n_text_ctx=23,
        n_text_state=21,
        n_text_head=7,
        n_text_layer=4,
    )
    model = jaxasr.weights.assemble(checkpoint(config, tiny_state(config)))
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    runs = [iv.Run(mel=mel, tokens=tokens) for mel in mels]
    grid = {"site": "decoder.attn.z", "over": ("layer", "head", "position")}
    values = iv.sweep(model, *runs, **grid, metric=iv.logit_diff(3, 5), store=folder / "cells")
    (folder / "done.npy").write_bytes(values.values.tobytes())


def store(folder: Path) -> None:
    """Extracts pooled activations and frames of twelve tones."""
    from small_speech import small_recogniser, tones

    from experiments import store as activations

    corpus = tones([0.2 + 0.1 * i for i in range(N_RECORDINGS)])
    activations.extract(
        small_recogniser(), corpus, folder / "store", pool=("speech", "frames"), batch=2
    )


def patch(folder: Path) -> None:
    """Runs `jaxasr patch` for one token."""
    options = (
        "--source snr:0 --site decoder.mlp_out --over layer,position --answer three --foil four"
    )
    out = str(folder / "out")
    _run("patch", str(_tone(folder)), *options.split(), "--text", "one two", "--out", out)


def texts(folder: Path) -> None:
    """Runs `jaxasr patch --sequence` for whole texts."""
    options = "--source zero --site decoder.mlp_out --over layer --sequence --tokens 6"
    _run("patch", str(_tone(folder)), *options.split(), "--out", str(folder / "out"))


def probe(folder: Path) -> None:
    """Runs `jaxasr probe` for the pitch of tones."""
    options = "--label pitch --folds 3 --batch 2"
    _run("probe", str(_corpus(folder)), *options.split(), "--out", str(folder / "out"))


def reproduce(folder: Path) -> None:
    """Runs `jaxasr reproduce E7 --quick` on six recordings."""
    from experiments.studies import registry

    study = registry.study("E7")
    quick = {**study.presets["quick"], "per_language": 3, "max_new_tokens": 4}
    small = dataclasses.replace(study, presets={**study.presets, "quick": quick})
    registry.study = lambda name: small
    data, out = str(_corpus(folder)), str(folder / "out")
    _run("reproduce", "E7", "--quick", "--data", data, "--preset", "here", "--out", out)


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job for job in (sweep, store, patch, texts, probe, reproduce)
}


def contents(folder: Path) -> dict[str, object]:
    """Returns the contents of all files in `folder`, except those that differ between runs."""
    return {
        str(file.relative_to(folder)): _read(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not _differs_between_runs(file)
    }


def _differs_between_runs(file: Path) -> bool:
    # These files contain times, provenance, or checksums of such files.
    return file.name in (
        "index.html",
        "zarr.json",
        "lens.json",
        ".zattrs",
        "SHA256SUMS",
        "bank.json",
    ) or file.suffix in (".flac", ".part")


def _read(file: Path) -> object:
    """Returns the contents of a file without times, in a form that can be compared."""
    if file.name == "result.json":
        changing = ("provenance", "seconds", "seconds_taken")
        return {
            key: value for key, value in json.loads(file.read_text()).items() if key not in changing
        }
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    if file.suffix == ".nc":
        from interventions.storage.results import load_result

        return {
            str(name): repr(values.values.tolist())
            for name, values in load_result(file).variables.items()
        }  # arrays of texts have dtype object
    return file.read_bytes()


def _tone(folder: Path) -> Path:
    """Writes a recording next to `folder`, the same for all runs."""
    from small_speech import tone, write

    path = folder.parent / "tone.flac"
    return path if path.exists() else write(path, tone(400, 0.6))


def _corpus(folder: Path) -> Path:
    """Writes a folder of low and high tones with a manifest, the same for all runs."""
    from small_speech import tone, write

    corpus = folder.parent / "tones"
    if not (corpus / "manifest.jsonl").exists():
        rows = []
        for i in range(N_RECORDINGS):
            write(corpus / f"{i}.flac", tone(300 + i if i % 2 else 2000 + 10 * i, 0.3, i))
            labels = {"pitch": "low" if i % 2 else "high", "lang": "en"}
            rows.append(
                {"path": f"{i}.flac", "speaker": f"s{i}", "transcript": "one two", **labels}
            )
        (corpus / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return corpus


def _run(*arguments: str) -> None:
    """Runs the command line `jaxasr` with a random model."""
    from experiments import cli, runtime

    runtime.load = lambda *_: recogniser()
    cli.app(list(arguments), standalone_mode=False)


def recogniser() -> object:
    """Returns a random model with the vocabulary and the tokenizer of tiny.en."""
    from golden.tiny import checkpoint, tiny_state

    import jaxasr
    from jaxasr.tokenizer import Tokenizer
    from jaxasr.weights.packaged import tokenizer_file

    config = jaxasr.Config(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=12,
        n_audio_head=2,
        n_audio_layer=3,
        n_vocab=51864,
        n_text_ctx=448,
        n_text_state=12,
        n_text_head=2,
        n_text_layer=3,
    )
    with_files = dataclasses.replace(
        checkpoint(config, tiny_state(config)), weight_files=(Path(__file__),)
    )
    return jaxasr.Recogniser(
        jaxasr.weights.assemble(with_files), Tokenizer.from_file(tokenizer_file(51864)), with_files
    )


if __name__ == "__main__":
    from experiments import compile_cache

    compile_cache.enable()
    JOBS[sys.argv[1]](Path(sys.argv[2]))
