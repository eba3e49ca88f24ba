"""Which attention heads of the decoder stop a loop when they are ablated, and what that costs on clean speech.

`python -m experiments.loop_heads --out docs/results/loops`. Data: the robust loops of `recipes.jsonl` whose audio does not itself
repeat, and clean clips with reference transcripts. Heads are ablated one at a time while the text is written (greedily, no timestamps).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

SITES = ("decoder.cross_attn.z", "decoder.attn.z")
KINDS = ("zero", "mean")
CLEAN = ("vctk", "ljspeech", "libri_test_other")
TOGETHER = 4  # recordings in one call

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for result.json and the figure.")
    ],
    model: str = "tiny.en",
    new_tokens: Annotated[int, typer.Option(help="A loop shows within this many tokens.")] = 96,
    clean: Annotated[int, typer.Option(help="Clean clips whose word error rate is counted.")] = 20,
) -> None:
    """Ablates every head on looping recordings and on clean speech; writes result.json and heads.png.

    What is done is kept in the cache folder, so that an interrupted run goes on.
    """
    from experiments import runtime
    from experiments.progress import Progress
    from interventions.storage.provenance import provenance
    from interventions.storage.text_files import write_json
    from jaxasr.weights.files import cache_dir

    kept, steps = cache_dir(), Progress()
    with steps("load the model"):
        runtime.start()
        asr = runtime.load(model)
    loops, speech, others = clips(clean)
    found: dict[str, Any] = {
        "loops": [c["id"] for c in loops],
        "clean": [str(Path(*c.path.parts[-2:])) for c in speech],
        "ablations": {},
    }
    summaries = {}
    for kind in KINDS:
        edits = ablations(asr, kind, others)
        with steps.bar(
            f"{kind} ablation: {len(loops)} loops, {len(speech)} clean clips"
        ) as progress:
            looped, spoken = measure(
                asr, edits, loops, speech, new_tokens, kept and kept / "loop_heads" / kind, progress
            )
        found["ablations"][kind], summaries[kind] = summary(looped, spoken)
    config = {
        "new_tokens": new_tokens,
        "sites": SITES,
        "mean_over": [str(Path(*c.path.parts[-2:])) for c in others],
    }
    found |= {"provenance": provenance(model=runtime.weights(asr), config=config, seed=0)}
    write_json(out / "result.json", found)
    draw(summaries, out)
    steps.print_total()


def clips(n_clean: int) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    """Recipes that loop, clean clips to be judged by, and as many other ones to take means over. Raises FileNotFoundError."""
    from experiments.data import real_speech

    rows = [
        row for row in real_speech.rows("recipes") if row["group"] == "loop" and row.get("path")
    ]
    loops = [row for row in rows if row["robust"] and not row["audio_periodic"]]
    known = real_speech.recordings(CLEAN, labelled=True)
    if not loops or not known:
        raise FileNotFoundError(
            "recipes.jsonl: found no recordings; set JAXASR_DATA to the folder of manifest.jsonl."
        )
    chosen = real_speech.spread(known, 2 * n_clean)
    return loops, chosen[:n_clean], chosen[n_clean:]


def ablations(asr: Any, kind: str, others: list[Any]) -> dict[str, Any]:
    """The edit of every site: zero, or the mean of each head over all positions of the texts that are written for `others`."""
    import numpy as np

    import interventions
    import jaxasr
    from interventions.edits import mean_ablation
    from jaxasr.rules import rules_for

    if kind == "zero":
        return dict.fromkeys(SITES, interventions.Zero())
    mels = np.stack(
        [jaxasr.log_mel(jaxasr.load_audio(clip.path), asr.config.n_mels) for clip in others]
    )
    memory, prompt = asr.model.encode(mels)[0], np.tile(asr.tokenizer.prompt("en"), (len(mels), 1))
    said = jaxasr.generate(
        asr.model, memory, prompt, max_new_tokens=48, rules=rules_for(asr.tokenizer)
    )
    tokens = np.concatenate([prompt, np.asarray(said.tokens)], 1)
    valid = np.arange(tokens.shape[1]) < prompt.shape[1] + np.asarray(said.lengths)[:, None]
    acts = asr.model.decode(tokens, memory, readout=jaxasr.select(*SITES))[1]
    return {site: mean_ablation(acts[site], site, valid) for site in SITES}


def measure(
    asr: Any,
    edits: dict[str, Any],
    loops: list,
    speech: list,
    new_tokens: int,
    parts: Path | None,
    progress: Any,
) -> Any:
    """A Dataset of `sequence_sweep` with a further dimension of sites, of the loops; and one of clean speech."""
    import xarray as xr

    from experiments.data import real_speech

    where = real_speech.folder().parent
    jobs = [
        ("loops", site, [(where / c["path"], None) for c in part])
        for site in SITES
        for part in _groups(loops)
    ]
    jobs += [
        ("clean", site, [(c.path, c.transcript) for c in part])
        for site in SITES
        for part in _groups(speech)
    ]
    done: dict[tuple[str, str], list[Any]] = {}
    for i, (name, site, clips) in enumerate(jobs):
        progress(i, len(jobs))
        key = _digest(asr, edits[site], site, clips, new_tokens)
        path = parts and parts / f"{name}-{key[:16]}.zarr"
        done.setdefault((name, site), []).append(
            _kept(path, key, lambda s=site, c=clips: _sweep(asr, edits[s], s, c, new_tokens))
        )
    whole = {key: xr.concat(found, "example", data_vars="minimal") for key, found in done.items()}
    return tuple(_of_sites([whole[name, site] for site in SITES]) for name in ("loops", "clean"))


def _of_sites(found: list[Any]) -> Any:
    import xarray as xr

    cells = [name for name, values in found[0].items() if "layer" in values.dims]
    return xr.concat(
        found, "site", data_vars=cells, compat="override", coords="minimal"
    ).assign_coords(site=list(SITES))


def _groups(items: list) -> list[list]:
    return [items[i : i + TOGETHER] for i in range(0, len(items), TOGETHER)]


def _digest(
    asr: Any, edit: Any, site: str, clips: list[tuple[Path, str | None]], new_tokens: int
) -> str:
    from interventions.storage.fingerprints import fingerprint

    named = [(str(path), text) for path, text in clips]
    return fingerprint(
        model=(asr.checkpoint.sha256, asr.config),
        edit=edit,
        site=site,
        clips=named,
        new_tokens=new_tokens,
    )


def _kept(path: Path | None, key: str, compute: Any) -> Any:
    from interventions.storage.results import cached

    return compute() if path is None else cached(path, key, compute)


def _sweep(
    asr: Any, edit: Any, site: str, clips: list[tuple[Path, str | None]], new_tokens: int
) -> Any:
    """Every head of `site`; the last group is filled up so that it shares the others' program."""
    import interventions
    import jaxasr

    full = [*clips, *[clips[-1]] * (TOGETHER - len(clips))]
    audio, texts = [jaxasr.load_audio(path) for path, _ in full], [text for _, text in full]
    references = None if None in texts else texts
    swept = interventions.generation_sweep(
        asr,
        audio,
        site=site,
        edit=edit,
        max_new_tokens=new_tokens,
        references=references,
        language="en",
    )
    numbers = [
        name for name, values in swept.items() if values.dtype.kind in "fi"
    ]  # no transcripts: not all may be passed on
    return swept[numbers].isel(example=slice(len(clips)))


def summary(looped: Any, spoken: Any) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """Per-example values and what they say, as plain values; and the two summaries."""
    from interventions.stats.summary import summarize

    loops = looped.isel(example=(looped.baseline_loop == 1).values)
    stopped, cost = summarize(loops, "resolved", null="cells"), summarize(spoken, "wer")
    shown = {
        "stopped": {name: stopped[name] for name in ("mean", "low", "high", "p_any")},
        "cost": {name: cost[name] for name in ("mean", "low", "high", "p", "p_any", "q")},
        "dims": ["site", "layer", "head"],
        "baseline_loops": looped.baseline_loop,
        "resolved": looped.resolved.transpose("site", "layer", "head", "example"),
        "baseline_wer": spoken.baseline_wer,
        "wer": spoken.wer.transpose("site", "layer", "head", "example"),
    }
    rounded = {name: _rounded(value) for name, value in shown.items()}
    return rounded, (stopped, cost)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value.round(4).values if hasattr(value, "round") else value


def draw(summaries: dict[str, tuple[Any, Any]], out: Path) -> None:
    """For each ablation the map of loops stopped and of the cost, by site; then each head's one against the other."""
    from interventions.figures import drawing, files

    drawn = drawing.new_figure(12.6, 5.0)
    rows = drawn.subplots(len(summaries), 5, squeeze=False, width_ratios=[1, 1, 1, 1, 1.35])
    for axes, (kind, (stopped, cost)) in zip(rows, summaries.items()):
        for i, site in enumerate(SITES):
            name = site.removeprefix("decoder.").removesuffix(".z")
            shares = _head_map(
                axes[2 * i], stopped.sel(site=site), f"{name}, {kind}: loops stopped", 1.0
            )
            costs = _head_map(
                axes[2 * i + 1], cost.sel(site=site), f"{name}, {kind}: ΔWER, clean", 0.5
            )
        _trade(axes[4], stopped, cost, kind)
    drawn.colorbar(
        shares, ax=list(rows[-1, :2]), location="bottom", label="share of loops stopped", shrink=0.5
    )
    drawn.colorbar(
        costs,
        ax=list(rows[-1, 2:4]),
        location="bottom",
        label="ΔWER, clean speech",
        shrink=0.5,
        extend="both",
    )
    files.save(drawn, out / "heads.png")


def _head_map(axes: Any, summary: Any, title: str, limit: float) -> Any:
    from interventions.figures import drawing

    image = drawing.draw_map(axes, summary, "mean", "head", "layer", limit)
    axes.set_title(title, fontsize=8.5)
    axes.set_xlabel("head")
    return image


def _trade(axes: Any, stopped: Any, cost: Any, kind: str) -> None:
    """Loops stopped against cost, with both intervals; heads that stop more than half are named."""
    for site, colour in zip(SITES, ("#b3470c", "#265591")):
        x, y = (
            cost.sel(site=site).stack(cell=("layer", "head")),
            stopped.sel(site=site).stack(cell=("layer", "head")),
        )
        spread = [[x["mean"] - x.low, x.high - x["mean"]], [y["mean"] - y.low, y.high - y["mean"]]]
        style = {
            "fmt": "o",
            "markersize": 3.5,
            "color": colour,
            "ecolor": colour + "50",
            "elinewidth": 0.8,
        }
        axes.errorbar(
            x["mean"],
            y["mean"],
            xerr=_positive(spread[0]),
            yerr=_positive(spread[1]),
            label=site,
            **style,
        )
        for cell, across, up in zip(y.cell.values, x["mean"].values, y["mean"].values):
            if up > 0.5:
                axes.annotate(
                    f"{cell[0]}.{cell[1]}",
                    (across, up),
                    textcoords="offset points",
                    xytext=(4, 4),
                    fontsize=7.5,
                )
    axes.set_xscale("symlog", linthresh=0.05)
    axes.set_xticks([0, 0.05, 0.2, 1], ["0", "0.05", "0.2", "1"], minor=False)
    axes.set(
        xlabel="ΔWER, clean speech",
        ylabel="share of loops stopped",
        ylim=(-0.03, 1.03),
        xlim=(-0.02, 3),
    )
    axes.set_title(f"{kind} ablation of one head", fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _positive(spread: list[Any]) -> Any:
    import numpy as np

    return np.maximum(np.array([part.values for part in spread]), 0)


if __name__ == "__main__":
    app()
