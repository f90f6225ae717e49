"""Labels from a file: one a line, a column of a table, or as YAML and JSON have them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import yaml

from runner.bare import read_yaml, texts
from runner.text.labels import read_labels
from runner.types import UserError
from runner.words import count_of, first_line

KEY = "job.labels_file"
TABLES = {".csv": ",", ".tsv": "\t"}
NAMES = ("name", "label")  # the column of a table that names labels, unless another one is asked for
DETAILS = ("surface", "description")


def read_label_file(path: str, column: str | None = None, least: int = 2) -> Any:
    """The labels in a file, as ``read_labels`` takes them. ``column``: of a table. Raises UserError for fewer than
    ``least`` of them and for what is no label.
    """
    found = _read(path, column)
    if len(found) < least:
        raise UserError(KEY, f"it has {count_of(len(found), 'label')}; at least {least} are needed", value=path)
    try:
        read_labels(found, least=least)
    except UserError as problem:
        raise UserError(KEY, problem.text, value=path) from problem
    return found


def _read(path: str, column: str | None) -> Any:
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise UserError(KEY, f"cannot be read: {why}", value=path) from problem
    if file.suffix.lower() in TABLES:
        return _table(text, path, TABLES[file.suffix.lower()], column)
    if column is not None:
        raise UserError("job.labels_column", "only tables have columns: .csv and .tsv files", value=column)
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        return _document(text, path, file.suffix.lower() == ".json")
    return [line.strip() for line in text.split("\n") if line.strip()]


def _document(text: str, path: str, is_json: bool) -> Any:
    try:
        found = json.loads(text) if is_json else texts(read_yaml(text))
    except (ValueError, yaml.YAMLError, RecursionError) as problem:
        kind = "JSON" if is_json else "YAML"
        raise UserError(KEY, f"it is not {kind}: {first_line(problem)}", value=path) from problem
    if isinstance(found, dict) and set(found) == {"labels"}:
        found = found["labels"]
    if not isinstance(found, list | dict):
        raise UserError(KEY, "it holds neither a list of labels nor names with their descriptions", value=path)
    return found


def _table(text: str, path: str, delimiter: str, column: str | None) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = list(rows.fieldnames or [])
    wanted = [column] if column is not None else [name for name in NAMES if name in columns]
    if column is None and not wanted and len(columns) == 1:
        wanted = columns
    if not wanted or wanted[0] not in columns:
        has = f"it has the columns {', '.join(columns)}" if columns else "it is empty"
        ask = f"has no column {column}" if column is not None else "has no column name or label"
        raise UserError(KEY, f"{ask}; {has}; job.labels_column names another one", value=path)
    details = [name for name in DETAILS if name in columns and name != wanted[0]]
    named = [row for row in rows if row[wanted[0]]]
    if not details:  # a column of a table may repeat them
        return [{"name": name} for name in dict.fromkeys(row[wanted[0]] for row in named)]
    return [{"name": row[wanted[0]], **{name: row[name] for name in details if row[name]}} for row in named]
