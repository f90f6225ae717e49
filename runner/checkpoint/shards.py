"""A shard's columns: finished rows checked, staged as JSON, and turned into typed Arrow tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.checkpoint.growth.inputs import Inputs
from runner.checkpoint.records import Output, Staged, clean, encode, pack_floats, unpack_floats
from runner.sequences import MANY_SCORES
from runner.text.schema.formats import READ
from runner.types import Columns, UserError

BATCH_ROWS = 1000
BATCH_CHARS = 16 * 2**20
EXCERPT_CHARS = 200  # of an input text
USAGE = pa.struct(
    [
        ("prompt_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("retries", pa.int32()),
        ("seed", pa.int64()),
    ]
)
OURS = pa.schema([("error", pa.string()), ("usage", USAGE)])
_PLAIN = {pa.string(): str, pa.float64(): float, pa.bool_(): bool}
_DOUBLE = ": double"
_MISFIT = (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class ShardLayout:
    """How a run's rows become shards; ``columns`` is ``shard_schema(keep, job)``, ``kept`` reads input rows again.

    ``inputs``: those whose hashes are recorded, if any are.
    """

    rows: int
    shard_rows: int
    job: pa.Schema
    keep: pa.Schema
    kept: Callable[[int, int], pa.Table]
    columns: pa.Schema
    inputs: Inputs | None = None

    @cached_property
    def wide(self) -> dict[str, list[str]]:
        """The job's columns that may be packed, each with its fields' names."""
        return {field.name: [one.name for one in field.type] for field in self.job if _may_be_packed(field.type)}

    def span(self, shard: int) -> tuple[int, int]:
        """The shard's rows [start, stop)."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)

    def __len__(self) -> int:
        """How many shards there will be; an empty data set is one empty shard."""
        return max(1, -(-self.rows // self.shard_rows))

    def shown(self, rows: Sequence[Staged]) -> list[Columns]:
        """The job's columns of finished rows, and what to know them by.

        That is the start of the kept text that is longest in them, under its column's name.
        """
        texts = self.texts([row.row for row in rows])
        return [text | self._unpacked(json.loads(row.body)) for row, text in zip(rows, texts, strict=True)]

    def _unpacked(self, columns: Columns) -> Columns:
        for name, names in self.wide.items():
            if isinstance(text := columns.get(name), str):
                columns[name] = dict(zip(names, unpack_floats(text), strict=True))
        return columns

    def texts(self, rows: Sequence[int]) -> list[dict[str, str]]:
        """What to know these rows by."""
        try:
            found = self._texts(rows)
        except (UserError, pa.ArrowException):  # the data have changed: whoever needs them whole will say so
            found = []
        return found if len(found) == len(rows) else [{} for _ in rows]

    def _texts(self, rows: Sequence[int]) -> list[dict[str, str]]:
        is_text = (pa.types.is_string, pa.types.is_large_string)
        names = [field.name for field in self.keep if any(check(field.type) for check in is_text)]
        if not names:
            return []
        table = pa.concat_tables([self.kept(row, row + 1).select(names) for row in rows])
        name = max(names, key=lambda name: pc.sum(pc.binary_length(table[name])).as_py() or 0)
        starts = pc.utf8_slice_codeunits(table[name], 0, EXCERPT_CHARS).to_pylist()
        return [{} if text is None else {name: text} for text in starts]


def shard_file(shard: int) -> str:
    """The name of a shard's file."""
    return f"data-{shard:05d}.arrow"


def shard_schema(keep: pa.Schema, job: pa.Schema) -> pa.Schema:
    """The columns of every shard: kept input columns, the job's, ``error``, ``usage``.

    Dictionary-encoded input becomes plain, and the Hugging Face feature types of kept columns are carried along.
    Raises UserError for a name that occurs twice and for a job column that JSON cannot stage.
    """
    kept = [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in keep]
    fields = [*kept, *(f.with_nullable(True) for f in job), *OURS]
    names = [f.name for f in fields]
    if twice := sorted(n for n, count in Counter(names).items() if count > 1):
        raise UserError(
            f"output column {twice[0]!r} would occur twice: input columns (output.keep), the job's columns "
            f"({', '.join(job.names)}), error and usage need different names"
        )
    for field in job:
        if not _stageable(field.type):
            raise UserError(
                f"job column {field.name!r} has type {field.type}: "
                "it must be a boolean, a number, a string, a date or time, or a list or struct of these"
            )
    return pa.schema(fields, metadata=_features(keep))


def _stageable(type_: pa.DataType) -> bool:
    t = pa.types
    if t.is_list(type_) or t.is_large_list(type_):
        return _stageable(type_.value_type)
    if t.is_struct(type_):
        return all(_stageable(field.type) for field in type_)
    if t.is_dictionary(type_):
        return bool(t.is_string(type_.value_type))
    tests = (t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string)
    return type_ in READ or any(test(type_) for test in tests)


def as_recorded(job: pa.Schema, recorded: Mapping[str, str]) -> pa.Schema:
    """The job's columns as a run has recorded them by their types: earlier versions kept dates and times as texts."""
    fields = []
    for field in job:
        texts = _with_texts(field.type)
        fields.append(field.with_type(texts) if recorded.get(field.name) == str(texts) else field)
    return pa.schema(fields, job.metadata)


def _with_texts(type_: pa.DataType) -> pa.DataType:
    """The type with texts for dates and times."""
    if pa.types.is_list(type_):
        return pa.list_(_with_texts(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_with_texts(field.type)) for field in type_])
    return pa.string() if type_ in READ else type_


def _features(keep: pa.Schema) -> dict[bytes, bytes] | None:
    # The format of datasets: {"info": {"features": {column: type}}} under the key "huggingface".
    try:
        features = json.loads((keep.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return None
    kept = {name: features[name] for name in keep.names if name in (features or {})}
    return {b"huggingface": json.dumps({"info": {"features": kept}}).encode()} if kept else None


def stage(outputs: Sequence[Output], layout: ShardLayout) -> list[Staged]:
    """These rows as the checkpoint stores them, checked so that sealing cannot fail on a value later.

    A value that does not fit its column's type turns its row into an error row without any of the job's columns.
    """
    if (bodies := _fitting(outputs, layout)) is not None:
        return [_staged(output, body) for output, body in zip(outputs, bodies, strict=True)]
    if len(outputs) == 1:
        return [_staged(_in_error(outputs[0], layout.job), "{}")]
    return [stage([output], layout)[0] for output in outputs]


def _staged(output: Output, body: str) -> Staged:
    row, _, error, (prompt, cached, completion, reason, retries, seed) = output
    reason = clean(reason) if reason is not None else None
    error = clean(error) if error is not None else None
    return Staged(row, error, prompt, cached, completion, reason, retries, seed, body)


def _fitting(outputs: Sequence[Output], layout: ShardLayout) -> list[str] | None:
    known = set(layout.job.names)
    if not all(output.columns.keys() <= known for output in outputs):
        return None
    packed = [_packed(output.columns, layout.wide) for output in outputs] if layout.wide else [{}] * len(outputs)
    try:
        bodies = [clean(encode({**output.columns, **some})) for output, some in zip(outputs, packed, strict=True)]
        odd = [field for field in layout.job if not _is_plain(_unpacked(outputs, packed, field), field.type)]
        if odd:
            records = json.loads(f"[{','.join(bodies)}]")
            for field in odd:
                pairs = zip(records, packed, strict=True)
                _array([record.get(field.name) for record, some in pairs if field.name not in some], field.type)
    except _MISFIT:
        return None
    return bodies


def staged_type(rows: Sequence[Columns], column: str, name: str) -> pa.DataType:
    """A column's type by what staged rows hold or, where that is packed, by its ``name`` in the identity."""
    from runner.data.columns import infer

    values = [row.get(column) for row in rows]
    is_packed = name.startswith("struct<") and any(isinstance(value, str) for value in values)
    return _wide_type(name) if is_packed else infer(values)


def _may_be_packed(type_: pa.DataType) -> bool:
    """Whether it is a struct of very many numbers that can be made again from its name."""
    return bool(pa.types.is_struct(type_)) and type_.num_fields > MANY_SCORES and _wide_type(str(type_)) == type_


def _wide_type(name: str) -> pa.DataType:
    names = name.removeprefix("struct<").removesuffix(f"{_DOUBLE}>").split(f"{_DOUBLE}, ")
    return pa.struct([(one, pa.float64()) for one in names])


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


def _unpacked(outputs: Sequence[Output], packed: Sequence[Mapping[str, str]], field: pa.Field) -> list[Any]:
    """A column's values but those that are packed."""
    pairs = zip(outputs, packed, strict=True)
    return [output.columns.get(field.name) for output, some in pairs if field.name not in some]


def _is_plain(values: list[Any], type_: pa.DataType) -> bool:
    """Whether they are of the types that a column takes, as nearly always: only others are converted to know it."""
    parts = _parts(type_)
    if parts is None:
        return set(map(type, values)) <= {_PLAIN.get(type_), NoneType}
    dicts = [value for value in values if value is not None]
    if not all(type(one) is dict and one.keys() <= parts.keys() for one in dicts):
        return False
    return all(_is_plain([one.get(name) for one in dicts], part) for name, part in parts.items())


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
    return bool(_with_texts(type_) != type_)


def _timed(value: Any, type_: pa.DataType) -> Any:
    """A JSON value with dates and times for texts in ISO 8601."""
    if isinstance(value, list) and pa.types.is_list(type_):
        return [_timed(one, type_.value_type) for one in value]
    if isinstance(value, dict) and pa.types.is_struct(type_):
        return {field.name: _timed(value.get(field.name), field.type) for field in type_}
    return READ[type_](str(value)) if type_ in READ and value is not None else value


def batches(rows: Iterable[Staged]) -> Iterator[list[Staged]]:
    """``rows`` in lists of at most BATCH_ROWS rows and about BATCH_CHARS characters."""
    piece: list[Staged] = []
    chars = 0
    for row in rows:
        piece.append(row)
        chars += len(row.body)
        if len(piece) == BATCH_ROWS or chars >= BATCH_CHARS:
            yield piece
            piece, chars = [], 0
    if piece:
        yield piece


def table(rows: list[Staged], layout: ShardLayout) -> pa.Table:
    """Consecutive rows as a table of ``layout.columns``, the kept input columns read again from the source.

    Raises UserError when the source no longer has these rows or columns.
    """
    arrays = _kept_arrays(rows[0].row, rows[-1].row + 1, layout) if layout.keep.names else []
    records = json.loads(f"[{','.join(row.body for row in rows)}]")
    arrays += [_column(records, field, layout) for field in layout.job]
    arrays.append(pa.array([row.error for row in rows], type=pa.string()))
    usage = [pa.array(map(attrgetter(field.name), rows), type=field.type) for field in USAGE]
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
