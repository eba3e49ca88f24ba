"""Compares the time of one generation with that of a batch in which each row has another edit.

Run it with `python -m experiments.bench edits`.
"""

import contextlib
import statistics
import tempfile
import time
from typing import Annotated, Any

import numpy as np
import typer

from experiments.bench import machine, options, recordings
from experiments.bench.models import Job
from experiments.bench.worker import Worker


class EditedGenerator:
    """A worker that generates texts from one recording, without edits and under `n` edits.

    Each edit ablates one cross-attention head from one position on.

    Args:
        job: from `experiments.bench.recordings`, with `n` edits and at most `new` tokens per text.
    """

    def __init__(self, job: Job):
        import jax.numpy as jnp

        import jaxasr
        from interventions import Zero
        from interventions.edits import AtCell
        from jaxasr.rules import rules_for

        asr = jaxasr.load(job["model"])
        self.model, (layers, heads) = asr.model, (asr.config.n_text_layer, asr.config.n_text_head)
        self.memory, _ = self.model.encode(np.load(job["mels"])[:1])
        self.unstacked = self.memory.unstacked()
        self.prompt = jnp.array([job["prompt"]], jnp.int32)
        self.options = {
            "max_new_tokens": job["new"],
            "rules": rules_for(asr.tokenizer),
            "eot": job["eot"],
        }
        # Cells run over all layers first, then over heads, then over positions after the prompt.
        index = np.arange(job["n"], dtype=np.int32)
        self.cells = {
            "layer": index % layers,
            "head": index // layers % heads,
            "position": len(job["prompt"]) + index // (layers * heads),
        }
        self.edits_of = AtCell(Zero(), "decoder.cross_attn.z")

    def time_unedited(self) -> float:
        """Returns the seconds of one generation without edits."""
        import jax

        import jaxasr

        start = time.perf_counter()
        jax.block_until_ready(
            jaxasr.generate(self.model, self.unstacked, self.prompt, **self.options)
        )
        return time.perf_counter() - start

    def time_edited(self) -> float:
        """Returns the seconds of one batched generation under all edits."""
        start = time.perf_counter()
        self._generate(self.cells)
        return time.perf_counter() - start

    def compare(self) -> dict[str, int]:
        """Compares the batch with single calls and with the unedited text.

        Returns:
            `differ`: number of rows of the batch that differ from a call with the same edit alone.
            `changed`: number of rows that differ from the unedited text.
            `longest`: number of tokens in the longest text.
            `plain`: number of tokens in the unedited text.
        """
        batched = self._generate(self.cells)
        n = len(batched.tokens)
        singles = [
            self._generate({name: values[i : i + 1] for name, values in self.cells.items()})
            for i in range(n)
        ]
        # A cell whose layer, head and position do not exist edits nothing.
        outside = {name: values[:1] + 10**6 for name, values in self.cells.items()}
        unedited = self._generate(outside)
        rows = list(batched.tokens)
        differ = [not np.array_equal(single.tokens[0], row) for single, row in zip(singles, rows)]
        changed = [not np.array_equal(unedited.tokens[0], row) for row in rows]
        return {
            "differ": sum(differ),
            "longest": int(batched.lengths.max()),
            "changed": sum(changed),
            "plain": int(unedited.lengths.max()),
        }

    def _generate(self, cells: dict[str, np.ndarray]) -> Any:
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
    model: options.Models = None,
    n: Annotated[int, typer.Option(help="Number of edits.")] = 64,
    new: Annotated[int, typer.Option(help="Largest number of tokens per text.")] = 56,
    rounds: Annotated[int, typer.Option(help="How often both generations are measured.")] = 5,
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Times generation with and without edits. The times exclude compilation."""
    options.set_data_folder(data)
    console, results = options.make_console(), []
    description = machine.describe_machine()
    console.print(machine.title(description))
    for name in model or ["tiny.en"]:
        row = _measure_model(name, n, new, rounds)
        results.append(row)
        console.print(
            f"{name}: {n} edits {row['many_s']:.3f} s, one generation {row['one_s']:.3f} s, "
            f"{row['ratio']:.2f}×, first calls {row['many_first_s']:.1f} s and "
            f"{row['one_first_s']:.1f} s, {row['steps']} steps, {row['changed']} texts changed, "
            f"{row['differ']} texts differ from a call with one edit, load {row['load']}"
        )
        options.save(out, {**machine.report(description), "edits": results})


def _measure_model(name: str, n: int, new: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        job = {**recordings.prepare_job({"model": name, "clips": 1, "folder": scratch}), "n": n}
        generator = stack.enter_context(
            Worker("experiments.bench.edits:EditedGenerator", {**job, "new": new})
        )
        # The first round compiles.
        first, *times = (
            (generator.ask("time_unedited"), generator.ask("time_edited"))
            for _ in range(rounds + 1)
        )
        counts = generator.ask("compare")
    one_s, many_s = (statistics.median(column) for column in zip(*times))
    return {
        "model": name,
        "n": n,
        "one_s": one_s,
        "many_s": many_s,
        "one_first_s": first[0],
        "many_first_s": first[1],
        "ratio": statistics.median(many / one for one, many in times),
        "rounds": times,
        "steps": counts["longest"] + 1,  # the last step generates the end-of-text
        "differ": counts["differ"],
        "changed": counts["changed"],
        "load": machine.load_average(),
    }
