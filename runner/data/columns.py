"""Rows of JSON values as Arrow columns, and each row's own values back again.

Arrow gives a column one type. Where values differ (an integer beside a fraction, a text beside lists, objects with
other keys), the column is of a type that holds them all, text at the worst, with JSON for what is not a string; but
beside it a second one, which is not shown, holds each cell's own JSON, so that what a job or a prompt sees of one row
never depends on what other rows hold. A key that an object lacks reads as null, as a column that a row lacks does.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from runner.data.cells import UnreadableCell
from runner.data.layout import cast
from runner.plain import to_json
from runner.types import UserError
from runner.words import composed

OWN = b"rowmill.own"  # in the metadata of a column that holds another's cells as JSON: the other's name
_DEEPEST = 60  # levels of lists and objects in a column; an Arrow file holds 63
_EXACT = 1 << 53  # the largest integers that a float tells apart
log = logging.getLogger("rowmill")


class NoUnicode(bytes):
    """What a file says is a text, and is no UTF-8."""


_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a fraction",
    str: "a text",
    list: "a list",
    dict: "an object",
    bytes: "a blob",
    NoUnicode: "a text that is no UTF-8",
}


class Columns:
    """The columns of rows that come batch by batch."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType] = {}
        self._kinds: dict[str, dict[type, int]] = {}  # those of a column's values, and the first row with one
        self._inexact: set[str] = set()
        self.rows = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Take note of what these rows hold."""
        for name in dict.fromkeys(key for row in rows for key in row):
            values = [row.get(name) for row in rows]
            self._types[name] = merge(self._types.get(name, pa.null()), infer(values))
            kinds = self._kinds.setdefault(name, {})
            for kind in {type(value) for value in values if value is not None} - kinds.keys():
                kinds[kind] = self.rows + next(at for at, value in enumerate(values, 1) if type(value) is kind)
            if any(isinstance(value, int) and abs(value) > _EXACT for value in values):
                self._inexact.add(name)
        self.rows += len(rows)

    def schema(self) -> pa.Schema:
        """Every column with the type that holds all its values, and the columns with the cells' own JSON."""
        fields = [pa.field(name, self._type(name)) for name in self._types]
        own = [name for name in self._types if self._is_mixed(name)]
        for name in own:
            self._tell(name)
            fields.append(
                pa.field(free_name(f"{name} (JSON)", self._types), pa.string(), metadata={OWN: name.encode()})
            )
        return pa.schema(fields)

    def _type(self, name: str) -> pa.DataType:
        kind = self._types[name]
        if NoUnicode in self._kinds[name] or (bytes in self._kinds[name] and len(self._kinds[name]) > 1):
            return pa.string()
        if pa.types.is_floating(kind) and int in self._kinds[name] and name in self._inexact:
            return pa.string()
        return _without_nulls(kind) if pa.types.is_nested(kind) else kind

    def _is_mixed(self, name: str) -> bool:
        """Whether a cell in the column's type may be another value than it was."""
        kinds = set(self._kinds[name])
        if not kinds <= _KINDS.keys():  # a reader of the user's own may give any type
            return False
        return len(kinds) > 1 or not kinds.isdisjoint({list, dict}) or (kinds == {int} and self._is_text(name))

    def _tell(self, name: str) -> None:
        """Say which row makes a column of other values one of texts."""
        kinds = self._kinds[name]
        if len(kinds) > 1 and self._is_text(name):
            first, *others = sorted(kinds, key=kinds.__getitem__)
            second = next((kind for kind in others if {first, kind} != {int, float}), others[0])
            log.warning(
                "column %r holds %s in row %d and %s in row %d: prompts show what each row holds, the output has texts",
                *(name, _KINDS[first], kinds[first], _KINDS[second], kinds[second]),
            )

    def _is_text(self, name: str) -> bool:
        return bool(pa.types.is_string(self._type(name)))


def own_columns(schema: pa.Schema) -> dict[str, str]:
    """For each column that has one, the column that holds its cells' own JSON."""
    return {field.metadata[OWN].decode(): field.name for field in schema if OWN in (field.metadata or {})}


def with_composed_names(table: pa.Table) -> pa.Table:
    """The table, its columns named as people type them, unless two would have the same name."""
    names = [composed(name) for name in table.column_names]
    if names == table.column_names or len(set(names)) < len(names):
        return table
    own = {hidden: composed(name) for name, hidden in own_columns(table.schema).items()}
    fields = [
        field.with_name(name).with_metadata({OWN: own[field.name].encode()} if field.name in own else field.metadata)
        for field, name in zip(table.schema, names, strict=True)
    ]
    return pa.table(table.columns, schema=pa.schema(fields, table.schema.metadata))


class _Object(dict[str, Any]):
    """A JSON object in which a missing key reads as null."""

    def __missing__(self, key: str) -> None:
        return None


def own_value(text: str) -> Any:
    """A cell from its own JSON."""
    return json.loads(text, object_hook=_read_object)


def _read_object(pairs: dict[str, Any]) -> Any:
    kind, text = pairs.get(_PYTHON, (None, None))
    return _READ[kind](text) if kind else _Object(pairs)


def _marked(value: Any) -> dict[str, Any]:
    """A value that JSON does not have, as an object that ``own_value`` reads; TypeError for other types."""
    if type(value) is timedelta:
        return {_PYTHON: ("timedelta", [value.days, value.seconds, value.microseconds])}
    if isinstance(value, UnreadableCell):
        return {_PYTHON: ("unreadable", value.why)}
    name = type(value).__name__
    if name not in _READ or (name == "Timestamp" and value.tzinfo):  # Arrow's text of such an instant must do
        raise TypeError
    return {_PYTHON: (name, str(value))}


def _instant(text: str) -> Any:
    """An instant that may be finer than Python's, as Arrow gives one."""
    return pa.array([text]).cast(pa.timestamp("ns"))[0].as_py()


_PYTHON = "\0"  # no name of a column or a key holds it
_READ: dict[str, Callable[[Any], Any]] = {
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "time": time.fromisoformat,
    "Timestamp": _instant,
    "Decimal": Decimal,
    "timedelta": lambda parts: timedelta(*parts),
    "unreadable": UnreadableCell,
}


def record_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as Arrow; what is not a string in a text column becomes JSON."""
    columns = []
    for field in schema:
        own = (field.metadata or {}).get(OWN)
        values = [row.get(own.decode() if own else field.name) for row in rows]
        try:
            columns.append(own_texts(values) if own else _array(values, field.type))
        except RecursionError:
            raise UserError("dataset.path", f"a value of {field.name!r} is nested too deeply") from None
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise UserError("dataset.path", f"the values of {field.name!r} have no common type: {error}") from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def own_texts(values: Iterable[Any]) -> pa.Array:
    """The cells of a column that holds another's as JSON; null for what JSON does not have: Arrow's value must do."""
    return pa.array([_own_text(value) for value in values], pa.string())


def _own_text(value: Any) -> str | None:
    with contextlib.suppress(TypeError):
        return None if value is None else json.dumps(value, ensure_ascii=False, default=_marked)
    return None


def texts(values: list[Any]) -> pa.Array:
    """A column of texts: JSON for what is none, bytes as they are, UTF-8 or not."""
    cells = [value if value is None or isinstance(value, str | bytes) else _text(value) for value in values]
    if not any(isinstance(value, bytes) for value in cells):
        return pa.array(cells, pa.string())
    encoded = [value.encode() if isinstance(value, str) else value for value in cells]
    return cast(pa.array(encoded, pa.binary()), pa.string())


def _text(value: Any) -> str:
    try:
        return _json(value)
    except TypeError:  # dates and the like
        text = to_json(value)
        return json.loads(text) if text.startswith('"') else text


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return texts(values) if kind == pa.string() else pa.array(values, kind)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def infer(values: list[Any]) -> pa.DataType:
    """The Arrow type of JSON values; text if they have none in common."""
    try:
        kind = pa.array(values).type
        return pa.string() if _depth(kind) > _DEEPEST or "struct<>" in str(kind) else kind  # no format holds those
    except (pa.ArrowException, OverflowError, UnicodeError):
        return pa.string()


def _depth(kind: pa.DataType) -> int:
    depth, kinds = 0, [kind]
    while kinds := [one.field(at).type for one in kinds for at in range(one.num_fields)]:
        depth += 1
    return depth


def merge(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both; text if there is none."""
    if one == other:
        return one
    try:
        schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return pa.string()


def _without_nulls(kind: pa.DataType) -> pa.DataType:
    """The type with texts where only nulls are known: Arrow cannot take rows of lists of nulls."""
    if pa.types.is_list(kind):
        return pa.list_(_without_nulls(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_nulls(field.type)) for field in kind])
    return pa.string() if pa.types.is_null(kind) else kind


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with underscores after it until it is none of those taken."""
    while name in taken:
        name += "_"
    return name
