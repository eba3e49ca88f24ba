"""Checkpoints of every format give the same tensors and the same model."""

import checkpoints
import jax
import numpy as np
import pytest
from checkpoints import DTYPES, TINY, WRITERS

from jaxasr.encoder import sinusoids
from jaxasr.weights import assemble, read_checkpoint
from jaxasr.weights.assemble import parameters_by_name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", WRITERS)
def test_round_trip_is_bitwise(form, dtype, tmp_path):
    tensors = checkpoints.random_tensors(dtype=DTYPES[dtype])
    read = read_checkpoint(WRITERS[form](tmp_path / "tiny", tensors))
    assert read.config == TINY
    assert set(read.tensors) == set(tensors)
    for name, expected in tensors.items():
        tensor = read.tensors[name]
        assert tensor.dtype == expected.dtype == read.tensors.entries[name].dtype
        np.testing.assert_array_equal(tensor, expected)
    assert read.tensors.nbytes == sum(t.nbytes for t in tensors.values())


def test_every_format_assembles_to_the_same_model(tmp_path):
    tensors = checkpoints.random_tensors(dtype=np.float16)
    models = [
        assemble(read_checkpoint(write(tmp_path / form, tensors)))
        for form, write in WRITERS.items()
    ]
    for model in models[1:]:
        assert jax.tree.all(jax.tree.map(np.array_equal, models[0], model))


def test_parameters_are_stacked_and_transposed(tmp_path):
    """Linear kernels are [in, out], convolutions [width, in, out]."""
    tensors = checkpoints.random_tensors()
    parameters = parameters_by_name(
        assemble(read_checkpoint(checkpoints.write_hf(tmp_path / "hf", tensors)))
    )
    for layer in range(TINY.n_text_layer):
        block = f"decoder.blocks.{layer}"
        np.testing.assert_array_equal(
            parameters["decoder.blocks.cross_attn.value.kernel"][layer],
            tensors[f"{block}.cross_attn.value.weight"].T,
        )
        np.testing.assert_array_equal(
            parameters["decoder.blocks.mlp.fc1.bias"][layer], tensors[f"{block}.mlp.0.bias"]
        )
        np.testing.assert_array_equal(
            parameters["decoder.blocks.mlp_ln.scale"][layer], tensors[f"{block}.mlp_ln.weight"]
        )
    conv = np.asarray(parameters["encoder.conv1.kernel"])
    for out, into, width in ((11, 4, 2), (0, 3, 1)):
        assert conv[width, into, out] == tensors["encoder.conv1.weight"][out, into, width]
    np.testing.assert_array_equal(
        parameters["decoder.token_embedding"], tensors["decoder.token_embedding.weight"]
    )
    np.testing.assert_array_equal(
        parameters["encoder.positional_embedding"], tensors["encoder.positional_embedding"]
    )


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_weights_are_stored_in_param_dtype(param_dtype, tmp_path):
    model = assemble(
        read_checkpoint(checkpoints.write_ct2(tmp_path / "m", checkpoints.random_tensors())),
        "bfloat16",
        param_dtype,
    )
    assert (model.config.dtype, model.config.param_dtype) == ("bfloat16", param_dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {param_dtype}


@pytest.mark.parametrize("form", ["huggingface", "ctranslate2"])
def test_a_folder_gives_its_name_tokenizer_heads_and_suppressed_tokens(form, tmp_path):
    folder = WRITERS[form](tmp_path / "my-model", checkpoints.random_tensors())
    (folder / "tokenizer.json").write_text("{}")
    read = read_checkpoint(folder)
    assert (read.name, read.format, read.source) == ("my-model", form, folder)
    assert read.tokenizer_file == folder / "tokenizer.json"
    assert read.alignment_heads == ((2, 0), (0, 1))
    assert (read.suppress_ids, read.suppress_ids_begin) == ((3,), (4,))
    assert len(read.sha256) == 64


def test_a_weight_file_stands_for_its_folder(tmp_path):
    tensors = checkpoints.random_tensors()
    for form, file in (
        ("huggingface", "model.safetensors"),
        ("sharded", "model.safetensors.index.json"),
        ("ctranslate2", "model.bin"),
    ):
        assert set(read_checkpoint(WRITERS[form](tmp_path / form, tensors) / file).tensors) == set(
            tensors
        )
    checkpoints.write_pt(tmp_path / "folder" / "only.pt", tensors)
    assert read_checkpoint(tmp_path / "folder").format == "openai"


@pytest.mark.parametrize("form", WRITERS)
def test_absent_encoder_positions_are_the_sinusoids(form, tmp_path):
    tensors = checkpoints.random_tensors()
    if form == "ctranslate2":
        variables = checkpoints.ct2_variables(tensors)
        del variables["encoder/position_encodings/encodings"]
        read = read_checkpoint(checkpoints.write_ct2_variables(tmp_path / "m", variables))
        # Without positions, the file has no length of the window, so it is the default.
        assert read.config == TINY.replace(n_audio_ctx=1500)
    else:
        del tensors["encoder.positional_embedding"]
        read = read_checkpoint(WRITERS[form](tmp_path / "m", tensors))
    expected = sinusoids(read.config.n_audio_ctx, TINY.n_audio_state)
    np.testing.assert_array_equal(read.tensors["encoder.positional_embedding"], expected)
    assemble(read)


def test_sinusoids_equal_their_formula():
    """The first half of the channels is sin(t / 10000^(i / (half - 1))), the second half cos."""
    positions = sinusoids(4, 6)
    for t in range(4):
        for i in range(3):
            angle = t / 10_000 ** (i / 2)
            np.testing.assert_allclose(
                positions[t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], rtol=1e-6
            )
