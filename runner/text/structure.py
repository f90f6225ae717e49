"""What an answer must look like (JSON Schema, regular expression, choices), and its output columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.text.schema.check import ANNOTATIONS, SchemaCheck, ecma, read_json, schema_problem
from runner.text.schema.columns import MORE, Column, column_of
from runner.text.schema.dialects import modern, unwrapped
from runner.text.schema.files import read_schema_file
from runner.text.schema.narrow import Narrowing, uncounted
from runner.text.schema.nodes import FOLLOWED, NOT_FOLLOWED, is_circular, subschemas, target, without_parts
from runner.text.schema.relaxed import CONDITIONS, Relaxing, impossible
from runner.types import RowError, UserError

# JSON as Python writes it, on one line: a model left to itself fills its room with white space.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SAY_NOTHING = (  # of the answer
    *ANNOTATIONS,
    *("$schema", "$id", "id", "$anchor", "$vocabulary", "$dynamicAnchor", "$recursiveAnchor"),
    *("contentEncoding", "contentMediaType", "contentSchema"),
    *("example", "discriminator", "xml", "externalDocs", "nullable", "components"),  # of OpenAPI
)
_KEYWORDS = (*FOLLOWED, *CONDITIONS, "dependencies", *NOT_FOLLOWED, *_SAY_NOTHING)
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_UNRESOLVED = ("Resource ", "Pointer ")  # what llguidance says of a reference that leads nowhere
_TOO_DEEP = "its parts go too deep to be joined, perhaps because they refer to themselves; say it all in one of them"
_MOST_DIGITS = 4  # significant ones of multipleOf: a grammar needs a state for each remainder


@dataclass
class StructureConf:
    """What an answer must look like: at most one of the three.

    Attributes:
        schema: A JSON Schema, in YAML or as the name of a .json or .yaml file, also inside a ``response_format``.
        regex: A regular expression for the whole answer.
        choices: The texts that an answer may be.
    """

    schema: Any = None
    regex: str | None = None
    choices: list[Any] | None = None


@dataclass(frozen=True)
class Structure:
    """``body``: Lark rules for an answer, in llguidance's dialect. ``column`` is None where an answer stays a text.

    ``check`` is what an answer is held against when it is complete. ``notes`` say what only that sees.
    """

    body: str
    column: Column | None = None
    choices: tuple[str, ...] = ()
    check: SchemaCheck | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()
    key: str = ""  # of the configuration that asks for it

    def fields(self) -> list[pa.Field]:
        """The output columns of an answer, ``text`` if it is no object."""
        if self.column is not None and self.column.kind == "object":
            return [pa.field(name, kind) for name, kind in self.column.columns.items()]
        if self.column is not None:
            return [pa.field("value", self.column.type)]
        return [pa.field("text", pa.dictionary(pa.int32(), pa.string()) if self.choices else pa.string())]

    def known(self) -> dict[str, tuple[Any, ...]]:
        """The values of the output columns and their parts, as ``column.part``, where there are but some."""
        if self.column is None:
            return {"text": self.choices} if self.choices else {}
        fields = self.column.fields if self.column.kind == "object" else {"value": self.column}
        return {path: values for name, one in fields.items() for path, values in one.known(name).items()}

    def as_recorded(self, columns: Mapping[str, str]) -> Structure:
        """The structure for a run that has recorded these columns by their types; none of them for a new one."""
        if self.column is None or not columns or any(MORE in name + kind for name, kind in columns.items()):
            return self
        return replace(self, column=self.column.closed())

    def values(self, text: str) -> dict[str, Any]:
        """The columns of one answer; RowError if it is not what it must be."""
        if self.column is None:
            return {"text": text.strip() if self.choices else text}
        try:
            value = self.column.value(self._valid(text))
        except OverflowError as problem:
            raise RowError("invalid answer", str(problem)) from problem
        if self.column.kind != "object":
            return {"value": value}
        return dict.fromkeys(self.column.columns) if value is None else dict(value)

    def problem(self, text: str) -> RowError | None:
        """What is wrong with a complete answer, if anything is."""
        try:
            self.values(text)
        except RowError as error:
            return error
        return None

    def _valid(self, text: str) -> Any:
        try:
            value = read_json(text)
        except ValueError as problem:
            raise RowError("invalid JSON", str(problem)) from problem
        if self.check is not None and (wrong := self.check.problem(value)):
            raise RowError("invalid answer", wrong)
        return value


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
            key = f"{prefix}.{asked[0]}"
            return replace(read(key, getattr(one, asked[0]), folders), key=key)
    return None


def recorded(body: str) -> Structure:
    """The structure of a finished run, as far as its rule says what columns can hold."""
    rule = body.removeprefix("body: ")
    if rule.startswith("%json "):
        schema = json.loads(rule.removeprefix("%json "))
        return Structure(body, column_of(schema, schema))
    texts = re.findall(r'"(?:[^"\\]|\\.)*"', rule) if rule.startswith('"') else []
    return Structure(body, choices=tuple(map(json.loads, texts)))


def _schema(key: str, value: Any, folders: list[Path]) -> Structure:
    if isinstance(value, str):
        return structure_of(key, read_schema_file(key, value, folders))
    for path, node in subschemas(unwrapped(value)):
        _check_yaml(f"{key}{path}", node)
    return structure_of(key, value)


def structure_of(key: str, given: Any) -> Structure:
    """The structure of a schema as JSON gives it; UserError that blames ``key``."""
    given = unwrapped(given)
    if not isinstance(given, dict) or not given:
        raise UserError(key, _LIKE)
    for path, node in subschemas(given):
        _check_names(f"{key}{path}", node)
    if given.keys().isdisjoint(_KEYWORDS):
        raise UserError(f"{key}.{next(iter(given))}", f"it is not a keyword of JSON Schema: {_LIKE}")
    schema = modern(json.loads(json.dumps(given)))
    _check_schema(key, schema)
    relaxing = Relaxing(lambda part: _part_problem(part, _shared(schema)) is None)
    plain = relaxing.node(schema)
    body, wider = _schema_body(plain)
    if problem := _problem(body):
        raise UserError(key, _where(problem, plain))
    notes = tuple(_notes(key, [*relaxing.left, *wider]))
    return Structure(body, column_of(plain, plain), check=SchemaCheck(schema), notes=notes)


def _notes(key: str, wider: list[tuple[str, str]]) -> Iterator[str]:
    """What grammars do not follow."""
    if formats := [text for word, text in dict.fromkeys(wider) if word == "format"]:
        yield f"{key}: any text will do where the format is {' or '.join(formats)}"
    for word, text in dict.fromkeys(wider):
        if word == "oneOf":
            yield f"{key}: an answer that more than one alternative of oneOf allows is asked for again; anyOf takes it"
        elif word != "format":
            yield f"{key}: {word}={text} is checked when an answer is complete; one that breaks it is asked for again"


_LIKE = "it must be a JSON Schema such as {type: object, properties: ...}, or the name of its file"


def _schema_body(schema: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The rule for a schema's answers, and the keywords that it does not follow."""
    narrowing = Narrowing(schema, _is_known)
    narrow = narrowing.schema()
    body = f"body: %json {json.dumps({**narrow, 'x-guidance': _STYLE})}"
    if "oneOf" in body and _problem(body):  # alternatives that may overlap
        body = f"body: %json {json.dumps({**narrow, 'x-guidance': {**_STYLE, 'coerce_one_of': True}})}"
    return body, narrowing.wider


def _part_problem(part: Mapping[str, Any], shared: Mapping[str, Any]) -> str | None:
    """Why grammars do not take a part of a schema that has these ``shared`` parts; None if they do."""
    return _problem(_schema_body({**shared, **part})[0])


def _shared(root: Mapping[str, Any]) -> dict[str, Any]:
    """What parts of a schema may refer to."""
    return {word: root[word] for word in ("$defs", "definitions", "components") if word in root}


@lru_cache(maxsize=256)
def _is_known(form: str) -> bool:
    """Whether grammars know a format."""
    return _problem(f"body: %json {json.dumps({'type': 'string', 'format': form})}") is None


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


def _check_yaml(where: str, node: dict[Any, Any]) -> None:
    """Refuse what a configuration, which is YAML, may have taken for something else."""
    values = node.get("enum")
    if isinstance(values, list) and node.get("type") != "boolean" and any(isinstance(one, bool) for one in values):
        raise UserError(f"{where}.enum", "YAML reads yes, no, on and off as true and false; put them in quotes")


def _check_names(where: str, node: dict[Any, Any]) -> None:
    """Refuse names that YAML took for something else, and misspelt keywords, which JSON Schema ignores silently."""
    for name in (*node, *(node["properties"] if isinstance(node.get("properties"), dict) else ())):
        if not isinstance(name, str):
            raise UserError(where, f"YAML reads a name as {name!r}; put it in quotes")
    for word in (word for word in node if not word.startswith("x-")):
        close = get_close_matches(word, _KEYWORDS, n=1, cutoff=0.8)
        if word not in _KEYWORDS and close:
            raise UserError(f"{where}.{word}", f"it is not a keyword of JSON Schema (did you mean {close[0]!r}?)")


def _check_schema(key: str, schema: dict[str, Any]) -> None:
    """Refuse values that JSON Schema does not allow, those of annotations aside, and those too much for a grammar."""
    for path, node in reversed([*subschemas(schema)]):
        if found := schema_problem(without_parts(node, (*FOLLOWED, *CONDITIONS, *NOT_FOLLOWED))):
            place = ".".join([f"{path}.{found[0][0]}".lstrip(".") if found[0] else path, *map(str, found[0][1:])])
            raise UserError(key, f"the keyword {place}: {_said(node, found)}")
        if is_circular(node, schema):
            raise UserError(key, f"the keyword {f'{path}.$ref'.lstrip('.')}: it refers to nothing but itself")
        if word := impossible(node):
            raise UserError(key, f"the keyword {f'{path}.{word}'.lstrip('.')}: hardly any answer meets it")
        for word, text in (
            ("pattern", node.get("pattern", "")),
            *(("patternProperties", one) for one in node.get("patternProperties", ())),
        ):
            try:
                ecma(text)
            except ValueError as problem:
                raise UserError(key, f"the keyword {f'{path}.{word}'.lstrip('.')}: {problem}") from problem
        if wrong := uncounted(node):
            place = f"{path}.{wrong[0]}".lstrip(".")
            raise UserError(key, f"the keyword {place}: a model cannot be held to the number {wrong[1]}; take a text")
        digits = Decimal(str(node.get("multipleOf", 1))).normalize().as_tuple().digits
        if len(digits) > _MOST_DIGITS:
            place = f"{path}.multipleOf".lstrip(".")
            raise UserError(key, f"the keyword {place}: it may have {_MOST_DIGITS} significant digits")


def _said(node: dict[str, Any], found: tuple[list[Any], str]) -> str:
    if found[0][:1] == ["type"]:
        return f"{node['type']!r} is none of {', '.join(_TYPES)}"
    return found[1]


def _problem(body: str) -> str | None:
    """Why llguidance cannot take a grammar; None if it can."""
    from llguidance import LLMatcher

    wrong, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(f"start: body\n{body}"))
    if not wrong:
        return None
    message = re.sub(r"\s*\n\s*\d+ \| .*", "", str(messages[0]), flags=re.DOTALL)  # the grammar follows
    message = re.sub(r": Regex is empty: .*", ": no text meets it all", message, flags=re.DOTALL)
    message = re.sub("Schema intersection stack level exceeded", _TOO_DEEP, message)
    message = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", message)
    return " ".join(message.split())


def _where(problem: str, schema: dict[str, Any]) -> str:
    """The problem, after the place of the keyword that makes it: the innermost subschema that has it, too."""
    shared = _shared(schema)
    if problem.startswith(_UNRESOLVED):
        for path, node in subschemas(schema):
            reference = node.get("$ref")
            if isinstance(reference, str) and target(reference, schema) is None:
                cure = "put what it refers to under $defs, in this schema"
                return f"the keyword {f'{path}.$ref'.lstrip('.')}: there is no {reference} here; {cure}"

    for path, node in sorted(subschemas(schema), key=lambda found: -found[0].count(".")):
        if inner := _part_problem(node, shared):
            words = [word for word in node if word not in shared]
            cures = (one for one in words if not _part_problem({k: v for k, v in node.items() if k != one}, shared))
            word = next(cures, next((one for one in words if one in NOT_FOLLOWED), None))
            place = f"{path}.{word or ''}".strip(".")
            if word in NOT_FOLLOWED:
                return f"the keyword {place} is not supported"
            return f"the keyword {place}: {inner}" if place else f"this schema is not supported: {inner}"
    return f"this schema is not supported: {problem}"
