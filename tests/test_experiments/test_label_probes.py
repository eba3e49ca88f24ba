"""The page of the label probes shows the published numbers and the commands that were run."""

import json
from pathlib import Path

from experiments.label_probes.manifests import fold_phone
from experiments.label_probes.page import command, render
from experiments.label_probes.probes import PROBES

RESULTS = Path(__file__).parents[2] / "docs" / "results"
OUTPUT_FOLDER = Path("out/probes")


def test_the_page_shows_the_published_numbers():
    results = json.loads((RESULTS / "probes.json").read_text(encoding="utf-8"))
    page = (RESULTS / "probes.md").read_text(encoding="utf-8")
    assert render(results, OUTPUT_FOLDER) == page


def test_the_page_states_the_folds_and_splits_that_were_used():
    results = json.loads((RESULTS / "probes.json").read_text(encoding="utf-8"))
    result = results["phone-timit"]["base"]
    result["provenance"]["config"] |= {"folds": 7, "seeds": [0]}
    page = render({"phone-timit": {"base": result}}, OUTPUT_FOLDER)
    assert f"base: {result['rows']} rows, 11 groups (speaker); 7 folds, 1 split;" in page
    result["provenance"]["config"] |= {"seeds": [0, 1]}
    assert "7 folds, 2 splits;" in render({"phone-timit": {"base": result}}, OUTPUT_FOLDER)


def test_every_probe_has_its_own_name_and_files():
    commands = [command(probe, "base", OUTPUT_FOLDER, Path("m.jsonl"), "noise") for probe in PROBES]
    outputs = [arguments[arguments.index("--out") + 1] for arguments in commands]
    assert len(set(outputs)) == len(PROBES)


def test_a_probe_in_noise_adds_two_noisy_copies():
    [probe] = [probe for probe in PROBES if probe.name == "noise-libri"]
    arguments = command(probe, "base", OUTPUT_FOLDER, Path("m.jsonl"), "esc10")
    noises = [arguments[i + 1] for i, name in enumerate(arguments) if name == "--noise"]
    assert noises == ["snr:10:esc10", "snr:0:esc10"]
    assert arguments[arguments.index("--store") + 1] == str(
        OUTPUT_FOLDER / "stores" / "base-libri_test_other-noise"
    )


def test_phones_fold_to_39_classes():
    assert (fold_phone("ix"), fold_phone("pcl"), fold_phone("q"), fold_phone("s")) == (
        "ih",
        "sil",
        "",
        "s",
    )
