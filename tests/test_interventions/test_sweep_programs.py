"""Sweeps compile few programs, print their plan, divide their cells, and refuse bad arguments."""

import jax
import numpy as np
import pytest
import xarray as xr
from tiny_sweeps import METRIC, SCORED, WINDOW, target_and_source

import interventions as iv
import jaxasr
from interventions.patching import chunks, programs, unedited
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
        )  # without the last window, if the recording ends within it
        np.testing.assert_allclose(short[..., :whole], long[..., :whole], atol=1e-5)
        if whole < n:
            assert (
                float(np.abs(short[..., whole] - long[..., whole]).max()) > 1e-5
            )  # the last window ends with the recording
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
        sizes.append(len(cells["layer"]))
        if sizes[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return cells["layer"] * 2

    with pytest.warns(UserWarning, match="cells at a time; trying"):
        values = chunks.dispatch_chunks(compute, {"layer": np.arange(5)}, 8)()
    np.testing.assert_array_equal(values, np.arange(5) * 2)
    assert set(sizes) == {8, 4, 2}


def test_a_plan_runs_as_the_sweep_it_was_made_from(tiny_model, runs):
    options = dict(site="decoder.attn.z", over=("layer", "head"), metric=METRIC)
    plan = iv.plan_sweep(tiny_model, *runs, **options)
    xr.testing.assert_identical(iv.sweep(plan=plan), iv.sweep(tiny_model, *runs, **options))
    assert repr(plan) == f"Plan({plan})"
    assert "\n" not in repr(plan)


@pytest.mark.parametrize("site", ["decoder.attn.z", "encoder.resid_post"])
def test_the_source_runs_once_from_plan_to_result(tiny_model, runs, site, monkeypatch):
    decoded, encoded = [], []
    run, encode = unedited.UneditedDecoder.run, jaxasr.Whisper.encode
    monkeypatch.setattr(
        unedited.UneditedDecoder, "run", lambda *args: (decoded.append(args[1]), run(*args))[1]
    )
    monkeypatch.setattr(
        jaxasr.Whisper, "encode", lambda self, mel: (encoded.append(mel), encode(self, mel))[1]
    )
    target, source = runs
    plan = iv.plan_sweep(
        tiny_model, target, source, site=site, over=("layer",), metric=METRIC, n_frames=11
    )
    iv.sweep(plan=plan)
    assert [mel is source.mel for mel in encoded] == [False, True]
    # The source runs once with all rows, then the target runs once per row.
    assert [run.batch for run in decoded] == [2, 1, 1]
    assert decoded[0] is plan.source


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
