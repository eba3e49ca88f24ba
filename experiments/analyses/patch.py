"""One patching experiment on recordings of one's own: what to patch with, what is scored, the sweep, and what it says."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

import interventions as iv
import jaxasr
from interventions import corruptions
from interventions.edits.attention import mean_ablation
from interventions.patching.grid import AtCell, Grid
from interventions.patching.sources import activation, resampled
from interventions.storage.fingerprints import fingerprint
from interventions.storage.results import cached
from interventions.storage.text_files import only_writer
from jaxasr import sites
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.config import FRAMES_PER_S, SIZES
from jaxasr.rules import rules_for

ACTIVATIONS = ("zero", "mean", "resample")  # sources that are no sound
NEXT = ("logit_diff", "logprob", "kl", "rank")
WRITTEN = (
    "wer",
    "cer",
    "insertions",
    "repeat_span",
    "loop",
    "resolved",
    "length",
    "no_speech_prob",
    "avg_logprob",
)
_NEW = 224  # tokens written at most

Sound = Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked. `alphas` () means that the patch replaces; `text` "" that the model's own text is taken."""

    site: str
    over: tuple[str, ...]
    source: str
    metric: str
    sequence: bool = False
    text: str = ""
    answer: str = ""
    foil: str = ""
    alphas: tuple[float, ...] = ()
    window_s: float = 0.5
    language: str | None = None
    seed: int = 0
    new_tokens: int = _NEW

    def __post_init__(self) -> None:
        sites.check_known([self.site])
        known = WRITTEN if self.sequence else NEXT
        if self.metric not in known:
            when = "with" if self.sequence else "without"
            raise ValueError(
                f"--metric: expected, {when} --sequence, one of {', '.join(known)}, got {self.metric!r}."
            )
        spec = sites.spec(
            SIZES["tiny.en"], self.site, 1, 1
        )  # which dimensions a site has is the same for every model
        Grid.of(
            spec,
            self.dims,
            window_s=self.window_s,
            n_frames=1,
            alphas=self.alphas or (1.0,),
            chosen={},
        )

    @property
    def dims(self) -> tuple[str, ...]:
        return self.over if not self.alphas or "alpha" in self.over else (*self.over, "alpha")

    @property
    def options(self) -> dict[str, Any]:
        return {"window_s": self.window_s} | ({"alphas": self.alphas} if self.alphas else {})


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Ready to run: `plan` in words, `run(store, progress)` the sweep, and what its labels are of."""

    plan: str
    scored: str
    texts: list[str]
    run: Callable[[Path, Any], Any]
    sound: Sound | None  # of a source that is a recording


def sources(audio: Sequence[Sound], question: Question) -> list[Sound] | None:
    """The source of every recording where it is a recording, else None. Raises ValueError for an unknown source; needs no model."""
    name, _, seed = question.source.partition(":")
    if name == "resample" and (not seed or seed.isdigit()):
        if len(audio) < 2:
            raise ValueError(
                "--source: resample draws another TARGET, and there is one. Give two or more recordings."
            )
        return None
    made = (
        None
        if question.source in ACTIVATIONS
        else corruptions.parse_source(question.source, question.seed).of
    )
    return None if made is None else [made(sound) for sound in audio]


def prepare(
    asr: Any, audio: Sequence[Sound], others: list[Sound] | None, question: Question
) -> Prepared:
    """Encodes the recordings (16 kHz) and their `sources`. Raises ValueError for whatever the question cannot ask of them."""
    return (_sequence if question.sequence else _next_token)(asr, audio, others, question)


def _mels(asr: Any, audio: Sequence[Sound]) -> np.ndarray:
    config = asr.config
    return np.stack(
        [
            jaxasr.log_mel(sound[: config.n_samples], config.n_mels, config.n_mel_frames)
            for sound in audio
        ]
    )


def written(asr: Any, memory: Any, question: Question) -> list[list[int]]:
    """The ids that the model writes, greedily and without timestamps, for every row."""
    start, special = asr.tokenizer.prompt(question.language), asr.tokenizer.special
    asked = {
        "rules": rules_for(asr.tokenizer),
        "eot": special.eot,
        "no_speech": (start.index(special.sot), special.no_speech),
    }
    prompt = np.tile(np.asarray(start, np.int32), (memory.xa.shape[0], 1))
    out = jaxasr.generate(
        asr.model, memory, prompt, max_new_tokens=question.new_tokens, **asked
    )  # as a sweep of texts: one program
    return [np.asarray(row)[: int(n)].tolist() for row, n in zip(out.tokens, out.lengths)]


def _next_token(
    asr: Any, audio: Sequence[Sound], others: Sequence[Sound] | None, question: Question
) -> Prepared:
    target = iv.Run(mel=_mels(asr, audio), tokens=np.zeros((len(audio), 1), np.int32)).encode(
        asr.model
    )
    ids = _said(asr, target.memory, question)
    prompt = asr.tokenizer.prompt(question.language)
    whole = jnp.asarray(np.tile([*prompt, *ids], (len(audio), 1)), jnp.int32)
    target = target.replace(tokens=whole)
    source = (
        question.source
        if others is None
        else iv.Run(mel=_mels(asr, others), tokens=whole).encode(asr.model)
    )
    at, answer, foil = _scored(asr, target, source, ids, len(prompt), question)
    target, source = (
        run if isinstance(run, str) else run.replace(tokens=whole[:, :at])
        for run in (target, source)
    )
    metric = _metric(asr, target, question.metric, answer, foil)
    longest = min(max(n_frames(len(sound)) for sound in audio), asr.config.n_audio_ctx)
    options = {
        "site": question.site,
        "over": question.dims,
        "metric": metric,
        "n_frames": longest,
        **question.options,
    }
    plan = str(iv.plan_sweep(asr.model, target, source, **options))
    shown = asr.tokenizer.token_texts([answer, foil])
    scored = {
        "logit_diff": f"logit({shown[0]!r}) - logit({shown[1]!r})",
        "kl": "KL from the unpatched distribution",
    }
    said = asr.tokenizer.decode(whole[0, :at].tolist()).strip()
    what = f"{scored.get(question.metric, f'{question.metric}({shown[0]!r})')} {f'after {said!r}' if said else 'as the first word'}"

    def run(store: Path, progress: Any) -> xr.DataArray:
        return iv.sweep(asr.model, target, source, **options, store=store, progress=progress)

    return Prepared(plan, what, [said], run, None if others is None else others[0])


def _said(asr: Any, memory: Any, question: Question) -> list[int]:
    """The text that is fed to the decoder: the given one, or, of one recording alone, what the model writes."""
    if question.text:
        return asr.tokenizer.encode(" " + question.text.strip())
    if memory.xa.shape[0] > 1:
        raise ValueError(
            "--text: several recordings need one text that is said before the scored token; give it."
        )
    [ids] = written(asr, memory, question)
    if not ids:
        raise ValueError("--text: the model writes nothing for this recording; give the words.")
    return ids


def _scored(
    asr: Any, target: Any, source: Any, ids: list[int], n_prompt: int, question: Question
) -> tuple[int, int, int]:
    """How many tokens are fed, the answer that may follow them, and its foil.

    With --text the answer follows it. Without, it is --answer's place in the model's text, or the token whose probability the source
    changes most (its last one where the source is no recording). The foil is what is likeliest otherwise, with the source if that
    is a recording.
    """
    logits = _logprobs(asr, target)
    elsewhere = logits if isinstance(source, str) else _logprobs(asr, source)
    answers = asr.tokenizer.encode(" " + question.answer.strip()) if question.answer else []
    if question.text:
        at, answer = n_prompt + len(ids), answers[0] if answers else int(logits[-1].argmax())
    elif answers:
        if answers[0] not in ids:
            raise ValueError(
                f"--answer: {question.answer!r} is not in the text {asr.tokenizer.decode(ids).strip()!r}. Give --text, too."
            )
        at, answer = n_prompt + ids.index(answers[0]), answers[0]
    else:
        steps = np.arange(n_prompt - 1, n_prompt - 1 + len(ids))
        moved = np.abs(logits[steps, ids] - elsewhere[steps, ids])
        at = n_prompt + (int(moved.argmax()) if moved.any() else len(ids) - 1)
        answer = ids[at - n_prompt]
    if question.foil:
        return at, answer, asr.tokenizer.encode(" " + question.foil.strip())[0]
    likely = np.argsort(-elsewhere[at - 1])
    return at, answer, int(likely[0] if likely[0] != answer else likely[1])


def _logprobs(asr: Any, run: Any) -> np.ndarray:
    """[T, V] of the first example."""
    logits = np.asarray(run.decode(asr.model)[0][0], np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def _metric(asr: Any, target: Any, name: str, answer: int, foil: int) -> Any:
    if name == "logit_diff":
        return iv.logit_diff(answer, foil)
    return (
        iv.kl(target.decode(asr.model)[0][:, -1])
        if name == "kl"
        else {"logprob": iv.logprob, "rank": iv.rank}[name](answer)
    )


def _sequence(
    asr: Any, audio: Sequence[Sound], others: Sequence[Sound] | None, question: Question
) -> Prepared:
    mel, prompt = (
        _mels(asr, audio),
        np.tile(np.asarray(asr.tokenizer.prompt(question.language), np.int32), (len(audio), 1)),
    )
    heard = asr.model.encode(mel)[0]
    ids = written(asr, heard, question)
    texts = [asr.tokenizer.decode(row).strip() for row in ids]
    edit, rows, leader = _edit(asr, mel, heard, prompt, ids, others, question)
    spec = sites.spec(asr.config, question.site, len(audio), prompt.shape[1] + question.new_tokens)
    longest = min(max(n_frames(len(sound)) for sound in audio), asr.config.n_audio_ctx)
    cut = {"window_s": question.window_s, "n_frames": longest, "alphas": question.alphas or (1.0,)}
    grid = Grid.of(spec, question.dims, **cut, chosen={})
    listens = sites.stack_of(question.site) == "encoder"
    known = rows if listens else asr.model.encode(rows)[0]
    references = None if not question.text else [question.text] * len(audio)
    at = AtCell(edit, question.site, grid.window, grid.n_frames)
    options = {
        "edits_of": at,
        "references": references,
        "max_new_tokens": question.new_tokens,
        "leader": leader,
    }

    def part(layers: list[int]) -> xr.Dataset:
        some = Grid.of(spec, question.dims, **cut, chosen={"layer": layers or None})
        start = np.resize(prompt, (len(rows), prompt.shape[1]))
        return iv.sequence_sweep(asr, known, start, some.flat(), coords=some.labels(), **options)

    def run(store: Path, progress: Any) -> xr.Dataset:
        model = (asr.checkpoint.sha256, asr.config)
        digest = fingerprint(
            question=question, model=model, mel=mel, rows=rows, leader=leader, edit=edit
        )
        groups = [[int(layer)] for layer in grid.coords.get("layer", ())] or [[]]
        swept = []
        with only_writer(store):
            for i, layers in enumerate(groups):
                path = store / f"texts-{digest[:12]}-{i}.zarr"
                swept.append(cached(path, f"{digest} {layers}", lambda layers=layers: part(layers)))
                progress(i + 1, len(groups))
        attrs = {"site": question.site} | (
            {"window_s": grid.window / FRAMES_PER_S} if "time" in grid.coords else {}
        )
        return _joined(swept).assign_attrs(attrs)

    shape = " × ".join(f"{dim} {n}" for dim, n in zip(grid.dims, grid.shape))
    n_texts = int(np.prod(grid.shape)) * len(audio)
    plan = f"{question.site} over {shape}: {n_texts} texts, {question.new_tokens} tokens at most"
    against = "the reference" if question.text else "the unpatched text"
    return Prepared(
        plan,
        f"{question.metric} against {against}",
        texts,
        run,
        None if others is None else others[0],
    )


def _joined(parts: list[xr.Dataset]) -> xr.Dataset:
    """One Dataset of the layers that were swept one after the other."""
    if len(parts) == 1:
        return parts[0]
    cells = [name for name, values in parts[0].items() if "layer" in values.dims]
    return xr.concat(parts, "layer", data_vars=cells, coords="minimal", compat="override")


def _edit(
    asr: Any,
    mel: np.ndarray,
    heard: Any,
    prompt: np.ndarray,
    ids: list[list[int]],
    others: Any,
    question: Question,
) -> tuple:
    """The patch, the mels that are heard (targets, then what they read from), and who follows whom while writing."""
    encoder, n = sites.stack_of(question.site) == "encoder", len(mel)
    name, alone = question.source.partition(":")[0], None
    if name == "zero":
        return _patch(jnp.zeros(()), question), mel, alone
    if name == "mean":
        return _patch(_mean(asr, mel, heard, prompt, ids, question), question), mel, alone
    if name == "resample":
        drawn = resampled(
            iv.Run(
                mel=np.arange(n, dtype=np.float32)[:, None, None], tokens=np.zeros((n, 1), np.int32)
            ),
            question.source,
        )
        reads = mel[np.asarray(drawn.mel).astype(int).ravel()]
    else:
        reads = _mels(asr, others)
    if encoder:
        return (
            _patch(
                asr.model.encode(reads, readout=jaxasr.select(question.site))[1][question.site],
                question,
            ),
            mel,
            alone,
        )
    leaders = np.concatenate([np.arange(n), np.arange(n)])  # a source writes what its target writes
    return (
        _patch(iv.FromRow(jnp.asarray(np.tile(np.arange(n, 2 * n), 2))), question),
        np.concatenate([mel, reads]),
        leaders,
    )


def _mean(
    asr: Any,
    mel: np.ndarray,
    heard: Any,
    prompt: np.ndarray,
    ids: list[list[int]],
    question: Question,
) -> Any:
    if sites.stack_of(question.site) == "encoder":
        return mean_ablation(
            asr.model.encode(mel, readout=jaxasr.select(question.site))[1][question.site],
            question.site,
        ).value
    longest = max(map(len, ids))
    said = np.array(
        [row + [asr.tokenizer.special.eot] * (longest - len(row)) for row in ids], np.int32
    ).reshape(len(ids), longest)
    run = iv.Run(memory=heard, tokens=np.concatenate([prompt, said], 1))
    valid = (
        np.arange(run.tokens.shape[1])
        < prompt.shape[1] + np.array([len(row) for row in ids])[:, None]
    )
    return mean_ablation(activation(asr.model, run, question.site), question.site, valid).value


def _patch(value: Any, question: Question) -> Any:
    return iv.Mix(jnp.float32(1), value) if question.alphas else iv.Patch(value)


def words(asr: Any, sound: Sound, question: Question) -> list[tuple[str, float, float]]:
    """The words of one recording as the model writes them, with their start and end in seconds."""
    memory = asr.model.encode(_mels(asr, [sound]))[0]
    [ids] = written(asr, memory, question)
    [found] = align(
        asr.model,
        asr.tokenizer,
        memory,
        [ids],
        [n_frames(len(sound))],
        heads=asr.alignment_heads,
        language=question.language,
    )
    return [(word.text, word.start, word.end) for word in found]
