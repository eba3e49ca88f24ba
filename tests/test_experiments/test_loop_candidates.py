"""Inputs are labelled with what made them, alternate between origins, and are always the same."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.studies.loops import changes
from experiments.studies.loops.candidates import DETECT, candidates
from experiments.studies.loops.known import known_loops
from experiments.studies.loops.sources import CHANNEL, DAMAGE, ORIGINS, UNMODIFIED
from experiments.studies.nonspeech import source_of
from experiments.studies.reproduce import builtin

SECONDS = 8.0


def clip(name: str, speaker: str = "", transcript: str = "", **labels: object) -> Utterance:
    noise = np.random.default_rng(len(name)).normal(0, 0.1, round(SECONDS * 16_000))
    return Utterance(
        name,
        Path(name),
        speaker=speaker,
        transcript=transcript,
        labels={"set": "s", "duration_s": SECONDS, **labels},
        read=lambda: noise.astype(np.float32),
    )


CORPUS = Corpus(
    "planted",
    "manifest",
    (
        *(clip(f"en{i}", f"ann{i % 3}", "words", lang="en") for i in range(18)),
        *(clip(f"de{i}", f"uli{i}", "Worte", lang="de") for i in range(3)),
        *(clip(f"rain{i}", noise_class="rain", freesound_id=f"{i}") for i in range(3)),
        clip("cry", noise_class="baby cry"),
        clip("children", noise_class="playing", voice=True),
        clip("digits", "bob", "one one", lang="en", speech_kind="isolated digit"),
        clip("chorus", "bob", "la la", lang="de", audio_periodic=True),
        clip("long", "eva", "Worte", lang="de", duration_s=65.0),
    ),
)


def by_kind(multilingual: bool) -> dict[str, list]:
    kinds: dict[str, list] = {}
    for item in candidates(CORPUS, multilingual):
        kinds.setdefault(item.clip.label("kind"), []).append(item)
    return kinds


def test_origins_alternate_and_the_list_is_always_the_same():
    items = candidates(CORPUS, multilingual=True)
    assert [item.clip.label("origin") for item in items[:12]] == [*ORIGINS] * 4
    ids = [item.clip.id for item in items]
    assert len(set(ids)) == len(ids)
    assert ids == [item.clip.id for item in candidates(CORPUS, multilingual=True)]


def test_unmodified_inputs_are_recordings_with_their_labels():
    kinds = by_kind(multilingual=False)
    assert {item.clip.id for item in kinds["foreign"]} == {"de0", "de1", "de2", "long"}
    assert {item.clip.id for item in kinds["non-speech"]} == {"rain0", "rain1", "rain2"}
    [second] = [item.clip for item in kinds["non-speech"] if item.clip.id == "rain1"]
    assert second.label("source") == "freesound 1"
    assert (second.samples() == CORPUS.utterances[22].samples()).all()


def test_recordings_whose_words_may_repeat_make_no_input():
    used = {item.clip.id.split("|")[0] for item in candidates(CORPUS, multilingual=True)}
    assert used.isdisjoint({"cry", "children", "digits", "chorus"})


def test_windows_after_the_first_are_inputs():
    assert [item.clip.id for item in by_kind(False)["later window"]] == [
        "long|later window, from 30 s",
        "long|later window, from 60 s",
    ]


def test_only_multilingual_models_get_wrong_languages_and_detect_them():
    assert {"wrong language", "non-speech, language detected"}.isdisjoint(by_kind(False))
    kinds = by_kind(multilingual=True)
    wrong = kinds["wrong language"]
    assert all(item.language not in ("", "de") for item in wrong)
    assert len({(item.clip.label("source"), item.language) for item in wrong}) == len(wrong)
    assert all(item.language == DETECT for item in kinds["non-speech, language detected"])


def test_transcripts_remain_only_if_the_model_can_write_the_words():
    english, all_languages = by_kind(multilingual=False), by_kind(multilingual=True)
    assert {item.clip.transcript for item in english["foreign"]} == {""}
    assert {item.clip.transcript for item in all_languages["foreign"]} == {"Worte"}
    assert {item.clip.transcript for item in english["reversed"]} == {""}
    assert {item.clip.transcript for item in english["overlapping speakers"]} == {""}


def test_changes_are_applied_and_named():
    kinds = by_kind(multilingual=False)
    [reverse] = [item.clip for item in kinds["reversed"] if item.clip.id == "en0|reversed"]
    assert (reverse.samples() == CORPUS.utterances[0].samples()[::-1]).all()
    assert (reverse.label("origin"), reverse.label("source")) == (DAMAGE, "ann0")
    faster = kinds["faster"][0].clip
    assert len(faster.samples()) == int(SECONDS * 16_000 / 1.3)
    assert (faster.label("recipe"), faster.label("origin")) == ("faster, factor 1.3", CHANNEL)
    overlap = kinds["overlapping speakers"][0].clip
    assert len(overlap.samples()) == 6 * 16_000


def test_previous_text_comes_from_the_window_before_or_from_a_loop():
    kinds = by_kind(multilingual=False)
    continued = kinds["after previous text"][0]
    # 6 recordings of 8 s with gaps of 0.3 s: the second window has the rest.
    assert len(continued.previous.samples()) == 480_000
    assert 0 < len(continued.clip.samples()) < 480_000
    assert {item.line for item in kinds["after a loop"]} >= {" No,", " Oh,"}


def test_two_files_of_one_recording_are_one_source():
    wide, narrow = (clip(f"es-ES_{band}_sample1.flac") for band in ("Broadband", "Narrowband"))
    assert source_of(wide) == source_of(narrow) != source_of(clip("es-ES_Broadband_sample2.flac"))
    assert source_of(clip("a", "ann")) == source_of(clip("b", "ann"))


def test_the_built_in_recordings_make_inputs():
    counts = Counter(item.clip.label("origin") for item in candidates(builtin(), False))
    assert counts[CHANNEL] > 40
    assert counts[DAMAGE] > 20


def test_known_loops_of_the_data_folder_are_labelled(data_dir):
    clips = {clip.id: clip for clip in known_loops(open_corpus(data_dir))}
    assert len(clips) == 46 + 1
    origins = {
        "d0004_nonspeech": UNMODIFIED,
        "d2780_foreign": UNMODIFIED,
        "d0674_speech_noise": CHANNEL,
        "d2636_babble": CHANNEL,
        "d2796_foreign_cut": CHANNEL,
        "d1655_speech_filtered": DAMAGE,
        "d1309_speech_reversed": DAMAGE,
    }
    for name, origin in origins.items():
        assert clips[f"dev/triggers/{name}.flac"].label("origin") == origin
    assert clips["dev/triggers/d2636_babble.flac"].label("source") == "ls1841"
    assert clips["dev/triggers/d0775_speech_noise.flac"].transcript


@pytest.mark.parametrize("length", [16_000, 48_000])
def test_repeated_audio_is_periodic_and_other_audio_is_not(length):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, length).astype(np.float32)
    assert not changes.is_periodic(noise)
    assert not changes.is_periodic(np.zeros(length, np.float32))
    assert changes.is_periodic(np.resize(noise[:6_000], length))
    nearly = np.resize(noise[:6_000], length) + rng.normal(0, 0.01, length)
    assert changes.is_periodic(nearly.astype(np.float32))
