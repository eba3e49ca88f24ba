"""Writing batches into a store. A batch counts when its `status` is written, which is last; a chunk's file is replaced, never changed."""

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from experiments.store import layout, pools
from experiments.store.passes import Job
from interventions.storage.text_files import utf8
from jaxasr.sites import LAYERED, stack_of


class Writer:
    """`write` one batch after the other, in the order of `names`; then `finish`."""

    def __init__(self, group: layout.Group, job: Job, dtype: str):
        self.group, self.job, self.dtype = group, job, dtype
        self.names: list[str] = layout.read(group, "utterance").tolist()
        self.status: np.ndarray = layout.read(group, "status")
        self.stacks = sorted({stack_of(site) for site in job.sites}) if job.frames else []
        self.ends = {stack: self._end(stack) for stack in self.stacks}

    def _end(self, stack: str) -> int:
        """Rows of frames that finished batches have."""
        return int(
            layout.read(self.group, f"{stack}_frame_count")[self.status != layout.TO_DO].sum()
        )

    def is_done(self, span: range) -> bool:
        return bool((self.status[span.start : span.stop] != layout.TO_DO).all())

    def write(
        self,
        span: range,
        acts: dict[str, np.ndarray],
        lengths: dict[str, list[int]],
        problems: Sequence[str],
    ) -> None:
        n, here = len(span), slice(span.start, span.stop)
        problems = [
            utf8(problem) or self._not_finite(acts, row) for row, problem in enumerate(problems)
        ]
        good = np.array([not problem for problem in problems])
        for site in self.job.sites:
            if self.job.pools:
                pooled = np.moveaxis(acts[site], -2, 0)[..., :n, :]  # [P, L, B, D]
                layout.put(
                    self.group, site, (..., here, slice(None)), self._stored(site, pooled, good)
                )
        for stack in self.stacks:
            self._write_frames(stack, span, acts, np.where(good, lengths[stack][:n], 0))
        layout.put(self.group, "mel", here, np.where(good[:, None], acts["mel"][:n], 0))
        layout.put(self.group, "n_frames", here, np.where(good, lengths["encoder"][:n], 0))
        if not good.all():
            layout.put(self.group, "problem", here, np.array(problems, dtype=object))
        self.status[here] = np.where(good, layout.DONE, layout.LEFT_OUT)
        layout.put(self.group, "status", here, self.status[here])

    def _write_frames(
        self, stack: str, span: range, acts: dict[str, np.ndarray], counts: np.ndarray
    ) -> None:
        start = self.ends[stack]
        stop = start + int(counts.sum())
        for site in self.job.sites:
            if stack_of(site) == stack:
                per = 2 if site == "encoder.conv1" else 1
                x = acts[f"{site}/{pools.FRAMES}"]
                rows = np.concatenate(
                    [x[..., row, : per * count, :] for row, count in enumerate(counts)], axis=-2
                )
                name = f"{site}.{pools.FRAMES}"
                array = self.group[name]
                array.resize((*array.shape[:-2], per * stop, array.shape[-1]))
                layout.put(
                    self.group,
                    name,
                    (..., slice(per * start, per * stop), slice(None)),
                    self._cast(site, rows),
                )
        here = slice(span.start, span.stop)
        layout.put(self.group, f"{stack}_frame_start", here, start + np.cumsum(counts) - counts)
        layout.put(self.group, f"{stack}_frame_count", here, counts)
        self.ends[stack] = stop

    def _not_finite(self, acts: dict[str, np.ndarray], row: int) -> str:
        for name, x in acts.items():
            axis = 0 if name == "mel" else int(name.removesuffix(f"/{pools.FRAMES}") in LAYERED)
            if not np.isfinite(np.take(x, row, axis=axis)).all():
                return f"activations at {name} are NaN or infinite"
        return ""

    def _stored(self, site: str, x: np.ndarray, good: np.ndarray) -> np.ndarray:
        return self._cast(site, np.where(good[:, None], x, 0))

    def _cast(self, site: str, x: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return x.astype(ml_dtypes.bfloat16).view(np.uint16)
        with np.errstate(over="ignore"):
            cast = x.astype(self.dtype)
        if not np.isfinite(cast).all():
            raise ValueError(
                f"dtype: {self.dtype} cannot hold {np.abs(x).max():.3g}, found at {site}. Use float32 or bfloat16."
            )
        return cast

    def finish(self, speed: dict[str, float]) -> None:
        """Marks the store as complete; `speed` is of this run. Raises ValueError when nothing could be read."""
        problems = {
            name: problem
            for name, problem in zip(self.names, layout.read(self.group, "problem").tolist())
            if problem
        }
        if len(problems) == len(self.names):
            raise ValueError(
                f"corpus: expected a recording that can be read, all {len(problems)} failed. {next(iter(problems.items()))}"
            )
        layout.finish(self.group, {"left_out": problems, "speed": speed})
