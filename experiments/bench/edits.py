"""Many edits of one recording, generated in one call, against one generation: `python -m experiments.bench edits`."""

import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from experiments.bench import machine, recordings
from experiments.bench.worker import Worker


class Ours:
    """A worker: one greedy text, and the texts under `n` edits, each a head that is silenced from one position on."""

    def __init__(self, job: dict[str, Any]):
        import jaxasr
        from interventions import Zero
        from interventions.edits import AtCell
        from jaxasr.rules import rules_for

        asr = jaxasr.load(job["model"])
        self.model, (layers, heads) = asr.model, (asr.config.n_text_layer, asr.config.n_text_head)
        self.memory, _ = self.model.encode(np.load(job["mels"])[:1])
        self.unstacked, self.prompt = self.memory.unstacked(), np.array([job["prompt"]], np.int32)
        self.options = {
            "max_new_tokens": job["new"],
            "rules": rules_for(asr.tokenizer),
            "eot": job["eot"],
        }
        place = np.arange(job["n"], dtype=np.int32)
        self.cells = {
            "layer": place % layers,
            "head": place // layers % heads,
            "position": len(job["prompt"]) + place // (layers * heads),
        }
        self.edits_of = AtCell(Zero(), "decoder.cross_attn.z")

    def one(self) -> float:
        import jax

        import jaxasr

        start = time.perf_counter()
        jax.block_until_ready(
            jaxasr.generate(self.model, self.unstacked, self.prompt, **self.options)
        )
        return time.perf_counter() - start

    def many(self) -> float:
        start = time.perf_counter()
        self._under(self.cells)
        return time.perf_counter() - start

    def alone(self) -> dict[str, Any]:
        """Rows of the call that differ from the same edit generated alone, steps of the longest, and texts that an edit changed."""
        together, plain = (
            self._under(self.cells),
            self._under({name: values[:1] + 10**6 for name, values in self.cells.items()}),
        )
        singly = [
            self._under({name: values[i : i + 1] for name, values in self.cells.items()})
            for i in range(len(together.tokens))
        ]
        differ = sum(
            not np.array_equal(one.tokens[0], row) for one, row in zip(singly, together.tokens)
        )
        changed = sum(not np.array_equal(plain.tokens[0], row) for row in together.tokens)
        return {
            "differ": int(differ),
            "longest": int(together.lengths.max()),
            "changed": int(changed),
            "plain": int(plain.lengths.max()),
        }

    def _under(self, cells: dict[str, np.ndarray]) -> Any:
        from interventions.generation import generate_cells

        return generate_cells(
            self.model,
            self.memory,
            self.prompt,
            cells,
            edits_of=self.edits_of,
            batch=len(cells["head"]),
            **self.options,
        )


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny.en, base, ...; repeatable. Default: tiny.en.")
    ] = None,
    n: Annotated[int, typer.Option(help="Edits.")] = 64,
    new: Annotated[int, typer.Option(help="Tokens at most.")] = 56,
    rounds: Annotated[int, typer.Option(help="Times that both are measured, in turn.")] = 5,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with manifest.jsonl; default: as for `transcribe`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """The same recording, weights and rules; compiling is not counted."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console, found = Console(width=None if Console().is_terminal else 120), []
    described = machine.described()
    console.print(machine.title(described))
    for name in model or ["tiny.en"]:
        found.append(_one_model(name, n, new, rounds))
        row = found[-1]
        console.print(
            f"{name}: {n} edits {row['many_s']:.3f} s, one generation {row['one_s']:.3f} s, {row['ratio']:.2f}×; {row['steps']} steps; "
            f"{row['changed']} texts changed, {row['differ']} rows differ from the edit alone; load {row['load']}"
        )
        if out:
            out.write_text(json.dumps({**machine.report(described), "edits": found}, indent=1))


def _one_model(name: str, n: int, new: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        wanted = {"model": name, "clips": 1, "folder": scratch}
        job = {**recordings.prepared(wanted), "n": n, "new": new}
        ours = stack.enter_context(Worker("experiments.bench.edits:Ours", job))
        same = ours.ask("alone")
        timed = [(ours.ask("one"), ours.ask("many")) for _ in range(rounds + 1)][1:]
    one, many = (statistics.median(times) for times in zip(*timed))
    ratio = statistics.median(many / one for one, many in timed)
    return {"model": name, "n": n, "one_s": one, "many_s": many, "ratio": ratio, "rounds": timed, "steps": same["longest"] + 1,
            "differ": same["differ"], "changed": same["changed"], "load": machine.load()}  # fmt: skip
