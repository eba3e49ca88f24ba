"""Which recordings of a corpus a study listens to: what is spoken, in which language, evenly over the sets."""
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from numpy import ndarray

from experiments.corpora import Corpus, Utterance
from experiments.data import spread
from experiments.lens import window
from jaxasr.languages import language_code

_LANGUAGE = ("lang", "locale", "language")  # labels of the manifests, of Common Voice, of others


def language(one: Utterance) -> str:
    """The code of the language that is spoken; "" where it is not known, as for what is not speech."""
    named = next((str(one.label(name)) for name in _LANGUAGE if one.label(name)), "")
    return language_code(named.split("-")[0]) if named else ""


def spoken(
    corpus: Corpus,
    n: int,
    languages: Iterable[str] | None = None,
    *,
    labelled: bool = False,
    sets: Iterable[str] | None = None,
    at_least_s: float = 0.0,
) -> list[Utterance]:
    """At most `n` recordings of speech for each language, evenly over the corpus's sets; always the same ones.

    `languages`: all that are spoken by default. `labelled`: only those with a transcript. `sets`: only of these sets.
    `at_least_s`: none that is known to be shorter.
    """
    known = [one for one in corpus.utterances if language(one) and (one.transcript or not labelled)]
    known = [one for one in known if sets is None or one.label("set") in set(sets)]
    known = [one for one in known if float(one.label("duration_s") or at_least_s) >= at_least_s]
    wanted = dict.fromkeys(map(language, known)) if languages is None else languages
    return [one for code in wanted for one in spread([k for k in known if language(k) == code], n, lambda u: u.label("set"))]


def heard(asr: Any, wanted: Iterable[str] | None) -> list[str] | None:
    """Those of the `wanted` languages (None: all) that a model can be asked about: of an English-only one, English."""
    if asr.tokenizer.is_multilingual:
        return None if wanted is None else list(wanted)
    return ["en"]


def first_window(one: Utterance) -> Float[ndarray, "n"]:
    """The samples of a recording, its first 30 s."""
    return window(one.samples())
