"""Divides the paths between senders and receivers into batches that one program computes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from interventions.effects import row_bytes
from interventions.effects.paths.components import Node, receiver_mask
from interventions.run import Run
from jaxasr import sites
from jaxasr.config import Config
from jaxasr.meshes import equal_chunk_size

# Largest number of paths that are computed together. Encoder senders take more bytes per path,
# because each path has a separate memory. Running the encoder again takes most.
_MAX_PAIRS = {"decoder": 16, "encoder": 4, "encoder again": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class PathBatch:
    """All paths from the senders of one site to receivers of similar cost.

    Attributes:
        site: the site of the senders.
        rows: indices of the senders among all senders.
        columns: indices of the receivers among all receivers.
        layer_heads: int32 [senders, 2], layer and head of each sender, with -1 instead of None.
        masks: for each site, the layers and heads of each receiver.
        pairs: int32 [N, 2], index of the sender and of the receiver of each path, in this batch.
            Copies of the last path pad the array.
        pairs_per_batch: paths that a device computes together.
        reruns_encoder: whether each path runs the encoder.
    """

    site: str
    rows: list[int]
    columns: list[int]
    layer_heads: Int[np.ndarray, "n two"]
    masks: dict[str, Bool[np.ndarray, "R ..."]]
    pairs: Int[np.ndarray, "N two"]
    pairs_per_batch: int
    reruns_encoder: bool


def path_batches(
    config: Config, senders: Sequence[Node], groups: Sequence[tuple[Node, ...]], n_devices: int
) -> list[PathBatch]:
    """Divides all paths. Each of `n_devices` devices computes as many paths of every batch."""
    batches = []
    for site in dict.fromkeys(node.site for node in senders):
        rows = [i for i, node in enumerate(senders) if node.site == site]
        layer_heads = np.array([_layer_head(senders[i]) for i in rows], np.int32)
        for columns, reruns_encoder in _receivers_by_cost(site, groups):
            of_cost = [groups[i] for i in columns]
            masks = {
                name: np.stack([receiver_mask(config, name, group) for group in of_cost])
                for name in sorted({node.site for group in of_cost for node in group})
            }
            cost = "encoder again" if reruns_encoder else sites.stack_of(site)
            n_pairs = len(rows) * len(columns)
            size = equal_chunk_size(n_pairs, _MAX_PAIRS[cost])
            pairs = np.indices((len(rows), len(columns)), np.int32).reshape(2, -1).T
            pairs = np.pad(pairs, ((0, -n_pairs % (size * n_devices)), (0, 0)), mode="edge")
            batches.append(
                PathBatch(site, rows, columns, layer_heads, masks, pairs, size, reruns_encoder)
            )
    return batches


def bytes_of_row(config: Config, target: Run, source: Run, batches: Sequence[PathBatch]) -> int:
    """Estimates the bytes that a device needs for one row."""
    lacks_memory = any(run.memory is None for run in (target, source))
    return max(
        row_bytes.path_patching(
            config,
            np.shape(target.tokens)[1],
            batch.pairs_per_batch,
            sites.stack_of(batch.site),
            lacks_memory or batch.reruns_encoder,
        )
        for batch in batches
    )


def _receivers_by_cost(
    site: str, groups: Sequence[tuple[Node, ...]]
) -> list[tuple[list[int], bool]]:
    """Separates the receivers for which the encoder must run again from the others.

    Returns:
        One or two lists of indices into `groups`, and whether the encoder runs again for them.
    """
    is_encoder_sender = site.startswith("encoder.")
    reruns, others = [], []
    for i, group in enumerate(groups):
        has_encoder = any(node.site.startswith("encoder.") for node in group)
        (reruns if is_encoder_sender and has_encoder else others).append(i)
    return [(columns, columns is reruns) for columns in (reruns, others) if columns]


def _layer_head(node: Node) -> tuple[int, int]:
    """Returns layer and head of a sender, with -1 instead of None."""
    return (-1 if node.layer is None else node.layer), (-1 if node.head is None else node.head)
