"""Stored groups of a sweep serve this sweep only, and damaged groups are computed again."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import flax.struct
import jax
import numpy as np
import pytest

import interventions as iv
from interventions.storage import parts
from interventions.storage.atomic import only_writer


@pytest.fixture(scope="module")
def target(tiny_model):
    c = tiny_model.config
    mel = jax.random.normal(jax.random.key(1), (2, c.n_mels, 2 * c.n_audio_ctx))
    return iv.Run(
        mel=mel, tokens=jax.random.randint(jax.random.key(2), (2, 5), 0, c.n_vocab)
    ).encode(tiny_model)


def run_sweep(model, target, folder, edit=None, source="zero", metric=None):
    options = {
        "site": "decoder.mlp_out",
        "over": ("layer",),
        "metric": metric or iv.logit_diff(3, 5),
        "store": folder,
    }
    return iv.sweep(model, target, None if edit else source, edit=edit, **options)


def test_a_damaged_or_exchanged_group_is_recomputed(tiny_model, target, tmp_path, caplog):
    first = run_sweep(tiny_model, target, tmp_path / "store")
    files = sorted((tmp_path / "store").glob("example*.part"))
    whole = [file.read_bytes() for file in files]
    assert len(files) == 2 * tiny_model.config.n_text_layer
    changes = {
        "a flipped bit": lambda file: file.write_bytes(
            bytes([*file.read_bytes()[:-30], 1, *file.read_bytes()[-29:]])
        ),
        "another layer's": lambda file: shutil.copy(files[1], file),
        "cut": lambda file: file.write_bytes(file.read_bytes()[:100]),
        "empty": lambda file: file.write_bytes(b""),
        "zeros": lambda file: file.write_bytes(bytes(200)),
        "an array alone": lambda file: file.write_bytes(np.lib.format.magic(1, 0) + bytes(100)),
    }
    for change in changes.values():
        caplog.clear()
        change(files[0])
        np.testing.assert_array_equal(run_sweep(tiny_model, target, tmp_path / "store"), first)
        assert [record.getMessage().startswith(f"{files[0]}: ") for record in caplog.records] == [
            True
        ]
        assert "\n" not in caplog.text.strip()
    assert [file.read_bytes() for file in files] == whole


def test_a_group_of_another_size_is_not_broadcast(tiny_model, target, tmp_path):
    first = run_sweep(tiny_model, target, tmp_path)
    mark, file = tmp_path / "sweep.part", tmp_path / "example-0-layer-0.part"
    digest = str(parts.load(mark, "sweep.part")["sha256"])
    for values in (np.zeros(()), np.zeros(7), np.zeros(1, np.float32), np.array(["1"])):
        parts.save(file, f"{digest} example 0 layer 0", {"values": values})
        np.testing.assert_array_equal(run_sweep(tiny_model, target, tmp_path), first)
    mark.write_bytes(b"damaged")
    np.testing.assert_array_equal(run_sweep(tiny_model, target, tmp_path), first)


def test_a_second_sweep_in_the_same_folder_raises(tiny_model, target, tmp_path):
    with (
        only_writer(tmp_path / "store"),
        pytest.raises(BlockingIOError, match=r"store'.*another process"),
    ):
        run_sweep(tiny_model, target, tmp_path / "store")


@flax.struct.dataclass
class Times:
    by: float

    def __call__(self, x, at):
        return x * self.by


# A global that an edit reads, and that a test changes.
STRENGTH = 2


def doubled(x):
    return x * STRENGTH


def test_a_changed_edit_is_another_sweep(tiny_model, target, tmp_path, monkeypatch):
    edit = lambda x, at: doubled(x)  # noqa: E731
    run_sweep(tiny_model, target, tmp_path, edit)
    run_sweep(tiny_model, target, tmp_path, edit)
    monkeypatch.setattr(sys.modules[__name__], "STRENGTH", 3)
    with pytest.raises(ValueError, match=r"holds another sweep\. .*code"):
        run_sweep(tiny_model, target, tmp_path, edit)
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[__name__], "doubled", lambda x: x - x)
    with pytest.raises(ValueError, match="holds another sweep"):
        run_sweep(tiny_model, target, tmp_path, edit)
    with pytest.raises(ValueError, match="holds another sweep"):
        run_sweep(tiny_model, target, tmp_path, Times(2.0))


def test_edits_that_differ_between_processes_raise(tiny_model, target, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError,
        match=r"edit: .*rng: a numpy\.random.*Generator has no description .*leave out store=",
    ):
        run_sweep(tiny_model, target, tmp_path / "store", lambda x, at: x + rng.normal())
    assert not (tmp_path / "store").exists()


def test_a_store_holds_one_sweep(tiny_model, target, tmp_path):
    options = dict(site="decoder.attn.z", over=("layer", "head"), store=tmp_path)
    first = iv.sweep(tiny_model, target, "zero", **options, metric=iv.logit_diff(3, 5))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    again = iv.sweep(tiny_model, target, "zero", **options, metric=iv.logit_diff(3, 5))
    np.testing.assert_array_equal(first, again)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    with pytest.raises(ValueError, match="another sweep"):
        iv.sweep(tiny_model, target, "zero", **options, metric=iv.logprob(3))


# Sweeps into the folder of its first argument. With a second one, it waits after half.
_SWEEP_SCRIPT = """
    import sys, jax, interventions as iv, jaxasr
    from experiments import compile_cache
    compile_cache.enable()
    from flax import nnx
    config = jaxasr.Config(
        n_mels=5, n_audio_ctx=11, n_audio_state=21, n_audio_head=3, n_audio_layer=3,
        n_vocab=101, n_text_ctx=23, n_text_state=21, n_text_head=7, n_text_layer=4,
    )
    model = jaxasr.Whisper(config, rngs=nnx.Rngs(0))
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    runs = [iv.Run(mel=mel, tokens=tokens) for mel in mels]
    def progress(done, total):
        print(done, total, flush=True)
        if len(sys.argv) > 2 and done >= total // 2: sys.stdin.read()
    options = dict(site="decoder.mlp_out", over=("layer",), metric=iv.logit_diff(3, 5))
    values = iv.sweep(model, *runs, **options, store=sys.argv[1], progress=progress)
    print(values.values.tobytes().hex())
"""


def test_a_killed_sweep_resumes_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(_SWEEP_SCRIPT)]
    whole = subprocess.run(
        [*command, str(tmp_path / "whole")], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()[-1]
    with subprocess.Popen(
        [*command, str(tmp_path / "half"), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as half:
        while half.stdout and (line := half.stdout.readline()):
            n_done, total = map(int, line.split())
            if n_done >= total // 2:
                break
        os.kill(half.pid, signal.SIGKILL)
    assert len(list((tmp_path / "half").glob("example*.part"))) == 4
    resumed = subprocess.run(
        [*command, str(tmp_path / "half")], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()[-1]
    assert resumed == whole
