"""Judges which word a text has in the gap of a sentence. Homophones count as the word."""

import jiwer

from experiments.data.spoken_pairs import Pair
from interventions.generation.transcripts import words
from jaxasr.tokenizer import Tokenizer

# The word in the gap: the odd word, the fitting word, or neither of the two.
OTHER, ODD, FITTING = 0, 1, 2
# Spellings that sound alike, for the words of the sentences; one group per line.
_HOMOPHONES = """
band banned
bell belle
board bored
bread bred
buy by bye
cellar seller
chews choose
deer dear
fair fare
four for fore
hair hare
hall haul
heel heal
hole whole
key quay
knight night
knit nit
mail male
pall paul pawl
piece peace
plane plain
plains planes
pole poll
poured pored
purse perse
right write rite
road rode
sail sale
sea see
steak stake
sword soared
tail tale
tea tee
tear tier
throne thrown
veil vale
"""
_GROUPS = [frozenset(line.split()) for line in _HOMOPHONES.split("\n") if line]


def spellings(word: str) -> frozenset[str]:
    """Returns a word and its homophones, normalised.

    Example:
        >>> sorted(spellings("steak"))
        ['stake', 'steak']
    """
    alike = next((group for group in _GROUPS if word in group), frozenset({word}))
    return frozenset(words(other) for other in alike)


def outcome(text: str, pair: Pair) -> int:
    """Finds the word that a text has in the gap of a sentence.

    The words of the text are aligned with the sentence, so that errors elsewhere do not count.

    Returns:
        `ODD`, `FITTING` or `OTHER`.

    Example:
        >>> pair = Pair("He walked with a wooden {}.", "stick", "steak")
        >>> outcome("She walked with the wooden stake", pair) == ODD
        True
    """
    word = _word_in_gap(words(text), pair)
    if word in spellings(pair.target):
        return ODD
    return FITTING if word in spellings(pair.expected) else OTHER


def _word_in_gap(text: str, pair: Pair) -> str:
    before = words(pair.sentence.partition("{}")[0]).split()
    if not text:
        return ""
    reference = words(pair.sentence.format(pair.target))
    [chunks] = jiwer.process_words(reference, text).alignments
    for chunk in chunks:
        in_chunk = chunk.ref_start_idx <= len(before) < chunk.ref_end_idx
        if in_chunk and chunk.type in ("equal", "substitute"):
            return text.split()[chunk.hyp_start_idx + len(before) - chunk.ref_start_idx]
    return ""


def first_tokens(tokenizer: Tokenizer, word: str) -> set[int]:
    """Returns the tokens of a word and its homophones, those of more than one token left out."""
    texts = [text for other in spellings(word) for text in (f" {other}", f" {other.capitalize()}")]
    encoded = [tokenizer.encode(text) for text in texts]
    return {ids[0] for ids in encoded if len(ids) == 1}


def is_testable(tokenizer: Tokenizer, pair: Pair) -> bool:
    """Returns whether both words of a pair have one token each, and sound different."""
    words_of_pair = (pair.target, pair.expected)
    have_one_token = all(len(tokenizer.encode(f" {word}")) == 1 for word in words_of_pair)
    return have_one_token and spellings(pair.target).isdisjoint(spellings(pair.expected))
