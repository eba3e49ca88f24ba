"""The folder of --out: what wrote each of its files is recorded, and nothing else is written over them unasked."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

RECORD = "command.json"  # {file: what wrote it}
_WAIT_S = 60.0  # for another process that writes into the folder: files are written in moments


@dataclasses.dataclass(frozen=True)
class Output:
    """A folder in which `files` may be written: {name: what writes it, plain values}. `checked` makes it."""

    folder: Path
    files: Mapping[str, dict[str, Any]]
    overwrite: bool = False

    def begin(self, partial: str) -> Path:
        """Makes the folder, for a command that keeps what is done so far in the folder `partial` below it; returns the folder.

        With --overwrite, `partial` is removed first if something else wrote it; what this command left there is taken up again.
        """
        import shutil

        from interventions.storage.text_files import write_json

        self.folder.mkdir(parents=True, exist_ok=True)
        known = _recorded(self.folder)
        if (
            self.overwrite
            and known.get(partial) != self.files[partial]
            and (self.folder / partial).exists()
        ):
            shutil.rmtree(self.folder / partial)
        write_json(self.folder / RECORD, {**known, partial: self.files[partial]})
        return self.folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yields an empty folder. When the block ends without an error, its files replace those of the folder, with the record."""
        from interventions.storage.text_files import only_writer, staging

        with only_writer(self.folder, wait_s=_WAIT_S), staging(self.folder) as new:
            yield new
            self.record(new)

    def record(self, new: Path) -> None:
        """Writes the record into a folder whose files will replace those of this one."""
        from interventions.storage.text_files import write_json

        write_json(new / RECORD, {**_recorded(self.folder), **self.files})


def checked(folder: Path, files: Mapping[str, dict[str, Any]], overwrite: bool) -> Output:
    """Returns the folder of --out if nothing else is in the way there.

    Files that the same command wrote with the same input are written again.

    Raises ValueError, saying what is there, where the folder or one above it is a file or cannot be written to, and, unless
    `overwrite`, where another command or another input wrote one of the files.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"--out {folder}: expected a folder, but {path} is a file. Choose another name."
            )
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"--out {folder}: {nearest} cannot be written to. Choose another folder.")
    if not overwrite:
        known = _recorded(folder)
        for name, made in files.items():
            if (folder / name).exists() and known.get(name) != made:
                raise ValueError(
                    f"--out {folder}: {_held(name, known.get(name), made)}. Use --overwrite, or another folder."
                )
    return Output(folder, files, overwrite)


def made(command: str, recordings: Iterable[Path], model: str, **options: Any) -> dict[str, Any]:
    """Describes what writes a file: the command, its recordings by name and content, its model and its options, as plain values."""
    from interventions.storage.text_files import plain

    model = str(Path(model).resolve()) if Path(model).exists() else model
    known = [[path.name, _digest(path)] for path in recordings]
    return plain({"command": command, "recordings": known, "model": model, **options})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _recorded(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _held(name: str, held: Any, made: dict[str, Any]) -> str:
    """Describes what a file holds, and how that differs from what would be written now."""
    if not isinstance(held, dict):
        return f"holds {name}, which is of another command or an earlier version"
    of = f" of {', '.join(_names(held))}" if held.get("recordings") else ""
    differ = [key for key in {**held, **made} if held.get(key) != made.get(key)]
    if "command" in differ:
        return f"holds {name} of jaxasr {held.get('command')}{of}"
    if "recordings" in differ:
        again = " with other content" if _names(held) == _names(made) else ""
        return f"holds {name}{of}{again}, not of {', '.join(_names(made))}"
    pairs = [f"{key} {held.get(key)!r}, not {made.get(key)!r}" for key in differ]
    return f"holds {name}{of}, made with {'; '.join(pairs)}"


def _names(made: dict[str, Any]) -> list[str]:
    return [str(name) for name, _ in made.get("recordings") or []]
