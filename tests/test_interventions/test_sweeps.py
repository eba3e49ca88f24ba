"""A sweep equals a loop of single patches, whatever it leaves out; it says what it will do, and goes on where it stopped."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import interventions as iv
import jaxasr
from interventions.patching import chunks, programs, sources, unedited, workload
from interventions.patching.grid import swept_sizes
from jaxasr import compiled, sites

# Every kind of place: own position and shared ones, with and without heads, keys, frames; both stacks; within and outside of layers.
SITES = [
    "decoder.cross_attn.z",
    "decoder.attn.k",
    "decoder.resid_pre",
    "decoder.resid_post",
    "decoder.cross_attn.pattern",
    "decoder.mlp.post",
    "decoder.logits",
    "encoder.resid_post",
    "encoder.attn.z",
    "encoder.conv2",
]
WINDOW, SCORED = 4, -2  # frames; position


@pytest.fixture(scope="module")
def runs(tiny_model):
    c = tiny_model.config
    mels = jax.random.normal(jax.random.key(1), (2, 2, c.n_mels, 2 * c.n_audio_ctx))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, c.n_vocab)
    return iv.Run(mel=mels[0], tokens=tokens), iv.Run(mel=mels[1], tokens=tokens)


METRIC = iv.logit_diff(3, 5, position=SCORED)


def dims_of(model, site):
    sizes = swept_sizes(sites.spec(model.config, site, 1, 7))
    return tuple(dim for dim in sizes if dim != "alpha")


def one_by_one(model, target, source, site, cell, n_frames):
    """The metric of one cell by a plain pass of the whole model."""
    edit = iv.only(
        iv.Patch(sources.activation(model, source.encode(model), site)),
        layers=cell.get("layer"),
        heads=cell.get("head"),
        positions=cell.get("position"),
        frames=slice(WINDOW * cell["time"], min(WINDOW * (cell["time"] + 1), n_frames))
        if "time" in cell
        else None,
    )
    encoder = site.startswith("encoder.")
    memory = model.encode(target.mel, edits={site: edit} if encoder else None)[0]
    logits = model.decode(target.tokens, memory, edits=None if encoder else {site: edit})[0][
        :, SCORED
    ]
    return logits[:, 3] - logits[:, 5]


@pytest.mark.parametrize("site", SITES)
def test_every_cell_is_a_patch_of_its_own(tiny_model, runs, site):
    target, source = runs
    over, n_frames = dims_of(tiny_model, site), tiny_model.config.n_audio_ctx
    swept = iv.sweep(
        tiny_model,
        target,
        source,
        site=site,
        over=over,
        metric=METRIC,
        window_s=WINDOW / 50,
        n_frames=n_frames,
    )
    assert swept.dims == ("example", *over)
    rng, scale = np.random.default_rng(0), max(1.0, float(np.abs(swept).max()))
    for _ in range(6):
        cell = {dim: int(rng.integers(swept.sizes[dim])) for dim in over}
        expected = one_by_one(tiny_model, target, source, site, cell, n_frames)
        np.testing.assert_allclose(swept.isel(cell).values, expected, atol=1e-5 * scale, rtol=0)
    assert float(np.abs(swept - swept.baseline).max()) > 1e-3  # the patches do something


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("decoder.cross_attn.z", None),
        ("decoder.attn.v", None),
        ("decoder.attn.pattern", None),
        ("decoder.attn.pattern", ("layer", "head")),
        ("decoder.attn.scores", ("layer",)),
        ("encoder.resid_post", None),
    ],
)
def test_what_is_left_out_changes_nothing(tiny_model, runs, site, over):
    options = dict(
        site=site,
        over=over or dims_of(tiny_model, site),
        metric=METRIC,
        window_s=WINDOW / 50,
        n_frames=11,
    )
    fast, slow = (iv.sweep(tiny_model, *runs, reuse=reuse, **options) for reuse in (True, False))
    np.testing.assert_allclose(fast, slow, atol=1e-5 * max(1.0, float(np.abs(slow).max())), rtol=0)


@pytest.fixture(scope="module")
def deep():
    """A decoder with layers between the edited one and the last, and two runs of it."""
    c = jaxasr.Config(5, 11, 21, 3, 1, 101, 23, 21, 7, 4)
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    return jaxasr.Whisper(c, rngs=nnx.Rngs(0)), [iv.Run(mel=mel, tokens=tokens) for mel in mels]


@pytest.mark.parametrize(
    ("site", "budget", "loops"),
    [
        ("decoder.cross_attn.z", None, True),
        ("decoder.cross_attn.z", 14_000, False),
        ("decoder.resid_pre", 14_000, True),
    ],
)
def test_rows_of_any_packing_are_the_whole_pass(deep, site, budget, loops, monkeypatch):
    """Sites that change their own position only and others; all columns in one part and in several; layers apart and sliced."""
    monkeypatch.setattr(unedited, "unrolls", lambda config: loops)
    model, runs = deep
    options = dict(site=site, over=("layer", "position"), metric=METRIC)
    plan = iv.plan_sweep(model, *runs, **options, budget=budget)
    assert (len(workload.column_batches(plan.work, 0)) > 1) == (budget is not None)
    fast, slow = (
        iv.sweep(model, *runs, **options, budget=budget),
        iv.sweep(model, *runs, **options, reuse=False),
    )
    np.testing.assert_allclose(fast, slow, atol=1e-5 * max(1.0, float(np.abs(slow).max())), rtol=0)
    assert np.unique(np.round(slow.sel(position=slice(0, 5)), 5)).size > 30  # cells differ


@pytest.mark.parametrize(
    ("site", "over"), [("encoder.resid_post", ("time",)), ("decoder.attn.z", ("head", "position"))]
)
def test_a_layer_left_out_is_all_layers_at_once(tiny_model, runs, site, over):
    options = dict(site=site, over=over, metric=METRIC, window_s=WINDOW / 50, n_frames=11)
    swept = iv.sweep(tiny_model, *runs, **options)
    cell = dict.fromkeys(over, 1)
    np.testing.assert_allclose(
        swept.isel(cell), one_by_one(tiny_model, *runs, site, cell, 11), atol=1e-5
    )


def test_all_cells_at_once_are_the_source(tiny_model, runs):
    target, source = runs
    patched = iv.sweep(
        tiny_model,
        target,
        source,
        site="decoder.embed",
        over=("alpha",),
        metric=METRIC,
        alphas=(0.0, 1.0),
    )
    np.testing.assert_allclose(patched.sel(alpha=0), patched.baseline, atol=1e-6)
    whole = iv.sweep(
        tiny_model,
        target,
        source,
        site="encoder.ln_post",
        over=("alpha",),
        metric=METRIC,
        alphas=(0.0, 1.0),
    )
    np.testing.assert_allclose(whole.sel(alpha=0), whole.baseline, atol=1e-6)
    np.testing.assert_allclose(whole.sel(alpha=1), whole.source, atol=1e-5)


def test_a_position_after_the_scored_one_is_not_computed(tiny_model, runs):
    swept = iv.sweep(
        tiny_model, *runs, site="decoder.cross_attn.z", over=("layer", "position"), metric=METRIC
    )
    np.testing.assert_array_equal(
        swept.isel(position=6),
        np.broadcast_to(swept.baseline.values[:, None], swept.isel(position=6).shape),
    )


def test_strengths_and_named_sources(tiny_model, runs):
    target, source = runs
    options = dict(
        site="decoder.mlp_out", over=("layer", "alpha"), metric=METRIC, alphas=(0.0, 0.5, 1.5)
    )
    doses = iv.sweep(tiny_model, target, source, **options)
    np.testing.assert_allclose(
        doses.sel(alpha=0),
        np.broadcast_to(doses.baseline.values[:, None], doses.sel(alpha=0).shape),
        atol=1e-5,
    )
    for name in ("zero", "mean", "noise"):
        values = iv.sweep(
            tiny_model, target, name, site="decoder.mlp_out", over=("layer",), metric=METRIC
        )
        assert np.isfinite(values).all()
        assert np.abs(values - values.baseline).max() > 1e-4
    own = iv.sweep(
        tiny_model, target, edit=iv.Zero(), site="decoder.mlp_out", over=("layer",), metric=METRIC
    )
    np.testing.assert_array_equal(
        own,
        iv.sweep(
            tiny_model, target, "zero", site="decoder.mlp_out", over=("layer",), metric=METRIC
        ),
    )


@pytest.mark.parametrize(
    "metric",
    [
        iv.logprob(3, SCORED),
        iv.metrics.rank(jnp.array([3, 4]), SCORED),
        iv.logit_diff(jnp.array([1, 2]), 3, SCORED),
    ],
)
def test_metrics_are_those_of_the_logits(tiny_model, runs, metric):
    target, source = runs
    swept = iv.sweep(
        tiny_model, target, source, site="decoder.resid_mid", over=("layer",), metric=metric
    )
    logits = target.decode(tiny_model)[0][:, SCORED]
    wanted = (
        logits
        if metric.vocab is None
        else jnp.take_along_axis(logits, jnp.broadcast_to(metric.vocab, (2, 2)), 1)
    )
    np.testing.assert_allclose(swept.baseline, metric(wanted), rtol=1e-5)


def test_three_programs_and_none_after(tiny_model, runs):
    options = dict(site="decoder.attn.z", over=("layer", "head", "position"), metric=METRIC)
    before = compiled.n_compiled(programs.resumed_decoder_cells)
    iv.sweep(tiny_model, *runs, **options)
    first = compiled.n_compiled(programs.resumed_decoder_cells)
    assert first - before <= 3
    target, source = (run.replace(mel=run.mel * 1.1, tokens=(run.tokens + 1) % 101) for run in runs)
    iv.sweep(
        tiny_model, target, source, **(options | {"metric": iv.logit_diff(7, 8, position=SCORED)})
    )
    assert compiled.n_compiled(programs.resumed_decoder_cells) == first


@pytest.mark.parametrize(
    ("site", "over", "program"),
    [
        ("encoder.resid_post", ("layer", "time"), programs.encoder_cells),
        ("encoder.attn.z", ("head", "time"), programs.encoder_cells),
        ("decoder.cross_attn.pattern", ("layer", "head", "time"), programs.resumed_decoder_cells),
        ("decoder.cross_attn.v", ("time",), programs.whole_decoder_cells),
    ],
)
def test_recordings_of_other_lengths_compile_nothing(tiny_model, runs, site, over, program):
    def swept(n_frames):
        return iv.sweep(
            tiny_model,
            *runs,
            site=site,
            over=over,
            metric=METRIC,
            window_s=WINDOW / 50,
            n_frames=n_frames,
        )

    long, before = swept(11), compiled.n_compiled(program)
    for n_frames in (8, 3):
        short = swept(n_frames)
        n = -(-n_frames // WINDOW)
        assert short.sizes["time"] == n
        whole = (
            n if n_frames % WINDOW == 0 else n - 1
        )  # the last window of a shorter recording may be cut
        np.testing.assert_allclose(short[..., :whole], long[..., :whole], atol=1e-5)
        if whole < n:
            assert (
                float(np.abs(short[..., whole] - long[..., whole]).max()) > 1e-5
            )  # a window ends where the recording does
    assert compiled.n_compiled(program) == before


def test_the_plan_says_what_it_will_cost(tiny_model, runs):
    said = str(
        iv.plan_sweep(
            tiny_model,
            *runs,
            site="decoder.cross_attn.z",
            over=("layer", "head", "position"),
            metric=METRIC,
        )
    )
    assert "layer 2 × head 5 × position 7: 70 cells of 2 example(s); 35 need no computing" in said
    assert "GFLOP" in said


def test_out_of_memory_halves_the_chunk_and_says_so():
    sizes = []

    def compute(cells):
        sizes.append(len(cells["layer"]))
        if sizes[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return cells["layer"] * 2

    with pytest.warns(UserWarning, match="8 cells at a time; trying 4"):
        values = chunks.dispatch_chunks(compute, {"layer": np.arange(5)}, 8)()
    np.testing.assert_array_equal(values, np.arange(5) * 2)
    assert set(sizes) == {8, 4, 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"over": ("layer", "time")}, "not a dimension of a sweep"),
        ({"over": ("layer", "layer")}, "different dimensions"),
        ({"over": ()}, "different dimensions"),
        ({"layers": [9], "over": ("layer",)}, "expected some of"),
        ({"site": "decoder.nope"}, "Unknown site"),
        ({"metric": iv.logit_diff(1, 2, position=7)}, "position: expected"),
        ({"edit": iv.Zero()}, "one of the two"),
    ],
)
def test_bad_calls(tiny_model, runs, change, said):
    options = dict(site="decoder.attn.z", over=("layer", "head"), metric=METRIC) | change
    with pytest.raises(ValueError, match=said):
        iv.sweep(tiny_model, *runs, **options)


def test_first_order_ranks_cells_as_the_exact_sweep_does(tiny_model, runs):
    options = dict(site="decoder.mlp_out", over=("layer", "position"), metric=METRIC)
    exact = iv.sweep(tiny_model, *runs, **options)
    estimate = iv.attribution(tiny_model, *runs, **options)
    agreement = iv.rank_agreement(exact, estimate, 5)
    assert agreement.k == 5
    assert agreement.spearman > 0.3


def test_runs_must_line_up(tiny_model, runs):
    target, source = runs
    with pytest.raises(ValueError, match="line up"):
        iv.sweep(
            tiny_model,
            target,
            source.replace(tokens=source.tokens[:, :5]),
            site="decoder.attn.z",
            over=("layer",),
            metric=METRIC,
        )
    with pytest.raises(ValueError, match="expected a Run or one of"):
        iv.sweep(
            tiny_model, target, "silence", site="decoder.attn.z", over=("layer",), metric=METRIC
        )


def test_a_store_holds_one_sweep(tiny_model, runs, tmp_path):
    options = dict(site="decoder.attn.z", over=("layer", "head"), metric=METRIC, store=tmp_path)
    first = iv.sweep(tiny_model, *runs, **options)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    np.testing.assert_array_equal(first, iv.sweep(tiny_model, *runs, **options))
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.part")}
    with pytest.raises(ValueError, match="another sweep"):
        iv.sweep(tiny_model, *runs, **(options | {"metric": iv.logprob(3, SCORED)}))


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


def test_killed_and_taken_up_again(tmp_path):
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
    again = subprocess.run(
        [*command, str(tmp_path / "half")], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()[-1]
    assert again == whole


def test_real_weights_find_the_words_of_a_recording(asr):
    """Patching everything that cross-attention heard with silence takes the first word away."""
    from importlib import resources

    audio = jaxasr.load_audio(str(resources.files("experiments") / "assets" / "demo.flac"))
    tokens = jnp.asarray([[*asr.tokenizer.prompt(), *asr.tokenizer.encode(" The captain")]])
    target, silent = (
        iv.Run(mel=jaxasr.log_mel(sound, 80)[None], tokens=tokens) for sound in (audio, 0 * audio)
    )
    options = dict(
        site="decoder.cross_attn.z",
        over=("layer", "head", "position"),
        metric=iv.logprob(tokens[0, -1], -2),
    )
    swept = iv.sweep(asr.model, target, silent, **options)
    assert swept.dims == ("layer", "head", "position")
    assert float(swept.baseline) > -1
    assert float(swept.source) < float(swept.baseline) - 2
    assert float(swept.min()) < float(swept.baseline) - 0.05
