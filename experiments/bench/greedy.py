"""Greedy decoding written out on the torch model: the tokens this project's `generate` must give, and how sure torch was of each."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from experiments.bench.torch_whisper import cached


@dataclasses.dataclass(frozen=True)
class Greedy:
    """`tokens` without the end-of-text; `margins` between the two likeliest logits, one for each token and one for the end."""

    tokens: list[int]
    margins: list[float]


@torch.no_grad()
def greedy(
    model: WhisperForConditionalGeneration,
    mel: np.ndarray,
    prompt: Sequence[int],
    *,
    eot: int,
    suppress: Iterable[int],
    suppress_begin: Iterable[int],
    max_new_tokens: int = 224,
) -> Greedy:
    """The likeliest tokens after `prompt` for `mel` [M, 3000], ids of `suppress` never, those of `suppress_begin` not first."""
    memory = model.model.encoder(
        torch.tensor(np.asarray(mel))[None].to(model.dtype)
    ).last_hidden_state
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    never, not_first = torch.tensor(sorted(suppress)), torch.tensor(sorted(suppress_begin))
    tokens, margins, ids = [], [], torch.tensor([list(prompt)])
    while len(tokens) < max_new_tokens:
        out = model.model.decoder(
            input_ids=ids,
            encoder_hidden_states=memory,
            use_cache=True,
            **cached(model.model.decoder, cache),
        )
        logits = model.proj_out(out.last_hidden_state[0, -1])
        logits[never] = -torch.inf
        if not tokens:
            logits[not_first] = -torch.inf
        best = torch.topk(logits, 2)
        margins.append(float(best.values[0] - best.values[1]))
        token = int(best.indices[0])
        if token == eot:
            break
        tokens.append(token)
        ids = torch.tensor([[token]])
    return Greedy(tokens, margins)
