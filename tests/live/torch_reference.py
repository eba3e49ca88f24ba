"""Computes the value at every site of `jaxasr.sites` with the torch Whisper of `transformers`.

Most sites are inputs or outputs of torch modules. Attention scores are not, so they are computed
from queries and keys, in the order of operations of torch (queries are scaled before the product).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from jaxasr.sites import LAYERED, SITES, sites_of

Model = WhisperForConditionalGeneration
WHISPER_SITES = (*sites_of("encoder"), *sites_of("decoder"))
# Per site: the module in the layer, and whether the site is its input or output. "" is the layer.
_SELF = {
    "resid_pre": ("", "in"),
    "attn.q": ("self_attn.q_proj", "out"),
    "attn.k": ("self_attn.k_proj", "out"),
    "attn.v": ("self_attn.v_proj", "out"),
    "attn.pattern": ("self_attn", "pattern"),
    "attn.z": ("self_attn.out_proj", "in"),
    "attn_out": ("self_attn.out_proj", "out"),
}
_CROSS = {
    "resid_mid": ("encoder_attn_layer_norm", "in"),
    "cross_attn.q": ("encoder_attn.q_proj", "out"),
    "cross_attn.k": ("encoder_attn.k_proj", "out"),
    "cross_attn.v": ("encoder_attn.v_proj", "out"),
    "cross_attn.pattern": ("encoder_attn", "pattern"),
    "cross_attn.z": ("encoder_attn.out_proj", "in"),
    "cross_attn_out": ("encoder_attn.out_proj", "out"),
}
_MLP = {
    "mlp.pre": ("fc1", "out"),
    "mlp.post": ("fc2", "in"),
    "mlp_out": ("fc2", "out"),
    "resid_post": ("", "out"),
}
_LAYER = {
    "encoder": {**_SELF, "resid_mid": ("final_layer_norm", "in"), **_MLP},
    "decoder": {**_SELF, **_CROSS, "resid_mid_cross": ("final_layer_norm", "in"), **_MLP},
}
_OUTSIDE = {
    "encoder.conv1": ("model.encoder.conv1", "out"),
    "encoder.conv2": ("model.encoder.conv2", "out"),
    "encoder.embed": ("model.encoder.layers.0", "in"),
    "encoder.ln_post": ("model.encoder.layer_norm", "out"),
    "decoder.embed": ("model.decoder.layers.0", "in"),
    "decoder.ln": ("model.decoder.layer_norm", "out"),
    "decoder.logits": ("proj_out", "out"),
}


def reference(
    model: Model,
    mel: np.ndarray,
    tokens: np.ndarray | None = None,
    only: Iterable[str] = WHISPER_SITES,
    positions: np.ndarray | None = None,
    memory: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns `{site: [L, B, ...]}` in the precision of the model.

    Scores are minus infinity where the decoder's attention is masked.

    Args:
        model: the torch model.
        mel: [B, M, F].
        tokens: [B, T]; None: encoder sites only.
        only: sites to return, which limits the memory taken.
        positions: [B, T], negative at padded tokens, which are masked.
        memory: encoder output of an earlier run; the encoder then does not run again.
    """
    only = [site for site in only if tokens is not None or site.startswith("encoder.")]
    needed = [
        site
        for site in WHISPER_SITES
        if site in {name for requested in only for name in _sources(requested)}
    ]
    with torch.no_grad(), _record(model, needed) as outputs:
        memory = (
            model.model.encoder(torch.tensor(np.asarray(mel)).to(model.dtype))[0]
            if memory is None
            else torch.tensor(memory)
        )
        if tokens is not None:
            hidden = model.model.decoder(
                input_ids=torch.tensor(np.asarray(tokens)).long(),
                encoder_hidden_states=memory,
                use_cache=False,
                **_padding(positions),
            )
            model.proj_out(hidden.last_hidden_state)
        return {site: _value(model, site, outputs).numpy() for site in only}


def _padding(positions: np.ndarray | None) -> dict[str, torch.Tensor]:
    if positions is None:
        return {}
    ids = torch.as_tensor(positions).long()
    return {"position_ids": ids.clamp(min=0), "attention_mask": (ids >= 0).long()}


def _sources(site: str) -> list[str]:
    """Returns the recorded sites from which `site` is computed."""
    if not site.endswith(".scores"):
        return [site]
    return [site.replace(".scores", f".{part}") for part in ("q", "k")]


def modules_of(model: Model, site: str) -> tuple[list[torch.nn.Module], str]:
    if site in _OUTSIDE:
        path, end = _OUTSIDE[site]
        return [model.get_submodule(path)], end
    stack, name = site.split(".", 1)
    path, end = _LAYER[stack][name]
    return [
        layer.get_submodule(path) for layer in model.get_submodule(f"model.{stack}.layers")
    ], end


@contextlib.contextmanager
def _record(model: Model, sites: list[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    outputs: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    with contextlib.ExitStack() as hooks:
        for site in sites:
            modules, end = modules_of(model, site)
            for module in modules:
                handle = module.register_forward_hook(
                    functools.partial(_ENDS[end], outputs[site]), with_kwargs=True
                )
                hooks.callback(handle.remove)
        yield outputs
        for site in sites:
            assert len(outputs[site]) == len(modules_of(model, site)[0]), (
                f"{site}: hooks fired {len(outputs[site])} times"
            )


def _record_input(
    to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: object
) -> None:
    to.append(args[0] if args else kwargs["hidden_states"])


def _record_output(
    to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: object
) -> None:
    to.append(out[0] if isinstance(out, tuple) else out)


def _record_pattern(
    to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: tuple
) -> None:
    assert out[1] is not None, 'attention patterns need attn_implementation="eager"'
    to.append(out[1])


_ENDS: dict[str, Callable] = {
    "in": _record_input,
    "out": _record_output,
    "pattern": _record_pattern,
}


def _value(model: Model, site: str, outputs: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    if site.endswith(".scores"):
        return _scores(
            *(_value(model, source, outputs) for source in _sources(site)),
            causal=site == "decoder.attn.scores",
        )
    value = torch.stack(outputs[site]) if site in LAYERED else outputs[site][0]
    if site in ("encoder.conv1", "encoder.conv2"):
        return value.transpose(-1, -2)
    if SITES[site][-2:] == ("H", "Dh"):
        heads = (
            model.config.encoder_attention_heads
            if site.startswith("encoder")
            else model.config.decoder_attention_heads
        )
        return value.unflatten(-1, (heads, -1))
    return value


def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool) -> torch.Tensor:
    q = q * q.shape[-1] ** -0.5
    scores = torch.matmul(q.transpose(-2, -3), k.transpose(-2, -3).transpose(-1, -2))
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores


def scaled_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Returns the largest difference, in units of max(1, max|reference|), over finite references.

    Raises:
        AssertionError: the shapes differ, or a value is NaN.
    """
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, f"shape {ours.shape}, reference {reference.shape}"
    if (finite := np.isfinite(reference)).all():  # indexing with a mask would copy gigabytes
        error, scale = np.max(np.abs(ours - reference)), np.max(np.abs(reference))
    else:
        error, scale = (
            np.max(np.abs(ours[finite] - reference[finite])),
            np.max(np.abs(reference[finite])),
        )
    assert np.isfinite(error), "NaN"
    return float(error / max(1.0, scale))
