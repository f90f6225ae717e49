"""A shard's columns: finished rows checked, staged as JSON, and turned into typed Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import isnan
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from runner.checkpoint.records import Output, Staged, clean, encode, pack_floats, to_jsons, unpack_floats
from runner.checkpoint.shards.layout import USAGE, ShardLayout, wide_type, with_texts
from runner.text.schema.formats import READ
from runner.types import Columns, UserError

BATCH_ROWS = 1000
BATCH_CHARS = 16 * 2**20
_PLAIN = {pa.string(): str, pa.float64(): float, pa.bool_(): bool}
_MISFIT = (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError)


def fitting(outputs: Sequence[Output], layout: ShardLayout) -> list[Output]:
    """These rows with values as JSON gives them back, checked so that sealing cannot fail on one later.

    A value that does not fit its column's type turns its row into an error row without any of the job's columns.
    """
    if (columns := _fitting([output.columns for output in outputs], layout)) is not None:
        return [_cleaned(output, some) for output, some in zip(outputs, columns, strict=True)]
    if len(outputs) == 1:
        return [_cleaned(_in_error(outputs[0], layout.job), {})]
    return [fitting([output], layout)[0] for output in outputs]


def _cleaned(output: Output, columns: Columns) -> Output:
    row, _, error, usage = output
    reason = usage.finish_reason
    if reason is not None and clean(reason) is not reason:
        usage = usage._replace(finish_reason=clean(reason))
    return Output(row, columns, None if error is None else clean(error), usage)


def _fitting(rows: Sequence[Columns], layout: ShardLayout) -> list[Columns] | None:
    known = set(layout.job.names)
    if not all(row.keys() <= known for row in rows):
        return None
    odd = [field for field in layout.job if field.name in layout.wide or not _is_fitting(rows, field)]
    if not odd:
        structs = [field.name for field in layout.job if pa.types.is_struct(field.type)]
        return [_copied(row, structs) for row in rows] if structs else list(rows)
    try:
        packed = [_packed(row, layout.wide) for row in rows] if layout.wide else [{}] * len(rows)
        bodies = [clean(encode({**row, **some})) for row, some in zip(rows, packed, strict=True)]
        records: list[Columns] = json.loads(f"[{','.join(bodies)}]")
        for field in odd:
            pairs = zip(records, packed, strict=True)
            _array([record.get(field.name) for record, some in pairs if field.name not in some], field.type)
    except _MISFIT:
        return None
    return records


def staged(outputs: Sequence[Output]) -> list[Staged]:
    """Rows that fit as the checkpoint holds them."""
    bodies = to_jsons([output.columns for output in outputs])
    pairs = zip(outputs, bodies, strict=True)
    return [Staged(row, error, *usage, body) for (row, _, error, usage), body in pairs]


def staged_type(rows: Sequence[Columns], column: str, name: str) -> pa.DataType:
    """A column's type by what staged rows hold or, where that is packed, by its ``name`` in the identity."""
    from runner.data.columns import infer

    values = [row.get(column) for row in rows]
    is_packed = name.startswith("struct<") and any(isinstance(value, str) for value in values)
    return wide_type(name) if is_packed else infer(values)


def _packed(columns: Columns, wide: Mapping[str, list[str]]) -> dict[str, str]:
    """Columns of very many numbers of 32 bits, each as one text: their names stand in the column's type."""
    found: dict[str, str | None] = {}
    for name, names in wide.items():
        value = columns.get(name)
        if isinstance(value, dict) and list(value) == names and set(map(type, value.values())) == {float}:
            found[name] = pack_floats(tuple(value.values()))
    return {name: text for name, text in found.items() if text is not None}


def _column(records: Sequence[Columns], field: pa.Field, layout: ShardLayout) -> pa.Array:
    """A column of rows as they are staged."""
    values = [record.get(field.name) for record in records]
    packed = [unpack_floats(value) for value in values if isinstance(value, str)] if field.name in layout.wide else []
    if not packed:
        return _array(values, field.type)
    names, numbers = layout.wide[field.name], iter(packed)
    if sum(value is not None for value in values) > len(packed):  # some are dicts, as earlier versions staged all
        values = [dict(zip(names, next(numbers), strict=True)) if isinstance(value, str) else value for value in values]
        return _array(values, field.type)
    absent = [0.0] * len(names)
    rows = np.array([absent if value is None else next(numbers) for value in values])
    mask = pa.array([value is None for value in values])
    return pa.StructArray.from_arrays([pa.array(one) for one in rows.T], fields=list(field.type), mask=mask)


def _is_fitting(rows: Sequence[Columns], field: pa.Field) -> bool:
    """Whether a column has what JSON gives back, as nearly always: only others are converted to know it."""
    values = [row.get(field.name) for row in rows]
    return _is_plain(values, field.type) or _holds_plain(values, field.type)


def _is_plain(values: list[Any], type_: pa.DataType) -> bool:
    """Whether they are what JSON gives back and the column takes, which nobody can change later: texts and the like."""
    types = set(map(type, values))
    if not types <= {_PLAIN.get(type_), NoneType}:
        return False
    some = [value for value in values if value is not None]
    if float in types and isnan(sum(some)):  # JSON knows one NaN only, of the many there are
        return False
    text = "".join(some) if str in types else ""
    return clean(text) is text


def _holds_plain(values: list[Any], type_: pa.DataType) -> bool:
    """Whether they are dicts of such values, one for each of a struct's fields."""
    parts = _parts(type_)
    dicts = [value for value in values if value is not None]
    if parts is None or not all(type(one) is dict and one.keys() <= parts.keys() for one in dicts):
        return False
    return all(_is_plain([one.get(name) for one in dicts], part) for name, part in parts.items())


def _copied(row: Columns, names: Sequence[str]) -> Columns:
    """The row with dicts of its own, which the job may go on to change."""
    return row | {name: dict(row[name]) for name in names if row.get(name) is not None}


@cache
def _parts(type_: pa.DataType) -> dict[str, pa.DataType] | None:
    """The types of a struct's fields; None for what is none."""
    return {field.name: field.type for field in type_} if pa.types.is_struct(type_) else None


def _in_error(output: Output, job: pa.Schema) -> Output:
    """The row without columns, of which one does not fit."""
    misfits = []
    for name, value in output.columns.items():
        try:
            _array([json.loads(clean(encode(value)))], job.field(str(name)).type)
        except KeyError:
            misfits.append(f"column {name!r} is not one of the job's ({', '.join(job.names)})")
        except _MISFIT:
            misfits.append(f"column {name!r} takes {job.field(name).type}, not {value!r:.80}")
    return output._replace(error=output.error or f"output type: {'; '.join(misfits)}")


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    # pyarrow cuts 1.5 to 1 without a word when it fills an integer column.
    if pa.types.is_integer(type_) and any(isinstance(v, float) and not v.is_integer() for v in values):
        raise ValueError("not an integer")
    return pa.array([_timed(value, type_) for value in values] if _has_times(type_) else values, type=type_)


@cache
def _has_times(type_: pa.DataType) -> bool:
    return bool(with_texts(type_) != type_)


def _timed(value: Any, type_: pa.DataType) -> Any:
    """A JSON value with dates and times for texts in ISO 8601."""
    if isinstance(value, list) and pa.types.is_list(type_):
        return [_timed(one, type_.value_type) for one in value]
    if isinstance(value, dict) and pa.types.is_struct(type_):
        return {field.name: _timed(value.get(field.name), field.type) for field in type_}
    return READ[type_](str(value)) if type_ in READ and value is not None else value


def batches(rows: Iterable[Staged]) -> Iterator[list[Output]]:
    """``rows`` in lists of at most BATCH_ROWS rows and about BATCH_CHARS characters."""
    piece: list[Staged] = []
    chars = 0
    for row in rows:
        piece.append(row)
        chars += len(row.body)
        if len(piece) == BATCH_ROWS or chars >= BATCH_CHARS:
            yield _read(piece)
            piece, chars = [], 0
    if piece:
        yield _read(piece)


def _read(rows: list[Staged]) -> list[Output]:
    records = json.loads(f"[{','.join(row.body for row in rows)}]")
    return [Output(row.row, columns, row.error, row.usage) for row, columns in zip(rows, records, strict=True)]


def table(rows: Sequence[Output], layout: ShardLayout) -> pa.Table:
    """Consecutive rows as a table of ``layout.columns``, the kept input columns read again from the source.

    Raises UserError when the source no longer has these rows or columns.
    """
    arrays = _kept_arrays(rows[0].row, rows[-1].row + 1, layout) if layout.keep.names else []
    records = [row.columns for row in rows]
    arrays += [_column(records, field, layout) for field in layout.job]
    arrays.append(pa.array([row.error for row in rows], type=pa.string()))
    usages = zip(*[row.usage for row in rows], strict=True)
    usage = [pa.array(values, type=field.type) for values, field in zip(usages, USAGE, strict=True)]
    arrays.append(pa.StructArray.from_arrays(usage, fields=list(USAGE)))
    return pa.Table.from_arrays(arrays, schema=layout.columns)


def _kept_arrays(start: int, stop: int, layout: ShardLayout) -> list[Any]:
    keep: list[str] = layout.keep.names
    source = layout.kept(start, stop)
    there = set(source.column_names)
    missing = [name for name in keep if name not in there]
    if missing or source.num_rows != stop - start:
        rows = f"of rows {start} to {stop - 1} it has only {source.num_rows} left"
        found = f"it no longer has a column {missing[0]!r}" if missing else rows
        raise UserError(f"the data set changed during the run: {found}")
    # ``take`` copies, so that the bytes do not depend on how the source happened to cut its chunks.
    source = source.select(keep).take(pa.array(range(stop - start), type=pa.int64()))
    return [column.cast(field.type) for column, field in zip(source.columns, layout.columns, strict=False)]
