"""Compiles all kinds of work for TPUs that this machine does not have, and reports each plan.

`python -m experiments.bench plans --out docs/results/plans.json` needs `pip install jaxasr[tpu]`,
and about ten minutes per device on two quiet cores. Run it with JAX_PLATFORMS=cpu. The options
`--model qwen2-audio-7b --device v5e:2x4 --model-axis 8` add the plans of an audio language model.
"""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from experiments.bench.options import Dtype, Model, Out, save
from interventions import planning
from interventions.planning import PlannedDevice, Report
from interventions.storage.provenance import provenance
from jaxasr.config import Config
from jaxasr.language.sizes import RELEASED

_N_WINDOWS, _N_RECORDINGS, _N_TOKENS = 32, 8, 30
_N_PREFIXES = 8  # windows of an audio language model
_BANK = 33, 5_000, 1_280  # layers, rows, features
_SITES = "decoder.cross_attn.z", "encoder.attn.z"


def main(
    device: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    model: Model = "large-v3",
    dtype: Dtype = "bfloat16",
    model_axis: Annotated[int, typer.Option(help="Chips that share the weights.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="encode, generate, ...")] = None,
    out: Out = None,
) -> None:
    """Plans each kind of work, and saves each plan as soon as it is made."""
    config = RELEASED[model].replace(dtype=dtype, param_dtype=dtype)
    plans = json.loads(out.read_text())["plans"] if out and out.exists() else {}
    for name in device or ["v5e:2x2", "v6e:2x2"]:
        planned = planning.find_device(name, model_axis)
        is_whisper = config.audio_language is None
        kinds = kinds_of_work if is_whisper else kinds_of_language_work
        prefix = name if is_whisper else f"{name} {model}"
        for kind, plan in kinds(config, planned).items():
            if only and kind not in only:
                continue
            start = time.perf_counter()
            report = plan()
            seconds = time.perf_counter() - start
            plans[f"{prefix} {kind}"] = report.to_dict() | {
                "planning_s": round(seconds, 1),
                "model": model,
                "dtype": dtype,
            }
            print(format_line(kind, report, seconds), flush=True)
            about = provenance(config={"model": model, "dtype": dtype})
            save(out, about | {"plans": plans})


def kinds_of_work(config: Config, device: PlannedDevice) -> dict[str, Callable[[], Report]]:
    """Returns a function per kind of work, which plans this work."""

    def sweep(site: str, *over: str) -> Report:
        return planning.plan_patch(
            config, device, site, over, _N_RECORDINGS, _N_TOKENS, window_s=1.0
        )

    return {
        "encode": lambda: planning.plan_encode(config, device, _N_WINDOWS),
        "generate": lambda: planning.plan_generate(config, device, _N_WINDOWS),
        "decoder sweep": lambda: sweep("decoder.cross_attn.z", "layer", "head", "position"),
        "encoder sweep": lambda: sweep("encoder.resid_post", "layer", "time"),
        "attribution": lambda: planning.plan_attribution(
            config, device, _SITES, ("layer", "head"), _N_RECORDINGS, _N_TOKENS
        ),
        "probe bank": lambda: planning.plan_probe(device, _BANK),
    }


def kinds_of_language_work(
    config: Config, device: PlannedDevice
) -> dict[str, Callable[[], Report]]:
    """Returns a function per kind of work with an audio language model, which plans this work."""
    return {
        "encode": lambda: planning.plan_encode(config, device, _N_PREFIXES),
        "prefill": lambda: planning.plan_prefill(config, device, _N_PREFIXES),
        "decoding step": lambda: planning.plan_step(config, device, _N_PREFIXES),
        "generate": lambda: planning.plan_generate(config, device, _N_PREFIXES),
        "decoder sweep": lambda: planning.plan_patch(
            config, device, "decoder.attn.z", ("layer", "head"), 1, _N_TOKENS
        ),
    }


def format_line(kind: str, report: Report, seconds: float) -> str:
    """Formats one plan on one line."""
    facts: dict[str, Any] = {
        "fits": report.fits,
        "GB": f"{report.peak_bytes / 1e9:.2f}",
        "temporary GB": f"{max(p.temporary_bytes or 0 for p in report.programs) / 1e9:.2f}",
        "collectives": report.collectives,
        "TFLOP": f"{report.flops / 1e12:.3g}",
        "at least s": None if report.seconds is None else f"{report.seconds:.3g}",
        "planned in s": round(seconds),
    }
    errors = [program.error for program in report.programs if program.error]
    texts = [f"{name} {value}" for name, value in facts.items()]
    return f"{report.device} {kind}: {', '.join(texts)} {errors or ''}"
