"""Opens corpora: recordings with labels, in any of the supported layouts."""

from experiments.data.corpora.noise import with_noise as with_noise
from experiments.data.corpora.opening import join as join, open_corpus as open_corpus
from experiments.data.corpora.utterance import (
    Corpus as Corpus,
    Span as Span,
    Utterance as Utterance,
)
