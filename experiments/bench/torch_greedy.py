"""Generates tokens greedily with torch, as the reference for `jaxasr.generate`."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from experiments.bench.torch_whisper import cache_argument


@dataclasses.dataclass(frozen=True)
class Greedy:
    """A greedily generated text.

    Attributes:
        tokens: token ids without the end-of-text.
        margins: difference between the two largest logits at each step, including the step that
            generates the end-of-text.
    """

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
    """Generates the most probable token at each step.

    Args:
        model: a torch model.
        mel: log-mel features [M, 3000] of one recording.
        prompt: token ids before the text.
        eot: id of the end-of-text.
        suppress: ids that are suppressed at every step.
        suppress_begin: ids that are suppressed at the first step.
        max_new_tokens: largest number of tokens to generate.
    """
    xa = model.model.encoder(torch.tensor(np.asarray(mel))[None].to(model.dtype)).last_hidden_state
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    suppressed, suppressed_first = (
        torch.tensor(sorted(suppress)),
        torch.tensor(sorted(suppress_begin)),
    )
    tokens, margins, ids = [], [], torch.tensor([list(prompt)])
    while len(tokens) < max_new_tokens:
        out = model.model.decoder(
            input_ids=ids,
            encoder_hidden_states=xa,
            use_cache=True,
            **cache_argument(model.model.decoder, cache),
        )
        logits = model.proj_out(out.last_hidden_state[0, -1])
        logits[suppressed] = -torch.inf
        if not tokens:
            logits[suppressed_first] = -torch.inf
        best = torch.topk(logits, 2)  # two, for the margin
        margins.append(float(best.values[0] - best.values[1]))
        token = int(best.indices[0])
        if token == eot:
            break
        tokens.append(token)
        ids = torch.tensor([[token]])  # the cache has all earlier tokens
    return Greedy(tokens, margins)
