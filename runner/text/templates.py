"""One Jinja2 template over a row's columns: sandboxed, with missing and null columns as errors.

A column is a variable, and ``row["Review Text"]`` is any column, whatever its name. Where a column is itself called
``row``, the variable is that column, and ``columns["Review Text"]`` does the same. Texts and whole numbers have no
parts by name, so that a column ``row`` of them leaves ``row["Review Text"]`` what it is.

A cell of bytes is a text where they are UTF-8, as some programs write texts; others are printed through ``tojson``. A
cell of a CSV file is the text that the file shows, whatever other rows hold; where a template computes with it,
compares it to a number or tests it for being 0, it is the number that it reads as.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from inspect import isroutine
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from runner.plain import duration_text, to_json
from runner.text.chat.compiled import Compiled
from runner.text.vocabulary import clean
from runner.text.written import Written, as_written, has_no_parts, key_of, parts_of, plain, with_parts
from runner.types import RowError, UserError
from runner.words import composed, did_you_mean

WHOLE = ("row", "columns")  # variables that hold all columns by name, unless a column has the name
_RESERVED = {"and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "self", "loop", *WHOLE}
_PRINTED = re.compile(r"\{\{-?\s*([^{}|\"'()\[\]]+?)\s*-?\}\}")
_OF_FILES = (nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)
Fuse = Callable[[str], str]


class _NullError(Exception):
    """A template prints a null."""


class _Bytes(bytes):
    """Bytes that are no text."""

    def __str__(self) -> str:
        raise TypeError("these bytes are no UTF-8 text; the filter tojson prints them as base64")


class _Environment(SandboxedEnvironment):
    """Mappings are asked for a cell that reads as a number as the text and as the number."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return super().getattr(parts_of(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        obj = parts_of(obj, argument)
        return super().getitem(obj, key_of(obj, argument) if isinstance(obj, Mapping) else argument)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if args and isinstance(owner, Mapping):
            args = (key_of(owner, args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)


class Template:
    """``names``: the variables and columns that the template uses; ``needs``: those without a default or a test.

    ``key`` is the configuration key that errors name. Raises UserError when the source is unset or malformed.
    """

    def __init__(self, key: str, source: str) -> None:
        if not source:
            raise UserError(key, f"is not set: what is asked about a row, such as '{key}=\"Spam? {{{{ text }}}}\"'")
        self.key = key
        self._fuse: Fuse | None = None
        environment = _Environment(undefined=jinja2.StrictUndefined, finalize=self._finalize)
        del environment.globals["lipsum"], environment.filters["random"]  # a resumed run renders the same prompts
        environment.filters["tojson"] = _tojson
        tests: dict[str, Any] = environment.tests
        tests.update({name: _of_number(tests[name]) for name in ("number", "integer", "float")})
        try:
            self._tree = _with_composed_names(environment.parse(source))
            self._template = Compiled(environment, self._tree)
        except (jinja2.TemplateError, RecursionError, OverflowError, ValueError) as error:
            line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise UserError(key, f"{line}{error or type(error).__name__}{_odd_name(environment, source)}") from error
        for node in self._tree.find_all(_OF_FILES):
            raise UserError(key, f"line {node.lineno}: a template reads no file; write here what it holds")
        self._used = _used(self._tree)
        self._whole = [name for name in WHOLE if name in self._used]
        self._constant: str | None = None  # the text of a template that uses no variable
        self.take_columns(())

    def take_columns(self, known: Iterable[str], written: Collection[str] = ()) -> None:
        """Learn what columns and other variables there are: those called ``row`` or ``columns`` are what they say.

        ``written``: the columns whose cells are what a file without types shows.
        """
        self._written = frozenset(written)
        taken = set(WHOLE) - set(known)
        cells = {name for _, name in _cells(self._tree, taken)}
        parts = {name for _, name in _cells(self._tree, set(WHOLE) - taken)} & set(known)
        used = self._used - _called(self._tree)
        said = Counter(node.name for node in self._tree.find_all(nodes.Name))
        indirect = {name for name in taken & used if said[name] > len([*_cells(self._tree, {name})])}
        self.names = frozenset(used - taken | indirect | cells | parts)
        self.needs = self.names - indirect - _optional(self._tree, taken)

    def check_names(self, known: list[str], written: Collection[str] = ()) -> None:
        """``take_columns``; UserError for a variable that is not known."""
        self.take_columns(known, written)
        for name in sorted(self.needs - set(known)):
            raise UserError(self.key, f"no column {name!r}{did_you_mean(name, known)}{_written(name, known)}")
        for name in sorted({*known} & {"self", *_constants(self._tree)}):
            if name != "self" or name in self._used:
                raise UserError(self.key, f"{name} is not the column of this name here; write {cell(name, known)}")

    def render(
        self, variables: Mapping[str, Any], fuse: Fuse | None = None, row: Mapping[str, Any] | None = None
    ) -> str:
        """The text; ``fuse`` is applied to what every ``{{ }}`` prints. RowError if anything goes wrong.

        ``row``: the columns, where other variables hide some of them.
        """
        if self._constant is not None:
            return self._constant
        self._fuse = fuse
        try:
            text = clean(self._template.render(self._given(variables, variables if row is None else row)))
        except _NullError:
            cells = variables if row is None else {**row, **variables}
            nulls = sorted(name for name in self.names if cells.get(name, "") is None)
            hidden = self._hidden(variables)
            named = f"columns {', '.join(nulls)} are" if len(nulls) > 1 else f"column {nulls[0]} is" if nulls else ""
            what = f"{named} null" if nulls else f"a value is null{hidden}"
            raise RowError(self.key, what) from None
        except RowError:  # of a cell that cannot be read
            raise
        except Exception as error:  # templates compute with cells: any error concerns this row only
            hidden = self._hidden(variables) if isinstance(error, jinja2.UndefinedError) else ""
            raise RowError(self.key, f"{type(error).__name__}: {error}{hidden}") from error
        if not self._used and fuse is None:
            self._constant = text
        return text

    def _given(self, variables: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """What the template uses of all that there is: a row may have many columns."""
        given = {name: self._shown(name, variables[name]) for name in self._used if name in variables}
        for name in self._whole:
            if name not in given or has_no_parts(given[name]):
                cells = {column: self._shown(column, cell) for column, cell in row.items()}
                given[name] = with_parts(given[name], cells) if name in given else cells
        return given

    def _hidden(self, variables: Mapping[str, Any]) -> str:
        """Which column stands in the place of the row whose cell was asked for."""
        for name in self._whole:
            for _, column in _cells(self._tree, {name}):
                if name in variables and column in variables:
                    return f"; {name} is the column of this name here: write {cell(column, variables)}"
        return ""

    def _shown(self, name: str, cell: Any) -> Any:
        """A cell as a template has it: bytes that are UTF-8 as text, one of a file without types as it stands there."""
        if isinstance(cell, bytes):
            cell = _text_of(cell)
        return as_written(cell) if name in self._written else cell

    def _finalize(self, value: Any) -> Any:
        if value is None:
            raise _NullError
        if not isinstance(value, str):
            value = _printable(value)
        return value if self._fuse is None or isinstance(value, jinja2.Undefined) else self._fuse(str(value))


def _printable(value: Any) -> Any:
    """The value, decimals without powers of ten, durations as ISO 8601 has them, also within lists and objects.

    TypeError for what only its address in memory could be printed of.
    """
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, dict):
        return {name: _printable_part(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_printable_part(part) for part in value]
    if isinstance(value, Iterator):
        raise TypeError("a template prints a sequence of which nothing is computed yet: add | list or | join")
    if isroutine(value):
        name = getattr(value, "__name__", "")
        raise TypeError(f'a template prints a function: {name}() calls it, and a column of the name is row["{name}"]')
    return value


def _printable_part(value: Any) -> Any:
    """Of a list or an object: dates and the like as the texts that they are by themselves, not as Python's code."""
    if isinstance(value, list | dict | Decimal | timedelta):
        return _printable(value)
    return str(value) if isinstance(value, date | time) else value


def cell(column: str, columns: Iterable[str] = ()) -> str:
    """How a template prints a column, whatever its name is and the ``columns`` beside it are called."""
    taken = {column, *columns}
    if column.isidentifier() and (column in WHOLE or column.lower() not in _RESERVED):
        return f"{{{{ {column} }}}}"
    whole = next((name for name in WHOLE if name not in taken), WHOLE[0])
    return f"{{{{ {whole}[{json.dumps(column, ensure_ascii=False)}] }}}}"


def _text_of(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeError:
        return _Bytes(value)


def _tojson(value: Any, indent: int | None = None) -> str:
    return to_json(plain(value), indent)


def _of_number(test: Callable[..., Any]) -> Callable[[Any], bool]:
    return lambda value: bool(test(value.number if isinstance(value, Written) else value))


def _with_composed_names(tree: nodes.Template) -> nodes.Template:
    """The template, its variables and the cells of ``row`` named as columns are."""
    for name in tree.find_all(nodes.Name):
        name.name = composed(name.name)
    for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
        if _cell_of(node, set(WHOLE)) is None:
            continue
        if isinstance(node, nodes.Getattr):
            node.attr = composed(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            node.arg = nodes.Const(composed(node.arg.value), lineno=node.lineno)
    return tree


def _used(tree: nodes.Template) -> set[str]:
    """All variables, also those with the name of a function of Jinja's."""
    environment = tree.environment
    assert environment is not None
    functions, environment.globals = environment.globals, {}
    try:
        found = meta.find_undeclared_variables(tree)
    finally:
        environment.globals = functions
    return found | {node.name for node in tree.find_all(nodes.Name) if node.name == "self"}


def _called(tree: nodes.Template) -> set[str]:
    """Functions of Jinja's that are called."""
    assert tree.environment is not None
    called = {call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}
    return called & tree.environment.globals.keys()


def _cells(tree: nodes.Template, taken: set[str]) -> Iterator[tuple[nodes.Expr, str]]:
    """Each ``row["name"]`` or ``row.name``, and the column that it names."""
    for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
        if (name := _cell_of(node, taken)) is not None:
            yield node, name


def _cell_of(node: nodes.Node, taken: set[str]) -> str | None:
    if not isinstance(node, nodes.Getitem | nodes.Getattr) or not isinstance(node.node, nodes.Name):
        return None
    if node.node.name not in taken:
        return None
    if isinstance(node, nodes.Getattr):
        return None if hasattr(dict, node.attr) else node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None


def _optional(tree: nodes.Template, taken: set[str]) -> set[str]:
    """Variables and columns that the template tests with ``is defined`` or gives a default."""
    tests = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    filters = (f.node for f in tree.find_all(nodes.Filter) if f.name in ("default", "d"))
    found = [node for some in (tests, filters) for node in some]
    cells = {name for node in found if node is not None and (name := _cell_of(node, taken)) is not None}
    return cells | {node.name for node in found if isinstance(node, nodes.Name)}


def _constants(tree: nodes.Template) -> set[str]:
    """``true``, ``false`` and ``none`` where they are printed, as a column of this name would be."""
    printed = (part for output in tree.find_all(nodes.Output) for part in output.nodes if isinstance(part, nodes.Const))
    names = {str(part.value) for part in printed if part.value is None or isinstance(part.value, bool)}
    return names | {name.lower() for name in names}


def _written(name: str, known: list[str]) -> str:
    """How to write the column that may have been meant, if it is no variable by itself."""
    odd = [column for column in known if "[" in cell(column)]
    near = [column for column in odd if column.lower().lstrip().startswith(name.lower())]
    close = near[:1] or get_close_matches(name, odd, n=1) or [column for column in odd if name in column]
    return f"; write {cell(close[0], known)}" if close else ""


def _odd_name(environment: jinja2.Environment, source: str) -> str:
    """How to write the first ``{{ name }}`` that cannot be parsed."""
    for found in _PRINTED.finditer(source):
        try:
            environment.parse(found[0])
        except jinja2.TemplateError:
            return f"; a column of this name is written {{{{ row[{json.dumps(found[1], ensure_ascii=False)}] }}}}"
    return ""
