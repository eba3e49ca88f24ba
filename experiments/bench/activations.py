"""Extracts activations of recordings with and without noise, which `probes` fits probes on."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from experiments.bench.models import Job
from experiments.bench.worker import Worker
from experiments.data.corpora import Corpus

# Data sets in the data folder (`experiments.data.real_speech`).
SETS = ("libri_train100", "timit", "libri_test_other", "ravdess", "alnum_l1", "vctk")
SITES = ("encoder.resid_mid", "encoder.resid_post")  # each has four layers in tiny.en
# Signal-to-noise ratios in dB. Clean recordings are the fourth class.
NOISES = ("snr:20", "snr:10", "snr:0")


class Extractor:
    """A worker that extracts activations in the same way as `jaxasr probe`.

    Args:
        job: has `model`, `recordings` (their number) and `folder`, which contains the store.
    """

    def __init__(self, job: Job):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def extract(self) -> str:
        """Extracts the activations that the store lacks, and returns the folder of the store."""
        from experiments import store

        n = self.job["recordings"]
        path = Path(self.job["folder"]) / f"{Path(self.job['model']).name}-{n}"
        store.extract(self.asr, _make_corpus(n), path, sites=SITES, pool=("speech",))
        return str(path)


def _make_corpus(n: int) -> Corpus:
    """Returns `n` recordings, each clean and with noise at three signal-to-noise ratios."""
    from experiments.data import real_speech
    from experiments.data.corpora import Utterance, with_noise

    clips = real_speech.select_evenly(real_speech.recordings(SETS), n)
    if len(clips) < n:
        raise ValueError(
            f"data: expected {n} recordings of {', '.join(SETS)}, found {len(clips)}. "
            "Name a folder that has them with --data or JAXASR_DATA."
        )
    utterances = tuple(Utterance(f"{clip.set}/{clip.path.stem}", clip.path) for clip in clips)
    folder = real_speech.folder()
    assert folder is not None  # because it has recordings
    noises = [f"{noise}:{folder / 'noise_esc10'}" for noise in NOISES]
    return with_noise(Corpus("bench", "memory", utterances), noises)


@dataclasses.dataclass(frozen=True)
class Activations:
    """Activations, classes and groups for fits of probes.

    Attributes:
        X: activations [L, N, D].
        y: class number of each row [N].
        groups: cross-validation group of each row [N], or None.
    """

    X: Float[np.ndarray, "L N D"]
    y: Int[np.ndarray, "N"]
    groups: Shaped[np.ndarray, "N"] | None


def extract_activations(model: str, recordings: int, folder: Path) -> Activations:
    """Extracts the activations of every layer at both sites.

    The classes are the signal-to-noise ratios, and the groups are the recordings.

    Args:
        model: name of the model.
        recordings: number of recordings.
        folder: folder of the store. Activations that it has are not computed again.
    """
    job = {"model": model, "recordings": recordings, "folder": str(folder)}
    with Worker("experiments.bench.activations:Extractor", job) as worker:
        return read_activations(Path(worker.ask("extract")))


def read_activations(path: Path) -> Activations:
    """Reads the activations of a store that `Extractor` wrote."""
    from experiments import store

    opened = store.open(path)
    X = np.concatenate([opened.activations(site) for site in SITES])
    # An id is "set/recording" for a clean recording, and "set/recording|snr:20:folder" for a copy.
    ids = [name.split("|") for name in opened.ids]
    levels = [noise[0].split(":")[1] if noise else "clean" for _, *noise in ids]
    recordings = np.array([recording for recording, *_ in ids])
    class_numbers = np.unique(levels, return_inverse=True)[1]
    return Activations(X, class_numbers, recordings)
