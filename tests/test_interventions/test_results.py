"""Summaries find planted effects, figures show them, and saved results load unchanged."""

import numpy as np
import pytest
import xarray as xr
from swept_results import HEADS, LAYERS, N, swept

from interventions.figures import plot, save
from interventions.stats import intervals, summarize
from interventions.storage import load_result, save_result
from interventions.storage.results import load_or_compute


def test_a_planted_cell_is_found():
    found = summarize(swept())
    cell = found.sel(layer=2, head=3)
    assert cell.low < 3 < cell.high
    assert float(cell.mean_recovery) == pytest.approx(0.75, abs=0.05)
    np.testing.assert_allclose(found.recovery, found.change / 4)
    np.testing.assert_allclose(found.value - found.baseline, found.change)
    np.testing.assert_allclose(found["mean"], found.change.mean("example"))
    assert (
        (found.p_any < 0.05).values.nonzero()[0].tolist(),
        (found.p_any < 0.05).values.nonzero()[1].tolist(),
    ) == ([2], [3])
    assert (found.q >= found.p).all()
    assert (found.n_examples, found.left_out) == (N, 0)


def test_an_example_without_a_value_is_left_out():
    values = swept()
    values[4, 0, 0] = np.nan
    found = summarize(values)
    assert (found.n_examples, found.left_out) == (N - 1, 1)
    assert found["mean"].notnull().all()


def test_one_example_has_no_interval_and_the_summary_gives_the_reason():
    summary = summarize(swept().isel(example=0))
    assert all(
        summary[name].isnull().all() and summary[name].dims == ("layer", "head")
        for name in ("low", "high", "p", "q", "p_any")
    )
    assert "need at least 2" in summary.attrs["intervals"]
    assert "intervals" not in summarize(swept()).attrs
    assert "p" not in summarize(swept().isel(example=0), null="cells")
    assert summary.change.sizes == {"example": 1, "layer": LAYERS, "head": HEADS}


def test_estimates_are_changes_already():
    values = swept()
    estimate = (
        (values - values.baseline)
        .assign_attrs(estimate="first order", metric="LogitDiff")
        .assign_coords(baseline=values.baseline)
    )
    np.testing.assert_allclose(summarize(estimate).change, summarize(values).change, atol=1e-12)
    np.testing.assert_allclose(summarize(estimate).value, summarize(values).value, atol=1e-12)


def test_a_variable_of_generated_texts_is_summarised():
    wer = swept().drop_vars(["baseline", "source"]).rename(None)
    baseline = swept().baseline.reset_coords(drop=True)
    result = xr.Dataset(
        {
            "wer": wer,
            "baseline_wer": baseline,
            "resolved": (wer > 3).astype(float),
            "text": wer.astype(str),
        }
    )
    np.testing.assert_allclose(summarize(result, "wer").change, summarize(swept()).change)
    shares = summarize(result, "resolved", null="cells")
    assert shares.p_any.argmin(...) == {"layer": 2, "head": 3}
    assert "p" not in shares
    with pytest.raises(ValueError, match="expected one of wer, resolved, got 'text'"):
        summarize(result, "text")
    with pytest.raises(ValueError, match="null: expected one of signs, cells"):
        summarize(swept(), null="none")


def test_the_best_of_equal_cells_is_rarely_significant():
    """Examples differ in how easily they change, but no cell changes more than the others."""
    surprised = 0
    for seed in range(40):
        fragile = np.random.default_rng(seed).random((12, 20)) < np.linspace(0, 0.9, 12)[:, None]
        values = xr.DataArray(fragile.astype(float), dims=("example", "cell"))
        assert (
            intervals.max_sign_flip(values, n=200).min() < 0.2
        )  # compared with zero, every cell has an effect
        surprised += float(intervals.max_permutation(values, n=200).min()) <= 0.05
    assert surprised <= 5


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_saved_results_load_unchanged(tmp_path, name):
    tokens = np.array([" the", "ü", "<|x|>"])
    array = swept(dims=("layer", "time"), window_s=0.5).assign_attrs(
        config={"heads": [1, None], "on": True}
    )
    dataset = summarize(array).assign_coords(token=("layer", tokens))
    for value in (array, dataset):
        for _ in range(2):  # the second save replaces the first result
            save_result(value, tmp_path / name)
        xr.testing.assert_identical(load_result(tmp_path / name), value)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    save_result(dataset, tmp_path / name, provenance={"seed": 3, "versions": {"jax": "1"}})
    assert load_result(tmp_path / name).attrs["provenance"] == {"seed": 3, "versions": {"jax": "1"}}
    save_result(dataset.assign_attrs(note="json:[1]"), tmp_path / name)
    assert load_result(tmp_path / name).attrs["note"] == "json:[1]"


def test_cached_results_are_computed_once(tmp_path):
    first = load_or_compute(tmp_path / "part.zarr", "a", lambda: summarize(swept()))
    xr.testing.assert_identical(
        load_or_compute(tmp_path / "part.zarr", "a", lambda: pytest.fail("computed again")), first
    )
    with pytest.raises(ValueError, match=r"ends in \.zarr or \.nc"):
        save_result(swept(), tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match="no result"):
        load_result(tmp_path / "b.zarr")


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_maps_show_layers_heads_and_tokens(tmp_path):
    drawn = plot(summarize(swept()))
    image = drawn.axes[0].collections[0]
    assert image.get_array().shape == (LAYERS, HEADS)
    assert image.get_clim()[0] == -image.get_clim()[1]
    assert drawn.axes[-1].get_ylabel() == "change of LogitDiff"
    [mark] = drawn.axes[0].lines
    np.testing.assert_array_equal(mark.get_xydata(), [[3, 2]])
    ids = summarize(swept(dims=("layer", "position"))).assign_coords(
        token=("position", np.array(list("abcdefg")))
    )
    assert labels_of(plot(ids).axes[0].xaxis) == list("abcdefg")
    for suffix in ("png", "svg", "pdf"):
        assert save(drawn, tmp_path / f"map.{suffix}").stat().st_size > 2000
    assert save(drawn, f"{tmp_path}/text.png") == tmp_path / "text.png"
    with pytest.raises(
        ValueError, match=r"expected a name that ends in \.png, \.svg, \.pdf, got 'map'"
    ):
        save(drawn, tmp_path / "map")


def test_plot_accepts_sweeps_of_one_or_several_examples():
    def drawn_cells(drawn):
        return drawn.axes[0].collections[0].get_array()

    several, single = swept(), swept().isel(example=0).drop_vars("example")
    np.testing.assert_array_equal(drawn_cells(plot(several)), drawn_cells(plot(summarize(several))))
    np.testing.assert_allclose(drawn_cells(plot(single)), single - single.baseline)
    assert (
        not plot(single).axes[0].lines[0].get_xydata().size
    )  # with one recording no cell is marked as significant
    curves = plot(swept(dims=("layer", "alpha")).isel(example=0).drop_vars("example"))
    assert len(curves.axes[0].lines) == LAYERS + 1
    texts = xr.Dataset({"wer": several, "baseline_wer": several.baseline}).drop_vars(
        "source", errors="ignore"
    )
    assert drawn_cells(plot(texts, "wer")).shape == (LAYERS, HEADS)
    with pytest.raises(ValueError, match="variable: expected one of"):
        plot(texts)


def test_time_is_drawn_under_the_spectrogram_and_strengths_as_curves():
    summary = summarize(swept(dims=("layer", "time"), window_s=0.5))
    mel = np.random.default_rng(0).normal(size=(8, 200)).astype(np.float32)
    sound, cells, _ = plot(summary, mel=mel, words=[(" one", 0.2, 0.9), (" two", 1.0, 1.8)]).axes
    assert [text.get_text() for text in sound.texts] == ["one", "two"]
    assert cells.get_xlim() == sound.get_xlim() == (0, 2)
    np.testing.assert_array_equal(summary.time_end, [0.5, 1, 1.5, 2])
    curves = plot(summarize(swept(dims=("layer", "alpha")))).axes[0]
    assert len(curves.collections) == LAYERS  # one interval per layer
    assert curves.get_xlabel() == "strength α"
    with pytest.raises(ValueError, match=r"variable: expected one of .*mean"):
        plot(summary, "value")


def test_labels_keep_the_order_of_the_grid(tiny_model):
    from interventions.patching.grid import Grid
    from jaxasr import sites

    spec = sites.spec(tiny_model.config, "encoder.resid_post", 1, 3)
    grid = Grid.of(spec, ("time", "layer"), window_s=0.04, n_frames=5, alphas=(1.0,), selected={})
    assert list(grid.labels()) == ["time", "layer"]
    np.testing.assert_allclose(grid.labels()["time"], [0, 0.04, 0.08])
    assert [grid.cell_coords()[dim].tolist()[:5] for dim in grid.dims] == [
        [0, 0, 0, 0, 2],
        [0, 1, 2, 3, 0],
    ]
