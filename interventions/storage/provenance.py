"""Records how a result was made."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

# The packages whose versions are recorded.
PACKAGES = (
    "jaxasr",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "tokenizers",
    "transformers",
    "soundfile",
    "soxr",
    "av",
    "librosa",
)


def provenance(
    *,
    model: dict[str, Any] | None = None,
    data: Any = None,
    config: Any = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Returns a record of how a result was made.

    Args:
        model: name and hash of the model's weights, as values that JSON can hold.
        data: a description of the recordings, as values that JSON can hold.
        config: the settings of the computation, as values that JSON can hold.
        seed: the seed of the random numbers.

    Returns:
        A dict of the arguments, `command`, `time` (UTC), `versions` of packages, `platform` and
        `commit`. Entries that are None are left out. Pass the dict to `save_result` as
        `provenance`.

    Example:
        >>> record = provenance(data="demo.flac", seed=0)
        >>> record["data"], record["seed"]
        ('demo.flac', 0)
    """
    record = {
        "model": model,
        "data": data,
        "config": config,
        "seed": seed,
        "command": command(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "platform": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "device": device(),
        },
    }
    return {key: value for key, value in record.items() if value is not None}


def command() -> str:
    """Returns the command line of this process, without the folder of the program."""
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that results depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def device() -> str | None:
    """Returns the number and kind of this process's devices; None if JAX is not imported yet."""
    # An import of JAX would take seconds.
    if "jax" not in sys.modules:
        return None
    import jax

    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"


# Cached, because every saved result records the commit, and git takes a while.
@functools.cache
def commit() -> str | None:
    """Returns the git commit of this package, followed by `+` if its files differ from the commit.

    Only tracked files count. If git cannot compare them, they count as different. Outside a git
    checkout, returns the environment variable JAXASR_COMMIT, or None if that is not set. Also
    returns None in a checkout whose commit git cannot read.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return os.environ.get("JAXASR_COMMIT")
    head = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if head is None else head + ("" if changes == "" else "+")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
