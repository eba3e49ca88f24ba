"""Folders of audio language models are exchanged with transformers. Inputs are the same."""

import json

import jax
import language_checkpoints as tiny
import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

import jaxasr
from jaxasr.weights import assemble, read_checkpoint, save
from jaxasr.weights.language_settings import config_json, read_config

CLASSES = {
    "qwen2_audio": (Qwen2AudioConfig, Qwen2AudioForConditionalGeneration),
    "voxtral": (VoxtralConfig, VoxtralForConditionalGeneration),
    "audioflamingo3": (AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration),
}
both = pytest.mark.parametrize("family", tiny.ALL_FAMILIES)


def torch_logits(model, inputs):
    """Returns the logits of transformers for one recording."""
    arguments = {
        "input_ids": torch.tensor(inputs.tokens.astype(np.int64)),
        "attention_mask": torch.tensor((inputs.positions >= 0).astype(np.int64)),
        "input_features": torch.tensor(inputs.mel),
    }
    masks = {
        Qwen2AudioForConditionalGeneration: "feature_attention_mask",
        AudioFlamingo3ForConditionalGeneration: "input_features_mask",
    }
    if name := masks.get(type(model)):
        frames = np.arange(inputs.mel.shape[2]) < inputs.lengths[:, None]
        arguments[name] = torch.tensor(frames.astype(np.int64))
    with torch.no_grad():
        return model(**arguments).logits.numpy()


def our_logits(asr, inputs):
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    return np.asarray(asr.model.decode(inputs.tokens, memory)[0])


@both
@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_both_libraries_read_what_the_other_saves(family, shard_bytes, tmp_path):
    ours = jaxasr.load(tiny.write(tmp_path / "ours", family))
    _, model_class = CLASSES[family]
    folder = save(ours, tmp_path / "for transformers", shard_bytes=shard_bytes)
    theirs, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    inputs = ours.inputs([np.sin(np.arange(12_345, dtype=np.float32))], "What is this?")
    expected = torch_logits(theirs, inputs)
    np.testing.assert_allclose(our_logits(ours, inputs), expected, atol=1e-5)
    theirs.save_pretrained(tmp_path / "back", max_shard_size=shard_bytes)
    again = assemble(read_checkpoint(tmp_path / "back"))
    assert jax.tree.all(jax.tree.map(np.array_equal, again, ours.model))
    assert again.config.replace(eos=ours.config.eos) == ours.config


@both
def test_omitted_settings_have_the_defaults_of_transformers(family, tmp_path):
    config_class, _ = CLASSES[family]
    given = {"model_type": family, "audio_token_id": 24}
    complete = config_class(audio_token_id=24).to_dict()
    path = tmp_path / "config.json"
    assert read_config(given, path) == read_config(complete, path)
    # Ours reads the same in transformers.
    config = read_config(
        given | {"text_config": {"vocab_size": 1000, "num_hidden_layers": 3}}, path
    )
    theirs = config_class.from_dict(config_json(config)).to_dict()
    assert read_config(json.loads(json.dumps(theirs)), path) == config


@both
def test_features_and_lengths_are_those_of_the_feature_extractor(family, tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / family, family))
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    rng = np.random.default_rng(0)
    audios = [rng.normal(size=n).astype(np.float32) / 9 for n in (16_000, 5001, 1600, 961)]
    inputs = asr.inputs(audios)
    expected = extractor(
        audios, sampling_rate=16_000, return_attention_mask=True, padding="max_length"
    )
    np.testing.assert_allclose(inputs.mel, expected["input_features"], atol=1e-4)
    assert inputs.lengths.tolist() == expected["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_are_those_of_the_processor(chat, tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / "qwen", "qwen2_audio"))
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path / "qwen")
    tokenizer.padding_side = "left"
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    processor = Qwen2AudioProcessor(extractor, tokenizer)
    audios = [np.ones(n, np.float32) / 9 for n in (16_000, 5001, 961)]
    question = "Où est-ce? {}"
    if chat:
        user = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
        )
    else:
        text = f"<|audio_bos|><|AUDIO|><|audio_eos|>{question}"
    expected = processor(
        text=[text] * 3, audio=audios, sampling_rate=16_000, padding=True, return_tensors="np"
    )
    inputs = asr.inputs(audios, question, chat=chat)
    np.testing.assert_array_equal(inputs.tokens, expected["input_ids"])
    np.testing.assert_array_equal(inputs.positions >= 0, expected["attention_mask"])
    np.testing.assert_array_equal(
        np.arange(200) < inputs.lengths[:, None], expected["feature_attention_mask"]
    )
    np.testing.assert_allclose(inputs.mel, expected["input_features"], atol=1e-4)


def test_the_tokenizer_of_voxtral_is_that_of_transformers(tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / "voxtral", "voxtral"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "voxtral")
    for text in ("What is the language?", "lang:en", " é  2025\n"):
        ids = theirs(text, add_special_tokens=False).input_ids
        assert asr.tokenizer.encode(text) == ids
        assert asr.tokenizer.decode(ids) == theirs.decode(ids)


# The chat template of the released processor, which `convert_audioflamingo3_to_hf.py` writes.
FLAMINGO_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] if c['type'] == 'audio' %}<sound>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("question", [None, "Où est-ce? {}"])
def test_prompts_of_audio_flamingo_are_those_of_its_processor(question, tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / "flamingo", "audioflamingo3"))
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path / "flamingo")
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2, return_attention_mask=True)
    processor = AudioFlamingo3Processor(extractor, tokenizer, chat_template=FLAMINGO_TEMPLATE)
    audios = [np.ones(n, np.float32) / 9 for n in (16_000, 5001, 961)]
    expected = processor.apply_transcription_request(audios, prompt=question)
    inputs = asr.inputs(audios, question)
    np.testing.assert_array_equal(inputs.tokens, expected["input_ids"])
    np.testing.assert_array_equal(inputs.positions >= 0, expected["attention_mask"])
    frames = np.arange(200) < inputs.lengths[:, None]
    np.testing.assert_array_equal(frames, expected["input_features_mask"])
    np.testing.assert_allclose(inputs.mel, expected["input_features"], atol=1e-4)
