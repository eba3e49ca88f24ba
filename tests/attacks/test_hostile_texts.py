"""Texts of recordings, manifests and models are displayed, and never act as code or control."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_page import TOKENS, fake_page, fake_table
from html_outline import Outline
from small_speech import small_recogniser, tone, write
from typer.testing import CliRunner

from attacks.texts import HOSTILE, NAME, control_characters
from experiments import cli, runtime
from experiments.commands import errors, transcribe
from experiments.pages import lens_page, terminal
from experiments.progress import Progress
from experiments.studies import study_page
from interventions.probes import Bank
from interventions.storage.text_files import write_json, write_text

ALL_HOSTILE = "".join(HOSTILE.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a corpus with hostile names, labels and ids, and two missing recordings."""
    root, rows = tmp_path_factory.mktemp("corpus"), []
    for i in range(12):
        name = f"{i}{NAME if i < 2 else ''}[b].wav"
        write(root / "clip.wav", tone(300 + i if i % 2 else 2000 + 10 * i, 0.2, i)).rename(
            root / name
        )
        rows.append(
            {
                "path": name,
                "pitch": f"low{ALL_HOSTILE}" if i % 2 else f"high{ALL_HOSTILE}",
                "id": f"{i}{ALL_HOSTILE}",
                "speaker": f"{i}{ALL_HOSTILE}",
            }
        )
    rows += [{"path": "gone[/x].wav"}, {"path": "gone", "id": ALL_HOSTILE}]
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(autouse=True)
def _load_small_recogniser(monkeypatch):
    monkeypatch.setattr(runtime, "load", lambda *_: small_recogniser())


def run_probe(folder, out, *more):
    return CliRunner().invoke(
        cli.app,
        ["probe", str(folder), "--label", "pitch", "--out", str(out), "--folds", "2", *more],
    )


def test_probe_accepts_hostile_ids_and_labels(folder, tmp_path):
    result = run_probe(folder, tmp_path / "out")
    assert result.exit_code == 0, (result.output, result.exception)
    assert control_characters(result.output) == []
    assert "left out gone[/x].wav: " in result.stderr
    output = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert output["classes"].keys() == {f"high{ALL_HOSTILE}", f"low{ALL_HOSTILE}"}
    assert control_characters(run_probe(folder, tmp_path / "out", "--json").output) == []


def files(out):
    return {
        str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()
    }


def test_earlier_results_stay_until_the_new_ones_are_complete(folder, tmp_path, monkeypatch):
    run_probe(folder, tmp_path / "out")
    before = files(tmp_path / "out")
    assert "bank/arrays.npz" in before

    def raise_disk_full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, function in ((np, "savez"), (Bank, "save")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, function, raise_disk_full)
            result = run_probe(folder, tmp_path / "out", "--penalty", "3", "--overwrite")
        assert (result.exit_code, "No space left on device" in result.stderr) == (2, True)
        assert files(tmp_path / "out") == before
    assert run_probe(folder, tmp_path / "out", "--penalty", "3", "--overwrite").exit_code == 0
    assert files(tmp_path / "out") != before


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_output_to_a_terminal_has_control_characters(text, capsys):
    steps = Progress()
    with steps(text), steps.bar(text) as progress:
        progress(1, 2)
    steps.note(f"{text}: {text}")
    errors.print_error(ValueError(text))
    terminal.print_page(fake_page(text=text, logit=fake_table(tokens=(text, *TOKENS[1:]))))
    transcribe._print(Path(text.replace("/", "")), text)
    shown = capsys.readouterr()
    assert control_characters(shown.out + shown.err) == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_add_no_elements_or_scripts_to_a_page(text, tmp_path):
    usual = Outline(lens_page.render(fake_page()))
    path = write_text(
        tmp_path / "index.html",
        lens_page.render(fake_page(text=text, logit=fake_table(tokens=(text, *TOKENS[1:])))),
    )
    outline = Outline(path.read_text("utf-8"))
    assert [tag for tag, _, _ in outline.elements] == [tag for tag, _, _ in usual.elements]
    assert not [
        attributes
        for _, attributes, _ in outline.elements
        if any(name.startswith("on") for name in attributes)
    ]
    # A template engine would replace {{7*7}} by 49.
    assert "49" not in [shown for _, shown in outline.of("h1")]
    assert json.loads(write_json(tmp_path / "a.json", {text: text}).read_text("utf-8")) == {
        text: text
    }


def test_a_damaged_result_of_a_study_is_listed_as_damaged(tmp_path):
    (tmp_path / "E7").mkdir()
    for data in (b"", b"[1]", b"\xff", b'{"a":' * 100_000):
        (tmp_path / "E7" / "result.json").write_bytes(data)
        assert "expected a JSON object" in study_page.index(tmp_path)
