"""Lists the prompts of each family of audio language models."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """Control tokens and prompts of a family. In a prompt, `{}` stands for a text.

    Attributes:
        audio: the token that stands for one step of encoded audio. A prompt has it once, and the
            tokenizer repeats it.
        pad: the token that pads shorter prompts.
        end: the token that ends a text.
        control: tokens that the tokenizer must have.
        plain: the audio, and a text that the model continues.
        chat: a chat in which a user asks about the audio.
        transcription: a request for a transcription.
        language: text of `transcription` if the language is given; `{}` stands for its code.

    Example:
        >>> from jaxasr.language.prompts import FORMATS
        >>> FORMATS["voxtral"].audio
        '[AUDIO]'
    """

    audio: str
    pad: str
    end: str
    control: tuple[str, ...]
    plain: str
    chat: str
    transcription: str
    language: str


_QWEN_AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"
_VOXTRAL_AUDIO = "<s>[INST][BEGIN_AUDIO][AUDIO]"

_FLAMINGO_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<sound>{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)

# Sources: the prompts of Qwen2-Audio's evaluation, the chat templates of Qwen2-Audio and Audio
# Flamingo 3 in transformers, and the requests of mistral-common for Voxtral.
FORMATS: dict[str, PromptFormat] = {
    "qwen2_audio": PromptFormat(
        audio="<|AUDIO|>",
        pad="<|endoftext|>",
        end="<|im_end|>",
        control=(
            "<|AUDIO|>",
            "<|audio_bos|>",
            "<|audio_eos|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|endoftext|>",
        ),
        plain=_QWEN_AUDIO + "{}",
        chat=(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\nAudio 1: {_QWEN_AUDIO}\n{{}}<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
        transcription=f"{_QWEN_AUDIO}Detect the language and recognize the speech:{{}}",
        language=" <|{}|>",
    ),
    "voxtral": PromptFormat(
        audio="[AUDIO]",
        pad="<pad>",
        end="</s>",
        control=(
            *("[AUDIO]", "[BEGIN_AUDIO]", "[INST]", "[/INST]", "[TRANSCRIBE]"),
            *("<s>", "</s>", "<pad>"),
        ),
        plain="<s>[BEGIN_AUDIO][AUDIO]{}",
        chat=_VOXTRAL_AUDIO + "{}[/INST]",
        transcription=_VOXTRAL_AUDIO + "[/INST]{}[TRANSCRIBE]",
        language="lang:{}",
    ),
    "audioflamingo3": PromptFormat(
        audio="<sound>",
        pad="<|endoftext|>",
        end="<|im_end|>",
        control=("<sound>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        plain="<sound>{}",
        chat=_FLAMINGO_CHAT.replace("{text}", "{}"),
        # The request has no place for a language.
        transcription=_FLAMINGO_CHAT.replace("{text}", "Transcribe the input speech.{}"),
        language="",
    ),
}
