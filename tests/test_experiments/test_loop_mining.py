"""Mining returns each loop once, at most three of one source, and never searches twice."""

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from experiments.data.corpora import Corpus, Utterance, open_corpus
from experiments.item_cache import ItemCache
from experiments.studies.loops import mining
from experiments.studies.loops.candidates import Candidate, candidates
from jaxasr.processes import Process

# A stand-in for a model whose tokens are characters.
ASR = cast(Any, SimpleNamespace(tokenizer=SimpleNamespace(is_multilingual=False, decode=str)))
LOOP, PLAIN = [5, 6] * 8, list(range(16))
CORPUS = Corpus("x", "manifest", (Utterance("a", Path("a")),))


def candidate(
    name: str,
    source: str,
    *,
    seed: int | None = None,
    period: int = 0,
    origin: str = "unmodified",
    kind: str = "",
) -> Candidate:
    """Makes an input of 2 s of noise, which repeats after `period` samples."""
    seed = sum(map(ord, name)) if seed is None else seed
    noise = np.random.default_rng(seed).normal(0, 0.1, 32_000).astype(np.float32)
    samples = np.resize(noise[:period], 32_000) if period else noise
    labels = {"source": source, "origin": origin, "recipe": name, "kind": kind or name}
    return Candidate(Utterance(name, Path(name), labels=labels, read=lambda: samples))


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """Returns a function that mines planted inputs. Names that begin with "loop" loop."""
    transcribed: Counter[str] = Counter()

    def transcribe(asr, item):
        transcribed[item.clip.id] += 1
        ids = LOOP if item.clip.id.startswith("loop") else PLAIN
        return {"prompt": np.array([1, 2]), "ids": np.array(ids)}

    def stick(asr, audio, prompt, max_new_tokens):
        return {"survives_padding": 1.0, "survives_noise": float(audio[0] > 0)}

    monkeypatch.setattr(mining, "_transcribe", transcribe)
    monkeypatch.setattr(mining, "stickiness", stick)
    monkeypatch.setattr(mining, "describe_weights", lambda asr: "planted")
    monkeypatch.setattr(mining, "cache_dir", lambda: tmp_path / "user")

    def run(*inputs: Candidate, n=99, tries=99, max_new_tokens=64, process=None):
        monkeypatch.setattr(mining, "candidates", lambda corpus, multilingual: list(inputs))
        cache = ItemCache(tmp_path / "study", process=process)
        return mining.mine_loops(ASR, CORPUS, n, tries, cache, max_new_tokens)

    run.transcribed = transcribed  # pyright: ignore[reportFunctionMemberAccess]
    return run


def ids_of(loops: list[Utterance]) -> list[str]:
    return [clip.id for clip in loops]


def test_only_loops_are_returned_in_the_order_of_the_inputs(mine):
    inputs = [candidate(name, name) for name in ("loop1", "fine", "loop2", "loop3")]
    assert ids_of(mine(*inputs)) == ["loop1", "loop2", "loop3"]
    assert ids_of(mine(*inputs, n=2)) == ["loop1", "loop2"]
    assert ids_of(mine(*inputs, tries=3)) == ["loop1", "loop2"]
    assert ids_of(mine(*inputs, tries=0)) == []


def test_at_most_three_loops_come_from_one_source(mine):
    inputs = [candidate(f"loop{i}", "ann") for i in range(5)] + [candidate("loop-bob", "bob")]
    assert ids_of(mine(*inputs)) == ["loop0", "loop1", "loop2", "loop-bob"]


def test_equal_audio_with_an_equal_prompt_is_one_loop(mine):
    first, copy = candidate("loop1", "ann", seed=1), candidate("loop2", "bob", seed=1)
    assert ids_of(mine(first, copy)) == ["loop1"]
    other_prompt = dataclasses.replace(copy, line="Thanks.")
    assert ids_of(mine(first, other_prompt)) == ["loop1", "loop2"]


def test_periodic_audio_is_no_hallucination(mine):
    assert ids_of(mine(candidate("loop1", "a", period=8_000), candidate("loop2", "b"))) == ["loop2"]


def test_the_loop_must_appear_within_the_tokens_of_the_study(mine):
    assert ids_of(mine(candidate("loop1", "a"), max_new_tokens=6)) == []
    assert ids_of(mine(candidate("loop1", "a"), max_new_tokens=8)) == ["loop1"]


def test_no_origin_and_no_kind_prevails_while_others_loop(mine):
    common = [candidate(f"loop{i}", f"a{i}", origin="damage", kind=f"k{i % 3}") for i in range(9)]
    rare = [candidate(f"loop-rare{i}", f"b{i}", kind="rare") for i in range(4)]
    found = mine(*common, *rare, n=6)
    assert Counter(clip.label("origin") for clip in found) == {"damage": 4, "unmodified": 2}
    assert ids_of(found)[:2] == ["loop0", "loop1"]
    # Without others, the same origin fills up the number.
    assert len(mine(*common, n=6)) == 6


def test_labels_hold_prompt_tokens_and_stickiness(mine):
    sticky, brittle = mine(candidate("loop1", "a", seed=0), candidate("loop2", "a", seed=5))
    assert sticky.samples()[0] > 0 > brittle.samples()[0]
    assert (sticky.label("sticky"), brittle.label("sticky")) == (True, False)
    assert sticky.label("prompt") == (1, 2)
    assert list(sticky.label("ids")) == LOOP
    assert mining.prompt_of(ASR, sticky) == [1, 2]
    assert (sticky.label("origin"), sticky.label("source")) == ("unmodified", "a")


def test_no_input_is_transcribed_twice_whatever_the_study_asks(mine):
    inputs = [candidate(name, name) for name in ("loop1", "fine", "loop2")]
    before = mine(*inputs)
    after = mine(*reversed(inputs), n=50, max_new_tokens=40)
    assert set(mine.transcribed.values()) == {1}
    assert ids_of(after) == ids_of(before)[::-1]


def test_several_processes_keep_results_in_the_folder_of_the_study(mine, tmp_path):
    cache = ItemCache(tmp_path / "study", process=Process(0, 2))
    assert mining.mining_cache(ASR, cache) is cache
    assert mining.mining_cache(ASR, ItemCache(tmp_path / "study")).folder != cache.folder


def test_known_loops_of_the_data_folder_are_mined_and_tested(asr, data_dir, monkeypatch, tmp_path):
    """Of four inputs that loop, the one with periodic audio is left out."""
    monkeypatch.setattr(mining, "cache_dir", lambda: tmp_path)
    names = [
        "triggers/d1439_speech_speed",
        "triggers/d1381_speech_reversed",
        "triggers/d2105_digit_repeated",
        "tts_multi/es_pangrama",
    ]
    wanted = {f"dev/{name}.flac" for name in names}
    everything = open_corpus(data_dir)
    clips = tuple(clip for clip in everything.utterances if clip.id in wanted)
    corpus = dataclasses.replace(everything, utterances=clips)
    # Inputs that are made from the four recordings are left out.
    inputs = [i for i in candidates(corpus, multilingual=False) if i.clip.id in wanted]
    monkeypatch.setattr(mining, "candidates", lambda *arguments: inputs)
    loops = mining.mine_loops(asr, corpus, 9, 9, ItemCache(tmp_path / "study"), 64)
    by_id = {clip.id: clip for clip in loops}
    assert set(by_id) == wanted - {"dev/triggers/d2105_digit_repeated.flac"}
    reverse = by_id["dev/triggers/d1381_speech_reversed.flac"]
    assert (reverse.label("origin"), reverse.label("kind")) == (
        "synthetic damage",
        "speech_reversed",
    )
    assert by_id["dev/tts_multi/es_pangrama.flac"].label("origin") == "unmodified"
    assert not by_id["dev/triggers/d1439_speech_speed.flac"].label("sticky")
