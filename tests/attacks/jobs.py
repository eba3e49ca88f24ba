"""Five long computations made short, each of which a kill may interrupt: tiny random models on recordings of a second or less.

A job is called with the folder that it writes into, and may be called again in the same folder.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' own modules are
N_RECORDINGS = 12


def sweep(folder: Path) -> None:
    """Every head of two examples; `done` holds the values."""
    import jax
    from golden.tiny import checkpoint, tiny_state

    import interventions as iv
    import jaxasr

    config = jaxasr.Config(5, 11, 21, 3, 3, 101, 23, 21, 7, 4)
    model = jaxasr.weights.assemble(checkpoint(config, tiny_state(config)))
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    runs = [iv.Run(mel=mel, tokens=tokens) for mel in mels]
    grid = {"site": "decoder.attn.z", "over": ("layer", "head", "position")}
    values = iv.sweep(model, *runs, **grid, metric=iv.logit_diff(3, 5), store=folder / "cells")
    (folder / "done.npy").write_bytes(values.values.tobytes())


def store(folder: Path) -> None:
    """Pooled activations and frames of twelve tones."""
    from small_speech import small_recogniser, tones

    from experiments import store as activations

    corpus = tones([0.2 + 0.1 * i for i in range(N_RECORDINGS)])
    activations.extract(
        small_recogniser(), corpus, folder / "store", pool=("speech", "frames"), batch=2
    )


def patch(folder: Path) -> None:
    """`jaxasr patch`, one token."""
    _run("patch", str(_tone(folder)), "--source", "snr:0", "--site", "decoder.mlp_out", "--over", "layer,position",
         "--text", "one two", "--answer", "three", "--foil", "four", "--out", str(folder / "out"))  # fmt: skip


def texts(folder: Path) -> None:
    """`jaxasr patch --sequence`, whole texts."""
    _run("patch", str(_tone(folder)), "--source", "zero", "--site", "decoder.mlp_out", "--over", "layer", "--sequence", "--tokens", "6",
         "--out", str(folder / "out"))  # fmt: skip


def probe(folder: Path) -> None:
    """`jaxasr probe` of a pitch."""
    _run(
        "probe",
        str(_corpus(folder)),
        "--label",
        "pitch",
        "--out",
        str(folder / "out"),
        "--folds",
        "3",
        "--batch",
        "2",
    )


def reproduce(folder: Path) -> None:
    """`jaxasr reproduce E7 --quick`, on six recordings."""
    from experiments.studies import registry

    study = registry.study("E7")
    quick = {**study.presets["quick"], "per_language": 3, "max_new_tokens": 4}
    small = dataclasses.replace(study, presets={**study.presets, "quick": quick})
    registry.study = lambda name: small
    _run(
        "reproduce",
        "E7",
        "--quick",
        "--data",
        str(_corpus(folder)),
        "--preset",
        "here",
        "--out",
        str(folder / "out"),
    )


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job for job in (sweep, store, patch, texts, probe, reproduce)
}


def contents(folder: Path) -> dict[str, object]:
    """What a job has left in `folder`, but for what says when and by what it was made."""
    return {
        str(file.relative_to(folder)): _read(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not _dated(file)
    }


def _dated(file: Path) -> bool:
    return file.name in (
        "index.html",
        "zarr.json",
        "lens.json",
        ".zattrs",
        "SHA256SUMS",
        "bank.json",
    ) or file.suffix in (".flac", ".part")


def _read(file: Path) -> object:
    if file.name == "result.json":
        dated = ("provenance", "seconds", "seconds_taken")
        return {
            key: value for key, value in json.loads(file.read_text()).items() if key not in dated
        }
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    if file.suffix == ".nc":
        from interventions.storage.results import load_result

        return {
            str(name): repr(values.values.tolist())
            for name, values in load_result(file).variables.items()
        }  # texts are objects
    return file.read_bytes()


def _tone(folder: Path) -> Path:
    """A recording beside the folder, where every run finds the same."""
    from small_speech import tone, write

    path = folder.parent / "tone.flac"
    return path if path.exists() else write(path, tone(400, 0.6))


def _corpus(folder: Path) -> Path:
    """A manifest of tones, low and high, beside the folder."""
    from small_speech import tone, write

    where = folder.parent / "tones"
    if not (where / "manifest.jsonl").exists():
        rows = []
        for i in range(N_RECORDINGS):
            write(where / f"{i}.flac", tone(300 + i if i % 2 else 2000 + 10 * i, 0.3, i))
            labels = {"pitch": "low" if i % 2 else "high", "lang": "en"}
            rows.append(
                {"path": f"{i}.flac", "speaker": f"s{i}", "transcript": "one two", **labels}
            )
        (where / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return where


def _run(*arguments: str) -> None:
    from experiments import cli, runtime

    runtime.load = lambda *_: recogniser()
    cli.app(list(arguments), standalone_mode=False)


def recogniser() -> object:
    """A random model with the vocabulary and the tokenizer of tiny.en."""
    from golden.tiny import checkpoint, tiny_state

    import jaxasr
    from jaxasr.tokenizer import Tokenizer
    from jaxasr.weights.packaged import tokenizer_file

    config = jaxasr.Config(80, 1500, 12, 2, 3, 51864, 448, 12, 2, 3)
    held = dataclasses.replace(
        checkpoint(config, tiny_state(config)), weight_files=(Path(__file__),)
    )
    return jaxasr.Recogniser(
        jaxasr.weights.assemble(held), Tokenizer.from_file(tokenizer_file(51864)), held
    )


if __name__ == "__main__":
    from experiments import compile_cache

    compile_cache.enable()
    JOBS[sys.argv[1]](Path(sys.argv[2]))
