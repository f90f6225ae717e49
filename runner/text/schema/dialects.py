"""JSON Schemas as OpenAPI 3.0, draft 4 to 7, pydantic and zod write them, in the words of draft 2020-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.text.schema.check import ANNOTATIONS
from runner.text.schema.nodes import LISTED, NAMED, ONE, components, kinds, listed_values, target
from runner.text.schema.references import ROOT, base_of, places, referring, with_definitions

_NULL = {"type": "null"}
_AROUND = ("response_format", "json_schema", "function", "schema", "parameters", "input_schema")
_BESIDE = {"type", "name", "description", "strict"}


def unwrapped(given: Any) -> Any:
    """The schema inside a response format or a tool of OpenAI's or Anthropic's API; anything else as it is."""
    inner = [word for word in given if word in _AROUND] if isinstance(given, dict) else []
    if len(inner) != 1 or not isinstance(given[inner[0]], dict) or not given.keys() <= {*inner, *_BESIDE}:
        return given
    return unwrapped(given[inner[0]])


def modern(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema in draft 2020-12; the same object where it is."""
    known = dict(reversed([*places(schema)]))
    root = with_definitions(_each(schema, lambda node, base: referring(node, base, schema, known), ROOT))
    found = _each(root, lambda node, _: _renamed(node, root), ROOT)
    if found == schema or not isinstance(found, dict):
        return schema
    return {word: value for word, value in found.items() if word != "$schema"}


def _each(node: Any, change: Callable[[dict[str, Any], str], Any], base: str) -> Any:
    """A copy of a schema in which every subschema is changed, from the inside out, by the address that it is in."""
    if not isinstance(node, dict):
        return node
    made, base = dict(node), base_of(node, base)
    for word, value in node.items():
        if word in ONE and isinstance(value, dict):
            made[word] = _each(value, change, base)
        elif (word in LISTED or word == "items") and isinstance(value, list):
            made[word] = [_each(one, change, base) for one in value]
        elif word in NAMED and isinstance(value, dict):
            made[word] = {name: _each(one, change, base) for name, one in value.items()}
    if isinstance(shared := components(node), dict):
        made["components"] = {"schemas": {name: _each(one, change, base) for name, one in shared.items()}}
    return change(made, base)


def _renamed(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any] | bool:
    if node.get("not") in ({}, True) and node.keys() <= {"not", *ANNOTATIONS}:
        return False  # zod's never
    node = _discriminated(_depending(_ranged(_listed(node))), root)
    return _nullable(_named_properties(node, root))


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


def _discriminated(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Alternatives that OpenAPI's ``discriminator`` tells apart: each with its tag, where it says no tag itself."""
    told = node.get("discriminator")
    told = told if isinstance(told, dict) else {}
    tag, mapping = told.get("propertyName"), told.get("mapping")
    word = next((word for word in ("oneOf", "anyOf") if isinstance(node.get(word), list)), None)
    if not isinstance(tag, str) or word is None:
        return node
    names = mapping if isinstance(mapping, dict) else {}
    return {**node, word: [_tagged(one, tag, names, root) for one in node[word]]}


def _tagged(one: Any, tag: str, mapping: dict[str, Any], root: dict[str, Any]) -> Any:
    reference = one.get("$ref") if isinstance(one, dict) else None
    if not isinstance(reference, str) or tag in listed_values(one, root):
        return one
    name = reference.rpartition("/")[2]
    tags = [key for key, value in mapping.items() if value in (reference, name)] or [name]
    return {"allOf": [one], "type": "object", "properties": {tag: {"enum": tags}}, "required": [tag]}


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
