"""Hashes of rows and of their keys, by which a run knows them again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runner.data.cells import stored
from runner.data.conf import check_column
from runner.types import RowError, Source, UserError
from runner.words import rows_at

if TYPE_CHECKING:
    import numpy as np

HASH_BYTES = 8  # of a row: two versions of one row are the same by chance once in 10**19
_BETWEEN = "\x1f"
_BLOCK_ROWS = 100_000
_SHOWN = 3  # of the rows that share a key


def hash_rows(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> bytes:
    """HASH_BYTES for each row: of its cells, as a prompt shows them, under their columns' names.

    So 1 and "1" are the same, and so are a null and a column that is not there: rows that are added later may bring
    columns, or texts into a column of numbers, and the earlier ones are what they were.
    """
    ordered = sorted(zip(names, columns, strict=True), key=lambda pair: pair[0])
    known = tuple(name for name, _ in ordered)
    rows = zip(*(_texts(column) for _, column in ordered), strict=True)
    return _hashes([_joined(known, row) for row in rows])


def hash_table(table: pa.Table) -> bytes:
    """As ``hash_rows``."""
    return hash_rows(table.column_names, [stored(name, table[name]) for name in table.column_names])


def hash_column(column: pa.ChunkedArray) -> bytes:
    """HASH_BYTES for each cell, none of which is null."""
    return _hashes(_texts(stored("", column)))


def hash_keys(name: str, source: Source) -> np.ndarray:
    """A hash [N] of each row's key, the cell of column ``name``. UserError unless each row has one of its own."""
    import numpy as np

    check_column("dataset.key", name, source.column_names)
    found = []
    for start in range(0, len(source), _BLOCK_ROWS):
        table = source.table(start, start + _BLOCK_ROWS, [name])
        if pa.types.is_nested(table[name].type):
            raise UserError("dataset.key", f"column {name!r} holds lists or structs: a key is a text or a number")
        if table[name].null_count:
            _refuse_nulls(name, table[name], start)
        found.append(np.frombuffer(hash_column(table[name]), np.uint64))
    keys = np.concatenate(found)
    _refuse_twins(name, keys)
    return keys


def _joined(names: tuple[str, ...], cells: tuple[str | None, ...]) -> str:
    """One text for a row, and for no other."""
    if None in cells:
        there = [(name, cell) for name, cell in zip(names, cells, strict=True) if cell is not None]
        names, cells = tuple(name for name, _ in there), tuple(cell for _, cell in there)
    parts = names + cells
    text = _BETWEEN.join(parts)  # type: ignore[arg-type]
    return text if text.count(_BETWEEN) == len(parts) - 1 else repr(parts)


def _texts(column: Sequence[Any]) -> list[str | None]:
    try:
        return [None if cell is None else str(cell) for cell in column]
    except RowError:
        return [None if cell is None else _text(cell) for cell in column]


def _text(cell: Any) -> str:
    try:
        return str(cell)
    except RowError as unreadable:
        return str(unreadable)


def _hashes(texts: list[Any]) -> bytes:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([blake2b(text, digest_size=HASH_BYTES).digest() for text in encoded])


def _refuse_nulls(name: str, column: pa.ChunkedArray, start: int) -> None:
    at = [start + row for row, cell in enumerate(column.is_null().to_pylist()) if cell]
    raise UserError("dataset.key", f"column {name!r} has no value in {rows_at(at)}: a key identifies each row")


def _refuse_twins(name: str, keys: np.ndarray) -> None:
    import numpy as np

    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    twice = np.sort(first[counts > 1])
    if not len(twice):
        return
    told = [rows_at(np.flatnonzero(keys == keys[at]).tolist()) for at in twice[:_SHOWN].tolist()]
    more = f", and {len(twice) - _SHOWN:,} more keys" if len(twice) > _SHOWN else ""
    raise UserError("dataset.key", f"the same {name!r} is in {'; in '.join(told)}{more}: a key identifies one row")
