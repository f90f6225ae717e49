"""A JSON Schema as grammars take it: narrowed where it says nothing, wider where grammars cannot follow.

Where it says nothing, objects have no other properties than those named, tuples no further items, integers fit into 53
bits, and the tag by which the alternatives of ``oneOf`` differ is always written, also where it has a default.
What is wider (``uniqueItems``, look-around in patterns, formats that are not known) is left to the check of the whole
answer.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from runner.text.schema.check import ANNOTATIONS
from runner.text.schema.formats import PATTERNS
from runner.text.schema.nodes import components, implied_type, kinds, listed_values, subschemas, target

SAFE = 2**53 - 1  # the integers that every JSON reader takes exactly (RFC 8259, section 6)
LONG = (-(2**63), 2**63 - 1)  # those of an Arrow column
_LEAST = -(2**63 - 1024)  # grammars count in doubles, and crash at the one below
_MOST_DIGITS, _MOST_DIGITS_OF_LARGE = 15, 12  # significant ones of a number that grammars write as it is
_END_OF_EXACT = 10**22  # the powers of ten that a double can be
_LISTED = re.compile(r"\^\(((?:[^\\^$.|?*+()\[\]{}]|\\[.^$|?*+()\[\]{}/]|\|)+)\)\$")
_SHAPE = {"properties", "patternProperties", "additionalProperties", "required"}  # keywords about an object's names
_REQUIRING = {"required", "type", *ANNOTATIONS}
_CHOICES = ("anyOf", "oneOf")
_SHARED = ("$schema", "$defs", "definitions", "components")
_DEFINED = ("$defs", "definitions")
_BOUNDS: tuple[tuple[str, Callable[[list[Any]], Any]], ...] = (("minimum", max), ("maximum", min))
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_MOST_COPIES = 64  # of what is said of all alternatives
_LARGE = 10**18  # as a limit of numbers that need not be whole, grammars take it or crash
_LOOK = re.compile(r"\?<?[=!]")
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


class Narrowing:
    """``root``: a schema of draft 2020-12. ``is_known`` tells whether grammars know a format.

    An object whose properties several subschemas name (``allOf``, alternatives beside ``properties``) is closed as a
    whole; each of its parts then allows the others' properties.
    """

    def __init__(self, root: dict[str, Any], is_known: Callable[[str], bool]) -> None:
        self.is_known = is_known
        self.wider: list[tuple[str, str]] = []  # keyword and value that grammars do not follow
        self.root = self._with_tags(root)
        self._open: dict[str, str] = {}  # pointers and the names of their copies that allow other properties
        self._copies: dict[str, Any] = {}

    def _with_tags(self, root: dict[str, Any]) -> dict[str, Any]:
        """The schema, in which alternatives require the properties whose constants tell them apart."""
        if not any("oneOf" in node for _, node in subschemas(root)):
            return root
        made = copy.deepcopy(root)
        for _, node in list(subschemas(made)):
            some = node["oneOf"] if isinstance(node.get("oneOf"), list) else []
            parts = [target(one["$ref"], made) if isinstance(one, dict) and "$ref" in one else one for one in some]
            if len(parts) < 2 or not all(isinstance(part, dict) for part in parts):
                continue
            listed = [listed_values(part, made) for part in parts]
            named = {name: [one[name] for one in listed] for name in sorted(set.intersection(*map(set, listed)))}
            apart = {name for name, values in named.items() if _differ(values)}
            tags = [name for name, values in named.items() if name in apart or max(map(len, values)) == 1]
            for part in parts if tags else ():
                said = part.get("required", [])
                part["required"] = [*said, *(tag for tag in tags if tag not in said)]
            if not apart and not _are_apart(parts) and not _exclude(some):
                self.wider.append(("oneOf", ""))
        return made

    def schema(self) -> dict[str, Any]:
        """The root, narrowed."""
        made = dict(self.node(self.root))
        if self._copies:
            made["$defs"] = {**made.get("$defs", {}), **self._copies}
        return made

    def node(self, schema: Any, open: bool = False) -> Any:
        """A subschema; ``open``: it is part of an object that others describe, too."""
        if not isinstance(schema, dict):
            return schema
        if not open and self._is_mixed(schema):
            return self._mixed(schema)
        made = self._inner(schema, open)
        if (kind := implied_type(schema)) is not None:
            made["type"] = kind
        if "prefixItems" in schema and not {"items", "unevaluatedItems"} & schema.keys():
            made["items"] = False
        if names := _listed_names(schema):
            value = made.pop("patternProperties").popitem()[1]
            made["properties"] = dict.fromkeys(names, value)
        if not open and {"properties", "patternProperties", "required"} & schema.keys():
            made.setdefault("additionalProperties", False)
            _add_required(schema, made)
        return _bounded(schema, made)

    def _inner(self, schema: dict[str, Any], open: bool) -> dict[str, Any]:
        made = dict(schema)
        for word in ("items", "additionalProperties"):
            if word in schema:
                made[word] = self.node(schema[word])
        for word in ("properties", "patternProperties", *_DEFINED):
            if isinstance(schema.get(word), dict):
                made[word] = {name: self.node(one) for name, one in schema[word].items()}
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(word), list):
                made[word] = [self.node(one, open) for one in schema[word]]
        if isinstance(schema.get("prefixItems"), list):
            made["prefixItems"] = [self.node(one) for one in schema["prefixItems"]]
        if isinstance(shared := components(schema), dict):
            made["components"] = {"schemas": {name: self.node(one) for name, one in shared.items()}}
        if open and isinstance(schema.get("$ref"), str):
            made["$ref"] = self._opened(schema["$ref"])
        return self._widened(made)

    def _widened(self, made: dict[str, Any]) -> dict[str, Any]:
        """Without what grammars cannot follow."""
        is_text = "string" in kinds(made) or not kinds(made)
        form = made.get("format") if is_text else None
        if form in PATTERNS:
            del made["format"]
            made["allOf"] = [*made.get("allOf", ()), {"pattern": PATTERNS[form]}]
        elif isinstance(form, str) and not self.is_known(form):
            self.wider.append(("format", form))
            del made["format"]
        for word in ("unevaluatedProperties", "unevaluatedItems"):
            if made.get(word) is False:  # as it is where nothing is said
                del made[word]
        if made.get("uniqueItems") is True:
            self.wider.append(("uniqueItems", "true"))
        if isinstance(made.get("uniqueItems"), bool):
            del made["uniqueItems"]
        if "integer" not in kinds(made):
            for word in _LIMITS:
                if abs(made.get(word, 0)) >= _LARGE:
                    self.wider.append((word, str(made.pop(word))))
        if isinstance(text := made.get("pattern"), str) and (plain := without_assertions(text)) != text:
            self.wider.append(("pattern", text))
            made["pattern"] = plain
        return made

    def _is_mixed(self, schema: dict[str, Any]) -> bool:
        parts = schema.get("allOf")
        beside = [word for word in ("$ref", *_CHOICES) if word in schema]
        if isinstance(parts, list) and len(parts) > 1:
            return True
        return bool(_SHAPE & schema.keys() and (beside or parts)) or bool(parts and beside)

    def _mixed(self, schema: dict[str, Any], seen: tuple[str, ...] = (), copies: int = 1) -> dict[str, Any]:
        """An object that several subschemas describe: the alternatives outside, each with all that is said of it."""
        names = self._names(schema)
        found = self._choice(schema, seen) if names else None
        if found is not None and copies * len(found[1]) <= _MOST_COPIES:
            rest, some, seen = found
            shared = {one: rest.pop(one) for one in _SHARED if one in rest}
            parts = [self._mixed({"allOf": [rest, one]}, seen, copies * len(some)) for one in some]
            return {**self._inner(shared, False), "anyOf": parts}
        made = self._inner(schema, True)
        if (kind := implied_type(schema)) is not None:
            made["type"] = kind
        if names and "additionalProperties" not in schema:
            own = made.get("properties", {})
            made["properties"] = {**own, **{name: {} for name in names if name not in own}}
            made["additionalProperties"] = False
        return _bounded(schema, made)

    def _choice(self, schema: Any, seen: tuple[str, ...]) -> tuple[dict[str, Any], list[Any], tuple[str, ...]] | None:
        """A schema without the first choice in what it is made of, that choice, and the pointers followed to it."""
        if not isinstance(schema, dict):
            return None
        if word := next((one for one in _CHOICES if isinstance(schema.get(one), list)), None):
            return {one: value for one, value in schema.items() if one != word}, schema[word], seen
        reference, parts = schema.get("$ref"), list(schema.get("allOf", ()))
        if isinstance(reference, str) and reference not in seen:
            place = target(reference, self.root)
            inner = {one: value for one, value in place.items() if one not in _SHARED} if place is self.root else place
            if found := self._choice(inner, (*seen, reference)):
                rest = {one: value for one, value in schema.items() if one != "$ref"}
                return {**rest, "allOf": [*parts, found[0]]}, *found[1:]
        for number, part in enumerate(parts):
            if found := self._choice(part, seen):
                return {**schema, "allOf": [*parts[:number], found[0], *parts[number + 1 :]]}, *found[1:]
        return None

    def _names(self, schema: Any, seen: tuple[str, ...] = ()) -> list[str] | None:
        """The properties that a subschema names; None where others are allowed in so many words."""
        if not isinstance(schema, dict):
            return []
        if "patternProperties" in schema or schema.get("additionalProperties", False) is not False:
            return None
        found = [*schema.get("properties", {}), *schema.get("required", ())]
        parts = [one for word in ("allOf", *_CHOICES) for one in schema.get(word, ())]
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            seen = (*seen, reference)
            parts.append(target(reference, self.root))
        for part in parts:
            names = self._names(part, seen)
            if names is None:
                return None
            found += names
        return list(dict.fromkeys(found))

    def _opened(self, pointer: str) -> str:
        """The pointer of a copy that allows other properties."""
        place = target(pointer, self.root)
        if not isinstance(place, dict):
            return pointer
        if pointer not in self._open:
            name = self._open[pointer] = f"open-{len(self._open) + 1}"
            self._copies[name] = {}
            inner = {one: value for one, value in place.items() if place is not self.root or one not in _SHARED}
            self._copies[name] = self.node(inner, True)
        return f"#/$defs/{self._open[pointer]}"


def _are_apart(parts: list[dict[str, Any]]) -> bool:
    """Whether no value is of two of these by its type, or by the values that they list."""
    named = [kinds(part) | ({"integer"} if "number" in kinds(part) else set()) for part in parts]
    listed = [{repr(one) for one in part.get("enum", [part["const"]] if "const" in part else [])} for part in parts]
    return _differ(named) or _differ(listed)


def _exclude(parts: list[dict[str, Any]]) -> bool:
    """Keep alternatives apart that say no more than what is required, by what they lack; whether that can be."""
    if not all(part.keys() <= _REQUIRING and part.get("type", "object") == "object" for part in parts):
        return False
    names = [set(part.get("required", ())) for part in parts]
    lacks = [[other - own for other in names if other is not own] for own in names]
    if not all(len(some) == 1 for others in lacks for some in others):
        return False
    for part, others in zip(parts, lacks, strict=True):
        part["properties"] = dict.fromkeys(sorted(set[str]().union(*others)), False)
    return True


def _differ(some: list[set[str]]) -> bool:
    """Whether no value is in two of these sets, none of which is empty."""
    return all(some) and len(set().union(*some)) == sum(map(len, some))


def _listed_names(schema: Mapping[str, Any]) -> list[str]:
    """All names that an object may have, where its only pattern lists them: by name a grammar takes each once."""
    patterns = list(schema.get("patternProperties") or ())
    others = {"properties", "minProperties", "maxProperties"} & schema.keys()
    if len(patterns) != 1 or others or schema.get("additionalProperties") is not False:
        return []
    listed = _LISTED.fullmatch(patterns[0])
    return [re.sub(r"\\(.)", r"\1", name) for name in re.split(r"(?<!\\)\|", listed[1])] if listed else []


def _add_required(schema: Mapping[str, Any], made: dict[str, Any]) -> None:
    """Required properties that the schema does not describe may be anything, where it does not forbid them."""
    if {"additionalProperties", "patternProperties"} & schema.keys():
        return
    own = schema.get("properties", {})
    missing: dict[str, Any] = {name: {} for name in schema.get("required", ()) if name not in own}
    if missing:
        made["properties"] = {**made.get("properties", {}), **missing}


def _bounded(schema: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Integers of 53 bits where the schema says nothing, of 64 where it says more."""
    if "integer" not in kinds(schema) or "number" in kinds(schema) or {"enum", "const"} & schema.keys():
        return made
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 0))
    if "exclusiveMinimum" not in schema:
        made.setdefault("minimum", -SAFE if high >= -SAFE else _LEAST)
    if "exclusiveMaximum" not in schema:
        made.setdefault("maximum", SAFE if low <= SAFE else LONG[1])
    if fits_long(schema):
        for (word, nearer), end in zip(_BOUNDS, (_LEAST, LONG[1]), strict=True):
            given = [schema[one] for one in (word, f"exclusive{word.capitalize()}") if one in schema]
            if given and nearer([*given, end]) == end:
                made[word] = end
                made.pop(f"exclusive{word.capitalize()}", None)
    return made


def uncounted(schema: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The keyword and the number for which grammars write another one, or none at all; None if there is none."""
    for word in ("const", "enum"):
        for number in _numbers(schema.get(word)):
            if not _is_written(number):
                return word, number
    if kinds(schema) & {"integer", "number"} == {"integer"}:
        for word in _LIMITS:
            if (schema.get(word, 0) > LONG[1]) if word.endswith("inimum") else (schema.get(word, 0) < _LEAST):
                return word, schema[word]
    return None


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a JSON value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(one)


def _is_written(number: int | float) -> bool:
    """Whether grammars write a number as it is: they keep fewer digits than doubles have, and fewer of large ones."""
    digits = len(Decimal(str(number)).normalize().as_tuple().digits)
    if abs(number) <= SAFE:
        return isinstance(number, int) or digits <= _MOST_DIGITS
    is_exact = abs(number) < _END_OF_EXACT and int(Decimal(str(number))) == number == float(number)
    return is_exact and digits <= _MOST_DIGITS_OF_LARGE


def fits_long(schema: Mapping[str, Any]) -> bool:
    """Whether a column of 64 bits holds some of an integer schema's values."""
    low = max(schema.get("minimum", LONG[0]), schema.get("exclusiveMinimum", LONG[0] - 1))
    high = min(schema.get("maximum", LONG[1]), schema.get("exclusiveMaximum", LONG[1] + 1))
    return bool(low <= LONG[1] and high >= LONG[0])


def without_assertions(pattern: str) -> str:
    """The pattern without look-around and word boundaries: what matches it is found by this one, too."""
    kept: list[str] = []
    depth: list[bool] = []  # of the groups that are open: whether they are left out
    at = 0
    while at < len(pattern):
        found = _ATOM.match(pattern, at)
        assert found is not None
        atom, at = found[0], found.end()
        if atom == "(":
            depth.append(bool(_LOOK.match(pattern, at)) or any(depth))
        if not any(depth) and atom not in (r"\b", r"\B"):
            kept.append(atom)
        if atom == ")" and depth:
            depth.pop()
    return "".join(kept)
