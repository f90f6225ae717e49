"""A JSON Schema as Arrow types: what each property becomes in the output.

Objects become structs, arrays lists, enums of texts dictionary-encoded strings. What no single type holds (objects
without named properties, alternatives of different types, schemas that contain themselves) stays JSON text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

_PLAIN = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_PLAIN |= {"enum": pa.dictionary(pa.int32(), pa.string()), "null": pa.null(), "json": pa.string()}
_OF_VALUE = {str: "enum", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_NUMBERS, _TEXTS = {"integer", "number"}, {"enum", "string"}


@dataclass(frozen=True)
class Column:
    """A value's type: ``kind`` is a JSON type, ``enum`` (of texts) or ``json`` (any value, kept as text)."""

    kind: str
    fields: dict[str, Column] = field(default_factory=dict)
    inner: Column | None = None

    @property
    def type(self) -> pa.DataType:
        if self.kind == "object":
            return pa.struct([(name, column.type) for name, column in self.fields.items()])
        return pa.list_(self.inner.type) if self.inner else _PLAIN[self.kind]

    def value(self, value: Any) -> Any:
        """A parsed JSON value as the column stores it; properties that the schema does not name are left out."""
        if self.kind == "json" and value is not None:
            return json.dumps(value, ensure_ascii=False)
        if self.kind == "object" and isinstance(value, dict):
            return {name: column.value(value.get(name)) for name, column in self.fields.items()}
        if self.inner and isinstance(value, list):
            return [self.inner.value(one) for one in value]
        return float(value) if self.kind == "number" and value is not None else value


def column_of(schema: Any, root: dict[str, Any], seen: tuple[str, ...] = ()) -> Column:
    """The column of a subschema of ``root``."""
    if not isinstance(schema, dict):
        return Column("json")
    if "$ref" in schema:
        return _referred(schema["$ref"], root, seen)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return _union([Column(_OF_VALUE.get(type(value), "json")) for value in values])
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            parts = [column_of(one, root, seen) for one in schema[word]]
            own = {key: value for key, value in schema.items() if key != word}
            return _union(parts + ([column_of(own, root, seen)] if "properties" in own else []))
    kinds = schema.get("type", _implied(schema))
    return _union([_typed(kind, schema, root, seen) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _typed(kind: str, schema: dict[str, Any], root: dict[str, Any], seen: tuple[str, ...]) -> Column:
    if kind == "object":
        fields = {str(name): column_of(one, root, seen) for name, one in (schema.get("properties") or {}).items()}
        return Column("object", fields) if fields else Column("json")
    if kind == "array":
        inside = [*schema.get("prefixItems", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else [])]
        return Column("array", inner=_union([column_of(one, root, seen) for one in inside] or [Column("json")]))
    return Column(kind if kind in _PLAIN else "json")


def _implied(schema: dict[str, Any]) -> str:
    return "object" if "properties" in schema else "array" if "items" in schema or "prefixItems" in schema else "json"


def _referred(pointer: str, root: dict[str, Any], seen: tuple[str, ...]) -> Column:
    if pointer in seen or not pointer.startswith("#"):
        return Column("json")
    target: Any = root
    for part in pointer.lstrip("#/").split("/") if pointer != "#" else ():
        target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
    return column_of(target, root, (*seen, pointer))


def _union(columns: list[Column]) -> Column:
    """The column that holds the values of all of these."""
    some = [column for column in columns if column.kind != "null"] or columns[:1]
    kinds = {column.kind for column in some}
    if len(kinds) > 1:
        return Column("number" if kinds <= _NUMBERS else "string" if kinds <= _TEXTS else "json")
    if kinds == {"object"}:
        named: dict[str, list[Column]] = {}
        for column in some:
            for name, one in column.fields.items():
                named.setdefault(name, []).append(one)
        return Column("object", {name: _union(same) for name, same in named.items()})
    if kinds == {"array"}:
        return Column("array", inner=_union([column.inner for column in some if column.inner]))
    return some[0]
