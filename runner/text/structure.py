"""What an answer must look like (JSON Schema, regular expression, choices), and its output columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from runner.text.columns import Column, column_of
from runner.types import RowError, UserError

# JSON as Python writes it, on one line: a model left to itself fills its room with white space.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
JSON_OBJECT = f"body: %json {json.dumps({'type': 'object', 'x-guidance': _STYLE})}"  # any object
_SAFE = 2**53 - 1  # the integers that every JSON reader takes exactly (RFC 8259, section 6)
_KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
    *("items", "prefixItems", "minItems", "maxItems", "enum", "const", "anyOf", "allOf", "oneOf", "pattern", "format"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("title", "description", "default", "examples", "definitions", "uniqueItems", "contains", "not", "$ref", "$defs"),
)
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass
class StructureConf:
    """What an answer must look like: at most one of the three.

    Attributes:
        schema: A JSON Schema, in YAML or as the name of a .json or .yaml file.
        regex: A regular expression for the whole answer.
        choices: The texts that an answer may be.
    """

    schema: Any = None
    regex: str | None = None
    choices: list[Any] | None = None


@dataclass(frozen=True)
class Structure:
    """``body``: Lark rules for an answer, in llguidance's dialect. ``column`` is None where an answer stays a text."""

    body: str
    column: Column | None = None
    choices: tuple[str, ...] = ()

    def fields(self) -> list[pa.Field]:
        """The output columns of an answer, ``text`` if it is no object."""
        if self.column is not None and self.column.kind == "object":
            return [pa.field(name, column.type) for name, column in self.column.fields.items()]
        if self.column is not None:
            return [pa.field("value", self.column.type)]
        return [pa.field("text", pa.dictionary(pa.int32(), pa.string()) if self.choices else pa.string())]

    def values(self, text: str) -> dict[str, Any]:
        """The columns of one answer; RowError if it does not parse."""
        if self.column is None:
            return {"text": text.strip() if self.choices else text}
        try:
            value = self.column.value(json.loads(text))
        except (ValueError, TypeError) as problem:
            raise RowError("invalid JSON", str(problem)) from problem
        return value if self.column.kind == "object" else {"value": value}


def read_structure(conf: StructureConf, own: StructureConf, folders: list[Path]) -> Structure | None:
    """The structure that ``output`` asks for, else the prompt's own, else None. UserError naming the key and why.

    A schema's file is looked for in ``folders``.
    """
    for prefix, one in (("output", conf), ("prompt.output", own)):
        asked = [name for name in ("schema", "regex", "choices") if getattr(one, name) is not None]
        if len(asked) > 1:
            raise UserError(f"{prefix}.{asked[0]}", f"{prefix}.{asked[1]} is set, too; keep one of them")
        if asked:
            read: Callable[[str, Any, list[Path]], Structure] = _READERS[asked[0]]
            return read(f"{prefix}.{asked[0]}", getattr(one, asked[0]), folders)
    return None


def _schema(key: str, value: Any, folders: list[Path]) -> Structure:
    schema = _load(key, value, folders) if isinstance(value, str) else value
    if not isinstance(schema, dict) or schema.keys().isdisjoint(_KEYWORDS):
        raise UserError(
            key, "it must be a JSON Schema such as {type: object, properties: ...}, or the name of its file"
        )
    for path, node in _nodes(schema):
        _check_node(f"{key}{path}", node)
    schema = json.loads(json.dumps(schema))
    closed = _closed(schema, not _mixes(schema))
    body = f"body: %json {json.dumps({**closed, 'x-guidance': _STYLE})}"
    if problem := _problem(body):
        raise UserError(key, _where(problem, schema))
    return Structure(body, column_of(schema, schema))


def _regex(key: str, value: str, _: list[Path]) -> Structure:
    from llguidance import regex_to_lark

    body = f"body: /{regex_to_lark(value)}/"
    if problem := _problem(body):
        raise UserError(key, str(problem), value=value)
    return Structure(body)


def _choices(key: str, value: list[Any], _: list[Path]) -> Structure:
    for one in value:
        if not isinstance(one, str | int) or isinstance(one, bool) or one == "":
            raise UserError(key, f"YAML reads a choice as {one!r}; it must be a text, in quotes if need be")
    texts = tuple(dict.fromkeys(map(str, value)))
    if not texts:
        raise UserError(key, "it needs at least one choice", value=value)
    return Structure(f"body: {' | '.join(map(json.dumps, texts))}", choices=texts)


_READERS: dict[str, Any] = {"schema": _schema, "regex": _regex, "choices": _choices}


def _load(key: str, name: str, folders: list[Path]) -> Any:
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        raise UserError(key, f"there is no such file in {' or '.join(map(str, folders))}", value=name)
    try:
        return yaml.safe_load(found[0].read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as problem:
        first = str(problem).splitlines()[0]
        raise UserError(key, f"{found[0]} is neither JSON nor YAML: {first}", value=name) from problem


def _nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every subschema and its path."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for word in ("items", "additionalProperties", "not"):
        yield from _nodes(schema.get(word), f"{path}.{word}")
    for word in ("properties", "patternProperties", "$defs", "definitions"):
        for name, one in _as(dict, schema.get(word)).items():
            yield from _nodes(one, f"{path}.{word}.{name}")
    for word in ("anyOf", "allOf", "oneOf", "prefixItems"):
        for number, one in enumerate(_as(list, schema.get(word))):
            yield from _nodes(one, f"{path}.{word}[{number}]")


def _as(kind: type, value: Any) -> Any:
    return value if isinstance(value, kind) else kind()


def _check_node(where: str, node: dict[Any, Any]) -> None:
    """Refuse what YAML took for something else, and misspelt keywords, which JSON Schema ignores silently."""
    for name in (*node, *(node["properties"] if isinstance(node.get("properties"), dict) else ())):
        if not isinstance(name, str):
            raise UserError(where, f"YAML reads a name as {name!r}; put it in quotes")
    values = node.get("enum")
    if values is not None and node.get("type") != "boolean" and any(isinstance(one, bool) for one in values):
        raise UserError(f"{where}.enum", "YAML reads yes, no, on and off as true and false; put them in quotes")
    for word in node:
        close = get_close_matches(word, _KEYWORDS, n=1, cutoff=0.8)
        if word not in _KEYWORDS and close:
            raise UserError(f"{where}.{word}", f"it is not a keyword of JSON Schema (did you mean {close[0]!r}?)")


def _problem(body: str) -> str | None:
    """Why llguidance cannot take a grammar; None if it can."""
    from llguidance import LLMatcher

    wrong, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(f"start: body\n{body}"))
    if not wrong:
        return None
    message = re.sub(r"\s*\n\s*\d+ \| .*", "", str(messages[0]), flags=re.DOTALL)  # the grammar follows
    message = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", message)
    return " ".join(message.split())


def _where(problem: str, schema: dict[str, Any]) -> str:
    """The problem, after the place of the keyword that it names."""
    named = re.search(r'Unimplemented keys: \["([^"]+)"', problem)
    word = named[1] if named else "oneOf" if "oneOf" in problem else None
    place = next((path for path, node in _nodes(schema) if word in node), None)
    if word is None or place is None:
        at = next((f"{path}.{word}".lstrip(".") for path, word, value in _texts(schema) if value in problem), None)
        return f"the keyword {at}: {problem}" if at else f"this schema is not supported: {problem}"
    return f"the keyword {f'{place}.{word}'.lstrip('.')} is not supported"


def _texts(schema: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Keywords whose value may be what is wrong: path, keyword, value."""
    for path, node in _nodes(schema):
        for word in ("format", "pattern", "$ref", "type"):
            if isinstance(node.get(word), str) and (word != "type" or node[word] not in _TYPES):
                yield path, word, node[word]


def _mixes(schema: dict[str, Any]) -> bool:
    """Whether objects combine several subschemas: each must then allow the others' properties."""
    words = ("anyOf", "oneOf", "$ref")
    return any(
        "allOf" in node or ("properties" in node and any(w in node for w in words)) for _, node in _nodes(schema)
    )


def _kinds(schema: dict[str, Any]) -> set[str]:
    kinds = schema.get("type", [])
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _closed(schema: Any, close: bool) -> Any:
    """The schema, narrowed where it says nothing: objects have only the properties they name, integers 53 bits."""
    if isinstance(schema, list):
        return [_closed(one, close) for one in schema]
    if not isinstance(schema, dict):
        return schema
    narrow = dict(schema)
    for word in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "prefixItems"):
        if word in schema:
            narrow[word] = _closed(schema[word], close)
    for word in ("properties", "patternProperties", "$defs", "definitions"):
        if isinstance(schema.get(word), dict):
            narrow[word] = {name: _closed(one, close) for name, one in schema[word].items()}
    if {"properties", "items"} & schema.keys() and not {"type", "enum", "const"} & schema.keys():
        narrow["type"] = "object" if "properties" in schema else "array"
    if close and "properties" in schema and "patternProperties" not in schema:
        narrow.setdefault("additionalProperties", False)
    if _kinds(schema) >= {"integer"} and "number" not in _kinds(schema) and not {"enum", "const"} & schema.keys():
        if "exclusiveMinimum" not in schema:
            narrow.setdefault("minimum", -_SAFE)
        if "exclusiveMaximum" not in schema:
            narrow.setdefault("maximum", _SAFE)
    return narrow
