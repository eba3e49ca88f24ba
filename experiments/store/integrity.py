"""Checks that a store on disk is the expected one and undamaged, and seals a finished one."""

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
from experiments.store.layout import REMEDY, UNREADABLE, Group, StoreError, folder
from experiments.store.passes import Job
from interventions.storage.atomic import is_lock_or_staging
from interventions.storage.inert_zarr import check_store_metadata
from interventions.storage.text_files import escape_surrogates
from jaxasr.config import Config

FORMAT = 1
_PARTIAL = re.compile(r"zarr\.[0-9a-f]{32}\.partial")  # of a store that was never completed
_PACKAGES = ("jaxasr", "jax", "jaxlib", "zarr")
_IDENTITY = ("model", "corpus", "settings")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the bits of a store."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def identity(
    model: Mapping[str, Any], corpus: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the attributes that two runs must share to write into one store."""
    return {
        "format": FORMAT,
        "model": dict(model),
        "corpus": dict(corpus),
        "settings": dict(settings),
        "versions": versions(),
    }


def existing(path: Path, mode: Literal["r", "r+"] = "r+") -> Group | None:
    """Opens the store at `path`; returns None for a new or empty folder.

    Raises:
        StoreError: the folder holds something else, or the store is damaged.
    """
    if not path.exists() or (path.is_dir() and all(map(_is_left_over, path.iterdir()))):
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
    except UNREADABLE as error:
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


def _is_left_over(file: Path) -> bool:
    """Whether a killed process left the file behind before the store existed."""
    return _PARTIAL.fullmatch(file.name) is not None or is_lock_or_staging(file)


def _check_metadata(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raises ValueError where attributes or metadata differ from those of the finished store."""
    if "sha256" in attributes and attributes["sha256"] != _digest(attributes):
        raise ValueError("its attributes differ from what was written")
    for name, digest in attributes.get("metadata", {}).items():
        if hashlib.sha256((path / name / "zarr.json").read_bytes()).hexdigest() != digest:
            raise ValueError(f"the metadata of {name!r} differ from what was written")


def _digest(attributes: Mapping[str, Any]) -> str:
    unsigned = {key: value for key, value in attributes.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True).encode()).hexdigest()


def check_same(group: Group, expected: Mapping[str, Any]) -> None:
    """Compares a store with the identity that a run expects.

    Raises:
        StoreError: the store is another one, or is half-written by other versions; the message
            names the differences.
    """
    attributes = dict(group.attrs)
    for part in _IDENTITY:
        _check_part(group, part, attributes[part], escape_surrogates(expected[part]))
    if not attributes["complete"]:
        remark = " It is half-written: finish it with the versions that started it."
        _check_part(group, "versions", attributes["versions"], expected["versions"], remark)


def _check_part(
    group: Group, part: str, actual: dict[str, Any], expected: dict[str, Any], remark: str = ""
) -> None:
    keys = [key for key in {**actual, **expected} if actual.get(key) != expected.get(key)]
    if keys:
        stored, wanted = ({key: part.get(key) for key in keys} for part in (actual, expected))
        raise StoreError(
            f"the store at {str(folder(group))!r} has another {part}: it has {stored}, "
            f"this run has {wanted}.{remark} Choose another folder, or remove this one."
        )


def check_layout(group: Group, job: Job, config: Config, dtype: str, batch: int) -> None:
    """Compares the metadata of a half-written store with those of a new one.

    Raises:
        StoreError: they differ; the message names the variable.
    """
    names = layout.read(group, "utterance").tolist()
    fresh = layout.create(zarr.storage.MemoryStore(), {}, job, config, names, dtype, batch)
    for name in sorted({*fresh.array_keys(), *group.array_keys()}):
        if repr(_metadata(group, name)) != repr(_metadata(fresh, name)):
            raise StoreError(
                f"{str(folder(group))!r}: the metadata of {name!r} differ from what was written. "
                f"{REMEDY}"
            )


def _metadata(group: Group, name: str) -> dict[str, Any]:
    if name not in group:
        return {}
    metadata = group[name].metadata.to_dict()
    if name.endswith(f".{pools.FRAMES}"):
        del metadata["shape"]  # grows with every batch
    return metadata


def finish(group: Group, attributes: Mapping[str, Any]) -> None:
    """Marks a store as complete, and adds `attributes` and the checksums of everything in it."""
    root = folder(group)
    metadata = {
        name: hashlib.sha256((root / name / "zarr.json").read_bytes()).hexdigest()
        for name in sorted(group.array_keys())
    }
    every = {
        **group.attrs,
        **escape_surrogates(dict(attributes)),
        "complete": True,
        "checksums": checksums(group),
        "metadata": metadata,
    }
    every = json.loads(json.dumps(every))  # as they will be read, for instance without tuples
    # Put all at once, because `attrs.update` would write the file again for every key.
    group.attrs.put({**every, "sha256": _digest(every)})


def checksums(group: Group) -> dict[str, str]:
    """Returns the SHA-256 of every variable, over its chunks' files in order of their names."""
    root = folder(group)
    digests = {}
    for name in sorted(group.array_keys()):
        digest = hashlib.sha256()
        for file in sorted(file for file in (root / name / "c").rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
        digests[name] = digest.hexdigest()
    return digests


def remove_partial_files(path: Path) -> None:
    """Removes what interrupted writes left behind."""
    for file in path.rglob("*.partial"):
        file.unlink()
