"""A JSON Schema without its conditions, which only the check of a whole answer sees.

What a condition's branches describe becomes optional, so that the answers that it asks for can be written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runner.text.schema.check import ANNOTATIONS
from runner.text.schema.nodes import ELSEWHERE, FOLLOWED, LISTED, NAMED, NOT_FOLLOWED, ONE, components, is_open, kinds

CONDITIONS = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains"),
    *("dependentRequired", "dependentSchemas", "propertyNames"),
)
_BESIDE = ("then", "else", "minContains", "maxContains")  # nothing without if or contains
_KEPT = {*FOLLOWED, *NOT_FOLLOWED, "components"}
_COUNTS = ("minProperties", "maxProperties")


class Relaxing:
    """``follows`` tells whether grammars take a schema; ``left`` has the keywords left to the check, with values."""

    def __init__(self, follows: Callable[[Mapping[str, Any]], bool]) -> None:
        self._follows = follows
        self.left: list[tuple[str, str]] = []

    def node(self, schema: Any, part: bool = False) -> Any:
        """A subschema without its conditions; ``part``: of an ``allOf``, whose owner has their properties."""
        if not isinstance(schema, dict):
            return schema
        made = {word: self._inner(word, value) for word, value in schema.items() if word in _KEPT}
        if made.get("allOf") == []:
            del made["allOf"]
        for word in CONDITIONS:
            if word in schema and word not in _BESIDE:
                self._leave(word, schema[word])
        if not part and schema.get("additionalProperties") is not False and (names := _promised(schema)):
            made["properties"] = {**made.get("properties", {}), **{name: self.node(names[name]) for name in names}}
        if is_open(made) and "patternProperties" not in made:
            made.setdefault("additionalProperties", True)
        return self._counted(made)

    def _counted(self, made: dict[str, Any]) -> dict[str, Any]:
        """Without the numbers of properties that grammars cannot keep."""
        counts = [word for word in _COUNTS if word in made]
        if not counts or self._follows(_names_only(made)):
            return made
        for words in ([counts[0]], [counts[-1]]):
            without = {name: value for name, value in made.items() if name not in words}
            if self._follows(_names_only(without)):
                break
        else:  # without all of them; what refers to itself may not show which
            words, without = counts, {name: value for name, value in made.items() if name not in counts}
        for word in words:
            self._leave(word, made[word])
        return without

    def _leave(self, word: str, value: Any) -> None:
        self.left.append((word, json.dumps(value, ensure_ascii=False)))

    def _inner(self, word: str, value: Any) -> Any:
        if isinstance(value, dict) and word in NAMED:
            return {name: self.node(one) for name, one in value.items()}
        if isinstance(value, list) and (word in LISTED or word == "items"):
            parts = [self.node(one, word == "allOf") for one in value]
            return [part for part, one in zip(parts, value, strict=True) if part or not one or word != "allOf"]
        if word == "components" and isinstance(shared := components({word: value}), dict):
            return {**value, "schemas": {name: self.node(one) for name, one in shared.items()}}
        return self.node(value) if word in ONE else value


def _names_only(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema whose properties may be anything: what they are may refer back to it."""
    named = ("properties", "patternProperties")
    return {word: {name: {} for name in value} if word in named else value for word, value in schema.items()}


def impossible(schema: Mapping[str, Any]) -> str | None:
    """The condition that hardly any answer meets, if there is one."""
    denied = schema.get("not")
    if denied is True or (isinstance(denied, dict) and _denies_all(denied, kinds(schema))):
        return "not"
    if _counts_too_many(schema):
        return "minProperties"
    return next((word for word in ("contains", "propertyNames") if schema.get(word) is False), None)


def _counts_too_many(schema: Mapping[str, Any]) -> bool:
    """Whether an object is to have more properties than it may have."""
    named = None if is_open(schema) or ELSEWHERE & schema.keys() else len(schema.get("properties", ()))
    most = [one for one in (schema.get("maxProperties"), named) if one is not None]
    return bool(most and schema.get("minProperties", 0) > min(most))


def _denies_all(denied: Mapping[str, Any], asked: set[str]) -> bool:
    said = denied.keys() - {*ANNOTATIONS}
    covered = kinds(denied) | ({"integer"} if "number" in kinds(denied) else set())
    return not said or (said == {"type"} and bool(asked) and asked <= covered)


def _promised(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that only its conditions name, with what one or several branches say of them."""
    found: dict[str, list[Any]] = {}
    parts = [part for part in schema.get("allOf", ()) if isinstance(part, dict)]
    own = {name for one in (schema, *parts) for name in one.get("properties", {})}
    for branch in _branches(schema):
        described = branch.get("properties", {})
        for name in (*described, *branch.get("required", ())):
            known = found.setdefault(name, [])
            if name in described and described[name] not in known and described[name] is not False:
                known.append(described[name])
    return {name: _either(ways) for name, ways in found.items() if name not in own}


def _branches(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the schema's conditions, and those of its parts, say of properties."""
    asked = schema.get("if")
    if isinstance(asked, dict):
        yield {"required": [*asked.get("properties", {}), *asked.get("required", ())]}
    for name, names in schema.get("dependentRequired", {}).items():
        yield {"required": [name, *names]}
    yield {"required": [*schema.get("dependentSchemas", {})]}
    conditional = [schema.get("then"), schema.get("else")] if asked is not None else []
    for branch in (*conditional, *schema.get("dependentSchemas", {}).values()):
        if isinstance(branch, dict):
            yield branch
            yield from (part for part in branch.get("allOf", ()) if isinstance(part, dict))
            yield from _branches(branch)
    for part in schema.get("allOf", ()):
        if isinstance(part, dict):
            yield from _branches(part)


def _either(ways: list[Any]) -> Any:
    return {} if not ways else ways[0] if len(ways) == 1 else {"anyOf": ways}
