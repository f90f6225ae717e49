"""A JSON Schema as Arrow types: what each property becomes in the output.

Objects become structs, arrays lists, enums of texts dictionary-encoded strings. What no single type holds (objects
without named properties, alternatives of different types, schemas that contain themselves, integers beyond 64 bits)
stays JSON text: no file format that is in use has a union. So do the properties that a schema allows beside those that
it names, all in one column. Dates, times and instants have Arrow's types; those with an offset are in UTC, to the
microsecond.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from runner.text.schema.formats import READ, TYPES
from runner.text.schema.narrow import LONG, fits_long
from runner.text.schema.nodes import implied_type, is_open, target

_PLAIN = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_PLAIN |= {"enum": pa.dictionary(pa.int32(), pa.string()), "null": pa.null(), "json": pa.string()}
_PLAIN |= TYPES
_OF_VALUE = {str: "enum", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_NUMBERS, _TEXTS = {"integer", "number"}, {"enum", "string", *TYPES}
MORE = "additionalProperties"  # the column of what an object has beside its named properties
_NAMED = ("enum", "integer", "number")  # whose values a filter may be held against
_NARROWEST = ("integer", "enum", *TYPES)  # of two kinds that a value has at once


@dataclass(frozen=True)
class Column:
    """A value's type: ``kind`` is a JSON type, ``enum`` (of texts), a format or ``json`` (any value, kept as text).

    ``open``: an object may have properties beside ``fields``, which are kept as the text of an object. ``values``: all
    that there can be, if they are named.
    """

    kind: str
    fields: dict[str, Column] = field(default_factory=dict)
    inner: Column | None = None
    open: bool = False
    values: tuple[Any, ...] = field(default=(), compare=False)

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """An object's, with the one for its further properties."""
        more = {self._more: pa.string()} if self.open else {}
        return {name: column.type for name, column in self.fields.items()} | more

    @property
    def _more(self) -> str:
        return next(
            name for name in (MORE + "_" * count for count in range(len(self.fields) + 1)) if name not in self.fields
        )

    @property
    def type(self) -> pa.DataType:
        if self.kind == "object":
            return pa.struct(list(self.columns.items()))
        return pa.list_(self.inner.type) if self.inner else _PLAIN[self.kind]

    def closed(self) -> Column:
        """The same without columns for further properties, which earlier versions left out."""
        fields = {name: column.closed() for name, column in self.fields.items()}
        return replace(self, fields=fields, inner=self.inner and self.inner.closed(), open=False)

    def known(self, name: str) -> dict[str, tuple[Any, ...]]:
        """The values of the column of this name and of an object's, as ``name.part``, where there are but some."""
        if self.kind == "object":
            return {
                path: one
                for part, column in self.fields.items()
                for path, one in column.known(f"{name}.{part}").items()
            }
        inner = self.inner if self.inner and self.inner.kind != "object" else self
        return {name: inner.values} if inner.values else {}

    def value(self, value: Any) -> Any:
        """A parsed JSON value as the column stores it."""
        if self.kind == "json" and value is not None:
            return _as_text(value)
        if self.kind == "object" and isinstance(value, dict):
            found = {name: column.value(value.get(name)) for name, column in self.fields.items()}
            more = {name: one for name, one in value.items() if name not in self.fields}
            return {**found, self._more: _as_text(more) if more else None} if self.open else found
        if self.inner and isinstance(value, list):
            return [self.inner.value(one) for one in value]
        if self.kind in TYPES and value is not None:
            return READ[self.type](value)
        return float(value) if self.kind == "number" and value is not None else value


_ANY = Column("json")


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def column_of(schema: Any, root: dict[str, Any], seen: tuple[str, ...] = ()) -> Column:
    """The column of a subschema of ``root``, which is of draft 2020-12."""
    if not isinstance(schema, dict):
        return _ANY
    if "enum" in schema or "const" in schema:
        return _union([_of_value(value) for value in schema.get("enum", [schema.get("const")])])
    said = [_referred(schema["$ref"], root, seen)] if "$ref" in schema else []
    said += [column_of(one, root, seen) for one in schema.get("allOf", ())]
    choices = [schema[word] for word in ("anyOf", "oneOf") if word in schema]
    kinds = schema.get("type", implied_type(schema) or ([] if said or choices else "json"))
    if own := [_typed(kind, schema, root, seen) for kind in ([kinds] if isinstance(kinds, str) else kinds)]:
        said.append(_union(own))
    for parts in choices:  # what one alternative does not say of a property, it allows, though another one says it
        said = [_union([_both([column_of(one, root, seen), *said]) for one in parts])]
    return _both(said)


def _of_value(value: Any) -> Column:
    is_long = isinstance(value, int) and not LONG[0] <= value <= LONG[1]
    kind = "json" if is_long else _OF_VALUE.get(type(value), "json")
    return Column(kind, values=(value,) if kind in _NAMED else ())


def _typed(kind: str, schema: dict[str, Any], root: dict[str, Any], seen: tuple[str, ...]) -> Column:
    if kind == "object":
        named = schema.get("properties") or {}
        if not {"additionalProperties", "patternProperties"} & schema.keys():
            named = {**named, **{name: {} for name in schema.get("required", ()) if name not in named}}
        fields = {str(name): column_of(one, root, seen) for name, one in named.items()}
        return Column("object" if fields else "json", fields, open=is_open(schema))
    if kind == "array":
        rest = schema.get("items", not schema.get("prefixItems"))
        inside = [*schema.get("prefixItems", ()), *([] if rest is False else [rest])]
        return Column("array", inner=_union([column_of(one, root, seen) for one in inside] or [_ANY]))
    if kind == "integer" and not fits_long(schema):
        return _ANY
    if kind == "string" and schema.get("format") in TYPES:
        return Column(schema["format"])
    return Column(kind if kind in _PLAIN else "json")


def _referred(pointer: str, root: dict[str, Any], seen: tuple[str, ...]) -> Column:
    return _ANY if pointer in seen else column_of(target(pointer, root), root, (*seen, pointer))


def _union(columns: list[Column]) -> Column:
    """The column that holds the values of all of these."""
    some = [column for column in columns if column.kind != "null"] or columns[:1] or [_ANY]
    kinds = {column.kind for column in some}
    if len(kinds) > 1:
        return Column("number" if kinds <= _NUMBERS else "string" if kinds <= _TEXTS else "json")
    if kinds == {"object"}:
        return _objects(some, _union)
    if kinds == {"array"}:
        return Column("array", inner=_union([column.inner for column in some if column.inner]))
    values = [value for column in some for value in column.values]
    return replace(some[0], values=tuple(values) if all(column.values for column in some) else ())


def _both(columns: list[Column]) -> Column:
    """The column of values that are what each of these says."""
    some = [column for column in columns if column.kind != "json"] or columns[:1] or [_ANY]
    kinds = {column.kind for column in some}
    if kinds == {"object"}:
        return replace(_objects(some, _both), open=any(column.open for column in columns))
    if kinds == {"array"}:
        return Column("array", inner=_both([column.inner for column in some if column.inner]))
    if not any(kinds - {"null"} <= alike for alike in ({some[0].kind}, _NUMBERS, _TEXTS)):
        return _ANY  # an alternative that excludes the others
    return next((one for kind in _NARROWEST for one in some if one.kind == kind), some[0])


def _objects(columns: list[Column], combined: Any) -> Column:
    named: dict[str, list[Column]] = {}
    for column in columns:
        for name, one in column.fields.items():
            named.setdefault(name, []).append(one)
    if combined is _union:  # an object that may have further properties may have the others' with any value
        for name, same in named.items():
            same += [_ANY for column in columns if column.open and name not in column.fields]
    fields = {name: combined(same) for name, same in named.items()}
    return Column("object", fields, open=any(column.open for column in columns))
