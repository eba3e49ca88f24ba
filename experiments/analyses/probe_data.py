"""Opens the recordings of a probing experiment and the store of their activations."""

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

    A condition on the column `noise` applies only to the rows that probes are fitted on. The store
    contains the activations of all noisy copies, so that probes with other conditions can share it.

    Args:
        manifest: a manifest, a folder of a corpus, or hf:NAME, as for `jaxasr probe`.
        conditions: allowed values by column.
        noise: noises as for `--noise`. A copy of every recording is added with each noise.

    Returns:
        The recordings whose activations are stored.
        The recordings that probes are fitted on.

    Example:
        ```python
        stored, probed = open_corpora("manifest.jsonl", {"noise": ["snr:10"]}, ["snr:10"])
        ```
    """
    noise_condition = {
        column: conditions[column] for column in ("noise",) if noise and column in conditions
    }
    other_conditions = {
        name: values for name, values in conditions.items() if name not in noise_condition
    }
    corpus = with_noise(open_corpus(manifest).where(other_conditions), noise)
    return corpus, corpus.where(noise_condition)


def open_activations(
    asr: Recogniser,
    corpus: Corpus,
    question: ProbeQuestion,
    path: Path,
    text: str,
    batch: int,
    steps: Progress,
) -> store.Store:
    """Opens the store of the activations, after extracting those that it lacks.

    Args:
        asr: the recogniser.
        corpus: recordings whose activations are stored.
        question: the experiment. Its site and pool are stored.
        path: folder of the store.
        text: text that the decoder reads, "greedy" or "transcript".
        batch: recordings per pass. An existing store keeps the number of its first run.
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
    if (first_batch := activations.attrs["settings"]["batch"]) != batch:
        steps.note(f"--batch {first_batch}, as in the first run, because it changes the rounding")
    return activations
