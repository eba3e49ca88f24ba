"""Checks that a store is undamaged and the expected one, and adds checksums to a complete store."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import zarr
import zarr.storage

from experiments.store import layout, pools
from experiments.store.layout import REMEDY, ZARR_DAMAGE_ERRORS, Group, StoreError, folder
from experiments.store.passes import ExtractionJob
from interventions.storage.atomic import is_lock_or_staging
from interventions.storage.text_files import escape_surrogates
from interventions.storage.zarr_metadata import check_store_metadata
from jaxasr.config import Config

FORMAT = 1  # version of the layout on disk
# Name of a temporary file of zarr. A process that is killed while it creates a store leaves it.
_PARTIAL_FILE = re.compile(r"zarr\.[0-9a-f]{32}\.partial")
_PACKAGES = ("jaxasr", "jax", "jaxlib", "zarr")
# Attributes that must be equal for a run to add to a store.
_IDENTITY = ("model", "corpus", "settings")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that the bytes of a store depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def identity(
    model: Mapping[str, Any], corpus: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the attributes that identify what two runs can write into the same store.

    Args:
        model: name, hash and number format of the weights.
        corpus: name, size and hash of the corpus.
        settings: options of the extraction.
    """
    return {
        "format": FORMAT,
        "model": dict(model),
        "corpus": dict(corpus),
        "settings": dict(settings),
        "versions": versions(),
    }


def open_existing(path: Path, mode: Literal["r", "r+"] = "r+") -> Group | None:
    """Opens the store at `path`, or returns None if the folder is empty or does not exist.

    Raises:
        StoreError: the folder holds something else, or the store is damaged.
    """
    if not path.exists() or (path.is_dir() and all(map(_is_leftover, path.iterdir()))):
        return None
    if not (path / "zarr.json").is_file():
        raise StoreError(
            f"expected an activation store or a new folder, {str(path)!r} holds something else."
        )
    try:
        check_store_metadata(path)
        group = zarr.open_group(path, mode=mode, zarr_format=3)
        attributes = dict(group.attrs)
        _check_metadata(path, attributes)
    except ZARR_DAMAGE_ERRORS as error:
        raise StoreError(f"the store at {str(path)!r} is damaged ({error}). {REMEDY}") from error
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{str(path)!r} is a zarr group, but not an activation store of format {FORMAT}. "
            "Choose another folder."
        )
    required = (*_IDENTITY, "versions", "complete")
    if missing := [name for name in required if name not in attributes]:
        raise StoreError(
            f"the store at {str(path)!r} is damaged: it has no {', '.join(missing)}. {REMEDY}"
        )
    return group


def _is_leftover(file: Path) -> bool:
    """Returns whether a process left `file` when it was killed before the store was created."""
    return _PARTIAL_FILE.fullmatch(file.name) is not None or is_lock_or_staging(file)


def _check_metadata(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raises ValueError if the attributes or the metadata of a complete store have changed."""
    if "sha256" in attributes and attributes["sha256"] != _hash_attributes(attributes):
        raise ValueError("its attributes differ from what was written")
    for name, digest in attributes.get("metadata", {}).items():
        if hashlib.sha256((path / name / "zarr.json").read_bytes()).hexdigest() != digest:
            raise ValueError(f"the metadata of {name!r} differ from what was written")


def _hash_attributes(attributes: Mapping[str, Any]) -> str:
    hashed = {key: value for key, value in attributes.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def check_identity(group: Group, expected: Mapping[str, Any]) -> None:
    """Checks that a store has the model, corpus and settings that a run expects.

    The versions of packages must be the same, too, if the store is unfinished.

    Raises:
        StoreError: the store differs from `expected`. The message names the differences.
    """
    attributes = dict(group.attrs)
    for part in _IDENTITY:
        _check_part(group, part, attributes[part], escape_surrogates(expected[part]))
    if not attributes["complete"]:
        advice = " It is unfinished, so continue with the versions that started it."
        _check_part(group, "versions", attributes["versions"], expected["versions"], advice)


def _check_part(
    group: Group, part: str, actual: dict[str, Any], expected: dict[str, Any], advice: str = ""
) -> None:
    keys = [key for key in {**actual, **expected} if actual.get(key) != expected.get(key)]
    if keys:
        stored = {key: actual.get(key) for key in keys}
        wanted = {key: expected.get(key) for key in keys}
        raise StoreError(
            f"the store at {str(folder(group))!r} differs in {part}: it has {stored}, "
            f"this run has {wanted}.{advice} Choose another folder, or remove this one."
        )


def recorded_batch(group: Group) -> int | None:
    """Returns the recordings per pass of the run that created a store, or None if damaged."""
    batch = group.attrs["settings"].get("batch")
    return batch if type(batch) is int and batch > 0 else None


def check_layout(group: Group, job: ExtractionJob, config: Config, dtype: str, batch: int) -> None:
    """Checks that the variables of an unfinished store have the shapes and dtypes of a new one.

    Raises:
        StoreError: a variable differs. The message names it.
    """
    names = layout.read(group, "utterance").tolist()
    new = layout.create(zarr.storage.MemoryStore(), {}, job, config, names, dtype, batch)
    for name in sorted({*new.array_keys(), *group.array_keys()}):
        if repr(_read_metadata(group, name)) != repr(_read_metadata(new, name)):
            raise StoreError(
                f"{str(folder(group))!r}: the metadata of {name!r} differ from what was written. "
                f"{REMEDY}"
            )


def _read_metadata(group: Group, name: str) -> dict[str, Any]:
    if name not in group:
        return {}
    metadata = group[name].metadata.to_dict()
    if name.endswith(f".{pools.FRAMES_POOL}"):
        del metadata["shape"]  # the number of frames grows with every batch
    return metadata


def finish(group: Group, attributes: Mapping[str, Any]) -> None:
    """Marks a store as complete. Adds `attributes`, and checksums of all variables and metadata."""
    root = folder(group)
    metadata = {
        name: hashlib.sha256((root / name / "zarr.json").read_bytes()).hexdigest()
        for name in sorted(group.array_keys())
    }
    all_attributes = {
        **group.attrs,
        **escape_surrogates(dict(attributes)),
        "complete": True,
        "checksums": checksums(group),
        "metadata": metadata,
    }
    # JSON turns tuples into lists. Convert first, so that a reader computes the same hash.
    all_attributes = json.loads(json.dumps(all_attributes))
    # Write all attributes at once, because `attrs.update` writes the file again for every key.
    group.attrs.put({**all_attributes, "sha256": _hash_attributes(all_attributes)})


def checksums(group: Group) -> dict[str, str]:
    """Returns the SHA-256 of every variable, over the names and contents of its chunk files."""
    root = folder(group)
    digests = {}
    for name in sorted(group.array_keys()):
        digest = hashlib.sha256()
        for file in sorted(file for file in (root / name / "c").rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
        digests[name] = digest.hexdigest()
    return digests


def compare_checksums(group: Group) -> None:
    """Checks the files of a complete store against their checksums, without decoding them.

    Raises:
        StoreError: the store is unfinished, or a variable differs from what was written.
    """
    saved, path = group.attrs.get("checksums"), str(folder(group))
    if saved is None:
        raise StoreError(
            f"{path!r}: expected checksums, found none, because the store is unfinished. Run the "
            "same extraction again to finish it."
        )
    current = checksums(group)
    changed = [name for name, digest in saved.items() if current.get(name) != digest]
    if changed:
        raise StoreError(f"{path!r}: {', '.join(changed)} differ from what was written. {REMEDY}")


def remove_partial_files(path: Path) -> None:
    """Removes the temporary files of interrupted writes."""
    for file in path.rglob("*.partial"):
        file.unlink()
