"""Whisper in pure Flax: every activation readable, every activation editable."""

from jaxasr.audio import load_audio as load_audio, log_mel as log_mel
from jaxasr.cache import Memory as Memory
from jaxasr.config import SIZES as SIZES, Config as Config
from jaxasr.generate import Generation as Generation, generate as generate
from jaxasr.generated_text import GeneratedText as GeneratedText
from jaxasr.model import Whisper as Whisper
from jaxasr.recogniser import Recogniser as Recogniser, load as load
from jaxasr.taps import (
    At as At,
    Readout as Readout,
    merge as merge,
    reduce as reduce,
    select as select,
)
from jaxasr.tokenizer import Tokenizer as Tokenizer
from jaxasr.weights import WeightsError as WeightsError, save as save
