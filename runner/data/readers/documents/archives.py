"""Documents that are archives of pages, by the standard library: EPUB books and OpenDocument."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from runner.data.readers.documents.html import declared, html_text
from runner.data.readers.raw.compressed import compression
from runner.data.readers.raw.encodings import decoded, open_bytes

MOST_BYTES = 1 << 30  # of what a document unpacks to
_PIECE_BYTES = 1 << 20
_TEXT, _TABLE = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}", "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_BLOCKS = {f"{_TEXT}p", f"{_TEXT}h"}


def check_size(path: Path) -> None:
    """ValueError for an archive that unpacks to more than memory should hold."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes")


def unpacked(path: Path) -> bytes:
    """The bytes of a file that may be compressed; ValueError if it unpacks to more than memory should hold."""
    if not compression(path):
        return path.read_bytes()
    content = bytearray()
    with open_bytes(path) as file:
        while piece := file.read(_PIECE_BYTES):
            content += piece
            if len(content) > MOST_BYTES:
                raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    return bytes(content)


def epub_text(path: Path) -> str:
    """The chapters of a book in the order of reading."""
    with zipfile.ZipFile(path) as archive:
        return "\n\n".join(filter(None, (_page(archive.read(name), path) for name in _spine(archive))))


def odt_text(path: Path) -> str:
    """Paragraphs and headings of a text, a table or a presentation in their order, a line for each row of a table.

    Notes stand behind them.
    """
    with zipfile.ZipFile(path) as archive:
        content = ElementTree.fromstring(archive.read("content.xml"))
    notes = ("\n".join(_blocks(note)) for note in content.iter(f"{_TEXT}note-body"))
    return "\n\n".join([*_blocks(content), *notes])


READ = {".epub": epub_text, ".odt": odt_text, ".ods": odt_text, ".odp": odt_text}


def _page(content: bytes, book: Path) -> str:
    return html_text(decoded(content, declared(content) or "utf-8", book))


def _spine(archive: zipfile.ZipFile) -> Iterator[str]:
    container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
    package = container.findall(".//{*}rootfile")[0].attrib["full-path"]
    book = ElementTree.fromstring(archive.read(package))
    places = {one.attrib["id"]: one.attrib["href"] for one in book.findall(".//{*}manifest/{*}item")}
    names = set(archive.namelist())
    for one in book.findall(".//{*}spine/{*}itemref"):
        href = unquote(places.get(one.attrib["idref"], "").partition("#")[0])
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package), href))
        if name in names:
            yield name


def _blocks(element: ElementTree.Element) -> Iterator[str]:
    for one in element:
        if one.tag == f"{_TABLE}table":
            yield "\n".join(_rows(one))
        elif one.tag in _BLOCKS:
            yield _said(one)
        else:
            yield from _blocks(one)


def _rows(table: ElementTree.Element) -> Iterator[str]:
    for row in table.iter(f"{_TABLE}table-row"):
        cells = [" ".join(_blocks(cell)) for cell in row.iter(f"{_TABLE}table-cell")]
        if any(cells):
            yield "\t".join(cells).rstrip("\t")


def _said(element: ElementTree.Element) -> str:
    """The text of a paragraph, its spaces, tabs and line breaks included, its notes and comments left out."""
    pieces = [element.text or ""]
    for one in element:
        name = one.tag.rpartition("}")[2]
        if name == "s":
            pieces.append(" " * int(one.attrib.get(f"{_TEXT}c", 1)))
        elif name not in ("note", "annotation"):
            pieces.append({"tab": "\t", "line-break": "\n"}.get(name) or _said(one))
        pieces.append(one.tail or "")
    return "".join(pieces)
