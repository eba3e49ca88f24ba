"""Patches activations of recordings, cell by cell, and measures the effect of each patch."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import interventions as iv
from experiments.analyses.patch_question import PatchAnswer, PatchQuestion
from experiments.analyses.patch_recordings import (
    Samples,
    count_longest_frames,
    generate_ids,
    stack_mels,
    word_times,
)
from experiments.analyses.patch_texts import patch_texts
from experiments.progress import Progress
from interventions.metrics import Metric
from interventions.patching.grid import Grid
from jaxasr import Recogniser, sites
from jaxasr.config import SIZES
from jaxasr.meshes import make_mesh
from jaxasr.processes import Process


def check_grid(question: PatchQuestion) -> None:
    """Checks, before a model is loaded, that the site has the dimensions of the grid.

    Raises:
        ValueError: a dimension does not fit. The message names `--over`.
    """
    # The dimensions of a site are the same in all models, so the smallest model serves here.
    spec = sites.spec(SIZES["tiny.en"], question.site, batch=1, n_tokens=1)
    options = {"window_s": question.window_s, "n_frames": 1, "selected": {}}
    try:
        Grid.of(spec, question.dims, alphas=question.alphas or (1.0,), **options)
    except ValueError as error:
        # The error names the argument `over`, which is the option `--over` on the command line.
        raise ValueError(f"--{str(error).removeprefix('--')}") from None


def patch(
    asr: Recogniser,
    audio: Sequence[Samples],
    sources: Sequence[Samples] | None,
    question: PatchQuestion,
    steps: Progress,
    open_store: Callable[[], Path],
    process: Process | None = None,
) -> PatchAnswer | None:
    """Runs a patching experiment.

    Args:
        asr: the recogniser.
        audio: samples of the targets at 16 kHz.
        sources: for each target the recording that its patches are taken from, as `make_sources`
            returns them, or None.
        question: the experiment.
        steps: shows the plan and the progress of the sweep.
        open_store: makes the folder for finished cells and returns its path.
        process: computes the share of one process. The first process waits for the others.

    Returns:
        The metric of each cell, with labels. None in all processes but the first.

    Raises:
        ValueError: the question does not fit the recordings. For example, the answer is not in the
            text.

    Example:
        ```python
        question = PatchQuestion("encoder.resid_post", ("layer",), source="zero", metric="logprob")
        answer = patch(asr, [audio], None, question, Progress(), lambda: Path("cells"))
        ```
    """
    sweep = patch_texts if question.sequence else _patch_token
    answer = sweep(asr, audio, sources, question, steps, open_store, process or Process())
    if answer is None:
        return None
    return dataclasses.replace(answer, words=word_times(asr, audio[0], question))


def _patch_token(
    asr: Recogniser,
    audio: Sequence[Samples],
    sources: Sequence[Samples] | None,
    question: PatchQuestion,
    steps: Progress,
    open_store: Callable[[], Path],
    process: Process,
) -> PatchAnswer | None:
    with steps("encode and plan"):
        token = _choose_token(asr, audio, sources, question)
        plan = iv.plan_sweep(
            asr.model,
            token.target,
            token.source,
            site=question.site,
            over=question.dims,
            metric=_make_metric(asr, token, question.metric),
            window_s=question.window_s,
            n_frames=count_longest_frames(asr, audio),
            alphas=question.alphas or (1.0,),
            mesh=make_mesh() if jax.local_device_count() > 1 else None,
            recordings=question.recordings_together,
            process=process,
        )
        context = asr.tokenizer.decode(np.asarray(token.target.tokens)[0].tolist()).strip()
        scored = _describe_metric(asr, token, question.metric, context)
    steps.note(str(plan), scored)
    store = open_store()
    with steps.bar("sweep") as progress:
        result = iv.sweep(plan=plan, store=store, progress=progress)
    if not process.is_first:
        return None
    if process.count > 1:
        with steps("wait for the other processes"):
            result = iv.open_sweep(store, process=process)
    return PatchAnswer(result, str(plan), scored, [context], sources[0] if sources else None)


@dataclasses.dataclass(frozen=True)
class _ScoredToken:
    """The token that is scored, and the runs that it is scored in.

    Attributes:
        target: run whose tokens are those before the scored token.
        source: run that patches are taken from, or the name of a source, such as "zero".
        answer: id of the scored token.
        foil: id of the token that the metric logit_diff compares with the scored token.
    """

    target: iv.Run
    source: iv.Run | str
    answer: int
    foil: int


def _choose_token(
    asr: Recogniser,
    audio: Sequence[Samples],
    sources: Sequence[Samples] | None,
    question: PatchQuestion,
) -> _ScoredToken:
    """Encodes the recordings, and chooses the scored token (the answer) and its foil.

    The answer is the first token of --answer, scored after --text or where it occurs in the text
    that the model generates. Without --answer, the answer is one of these tokens:

    * with --text: the likeliest token after that text;
    * else, if the source is a recording: the generated token whose probability it changes most;
    * else: the last generated token.

    Without --foil, the foil is the likeliest token other than the answer. It is the likeliest under
    the source if the source is a recording, else under the target.
    """
    prompt = asr.tokenizer.prompt(question.language)
    # The choice needs only the first recording. The sweep encodes the others when it needs them.
    mels = [None if sounds is None else stack_mels(asr, sounds) for sounds in (audio, sources)]
    empty = jnp.zeros((1, 1), jnp.int32)
    first, first_source = (
        None if mel is None else iv.Run(mel=mel[:1], tokens=empty).encode(asr.model) for mel in mels
    )
    assert first is not None
    assert first.memory is not None
    ids = _context_ids(asr, first.memory, question)
    tokens = np.tile([*prompt, *ids], (len(audio), 1)).astype(np.int32)

    def with_tokens(run: iv.Run, n_rows: int, n_tokens: int) -> iv.Run:
        return dataclasses.replace(run, tokens=jnp.asarray(tokens[:n_rows, :n_tokens]))

    target_logprobs = _logprobs_of_first_example(asr, with_tokens(first, 1, tokens.shape[1]))
    source_logprobs = (
        target_logprobs
        if first_source is None
        else _logprobs_of_first_example(asr, with_tokens(first_source, 1, tokens.shape[1]))
    )
    answers = asr.tokenizer.encode(" " + question.answer.strip()) if question.answer else []
    if question.text:
        index = len(ids)
        answer = answers[0] if answers else int(target_logprobs[-1].argmax())
    else:
        # Row t of the log-probabilities predicts token t + 1. The last row of the prompt therefore
        # predicts the first token of the text.
        changes = np.abs(target_logprobs - source_logprobs)[len(prompt) - 1 : -1]
        index = _find_scored_token(asr, ids, answers, changes[np.arange(len(ids)), ids], question)
        answer = ids[index]
    n_tokens = len(prompt) + index
    # The log-probabilities in row n_tokens - 1 are those of the scored token and its rivals.
    foil = _choose_foil(asr, source_logprobs[n_tokens - 1], answer, question)
    # The scored token is predicted after the last token of a run, so cut the runs before it.
    target, source = (
        run
        if run is None
        else with_tokens(
            run if len(audio) == 1 else iv.Run(mel=mel, tokens=empty), len(audio), n_tokens
        )
        for run, mel in zip((first, first_source), mels)
    )
    assert target is not None
    return _ScoredToken(target, question.source if source is None else source, answer, foil)


def _context_ids(asr: Recogniser, memory: Any, question: PatchQuestion) -> list[int]:
    """Returns the ids of --text, or of the text that the model generates."""
    if question.text:
        return asr.tokenizer.encode(" " + question.text.strip())
    [ids] = generate_ids(asr, memory, question)
    if not ids:
        raise ValueError(
            "--text: the model generates no text for this recording. Give words with --text."
        )
    return ids


def _find_scored_token(
    asr: Recogniser,
    ids: list[int],
    answers: list[int],
    changes: Float[np.ndarray, "T"],
    question: PatchQuestion,
) -> int:
    """Returns the index of the scored token in `ids`, the text that the model generates.

    Args:
        asr: the recogniser.
        ids: tokens of the text.
        answers: tokens of --answer. Empty: the token that changes most is chosen, or the last token
            if no token changes.
        changes: size of the change of each token's log-probability under the source, in nats.
        question: the experiment.
    """
    if not answers:
        return int(changes.argmax()) if changes.any() else len(ids) - 1
    if answers[0] not in ids:
        text = asr.tokenizer.decode(ids).strip()
        raise ValueError(
            f"--answer: {question.answer!r} is not in the text {text!r}. Give --text, too, or "
            "another --answer."
        )
    return ids.index(answers[0])


def _choose_foil(
    asr: Recogniser, logprobs: Float[np.ndarray, "V"], answer: int, question: PatchQuestion
) -> int:
    if question.foil:
        return asr.tokenizer.encode(" " + question.foil.strip())[0]
    first, second = np.argsort(-logprobs)[:2]
    return int(second if first == answer else first)


def _logprobs_of_first_example(asr: Recogniser, run: iv.Run) -> Float[np.ndarray, "T V"]:
    # float64, so that small changes of a probability are not lost.
    logits = np.asarray(run.decode(asr.model)[0][0], np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def _make_metric(asr: Recogniser, token: _ScoredToken, name: str) -> Metric:
    if name == "logit_diff":
        return iv.logit_diff(token.answer, token.foil)
    if name == "kl":
        return iv.kl(token.target.decode(asr.model)[0][:, -1])
    return {"logprob": iv.logprob, "rank": iv.metrics.rank}[name](token.answer)


def _describe_metric(asr: Recogniser, token: _ScoredToken, name: str, context: str) -> str:
    answer, foil = asr.tokenizer.token_texts([token.answer, token.foil])
    formulas = {
        "logit_diff": f"logit({answer!r}) - logit({foil!r})",
        "kl": "KL from the unpatched distribution",
    }
    where = f"after {context!r}" if context else "as the first word"
    return f"{formulas.get(name, f'{name}({answer!r})')} {where}"
