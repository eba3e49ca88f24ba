"""How a sweep is planned, compiled and divided into chunks, and what it refuses."""

import jax
import numpy as np
import pytest
import xarray as xr
from tiny_sweeps import METRIC, SCORED_POSITION, WINDOW, target_and_source

import interventions as iv
from interventions.patching import chunks, compute, programs, unedited
from interventions.patching.compile_ahead import CompileAhead
from jaxasr import compiled


@pytest.fixture(scope="module")
def runs(tiny_model):
    return target_and_source(tiny_model)


def test_a_sweep_compiles_three_programs_and_the_next_none(tiny_model, runs):
    options = dict(site="decoder.attn.z", over=("layer", "head", "position"), metric=METRIC)
    before = compiled.n_compiled(programs.resumed_decoder_cells)
    iv.sweep(tiny_model, *runs, **options)
    first = compiled.n_compiled(programs.resumed_decoder_cells)
    assert first - before <= 3
    target, source = (run.replace(mel=run.mel * 1.1, tokens=(run.tokens + 1) % 101) for run in runs)
    iv.sweep(
        tiny_model,
        target,
        source,
        **(options | {"metric": iv.logit_diff(7, 8, position=SCORED_POSITION)}),
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


def test_a_plan_prints_its_cost(tiny_model, runs):
    text = str(
        iv.plan_sweep(
            tiny_model,
            *runs,
            site="decoder.cross_attn.z",
            over=("layer", "head", "position"),
            metric=METRIC,
        )
    )
    assert "layer 2 × head 5 × position 7: 70 cells of 2 example(s); 35 need no computing" in text
    assert "GFLOP" in text


def test_out_of_memory_halves_the_chunk_with_a_warning():
    sizes = []

    def compute(cells):
        sizes.append(cells["layer"].shape[1])
        if sizes[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return cells["layer"][None, :, :, None] * 2

    layers = np.arange(10).reshape(2, 5)  # five cells on each of two devices
    with pytest.warns(UserWarning, match="cells at a time; trying"):
        metrics = chunks.dispatch_cells(compute, {"layer": layers})()
    np.testing.assert_array_equal(metrics, layers[None, :, :, None] * 2)
    assert set(sizes) == {5, 3, 2}


def test_a_plan_runs_as_the_sweep_it_was_made_from(tiny_model, runs):
    options = dict(site="decoder.attn.z", over=("layer", "head"), metric=METRIC)
    plan = iv.plan_sweep(tiny_model, *runs, **options)
    xr.testing.assert_identical(iv.sweep(plan=plan), iv.sweep(tiny_model, *runs, **options))
    assert repr(plan) == f"Plan({plan})"
    assert "\n" not in repr(plan)


@pytest.mark.parametrize("site", ["decoder.attn.z", "encoder.resid_post"])
@pytest.mark.parametrize("recordings", [1, 2])
def test_each_recording_is_encoded_and_decoded_once(
    tiny_model, runs, site, recordings, monkeypatch
):
    decoded, encoded = [], []
    run, encode = unedited.UneditedDecoder.run, compute.encode_rows
    # Compiling ahead calls both functions too, but only traces them.
    monkeypatch.setattr(CompileAhead, "start", lambda *_: None)
    monkeypatch.setattr(
        unedited.UneditedDecoder, "run", lambda *args: (decoded.append(args[1]), run(*args))[1]
    )
    monkeypatch.setattr(
        compute, "encode_rows", lambda *args: (encoded.append(args[1]), encode(*args))[1]
    )
    plan = iv.plan_sweep(
        tiny_model,
        *runs,
        site=site,
        over=("layer",),
        metric=METRIC,
        n_frames=11,
        recordings=recordings,
    )
    assert not decoded
    assert not encoded
    iv.sweep(plan=plan)
    # The target and the source of each chunk of recordings.
    assert [run.batch for run in encoded] == [recordings] * (4 // recordings)
    assert [run.batch for run in decoded] == [recordings] * (4 // recordings)


def test_a_plan_takes_no_other_arguments(tiny_model, runs):
    options = dict(site="decoder.attn.z", over=("layer",), metric=METRIC)
    plan = iv.plan_sweep(tiny_model, *runs, **options)
    with pytest.raises(ValueError, match="plan: already holds model, site, alphas"):
        iv.sweep(tiny_model, site="decoder.attn.z", alphas=(0.5,), plan=plan)
    with pytest.raises(TypeError, match=r"missing site, metric\. Give these, or plan= alone"):
        iv.sweep(tiny_model, *runs, over=("layer",))


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_wrong_arguments_raise(tiny_model, runs, change, message):
    options = dict(site="decoder.attn.z", over=("layer", "head"), metric=METRIC) | change
    with pytest.raises(ValueError, match=message):
        iv.sweep(tiny_model, *runs, **options)


def test_first_order_ranks_cells_as_the_exact_sweep_does(tiny_model, runs):
    options = dict(site="decoder.mlp_out", over=("layer", "position"), metric=METRIC)
    exact = iv.sweep(tiny_model, *runs, **options)
    estimate = iv.attribution(tiny_model, *runs, **options)
    agreement = iv.rank_agreement(exact, estimate, 5)
    assert agreement.k == 5
    assert agreement.spearman > 0.3


def test_runs_of_different_length_raise(tiny_model, runs):
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
