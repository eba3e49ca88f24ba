"""A lens page of invented values, for tests without a model."""

import numpy as np

from experiments.pages.lens_page import EncoderRow, LensPage, LogitTable
from experiments.pages.signs import Signs
from jaxasr.transcript import Word

TOKENS = (" a", " <script>alert(1)</script>", "\n", " b&", "")
ENCODER = (
    EncoderRow("", -3.0, "empty"),
    EncoderRow("oh no " * 99, -1.0, "loop"),
    EncoderRow("</script><img src=x>", -0.1, "correct"),
)
SECONDS, LAYERS, CANDIDATES = 1.3, 3, 2


def fake_table(tokens=TOKENS, layers=LAYERS, candidates=CANDIDATES) -> LogitTable:
    rng = np.random.default_rng(0)
    edges = np.linspace(0, SECONDS, len(tokens) + 1)
    times = np.stack([edges[:-1], edges[1:]], axis=1)
    times[-1:] = np.nan
    saturation = np.arange(len(tokens)) % layers
    rank = np.where(np.arange(layers)[:, None] < saturation, 7, 0)
    texts = tuple(
        tuple(
            (tokens[t] if rank[layer, t] == 0 else " other", " second") for t in range(len(tokens))
        )
        for layer in range(layers)
    )
    logprobs = -np.sort(rng.exponential(size=(layers, len(tokens), candidates)), axis=-1)
    return LogitTable(
        tokens,
        times,
        texts,
        logprobs,
        rank,
        np.where(rank == 0, logprobs[..., 0], -9.0),
        saturation,
    )


def fake_page(**changes) -> LensPage:
    rng = np.random.default_rng(1)
    fields = {
        "model": "tiny.en",
        "source": "<b>name</b>.flac",
        "text": "a <script>alert(1)</script> \"b\" & 'c'",
        "language": "de",
        "audio": rng.uniform(-0.5, 0.5, int(SECONDS * 16_000)).astype(np.float32),
        "mel": rng.normal(size=(80, 130)).astype(np.float32),
        "logit": fake_table(),
        "encoder": ENCODER,
        "words": (Word(" a", 0.0, 0.4, 0.9, (1,)), Word(" <script>", 0.4, 0.8, 0.2, (2, 3))),
        "signs": Signs(
            "<b>oh</b> no",
            12,
            compression_ratio=9.5,
            no_speech_prob=0.9,
            avg_logprob=-1.2,
            silent=True,
            ended=False,
            peak=0.5,
        ),
        "provenance": {"command": "jaxasr lens '<i>.flac'", "versions": {"jax": "1"}},
    }
    return LensPage(**(fields | changes))
