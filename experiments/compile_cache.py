"""Keeps compiled programs on disk, so that later processes need not compile them again."""

import os
from pathlib import Path


def enable() -> Path | None:
    """Makes JAX save on disk every program that this process compiles after this call.

    The environment variable `JAX_COMPILATION_CACHE_DIR` names the folder. If it is not set, the
    folder is `xla` in jaxasr's cache folder.

    Returns:
        The folder, or None if the cache is switched off or the folder is not writable.

    Example:
        ```python
        folder = enable()  # before the first compiled program
        ```
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
    # By default JAX saves only programs that take at least 1 s to compile. Many programs of a sweep
    # take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # programs of any size
    return folder


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
