"""Plain text to Arrow: one row a line or a document, column ``text``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.raw.encodings import lines, undecodable
from runner.data.readers.table import read_batches

_BATCH_ROWS, _BATCH_CHARS = 10_000, 16 << 20
_HEADING = re.compile(r" ?= (?!=).*[^=\s] = ?")  # of an article, not of a part of one: ``= = History = =``


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """A row for each line of the files, or each document."""
    cut = DOCUMENTS[conf.document] if conf.document else _bare_lines
    return read_batches(conf, path, offline, lambda paths: _read_text(paths, conf.encoding, cut))


def _read_text(paths: list[Path], encoding: str, cut: _Cut) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    schema = pa.schema([("text", pa.string())])
    files = groupby(lines(paths, encoding), key=lambda line: line[0])
    rows = (row for _, found in files for row in cut(_text(*line) for line in found))
    return schema, (pa.RecordBatch.from_arrays([pa.array(some, pa.string())], schema=schema) for some in _some(rows))


def _some(rows: Iterator[str]) -> Iterator[list[str]]:
    """Rows, some at a time: fewer where they are long."""
    while some := list(islice(rows, 1)):
        chars = len(some[0])
        while len(some) < _BATCH_ROWS and chars < _BATCH_CHARS and (more := list(islice(rows, 1))):
            some += more
            chars += len(more[0])
        yield some


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeError:
        raise undecodable(path, "utf-8", number, line) from None


def _bare_lines(texts: Iterable[str]) -> Iterator[str]:
    return (text.rstrip("\r\n") for text in texts)


def _ended(texts: Iterable[str]) -> Iterator[str]:
    r"""Lines that end with ``\n``, whatever they end with in the file: as Python and ``datasets`` read them."""
    return (text if (bare := text.rstrip("\r\n")) == text else f"{bare}\n" for text in texts)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines with their ends, blank ones empty: as the hub has WikiText's."""
    return (text if text.strip() else "" for text in _ended(texts))


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for blank, found in groupby(_ended(texts), key=lambda text: not text.strip()):
        if not blank:
            yield "".join(found).rstrip("\n")


def _whole(texts: Iterable[str]) -> Iterator[str]:
    """As it is, carriage returns included: as llama.cpp reads it."""
    yield "".join(texts)


def _articles(texts: Iterable[str]) -> Iterator[str]:
    """Each with its heading, which stands after a blank line; what comes before the first one goes with it."""
    held: list[str] = []
    blank, begun = True, False
    for text in _ended(texts):
        if blank and _HEADING.fullmatch(text.rstrip("\n")):
            if begun:
                yield "".join(held)
                held = []
            begun = True
        held.append(text)
        blank = not text.strip()
    yield "".join(held)


_Cut = Callable[[Iterable[str]], Iterator[str]]
DOCUMENTS: dict[str, _Cut] = {"lines": _lines, "blank_lines": _paragraphs, "files": _whole, "wikitext": _articles}
