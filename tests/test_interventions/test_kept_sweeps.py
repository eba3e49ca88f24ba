"""Stored groups of a sweep: which sweep they belong to, and that damage never becomes a number."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import interventions as iv
from interventions.storage import parts
from interventions.storage.atomic import only_writer
from interventions.storage.fingerprints import fingerprint


@pytest.fixture(scope="module")
def target(tiny_model):
    c = tiny_model.config
    mel = jax.random.normal(jax.random.key(1), (2, c.n_mels, 2 * c.n_audio_ctx))
    return iv.Run(
        mel=mel, tokens=jax.random.randint(jax.random.key(2), (2, 5), 0, c.n_vocab)
    ).encode(tiny_model)


def swept(model, target, folder, edit=None, source="zero", metric=None):
    options = {
        "site": "decoder.mlp_out",
        "over": ("layer",),
        "metric": metric or iv.logit_diff(3, 5),
        "store": folder,
    }
    return iv.sweep(model, target, None if edit else source, edit=edit, **options)


def test_a_damaged_or_exchanged_group_is_computed_again(tiny_model, target, tmp_path, caplog):
    first = swept(tiny_model, target, tmp_path / "kept")
    files = sorted((tmp_path / "kept").glob("example*.part"))
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
        np.testing.assert_array_equal(swept(tiny_model, target, tmp_path / "kept"), first)
        assert [record.getMessage().startswith(f"{files[0]}: ") for record in caplog.records] == [
            True
        ]
        assert "\n" not in caplog.text.strip()
    assert [file.read_bytes() for file in files] == whole


def test_a_group_of_another_size_is_never_spread_over_the_cells(tiny_model, target, tmp_path):
    first = swept(tiny_model, target, tmp_path)
    mark, file = tmp_path / "sweep.part", tmp_path / "example-0-layer-0.part"
    digest = str(parts.load(mark, "sweep.part")["sha256"])
    for values in (np.zeros(()), np.zeros(7), np.zeros(1, np.float32), np.array(["1"])):
        parts.save(file, f"{digest} example 0 layer 0", {"values": values})
        np.testing.assert_array_equal(swept(tiny_model, target, tmp_path), first)
    mark.write_bytes(b"damaged")
    np.testing.assert_array_equal(swept(tiny_model, target, tmp_path), first)


def test_two_sweeps_into_one_folder(tiny_model, target, tmp_path):
    with (
        only_writer(tmp_path / "kept"),
        pytest.raises(BlockingIOError, match=r"kept'.*another process"),
    ):
        swept(tiny_model, target, tmp_path / "kept")


@flax.struct.dataclass
class Times:
    by: float

    def __call__(self, x, at):
        return x * self.by


@flax.struct.dataclass
class Plus:
    by: float

    def __call__(self, x, at):
        return x + self.by


@flax.struct.dataclass
class Static:
    by: object = flax.struct.field(pytree_node=False)

    def __call__(self, x, at):
        return x * self.by


STRENGTH = 2


def doubled(x):
    return x * STRENGTH


def test_a_changed_edit_is_another_sweep(tiny_model, target, tmp_path, monkeypatch):
    edit = lambda x, at: doubled(x)  # noqa: E731
    swept(tiny_model, target, tmp_path, edit)
    swept(tiny_model, target, tmp_path, edit)
    monkeypatch.setattr(sys.modules[__name__], "STRENGTH", 3)
    with pytest.raises(ValueError, match=r"holds another sweep: .*code"):
        swept(tiny_model, target, tmp_path, edit)
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[__name__], "doubled", lambda x: x - x)
    with pytest.raises(ValueError, match="holds another sweep"):
        swept(tiny_model, target, tmp_path, edit)
    with pytest.raises(ValueError, match="holds another sweep"):
        swept(tiny_model, target, tmp_path, Times(2.0))


def test_what_is_not_the_same_in_another_process_is_refused(tiny_model, target, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError,
        match=r"edit: .*rng: a numpy\.random.*Generator has no description .*leave out store=",
    ):
        swept(tiny_model, target, tmp_path / "kept", lambda x, at: x + rng.normal())
    assert not (tmp_path / "kept").exists()


def closure(k):
    return lambda x, at: x * k


def several():
    """Values of which no two may have the same fingerprint."""
    return [
        *(Times(2.0), Plus(2.0), Static(1), Static(True), Static(1.0), Static("1"), Static(None), Static((1, 2)), Static([1, 2])),
        *(Static(0.0), Static(-0.0), Static(float("nan")), Static({"a": 1}), Static({"a": True}), Static(np.ones(2, np.float64))),
        *(iv.Zero(), iv.Scale(2.0), iv.Noise(2), iv.Patch(jnp.ones(2)), iv.Patch(jnp.ones(2, jnp.bfloat16)), iv.Patch(jnp.ones((1, 2)))),
        *(iv.logprob(3), iv.metrics.rank(3), iv.logprob(4), iv.logprob(3, position=-2), iv.logit_diff(3, 4), iv.kl(jnp.ones((1, 4)))),
        *(closure(2), closure(3), closure(2.0), doubled, lambda x, at: x, lambda x, at: -x, lambda x, at, y=1: x, lambda x, at, y=2: x),
        *(jnp.tanh, jnp.exp, jax.jit(doubled), jax.nn.relu, Times, Plus, {"b", "a"}, {"a"}, frozenset({"a"}), jax.random.key(0)),
    ]  # fmt: skip


def test_no_two_kinds_share_a_fingerprint():
    found = [fingerprint(value=value) for value in several()]
    assert len(set(found)) == len(found)
    assert found == [fingerprint(value=value) for value in several()]


def test_fingerprints_are_the_same_in_every_process():
    code = "import test_kept_sweeps as t; print(*[t.fingerprint(value=value) for value in t.several()])"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env=environment,
    )
    assert done.stdout.split() == [fingerprint(value=value) for value in several()]


def test_recursion_and_cycles_end():
    def again(x, n=3):
        return x if n == 0 else again(x, n - 1)

    loop = [1]
    loop.append(loop)
    assert fingerprint(value=again) != fingerprint(value=doubled)
    assert fingerprint(value=loop) == fingerprint(value=loop)


class Double:
    def __init__(self, a):
        self.a = a * 2


class Triple:
    def __init__(self, a):
        self.a = a * 3


class Inner(nnx.Module):
    def __init__(self, function):
        self.function = function


class Outer(nnx.Module):
    def __init__(self, inner):
        self.inner, self.k = inner, nnx.Param(jnp.ones(2))


def test_written_constructors_parts_of_modules_and_wrapped_code_count():
    Triple.__qualname__ = Double.__qualname__
    assert fingerprint(a=lambda: Double(1)) == fingerprint(a=lambda: Double(1))
    assert fingerprint(a=Double) != fingerprint(a=Triple)
    assert fingerprint(a=Outer(Inner(jax.nn.relu))) != fingerprint(a=Outer(Inner(jnp.tanh)))
    assert fingerprint(a=Outer(Inner(jax.nn.relu))) == fingerprint(a=Outer(Inner(jax.nn.relu)))
    wrapped = [functools.wraps(iv.only)(f) for f in (lambda x: x * 2, lambda x: x * 3)]
    assert fingerprint(a=wrapped[0]) != fingerprint(a=wrapped[1])


def test_a_store_holds_one_sweep(tiny_model, target, tmp_path):
    options = dict(site="decoder.attn.z", over=("layer", "head"), store=tmp_path)
    first = iv.sweep(tiny_model, target, "zero", **options, metric=iv.logit_diff(3, 5))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    again = iv.sweep(tiny_model, target, "zero", **options, metric=iv.logit_diff(3, 5))
    np.testing.assert_array_equal(first, again)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    with pytest.raises(ValueError, match="another sweep"):
        iv.sweep(tiny_model, target, "zero", **options, metric=iv.logprob(3))


KILLED = """
    import sys, jax, interventions as iv, jaxasr
    from experiments import compile_cache
    compile_cache.enable()
    from flax import nnx
    c = jaxasr.Config(5, 11, 21, 3, 3, 101, 23, 21, 7, 4)
    model = jaxasr.Whisper(c, rngs=nnx.Rngs(0))
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    runs = [iv.Run(mel=mel, tokens=tokens) for mel in mels]
    def progress(done, of):
        print(done, of, flush=True)
        if len(sys.argv) > 2 and done >= of // 2: sys.stdin.read()
    options = dict(site="decoder.mlp_out", over=("layer",), metric=iv.logit_diff(3, 5))
    values = iv.sweep(model, *runs, **options, store=sys.argv[1], progress=progress)
    print(values.values.tobytes().hex())
"""


def test_a_killed_sweep_resumes_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
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
            done, of = map(int, line.split())
            if done >= of // 2:
                break
        os.kill(half.pid, signal.SIGKILL)
    assert len(list((tmp_path / "half").glob("example*.part"))) == 4
    resumed = subprocess.run(
        [*command, str(tmp_path / "half")], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()[-1]
    assert resumed == whole
