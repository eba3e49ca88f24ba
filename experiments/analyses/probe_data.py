"""Opens the recordings of a probing experiment and the store of their activations.

The import of this file does not load JAX, so that errors in the recordings appear at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.analyses.probe_question import FRAME_VALUES, ProbeQuestion
from experiments.data.corpora import Corpus, open_corpus, with_noise
from experiments.data.corpora.utterance import TIER_OF_KIND
from experiments.progress import Progress

if TYPE_CHECKING:
    from experiments.store import Store
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
    # Without added noise, `noise` is a column of the manifest like any other.
    noise_condition = {
        column: conditions[column] for column in ("noise",) if noise and column in conditions
    }
    other_conditions = {
        name: values for name, values in conditions.items() if name not in noise_condition
    }
    corpus = with_noise(open_corpus(manifest).where(other_conditions), noise)
    return corpus, corpus.where(noise_condition)


def check_columns(corpus: Corpus, question: ProbeQuestion) -> None:
    """Checks that the corpus has the columns that the options of the experiment name.

    Raises:
        ValueError: a column is missing; the message lists the columns.
    """
    tiers = {tier for utterance in corpus.utterances for tier in utterance.tiers}
    columns = [
        *corpus.label_names(),
        *(name for name, tier in TIER_OF_KIND.items() if tier in tiers),
    ]
    for option, name in question.columns.items():
        if name is not None and name not in (*columns, *FRAME_VALUES):
            raise ValueError(
                f"{option}: no column {name!r} with values in {corpus.name}. It has the columns "
                f"{', '.join(columns)}."
            )


def open_activations(
    asr: "Recogniser",
    corpus: Corpus,
    question: ProbeQuestion,
    path: Path,
    text: str,
    batch: int,
    steps: Progress,
) -> "Store":
    """Opens the store of the activations, after extracting those that it lacks.

    Args:
        asr: the recogniser.
        corpus: recordings whose activations are stored.
        question: the experiment. Its site and pool are stored, and so are the embedding site and
            the pools "speech" and "all".
        path: folder of the store.
        text: text that the decoder reads, "greedy" or "transcript".
        batch: recordings per pass. An existing store keeps the number of its first run.
        steps: shows progress.
    """
    from experiments import store
    from interventions.storage.atomic import remove_stale_lock

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
        steps.note(
            f"--batch {first_batch}, as in the first run, because {batch} would round differently"
        )
    return activations
