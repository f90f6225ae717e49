"""The kinds of data sets and what reads each of them: a new kind is a line in ``READERS``.

Modules:
aclsum        The data set ACLSum: 250 papers in full with reference summaries, from the files of the wheel ``aclsum``.
arrow         Arrow as it lies on the disk: its files, folders written by ``save_to_disk``, and data sets of the hub.
check         The keys of the group ``dataset`` checked before anything is read.
csv           CSV to an Arrow table, through pyarrow's streaming reader, with errors that name the line.
documents     Documents as a data set: one row for each text, page, book, mail or office file.
excel         A sheet of an Excel workbook as an Arrow table, its first row the columns' names.
json          JSON to Arrow: files of one object a line, or of one array of objects, become a table.
openai_batch  OpenAI batch files in: every line is a request, or what is wrong with that line.
own           Readers of the user's own: ``dataset._target_`` names a dataclass whose fields are further keys.
parquet       Parquet to Arrow: dictionaries become plain columns.
raw           Files as they lie on the disk: decompressed, and texts as UTF-8.
sqlite        A table or view of an SQLite database as an Arrow table.
table         What readers share: files of a kind, one or several, become one Arrow table of any size.
text          Plain text to Arrow: one row a line or a document, column ``text``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from runner.data.conf import DatasetConf

Stamps: TypeAlias = dict[Path, tuple[int, int, int]]  # inode, size, time of the last change


@dataclass(frozen=True)
class Loaded:
    """A data set as it was read. ``contents`` is a hash of all that was read.

    ``order``: the positions of the rows [N] where they are not in the order of the table. ``mapped``: what the files
    looked like that the table is mapped from. ``unreadable``: the column that says why a row could not be read.
    """

    table: pa.Table
    contents: str
    order: np.ndarray | None = None
    mapped: Stamps = field(default_factory=dict)
    unreadable: str | None = None


class Read(Protocol):
    """What reads a kind of data set."""

    def __call__(self, conf: DatasetConf, path: str, offline: bool) -> Loaded:
        """The rows at ``path``: ``conf.path``, or the file that the standard input was spooled to.

        Raises UserError for what is missing or malformed; OSError and ArrowException are translated by the caller.
        """
        ...


class Reader(NamedTuple):
    """A kind of data set. ``read`` is named as ``module:function``, to be imported when it is needed.

    ``suffixes`` are those of its files. ``requests``: its rows are chat requests of an OpenAI batch file. ``written``:
    its files have no types, so that a cell is what its file shows. ``places``: columns that say where a row stood in
    its file, and nothing of what it is.
    """

    read: str
    suffixes: tuple[str, ...] = ()
    needs_path: bool = True
    tables: bool = False  # dataset.table applies
    requests: bool = False
    written: bool = False
    places: tuple[str, ...] = ()

    def load(self) -> Read:
        """Import it."""
        module, _, name = self.read.partition(":")
        return cast(Read, getattr(importlib.import_module(module), name))


# What is read as a whole: not .txt and .xlsx, of which each line is a row, unless dataset=documents says so.
_PAGES = (".md", ".markdown", ".rst", ".html", ".htm", ".xhtml")
_OFFICE = (".pdf", ".docx", ".pptx", ".rtf", ".epub", ".odt", ".ods", ".odp")
READERS = {
    "csv": Reader("runner.data.readers.csv:read", (".csv", ".tsv"), written=True),
    "jsonl": Reader("runner.data.readers.json:read", (".jsonl", ".ndjson", ".json")),
    "text": Reader("runner.data.readers.text:read", (".txt", ".text")),
    "parquet": Reader("runner.data.readers.parquet:read", (".parquet",)),
    "arrow": Reader("runner.data.readers.arrow:read", (".arrow",)),
    "sqlite": Reader("runner.data.readers.sqlite:read", (".db", ".sqlite", ".sqlite3"), tables=True),
    "excel": Reader("runner.data.readers.excel:read", (".xlsx", ".xlsm"), tables=True, written=True),
    "openai_batch": Reader("runner.data.readers.openai_batch:read", requests=True, places=("line",)),
    "documents": Reader("runner.data.readers.documents:read", (*_PAGES, *_OFFICE, ".eml", ".mbox")),
    "aclsum": Reader("runner.data.readers.aclsum:read"),
    "hub": Reader("runner.data.readers.arrow:read_hub"),
    "run": Reader("runner.chain.reader:read", tables=True),
    "none": Reader("runner.data.readers:read_numbers", needs_path=False),
}
SUFFIXES = {suffix: kind for kind, reader in READERS.items() for suffix in reader.suffixes}


def holds_requests(dataset: Mapping[str, Any]) -> bool:
    """Whether the rows of a recorded ``dataset`` group are requests of an OpenAI batch file."""
    reader = None if "_target_" in dataset else READERS.get(dataset["kind"])
    return reader is not None and reader.requests


def read_numbers(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """No data set: ``dataset.limit`` rows (1 by default) with their number in the column ``row``."""
    import pyarrow as pa

    return Loaded(pa.table({"row": pa.array(range(conf.limit or 1), pa.int64())}), "none")
