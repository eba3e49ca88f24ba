"""Plans audio language models: encoding, reading a prompt, one decoding step, and generation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from interventions.planning.devices import PlannedDevice
from interventions.planning.report import Report
from interventions.planning.work import Work, mel_shape
from jaxasr import compiled
from jaxasr.cache import Cache, Prefix
from jaxasr.config import Config
from jaxasr.decoding import end_of_text
from jaxasr.generate import generate
from jaxasr.model import SpeechModel, full_precision
from jaxasr.session import DecodingSession
from jaxasr.weights.assemble import abstract_model

# Tokens of text in a prompt that a plan assumes, next to those of the audio.
TEXT_TOKENS = 30


def plan_encode(config: Config, device: PlannedDevice, n_windows: int = 1) -> Report:
    """Plans to encode windows of 30 s, whose padding is masked.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: windows that are encoded in one call.
    """
    config = check_shared(config, device)
    return Work(f"encode {n_windows} windows", config, device).report(
        _encode, abstract_model(config), mel_shape(config, n_windows), _ints(n_windows)
    )


def plan_generate(
    config: Config, device: PlannedDevice, n_windows: int = 1, n_tokens: int = 224
) -> Report:
    """Plans greedy generation from windows of 30 s and a prompt of text.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: windows that are decoded in one call.
        n_tokens: new tokens per window.
    """
    config = check_shared(config, device)
    prompt = np.zeros((n_windows, _prompt_size(config)), np.int32)
    eot = end_of_text(config)
    eot = config.n_vocab - 1 if eot is None else eot

    def run(model: Any, mel: Any, lengths: Any) -> None:
        prefix, _ = model.encode(mel, lengths=lengths)
        generate(model, prefix, prompt, max_new_tokens=n_tokens, eot=eot)

    work = Work(
        f"generate {n_tokens} tokens from {n_windows} windows",
        config,
        device,
        n_tokens,
        rereads=True,
        notes=(_describe_prompt(config),),
    )
    return work.report(run, abstract_model(config), mel_shape(config, n_windows), _ints(n_windows))


def plan_prefill(
    config: Config, device: PlannedDevice, n_windows: int = 1, n_tokens: int = 224
) -> Report:
    """Plans to read prompts with the audio of 30 s into a cache, which later tokens reuse.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: prompts that are read in one call.
        n_tokens: slots of the cache for new tokens.

    Example:
        >>> from interventions import planning
        >>> from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
        >>> config = AUDIO_LANGUAGE_SIZES["qwen2-audio-7b"]
        >>> report = planning.plan_prefill(config, planning.find_device("h100"))
        >>> f"{report.flops:.1e}"
        '1.0e+13'
    """
    config = check_shared(config, device)
    n_prompt = _prompt_size(config)

    def run(model: Any, tokens: Any, positions: Any, prefix: Any) -> None:
        size = n_prompt + n_tokens
        compiled.call(prefill, model, tokens, positions, prefix, size=size)

    title = f"read {n_windows} prompts into a cache of {n_prompt + n_tokens} tokens"
    tokens = _ints(n_windows, n_prompt)
    return Work(title, config, device, notes=(_describe_prompt(config),)).report(
        run, abstract_model(config), tokens, tokens, _prefix_shape(config, n_windows)
    )


def plan_step(
    config: Config, device: PlannedDevice, n_windows: int = 1, n_tokens: int = 224
) -> Report:
    """Plans one decoding step, which reads all weights and the cache of the earlier tokens.

    Args:
        config: dimensions and dtypes of the model.
        device: the planned device.
        n_windows: rows that are decoded in one call.
        n_tokens: slots of the cache for new tokens.
    """
    config = check_shared(config, device)
    model, tokens = abstract_model(config), _ints(n_windows, 1)
    size = _prompt_size(config) + n_tokens
    cache = jax.eval_shape(lambda model: _session(model, None).empty_cache(n_windows, size), model)

    def run(*arguments: Any) -> None:
        compiled.call(decoding_step, *arguments)

    title = f"one decoding step of {n_windows} rows with a cache of {size} tokens"
    return Work(title, config, device).report(
        run, model, tokens, tokens, _prefix_shape(config, n_windows), cache, _ints()
    )


def prefill(
    model: SpeechModel,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    prefix: Prefix,
    *,
    size: int,
) -> tuple[Float[Array, "B V"], Cache]:
    """Returns the logits after the last token of a prompt, and a cache with `size` slots."""
    with full_precision(model):
        session = _session(model, prefix)
        cache = session.empty_cache(len(tokens), size)
        return session.advance(tokens, positions, cache, jnp.int32(0))[:2]


def decoding_step(
    model: SpeechModel,
    tokens: Int[Array, "B 1"],
    positions: Int[Array, "B 1"],
    prefix: Prefix,
    cache: Cache,
    start: Int[Array, ""],
) -> tuple[Float[Array, "B V"], Cache]:
    """Returns the logits after one more token, and the cache with this token."""
    with full_precision(model):
        return _session(model, prefix).advance(tokens, positions, cache, start)[:2]


def check_shared(config: Config, device: PlannedDevice) -> Config:
    """Returns the configuration for the devices, which hold one model.

    Raises:
        ValueError: each of several devices holds a model.
    """
    if device.n_models > 1:
        raise ValueError(
            f"--model-axis 1: expected {device.n_devices}, the devices of {device.name}, because "
            "audio language models are planned with one model on all devices."
        )
    return device.supported(config)


def _encode(model: Any, mel: Any, lengths: Any) -> None:
    model.encode(mel, lengths=lengths)


def _session(model: SpeechModel, prefix: Any) -> DecodingSession:
    return DecodingSession(model, prefix, {}, model.decoder.blocks)


def _prompt_size(config: Config) -> int:
    return config.n_audio_tokens + TEXT_TOKENS


def _describe_prompt(config: Config) -> str:
    return f"assumes prompts of {config.n_audio_tokens} audio tokens and {TEXT_TOKENS} of text"


def _prefix_shape(config: Config, n: int) -> Prefix:
    """Returns a prefix of n windows with shapes in place of arrays."""
    shape = n, config.n_audio_tokens, config.n_text_state
    xa: Any = jax.ShapeDtypeStruct(shape, config.dtype)
    lengths: Any = _ints(n)
    return Prefix(xa, lengths)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
