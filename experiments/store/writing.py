"""Writes batches into a store.

The `status` of a batch is written last, so that an interrupted batch is computed again. zarr
replaces the file of a chunk as a whole, so that an interrupted write damages no earlier batch.
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from experiments.store import integrity, layout, pools
from experiments.store.passes import Activations, ExtractionJob, Lengths
from interventions.storage.text_files import escape_surrogates
from jaxasr.sites import LAYERED

# Variables of a store with one length per utterance, and the key of that length.
_COLUMNS = {
    "n_frames": "encoder",
    "n_audio_tokens": "audio",
    "first_audio_token": "first_audio_token",
}


class Writer:
    """Writes the batches of a job in the order of `utterance_ids`, then completes the store.

    Attributes:
        group: zarr group of the store.
        job: the activations that the store will hold.
        dtype: number format on disk.
        allow_empty: whether all recordings may be left out.
        utterance_ids: ids of all utterances.
        status: `TO_DO`, `DONE` or `LEFT_OUT` for each utterance, as on disk.
        sites: the sites whose frames are stored, by clock (`pools.CLOCKS`).
        n_frames: number of frames of all finished batches, by clock.
    """

    def __init__(
        self, group: layout.Group, job: ExtractionJob, dtype: str, allow_empty: bool = False
    ):
        self.group, self.job, self.dtype, self.allow_empty = group, job, dtype, allow_empty
        self.utterance_ids: list[str] = layout.read(group, "utterance").tolist()
        self.status: np.ndarray = layout.read(group, "status")
        self.sites: dict[str, list[str]] = {}
        for site in job.sites if job.frames else ():
            self.sites.setdefault(layout.clock_of(group, site), []).append(site)
        self.n_frames = {clock: self._count_frames(clock) for clock in self.sites}

    def _count_frames(self, clock: str) -> int:
        counts = layout.read(self.group, f"{clock}_frame_count")
        return int(counts[self.status != layout.TO_DO].sum())

    def is_done(self, rows: range) -> bool:
        """Returns whether a batch has been written."""
        return bool((self.status[rows.start : rows.stop] != layout.TO_DO).all())

    def write(
        self, rows: range, acts: Activations, lengths: Lengths, problems: Sequence[str]
    ) -> None:
        """Writes one batch.

        Args:
            rows: indices of the batch's utterances in the store.
            acts: activations and mel features, as `ForwardPasses.run` returns them. If they have
                more rows than `rows`, the rest is padding.
            lengths: length of each row without padding, by clock. For an audio language model also
                `first_audio_token`.
            problems: for each row the reason why it is left out, or "".
        """
        n, batch = len(rows), slice(rows.start, rows.stop)
        problems = [
            escape_surrogates(problem) or self._find_non_finite(acts, row)
            for row, problem in enumerate(problems)
        ]
        # Rows that are left out are stored as zeros and without frames.
        good = np.array([not problem for problem in problems])
        if self.job.pools:
            for site in self.job.sites:
                # From [L, B, P, D] to [P, L, B, D]. L is missing at sites without layers.
                pooled = np.moveaxis(acts[site], -2, 0)[..., :n, :]
                values = self._to_disk_format(site, np.where(good[:, None], pooled, 0))
                layout.write(self.group, site, (..., batch, slice(None)), values)
        for clock in self.sites:
            self._write_frames(clock, batch, acts, np.where(good, lengths[clock][:n], 0))
        layout.write(self.group, "mel", batch, np.where(good[:, None], acts["mel"][:n], 0))
        for name, key in _COLUMNS.items():
            if name in self.group:
                layout.write(self.group, name, batch, np.where(good, lengths[key][:n], 0))
        if not good.all():
            layout.write(self.group, "problem", batch, np.array(problems, dtype=object))
        self.status[batch] = np.where(good, layout.DONE, layout.LEFT_OUT)
        layout.write(self.group, "status", batch, self.status[batch])

    def _write_frames(
        self, clock: str, batch: slice, acts: Activations, counts: np.ndarray
    ) -> None:
        """Appends the frames of a batch, without padding, at all sites of a clock."""
        start = self.n_frames[clock]
        stop = start + int(counts.sum())
        for site in self.sites[clock]:
            scale = 2 if site == "encoder.conv1" else 1  # frames of the site per encoder frame
            x = acts[f"{site}/{pools.FRAMES_POOL}"]
            frames = [x[..., row, : scale * count, :] for row, count in enumerate(counts)]
            name = f"{site}.{pools.FRAMES_POOL}"
            array = self.group[name]
            array.resize((*array.shape[:-2], scale * stop, array.shape[-1]))
            where = (..., slice(scale * start, scale * stop), slice(None))
            values = self._to_disk_format(site, np.concatenate(frames, axis=-2))
            layout.write(self.group, name, where, values)
        # An utterance starts after the frames of all utterances before it.
        layout.write(self.group, f"{clock}_frame_start", batch, start + np.cumsum(counts) - counts)
        layout.write(self.group, f"{clock}_frame_count", batch, counts)
        self.n_frames[clock] = stop

    def _find_non_finite(self, acts: Activations, row: int) -> str:
        """Names a site at which a row is NaN or infinite. "" if there is none."""
        for name, x in acts.items():
            # The axis of the rows follows that of the layers, if there is one.
            axis = int(name.removesuffix(f"/{pools.FRAMES_POOL}") in LAYERED)
            if not np.isfinite(np.take(x, row, axis=axis)).all():
                return f"activations at {name} are NaN or infinite"
        return ""

    def _to_disk_format(self, site: str, x: np.ndarray) -> np.ndarray:
        """Converts activations to the number format on disk. Raises ValueError on overflow."""
        if self.dtype == "bfloat16":  # has the range of float32, so it cannot overflow
            return x.astype(ml_dtypes.bfloat16).view(np.uint16)
        with np.errstate(over="ignore"):
            cast = x.astype(self.dtype)
        if not np.isfinite(cast).all():
            raise ValueError(
                f"dtype: {self.dtype} cannot hold {np.abs(x).max():.3g}, found at {site}. "
                "Use float32 or bfloat16."
            )
        return cast

    def finish(self, speed: dict[str, float]) -> None:
        """Marks the store as complete.

        Args:
            speed: numbers of utterances and seconds of this run, which become an attribute.

        Raises:
            ValueError: all recordings were left out.
        """
        problems = layout.read(self.group, "problem").tolist()
        left_out = {name: problem for name, problem in zip(self.utterance_ids, problems) if problem}
        if len(left_out) == len(self.utterance_ids) and not self.allow_empty:
            name, problem = next(iter(left_out.items()))
            raise ValueError(
                f"corpus: expected a recording that can be read, all {len(left_out)} failed. "
                f"{name}: {problem}"
            )
        integrity.finish(self.group, {"left_out": left_out, "speed": speed})
