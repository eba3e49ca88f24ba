"""What a probe is given of one recording: means of the encoder's layers, states of the decoder where it begins and ends to write."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxasr
from experiments.analyses.lens import MAX_NEW_TOKENS, reading
from experiments.item_cache import Arrays
from experiments.store import pools
from jaxasr.audio import n_frames
from jaxasr.rules import rules_for
from jaxasr.text import compression_ratio


def encoder_features(asr: Any, audio: Float[np.ndarray, "n"]) -> Arrays:
    """Means over the frames of the recording: `mel` [M], and `layers` [L + 1, D], the encoder's stem and what leaves each layer."""
    n, sites = n_frames(len(audio)), ("encoder.embed", "encoder.resid_post")
    mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
    spans = pools.spans(("speech",), [0], [n], [n], None)
    _, acts = asr.model.encode(mel[None], readout=pools.readout(spans, sites))
    return {"mel": np.asarray(mel)[:, : 2 * n].mean(1), "layers": _stacked(acts, *sites)[0]}


def written(
    asr: Any,
    audio: Float[np.ndarray, "n"],
    language: str = "en",
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Arrays:
    """What the model writes, greedily and without timestamps, and its state then.

    `text`; `first`, `last` [L + 1, D]: the decoder's embedding and what leaves each layer, where the first token is chosen and where
    the end of the text is read; `mel` [M]: mean features of the sound; and what is usually looked at: `logprob` (mean over tokens,
    natural logarithm), `no_speech` (probability), `ratio` (of compression), `tokens` (their number).
    """
    special, prompt = asr.tokenizer.special, asr.tokenizer.prompt(language)
    mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
    memory, _ = asr.model.encode(mel[None])
    quiet = (prompt.index(special.sot), special.no_speech)
    asked = {
        "max_new_tokens": max_new_tokens,
        "rules": rules_for(asr.tokenizer),
        "eot": special.eot,
        "no_speech": quiet,
    }
    out = jaxasr.generate(asr.model, memory, jnp.asarray([prompt]), **asked)
    ids = np.asarray(out.tokens)[0, : int(out.lengths[0])].tolist()
    text = asr.tokenizer.decode(ids).strip()
    return {
        **_states(asr, memory, prompt, ids),
        "mel": np.asarray(mel)[:, : 2 * n_frames(len(audio))].mean(1),
        "text": text,
        "logprob": float(out.avg_logprob[0]),
        "no_speech": float(out.no_speech_prob[0]),
        "ratio": compression_ratio(text),
        "tokens": len(ids),
    }


def _states(asr: Any, memory: Any, prompt: list[int], ids: list[int]) -> Arrays:
    run, _ = reading(memory, prompt, [*ids, asr.tokenizer.special.eot], asr)
    n, sites = len(prompt) + len(ids) + 1, ("decoder.embed", "decoder.resid_post")
    spans = pools.spans((str(len(prompt) - 1), "last"), [len(prompt)], [n - 1], [n], None)
    _, acts = asr.model.decode(
        run.tokens, memory, readout=pools.readout(spans, sites), positions=run.positions
    )
    first, last = _stacked(acts, *sites)
    return {"first": first, "last": last}


def _stacked(acts: Any, embed: str, layered: str) -> Float[np.ndarray, "P L+1 D"]:
    """Of a batch of one."""
    below, layers = np.asarray(acts[embed])[0], np.asarray(acts[layered])[:, 0]
    return np.concatenate([below[:, None], layers.swapaxes(0, 1)], axis=1)
