r"""Readers of the user's own: ``dataset._target_`` names a dataclass whose fields are further keys.

``my_conf/mails.py`` reads the mails of an mbox file, with their senders in a column of their own:

    from dataclasses import dataclass
    from mailbox import mbox

    @dataclass
    class Mails:
        path: str

        def read(self):
            for mail in mbox(self.path):
                yield {"sender": mail["from"], "text": str(mail.get_payload())}

Then:

    rowmill run --config-dir my_conf dataset=own dataset._target_=mails.Mails dataset.path=inbox.mbox run_name=inbox \
        job=generate 'prompt.user=Answer this mail. Mail: {{ text }}'

``read()`` takes no arguments and returns the rows: dicts, pyarrow record batches, or a pyarrow.Table or another Arrow
stream, such as a data frame. Batches may be larger than memory; dicts are held in memory. The same data must give the
same rows in the same order each time, or a run cannot be resumed.

Every field of the class is a key of ``dataset``. ``where``, ``shuffle_seed``, ``limit``, ``key``, ``gold`` and
``classes`` work as for any data set; ``path`` and other keys of files are passed to a class with fields of their names.
``dataset/mails.yaml`` in ``my_conf`` can hold ``_target_`` and the keys, so that ``dataset=mails`` is all there is to
type; ``rowmill init mails.Mails path=inbox.mbox`` proposes a configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import traceback
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from runner.custom.classes import find_class, import_class_module, make
from runner.data.columns import Columns, own_columns, record_batch
from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.table import IN_MEMORY_BYTES, cache_file, store
from runner.types import UserError

_EVERY = ("kind", "where", "shuffle_seed", "limit", "key", "gold", "classes")
_HASHED_ROWS = 10_000
_EXPECTED = "not a pyarrow.Table, record batches or dicts"


def read_own(conf: DatasetConf, folders: list[str], modules: Sequence[str]) -> Loaded:
    """The rows by the class that ``conf.target`` names, which may lie in ``folders`` or in the installed ``modules``.

    UserError that says what is wrong with the class, its keys or what it returns.
    """
    target = str(conf.target)
    import_class_module("dataset._target_", target, folders, modules)
    found = find_class("dataset", target, "read")
    if not callable(getattr(found, "read", None)):
        raise UserError("dataset._target_", "the class has no method read()", value=target)
    reader = make("dataset", found, target, _values(conf))
    try:
        table = _table(reader.read())
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        at = _line(error, sys.modules[found.__module__].__file__)
        raise UserError(
            "dataset._target_", f"read() fails{at}: {type(error).__name__}: {error}", value=target
        ) from error
    if len(set(table.column_names)) < table.num_columns:
        raise UserError(
            "dataset._target_", f"read() returns columns of the same name: {table.column_names}", value=target
        )
    return Loaded(table, _hash(table))


def _values(conf: DatasetConf) -> dict[str, Any]:
    """The class's own keys, and those of files that are set."""
    of_files = [field for field in dataclasses.fields(conf) if field.name not in _EVERY]
    given = {field.name: getattr(conf, field.name) for field in of_files if getattr(conf, field.name) != field.default}
    return given | {name: value for name, value in conf.own.items() if name != "_target_"}


def _table(rows: Any) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if hasattr(rows, "__arrow_c_stream__"):
        rows = pa.RecordBatchReader.from_stream(rows)
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | dict):
        raise UserError("dataset._target_", f"read() returns {rows!r:.80}, {_EXPECTED}")
    found = iter(rows)
    first = next(found, None)
    if first is None:
        return pa.table({})
    if isinstance(first, pa.RecordBatch):
        return _held(first.schema, chain([first], found))
    return _from_dicts(list(chain([first], found)))


def _from_dicts(rows: list[Any]) -> pa.Table:
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
            raise UserError("dataset._target_", f"row {number} of read() is {row!r:.80}, {_EXPECTED}")
    columns = Columns()
    columns.add(rows)
    return pa.Table.from_batches([record_batch(rows, columns.schema())])


def _held(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.Table:
    """The batches in memory or, if they are large, in a file without a name, which goes with the process."""
    few, size = [], 0
    for batch in batches:
        few.append(batch)
        size += batch.nbytes
        if size > IN_MEMORY_BYTES:
            break
    else:
        return pa.Table.from_batches(few, schema)
    file = cache_file(f"own-{uuid.uuid4().hex}")
    try:
        return store(schema, chain(few, batches), file)
    finally:
        file.unlink(missing_ok=True)


def _hash(table: pa.Table) -> str:
    """A hash of the values, independent of their layout in memory."""
    table = table.drop_columns(list(own_columns(table.schema).values()))
    digest = hashlib.sha256(str(table.schema.remove_metadata()).encode())
    for start in range(0, len(table), _HASHED_ROWS):
        columns = table.slice(start, _HASHED_ROWS).columns
        digest.update(repr([column.to_pylist() for column in columns]).encode(errors="surrogatepass"))
    return f"own {digest.hexdigest()}"


def _line(error: BaseException, file: str | None) -> str:
    """Where in the class's file it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" at {file} line {lines[-1]}" if lines else ""
