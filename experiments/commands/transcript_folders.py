"""Chooses the folder of each transcript, so that equal file names do not collide."""

import os
from collections.abc import Sequence
from pathlib import Path


def choose_folders(out: Path, recordings: Sequence[Path]) -> dict[Path, Path]:
    """Chooses the folder for the transcript of each recording.

    If all recordings have different file names, every folder is `out`. Otherwise each recording
    gets a subfolder of `out`: its path below the folder that contains all recordings.

    Args:
        out: the folder of --out.
        recordings: paths of the recordings.

    Returns:
        The folder for each path of `recordings`.

    Raises:
        ValueError: a recording is given twice.

    Example:
        >>> folders = choose_folders(Path("texts"), [Path("monday/a.wav"), Path("friday/a.wav")])
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
