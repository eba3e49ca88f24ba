"""Where a result comes from: everything needed to make it again."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    """Model (name, hash), data, config, seed, and what ran it: command, time, versions, device, commit; without the unknown."""
    known = {
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
    return {key: value for key, value in known.items() if value is not None}


def command() -> str:
    """The command line of this process, the program by its bare name."""
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str | None:
    """What JAX computes on, if it has been started: asking must not start it."""
    if "jax" not in sys.modules:
        return None
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


@functools.cache
def commit() -> str | None:
    """The commit of this checkout, `+` at its end when files differ from it; outside a checkout what $JAXASR_COMMIT says, else None."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return os.environ.get("JAXASR_COMMIT")
    head, changed = (
        _git(folder, "rev-parse", "HEAD"),
        _git(folder, "status", "--porcelain", "--untracked-files=no"),
    )
    return None if head is None else head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
