"""How a sweep is cut up: windows, chunks, what it will cost, and what it keeps on disk."""
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxasr import sites
from jaxasr.config import Config

_CPU_BUDGET = 64 << 20  # bytes: what is computed together should stay within reach of the caches
_SHARE = 0.4  # of an accelerator's free memory


def widths(plan: Any, layer: int | None, cells: dict[str, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of decoder positions and the cells that fit them. Cells that cannot reach the scored position are left out.

    At most three widths, so at most three executables: 1, half and all of the positions up to the scored one.
    """
    n = plan.scored + 1
    n_cells = len(next(iter(cells.values())))
    if sites.stack_of(plan.grid.site) == "encoder" or not plan.resumes or "position" not in cells:
        yield n, np.arange(n_cells)
        return
    last = plan.model.config.n_text_layer - 1
    start = layer or 0
    needed = n - cells["position"]
    if start + plan.own_position > last:  # after the last layer's attention a position speaks for itself alone
        yield 1, np.flatnonzero(needed == 1)
        return
    if start + plan.own_position == last:  # only the changed position's key and value reach the scored one
        yield 1, np.flatnonzero(needed >= 1)
        return
    half = (n + 1) // 2
    yield half, np.flatnonzero((needed >= 1) & (needed <= half))
    yield n, np.flatnonzero(needed > half)


def chunk(plan: Any, width: int) -> int:
    """How many cells go together: as many as the budget holds, in equal parts of the largest group, so that few places are filled up."""
    most = max(1, min(budget(plan.budget) // cell_bytes(plan, width), 512))
    n = max(count for _, of_width, count in _groups(plan) if of_width == width)
    return -(-n // -(-n // most)) if n else 1


def cell_bytes(plan: Any, width: int) -> int:
    """Peak bytes of one cell, its largest layer's intermediates counted once."""
    c, size = plan.model.config, np.dtype("float32").itemsize
    decoder = width * (c.n_text_head * (c.n_audio_ctx + 2 * width) + 12 * c.n_text_state)
    cache = 4 * (plan.scored + 1) * c.n_text_state
    if sites.stack_of(plan.grid.site) == "decoder":
        return size * (decoder + cache)
    return hearing_bytes(c) + size * decoder


def hearing_bytes(c: Config) -> int:
    """Peak bytes of the encoder and the memory it gives, of one cell."""
    return 4 * ((2 * c.n_text_layer + 12) * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)


def budget(given: int | None, cpu: int = _CPU_BUDGET) -> int:
    """Bytes for what is computed together: those `given`, else `cpu` on a CPU, else a share of the accelerator's free memory."""
    if given is not None:
        return given
    device = jax.devices()[0]
    if device.platform == "cpu":
        return cpu
    stats = device.memory_stats() or {}
    return int(_SHARE * (stats.get("bytes_limit", 8 << 30) - stats.get("bytes_in_use", 0)))


def chunked(compute: Callable[[dict], Any], cells: dict[str, np.ndarray], size: int) -> Float[np.ndarray, "n"]:
    """`compute` over chunks of one size (the last filled up), so one executable serves all. Out of memory, chunks are halved."""
    n = len(next(iter(cells.values())))
    if n == 0:
        return np.zeros(0)
    try:
        parts = [compute({k: _filled(v[i : i + size], size) for k, v in cells.items()}) for i in range(0, n, size)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])[:n]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
            raise
        warnings.warn(f"sweep: out of memory with {size} cells at a time; going on with {size // 2}.", stacklevel=2)
        return chunked(compute, cells, size // 2)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), mode="edge")


def describe(plan: Any) -> str:
    """Cells, groups, chunk, bytes and floating-point operations."""
    rows, n = _groups(plan), int(np.prod(plan.grid.shape))
    widest = max(width for _, width, _ in rows)
    return (
        f"{plan.grid.site} over {' × '.join(f'{dim} {size}' for dim, size in zip(plan.grid.dims, plan.grid.shape))}: {n} cells of "
        f"{plan.target.batch} example(s); {n - sum(count for *_, count in rows)} need no computing; chunks of {chunk(plan, widest)}, "
        f"{chunk(plan, widest) * cell_bytes(plan, widest) / 2**20:.0f} MiB; {flops(plan) / 1e9:.1f} GFLOP"
    )


def flops(plan: Any) -> float:
    """Floating-point operations of all cells that need computing; the passes they share and the norms are left out."""
    return plan.target.batch * sum(_flops(plan, layer, width) * count for layer, width, count in _groups(plan))


def _groups(plan: Any) -> list[tuple[int | None, int, int]]:
    """Layer, width and number of cells of everything computed together."""
    return [(layer, width, len(chosen)) for layer in plan.grid.layers for width, chosen in widths(plan, layer, plan.grid.cells(layer)[1])]


def _flops(plan: Any, layer: int | None, width: int) -> float:
    """Multiply-adds counted twice; the stem and norms are left out."""
    c, first = plan.model.config, (layer or 0) if plan.resumes else 0
    token = 28 * c.n_text_state**2 + 4 * c.n_audio_ctx * c.n_text_state
    if sites.stack_of(plan.grid.site) == "decoder":
        return token * (plan.own_position + width * max(0, c.n_text_layer - 1 - first - plan.own_position) + 1)
    frame = 24 * c.n_audio_state**2 + 4 * c.n_audio_ctx * c.n_audio_state
    layers = c.n_audio_layer - first - (plan.grid.site == "encoder.resid_post" and plan.resumes)
    return c.n_audio_ctx * (layers * frame + 4 * c.n_text_layer * c.n_text_state**2) + token * width * c.n_text_layer


class Store:
    """Finished groups on disk, each written under a temporary name and then renamed; or nothing, without a folder."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    @classmethod
    def open(cls, folder: Any, plan: Any) -> "Store":
        """Raises ValueError when the folder holds the groups of another sweep."""
        if folder is None:
            return cls(None)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark, digest = folder / "sweep.sha256", fingerprint(plan)
        if mark.exists() and mark.read_text() != digest:
            raise ValueError(f"store: {folder} holds another sweep (its model, runs, site, grid or metric differ). Choose another folder.")
        _write(mark, lambda path: path.write_text(digest))
        return cls(folder)

    def get(self, key: tuple, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if self.folder is None:
            return compute()
        path = self.folder / f"example-{key[0]}-layer-{key[1]}.npy"
        if not path.exists():
            values = compute()
            _write(path, lambda temporary: _save(temporary, values))
        return np.load(path, allow_pickle=False)


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    os.close(handle)
    write(Path(name))
    Path(name).replace(path)


def fingerprint(plan: Any) -> str:
    """Digest of everything that the result depends on."""
    digest = hashlib.sha256(f"{plan.grid} {plan.scored} {plan.reuse} {jax.tree.structure((plan.edit, plan.metric))}".encode())
    for leaf in jax.tree.leaves((plan.model, plan.target, plan.edit, plan.metric)):
        digest.update(np.asarray(leaf).tobytes() if hasattr(leaf, "dtype") else repr(leaf).encode())
    return digest.hexdigest()
