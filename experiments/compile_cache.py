"""Keeps compiled programs on disk, so that the next process need not compile them again."""

import os
from pathlib import Path


def enable() -> Path | None:
    """Keeps on disk every program that this process compiles from now on.

    If `JAX_COMPILATION_CACHE_DIR` names a folder for JAX, that one is used.

    Returns:
        The folder, or None if none can be written to.
    """
    import jax

    from jaxasr.weights.files import cache_dir

    cache = cache_dir()
    if cache is None:
        return None
    folder = Path(jax.config.values["jax_compilation_cache_dir"] or cache / "xla")
    if not _is_writable(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX keeps only programs that took a second to compile; a sweep has many short ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
