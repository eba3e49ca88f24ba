"""Lays out an activation store on disk, and reads and writes its variables.

A store is a zarr group (format 3) that `xarray.open_zarr` opens:

    encoder.resid_post         (pool, encoder_layer, utterance, feature)  pooled activations; sites
                               without layers have no layer axis
    encoder.resid_post.frames  (encoder_layer, frame, feature)  ragged: utterance u has
                               frame_count[u] rows from frame_start[u] on
    mel                        (utterance, mel)  mean log-mel features over speech, a baseline
    utterance, pool            names
    status                     0 to do, 1 done, 2 left out; `problem` holds the reason
    n_frames                   true length in encoder frames
    encoder_frame_start, ...   the spans of ragged frames; those of the decoder count tokens

Every chunk carries a CRC-32C that is checked when it is read. A finished store also has the SHA-256
of every variable, of its metadata and of its own attributes.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.storage
from zarr.codecs import Crc32cCodec

from experiments.store import pools
from experiments.store.passes import Job
from interventions.storage.text_files import escape_surrogates
from jaxasr import sites as _sites
from jaxasr.config import Config
from jaxasr.sites import stack_of

Group = Any  # a zarr.Group; the type of its entries does not distinguish arrays and groups
TO_DO, DONE, LEFT_OUT = 0, 1, 2
DTYPES = ("float32", "float16", "bfloat16", "float64")
UNREADABLE = (ValueError, KeyError, TypeError, FileNotFoundError, AttributeError)
REMEDY = "Remove the store and extract it again."
_CHUNK_BYTES = 1 << 20  # small, because every batch that ends in a chunk writes all of it again
_NAMES_PER_CHUNK = 65_536


class StoreError(ValueError):
    """A store on disk is damaged, or is not the expected one."""


def folder(group: Group) -> Path:
    """Returns the folder of a store."""
    return Path(group.store_path.store.root)


def read(group: Group, name: str, *where: Any) -> np.ndarray:
    """Reads the values of a variable, all of them or those at `where`.

    Raises:
        StoreError: a chunk is damaged; the message names store and variable.
    """
    with damage_named(group, name):
        return group[name][where or ...]


def put(group: Group, name: str, where: Any, values: np.ndarray) -> None:
    """Writes values of a variable at `where`.

    Raises:
        StoreError: the chunk that they belong to is damaged; the message names store and variable.
    """
    with damage_named(group, name):
        group[name][where] = values


@contextlib.contextmanager
def damage_named(group: Group, name: str) -> Iterator[None]:
    """Turns zarr's errors about a damaged variable into a StoreError that names it."""
    try:
        yield
    except (*UNREADABLE, RuntimeError) as error:
        raise StoreError(
            f"{str(folder(group))!r}: {name!r} is damaged ({error}). {REMEDY}"
        ) from error


def create(
    where: Path | zarr.storage.MemoryStore,
    attributes: Mapping[str, Any],
    job: Job,
    config: Config,
    names: Sequence[str],
    dtype: str,
    batch: int,
) -> Group:
    """Creates an empty store.

    Args:
        where: a folder, or zarr's memory.
        attributes: attributes of the store.
        job: which activations it will hold.
        config: of the model.
        names: ids of the utterances, in the order of the store.
        dtype: one of `DTYPES`.
        batch: recordings per batch; a chunk holds whole batches.
    """
    overwrite = isinstance(where, Path) and (where / "zarr.json").exists()
    group = zarr.create_group(
        where,
        zarr_format=3,
        attributes=escape_surrogates({**attributes, "complete": False}),
        overwrite=overwrite,
    )
    n = len(names)
    for site in job.sites:
        _create_site(group, site, job, config, n, dtype, batch)
    mel_chunk = (max(batch, 1024), config.n_mels)
    _create_array(group, "mel", (n, config.n_mels), mel_chunk, "float32", ("utterance", "mel"))
    for stack in {stack_of(site) for site in job.sites} if job.frames else ():
        for name in (f"{stack}_frame_start", f"{stack}_frame_count"):
            _create_column(group, name, n, "int64")
    _create_column(group, "n_frames", n, "int32")
    _create_column(group, "problem", n, str)
    for name, values in (("utterance", names), ("pool", job.pools)):
        if values:
            shape = (len(values),)
            array = _create_array(group, name, shape, shape, str, (name,))
            array[:] = np.array(values, dtype=object)
    # Created last, so that a store with a status has everything.
    _create_column(group, "status", n, "uint8")
    return group


def _create_column(group: Group, name: str, n: int, dtype: Any) -> None:
    """Creates a variable with one value per utterance."""
    _create_array(group, name, (n,), (_NAMES_PER_CHUNK,), dtype, ("utterance",))


def _create_site(
    group: Group, site: str, job: Job, config: Config, n: int, dtype: str, batch: int
) -> None:
    """Creates the variables of one site: pooled activations, frames, or both."""
    spec = _sites.spec(config, site, 1, 1)
    width = pools.n_features(config, site)
    layers = {f"{stack_of(site)}_layer": spec.n_layer} if spec.n_layer else {}
    feature = "feature" if width == config.n_audio_state else f"feature_{width}"
    row_bytes = (spec.n_layer or 1) * width * np.dtype(stored(dtype)).itemsize
    attributes = {"dtype": dtype, "axes": list(spec.axes), "shape": [spec.n_layer, *spec.shape[2:]]}
    if job.pools:
        rows = max(1, _CHUNK_BYTES // row_bytes // batch) * batch
        dims = ("pool", *layers, "utterance", feature)
        shape = (len(job.pools), *layers.values(), n, width)
        chunks = (1, *layers.values(), rows, width)
        _create_array(group, site, shape, chunks, stored(dtype), dims, attributes)
    if job.frames:
        rows = max(64, _CHUNK_BYTES // row_bytes)
        mel = "mel_" if site == "encoder.conv1" else ""
        dims = (*layers, f"{stack_of(site)}_{mel}frame", feature)
        shape, chunks = (*layers.values(), 0, width), (*layers.values(), rows, width)
        name = f"{site}.{pools.FRAMES}"
        _create_array(group, name, shape, chunks, stored(dtype), dims, attributes)


def _create_array(
    group: Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        dimension_names=dims,
        # Checksums instead of compression, because activations hardly compress.
        compressors=(Crc32cCodec(),),
        fill_value="" if dtype is str else 0,
        attributes=dict(attributes or {}),
    )


def stored(dtype: str) -> str:
    """Returns the number format on disk; bits of bfloat16, which zarr lacks, become integers."""
    return "uint16" if dtype == "bfloat16" else dtype
