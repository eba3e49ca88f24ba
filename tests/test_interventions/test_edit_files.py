"""Saved edits load unchanged, and nothing but edits is saved or constructed."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interventions.edits import (
    Add,
    FromRow,
    Mix,
    Noise,
    Patch,
    Project,
    Scale,
    Zero,
    attend_only_to,
    chain,
    knockout,
    only,
    serialization,
)
from interventions.storage import untrusted_files
from jaxasr import At

EDITS = {
    "decoder.resid_pre": Patch(jnp.arange(30.0).reshape(2, 15), partial=True),
    "decoder.resid_mid": Mix(jnp.float32(1.5), FromRow(jnp.array([1, 0]))),
    "decoder.resid_post": chain(Scale(0.5), Add(np.ones(15, np.float32), 2), Zero()),
    "decoder.mlp.post": only(
        Noise(3, 0.25, replace=True),
        layers=[0, 1],
        positions=slice(2, 5),
        rows=0,
        when=jnp.array(True),
    ),
    "decoder.attn_out": Project.span(np.eye(15, dtype=np.float32)[:2], keep=True),
    "decoder.mlp_out": Patch(jnp.ones(15, jnp.bfloat16) / 3),
    "decoder.cross_attn.pattern": only(attend_only_to(slice(3, 7)), heads=2),
    "decoder.cross_attn.scores": knockout([1, 2]),
}


def replace_files(folder: Path, text: str | None = None, arrays: bytes | None = None) -> Path:
    """Saves an edit to `folder`, replaces the given files, and updates the checksums."""
    serialization.save_edits({"decoder.ln": Scale(jnp.float32(2))}, folder)
    if text is not None:
        (folder / "edits.json").write_text(text)
    if arrays is not None:
        (folder / "arrays.npz").write_bytes(arrays)
    untrusted_files.write_checksums(folder)
    return folder


def test_loaded_edits_equal_the_saved_ones(tmp_path):
    serialization.save_edits(EDITS, tmp_path / "new" / "edits")
    loaded = serialization.load_edits(tmp_path / "new" / "edits")
    assert loaded.keys() == EDITS.keys()
    assert jax.tree.structure(loaded) == jax.tree.structure(EDITS)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(EDITS), strict=True):
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["edits"]


def test_a_loaded_edit_computes_the_same(tmp_path):
    serialization.save_edits(EDITS, tmp_path / "edits")
    site = "decoder.resid_post"
    x, at = jnp.ones((2, 3, 15)), At(jnp.int32(0), jnp.tile(jnp.arange(3), (2, 1)), None, site)
    np.testing.assert_array_equal(
        serialization.load_edits(tmp_path / "edits")[site](x, at), EDITS[site](x, at)
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda x, at: x,
        only(Zero(), when=lambda at: at.layer == 0),
        chain(Zero(), object()),
        np.zeros,
    ],
)
def test_saving_code_raises_and_leaves_no_file(tmp_path, edit):
    with pytest.raises(
        ValueError,
        match=r"edits\['decoder\.ln'\].* cannot be saved; expected one of .*file of your own",
    ):
        serialization.save_edits({"decoder.ln": edit}, tmp_path / "edits")
    assert not list(tmp_path.iterdir())


def test_saving_into_an_existing_folder_raises(tmp_path):
    serialization.save_edits(EDITS, tmp_path / "edits")
    with pytest.raises(FileExistsError, match="exists already"):
        serialization.save_edits({}, tmp_path / "edits")
    with pytest.raises(ValueError, match=r"Unknown site 'decoder\.nose'"):
        serialization.save_edits({"decoder.nose": Zero()}, tmp_path / "other")


@pytest.mark.parametrize(
    "node",
    [
        {"type": "system", "fields": {}},
        {"type": "Scale", "fields": {"factor": {"value": 1}, "more": {"value": 1}}},
        {"type": "Scale", "fields": {"factor": {"array": "b0", "dtype": "float32"}}},
        {"type": "Scale", "fields": {"factor": {"value": "text"}}},
        {"type": "Zero"},
        ["Zero"],
    ],
)
def test_nodes_that_are_not_edits_raise(tmp_path, node):
    with pytest.raises(ValueError, match=r"edits\.json: .*edits\['decoder\.ln'\]"):
        serialization.load_edits(
            replace_files(
                tmp_path / "edits", json.dumps({"version": 1, "edits": {"decoder.ln": node}})
            )
        )


def test_pickled_arrays_raise(tmp_path):
    file = io.BytesIO()
    np.savez(file, a0=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"arrays\.npz: .*neither numbers nor texts"):
        serialization.load_edits(replace_files(tmp_path / "edits", arrays=file.getvalue()))


def test_missing_files_and_later_versions_raise(tmp_path):
    with pytest.raises(ValueError, match=r"expected edits\.json"):
        serialization.load_edits(tmp_path)
    with pytest.raises(ValueError, match="version 1"):
        serialization.load_edits(replace_files(tmp_path / "edits", '{"version": 2, "edits": {}}'))


def test_a_flipped_bit_raises(tmp_path):
    serialization.save_edits(EDITS, tmp_path / "edits")
    files = sorted((tmp_path / "edits").iterdir())
    rng = np.random.default_rng(0)
    for _ in range(40):
        file = files[rng.integers(len(files))]
        whole = bytearray(file.read_bytes())
        whole[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        before, _ = file.read_bytes(), file.write_bytes(bytes(whole))
        with pytest.raises(ValueError, match=str(tmp_path / "edits")):
            serialization.load_edits(tmp_path / "edits")
        file.write_bytes(before)


# The edit Scale(2.0) as it is saved in edits.json.
SCALE = {"type": "Scale", "fields": {"factor": {"value": 2.0}}}


@pytest.mark.parametrize(
    "node",
    [
        {"value": 3},
        {"value": None},
        {"array": "a0", "dtype": "float32"},
        {"tuple": [SCALE]},
        {"type": "Patch", "fields": {"value": {"value": True}, "partial": {"value": False}}},
        {"type": "Patch", "fields": {"value": {"value": 3.0}, "partial": {"value": False}}},
        {"type": "Patch", "fields": {"value": SCALE, "partial": {"value": False}}},
        {
            "type": "Patch",
            "fields": {"value": {"array": "a0", "dtype": "float32"}, "partial": {"value": 1}},
        },
        {
            "type": "Patch",
            "fields": {"value": {"array": "a0", "dtype": "bfloat16"}, "partial": {"value": False}},
        },
        {
            "type": "Patch",
            "fields": {"value": {"array": "texts", "dtype": "<U3"}, "partial": {"value": False}},
        },
        {
            "type": "Patch",
            "fields": {"value": {"array": "nan", "dtype": "float32"}, "partial": {"value": False}},
        },
        {"type": "Scale", "fields": {"factor": {"value": True}}},
        {"type": "Scale", "fields": {"factor": {"value": None}}},
        {
            "type": "Noise",
            "fields": {"seed": {"value": 0.5}, "scale": {"value": 1}, "replace": {"value": False}},
        },
        {"type": "Chain", "fields": {"edits": {"tuple": []}}},
        {"type": "Chain", "fields": {"edits": {"tuple": [{"value": 1}]}}},
        {"type": "Knockout", "fields": {"keys": {"value": 1}}},
        {"type": "Among", "fields": {"values": {"array": "a0", "dtype": "float32"}}},
        {"type": "Among", "fields": {"values": {"array": "whole", "dtype": "int32"}}},
    ],
)
def test_fields_of_another_kind_raise(tmp_path, node):
    file = io.BytesIO()
    numbers = {
        "a0": np.ones(2, np.float32),
        "nan": np.full(2, np.nan, np.float32),
        "whole": np.arange(3, dtype=np.int32),
    }
    np.savez(file, texts=np.array(["abc"]), **numbers)
    text = json.dumps({"version": 1, "edits": {"decoder.ln": node}})
    with pytest.raises(ValueError, match=r"edits\.json: .*edits\['decoder\.ln'\]"):
        serialization.load_edits(replace_files(tmp_path / "edits", text, file.getvalue()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        '{"version": 1, "edits": {"decoder.ln": '
        '{"type": "Scale", "fields": {"factor": {"value": NaN}}}}}',
        '{"version": 1, "edits": [' * 50_000,
        '{"version": 1, "edits": {"decoder.nose": {}}}',
        '{"version": 1, "edits": {"decoder.ln": ' + '{"tuple": [' * 4000 + "]}" * 4000 + "}}",
    ],
)
def test_other_json_raises_a_value_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"edits\.json: "):
        serialization.load_edits(replace_files(tmp_path / "edits", text))


@pytest.mark.parametrize(
    "edit", [Patch(3.0), Patch(jnp.full(15, jnp.nan)), Scale(float("nan")), FromRow(jnp.array([0]))]
)
def test_edits_that_could_not_be_loaded_are_not_saved(tmp_path, edit):
    with pytest.raises(ValueError, match=r"edits\['decoder\.ln'\]"):
        serialization.save_edits({"decoder.ln": edit}, tmp_path / "edits")
    assert not list(tmp_path.iterdir())
