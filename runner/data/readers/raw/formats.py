"""What a file is that is no text, by how it begins, and what to do with it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from runner.data.readers.raw.compressed import open_stream

HEAD_BYTES = 4096
_SHEET = "save its sheet as CSV in UTF-8"
_BY_PANDAS = "write it as Parquet, for example with pandas"
_FORMATS = {
    b"PAR1": "a Parquet file: use dataset=parquet",
    b"ARROW1": "an Arrow file: use dataset=arrow",
    b"SQLite format 3": "an SQLite database: use dataset=sqlite",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
    b"%PDF": "a PDF: use dataset=documents",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"a file of an older Office, such as .xls: {_SHEET}",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it",
    b"\x1f\x9d": "a file packed by compress: unpack it (uncompress)",
    b"\xff\x06\0\0sNaPpY": "packed by Snappy: use gzip or zstd instead",
    b"\x02\x21\x4c\x18": "packed by an old lz4: unpack it and use gzip or zstd",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"\x89HDF": f"an HDF5 file: {_BY_PANDAS}",
    b"<stata_dta>": f"a file of Stata: {_BY_PANDAS}",
    b"$FL2@(#)": f"a file of SPSS: {_BY_PANDAS}",
    b"\x93NUMPY": "an array of NumPy: write it as Parquet",
    b"RDX2\n": "a file of R: write it as CSV or Parquet there",
    b"RDX3\n": "a file of R: write it as CSV or Parquet there",
    b"\x80\x04\x95": "a pickle, which could run any code: write it as Parquet where it was made",
    b"\x80\x05\x95": "a pickle, which could run any code: write it as Parquet where it was made",
}
_ZIP, _TAR = b"PK\x03\x04", slice(257, 262)
_INSIDE = {  # of a zip archive
    "xl/workbook.xml": "an Excel workbook: for one row with all its text use dataset=documents, else dataset=excel",
    "xl/workbook.bin": f"an Excel workbook: {_SHEET}",
    "word/document.xml": "a Word document: use dataset=documents",
    "ppt/presentation.xml": "a PowerPoint file: use dataset=documents",
    "content.xml": f"an OpenDocument: {_SHEET}, or use dataset=documents for one row with all its text",
}


def format_of(path: Path) -> str | None:
    """What the file is, and what to do; None for a text, or what is not known."""
    with open_stream(path) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(_ZIP):
        return _zipped(path)
    if head[_TAR] == b"ustar":
        return "a tar archive: unpack it"
    return next((meaning for magic, meaning in _FORMATS.items() if head.startswith(magic)), None)


def _zipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        names = set()
    return next((meaning for name, meaning in _INSIDE.items() if name in names), "a zip archive: unpack it")
