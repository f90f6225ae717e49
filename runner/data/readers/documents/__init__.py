"""Documents as a data set: one row for each text, page, book, mail or office file.

Columns: ``file`` (its path in the folder; of a mail in a mailbox with its number behind it, ``in.mbox#1``), ``text``,
and ``unreadable``: why there is no text, null for all others.

Modules:
archives  Documents that are archives of pages, by the standard library: EPUB books and OpenDocument.
html      HTML as the text that a browser would show.
mail      Mails as files or in mailboxes: their headers, what they say, and the names of what is attached.
office    Documents of office programs, by the packages that read them: Word, PowerPoint, RTF and PDF.
sheets    Workbooks of Excel as the text that Excel shows, as far as cells tell.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.load import PACKED, local_paths
from runner.data.readers import Loaded
from runner.data.readers.documents import archives, mail, office, sheets
from runner.data.readers.documents.html import declared, html_text
from runner.data.readers.raw.encodings import decoded
from runner.data.readers.raw.formats import format_of
from runner.data.readers.table import check_encoding, read_folder
from runner.types import UserError
from runner.words import count_of, listed

log = logging.getLogger("rowmill")
SCHEMA = pa.schema([("file", pa.string()), ("text", pa.string()), ("unreadable", pa.string())])
BATCH_CHARS = 4_000_000
_NAMED = 10  # of the files that are skipped
_TEXT = (".txt", ".text", ".md", ".markdown", ".rst")
_HTML = (".html", ".htm", ".xhtml")
_PLAIN = (*_TEXT, *_HTML, *mail.SUFFIXES, *mail.BOXES)  # which may be compressed
_READ = office.READ | sheets.READ | archives.READ
SUFFIXES = (*_PLAIN, *_READ)
_Row = tuple[str, str | None, str | None]  # as SCHEMA
_ZIPS = {".docx", ".pptx", ".xlsx", *archives.READ}


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """A folder of documents, or some documents."""
    paths = local_paths(path, conf.kind, offline, folders=True)
    root = paths[0] if paths[0].is_dir() else Path(os.path.commonpath([file.parent for file in paths]))
    files = find_documents(paths)
    key, rows = (conf.kind, conf.encoding), read_documents(files, root, conf.encoding)
    table, contents = read_folder(root, files, key, SCHEMA, rows)
    return Loaded(table, contents, unreadable="unreadable")


def find_documents(paths: list[Path]) -> list[Path]:
    """The folder's documents, in the order of their paths, hidden ones left out; or the files named.

    UserError if there are none, or one without the package to read it.
    """
    files = _inside(paths[0]) if paths[0].is_dir() else paths
    for file in files:
        other = None if _suffix(file) in SUFFIXES else format_of(file)
        if other and "dataset=documents" not in other:
            raise UserError("dataset.path", f"is not a document but {other}", file=file)
    if not files or not all(_suffix(file) in SUFFIXES for file in files):
        raise UserError("dataset.path", f"holds no documents ({', '.join(SUFFIXES)})", file=paths[0])
    _check_packages(files)
    return files


def read_documents(paths: list[Path], root: Path, encoding: str = "utf-8") -> Iterator[pa.RecordBatch]:
    """The documents as batches of SCHEMA, about 4 million characters each or one document that is longer.

    ``encoding`` is that of texts without a byte order mark, and of HTML that does not name its own. UserError for an
    unknown one.
    """
    check_encoding(encoding)
    rows: list[_Row] = []
    chars = 0
    for path in paths:
        for row in _rows(path, path.relative_to(root).as_posix(), encoding):
            rows.append(row)
            chars += len(row[1] or "")
            if chars >= BATCH_CHARS:
                yield _batch(rows)
                rows, chars = [], 0
    if rows:
        yield _batch(rows)


def _inside(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*"))
    found = [file for file in found if not any(part.startswith((".", "~$")) for part in file.relative_to(folder).parts)]
    links = [file for file in found if file.is_symlink() and not file.is_file()]
    _tell_skipped(folder, links, "link", "they lead to a folder, which is not looked into, or nowhere")
    found = [file for file in found if file.is_file()]
    unknown = [file for file in found if _suffix(file) not in SUFFIXES]
    _tell_skipped(folder, unknown, "file", "dataset=documents reads no such kind")
    return [file for file in found if _suffix(file) in SUFFIXES]


def _suffix(file: Path) -> str:
    """What the name says of the kind: of a text, a page or a mail that is compressed, what it is within."""
    suffix, inner = file.suffix.lower(), Path(file.stem).suffix.lower()
    if file.name == mail.APPLES:
        return mail.BOXES[0]
    return inner if suffix in PACKED and inner in _PLAIN else suffix


def _tell_skipped(folder: Path, skipped: list[Path], what: str, why: str) -> None:
    """Say which files or links of a folder give no row."""
    if skipped:
        names = listed([file.relative_to(folder).as_posix() for file in skipped], _NAMED)
        log.warning("%s in %s skipped, as %s: %s", count_of(len(skipped), what), folder, why, names)


def _batch(rows: list[_Row]) -> pa.RecordBatch:
    columns = zip(zip(*rows, strict=True), SCHEMA, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(values, field.type) for values, field in columns], schema=SCHEMA)


def _rows(path: Path, name: str, encoding: str) -> Iterator[_Row]:
    """The file's document under its ``name``, or each mail of a mailbox under name and number."""
    number = 0
    try:
        if _suffix(path) in mail.BOXES:
            for number, content in enumerate(mail.mails(path), 1):
                yield f"{name}#{number}", *_read(partial(mail.mail_text, content, encoding, f"{path}#{number}"))
        else:
            yield name, *_read(partial(_text, path, encoding))
    except (OSError, ValueError) as error:
        yield f"{name}#{number + 1}", None, _problem(error)


def _text(path: Path, encoding: str) -> str:
    suffix = _suffix(path)
    if suffix in _ZIPS:
        archives.check_size(path)
    if suffix in _READ:
        return _READ[suffix](path)
    content = archives.unpacked(path)
    if suffix in mail.SUFFIXES:
        return mail.mail_text(content, encoding, str(path))
    if suffix in _HTML:
        return html_text(decoded(content, declared(content) or encoding, path))
    return decoded(content, encoding, path)


def _read(text: Callable[[], str]) -> tuple[str | None, str | None]:
    """A document's text, or why it has none."""
    try:
        found = text()
    except Exception as error:  # a file may be damaged in any way: it concerns its own row
        return None, _problem(error)
    found = re.sub(r"[\ud800-\udfff]", "\ufffd", found).replace("\r\n", "\n")
    return (found, None) if found.strip() else (None, "it holds no text")


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _check_packages(files: list[Path]) -> None:
    from importlib.util import find_spec

    for file in files:
        module, package = office.NEEDED.get(_suffix(file), ("", ""))
        if module and find_spec(module) is None:
            raise UserError(
                "dataset.path", f"{file.name} needs the package {package}: pip install 'rowmill[documents]'"
            )
