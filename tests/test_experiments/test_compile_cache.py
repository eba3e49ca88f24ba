"""Compiled programs are saved in the given folder, and a second process loads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import compile_cache
from experiments.compiling import Compiling
from jaxasr.weights.files import cache_dir

# Compiles a program, and prints the cache folder and the number of programs loaded from it.
COMPILE = """
import jax
from experiments import compile_cache, compiling
counts = compiling.count_compilations()
folder = compile_cache.enable()
jax.jit(lambda x: x * 3 + 1)(1.0).block_until_ready()
print(folder, counts.read)
"""
# The same, if JAX refuses every program on disk, as on some processors.
REFUSED = f"""
from jax._src import compiler
compiler._cache_read = lambda *_: (None, None)
{COMPILE}
print(*compile_cache.describe(counts), sep=chr(10))
"""


def run(**environment: str) -> tuple[str, int]:
    """Runs `COMPILE` in a new process. Returns the cache folder and the number of cache hits."""
    folder, hits = run_code(COMPILE, **environment).split()
    return folder, int(hits)


def run_code(code: str, **environment: str) -> str:
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("JAX", "XDG"))
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_second_process_compiles_nothing(tmp_path):
    assert run(JAXASR_CACHE=str(tmp_path)) == (str(tmp_path / "xla"), 0)
    assert list((tmp_path / "xla").iterdir())
    assert run(JAXASR_CACHE=str(tmp_path))[1] > 0


def test_a_processor_that_reads_nothing_back_is_named(tmp_path):
    assert run(JAXASR_CACHE=str(tmp_path))[1] == 0
    first, *described = run_code(REFUSED, JAXASR_CACHE=str(tmp_path)).splitlines()
    assert first.endswith(" 0")
    assert described[0].endswith("compiled, 0 read from disk")
    assert described[1:] == [compile_cache.NEVER_READ]


def test_counts_are_described_in_one_line():
    assert compile_cache.describe(Compiling()) == []
    counts = Compiling(seconds=1.5, programs=3, looked_up=3, read=2)
    assert compile_cache.describe(counts) == ["3 programs: 1 compiled, 2 read from disk"]


@pytest.mark.parametrize("off", ["off", "0", "OFF"])
def test_the_cache_can_be_switched_off(monkeypatch, off):
    monkeypatch.setenv("JAXASR_CACHE", off)
    assert cache_dir() is None


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.delenv("JAXASR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/jaxasr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "jaxasr"


# Changes to a user without a home directory, and prints the cache folder.
_NO_HOME = (
    "import os; os.setgid(54321); os.setuid(54321); "
    "from jaxasr.weights.files import cache_dir; print(cache_dir())"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_without_a_home_has_no_cache():
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("JAX", "XDG", "HOME"))
    }
    inherited["PYTHONPATH"] = os.pathsep.join(sys.path)
    # Imports as root first, because the other user may not be able to read the packages.
    code = f"import jaxasr; {_NO_HOME}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr


@pytest.mark.parametrize("inside", ["", "xla"])
def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("JAXASR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "xla").mkdir(parents=True)
    assert cache_dir() == tmp_path / "cache"
    (tmp_path / "cache" / inside).chmod(0o777)
    with pytest.warns(
        UserWarning,
        match=r"cache.*: not used as a cache, because anybody can write into it\. Name another",
    ):
        assert cache_dir() is None
    (tmp_path / "cache" / inside).chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "cache").stat().st_uid + 1)
    with pytest.warns(UserWarning, match="another user owns it"):
        assert cache_dir() is None


def test_a_folder_that_cannot_be_made_is_not_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(JAXASR_CACHE=str(tmp_path / "file" / "inside")) == ("None", 0)
