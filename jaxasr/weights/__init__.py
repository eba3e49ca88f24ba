"""Finds, reads, checks and saves checkpoints of Hugging Face, CTranslate2 and OpenAI."""

from jaxasr.weights.assemble import assemble
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError
from jaxasr.weights.resolve import read_checkpoint
from jaxasr.weights.saving import save

__all__ = ["Checkpoint", "WeightsError", "assemble", "read_checkpoint", "save"]
