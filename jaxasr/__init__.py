"""Runs Whisper in pure Flax, and reads or edits any of its activations."""

import importlib.metadata

from jaxasr import sites as sites
from jaxasr.alignment.words import align as align
from jaxasr.audio import load_audio as load_audio, log_mel as log_mel
from jaxasr.audio.features import n_frames as n_frames
from jaxasr.cache import Memory as Memory, Prefix as Prefix
from jaxasr.config import SIZES as SIZES, Config as Config
from jaxasr.divided_weights import divide_weights as divide_weights
from jaxasr.generate import Generation as Generation, generate as generate
from jaxasr.generated_text import GeneratedText as GeneratedText
from jaxasr.language.model import AudioLanguageModel as AudioLanguageModel
from jaxasr.language.recogniser import PromptedRecogniser as PromptedRecogniser
from jaxasr.language.tokenizer import LanguageTokenizer as LanguageTokenizer
from jaxasr.loading import load as load
from jaxasr.meshes import make_mesh as make_mesh
from jaxasr.model import SpeechModel as SpeechModel, Whisper as Whisper
from jaxasr.options import Options as Options
from jaxasr.recogniser import Recogniser as Recogniser
from jaxasr.rules import Rules as Rules, rules_for as rules_for
from jaxasr.taps import (
    At as At,
    Edit as Edit,
    Edits as Edits,
    Readout as Readout,
    merge as merge,
    reduce as reduce,
    select as select,
)
from jaxasr.tokenizer import Tokenizer as Tokenizer
from jaxasr.transcribe import detect_language as detect_language
from jaxasr.transcript import Segment as Segment, Transcript as Transcript, Word as Word
from jaxasr.weights import WeightsError as WeightsError, save as save

try:
    __version__ = importlib.metadata.version("jaxasr")
except importlib.metadata.PackageNotFoundError:  # the package is on PYTHONPATH, but not installed
    __version__ = "0+unknown"
