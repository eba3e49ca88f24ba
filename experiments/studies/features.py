"""Computes the features that probes classify, from encoder frames and decoder states.

Axes: M mel bins, L layers, D model width, P pools (positions, or means over positions).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

import jaxasr
from experiments.analyses.generated_runs import pad_right
from experiments.analyses.lens import MAX_NEW_TOKENS, make_run
from experiments.item_cache import Arrays
from experiments.store import pools
from interventions.run import Run, encode_mel
from jaxasr import Recogniser
from jaxasr.audio import n_frames
from jaxasr.config import HOP
from jaxasr.generated_text import GeneratedText
from jaxasr.language.recogniser import PromptedRecogniser
from jaxasr.text import compression_ratio


def encoder_features(asr: Recogniser, audio: Float[np.ndarray, "n"]) -> Arrays:
    """Averages encoder activations over the frames of a recording, excluding padding.

    Args:
        asr: the model.
        audio: 16 kHz samples, at most 30 s.

    Returns:
        `mel` [M]: the mean log-mel spectrum.
        `layers` [L + 1, D]: the means of the embedding and of each layer's output.
    """
    return encode_with_features(asr, audio)[1]


def encode_with_features(asr: Recogniser, audio: Float[np.ndarray, "n"]) -> tuple[Any, Arrays]:
    """Returns the memory for the decoder, and the features of `encoder_features`, by one pass."""
    audio = audio[: asr.config.n_samples]  # all of it, unless the window is shorter than 30 s
    n, sites = n_frames(len(audio)), ("encoder.embed", "encoder.resid_post")
    mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
    # One mean, over frames 0 to n - 1.
    spans = pools.spans(("speech",), first=[0], end=[n], length=[n], whole=None)
    # An audio language model masks the padding. Mel frames have 10 ms.
    is_whisper = asr.config.audio_language is None
    lengths = None if is_whisper else np.array([-(-len(audio) // HOP)], np.int32)
    memory, acts = encode_mel(asr.model, mel[None], lengths, readout=pools.readout(spans, sites))
    return memory, {"mel": _mean_spectrum(mel, n), "layers": _stack_layers(acts, *sites)[0]}


def transcript_features(
    asr: Recogniser,
    audio: Float[np.ndarray, "n"],
    language: str = "en",
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Arrays:
    """Transcribes a recording and returns decoder states and statistics of the text.

    Decoding is greedy and without timestamps.

    Args:
        asr: a Whisper or an audio language model.
        audio: 16 kHz samples, at most 30 s.
        language: code of the spoken language.
        max_new_tokens: largest number of generated tokens. It is lowered if the prompt, these
            tokens and the end-of-text token would not fit into the decoder's context.

    Returns:
        `text`: the generated text.
        `first` [L + 1, D]: decoder embedding and layer outputs at the last token of the prompt,
        which predicts the first token of the text.
        `last` [L + 1, D]: decoder embedding and layer outputs at the end-of-text token, which
        follows the text.
        `mel` [M]: mean log-mel spectrum.
        `logprob`: mean natural-log probability per token.
        `no_speech`: probability of no speech; NaN for an audio language model, which has no token
        for it.
        `ratio`: compression ratio of the text.
        `tokens`: number of tokens of the text.
    """
    if isinstance(asr, PromptedRecogniser):
        audio = audio[: asr.config.n_samples]
        generated, states, mel = _prompted_transcript(asr, audio, language, max_new_tokens)
    else:
        prompt = asr.tokenizer.prompt(language)
        mel = jaxasr.log_mel(audio, asr.config.n_mels, asr.config.n_mel_frames)
        memory, _ = asr.model.encode(mel[None])
        # `last` is read at the end-of-text token, so one position must be left for it.
        room = asr.config.n_text_ctx - len(prompt) - 1
        generated = asr.generate(memory, prompt, max_new_tokens=min(max_new_tokens, room))
        run, _ = make_run(memory, prompt, [*generated.ids[0], asr.tokenizer.special.eot], asr)
        states = _boundary_states(asr, run, len(prompt), len(generated.ids[0]))
    [ids], [text] = generated.ids, generated.text
    return {
        **states,
        "mel": _mean_spectrum(mel, n_frames(len(audio))),
        "text": np.array(text),
        "logprob": np.asarray(generated.avg_logprob[0]),
        "no_speech": np.asarray(generated.no_speech_prob[0]),
        "ratio": np.asarray(compression_ratio(text)),
        "tokens": np.asarray(len(ids)),
    }


def _mean_spectrum(mel: Array | np.ndarray, n: int) -> Float[np.ndarray, "M"]:
    # `n` counts encoder frames. The encoder's second convolution halves the frame rate.
    return np.asarray(mel)[:, : 2 * n].mean(1)


def _prompted_transcript(
    asr: PromptedRecogniser, audio: Float[np.ndarray, "n"], language: str, max_new_tokens: int
) -> tuple[GeneratedText, Arrays, Float[np.ndarray, "M F"]]:
    """Returns the text that an audio language model generates, its states, and the log-mel."""
    inputs, config = asr.inputs([audio], language=language), asr.config
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    n_prompt = inputs.tokens.shape[1]
    # `generate` pads the prompt, and one position is left for the end-of-text token.
    room = config.n_text_ctx - asr.pad_prompts(inputs).tokens.shape[1] - 1
    generated = asr.generate(inputs, memory=memory, max_new_tokens=min(max_new_tokens, room))
    end = config.eos[0] if config.eos else asr.tokenizer.end
    # A random model may generate audio tokens, which have no audio. They are left out.
    ids = [token for token in generated.ids[0] if token != config.audio_token]
    tokens, positions = pad_right(config, [*inputs.tokens[0], *ids, end], end)
    run = Run(tokens, memory=memory, positions=positions)
    return generated, _boundary_states(asr, run, n_prompt, len(ids)), inputs.mel[0]


def _boundary_states(
    asr: Recogniser | PromptedRecogniser, run: Run, n_prompt: int, n_text: int
) -> Arrays:
    """Returns `first` and `last` of `transcript_features` for one recording."""
    n, sites = n_prompt + n_text + 1, ("decoder.embed", "decoder.resid_post")
    # The pools are two single positions: the last token of the prompt, and the end-of-text token.
    spans = pools.spans(
        (str(n_prompt - 1), "last"), first=[n_prompt], end=[n - 1], length=[n], whole=None
    )
    _, acts = run.decode(asr.model, readout=pools.readout(spans, sites))
    first, last = _stack_layers(acts, *sites)
    return {"first": first, "last": last}


def _stack_layers(
    acts: Mapping[str, Any], embedding_site: str, layer_site: str
) -> Float[np.ndarray, "P L+1 D"]:
    """Joins the pooled embedding [1, P, D] and layer outputs [L, 1, P, D] of a single row."""
    embedding, layers = np.asarray(acts[embedding_site])[0], np.asarray(acts[layer_site])[:, 0]
    return np.concatenate([embedding[:, None], layers.swapaxes(0, 1)], axis=1)
