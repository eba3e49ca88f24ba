"""Keeps compiled programs on disk, so that later processes need not compile them again."""

import os
from pathlib import Path

from experiments.compiling import Compiling, count_compilations

# Shown if programs were looked up on disk, but none was read.
NEVER_READ = (
    "JAX cannot read compiled programs back on this processor (jax issue 38445), so every start "
    "compiles. JAXASR_CACHE=off saves none."
)


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


def can_read() -> bool | None:
    """Returns whether JAX can read back the programs that it saves. None if the cache is off.

    Compiles a small program twice. On some processors, JAX refuses every program that it saved.

    Example:
        ```python
        enable()
        can_read()  # True on most machines
        ```
    """
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        return None
    counts = count_compilations()
    for _ in range(2):
        read = counts.read
        # A new function each time, because JAX keeps the program of the last one in memory.
        jax.jit(lambda x: x * 3 + 1)(1.0).block_until_ready()
    return counts.read > read


def describe(counts: Compiling) -> list[str]:
    """Describes what was compiled and what was read from disk, in one or two lines.

    Args:
        counts: the counts of this process.

    Example:
        >>> describe(Compiling(programs=3, looked_up=3, read=2))
        ['3 programs: 1 compiled, 2 read from disk']
    """
    if not counts.programs:
        return []
    lines = [f"{counts} from disk"]
    if counts.looked_up and not counts.read and can_read() is False:
        lines.append(NEVER_READ)
    return lines


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
