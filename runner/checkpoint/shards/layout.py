"""How a run's rows become shards: the columns of their files, and which rows each has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from runner.checkpoint.growth.inputs import Inputs
from runner.checkpoint.records import Output, unpack_floats
from runner.sequences import MANY_SCORES
from runner.text.schema.formats import READ
from runner.types import Columns, UserError

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
_DOUBLE = ": double"


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

    def shown(self, rows: Sequence[Output]) -> list[Columns]:
        """The job's columns of finished rows, and what to know them by.

        That is the start of the kept text that is longest in them, under its column's name.
        """
        texts = self.texts([row.row for row in rows])
        return [text | self._unpacked(row.columns) for row, text in zip(rows, texts, strict=True)]

    def _unpacked(self, columns: Columns) -> Columns:
        columns = dict(columns)
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
        texts = with_texts(field.type)
        fields.append(field.with_type(texts) if recorded.get(field.name) == str(texts) else field)
    return pa.schema(fields, job.metadata)


def with_texts(type_: pa.DataType) -> pa.DataType:
    """The type with texts for dates and times."""
    if pa.types.is_list(type_):
        return pa.list_(with_texts(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(with_texts(field.type)) for field in type_])
    return pa.string() if type_ in READ else type_


def _features(keep: pa.Schema) -> dict[bytes, bytes] | None:
    # The format of datasets: {"info": {"features": {column: type}}} under the key "huggingface".
    try:
        features = json.loads((keep.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return None
    kept = {name: features[name] for name in keep.names if name in (features or {})}
    return {b"huggingface": json.dumps({"info": {"features": kept}}).encode()} if kept else None


def _may_be_packed(type_: pa.DataType) -> bool:
    """Whether it is a struct of very many numbers that can be made again from its name."""
    return bool(pa.types.is_struct(type_)) and type_.num_fields > MANY_SCORES and wide_type(str(type_)) == type_


def wide_type(name: str) -> pa.DataType:
    names = name.removeprefix("struct<").removesuffix(f"{_DOUBLE}>").split(f"{_DOUBLE}, ")
    return pa.struct([(one, pa.float64()) for one in names])
