"""Compiled programs on disk, so that a second process starts warm."""

import os
from pathlib import Path


def enable() -> Path | None:
    """Keeps every program this process compiles from now on, quick ones included; returns where, or None where nothing can be kept.

    A folder that JAX was already told to use (`JAX_COMPILATION_CACHE_DIR`) stays.
    """
    import jax

    from jaxasr.weights.files import cache_dir

    ours = cache_dir()
    if ours is None:
        return None
    folder = Path(jax.config.values["jax_compilation_cache_dir"] or ours / "xla")
    if not _writable(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
