"""Protects the files in the folder of --out.

The file command.json, the record, describes the command and input that made each file. A command
replaces files of another command or of other input only with --overwrite.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxasr.processes import Process

# The file of the record, which maps the name of each file to the result of `describe_origin`.
RECORD = "command.json"
_WAIT_S = 60.0  # seconds to wait at most while another process moves its files into the folder


@dataclasses.dataclass(frozen=True)
class Output:
    """The folder of --out, after `open_output` has checked that a command may save its files there.

    Attributes:
        folder: the folder of --out.
        files: name of each file, and the command and input that make it (`describe_origin`).
        overwrite: whether files of other commands or of other input may be replaced.
    """

    folder: Path
    files: Mapping[str, dict[str, Any]]
    overwrite: bool = False

    def prepare_folder(self, partial: str, process: "Process | None" = None) -> Path:
        """Makes the folder for the finished parts of a command.

        Finished parts of the same command and input are kept, so that the command continues where
        it stopped. With --overwrite, other parts are removed. With several processes, no process
        removes parts that another may be writing, so each command and input has its own folder.

        Args:
            partial: name of the folder in --out, a key of `files`.
            process: this process, if there are several.

        Returns:
            The folder for the parts.
        """
        import shutil

        from interventions.storage.text_files import write_json

        if process is not None and process.count > 1:
            parts = self.folder / f"{partial}-{_hash_description(self.files[partial])}"
            parts.mkdir(parents=True, exist_ok=True)
            return parts
        self.folder.mkdir(parents=True, exist_ok=True)
        records, parts = _read_records(self.folder), self.folder / partial
        if self.overwrite and records.get(partial) != self.files[partial] and parts.exists():
            shutil.rmtree(parts)
        write_json(self.folder / RECORD, {**records, partial: self.files[partial]})
        return parts

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yields an empty folder. Its files replace those in --out at the end, except on error."""
        from interventions.storage.text_files import only_writer, staging

        with only_writer(self.folder, wait_s=_WAIT_S), staging(self.folder) as new:
            yield new
            self.record(new)

    def record(self, new: Path) -> None:
        """Writes the record into `new`, the folder whose files will replace those in --out."""
        from interventions.storage.text_files import write_json

        write_json(new / RECORD, {**_read_records(self.folder), **self.files})


def open_output(folder: Path, files: Mapping[str, dict[str, Any]], overwrite: bool) -> Output:
    """Returns the folder of --out, if a command may save its files there.

    A command may replace files that it made earlier from the same input.

    Args:
        folder: the folder of --out, which need not exist.
        files: name of each file, and the command and input that make it (`describe_origin`).
        overwrite: whether files of other commands or of other input may be replaced.

    Raises:
        ValueError: the folder is a file or is not writable, or has files of another command or of
            other input.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"--out {folder}: expected a folder, but {path} is a file. Choose another name."
            )
    # The folder may not exist yet, so the nearest existing one above it must be writable.
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise ValueError(
            f"--out {folder}: no permission to write into {nearest}. Choose another folder."
        )
    if not overwrite:
        records = _read_records(folder)
        for name, description in files.items():
            if (folder / name).exists() and records.get(name) != description:
                conflict = _describe_conflict(name, records.get(name), description)
                raise ValueError(f"--out {folder}: {conflict}. Use --overwrite, or another folder.")
    return Output(folder, files, overwrite)


def describe_origin(
    command: str, recordings: Iterable[Path], model: str, **options: Any
) -> dict[str, Any]:
    """Describes the command and input that make a file, as JSON values.

    Args:
        command: name of the command.
        recordings: recordings that the command reads. The description has their names and hashes.
        model: name of the model, or a path. The description has the absolute path.
        options: further options that the result depends on.

    Example:
        >>> describe_origin("lens", [], "tiny.en", start=0.0)
        {'command': 'lens', 'recordings': [], 'model': 'tiny.en', 'start': 0.0}
    """
    description = {
        "command": command,
        "recordings": [[path.name, _hash_file(path)] for path in recordings],
        "model": str(Path(model).resolve()) if Path(model).exists() else model,
        **options,
    }
    return json.loads(json.dumps(description))  # turns tuples into lists, as in the record


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _hash_description(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]


def _read_records(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        records = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return records if isinstance(records, dict) else {}
    return {}


def _describe_conflict(name: str, old: Any, new: dict[str, Any]) -> str:
    """Describes how a file's record `old` differs from the description `new` of this command.

    Names the first difference only: the command, else the recordings, else the options.
    """
    if not isinstance(old, dict):
        return f"holds {name}, made by another program or by an earlier version of jaxasr"
    source = f" from {', '.join(_list_recordings(old))}" if old.get("recordings") else ""
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if "command" in differing:
        return f"holds {name} made by jaxasr {old.get('command')}{source}"
    if "recordings" in differing:
        same_names = _list_recordings(old) == _list_recordings(new)
        content = " with other content" if same_names else ""
        return (
            f"holds {name}{source}{content}, "
            f"not from the present {', '.join(_list_recordings(new))}"
        )
    changes = [f"{key} {old.get(key)!r}, not {new.get(key)!r}" for key in differing]
    return f"holds {name}{source}, made with {'; '.join(changes)}"


def _list_recordings(description: dict[str, Any]) -> list[str]:
    return [str(name) for name, _ in description.get("recordings") or []]
