"""Checkpoints of every usual format: found, read, checked, put into the model, and written back."""
from jaxasr.weights.assemble import assemble
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError
from jaxasr.weights.resolve import read_checkpoint

__all__ = ["Checkpoint", "WeightsError", "assemble", "read_checkpoint"]
