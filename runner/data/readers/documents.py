"""A folder of documents as a data set: one row for each text, Markdown, HTML or PDF file.

Columns: ``file`` (its path in the folder), ``text``, and ``unreadable``: why there is no text, null for all others.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.load import local_paths
from runner.data.readers import Loaded
from runner.data.readers.table import check_encoding, read_folder
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")
SCHEMA = pa.schema([("file", pa.string()), ("text", pa.string()), ("unreadable", pa.string())])
BATCH_CHARS = 4_000_000
_NAMED = 10  # of the files that are skipped
_TEXT = (".txt", ".text", ".md", ".markdown", ".rst")
_HTML = (".html", ".htm", ".xhtml")
SUFFIXES = (*_TEXT, *_HTML, ".pdf")
_HIDDEN = {"script", "style", "noscript", "template", "head", "svg"}
_BLOCKS = {
    *("p", "div", "br", "li", "ul", "ol", "tr", "table", "section", "article", "header", "footer", "main", "nav"),
    *("blockquote", "pre", "dl", "dt", "dd", "figure", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6"),
}


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """A folder of documents, or some documents."""
    paths = local_paths(path, conf.kind, offline, folders=True)
    root = paths[0] if paths[0].is_dir() else paths[0].parent
    files = find_documents(paths)
    key, rows = (conf.kind, conf.encoding), read_documents(files, root, conf.encoding)
    table, contents = read_folder(root, files, key, SCHEMA, rows)
    return Loaded(table, contents, unreadable="unreadable")


def find_documents(paths: list[Path]) -> list[Path]:
    """The folder's documents, in the order of their paths, hidden ones left out; or the files named.

    UserError if there are none, or a PDF without the package to read it.
    """
    files = _inside(paths[0]) if paths[0].is_dir() else paths
    if not files or not all(file.suffix.lower() in SUFFIXES for file in files):
        raise UserError("dataset.path", f"holds no documents ({', '.join(SUFFIXES)})", file=paths[0])
    if any(file.suffix.lower() == ".pdf" for file in files):
        _need_pypdf(files)
    return files


def read_documents(paths: list[Path], root: Path, encoding: str = "utf-8") -> Iterator[pa.RecordBatch]:
    """The documents as batches of SCHEMA, about 4 million characters each or one document that is longer.

    ``encoding`` is that of texts without a byte order mark, and of HTML that does not name its own. UserError for an
    unknown one.
    """
    check_encoding(encoding)
    rows: list[tuple[str, str | None, str | None]] = []
    for path in paths:
        text, problem = _read(path, encoding)
        rows.append((path.relative_to(root).as_posix(), text, problem))
        if sum(len(text or "") for _, text, _ in rows) >= BATCH_CHARS:
            yield _batch(rows)
            rows = []
    if rows:
        yield _batch(rows)


def html_text(source: str) -> str:
    """The text that a browser would show: blocks as paragraphs, no scripts, no styles."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    paragraphs = [" ".join(block.split()) for block in "".join(reader.pieces).split("\f")]
    return "\n\n".join(block for block in paragraphs if block)


def _inside(folder: Path) -> list[Path]:
    found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if skipped := [file.relative_to(folder).as_posix() for file in found if file.suffix.lower() not in SUFFIXES]:
        names = ", ".join(skipped[:_NAMED]) + (", ..." if len(skipped) > _NAMED else "")
        log.warning("%s in %s skipped, which no reader knows: %s", count_of(len(skipped), "file"), folder, names)
    return [file for file in found if file.suffix.lower() in SUFFIXES]


def _batch(rows: list[tuple[str, str | None, str | None]]) -> pa.RecordBatch:
    columns = zip(zip(*rows, strict=True), SCHEMA, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(values, field.type) for values, field in columns], schema=SCHEMA)


def _read(path: Path, encoding: str) -> tuple[str | None, str | None]:
    """The document's text, or why it has none."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".pdf":
            text = _pdf_text(path)
        elif suffix in _HTML:
            content = path.read_bytes()
            text = html_text(_decoded(content, _declared(content) or encoding))
        else:
            text = _decoded(path.read_bytes(), encoding)
    except Exception as error:  # a file may be damaged in any way: it concerns its own row
        return None, f"{type(error).__name__}: {error}"[:300]
    text = re.sub(r"[\ud800-\udfff]", "\ufffd", text).replace("\r\n", "\n")
    return (text, None) if text.strip() else (None, "it holds no text")


def _decoded(content: bytes, encoding: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if content.startswith(codecs.BOM_UTF8):
        return content.decode("utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {encoding}; did you mean dataset.encoding=latin-1?") from None
    if "\0" in text:
        raise ValueError("it is not text: it contains null bytes")
    return text


def _declared(page: bytes) -> str | None:
    """The encoding that an HTML page names in its first kilobyte, if Python knows it."""
    found = re.search(rb"""<meta[^>]*charset\s*=\s*["']?\s*([\w:.-]+)""", page[:1024], re.IGNORECASE)
    try:
        return codecs.lookup(found[1].decode()).name if found else None
    except LookupError:
        return None


def _pdf_text(path: Path) -> str:
    import logging

    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns about each oddity that it can handle
    return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)


def _need_pypdf(files: list[Path]) -> None:
    from importlib.util import find_spec

    if find_spec("pypdf") is None:
        first = next(file for file in files if file.suffix.lower() == ".pdf")
        raise UserError("dataset.path", f"{first.name} needs the package pypdf: pip install 'rowmill[documents]'")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = 0 if tag == "body" else self._hidden + (tag in _HIDDEN)  # a head need not be ended
        if tag in _BLOCKS:
            self.pieces.append("\f")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN and self._hidden:
            self._hidden -= 1
        if tag in _BLOCKS:
            self.pieces.append("\f")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data.replace("\f", " "))
