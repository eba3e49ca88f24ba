"""Tokenizers and prompts of audio language models."""

import json

import language_checkpoints as tiny
import numpy as np
import pytest

import jaxasr
from jaxasr.language.tokenizer import LanguageTokenizer
from jaxasr.weights import WeightsError, read_checkpoint

both = pytest.mark.parametrize("family", tiny.FAMILIES)


@pytest.fixture
def tokenizer(family, tmp_path):
    return read(tiny.write(tmp_path / family, family))


def read(folder):
    checkpoint = read_checkpoint(folder)
    return LanguageTokenizer.from_file(checkpoint.tokenizer_file, checkpoint.config)


@pytest.mark.parametrize("family", ["voxtral"])
def test_voxtral_prompts_are_those_of_mistral_common(tokenizer):
    # Ids of mistral-common 1.13.1 (`encode_transcription` and `encode_chat_completion`) with this
    # tekken.json and 1 s of audio, which it pads to 375 audio tokens.
    audio = [24] * 375
    transcription = [1, 3, 25, *audio, 4, 293, 93, 294, 34]
    assert tokenizer.transcription(375, "en") == transcription
    assert tokenizer.transcription(375, None) == [1, 3, 25, *audio, 4, 34]
    question = [305, 67, 299, 297, 67, 293, 152, 132, 138, 136, 98]
    assert tokenizer.chat(375, "What is the language?") == [1, 3, 25, *audio, *question, 4]


@pytest.mark.parametrize("family", ["qwen2_audio"])
def test_qwen2_audio_prompts_are_those_of_its_chat_template(tokenizer):
    def text(ids):
        return tokenizer.decode(ids, special=True)

    assert text(tokenizer.transcription(2, "en")) == (
        "<|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>"
        "Detect the language and recognize the speech: <|en|>"
    )
    assert text(tokenizer.transcription(1, None)).endswith("recognize the speech:")
    assert text(tokenizer.plain(1, "Say {} it:")).endswith("<|audio_eos|>Say {} it:")
    assert text(tokenizer.chat(2, "What is this?")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Audio 1: <|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@both
def test_tokens_have_texts(family, tokenizer):
    ids = tokenizer.encode("Né what")
    assert tokenizer.decode(ids) == "Né what"
    assert "".join(tokenizer.token_texts(ids)) == r"N\xc3\xa9 what"
    assert tokenizer.token_texts([tokenizer.audio_token]) == [tokenizer.format.audio]
    assert tokenizer.decode([tokenizer.audio_token, *ids]) == "Né what"
    with pytest.raises(ValueError, match="token ids from 0 to"):
        tokenizer.decode([tokenizer.n_vocab])


@both
def test_a_question_with_the_audio_token_is_refused(family, tokenizer):
    with pytest.raises(ValueError, match="expected one without"):
        tokenizer.chat(2, f"What is {tokenizer.format.audio}?")


@both
def test_a_tokenizer_of_another_model_is_refused(family, tmp_path):
    folder = tiny.write(tmp_path / family, family)
    path = folder / ("tokenizer.json" if family == "qwen2_audio" else "tekken.json")
    text, name = path.read_text(), "<|audio_bos|>" if family == "qwen2_audio" else "[BEGIN_AUDIO]"
    path.write_text(text.replace(name, "<|other|>"))
    with pytest.raises(WeightsError, match=r"none of .*(audio_bos|BEGIN_AUDIO)"):
        read(folder)
    path.write_text(text)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"audio_token_index": 5, "audio_token_id": 5}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=r"with the id 5 of config\.json"):
        read(folder)
    path.write_text("{")
    with pytest.raises(WeightsError, match="a tokenizer"):
        read(folder)


@both
def test_a_folder_without_a_tokenizer_gives_an_error(family, tmp_path):
    folder = tiny.write(tmp_path / family, family)
    for path in (*folder.glob("tokenizer*"), *folder.glob("tekken*")):
        path.unlink()
    with pytest.raises(WeightsError, match=r"tekken\.json"):
        jaxasr.load(folder)


@both
def test_audio_tokens_follow_from_the_true_length(family, tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / family, family))
    audios = [np.ones(n, np.float32) / 9 for n in (16_000, 961, 8001, 8160)]
    inputs = asr.inputs(audios, "Who?")
    assert inputs.lengths.tolist() == [100, 7, 51, 51]
    n_audio = (inputs.tokens == asr.tokenizer.audio_token).sum(1).tolist()
    assert n_audio == ([25, 2, 13, 13] if family == "qwen2_audio" else [25] * 4)
    n_padding = (inputs.positions < 0).sum(1)
    assert n_padding.tolist() == [max(n_audio) - n for n in n_audio]
    for row, n in enumerate(n_padding):
        assert (inputs.tokens[row, :n] == asr.tokenizer.pad).all()
        assert inputs.positions[row, n:].tolist() == list(range(inputs.tokens.shape[1] - n))
    np.testing.assert_array_equal(inputs.mel[1], jaxasr.log_mel(audios[1], 80, 200))


@both
def test_recordings_that_do_not_fit_are_refused(family, tmp_path):
    asr = jaxasr.load(tiny.write(tmp_path / family, family))
    least = 321 if family == "qwen2_audio" else 961
    for audios, message in (
        ([], "expected at least one recording"),
        ([np.zeros(32_001, np.float32)], "at most 32000 samples"),
        ([np.zeros(least - 1, np.float32)], f"at least {least} samples"),
    ):
        with pytest.raises(ValueError, match=message):
            asr.inputs(audios)
    inputs = asr.inputs([np.zeros(least, np.float32)])
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    assert memory.lengths.tolist() == [1 if family == "qwen2_audio" else 25]
