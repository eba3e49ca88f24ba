"""Defines the input of one pass: recordings, and the tokens that the decoder reads."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.cache import EncodedAudio, Memory
from jaxasr.language.model import AudioLanguageModel
from jaxasr.model import SpeechModel, Whisper
from jaxasr.taps import Acts, Edits, Readout

# Rows of the batch, as a slice or as indices.
Rows = slice | Int[np.ndarray, "n"]


@pytrees.dataclass(repr=False)
class Run:
    """The input of a teacher-forced pass: B recordings, and T tokens for each.

    Give either `mel` or `memory`. `encode` computes the memory once, so that many calls can use it.

    Args:
        tokens: int [B, T], prompt and text.
        mel: float [B, M, 3000] from `jaxasr.log_mel`.
        memory: the memory that `model.encode` returns.
        positions: int [B, T], the position of each token. Needed only for rows that are padded on
            the left. Padding has negative positions.
        encoded_mel: the log-mel that `memory` was encoded from. `encode` sets it.
        lengths: int [B] or a list, mel frames of each recording before its padding, for an audio
            language model. Default: no recording has padding.

    Raises:
        ValueError: `mel` and `memory` are both given or both missing, or the memory is unstacked.

    Example:
        ```python
        mel = jaxasr.log_mel(audio, asr.config.n_mels)[None]
        run = iv.Run(mel=mel, tokens=np.array([asr.tokenizer.prompt()])).encode(asr.model)
        logits, acts = run.decode(asr.model, readout=jaxasr.select("decoder.resid_post"))
        lengths = np.array([40, 29])  # mel frames of two recordings
        lm_run = iv.Run(lm_tokens, lm_mel, positions=lm_positions, lengths=lengths)
        lm_logits, _ = lm_run.decode(audio_lm)  # of an audio language model
        ```
    """

    tokens: Int[Array, "B T"]
    mel: Float[Array, "B M F"] | None = None
    memory: EncodedAudio | None = None
    positions: Int[Array, "B T"] | None = None
    encoded_mel: Float[Array, "B M F"] | None = None
    lengths: Int[Array, "B"] | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "lengths"):
            if isinstance(value := getattr(self, name), list | tuple):
                # The field must be one array. A list would be a leaf of the pytree per number.
                object.__setattr__(self, name, np.asarray(value))
        if isinstance(self.memory, Memory) and isinstance(self.memory.k, tuple):
            raise ValueError(
                "memory: expected stacked layers, got unstacked ones. Leave out unstacked=True "
                "in model.encode, or pass memory.stacked()."
            )
        if (self.mel is None) == (self.memory is None):
            present = "neither" if self.mel is None else "both"
            raise ValueError(
                f"Run: expected mel= or memory=, got {present}. "
                "Pass mel=jaxasr.log_mel(...)[None], or the memory that model.encode(mel) returns."
            )

    def __repr__(self) -> str:
        # JAX may fill the fields with objects that have no shape.
        n_rows, n_tokens = (*getattr(self.tokens, "shape", ()), "?", "?")[:2]
        padded = "" if self.positions is None else ", padded"
        if self.mel is not None:
            shape = list(getattr(self.mel, "shape", ()))
            return f"Run({n_rows} x {n_tokens} tokens{padded}, mel {shape})"
        suffix = "" if self.encoded_mel is None else " with its mel"
        return f"Run({n_rows} x {n_tokens} tokens{padded}, encoded{suffix})"

    def encode(self, model: SpeechModel) -> "Run":
        """Encodes the recordings.

        Returns:
            A run that has `memory`, and `encoded_mel` instead of `mel`. A run that is already
            encoded is returned unchanged.

        Example:
            >>> encoded = run.encode(model)
            >>> encoded.mel is None and encoded.memory is not None
            True
        """
        if self.mel is None:
            return self
        memory, _ = encode_mel(model, self.mel, self.lengths)
        return dataclasses.replace(self, memory=memory, mel=None, encoded_mel=self.mel)

    def decode(
        self, model: SpeechModel, edits: Edits | None = None, readout: Readout | None = None
    ) -> tuple[Float[Array, "B T V"], Acts]:
        """Runs the decoder on the tokens.

        Args:
            model: the model.
            edits: edits of decoder sites.
            readout: activations to return.

        Returns:
            Logits [B, T, V], and a dict of activations by site.

        Raises:
            ValueError: an edit or the readout refers to a site that the decoder lacks.

        Example:
            >>> logits, acts = run.decode(model, readout=jaxasr.select("decoder.resid_post"))
            >>> acts["decoder.resid_post"].shape[:3] == (4, *run.tokens.shape)  # [L, B, T]
            True
        """
        run = self.encode(model)
        memory = run.encoded_memory
        return model.decode(run.tokens, memory, edits, readout, positions=run.positions)

    @property
    def encoded_memory(self) -> EncodedAudio:
        """The memory. Raises ValueError for a run that is not encoded."""
        if self.memory is None:
            raise ValueError("Run: expected an encoded run; call run.encode(model) first.")
        return self.memory

    def row(self, b: int) -> "Run":
        """Returns example `b` of an encoded run. The batch axis remains, with size 1.

        Example:
            >>> run.encode(model).row(0).batch
            1
        """
        memory = self.encoded_memory
        if self.batch == 1:  # selecting the only row would copy the memory
            return dataclasses.replace(self, tokens=jnp.asarray(self.tokens), memory=memory)
        return self.rows(slice(b, b + 1))

    def rows(self, rows: Rows) -> "Run":
        """Returns the examples `rows`, in this order.

        Example:
            >>> run.rows(np.array([0, 0])).batch  # the first example twice
            2
        """
        return dataclasses.replace(
            self,
            tokens=jnp.asarray(self.tokens)[rows],
            mel=_take_rows(self.mel, rows),
            memory=None if self.memory is None else self.memory.rows(rows),
            positions=_take_rows(self.positions, rows),
            encoded_mel=_take_rows(self.encoded_mel, rows),
            lengths=_take_rows(self.lengths, rows),
        )

    @property
    def batch(self) -> int:
        """B, the number of examples."""
        return jnp.shape(self.tokens)[0]


def encode_mel(
    model: SpeechModel,
    mel: Any,
    lengths: Any = None,
    edits: Edits | None = None,
    readout: Readout | None = None,
) -> tuple[EncodedAudio, Acts]:
    """Encodes recordings as `model.encode` does, for models with and without `lengths`.

    Args:
        model: the model.
        mel: float [B, M, F], log-mel features.
        lengths: int [B], mel frames of each recording before its padding. None: `model.encode`
            receives no lengths.
        edits: edits of encoder sites.
        readout: activations to return.

    Raises:
        ValueError: a Whisper with `lengths`, or an argument that `model.encode` rejects.

    Example:
        >>> from interventions.run import encode_mel
        >>> memory, _ = encode_mel(audio_lm, lm_mel, [40, 29])
    """
    if isinstance(model, AudioLanguageModel):
        return model.encode(mel, edits, readout, lengths=lengths)
    if lengths is not None:
        raise ValueError(
            f"lengths: expected None, because a {model.config.family} encodes the padding, too; "
            f"got {lengths}. Leave out lengths."
        )
    return cast(Whisper, model).encode(mel, edits, readout)


def _take_rows(values: Any, rows: Rows) -> Array | None:
    # NumPy selects its rows before JAX copies them to a device.
    return None if values is None else jnp.asarray(values[rows])
