"""How a sweep is cut up: parts, chunks, and what it will cost."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interventions.memory import budget
from interventions.patching.packing import Rows, packed
from jaxasr import sites
from jaxasr.config import Config

Finish = Callable[[], np.ndarray]

_MOST_ROWS = 512  # that look at each other: the mask of more costs more than larger products gain


@dataclasses.dataclass(frozen=True)
class Part:
    """Cells of the decoder that go together: those of the grid's positions `columns`, `together` of each at a time.

    rows: what they compute, `n_rows` of it not only filling up. above: see `cells.Resumed`.
    """

    columns: list[int]
    rows: Rows
    n_rows: int
    together: int
    above: int


def parts(plan: Any, layer: int) -> list[Part]:
    """How the cells that edit `layer` are computed. Cells that cannot reach the scored position are left out.

    Nearest to the top, one row a column does; below, two (only the changed position's key and value reach the scored one); else
    all positions from the changed to the scored one. So at most three executables.
    """
    last = plan.model.config.n_text_layer - 1
    readers = (
        last - layer + (not plan.position_local)
    )  # layers whose attention reads what the edit changed
    chosen, columns = _columns(plan, readers)
    room = max(1, budget(plan.budget) // row_bytes(plan))
    n_cells = plan.grid.alike("layer", "position")
    longest = max(map(len, columns), default=1)
    split = list(packed(columns, max(longest, min(room // n_cells, _MOST_ROWS))))
    sizes = [sum(len(columns[i]) for i in part) for part in split]
    n_columns, n_rows = max(map(len, split), default=1), max(sizes, default=1)
    together = equal(n_cells, room // n_rows)
    above = 0 if layer == last else 1 if readers == 1 else 2
    n_slots = (
        jnp.shape(plan.target.tokens)[1] if "position" in plan.grid.coords else 0
    )  # without columns, rows are all there is
    made = (Rows.of([columns[i] for i in part], n_slots, n_columns, n_rows) for part in split)
    return [
        Part([chosen[i] for i in part], rows, size, together, above)
        for part, rows, size in zip(split, made, sizes)
    ]


def _columns(plan: Any, readers: int) -> tuple[list[int], list[np.ndarray]]:
    """The positions of the grid that can reach the scored one, as indices, and what is computed for each."""
    if "position" not in plan.grid.coords:
        return [0], [np.arange(plan.scored + 1)]
    starts = plan.grid.coords["position"]
    chosen = np.flatnonzero(starts <= plan.scored if readers else starts == plan.scored).tolist()
    needed = np.arange if readers > 1 else lambda start, stop: np.unique([start, stop - 1])
    return chosen, [needed(starts[i], plan.scored + 1) for i in chosen]


def equal(n: int, most: int) -> int:
    """The size of equal parts of `n`, each of at most `most`, so that few places are filled up."""
    return -(-n // -(-n // max(1, most)))


def chunk(plan: Any) -> int:
    """How many cells of those that are computed one by one go together."""
    return equal(plan.grid.alike("layer"), min(budget(plan.budget) // cell_bytes(plan), 512))


def row_bytes(plan: Any) -> int:
    """Peak bytes of one row of the decoder, its largest layer's intermediates counted once."""
    c = plan.model.config
    return 4 * (c.n_text_head * (c.n_audio_ctx + 2 * (plan.scored + 1)) + 12 * c.n_text_state)


def cell_bytes(plan: Any) -> int:
    """Peak bytes of one cell that is computed by itself, its largest layer's intermediates counted once."""
    decoder = (plan.scored + 1) * row_bytes(plan)
    return (
        decoder
        if sites.stack_of(plan.grid.site) == "decoder"
        else hearing_bytes(plan.model.config) + decoder
    )


def hearing_bytes(c: Config) -> int:
    """Peak bytes of the encoder and the memory it gives, of one cell."""
    return 4 * ((2 * c.n_text_layer + 12) * c.n_audio_ctx * c.n_audio_state + c.n_audio_ctx**2)


def chunked(compute: Callable[[dict], Any], cells: dict[str, np.ndarray], size: int) -> Finish:
    """Begins `compute` over chunks of one size (the last filled up), so one executable serves all; returns what waits for the values.

    Out of memory, chunks are halved.
    """
    n = len(next(iter(cells.values())))

    def smaller(error: Exception) -> Finish:
        if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
            raise error
        warnings.warn(
            f"sweep: out of memory with {size} cells at a time; going on with {size // 2}.",
            stacklevel=3,
        )
        return chunked(compute, cells, size // 2)

    def finish() -> np.ndarray:
        try:
            return np.concatenate([np.asarray(part, np.float64) for part in parts])[:n]
        except jax.errors.JaxRuntimeError as error:
            return smaller(error)()

    try:
        parts = [
            compute({k: _filled(v[i : i + size], size) for k, v in cells.items()})
            for i in range(0, n, size)
        ]
    except jax.errors.JaxRuntimeError as error:
        return smaller(error)
    return finish


def one_ahead(begin: Iterable[Callable[[], Finish]]) -> Iterator[np.ndarray]:
    """The values of each job, which begins before those of the job before it are waited for: the device never waits for the host."""
    waiting: Finish | None = None
    for start in begin:
        begun = start()
        if waiting is not None:
            yield waiting()
        waiting = begun
    if waiting is not None:
        yield waiting()


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), mode="edge")


def describe(plan: Any) -> str:
    """Cells, groups, chunk, bytes and floating-point operations."""
    n, groups = int(np.prod(plan.grid.shape)), [part for _, part in _groups(plan)]
    if plan.by_rows:
        n_cells = n // len(plan.grid.layers) // len(plan.grid.coords.get("position", [0]))
        done = sum(len(part.columns) * n_cells for part in groups)
        most = max((part.together * len(part.columns) for part in groups), default=0)
        size = max((part.together * part.n_rows for part in groups), default=0) * row_bytes(plan)
    else:
        done, most = n, chunk(plan)
        size = most * cell_bytes(plan)
    return (
        f"{plan.grid.site} over {' × '.join(f'{dim} {size}' for dim, size in zip(plan.grid.dims, plan.grid.shape))}: {n} cells of "
        f"{plan.target.batch} example(s); {n - done} need no computing; chunks of {most}, "
        f"{size / 2**20:.0f} MiB; {flops(plan) / 1e9:.1f} GFLOP"
    )


def _groups(plan: Any) -> list[tuple[int, Part]]:
    """The parts of every layer, and the layer."""
    return (
        [(layer, part) for layer in plan.grid.layers for part in parts(plan, layer)]
        if plan.by_rows
        else []
    )


def flops(plan: Any) -> float:
    """Floating-point operations of all cells that need computing; the passes they share and the norms are left out."""
    if plan.by_rows:
        one = sum(_part_flops(plan, layer, part) for layer, part in _groups(plan))
    else:
        one = (
            sum(_cell_flops(plan, layer) for layer in plan.grid.layers)
            * np.prod(plan.grid.shape)
            / len(plan.grid.layers)
        )
    return float(plan.target.batch * one)


def _token_flops(c: Config) -> int:
    """One token in one layer of the decoder; multiply-adds counted twice."""
    return 28 * c.n_text_state**2 + 4 * c.n_audio_ctx * c.n_text_state


def _part_flops(plan: Any, layer: int, part: Part) -> float:
    """What no cell changes is computed once a column; of the edited layer a cell computes what follows the edit."""
    c, token, square = (
        plan.model.config,
        _token_flops(plan.model.config),
        plan.model.config.n_text_state**2,
    )
    name = plan.grid.site.removeprefix("decoder.")
    after = (
        8 * square
        if name.startswith("mlp")
        else 18 * square
        if "cross" in name
        else 0
        if name == "resid_post"
        else token
    )
    n_columns, n_cells = len(part.columns), int(np.prod(plan.grid.shape)) // len(plan.grid.layers)
    n_cells //= len(plan.grid.coords.get("position", [0]))
    edited = n_columns if plan.position_local else part.n_rows
    between = max(0, c.n_text_layer - 2 - layer) * part.n_rows * token
    top = (part.n_rows * 4 * square + n_columns * (token - 4 * square)) if part.above else 0
    return edited * token + n_cells * (edited * after + between + top)


def _cell_flops(plan: Any, layer: int | None) -> float:
    c, first = plan.model.config, (layer or 0) if plan.resumes else 0
    decoder = _token_flops(c) * (plan.scored + 1) * c.n_text_layer
    if sites.stack_of(plan.grid.site) == "decoder":
        return decoder
    frame = 24 * c.n_audio_state**2 + 4 * c.n_audio_ctx * c.n_audio_state
    layers = c.n_audio_layer - first - (plan.grid.site == "encoder.resid_post" and plan.resumes)
    return c.n_audio_ctx * (layers * frame + 4 * c.n_text_layer * c.n_text_state**2) + decoder
