"""The input columns that go into the output: which, under what names, and whether `datasets` can load them."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import pyarrow as pa

from runner.data.cells import shown
from runner.data.conf import check_column
from runner.data.source import DataSource
from runner.types import UserError

INPUT = "input_"  # before the name of a column of the data if the output has another of the name
GOLD = "gold"  # the gold column's name in the output if the job has a column of its own name
NAMING = ("custom_id", "id", "key", "file", "path", "name")  # columns that name a row for people, the best first
_REQUEST, _LINE = "custom_id", "line"  # of a batch file, whose broken lines have no name
log = logging.getLogger("rowmill")


@dataclass(frozen=True)
class Kept:
    """``columns``: the source's column for each name in the output, in order."""

    source: DataSource
    columns: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def schema(self) -> pa.Schema:
        """The kept columns' types under their names in the output, with the feature types of `datasets`."""
        full = self.source.schema
        fields = [full.field(column).with_name(name) for name, column in self.columns.items()]
        return pa.schema(fields, _renamed_features(full.metadata, self.columns))

    def table(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) of the kept columns under their names in the output."""
        return self.source.table(start, stop, list(self.columns.values())).rename_columns(list(self.columns))


def choose(
    wanted: list[str] | None, source: DataSource, job: pa.Schema, before: Mapping[str, str] | None = None
) -> Kept:
    """``output.keep``, or all columns but those that cannot be loaded again.

    A column whose name the job's own columns, ``error`` or ``usage`` take is kept as ``input_NAME``, the gold column as
    ``gold`` if that is free. ``before``: what the run has kept so far, perhaps by an earlier version, which left such
    columns out. UserError for a wanted column that does not exist, occurs twice or cannot be loaded.
    """
    ours = {*job.names, "error", "usage"}
    for name in wanted or ():
        _check_wanted(name, wanted or [], source)
    names = [name for name in source.column_names if _loads(source, name)] if wanted is None else wanted
    taken = {*ours, *names}
    columns: dict[str, str] = {}
    for name in names:
        output = name if name not in ours else GOLD if name == source.conf.gold and GOLD not in taken else None
        columns[output or numbered(INPUT + name, taken)] = name
        taken.update(columns)
    unnamed = {output: name for output, name in columns.items() if output in (name, GOLD)}
    if wanted is None and before == unnamed:
        return Kept(source, unnamed)
    if renamed := [f"{name} as {output}" for output, name in columns.items() if output not in unnamed]:
        log.info("kept under another name, as the run has a column of that name: %s", ", ".join(renamed))
    return Kept(source, columns)


def naming(columns: Mapping[str, str]) -> list[str]:
    """Which kept columns (the source's by their names in the output) say which row is meant, the best first."""
    found = {column.casefold(): name for name, column in columns.items()}
    names = (*NAMING, _LINE) if _REQUEST in found else NAMING
    return [found[name] for name in names if name in found]


def named(cells: pa.Table) -> list[str | None]:
    """Rows' names for people: the first cell of each that is not empty, of the columns of ``naming``."""
    columns = [
        [cell if cell in (None, "") else f"line {cell}" if name == _LINE else str(cell) for cell in shown(column)]
        for name, column in zip(cells.column_names, cells.columns, strict=True)
    ]
    return [next((cell for cell in row if cell), None) for row in zip(*columns, strict=True)]


def numbered(name: str, taken: Collection[str]) -> str:
    """The name, or the first of NAME_2, NAME_3, ... that is not taken."""
    names = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(one for one in names if one not in taken)


def _check_wanted(name: str, wanted: list[str], source: DataSource) -> None:
    check_column("output.keep", name, source.column_names)
    if wanted.count(name) > 1:
        raise UserError("output.keep", f"the column {name!r} is listed twice")
    if not loadable(source.schema.field(name).type):
        raise UserError(
            "output.keep",
            f"column {name!r} has type {source.schema.field(name).type}, which `datasets` cannot load: leave it out",
        )


def _loads(source: DataSource, name: str) -> bool:
    type_ = source.schema.field(name).type
    if loadable(type_):
        return True
    log.warning("column %r is not kept: `datasets` cannot load its type %s", name, type_)
    return False


def loadable(type_: pa.DataType) -> bool:
    """Whether a column of this type can be written, and loaded with ``datasets.load_from_disk``."""
    return _is_plain(type_) or _loads_with_datasets(type_)


def _is_plain(type_: pa.DataType) -> bool:
    """Types known to load, so that `datasets` is not imported, which takes a quarter of a second."""
    t = pa.types
    if t.is_list(type_) or t.is_large_list(type_) or t.is_dictionary(type_):
        return _is_plain(type_.value_type)
    if t.is_struct(type_):
        return all(_is_plain(field.type) for field in type_)
    tests = (t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string)
    others = (t.is_binary, t.is_large_binary, t.is_date, t.is_timestamp, t.is_time, t.is_decimal128)
    return any(test(type_) for test in tests + others)


def _loads_with_datasets(type_: pa.DataType) -> bool:
    import datasets

    schema = pa.schema([("column", type_)])
    try:
        datasets.Features.from_arrow_schema(schema)
        schema.empty_table().take(pa.array([], pa.int64()))  # how shards are made
    except (ValueError, TypeError, NotImplementedError, pa.ArrowException):
        return False
    return True


def _renamed_features(metadata: Mapping[bytes, bytes] | None, columns: Mapping[str, str]) -> dict[bytes, bytes] | None:
    # The format of datasets: {"info": {"features": {column: type}}} under the key "huggingface".
    try:
        features: dict[str, Any] = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kept = {name: features[column] for name, column in columns.items() if column in features}
        kept = {name: feature for name, feature in kept.items() if _is_known(name, feature)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return {b"huggingface": json.dumps({"info": {"features": kept}}).encode()}


def _is_known(name: str, feature: Any) -> bool:
    """Whether `datasets` has such a feature type: files may have been written by a newer version."""
    import datasets

    try:
        return bool(datasets.Features.from_dict({name: feature}))
    except Exception:  # the metadata may hold anything
        log.warning("column %r: its feature type is unknown here and left out", name)
        return False
