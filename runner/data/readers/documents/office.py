"""Documents of office programs, by the packages that read them: Word, PowerPoint, RTF and PDF."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

NEEDED = {  # the module that reads it, and the package that it comes in
    ".pdf": ("pypdf", "pypdf"),
    ".docx": ("docx", "python-docx"),
    ".pptx": ("pptx", "python-pptx"),
    ".xlsx": ("openpyxl", "openpyxl"),
    ".rtf": ("striprtf", "striprtf"),
}

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_AROUND = {f"{_WORD}{name}" for name in ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")}
_GONE = {f"{_WORD}{name}" for name in ("del", "moveFrom", "rt", "pPr", "rPr", "sdtPr", "tblPr", "trPr", "tcPr")} | {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # the same once more
}
_SIGNS = {f"{_WORD}{name}": sign for name, sign in {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}.items()}


def pdf_text(path: Path) -> str:
    """The text of the pages."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns about each oddity that it can handle
    return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)


def docx_text(path: Path) -> str:
    """Paragraphs and tables in their order, a line for each row of a table; footnotes and endnotes behind them."""
    import docx

    document = docx.Document(str(path))
    texts = [*_blocks(document.element.body), *_notes(document.part)]
    return "\n\n".join(text for text in texts if text.strip())


def pptx_text(path: Path) -> str:
    """The slides in their order: what their shapes and tables say, and the speaker's notes."""
    import pptx

    slides = []
    for slide in pptx.Presentation(str(path)).slides:
        said = list(_shapes(slide.shapes))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            said.append(slide.notes_slide.notes_text_frame.text)
        slides.append("\n".join(text for text in said if text.strip()))
    return "\n\n".join(filter(None, slides))


def rtf_text(path: Path) -> str:
    """The text without its formatting."""
    from striprtf.striprtf import rtf_to_text

    content = path.read_bytes()
    if not content.lstrip().startswith(b"{\\rtf"):
        raise ValueError("it is no RTF document")
    return str(rtf_to_text(content.decode("cp1252", errors="replace"), errors="replace"))


READ = {".pdf": pdf_text, ".docx": docx_text, ".pptx": pptx_text, ".rtf": rtf_text}


def _blocks(node: Any) -> Iterator[str]:
    """Paragraphs and tables of Word, also those in controls, forms and changes that python-docx passes over."""
    for block in _flat(node):
        if block.tag == f"{_WORD}p":
            yield "".join(_said(block))
        elif block.tag == f"{_WORD}tbl":
            rows = (row for row in _flat(block) if row.tag == f"{_WORD}tr")
            yield "\n".join("\t".join(map(_cell, _cells(row))) for row in rows)


def _notes(part: Any) -> Iterator[str]:
    for kind in ("footnotes", "endnotes"):
        for found in (one.target_part for one in part.rels.values() if one.reltype.endswith(f"/{kind}")):
            notes = (
                note for note in ElementTree.fromstring(found.blob) if note.get(f"{_WORD}type", "normal") == "normal"
            )
            yield from ("\n".join(_blocks(note)).strip() for note in notes)


def _cells(row: Any) -> Iterator[Any]:
    return (cell for cell in _flat(row) if cell.tag == f"{_WORD}tc")


def _cell(cell: Any) -> str:
    return " ".join(" ".join(_blocks(cell)).split())


def _flat(node: Any) -> Iterator[Any]:
    """The parts of a node; what only stands around some of them, by these."""
    for part in node:
        if part.tag in _AROUND:
            yield from _flat(part)
        elif part.tag not in _GONE:
            yield part


def _said(node: Any) -> Iterator[str]:
    for part in _flat(node):
        if part.tag == f"{_WORD}t":
            yield part.text or ""
        elif part.tag in _SIGNS:
            yield _SIGNS[part.tag] if part.get(f"{_WORD}type", "textWrapping") == "textWrapping" else ""
        elif part.tag == f"{_WORD}txbxContent":
            yield "\n".join(["", *_blocks(part), ""])
        else:
            yield from _said(part)


def _shapes(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            rows = ([cell for cell in row.cells if not cell.is_spanned] for row in shape.table.rows)
            yield "\n".join("\t".join(" ".join(cell.text.split()) for cell in row) for row in rows)
