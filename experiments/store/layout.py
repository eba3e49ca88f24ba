"""What a store looks like on disk, and whether one that is there is the one that is meant.

A zarr group (format 3) that `xarray.open_zarr` opens:

    encoder.resid_post         (pool, encoder_layer, utterance, feature)   pooled; no layer axis where a site has none
    encoder.resid_post.frames  (encoder_layer, frame, feature)             ragged: utterance u has rows frame_start[u] … + frame_count[u]
    mel                        (utterance, mel)                            mean log-mel features over speech, a baseline
    utterance, pool            names; status: 0 to do, 1 done, 2 left out; problem: why; n_frames: true length in encoder frames
    encoder_frame_start …      the same for the decoder, whose frames are tokens

Chunks carry a CRC-32C of their own, checked whenever they are read. A finished store also has the SHA-256 of every variable, of its
metadata (checked when it is opened), and of the store's own attributes.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.storage
from zarr.codecs import Crc32cCodec

from experiments.store import pools
from experiments.store.passes import Job
from interventions.storage.atomic import is_bookkeeping
from interventions.storage.inert_zarr import check_store
from interventions.storage.text_files import utf8
from jaxasr import sites as _sites
from jaxasr.config import Config
from jaxasr.sites import stack_of

Group = Any  # zarr.Group; its arrays are typed as anything one could index
FORMAT = 1
TO_DO, DONE, LEFT_OUT = 0, 1, 2
DTYPES = ("float32", "float16", "bfloat16", "float64")
_CHUNK_BYTES = 1 << 20  # every batch that ends in a chunk writes all of it again
_CUT_SHORT = re.compile(r"zarr\.[0-9a-f]{32}\.partial")  # of a store that never came to be
_UNREADABLE = (ValueError, KeyError, TypeError, FileNotFoundError, AttributeError)
REMEDY = "Remove the store and extract it again."
_WRITERS = ("jaxasr", "jax", "jaxlib", "zarr")


class StoreError(ValueError):
    """The store on disk is not the one that is meant, or is damaged."""


def folder(group: Group) -> Path:
    return Path(group.store_path.store.root)


def identity(
    model: Mapping[str, Any], corpus: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same for two runs to write into one store."""
    return {
        "format": FORMAT,
        "model": dict(model),
        "corpus": dict(corpus),
        "settings": dict(settings),
    }


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _WRITERS}


def existing(path: Path, mode: Literal["r", "r+"] = "r+") -> Group | None:
    """The group at `path`. Raises StoreError for a folder with anything else in it."""
    if not path.exists() or (
        path.is_dir()
        and all(_CUT_SHORT.fullmatch(file.name) or is_bookkeeping(file) for file in path.iterdir())
    ):
        return None
    if not (path / "zarr.json").is_file():
        raise StoreError(
            f"out: expected an activation store or a new folder, {str(path)!r} holds something else."
        )
    try:
        check_store(path)
        group = zarr.open_group(path, mode=mode, zarr_format=3)
        attributes = dict(group.attrs)
        _check_metadata(path, attributes)
    except _UNREADABLE as error:
        raise StoreError(
            f"out: the store at {str(path)!r} is damaged ({error}). {REMEDY}"
        ) from error
    if "format" not in attributes:
        raise StoreError(
            f"out: {str(path)!r} is a zarr group, but not an activation store. Choose another folder."
        )
    if missing := [
        name
        for name in ("model", "corpus", "settings", "versions", "complete")
        if name not in attributes
    ]:
        raise StoreError(
            f"out: the store at {str(path)!r} is damaged: it has no {', '.join(missing)}. {REMEDY}"
        )
    return group


def _check_metadata(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raises ValueError where the attributes or the metadata of a variable are not those of the finished store."""
    if "sha256" in attributes and attributes["sha256"] != _digest(attributes):
        raise ValueError("its attributes are not what was written")
    for name, known in attributes.get("metadata", {}).items():
        if hashlib.sha256((path / name / "zarr.json").read_bytes()).hexdigest() != known:
            raise ValueError(f"the metadata of {name!r} are not what was written")


def _digest(attributes: Mapping[str, Any]) -> str:
    text = json.dumps(
        {key: value for key, value in attributes.items() if key != "sha256"}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def finish(group: Group, known: Mapping[str, Any]) -> None:
    """Marks the store as complete, with `known` among its attributes and the checksums of everything in it."""
    root = folder(group)
    metadata = {
        name: hashlib.sha256((root / name / "zarr.json").read_bytes()).hexdigest()
        for name in sorted(group.array_keys())
    }
    attributes = {
        **group.attrs,
        **utf8(known),
        "complete": True,
        "checksums": checksums(group),
        "metadata": metadata,
    }
    attributes = json.loads(json.dumps(attributes))  # as they are read back
    # Written at once: `attrs.update` would write the file again for every key.
    group.attrs.put({**attributes, "sha256": _digest(attributes)})


def check_same(group: Group, wanted: Mapping[str, Any]) -> None:
    """Raises StoreError naming what is there and what is wanted where a store is another one, or is half-written by other versions."""
    there = dict(group.attrs)
    for part in ("format", "model", "corpus", "settings"):
        _check_part(group, part, there.get(part), utf8(wanted[part]))
    if not there.get("complete"):
        _check_part(
            group,
            "versions",
            there.get("versions"),
            versions(),
            " It is half-written: finish it with the versions that began it.",
        )


def _check_part(group: Group, part: str, there: Any, wanted: Any, more: str = "") -> None:
    if there == wanted:
        return
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        keys = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
        there, wanted = ({key: values.get(key) for key in keys} for values in (there, wanted))
    raise StoreError(
        f"out: the store at {str(folder(group))!r} has another {part}: it has {there}, this run has {wanted}.{more} "
        "Choose another folder, or remove this one."
    )


def read(group: Group, name: str, *where: Any) -> np.ndarray:
    """Values of a variable, all of them or those at `where`. Raises StoreError naming it where a chunk is damaged."""
    with damage_named(group, name):
        return group[name][where or ...]


def put(group: Group, name: str, where: Any, values: np.ndarray) -> None:
    """Writes values of a variable at `where`. Raises StoreError naming it where the chunk that they belong to is damaged."""
    with damage_named(group, name):
        group[name][where] = values


@contextlib.contextmanager
def damage_named(group: Group, name: str) -> Iterator[None]:
    """Turns what zarr raises for a damaged variable into a StoreError that names store and variable."""
    try:
        yield
    except (*_UNREADABLE, RuntimeError) as error:
        raise StoreError(
            f"{str(folder(group))!r}: {name!r} is damaged ({error}). {REMEDY}"
        ) from error


def check_layout(group: Group, job: Job, config: Config, dtype: str, batch: int) -> None:
    """Raises StoreError where the metadata of a half-written store are not those that were written when it was begun."""
    names = read(group, "utterance").tolist()
    fresh = create(zarr.storage.MemoryStore(), {}, job, config, names, dtype, batch)
    for name in sorted({*fresh.array_keys(), *group.array_keys()}):
        there, wanted = (
            {} if name not in one else one[name].metadata.to_dict() for one in (group, fresh)
        )
        if name.endswith(f".{pools.FRAMES}"):  # grows with every batch
            there, wanted = (
                {key: value for key, value in one.items() if key != "shape"}
                for one in (there, wanted)
            )
        if repr(there) != repr(wanted):
            raise StoreError(
                f"{str(folder(group))!r}: the metadata of {name!r} are not what was written. {REMEDY}"
            )


def create(
    where: Any,
    wanted: Mapping[str, Any],
    job: Job,
    config: Config,
    names: Sequence[str],
    dtype: str,
    batch: int,
) -> Group:
    """An empty store at the path `where` (or in zarr's memory) for the utterances `names`, in this order."""
    attributes = utf8({**wanted, "versions": versions(), "complete": False})
    overwrite = isinstance(where, Path) and (where / "zarr.json").exists()
    group = zarr.create_group(where, zarr_format=3, attributes=attributes, overwrite=overwrite)
    n = len(names)
    for site in job.sites:
        _create_site(group, site, job, config, n, dtype, batch)
    _array(
        group,
        "mel",
        (n, config.n_mels),
        (max(batch, 1024), config.n_mels),
        "float32",
        ("utterance", "mel"),
    )
    for stack in {stack_of(site) for site in job.sites} if job.frames else ():
        for name in (f"{stack}_frame_start", f"{stack}_frame_count"):
            _array(group, name, (n,), (65_536,), "int64", ("utterance",))
    for name, kind in (("n_frames", "int32"), ("problem", str)):
        _array(group, name, (n,), (65_536,), kind, ("utterance",))
    for name, values in (("utterance", names), ("pool", job.pools)):
        if values:
            _array(group, name, (len(values),), (len(values),), str, (name,))[:] = np.array(
                values, dtype=object
            )
    # The last to be created: a store that has it has everything.
    _array(group, "status", (n,), (65_536,), "uint8", ("utterance",))
    return group


def _create_site(
    group: Group, site: str, job: Job, config: Config, n: int, dtype: str, batch: int
) -> None:
    spec = _sites.spec(config, site, 1, 1)
    width = pools.n_features(config, site)
    layers = ((f"{stack_of(site)}_layer", spec.n_layer),) if spec.n_layer else ()
    feature = ("feature" if width == config.n_audio_state else f"feature_{width}", width)
    names, sizes = zip(*layers, ("utterance", n), feature)
    row = (
        int(np.prod([size for name, size in zip(names, sizes) if name != "utterance"]))
        * np.dtype(stored(dtype)).itemsize
    )
    rows = max(1, _CHUNK_BYTES // row // batch) * batch
    chunks = tuple(rows if name == "utterance" else size for name, size in zip(names, sizes))
    attributes = {"dtype": dtype, "axes": list(spec.axes), "shape": [spec.n_layer, *spec.shape[2:]]}
    if job.pools:
        _array(
            group,
            site,
            (len(job.pools), *sizes),
            (1, *chunks),
            stored(dtype),
            ("pool", *names),
            attributes,
        )
    if job.frames:
        rows = max(64, _CHUNK_BYTES // row)
        frame = f"{stack_of(site)}_{'mel_' if site == 'encoder.conv1' else ''}frame"
        dims = tuple(frame if name == "utterance" else name for name in names)
        shape = tuple(0 if name == "utterance" else size for name, size in zip(names, sizes))
        chunks = tuple(rows if name == "utterance" else size for name, size in zip(names, sizes))
        _array(group, f"{site}.{pools.FRAMES}", shape, chunks, stored(dtype), dims, attributes)


def _array(
    group: Group,
    name: str,
    shape: Any,
    chunks: Any,
    dtype: Any,
    dims: Any,
    attributes: dict | None = None,
) -> Any:
    # Activations hardly compress: what is spent on it is better spent on checking them.
    fill = "" if dtype is str else 0
    how = {
        "dimension_names": dims,
        "compressors": (Crc32cCodec(),),
        "fill_value": fill,
        "attributes": attributes or {},
    }
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **how)


def stored(dtype: str) -> str:
    """The number format on disk: zarr has no bfloat16, so its bits are kept as integers."""
    return "uint16" if dtype == "bfloat16" else dtype


def checksums(group: Group) -> dict[str, str]:
    """SHA-256 of every variable: of its chunks' files in order of their names."""
    root = folder(group)
    found = {}
    for name in sorted(group.array_keys()):
        digest = hashlib.sha256()
        for file in sorted(file for file in (root / name / "c").rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
        found[name] = digest.hexdigest()
    return found


def sweep_up(path: Path) -> None:
    """Removes what writes that were cut short left behind."""
    for file in path.rglob("*.partial"):
        file.unlink()
