"""The value at every site of `jaxasr.sites`, as the torch Whisper of `transformers` computes it.

Most sites are what enters or leaves one of its modules; the attention scores alone, which it never shows, are computed again from
the queries and keys it used, in its order of operations (queries scaled before the product).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from jaxasr.sites import LAYERED, SITES

Model = WhisperForConditionalGeneration
# site: (module, which of its ends). The layer itself is "".
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
    only: Iterable[str] = SITES,
    positions: np.ndarray | None = None,
    memory: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Runs `model` on `mel` [B, M, F] and `tokens` [B, T], and returns `{site: [L, B, ...]}` in the model's precision.

    Scores are minus infinity where the decoder's attention is masked. `only` limits the memory taken; without `tokens` there is
    no decoder. `positions` [B, T] are negative at padded tokens, which are masked.
    With `memory`, the encoder output of an earlier run, the encoder does not run again.
    """
    only = [site for site in only if tokens is not None or site.startswith("encoder.")]
    needed = [
        site for site in SITES if site in {name for wanted in only for name in _sources(wanted)}
    ]
    with torch.no_grad(), _recording(model, needed) as seen:
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
        return {site: _shaped(model, site, seen).numpy() for site in only}


def _padding(positions: np.ndarray | None) -> dict[str, torch.Tensor]:
    if positions is None:
        return {}
    where = torch.as_tensor(positions).long()
    return {"position_ids": where.clamp(min=0), "attention_mask": (where >= 0).long()}


def _sources(site: str) -> list[str]:
    """The recorded sites from which `site` is made."""
    if not site.endswith(".scores"):
        return [site]
    return [site.replace(".scores", f".{part}") for part in ("q", "k")]


def _places(model: Model, site: str) -> tuple[list[torch.nn.Module], str]:
    if site in _OUTSIDE:
        path, end = _OUTSIDE[site]
        return [model.get_submodule(path)], end
    stack, name = site.split(".", 1)
    path, end = _LAYER[stack][name]
    return [
        layer.get_submodule(path) for layer in model.get_submodule(f"model.{stack}.layers")
    ], end


@contextlib.contextmanager
def _recording(model: Model, sites: list[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    seen: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    with contextlib.ExitStack() as hooks:
        for site in sites:
            modules, end = _places(model, site)
            for module in modules:
                handle = module.register_forward_hook(
                    functools.partial(_ENDS[end], seen[site]), with_kwargs=True
                )
                hooks.callback(handle.remove)
        yield seen
        for site in sites:
            assert len(seen[site]) == len(_places(model, site)[0]), (
                f"{site}: hooks fired {len(seen[site])} times"
            )


def _enter(to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: object) -> None:
    to.append(args[0] if args else kwargs["hidden_states"])


def _leave(to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: object) -> None:
    to.append(out[0] if isinstance(out, tuple) else out)


def _attend(to: list, module: torch.nn.Module, args: tuple, kwargs: dict, out: tuple) -> None:
    assert out[1] is not None, 'attention patterns need attn_implementation="eager"'
    to.append(out[1])


_ENDS: dict[str, Callable] = {"in": _enter, "out": _leave, "pattern": _attend}


def _shaped(model: Model, site: str, seen: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    if site.endswith(".scores"):
        return _scores(
            *(_shaped(model, source, seen) for source in _sources(site)),
            causal=site == "decoder.attn.scores",
        )
    value = torch.stack(seen[site]) if site in LAYERED else seen[site][0]
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
    """Largest difference in units of max(1, max|reference|), where the reference is finite. Raises for another shape or a NaN."""
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, f"shape {ours.shape}, reference {reference.shape}"
    if (seen := np.isfinite(reference)).all():  # indexing with a mask would copy gigabytes
        error, scale = np.max(np.abs(ours - reference)), np.max(np.abs(reference))
    else:
        error, scale = np.max(np.abs(ours[seen] - reference[seen])), np.max(np.abs(reference[seen]))
    assert np.isfinite(error), "NaN"
    return float(error / max(1.0, scale))
