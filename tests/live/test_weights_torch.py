"""jaxasr loads checkpoints of torch and transformers with equal logits, and they load ours."""

import dataclasses

import checkpoints
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from transformers import WhisperConfig, WhisperForConditionalGeneration  # noqa: E402

from jaxasr.config import Config  # noqa: E402
from jaxasr.model import Whisper  # noqa: E402
from jaxasr.weights import assemble, read_checkpoint, save  # noqa: E402

# transformers derives the number of mel frames from max_source_positions, so it can be small.
TINY = Config(
    n_mels=80,
    n_audio_ctx=11,
    n_audio_state=12,
    n_audio_head=3,
    n_audio_layer=2,
    n_vocab=101,
    n_text_ctx=13,
    n_text_state=12,
    n_text_head=2,
    n_text_layer=3,
)
RNG = np.random.default_rng(0)
MEL = RNG.normal(size=(2, TINY.n_mels, 2 * TINY.n_audio_ctx)).astype(np.float32)
TOKENS = RNG.integers(0, TINY.n_vocab, (2, 7))


def _torch_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    settings = checkpoints.hf_config(TINY) | {
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "init_std": 0.5,
    }
    ids = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 100
    )
    return WhisperForConditionalGeneration(WhisperConfig(**settings, **ids)).eval()


def _torch_logits(model: WhisperForConditionalGeneration) -> np.ndarray:
    with torch.no_grad():
        return model(
            input_features=torch.tensor(MEL), decoder_input_ids=torch.tensor(TOKENS)
        ).logits.numpy()


def _logits(model: Whisper) -> np.ndarray:
    memory, _ = model.encode(MEL)
    return np.asarray(model.decode(TOKENS, memory)[0])


@pytest.fixture(scope="module")
def reference():
    model = _torch_model()
    return model, _torch_logits(model)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_saved_by_transformers_loads_with_its_logits(reference, shards, tmp_path):
    model, expected = reference
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB" if shards > 1 else "1GB")
    assert (len(list((tmp_path / "hf").glob("*.safetensors"))) > 1) == (shards > 1)
    read = read_checkpoint(tmp_path / "hf")
    assert read.config == TINY
    np.testing.assert_allclose(
        _logits(assemble(read)), expected, atol=5e-5 * max(1, np.abs(expected).max()), rtol=0
    )


def test_transformers_loads_our_folder_bitwise(reference, tmp_path):
    model, expected = reference
    model.save_pretrained(tmp_path / "theirs")
    ours = save(assemble(read_checkpoint(tmp_path / "theirs")), tmp_path / "ours")
    loaded, report = WhisperForConditionalGeneration.from_pretrained(ours, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    np.testing.assert_array_equal(_torch_logits(loaded.eval()), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_survives_loading_and_saving(reference, dtype, tmp_path):
    _torch_model().to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    model = assemble(read_checkpoint(tmp_path / "theirs"), param_dtype=dtype)
    again = WhisperForConditionalGeneration.from_pretrained(
        save(model, tmp_path / "ours"), dtype="auto"
    )
    for name, tensor in _torch_model().to(getattr(torch, dtype)).state_dict().items():
        assert again.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("half", [False, True])
def test_a_file_saved_by_torch_loads_with_its_tensors(half, tmp_path):
    """The file is like one of openai/whisper, with a Parameter and a transposed view."""
    arrays = checkpoints.random_tensors(TINY, np.float16 if half else np.float32)
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    name = "decoder.blocks.0.mlp.0.weight"
    state[name] = state[name].t().contiguous().t()
    state["encoder.ln_post.bias"] = torch.nn.Parameter(state["encoder.ln_post.bias"])
    dims = {key: value for key, value in dataclasses.asdict(TINY).items() if key.startswith("n_")}
    torch.save({"dims": dims, "model_state_dict": state}, tmp_path / "mine.pt")
    read = read_checkpoint(tmp_path / "mine.pt")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.tensors[name], array)
    expected = assemble(read_checkpoint(checkpoints.write_hf(tmp_path / "hf", arrays, TINY)))
    assert jax.tree.all(jax.tree.map(np.array_equal, assemble(read), expected))


def test_a_state_dict_with_metadata_loads(tmp_path):
    """torch pickles the attribute `_metadata` of `module.state_dict()` as an object's state."""
    holder = torch.nn.Linear(3, 2)
    torch.save({"model_state_dict": holder.state_dict()}, tmp_path / "linear.pt")
    from jaxasr.weights import torch_file

    archive, content = torch_file.load(tmp_path / "linear.pt")
    state = torch_file.tensors(archive, content["model_state_dict"])
    assert list(state) == ["weight", "bias"]
    np.testing.assert_array_equal(state["bias"].read(), holder.bias.detach().numpy())


def test_transformers_generates_from_a_folder_we_saved(tmp_path):
    """The folder also has the tokenizer, the feature extractor and the generation settings."""
    from transformers import AutoProcessor

    read = read_checkpoint("tiny.en")
    folder = save(assemble(read), tmp_path / "tiny.en", checkpoint=read)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    features = processor(
        np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    assert features.shape == (1, 80, 3000)
    ids = model.generate(features, max_new_tokens=5)
    assert isinstance(processor.batch_decode(ids, skip_special_tokens=True)[0], str)
    assert model.generation_config.alignment_heads == [list(pair) for pair in read.alignment_heads]
