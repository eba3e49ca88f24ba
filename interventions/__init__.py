"""Lenses, edits, sweeps and probes: pure transforms of a jaxasr model."""
from interventions.encoder_lens import EncoderLens as EncoderLens, encoder_lens as encoder_lens
from interventions.logit_lens import LogitLens as LogitLens, logit_lens as logit_lens
from interventions.run import Run as Run
