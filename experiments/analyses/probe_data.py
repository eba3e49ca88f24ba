"""Opens the recordings of a probing experiment, and the activations that probes read."""

from pathlib import Path

from experiments import store
from experiments.analyses.probe_question import ProbeQuestion
from experiments.data.corpora import Corpus, open_corpus, with_noise
from experiments.progress import Progress
from interventions.storage.atomic import remove_stale_lock
from jaxasr import Recogniser


def open_corpora(
    manifest: str, conditions: dict[str, list[str]], noise: list[str]
) -> tuple[Corpus, Corpus]:
    """Opens the recordings of a manifest.

    A condition on the column `noise` leaves out rows of the probes, but not recordings, because
    the store of activations is shared by probes with other conditions.

    Args:
        manifest: as the argument of `jaxasr probe`.
        conditions: allowed values by column.
        noise: noises in which every recording is added again.

    Returns:
        Recordings whose activations are stored, and those that the probes are fitted on.
    """
    of_noise = {
        column: conditions[column] for column in ("noise",) if noise and column in conditions
    }
    of_recordings = {name: values for name, values in conditions.items() if name not in of_noise}
    corpus = with_noise(open_corpus(manifest).where(of_recordings), noise)
    return corpus, corpus.where(of_noise)


def open_activations(
    asr: Recogniser,
    corpus: Corpus,
    question: ProbeQuestion,
    path: Path,
    text: str,
    batch: int,
    steps: Progress,
) -> store.Store:
    """Opens the store of the activations; makes or completes it if it does not hold them.

    Args:
        asr: the recogniser.
        corpus: recordings.
        question: the experiment, whose site and pool are stored.
        path: folder of the store.
        text: text that decoder sites are read over, "greedy" or "transcript".
        batch: recordings per pass.
        steps: shows progress.
    """
    sites = (question.site, question.embedding_site)
    pools = tuple(dict.fromkeys(("speech", "all", question.pool)))
    if store.covers(path, asr, corpus, sites, pools, text):
        remove_stale_lock(path)
        activations = store.open(path)
        with steps("check the stored activations"):
            activations.verify_checksums()
        return activations
    with steps.bar(f"activations of {len(corpus)} recordings") as progress:
        activations = store.extract(
            asr, corpus, path, sites=sites, pool=pools, text=text, batch=batch, progress=progress
        )
    speed = activations.attrs["speed"]
    per_second = speed["utterances"] / max(speed["seconds"], 1e-3)
    steps.note(f"{speed['utterances']} recordings, {per_second:.2f} per second")
    return activations
