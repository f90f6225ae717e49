"""The data set ACLSum: 250 papers in full with reference summaries, from the files of the wheel ``aclsum``.

Columns: ``id``, ``title``, ``text`` (abstract and sections, a heading on a line of its own), ``reference`` (the three
summaries as one text) and ``split``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.load import local_paths
from runner.data.readers import Loaded
from runner.data.readers.table import read_folder
from runner.types import UserError

SPLITS = ("train", "val", "test")
ASPECTS = ("challenge", "approach", "outcome")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "reference", "split")])


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The papers in the folder."""
    found = local_paths(path, conf.kind, offline, folders=True)[0]
    root = found if found.is_dir() else found.parent
    key = (conf.kind, conf.encoding)
    return Loaded(*read_folder(root, find_papers(root), key, SCHEMA, read_papers(root)))


def find_papers(folder: Path) -> list[Path]:
    """The files that the rows come from; UserError if the folder is not ACLSum's."""
    lists = [folder / f"{split}.jsonl" for split in SPLITS]
    papers = sorted((folder / "paper_jsons").glob("*.json"))
    if not papers or not all(file.is_file() for file in lists):
        raise UserError("dataset.path", "is not the folder `dataset` of the wheel aclsum", file=folder)
    return [*lists, *papers]


def read_papers(folder: Path) -> Iterator[pa.RecordBatch]:
    """A batch of SCHEMA for each split."""
    for split in SPLITS:
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [_row(folder, json.loads(line)) | {"split": split} for line in lines if line.strip()]
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


def _row(folder: Path, listed: dict[str, Any]) -> dict[str, str]:
    paper = json.loads((folder / "paper_jsons" / f"{listed['id']}.json").read_text(encoding="utf-8"))
    reference = " ".join(listed["summary"][aspect].strip() for aspect in ASPECTS)
    return {"id": listed["id"], "title": paper["title"], "text": paper_text(paper), "reference": reference}


def paper_text(paper: dict[str, Any]) -> str:
    """The text of a paper in the S2ORC format."""
    blocks = [paper.get("abstract") or ""]
    for section, paragraphs in groupby(paper["pdf_parse"]["body_text"], lambda paragraph: paragraph["section"]):
        blocks += [section or "", *(paragraph["text"] for paragraph in paragraphs)]
    return "\n\n".join(block.strip() for block in blocks if block.strip())
