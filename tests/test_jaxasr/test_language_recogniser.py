"""An audio language model transcribes recordings and answers questions."""

import language_checkpoints as tiny
import numpy as np
import pytest

import jaxasr
from interventions import edits

both = pytest.mark.parametrize("family", tiny.FAMILIES)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: jaxasr.load(tiny.write(folder / name, name)) for name in tiny.FAMILIES}


@pytest.fixture
def asr(models, family):
    return models[family]


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(size=n, scale=0.1).astype(np.float32)


def greedy(asr, audio, prompt, n):
    """Generates by repeated teacher-forced passes."""
    memory, _ = asr.model.encode(
        jaxasr.log_mel(audio, 80, 200)[None], lengths=[-(-len(audio) // 160)]
    )
    ids = list(prompt)
    for _ in range(n):
        logits, _ = asr.model.decode(np.array([ids]), memory)
        ids.append(int(logits[0, -1].argmax()))
    new = ids[len(prompt) :]
    return new[: next((i for i, id_ in enumerate(new) if id_ in asr.config.eos), n)]


@both
def test_an_answer_is_greedy(asr):
    audio = noise(12_345)
    inputs = asr.inputs([audio], "What?")
    expected = greedy(asr, audio, inputs.tokens[0].tolist(), 4)
    assert asr.generate(inputs, max_new_tokens=4).ids[0] == tuple(expected)
    assert asr.ask(audio, "What?", max_new_tokens=4) == asr.tokenizer.decode(expected).strip()


@both
def test_chat_and_plain_prompts_differ(asr):
    audio = noise(8000)
    chat, plain = (asr.inputs([audio], "What?", chat=chat).tokens for chat in (True, False))
    assert chat.shape[1] > plain.shape[1]
    assert asr.inputs([audio]).tokens[0].tolist() != plain[0].tolist()


@both
def test_rows_of_a_batch_equal_recordings_alone(asr):
    audios = [noise(16_000), noise(5000, 1), noise(11_111, 2)]
    together = asr.generate(asr.inputs(audios, "Who?"), max_new_tokens=4)
    for row, audio in enumerate(audios):
        alone = asr.generate(asr.inputs([audio], "Who?"), max_new_tokens=4)
        assert alone.ids[0] == together.ids[row]
        np.testing.assert_allclose(
            alone.avg_logprob[0], together.avg_logprob[row], rtol=1e-5, atol=1e-6
        )


@both
def test_a_long_recording_is_transcribed_window_by_window(asr):
    audio = noise(2 * 32_000 + 200)  # the last window is too short for an audio token
    seconds = []
    transcript = asr.transcribe(
        audio,
        language="English",
        max_new_tokens=3,
        batch_size=2,
        word_timestamps=False,
        progress=lambda *args: seconds.append(args),
    )
    assert seconds == [(4.0, 4.0125)]
    parts = [*transcript.segments, *transcript.silences]
    assert sorted((part.start, part.end) for part in parts) == [(0.0, 2.0), (2.0, 4.0)]
    assert transcript.language == "en"
    assert transcript.duration == 4.0125
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)
    first = asr.generate(asr.inputs([audio[:32_000]], language="en"), max_new_tokens=3)
    assert first.text[0] == next(part.text for part in parts if part.start == 0)
    alone = asr.transcribe(audio, language="en", max_new_tokens=3, batch_size=1)
    assert transcript.text == alone.text


def test_a_stated_language_is_not_part_of_the_text(models, monkeypatch):
    asr = models["qwen2_audio"]
    ids = (*asr.tokenizer.encode("<|en|> Hi."),)
    original = type(asr).generate

    def generate(self, *args, **kwargs):
        import dataclasses

        out = original(self, *args, **kwargs)
        return dataclasses.replace(out, ids=(ids,), text=("<|en|> Hi.",))

    monkeypatch.setattr(type(asr), "generate", generate)
    transcript = asr.transcribe(noise(8000), language=None, max_new_tokens=1)
    assert (transcript.language, transcript.text) == ("en", "Hi.")


def test_an_unknown_language_is_not_invented(models):
    transcript = models["voxtral"].transcribe(noise(8000), language=None, max_new_tokens=1)
    assert transcript.language == "und"
    with pytest.raises(ValueError, match="language: expected a code"):
        models["voxtral"].transcribe(noise(8000), language="xx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word_timestamps": True}, "word_timestamps: not supported by an audio language model"),
        ({"temperature": (0.0, 0.2)}, "temperature: not supported"),
        ({"beams": 3}, "unknown option 'beams'"),
        ({"batch_size": 0}, "batch_size, max_new_tokens: expected at least 1"),
    ],
)
def test_options_without_an_effect_are_refused(options, message, models):
    with pytest.raises(ValueError, match=message):
        models["qwen2_audio"].transcribe(noise(8000), **options)


@both
def test_edits_of_both_stacks_act(asr):
    inputs = asr.inputs([noise(8000)], "What?")
    plain = asr.generate(inputs, max_new_tokens=2).avg_logprob[0]
    for site in ("encoder.resid_post", "encoder.project", "decoder.resid_post"):
        changed = asr.generate(inputs, max_new_tokens=2, edits={site: edits.Scale(0.0)})
        assert changed.avg_logprob[0] != plain
    same = asr.generate(inputs, max_new_tokens=2, edits={"encoder.project": edits.Scale(1.0)})
    assert same.avg_logprob[0] == plain
    memory, _ = asr.model.encode(inputs.mel, lengths=inputs.lengths)
    assert asr.generate(inputs, memory=memory, max_new_tokens=2).avg_logprob[0] == plain
    with pytest.raises(ValueError, match="because memory is given"):
        asr.generate(inputs, memory=memory, edits={"encoder.project": edits.Scale(0.0)})
    with pytest.raises(ValueError, match="Unknown site"):
        asr.ask(noise(8000), "What?", edits={"decoder.cross_attn.z": edits.Scale(0.0)})


def test_any_end_of_text_ends_a_text(models):
    import dataclasses

    asr = models["voxtral"]
    inputs = asr.inputs([noise(8000)], "What?")
    ids = asr.generate(inputs, max_new_tokens=6).ids[0]
    assert len(ids) == 6
    end = next(i for i in range(1, 6) if ids[i] not in ids[:i])
    config = asr.config.replace(eos=(2, ids[end]))
    other = dataclasses.replace(asr, model=_with_config(asr.model, config))
    out = other.generate(inputs, max_new_tokens=6)
    assert out.ids[0] == ids[:end]
    assert out.ended[0]
    expected = np.asarray(out.generation.logprobs)[0, : end + 1].mean()
    np.testing.assert_allclose(out.avg_logprob[0], expected, rtol=1e-6)


def _with_config(model, config):
    import copy

    model = copy.copy(model)
    model.config = config
    return model


@both
def test_the_recogniser_describes_itself(asr):
    assert asr.config.family in asr._repr_html_()
    assert repr(asr).startswith("PromptedRecogniser(")
    assert "encoder.project" in asr.sites
    assert "decoder.cross_attn.z" not in asr.sites
