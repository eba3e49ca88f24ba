"""Recordings with labels, read where they lie: manifests, LibriSpeech, Common Voice, TIMIT, Hugging Face datasets."""

from experiments.corpora.noise import with_noise as with_noise
from experiments.corpora.opening import open_corpus as open_corpus
from experiments.corpora.utterance import Corpus as Corpus, Span as Span, Utterance as Utterance
