"""Documents of office programs, by the packages that read them: Word, PowerPoint, Excel, RTF and PDF."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NEEDED = {  # the module that reads it, and the package that it comes in
    ".pdf": ("pypdf", "pypdf"),
    ".docx": ("docx", "python-docx"),
    ".pptx": ("pptx", "python-pptx"),
    ".xlsx": ("openpyxl", "openpyxl"),
    ".rtf": ("striprtf", "striprtf"),
}


def pdf_text(path: Path) -> str:
    """The text of the pages."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns about each oddity that it can handle
    return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)


def docx_text(path: Path) -> str:
    """Paragraphs and tables in their order, a line for each row of a table."""
    import docx

    return "\n\n".join(_blocks(docx.Document(str(path)).iter_inner_content()))


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


def xlsx_text(path: Path) -> str:
    """The sheets in their order under their names, a line for each row, its cells separated by tabs."""
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheets = ((sheet.title, "\n".join(_lines(sheet))) for sheet in book.worksheets)
        return "\n\n".join(f"{name}\n{text}" for name, text in sheets if text)
    finally:
        book.close()


def rtf_text(path: Path) -> str:
    """The text without its formatting."""
    from striprtf.striprtf import rtf_to_text

    content = path.read_bytes()
    if not content.lstrip().startswith(b"{\\rtf"):
        raise ValueError("it is no RTF document")
    return str(rtf_to_text(content.decode("cp1252", errors="replace"), errors="replace"))


READ = {".pdf": pdf_text, ".docx": docx_text, ".pptx": pptx_text, ".xlsx": xlsx_text, ".rtf": rtf_text}


def _blocks(content: Iterable[Any]) -> Iterator[str]:
    for block in content:
        text = block.text if hasattr(block, "text") else "\n".join(_rows(block))
        if text.strip():
            yield text


def _rows(table: Any) -> Iterator[str]:
    for row in table.rows:
        cells = dict.fromkeys(row.cells)  # a merged cell comes once for each column
        yield "\t".join(" ".join(cell.text.split()) for cell in cells)


def _shapes(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            yield "\n".join(_rows(shape.table))


def _lines(sheet: Any) -> Iterator[str]:
    sheet.reset_dimensions()  # which some programs write down wrong
    for row in sheet.iter_rows(values_only=True):
        cells = ["" if cell is None else str(cell) for cell in row]
        if any(cells):
            yield "\t".join(cells).rstrip("\t")
