"""Whether a whole answer is valid: JSON read without loss, held against the schema as it was given."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from runner.patterns import Pattern, pattern
from runner.text.schema.formats import PATTERNS

_ATOM = re.compile(r"\\.|\[\^?\]?|.", re.DOTALL)
_ASCII = {  # what stands for letters and digits in ECMA-262, as ranges of a set; white space is Unicode's there, too
    r"\w": "0-9A-Za-z_",
    r"\d": "0-9",
    r"\W": r"\x00-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\U0010ffff",
    r"\D": r"\x00-\x2f\x3a-\U0010ffff",
}
_MOST = 200  # characters of a message
ANNOTATIONS = ("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly")


def read_json(text: str) -> Any:
    """A JSON text's value; ValueError for what Python would change: names that occur twice, infinity."""
    try:
        return json.loads(text, object_pairs_hook=once_each, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these names and values; ValueError for a name that occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(one for one in names if names.count(one) > 1)!r} occurs twice in an object")
    return found


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of 64 bits")
    return number


class SchemaCheck:
    """Holds values against a JSON Schema of draft 2020-12."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        plain = {word: value for word, value in schema.items() if word != "$schema"}
        kind, formats = _validator()
        self._validator = kind(plain, format_checker=formats)

    def problem(self, value: Any) -> str | None:
        """Where and why the value is not valid; None if it is. RowError for a pattern that finds no end."""
        try:
            found = next(self._validator.iter_errors(value), None)
        except RecursionError:
            return "it is nested too deep"
        return None if found is None else f"{found.json_path}: {found.message[:_MOST]}"


def schema_problem(schema: Mapping[str, Any]) -> tuple[list[Any], str] | None:
    """The path in a schema and what is wrong there; None if it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    validator = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    found = best_match(validator.iter_errors(schema))
    return None if found is None else (list(found.absolute_path), found.message)


@cache
def ecma(text: str) -> Pattern:
    r"""A schema's pattern: ``\w`` and ``\d`` are ASCII, as grammars have it. ValueError, saying why, if it is none."""
    pattern(text)
    parts, in_set = [], False
    for atom in _ATOM.findall(text):
        ranges = _ASCII.get(atom, atom)
        parts.append(ranges if in_set or ranges == atom else f"[{ranges}]")
        in_set = atom != "]" if in_set else atom[0] == "["
    return pattern("".join(parts))


@cache
def _validator() -> tuple[Any, Any]:
    """A class of validators, and its formats. Patterns are bounded in time; decimals are what they say."""
    from jsonschema import Draft202012Validator, FormatChecker, _utils
    from jsonschema.validators import extend

    # Which properties are evaluated it finds out by itself, and not through the keywords below.
    vars(_utils)["re"] = SimpleNamespace(search=lambda text, name: ecma(text).search(name))

    formats = FormatChecker(("ipv4", "ipv6", "uuid"))
    for form, text in PATTERNS.items():
        formats.checks(form)(partial(_is_in, re.compile(text.replace("$", r"\Z"))))
    more = {
        "pattern": _check_pattern,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _check_additional_properties,
        "multipleOf": _check_multiple,
    }
    return extend(Draft202012Validator, more), formats


def _is_in(form: re.Pattern[str], value: object) -> bool:
    return not isinstance(value, str) or form.match(value) is not None


def _check_pattern(validator: Any, text: str, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not ecma(text).search(value):
        yield ValidationError(f"{value!r} does not match {text!r}")


def _check_pattern_properties(validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for text, inner in patterns.items() if isinstance(value, dict) else ():
        for name, one in value.items():
            if ecma(text).search(name):
                yield from validator.descend(one, inner, path=name, schema_path=text)


def _check_additional_properties(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    for name, one in value.items() if isinstance(value, dict) else ():
        if name in schema.get("properties", {}):
            continue
        if any(ecma(text).search(name) for text in schema.get("patternProperties", ())):
            continue
        if inner is False:
            yield ValidationError(f"there is no property {name!r} in the schema")
        else:
            yield from validator.descend(one, inner, path=name)


def _check_multiple(validator: Any, divisor: Any, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(divisor)):
        yield ValidationError(f"{value!r} is not a multiple of {divisor!r}")
