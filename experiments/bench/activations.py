"""Real activations for the measurement of probes: recordings of the data folder, clean and in noise, through a model into a store."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.worker import Worker

SETS = ("libri_train100", "timit", "libri_test_other", "ravdess", "alnum_l1", "vctk")
SITES = (
    "encoder.resid_mid",
    "encoder.resid_post",
)  # of tiny.en together the eight layers of the comparison
NOISES = ("snr:20", "snr:10", "snr:0")  # with clean ones four classes


class Extractor:
    """A worker: what `jaxasr probe` does before it fits anything."""

    def __init__(self, job: dict[str, Any]):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def extract(self) -> str:
        """The folder of the store; one that is there already is taken or finished."""
        from experiments import store

        path = Path(self.job["folder"]) / f"{Path(self.job['model']).name}-{self.job['recordings']}"
        store.extract(
            self.asr, _corpus(self.job["recordings"]), path, sites=SITES, pool=("speech",)
        )
        return str(path)


def _corpus(n: int) -> Any:
    """`n` recordings, spread over sets and speakers, each as it is and with a recording of noise at three ratios."""
    from experiments.data import real_speech
    from experiments.data.corpora import Corpus, Utterance, with_noise

    clips = real_speech.spread(real_speech.recordings(SETS), n)
    if len(clips) < n:
        raise ValueError(
            f"data: expected {n} recordings of {', '.join(SETS)}, found {len(clips)}. Set JAXASR_DATA or pass --data."
        )
    spoken = tuple(Utterance(f"{clip.set}/{clip.path.stem}", clip.path) for clip in clips)
    return with_noise(
        Corpus("bench", "memory", spoken),
        [f"{noise}:{real_speech.folder() / 'noise_esc10'}" for noise in NOISES],
    )


@dataclasses.dataclass(frozen=True)
class Activations:
    """X [L, N, D] float32; y [N], class numbers; groups [N] or None: what is never on both sides of a fold."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None


def extracted(model: str, recordings: int, folder: Path) -> Activations:
    """Every layer of `model` at both sites; how much noise; the recording. What is in `folder` already is not computed again."""
    job = {"model": model, "recordings": recordings, "folder": str(folder)}
    with Worker("experiments.bench.activations:Extractor", job) as worker:
        return read(Path(worker.ask("extract")))


def read(path: Path) -> Activations:
    from experiments import store

    found = store.open(path)
    X = np.concatenate([found.activations(site) for site in SITES])
    names = [name.split("|") for name in found.ids]
    levels = [noise[0].split(":")[1] if noise else "clean" for _, *noise in names]
    return Activations(
        X, np.unique(levels, return_inverse=True)[1], np.array([name for name, *_ in names])
    )
