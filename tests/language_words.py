"""Writes a toy audio language model whose tokenizer has the words of the sentences of E5."""

from pathlib import Path

from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.data.spoken_pairs import pairs
from jaxasr.language.model import AudioLanguageModel
from jaxasr.language.prompts import FORMATS
from jaxasr.language.toy import toy_config
from jaxasr.weights import save


def write_toy_with_words(folder: Path, family: str = "qwen2_audio") -> Path:
    texts = [
        f" {pair.sentence.format(word)}"
        for pair in pairs()
        for word in (pair.target, pair.expected)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, **options))
    form = FORMATS[family]
    tokenizer.add_special_tokens([*form.control, "<|en|>"])
    audio_token, end = (tokenizer.token_to_id(token) for token in (form.audio, form.end))
    config = toy_config(family).replace(
        n_vocab=tokenizer.get_vocab_size(), audio_token=audio_token, eos=(end,)
    )
    path = save(AudioLanguageModel(config, rngs=nnx.Rngs(0)), folder)
    tokenizer.save(str(path / "tokenizer.json"))
    return path
