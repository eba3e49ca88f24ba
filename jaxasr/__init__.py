"""Whisper in pure Flax: every activation readable, every activation editable."""
from jaxasr.cache import Memory as Memory
from jaxasr.config import SIZES as SIZES, Config as Config
from jaxasr.generate import Generation as Generation, generate as generate
from jaxasr.model import Whisper as Whisper
from jaxasr.taps import At as At, Readout as Readout, merge as merge, reduce as reduce, select as select
