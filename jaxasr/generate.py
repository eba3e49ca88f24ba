"""Generates text with a KV cache. Edits act as in a teacher-forced pass."""

from collections.abc import Hashable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxasr.beam import beam_search
from jaxasr.cache import EncodedAudio
from jaxasr.decoding import Generation as Generation, LogitFilter, Request, Settings
from jaxasr.inputs import Tokens
from jaxasr.mesh_generation import generate_on_mesh
from jaxasr.model import SpeechModel
from jaxasr.sampling import sample
from jaxasr.taps import Edits, is_traced


def generate(
    model: SpeechModel,
    memory: EncodedAudio,
    prompt: Tokens,
    *,
    max_new_tokens: int,
    edits: Edits | None = None,
    rules: LogitFilter | None = None,
    temperature: float | Float[Array, ""] = 0.0,
    key: jax.Array | None = None,
    beam_size: int | None = None,
    positions: Tokens | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    unroll: bool | None = None,
    leader: Int[Array, "B"] | None = None,
    axis_name: Hashable | None = None,
    mesh: Mesh | None = None,
    recordings: int | None = None,
) -> Generation:
    """Generates tokens after `prompt`: greedily, by sampling, or by beam search.

    The function works under `jit` and `vmap`, where a batch of edits shares one memory. Elsewhere,
    the function compiles one program for each structure of its arguments (see `jaxasr.compiled`).
    `Recogniser.generate` also returns texts.

    Args:
        model: the model.
        memory: encoded audio of B rows.
        prompt: ids [B, T0]. Pad shorter rows on the left and give the padding negative `positions`.
        max_new_tokens: most tokens to generate per row.
        edits: `{site: edit}` for decoder sites. They act on the prompt and on generated tokens.
        rules: `rules(logits, tokens, n_tokens, n_prompt)` receives the logits [B, V] of the next
            token and returns constrained logits; see `jaxasr.rules_for`. None: no constraint.
        temperature: 0 for the likeliest token, above 0 for a sample.
        key: random key of the samples. None: `jax.random.key(0)`.
        beam_size: number of beams of a beam search; None: no beam search. Patience and length
            penalty are arguments of `jaxasr.beam.beam_search`.
        positions: absolute positions [B, T0]; None: 0 to T0 - 1.
        eot: id of the end-of-text. None: `config.eos`, or the id in the released vocabularies of
            Whisper. Any of several ids ends a text.
        no_speech: `(column, id)`, to return the probability of token `id` after that column of the
            prompt.
        unroll: loop over layers instead of scanning them. A loop compiles more slowly, but no step
            copies weights. None: loop over at most 12 layers, scan more.
        leader: int [B], for decoding in lock-step. Row b continues with the tokens that row
            `leader[b]` chooses; a row that leads itself decodes freely. The `logprobs` of a row are
            the log-probabilities that the row itself gives to the tokens of its leader. In
            lock-step, an edit that reads across rows, such as `interventions.edits.FromRow`, can
            patch from a second recording.
        axis_name: name of the axis of the enclosing `vmap`. With a name, generation stops when all
            mapped members have ended. Without a name, every step under `vmap` copies all caches.
        mesh: devices that divide the rows along "data", from `jaxasr.meshes.make_mesh`. Each device
            holds its rows only, so an edit cannot have one value per row. None: one device.
        recordings: rows that each device of `mesh` decodes together. None: an eighth of all rows.
            Equal numbers give the same bits on any mesh.

    Returns:
        Tokens [B, T] with T = max_new_tokens, their log-probabilities, the number of tokens of each
        row, and the no-speech probability.

    Raises:
        ValueError: more tokens than the decoder's context, unknown ids, edits that never fire, a
            leader that follows another row, or a beam search with a temperature, a leader or an
            axis name. A mesh with a leader, an axis name, a beam search or an edit that has one
            value per row. Outside of `jit` and `vmap` also logits that are not finite.

    Example:
        ```python
        prompt = np.array([asr.tokenizer.prompt()])
        out = jaxasr.generate(
            asr.model, memory, prompt, max_new_tokens=100, rules=jaxasr.rules_for(asr.tokenizer)
        )
        text = asr.tokenizer.decode(out.tokens[0, : out.lengths[0]])
        ```
    """
    settings = Settings(max_new_tokens, edits, rules, positions, eot, no_speech, unroll)
    if mesh is not None:
        if leader is not None or axis_name is not None or beam_size is not None:
            raise ValueError(
                "mesh: not defined with a leader, an axis name or a beam search. Leave these out, "
                "or leave out mesh."
            )
        return generate_on_mesh(model, memory, prompt, settings, mesh, temperature, key, recordings)
    if beam_size is None:
        request = Request.from_arguments(model, memory, prompt, settings)
        return sample(
            model, request, temperature=temperature, key=key, leader=leader, axis_name=axis_name
        )
    if leader is not None or axis_name is not None:
        raise ValueError(
            "leader, axis_name: not defined for a beam search; leave them out, or leave out "
            "beam_size."
        )
    if is_traced(temperature) or float(temperature) != 0:
        raise ValueError(
            "temperature: a beam search does not sample; expected 0 with "
            f"beam_size={beam_size}, got {temperature}."
        )
    return beam_search(model, memory, prompt, beam_size=beam_size, **vars(settings))
