"""`jaxasr loops` finds planted heads, leaves out recordings that do not loop, and resumes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from four_layers import FOUR_LAYERS
from html_outline import CHROMIUM, Outline, open_in_browser
from small_speech import tone, write
from typer.testing import CliRunner

from experiments import cli
from experiments.studies import loop_patches
from experiments.studies.ablation import COMPONENT_SITES, HEAD_SITES, RANDOM_KINDS, TEXT_MEASURES
from experiments.studies.claims import CONTRADICTED, UNDECIDED, UNTESTABLE
from experiments.studies.loop_ranking import recordings as ranked_recordings, run as ranking_run
from experiments.studies.loop_ranking.page import format_points, format_share
from interventions.edits import site_cells
from interventions.generation.transcripts import is_loop

SITES = (*COMPONENT_SITES, *HEAD_SITES)
CELLS = site_cells(FOUR_LAYERS, SITES)
N_LOOPS, N_CLEAN = 30, 40  # of speakers of their own
EMPTY, FLUENT, LOOP = [], [*range(20, 40)], [1, 2] * 24
call = CliRunner().invoke


def cell(site: str, layer: int, head: int = -1) -> int:
    matches = (CELLS["site"] == SITES.index(site)) & (CELLS["layer"] == layer)
    [index] = np.flatnonzero(matches & (CELLS["head"] == head))
    return int(index)


# This head resolves five loops in six and costs nothing. This layer does too, and damages speech.
HEAD, LAYER = cell(HEAD_SITES[0], 2, 1), cell(COMPONENT_SITES[0], 2)


class Planted:
    """Replaces the model. Other parts than `HEAD` and `LAYER` resolve one loop in ten.

    Attributes:
        patched: kind and name of the recording of each call.
        stop_after: number of calls after which Ctrl-C is pressed.
    """

    def __init__(self) -> None:
        self.patched: list[tuple[str, str]] = []
        self.stop_after = np.inf
        self.tokenizer = SimpleNamespace(
            is_multilingual=False,
            decode=lambda ids: " ".join(f"word{id_}" for id_ in ids),
            prompt=lambda code, previous=None: [7, 8] if previous else [7],
        )
        self.config = FOUR_LAYERS
        self.prompts: dict[str, list[int]] = {}

    def generate_ids(self, asr, clip, max_new_tokens):
        name = str(clip.label("name"))
        self.prompts[name] = list(clip.label("prompt") or [7])
        kinds = {"loop": LOOP, "silent": EMPTY}
        return np.array(kinds.get(name.split("-")[0], FLUENT)[:max_new_tokens], int)

    def ablate(self, asr, clip, sites, kind, max_new_tokens, seed, means, cells=None):
        if len(self.patched) >= self.stop_after:
            raise KeyboardInterrupt
        self.patched.append((kind, str(clip.label("name"))))
        index = np.arange(len(CELLS["site"])) if cells is None else np.array(cells)
        name, number = str(clip.label("name")).split("-")
        resolved = np.random.default_rng(int(number)).random(len(CELLS["site"])) < 0.1
        if kind not in RANDOM_KINDS:
            resolved[[HEAD, LAYER]] = int(number) % 6 > 0
        harmed = (np.arange(len(resolved)) == LAYER) & (name == "clean")
        unpatched = "round and round" if name == "loop" else "plain words"
        loops = (name == "loop") & ~resolved
        texts = np.where(loops, unpatched, "new words") if name == "loop" else unpatched
        texts = np.where(harmed, "damaged", texts)
        values = {measure: np.zeros(len(index)) for measure in TEXT_MEASURES}
        values |= {"loop": loops[index].astype(float), "wer": harmed[index].astype(float)}
        values |= {"length": np.full(len(index), 9.0), "text": texts[index]}
        values["cer"] = np.full(len(index), np.nan)
        baseline = {f"baseline_{measure}": 0.0 for measure in TEXT_MEASURES}
        baseline |= {"baseline_cer": np.nan, "baseline_loop": float(name == "loop")}
        baseline["baseline_wer"] = 0.0 if clip.transcript else np.nan
        values["wer"] = values["wer"] if clip.transcript else values["wer"] * np.nan
        unchanged = np.zeros(len(index))
        return {**values, **baseline, "baseline_text": unpatched, "unchanged": unchanged}


@pytest.fixture
def planted(drawing, monkeypatch) -> Planted:
    """Replaces the model and the figures, which take most of the time."""
    monkeypatch.setattr(ranking_run, "draw_maps", lambda *_: None)
    monkeypatch.setattr(ranking_run, "draw_parts", lambda *_: None)
    monkeypatch.setattr(ranking_run, "png", lambda _: b"")
    return drawing


@pytest.fixture
def drawing(monkeypatch) -> Planted:
    """Replaces the model."""
    model = Planted()
    weights = {"name": "planted", "sha256": "0"}
    monkeypatch.setattr("experiments.runtime.load_whisper", lambda *_: model)
    monkeypatch.setattr("experiments.runtime.start", lambda *_: None)
    monkeypatch.setattr(ranking_run, "describe_weights", lambda asr: weights)
    monkeypatch.setattr(ranking_run, "mean_edits", lambda asr, clips, sites: {})
    monkeypatch.setattr(ranked_recordings, "generate_ids", model.generate_ids)
    monkeypatch.setattr(loop_patches, "ablate", model.ablate)
    return model


def write_manifest(folder: Path, name: str, n: int, extra: tuple[dict, ...] = ()) -> Path:
    """Writes `n` recordings of speakers of their own, and further rows, and their manifest."""
    rows = [
        {"path": f"{name}-{i}.wav", "id": f"{name}-{i}", "speaker": f"{name} {i}"} for i in range(n)
    ]
    rows = [row | {"transcript": "plain words"} if name == "clean" else row for row in rows]
    for i, row in enumerate([*rows, *extra]):
        if "broken" not in row["path"]:
            write(folder / row["path"], tone(200 + 10 * i, 0.1, i))
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *extra]))
    return manifest


def rank(folder: Path, n_loops: int, n_clean: int, *options: str, **extra: tuple[dict, ...]):
    loops = write_manifest(folder, "loop", n_loops, extra.get("loops", ()))
    clean = write_manifest(folder, "clean", n_clean, extra.get("clean", ()))
    arguments = [str(loops), "--clean", str(clean), "--out", str(folder / "out"), *options]
    return call(cli.app, ["loops", *arguments])


def result_of(folder: Path, *arguments, **extra) -> dict:
    done = rank(folder, *arguments, **extra)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "out/result.json").read_text())


def test_planted_parts_are_found_with_their_cost(planted, tmp_path):
    result = result_of(tmp_path, N_LOOPS, N_CLEAN)
    assert result["why_undivided"] == ""
    assert result["chosen_with"] + result["judged_with"] == N_LOOPS
    for kind, ranked in result["ranking"].items():
        head, layer = ranked["heads"][0], ranked["layers"][0]
        assert (head["name"], layer["name"]) == ("cross head 2.1", "cross-attention 2")
        assert head["resolved"]["low"] > 0.4
        assert head["resolved"]["counts"][1] == result["judged_with"]
        # Forty recordings without a change cannot exclude a cost of two words in a hundred.
        assert (head["cost"]["verdict"], layer["cost"]["verdict"]) == (UNDECIDED, CONTRADICTED)
        assert head["cost"]["changed"]["counts"] == [0, result["clean"]["n"]]
        assert layer["cost"]["changed"]["value"] == 1
        assert (head["beyond_control"] is not None) == (kind == "noise")
    noise = result["ranking"]["noise"]["heads"][0]
    assert noise["control"]["value"] < 0.4
    assert noise["beyond_control"]["low"] > 0
    texts = dict(zip(noise["resolves"], noise["texts"]))
    assert texts == {True: "new words", False: "round and round"}


def test_without_enough_loops_all_of_them_choose_and_judge(planted, tmp_path):
    result = result_of(tmp_path, 8, 6)
    assert "8 independent sources of loops are too few" in result["why_undivided"]
    assert result["chosen_with"] == result["judged_with"] == 8
    ranked = result["ranking"]["zero"]
    assert ranked["heads"][0]["chosen_with"] is None
    assert ranked["p"]["heads"] < 0.05  # six of eight loops at one of 24 heads
    assert ranked["heads"][0]["cost"]["verdict"] == UNTESTABLE  # five speakers


def test_equal_parts_have_no_significant_best(planted, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "HEAD", 0)
    monkeypatch.setitem(globals(), "LAYER", 0)
    result = result_of(tmp_path, 9, 6, "--seed", "1")
    assert result["ranking"]["noise"]["p"]["heads"] > 0.05


def test_recordings_that_do_not_fit_are_named(planted, tmp_path):
    loops = ({"path": "fluent-0.wav", "id": "fluent-0"}, {"path": "broken-0.wav", "id": "broken-0"})
    clean = ({"path": "loop-99.wav", "id": "loop-99"}, {"path": "silent-0.wav", "id": "silent-0"})
    done = rank(tmp_path, 3, 4, loops=loops, clean=clean)
    assert done.exit_code == 0, done.output
    assert "left out fluent-0: does not loop in the first 64 tokens" in done.stdout
    assert "left out broken-0: cannot be read" in done.stdout
    assert "left out loop-99: loops without a patch" in done.stdout
    assert "left out silent-0: gets no words" in done.stdout
    assert {name for _, name in planted.patched} == {
        *(f"loop-{i}" for i in range(3)),
        *(f"clean-{i}" for i in range(4)),
    }


def test_previous_text_precedes_the_prompt(planted, tmp_path):
    row = {"path": "loop-50.wav", "id": "loop-50", "previous": "no, no, no", "prompt": "ignored"}
    result_of(tmp_path, 2, 4, loops=(row,))
    assert planted.prompts["loop-50"] == [7, 8]
    assert planted.prompts["loop-0"] == [7]


def test_a_second_run_continues_the_first(planted, tmp_path):
    planted.stop_after = 5
    done = rank(tmp_path, 4, 5)
    assert done.exit_code == 130
    assert "run the same command again to continue" in done.stderr
    assert not (tmp_path / "out/result.json").exists()
    first, planted.stop_after = list(planted.patched), np.inf
    resumed = result_of(tmp_path, 4, 5)
    assert not set(first) & set(planted.patched[5:])
    again = result_of(tmp_path, 4, 5)
    assert again["ranking"] == resumed["ranking"]
    # Another recording keeps the texts of the others; only controls of other heads are new.
    n = len(planted.patched)
    done = rank(tmp_path, 5, 5, "--overwrite")
    assert done.exit_code == 0, done.output
    full = [(kind, name) for kind, name in planted.patched[n:] if kind not in RANDOM_KINDS]
    assert {name for kind, name in full if name.startswith("loop")} == {"loop-4"}


def test_quick_uses_white_noise_and_few_recordings(planted, tmp_path):
    result = result_of(tmp_path, 9, 30, "--quick")
    assert list(result["ranking"]) == ["noise"]
    assert (len(result["loops"]), result["clean"]["n"]) == (6, 12)


def test_without_transcripts_only_changed_texts_are_counted(planted, tmp_path):
    loops = write_manifest(tmp_path, "loop", 3)
    clean = write_manifest(tmp_path, "clean", 12)
    rows = [json.loads(line) | {"transcript": ""} for line in clean.read_text().splitlines()]
    clean.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["--out", str(tmp_path / "out")]
    done = call(cli.app, ["loops", str(loops), "--clean", str(clean), *out])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out/result.json").read_text())
    cost = result["ranking"]["zero"]["layers"][0]["cost"]
    assert cost["verdict"] == UNTESTABLE
    assert cost["changed"]["value"] == 1


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_shows_the_ranking_in_a_browser(drawing, tmp_path):
    loops = ({"path": "fluent-0.wav", "id": "fluent-<0>"},)
    result_of(tmp_path, 8, 12, loops=loops)
    page = tmp_path / "out/index.html"
    outline = Outline(page.read_text())
    assert [text for _, text in outline.of("h2")][:3] == [
        f"Patch: {title}" for title in ("white noise", "zero", "mean over clean speech")
    ]
    assert "<0>" not in page.read_text()
    dom = open_in_browser(page, tmp_path)
    assert "cross head 2.1" in dom
    assert "Too few loops" in dom


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.jsonl", "--clean", "clean.jsonl"], "MANIFEST missing.jsonl: corpus: found noth"),
        (["loop.jsonl", "--clean", "missing.jsonl"], "--clean missing.jsonl: corpus: found no"),
        (["clean.jsonl", "--clean", "clean.jsonl"], "clean.jsonl: expected recordings that make"),
        (["loop.jsonl", "--clean", "loop.jsonl"], "--clean loop.jsonl: expected at least two"),
        (["loop.jsonl", "--clean", "clean.jsonl", "--tokens", "40"], "--tokens"),
    ],
)
def test_errors_name_the_argument(planted, tmp_path, monkeypatch, options, message):
    write_manifest(tmp_path, "loop", 2)
    write_manifest(tmp_path, "clean", 3)
    monkeypatch.chdir(tmp_path)
    done = call(cli.app, ["loops", *options, "--out", "out"])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out/index.html").exists()


def test_numbers_are_formatted_with_their_intervals():
    share = {"value": 1 / 3, "low": None, "high": None}
    assert format_share(None) == format_points(None) == ""
    assert format_share(share) == "33 %, no interval"
    assert format_points({"value": -0.0001, "low": -0.02, "high": 0.01}) == "+0.0 [-2.0, +1.0]"
    assert format_points({"value": None, "low": None, "high": None}) == "not measured"
    assert is_loop(LOOP)
    assert not is_loop(FLUENT)
