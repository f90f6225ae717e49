r"""What readers share: files of a kind, one or several, become one Arrow table of any size.

A small file is held in memory. A large one is written once, as an Arrow file named by the hash of its contents, into
the cache folder and memory-mapped, so that a changed file is never served from a stale cache.

Types. CSV: a column is int64 or float64 if every cell would be printed exactly as it is in the file,
else text ("007", "1.50" and "1e3" stay text), so that a prompt shows what the file shows. Only an empty unquoted cell,
or one with the ``\N`` of databases, is null; NA, null and None are text. Text: one row a line, column ``text``. JSON:
see ``runner.data.columns``. Several files are read as if they were one, in the order given; a column that one of them
lacks is null there, and one whose types differ is told.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from pathlib import Path

import pyarrow as pa

from runner.data.cells import shown, values
from runner.data.columns import OWN, free_name, merge, own_columns, own_texts, texts
from runner.data.conf import DatasetConf
from runner.data.layout import alike, cast
from runner.data.load import CACHE_VERSION, hash_files, hash_json, hash_readable, local_paths
from runner.data.readers import Loaded
from runner.data.readers.raw.compressed import compression
from runner.data.readers.raw.detection import detected, is_wide, marked
from runner.data.readers.raw.encodings import open_bytes
from runner.data.readers.raw.formats import format_of
from runner.types import UserError

log = logging.getLogger("rowmill")
IN_MEMORY_BYTES = 32 << 20
TEXTS = ("csv", "jsonl", "text", "openai_batch")  # kinds of files that are texts
Batches = Iterator[pa.RecordBatch]


def read_files(
    conf: DatasetConf, path: str, offline: bool, read: Callable[[list[Path], Path | None], pa.Table]
) -> Loaded:
    """The files at ``path`` by ``read``, memory-mapped from its copy in the cache when they are large.

    ``read`` is given the files and where to put the copy, None for none.
    """
    paths = local_paths(path, conf.kind, offline)
    contents = hash_files(paths)
    suffixes = [file.suffixes for file in paths if ".tsv" in file.suffixes]
    for file in paths:
        refuse_other_formats(file, conf.kind, conf.encoding)
    if _in_memory(paths):
        return Loaded(read(paths, None), contents)
    table = [conf.table] if conf.table else []
    cached = cache_file(
        hash_json(CACHE_VERSION, contents, conf.kind, conf.delimiter, conf.encoding, suffixes, conf.document, *table)
    )
    return Loaded(map_arrow(cached) if cached.exists() else read(paths, cached), contents)


def read_batches(
    conf: DatasetConf, path: str, offline: bool, read: Callable[[list[Path]], tuple[pa.Schema, Batches]]
) -> Loaded:
    """As ``read_files``, by a function that gives the schema and the rows."""
    return read_files(conf, path, offline, lambda paths, cached: store(*read(paths), cached))


def refuse_other_formats(path: Path, kind: str, encoding: str = "utf-8") -> None:
    """Raise UserError for an empty file, and if the first bytes show another format than ``kind``."""
    packed = compression(path)
    if packed and kind in ("parquet", "arrow"):
        raise UserError(
            "dataset.path", f"is {packed}-compressed: decompress it, {kind} files are read as they are", file=path
        )
    with open_bytes(path) as file:
        head = file.read(4096)
    if not head:
        raise UserError("dataset.path", "is empty: empty data set", file=path)
    if (other := format_of(path)) and not other.endswith(f"dataset={kind}"):
        raise UserError("dataset.path", f"is not {kind} but {other}", file=path)
    if (mark := marked(head)) and is_wide(mark) and not is_wide(encoding):
        raise UserError(
            "dataset.path", f"is not {kind} but {mark.upper()} text: set dataset.encoding={mark}", file=path
        )
    if kind in TEXTS and (found := detected(head, encoding)):
        begins = head.decode(found, errors="ignore")[:20].strip()
        text = f"is not {encoding}: in {found} it begins {begins!r}; did you mean dataset.encoding={found}?"
        raise UserError("dataset.path", text, file=path)
    if kind in ("csv", "jsonl") and re.match(rb"(?i)\s*<(!doctype\s+html|html)\b", head):
        raise UserError(
            "dataset.path", f"is not {kind} but a web page, perhaps a server's error: look at it", file=path
        )
    if kind == "csv" and re.match(rb"\s*\{\s*\"", head):
        raise UserError("dataset.path", "is not csv but looks like JSON lines: use dataset=jsonl", file=path)


def check_encoding(encoding: str) -> None:
    """Raise UserError for what Python does not know as an encoding of texts."""
    try:
        b"a".decode(encoding)
    except UnicodeError:
        return
    except (LookupError, ValueError):
        hint = "for example utf-8, utf-16, latin-1 or cp1252"
        raise UserError("dataset.encoding", f"it is not a known encoding, {hint}", value=encoding) from None


def cache_file(key: str) -> Path:
    """Where the Arrow copy of the contents with this key lies."""
    from runner.cache import cache_dir

    return cache_dir() / "data" / f"{key}.arrow"


def map_arrow(path: Path) -> pa.Table:
    """An Arrow file (stream or file format), memory-mapped; what is mapped needs no open file."""
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _in_memory(paths: list[Path]) -> bool:
    sizes = (
        path.stat().st_size * (10 if compression(path) or path.suffix in (".parquet", ".xlsx") else 1) for path in paths
    )
    return sum(sizes) <= IN_MEMORY_BYTES


def store(schema: pa.Schema, batches: Iterable[pa.RecordBatch], target: Path | None) -> pa.Table:
    """Write the batches to memory or, by temporary name and rename, to ``target``; return the table."""
    if target is None:
        return pa.Table.from_batches(list(batches), schema)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        part.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {target.parent}: {error}; set ROWMILL_CACHE to another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return map_arrow(target)


def read_folder(
    root: Path, files: list[Path], cache_key: tuple[str, ...], schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> tuple[pa.Table, str]:
    """The rows in the files of a folder, cached if they are large, and the hash of the files' names and contents.

    ``cache_key``: what the rows depend on besides the files.
    """
    contents = hash_json(*((file.relative_to(root).as_posix(), hash_readable(file)) for file in files))
    if sum(file.stat().st_size for file in files) <= IN_MEMORY_BYTES:
        return store(schema, batches, None), contents
    cached = cache_file(hash_json(CACHE_VERSION, contents, *cache_key))
    return map_arrow(cached) if cached.exists() else store(schema, batches, cached), contents


def unique_names(path: Path, header: list[str]) -> list[str]:
    """The names, with missing ones made up (pandas writes its index without one); UserError for duplicates."""
    names = [name or free_name(f"column_{number}", header) for number, name in enumerate(header, 1)]
    refuse_twice(path, names)
    return names


def refuse_twice(path: Path, names: list[str]) -> None:
    """Raise UserError for columns of the same name."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError("dataset.path", f"has more than one column named {', '.join(map(repr, twice[:5]))}", file=path)


Cells = Callable[[Path, str], Iterable[pa.Array]]  # a column of a file, piece by piece


def common_schema(paths: list[Path], schemas: list[pa.Schema], cells: Cells) -> pa.Schema:
    """The columns of all files, each of a type that holds all its ``cells``, text at the worst.

    Where files differ in more than a type's size, a second column (see ``runner.data.columns``) holds each cell's own
    value.
    """
    kinds: dict[str, dict[pa.DataType, list[Path]]] = {}
    first: dict[str, pa.Field] = {}
    for path, schema in zip(paths, schemas, strict=True):
        for field in schema:
            first.setdefault(field.name, field)
            kinds.setdefault(field.name, {}).setdefault(field.type, []).append(path)
    fields, own = [], []
    for name, found in kinds.items():
        kind = _common_type(name, found, cells)
        fields.append(first[name].with_type(kind).with_nullable(True))
        if others := [one for one in found if not alike(one, kind)]:
            _tell(name, kind, {one: found[one][0] for one in (others[0], *(one for one in found if one != others[0]))})
            own.append(name)
    fields += [pa.field(free_name(f"{name} (JSON)", kinds), pa.string(), metadata={OWN: name.encode()}) for name in own]
    return pa.schema(fields, reduce(lambda one, other: other | one, (schema.metadata or {} for schema in schemas)))


def _common_type(name: str, found: dict[pa.DataType, list[Path]], cells: Cells) -> pa.DataType:
    """A type that holds what the files hold: 2^53 + 1, for one, is no fraction."""
    kind = reduce(merge, found)
    others = [path for one, paths in found.items() if one != kind for path in paths]
    if pa.types.is_string(kind) or all(_fits(column, kind) for path in others for column in cells(path, name)):
        return kind
    return pa.string()


def _fits(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        cast(column, kind)
    except pa.ArrowException:
        return False
    return True


def _tell(name: str, kind: pa.DataType, found: dict[pa.DataType, Path]) -> None:
    (one, file), *others = found.items()
    held = f"{one} in {file}" + "".join(f" and {other} in {path}" for other, path in others[:1])
    log.warning("column %r holds %s: prompts show what each row holds, the output has %s", name, held, kind)


def aligned(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the schema's columns, types and metadata; a column it lacks is null."""
    place = {name: index for index, name in enumerate(batch.schema.names)}
    own = own_columns(schema)
    columns = []
    for field in schema:
        name = next((shown for shown, hidden in own.items() if hidden == field.name), field.name)
        if name not in place:
            columns.append(pa.nulls(batch.num_rows, field.type))
        elif name == field.name:
            columns.append(_converted(name, batch.column(place[name]), field.type))
        else:
            columns.append(_own(name, batch.column(place[name]), schema.field(name).type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _own(name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    same = alike(column.type, kind)
    return pa.nulls(len(column), pa.string()) if same else own_texts(values(name, column))


def _converted(name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind) and not alike(column.type, kind):
        return texts(shown(column))
    try:
        return cast(column, kind)
    except pa.ArrowException as error:
        raise UserError("dataset.path", f"the files' values of {name!r} have no common type: {error}") from None
