"""Chooses the folder of each transcript, so that recordings of the same name do not collide."""

import os
from collections.abc import Sequence
from pathlib import Path


def folders_in(out: Path, recordings: Sequence[Path]) -> dict[Path, Path]:
    """Chooses the folder for the files of each recording.

    It is `out` if all file names differ. Otherwise the folders of the recordings are kept below
    `out`, from the first one in which they differ.

    Args:
        out: the folder of --out.
        recordings: their files.

    Returns:
        The folder of each recording.

    Raises:
        ValueError: for a recording that is given twice.

    Example:
        >>> folders = folders_in(Path("texts"), [Path("monday/a.wav"), Path("friday/a.wav")])
        >>> folders[Path("friday/a.wav")]
        PosixPath('texts/friday')
    """
    absolute = [Path(os.path.abspath(path)) for path in recordings]
    for i, path in enumerate(absolute):
        if path in absolute[:i]:
            raise ValueError(f"{recordings[i]}: given twice. Name each recording once.")
    # Names are compared without case, because some file systems do not distinguish it.
    if len({path.name.casefold() for path in recordings}) == len(recordings):
        return dict.fromkeys(recordings, out)
    common = os.path.commonpath([path.parent for path in absolute])
    return {
        recording: out / path.parent.relative_to(common)
        for recording, path in zip(recordings, absolute)
    }
