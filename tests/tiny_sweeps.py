"""Makes two runs of the tiny model, and holds the settings that all sweeps of them share."""

import jax

import interventions as iv
import jaxasr

# WINDOW is in frames. SCORED_POSITION is the position whose logits the metric reads.
WINDOW, SCORED_POSITION, N_TOKENS = 4, -2, 7
METRIC = iv.logit_diff(3, 5, position=SCORED_POSITION)


def target_and_source(model: jaxasr.Whisper) -> tuple[iv.Run, iv.Run]:
    """Returns two runs of two recordings each, with the same tokens."""
    c = model.config
    mels = jax.random.normal(jax.random.key(1), (2, 2, c.n_mels, 2 * c.n_audio_ctx))
    tokens = jax.random.randint(jax.random.key(2), (2, N_TOKENS), 0, c.n_vocab)
    return iv.Run(mel=mels[0], tokens=tokens), iv.Run(mel=mels[1], tokens=tokens)
