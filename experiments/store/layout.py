"""Defines the variables of an activation store on disk, and reads and writes them.

A store is a zarr group (format 3). `xarray.open_zarr` can open it. Its variables are:

    encoder.resid_post         (pool, encoder_layer, utterance, feature)  pooled activations. A site
                               without layers has no layer axis.
    encoder.resid_post.frames  (encoder_layer, encoder_frame, feature)  all frames of all
                               utterances, concatenated without padding
    encoder_frame_start        (utterance)  index of an utterance's first frame among these frames
    encoder_frame_count        (utterance)  number of frames of an utterance
    decoder_frame_start, ...   (utterance)  the same for decoder sites, where a frame is a token
    audio_frame_start, ...     (utterance)  the same for encoder sites whose steps are audio tokens
    mel                        (utterance, mel)  mean log-mel features over speech, for baselines
    utterance, pool            names of the utterances and pools
    status                     (utterance)  0 to do, 1 done, 2 left out
    problem                    (utterance)  why an utterance was left out
    n_frames                   (utterance)  length without padding, in encoder frames
    n_audio_tokens             (utterance)  the same in audio tokens, for an audio language model
    first_audio_token          (utterance)  position of the first audio token in the decoder, if
                               there are decoder sites

Every chunk has a CRC-32C checksum, which zarr verifies on each read. A complete store also has
SHA-256 checksums of every variable, of the metadata of every variable, and of its attributes.
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
from experiments.store.passes import ExtractionJob
from interventions.storage.text_files import escape_surrogates
from jaxasr.config import Config
from jaxasr.sites import spec as site_spec, stack_of

Group = Any  # a zarr.Group; its type hints do not distinguish arrays from groups
TO_DO, DONE, LEFT_OUT = 0, 1, 2  # values of `status`
DTYPES = ("float32", "float16", "bfloat16", "float64")  # number formats of stored activations
# Errors that zarr raises when it reads damaged files.
ZARR_DAMAGE_ERRORS = (ValueError, KeyError, TypeError, FileNotFoundError, AttributeError)
REMEDY = "Remove the store and extract it again."
# 1 MiB. Chunks are small, because every batch that adds to a chunk writes the whole chunk again.
_CHUNK_BYTES = 1 << 20
_COLUMN_CHUNK = 65_536  # utterances per chunk of a variable with one value per utterance


class StoreError(ValueError):
    """A store on disk is damaged, unfinished, or not the expected one."""


def folder(group: Group) -> Path:
    """Returns the folder of a store."""
    return Path(group.store_path.store.root)


def read(group: Group, name: str, *where: Any) -> np.ndarray:
    """Reads the values of a variable at the indices `where`, or all values.

    Raises:
        StoreError: a chunk is damaged. The message names the store and the variable.
    """
    with report_damage(group, name):
        return group[name][where or ...]


def write(group: Group, name: str, where: Any, values: np.ndarray) -> None:
    """Writes values of a variable at the indices `where`.

    Raises:
        StoreError: a chunk at `where` is damaged. The message names the store and the variable.
    """
    with report_damage(group, name):
        group[name][where] = values


@contextlib.contextmanager
def report_damage(group: Group, name: str) -> Iterator[None]:
    """Turns an error of zarr in the block into a StoreError that names the damaged variable."""
    try:
        yield
    except StoreError:  # names the store of one process already
        raise
    except (*ZARR_DAMAGE_ERRORS, RuntimeError) as error:
        raise StoreError(
            f"{str(folder(group))!r}: {name!r} is damaged ({error}). {REMEDY}"
        ) from error


def create(
    location: Path | zarr.storage.MemoryStore,
    attributes: Mapping[str, Any],
    job: ExtractionJob,
    config: Config,
    names: Sequence[str],
    dtype: str,
    batch: int,
) -> Group:
    """Creates an empty store.

    Args:
        location: folder of the store, or a store in memory.
        attributes: attributes of the store.
        job: the activations that the store will hold.
        config: configuration of the model.
        names: ids of the utterances, in the order of the store.
        dtype: one of `DTYPES`.
        batch: recordings per batch. The recordings of a batch are never split into two chunks.
    """
    # An existing `zarr.json` is from a process that was killed while it created the store.
    overwrite = isinstance(location, Path) and (location / "zarr.json").exists()
    group = zarr.create_group(
        location,
        zarr_format=3,
        attributes=escape_surrogates({**attributes, "complete": False}),
        overwrite=overwrite,
    )
    n = len(names)
    for site in job.sites:
        _create_site(group, site, job, config, n, dtype, batch)
    mel_chunk = (max(batch, 1024), config.n_mels)
    _create_array(group, "mel", (n, config.n_mels), mel_chunk, "float32", ("utterance", "mel"))
    for clock in {pools.clock_of(config, site) for site in job.sites} if job.frames else ():
        for name in (f"{clock}_frame_start", f"{clock}_frame_count"):
            _create_column(group, name, n, "int64")
    if config.audio_language is not None:
        _create_column(group, "n_audio_tokens", n, "int32")
        if job.text is not None:
            _create_column(group, "first_audio_token", n, "int32")
    _create_column(group, "n_frames", n, "int32")
    _create_column(group, "problem", n, str)
    for name, values in (("utterance", names), ("pool", job.pools)):
        # Without pools there is no such variable. A process without a share has no utterances.
        if values or name == "utterance":
            shape, chunks = (len(values),), (max(1, len(values)),)
            array = _create_array(group, name, shape, chunks, str, (name,))
            array[:] = np.array(values, dtype=object)
    # Created last, so that a store that has `status` also has all other variables.
    _create_column(group, "status", n, "uint8")
    return group


def _create_column(group: Group, name: str, n: int, dtype: Any) -> None:
    """Creates a variable with one value per utterance."""
    _create_array(group, name, (n,), (_COLUMN_CHUNK,), dtype, ("utterance",))


def _create_site(
    group: Group, site: str, job: ExtractionJob, config: Config, n: int, dtype: str, batch: int
) -> None:
    """Creates the variables of one site: pooled activations, frames, or both."""
    spec = site_spec(config, site, 1, 1)
    width = pools.n_features(config, site)
    layers = {f"{stack_of(site)}_layer": spec.n_layer} if spec.n_layer else {}
    # xarray needs one size per dimension name, so other widths are part of the name.
    feature = "feature" if width == config.n_audio_state else f"feature_{width}"
    row_bytes = (spec.n_layer or 1) * width * np.dtype(disk_dtype(dtype)).itemsize
    attributes = {"dtype": dtype, "axes": list(spec.axes), "shape": [spec.n_layer, *spec.shape[2:]]}
    if job.pools:
        # A whole number of batches per chunk, so that a batch is never split.
        rows = max(1, _CHUNK_BYTES // row_bytes // batch) * batch
        dims = ("pool", *layers, "utterance", feature)
        shape = (len(job.pools), *layers.values(), n, width)
        chunks = (1, *layers.values(), rows, width)
        _create_array(group, site, shape, chunks, disk_dtype(dtype), dims, attributes)
    if job.frames:
        rows = max(64, _CHUNK_BYTES // row_bytes)
        mel = "mel_" if site == "encoder.conv1" else ""
        clock = pools.clock_of(config, site)
        # The steps of most sites are those of their stack.
        attributes |= {"clock": clock} if clock != stack_of(site) else {}
        dims = (*layers, f"{clock}_{mel}frame", feature)
        shape, chunks = (*layers.values(), 0, width), (*layers.values(), rows, width)
        name = f"{site}.{pools.FRAMES_POOL}"
        _create_array(group, name, shape, chunks, disk_dtype(dtype), dims, attributes)


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


def clock_of(group: Group, site: str) -> str:
    """Returns what the frames of a stored site are, one of `pools.CLOCKS`."""
    return group[f"{site}.{pools.FRAMES_POOL}"].attrs.get("clock", stack_of(site))


def disk_dtype(dtype: str) -> str:
    """Returns the number format on disk.

    zarr has no bfloat16, so the bits of such numbers are stored as integers.
    """
    return "uint16" if dtype == "bfloat16" else dtype
