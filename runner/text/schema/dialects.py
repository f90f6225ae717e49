"""JSON Schemas as OpenAPI 3.0, draft 4 to 7, pydantic and zod write them, in the words of draft 2020-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from runner.text.schema.nodes import LISTED, NAMED, ONE, components, kinds, target

_NULL = {"type": "null"}


def modern(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema in draft 2020-12; the same object where it is."""
    places = _identified(schema)
    found = _each(schema, lambda node: _renamed(node, places, schema))
    if found == schema:
        return schema
    return {word: value for word, value in found.items() if word != "$schema"}


def _each(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of a schema in which every subschema is changed, from the inside out."""
    if not isinstance(node, dict):
        return node
    made = dict(node)
    for word, value in node.items():
        if word in ONE and isinstance(value, dict):
            made[word] = _each(value, change)
        elif (word in LISTED or word == "items") and isinstance(value, list):
            made[word] = [_each(one, change) for one in value]
        elif word in NAMED and isinstance(value, dict):
            made[word] = {name: _each(one, change) for name, one in value.items()}
    if isinstance(shared := components(node), dict):
        made["components"] = {"schemas": {name: _each(one, change) for name, one in shared.items()}}
    return change(made)


def _identified(schema: dict[str, Any]) -> dict[str, str]:
    """The pointers of subschemas that have a name of their own, by what refers to them."""
    places: dict[str, str] = {}
    for pointer, node in _pointers(schema):
        for word, form in (("$id", "{}"), ("id", "{}"), ("$anchor", "#{}")):
            if isinstance(node.get(word), str):
                places.setdefault(form.format(node[word]), pointer)
    return places


def _pointers(schema: dict[str, Any]) -> list[tuple[str, dict[Any, Any]]]:
    """The subschemas that can be referred to by name: the root, and those that it defines."""
    found: list[tuple[str, dict[Any, Any]]] = [("#", schema)]
    shared = {"$defs": schema.get("$defs"), "definitions": schema.get("definitions")}
    for word, defined in {**shared, "components/schemas": components(schema)}.items():
        for name, node in defined.items() if isinstance(defined, dict) else ():
            if isinstance(node, dict):
                found.append((f"#/{word}/{str(name).replace('~', '~0').replace('/', '~1')}", node))
    return found


def _renamed(node: dict[str, Any], places: dict[str, str], root: dict[str, Any]) -> dict[str, Any]:
    node = _depending(_ranged(_listed(_referring(node, places, root))))
    return _nullable(_named_properties(node, root))


def _referring(node: dict[str, Any], places: dict[str, str], root: dict[str, Any]) -> dict[str, Any]:
    """References within the document, as pointers."""
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return node
    if target(reference, root) is not None:
        spelt = quote(reference, safe="#/%~!$&'()*+,;=:@?")
        return node if spelt == reference else {**node, "$ref": spelt}
    base, _, pointer = reference.partition("#")
    place = places.get(reference) or places.get(base)
    if place is None:
        return node
    return {**node, "$ref": place + pointer if reference not in places else place}


def _listed(node: dict[str, Any]) -> dict[str, Any]:
    """Tuples: until 2019 ``items`` was a list, ``additionalItems`` what followed."""
    if not isinstance(node.get("items"), list):
        return node
    made = {word: value for word, value in node.items() if word not in ("items", "additionalItems")}
    more = {"items": node["additionalItems"]} if "additionalItems" in node else {}
    return {**made, "prefixItems": node["items"], **more}


def _depending(node: dict[str, Any]) -> dict[str, Any]:
    """Names and schemas that a property depends on, each under a keyword of its own."""
    given = node.get("dependencies")
    if not isinstance(given, dict):
        return node
    made = {word: value for word, value in node.items() if word != "dependencies"}
    for word, kind in (("dependentRequired", list), ("dependentSchemas", dict | bool)):
        if found := {name: one for name, one in given.items() if isinstance(one, kind)}:
            made[word] = {**node.get(word, {}), **found}
    return made


def _ranged(node: dict[str, Any]) -> dict[str, Any]:
    """Limits: in draft 4 and OpenAPI 3.0 ``exclusiveMinimum`` says of ``minimum`` that it is none of the values."""
    made = dict(node)
    for word, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(word), bool) and made.pop(word) and limit in made:
            made[word] = made.pop(limit)
    return made


def _named_properties(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """``propertyNames`` as patterns of the properties that an object may have."""
    names = node.get("propertyNames")
    if not isinstance(names, dict) or "properties" in node or "patternProperties" in node:
        return node
    pattern = _pattern(target(names["$ref"], root) if isinstance(names.get("$ref"), str) else names)
    if pattern is None:
        return node
    value = node.get("additionalProperties", {})
    made = {word: one for word, one in node.items() if word not in ("propertyNames", "additionalProperties")}
    if not pattern:
        return {**made, "additionalProperties": value}
    return {**made, "patternProperties": {pattern: value}, "additionalProperties": False}


def _pattern(names: Any) -> str | None:
    """What matches the texts of a schema: nothing for any text, None where no pattern says that."""
    asked = {word: value for word, value in names.items() if word not in ("title", "description", "type")}
    if not asked:
        return ""
    if len(asked) == 1 and "pattern" in asked:
        return str(asked["pattern"])
    values = asked.get("enum", [asked["const"]] if "const" in asked else None)
    if len(asked) == 1 and isinstance(values, list) and all(isinstance(one, str) for one in values):
        return f"^({'|'.join(map(_escaped, values))})$"
    if asked.keys() <= {"minLength", "maxLength"}:
        return f"^.{{{asked.get('minLength', 0)},{asked.get('maxLength', '')}}}$"
    return None


def _escaped(text: str) -> str:
    return "".join(rf"\{one}" if one in r"\.^$|?*+()[]{}/" else one for one in text)


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0's ``nullable``."""
    if node.get("nullable") is not True:
        return node
    made = {word: value for word, value in node.items() if word != "nullable"}
    if {"$ref", "allOf", "anyOf", "oneOf", "const"} & made.keys():
        return {"anyOf": [made, _NULL]}
    if isinstance(made.get("enum"), list) and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]
    if "type" in made and "null" not in kinds(made):
        made["type"] = [*sorted(kinds(made)), "null"]
    return made
