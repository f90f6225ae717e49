"""Bare words: what stands without quotes, in YAML or on a command line, kept as typed until its key is known.

YAML 1.1 reads ``007`` as 7, ``1_0`` as 10, ``12:30`` as 750 and ``no`` as false. Where a text is wanted, it is the text
that was typed. Elsewhere a bare word is a number only if JSON would take it for one, and true or false only by these
names; anything else is a text, dates included.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import yaml

LATE = "\ufdd0"  # begins a bare word in a configuration where only the class that takes it says what it is
_NULLS = ("null", "Null", "NULL")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CHOSEN = ("enum", "const", "default", "examples", "example")  # keywords of JSON Schema that hold values
_RETYPED = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "timestamp"))


class Bare(str):
    """A word as it was typed, without quotes."""

    __slots__ = ()


class Loader(yaml.SafeLoader):
    """YAML whose numbers, dates and truth values are bare words, and whose keys are texts that occur once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See SafeConstructor; ConstructorError for a key that occurs twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag.endswith(":null"):
                key.tag = "tag:yaml.org,2002:str"
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the name {key.value!r} occurs twice"
                    raise yaml.constructor.ConstructorError(None, node.start_mark, problem, key.start_mark)
                seen.add(key.value)
        found = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, Bare) else key: one for key, one in found.items()}


def _word(loader: Loader, node: yaml.ScalarNode) -> Any:
    return Bare(loader.construct_scalar(node))


for _tag in _RETYPED:
    Loader.add_constructor(_tag, _word)
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_NUMBER.pattern})$"), list("-0123456789"))


def read_yaml(text: str) -> Any:
    """JSON, or YAML with bare words in it. Raises yaml.YAMLError, RecursionError."""
    if text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError):  # JSON that YAML does not take: tabs
            return json.loads(text)
    return yaml.load(text, Loader)


def plain(value: Any) -> Any:
    """Bare words, and those in lists and mappings, as numbers, truth values, null or texts."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, Bare):
        return value
    if value in _NULLS:
        return None
    return json.loads(value) if _NUMBER.fullmatch(value) else _BOOLS.get(value, str(value))


def named(value: Any) -> Any:
    """The same for names: a bare word is a text; only a whole number that is written as usual stays one."""
    return _shown(value, (int,))


def shown(value: Any) -> Any:
    """The same for what is shown to a model: a bare word is a number only if it is written as numbers are shown."""
    return _shown(value, (int, float, bool))


def texts(value: Any) -> Any:
    """The same where only texts may stand."""
    return _shown(value, ())


def _shown(value: Any, kinds: tuple[type, ...]) -> Any:
    if isinstance(value, dict):
        return {str(key): _shown(one, kinds) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(one, kinds) for one in value]
    found = plain(value)
    if not isinstance(value, Bare) or found is None or (isinstance(found, bool) and bool in kinds):
        return found
    return found if type(found) in kinds and str(found) == value else str(value)


def schema(node: Any) -> Any:
    """A JSON Schema: in ``enum`` and the like bare words are of the schema's type, names where it has none."""
    if isinstance(node, list):
        return [schema(one) for one in node]
    if not isinstance(node, dict):
        return plain(node)
    types = node.get("type")
    kinds = {str(kind) for kind in (types if isinstance(types, list) else [types])}
    read = texts if kinds == {"string"} else plain if kinds & {"integer", "number"} else shown
    return {str(key): read(one) if key in _CHOSEN else schema(one) for key, one in node.items()}
