"""The parts of a JSON Schema: its subschemas, what they refer to, what a keyword says of the type."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

ONE = (  # keywords that hold a subschema,
    *("items", "additionalProperties", "propertyNames", "not", "contains", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems"),
)
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")  # some by name,
LISTED = ("anyOf", "allOf", "oneOf", "prefixItems")  # some in a row
FOLLOWED = (  # by grammars, or by the check of a whole answer
    *("type", "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
    *("items", "prefixItems", "minItems", "maxItems", "enum", "const", "anyOf", "allOf", "oneOf", "pattern", "format"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("definitions", "uniqueItems", "$ref", "$defs"),
)
NOT_FOLLOWED = (*("unevaluatedItems", "unevaluatedProperties", "additionalItems", "$dynamicRef", "$recursiveRef"),)

_FAMILIES = {
    "object": "properties patternProperties additionalProperties required minProperties maxProperties propertyNames",
    "array": "items prefixItems minItems maxItems uniqueItems contains",
    "string": "pattern minLength maxLength format",
    "number": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
}
_FAMILY = {word: kind for kind, words in _FAMILIES.items() for word in words.split()}
ELSEWHERE = {"$ref", "anyOf", "allOf", "oneOf"}  # where more of an object may be named
_SAID = {"type", "enum", "const", "$ref", "anyOf", "allOf", "oneOf", "not", "if"}


def subschemas(schema: Any, path: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every subschema and its path."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for steps, part in children(schema):
        more = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        yield from subschemas(part, path + more)


def children(schema: Mapping[Any, Any]) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
    """The subschemas right in a schema, and the steps to each."""
    found: list[tuple[tuple[Any, ...], Any]] = []
    for word, one in schema.items():
        if word in ONE:
            found.append(((word,), one))
        if word in NAMED and isinstance(one, dict):
            found += [((word, name), part) for name, part in one.items()]
        if (word in LISTED or word == "items") and isinstance(one, list):
            found += [((word, number), part) for number, part in enumerate(one)]
    if isinstance(shared := components(schema), dict):
        found += [(("components", "schemas", name), part) for name, part in shared.items()]
    return ((steps, part) for steps, part in found if isinstance(part, dict))


def without_parts(schema: Mapping[Any, Any], words: Collection[str]) -> dict[Any, Any]:
    """What a schema itself says with these keywords: its subschemas say nothing."""
    made = {word: copy.copy(value) for word, value in schema.items() if word in words}
    for (*steps, last), _ in [*children(made)]:
        (made[steps[0]] if steps else made)[last] = {}
    return made


def components(schema: Mapping[Any, Any]) -> Any:
    """The schemas of an OpenAPI document."""
    found = schema.get("components")
    return found.get("schemas") if isinstance(found, dict) else None


def target(pointer: str, root: Any) -> Any:
    """What ``#/a/b`` refers to; None if there is no such place."""
    place = root if pointer.startswith("#") else None
    for part in unquote(pointer).lstrip("#").strip("/").split("/") if pointer not in ("#", "#/") else ():
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list):
            place = place[int(part)] if part.isdigit() and int(part) < len(place) else None
        else:
            place = place.get(part) if isinstance(place, dict) else None
    return place


def is_circular(schema: Any, root: Any, seen: tuple[str, ...] = ()) -> bool:
    """Whether a schema refers to itself before it says anything, so that no value can be read from it."""
    if not isinstance(schema, dict):
        return False
    parts = [one.get("$ref") for one in (schema, *schema.get("allOf", ())) if isinstance(one, dict)]
    pointers = [one for one in parts if isinstance(one, str)]
    return any(one in seen or is_circular(target(one, root), root, (*seen, one)) for one in pointers)


def listed_values(schema: Any, root: Any, seen: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """The properties whose values it, or what it is made of, lists: each value as ``repr`` has it."""
    if not isinstance(schema, dict):
        return {}
    reference = schema.get("$ref")
    made_of = list(schema.get("allOf", ()))
    if isinstance(reference, str) and reference not in seen:
        seen = (*seen, reference)
        made_of.append(target(reference, root))
    found = {name: values for part in made_of for name, values in listed_values(part, root, seen).items()}
    named = schema.get("properties")
    for name, one in named.items() if isinstance(named, dict) else ():
        one = target(one["$ref"], root) if isinstance(one, dict) and isinstance(one.get("$ref"), str) else one
        if isinstance(one, dict) and ("const" in one or isinstance(one.get("enum"), list)):
            found[name] = {repr(value) for value in one.get("enum", [one.get("const")])}
    return found


def kinds(schema: Mapping[Any, Any]) -> set[str]:
    """The types that it names."""
    named = schema.get("type", [])
    return {named} if isinstance(named, str) else set(named)


def implied_type(schema: Mapping[Any, Any]) -> str | None:
    """The one type that its keywords are about, where it names none."""
    for word, kind in (("properties", "object"), ("items", "array")):
        if word in schema and not {"type", "enum", "const"} & schema.keys():
            return kind
    if _SAID & schema.keys():
        return None
    families = {_FAMILY[word] for word in schema if word in _FAMILY}
    return next(iter(families)) if len(families) == 1 else None


def is_open(schema: Mapping[str, Any]) -> bool:
    """Whether an object may have properties that its schema does not name: where it says so, or asks for more."""
    if {"additionalProperties", "patternProperties"} & schema.keys():
        return schema.get("additionalProperties") is not False or bool(schema.get("patternProperties"))
    named = {*schema.get("properties", ()), *schema.get("required", ())}
    return not ELSEWHERE & schema.keys() and bool(schema.get("minProperties", 0) > len(named))
