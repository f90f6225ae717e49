"""``dataset.where``: a simple filter over columns, evaluated in Arrow.

``dataset.where`` and ``export --where`` take a filter:

    expr    := expr "or" expr | expr "and" expr | "not" expr | "(" expr ")" | test
    test    := column OP literal | column ["not"] "in" "[" literal, ... "]" | column "is" ["not"] "null"
    OP      := == = != <> < <= > >=
    column  := word | `any name` | column.part      literal := number | 'text' | "text" | bare_word

As in SQL, a comparison with a null cell is neither true nor false, and such a row is left out unless ``is null`` asks
for it. Whether a column holds numbers or texts that read as numbers makes no difference: a number literal compares as a
number, a quoted one with ``==`` and ``!=`` as it is written, and with ``<`` and ``>`` as a number where the cell reads
as one. Of a list, one member has to match (``labels == price``); ``!=`` means that no member does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa

from runner.data.cells import is_short, shortest
from runner.data.conf import check_column
from runner.text.written import NUMBER
from runner.types import UserError
from runner.words import composed

Mask = Callable[[pa.Table], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`(?P<name>[^`]+)`|(?P<op>==|!=|<>|<=|>=|=|<|>)"""
    r"""|(?P<punct>[()\[\],])|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=[\s()\[\],=<>!]|$)"""
    r"""|(?P<word>[^\s'"`()\[\],=<>!]+))""",
    re.DOTALL,
)
_KEYWORDS = {"and", "or", "not", "in", "is", "null"}
_INTEGER = r"^-?\d{1,18}$"
_KERNELS = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_MAX_DEPTH = 100
_WHOLE = pa.decimal256(58, 0)  # holds all integers, and leaves digits for a literal's fraction


class NoRowsError(UserError):
    """No row matches the filter."""


class Token(NamedTuple):
    """A piece of the filter: ``kind`` is text, name, op, punct, number, word, keyword or end; ``at`` counts from 1."""

    kind: str
    value: str
    at: int


def parse_where(where: str, columns: list[str], class_names: Mapping[str, list[str]]) -> Mask:
    """Compile a filter to a function from a table to a boolean array (nulls count as false).

    ``class_names`` gives for a column of class numbers the names that the filter may use instead. Raises
    UserError naming the position, or the unknown column and the valid ones; the function raises it for a literal that
    does not fit the column's type.
    """
    return _Parser(where, columns, class_names).parse()


def compared(where: str, columns: list[str]) -> list[tuple[str, str, str | None]]:
    """The columns that a filter looks at, each with an operator and a literal; ``is`` and None where it is null."""
    parser = _Parser(where, columns, {})
    parser.parse()
    return parser.compared


def with_parts(table: pa.Table, where: str) -> pa.Table:
    """The table with all that a filter may look at: the parts of its objects, too, as ``column.part``."""
    for field in table.schema if "." in where else ():
        if pa.types.is_struct(field.type):
            parts = with_parts(pa.table({field.name: table[field.name]}).flatten(), where)
            for name in parts.column_names:
                table = table if name in table.column_names else table.append_column(name, parts[name])
    return table


def _tokens(where: str) -> list[Token]:
    tokens, at = [], 0
    end = len(where.rstrip())
    while at < end:
        match = _TOKEN.match(where, at)
        if match is None:
            at += len(where[at:]) - len(where[at:].lstrip())
            raise UserError("dataset.where", f"cannot read {where[at : at + 20]!r} at position {at + 1} of {where!r}")
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        elif kind == "word" and value.lower() in _KEYWORDS:
            kind, value = "keyword", value.lower()
        elif kind == "op":
            value = {"=": "==", "<>": "!="}.get(value, value)
        tokens.append(Token(kind, value, match.start(match.lastgroup or 0) + 1))
        at = match.end()
    return [*tokens, Token("end", "", len(where) + 1)]


class _Parser:
    """Recursive descent over the tokens; ``or`` binds weakest, then ``and``, then ``not``."""

    def __init__(self, where: str, columns: list[str], class_names: Mapping[str, list[str]]) -> None:
        self.where, self.columns, self.class_names = where, columns, class_names
        self.tokens, self.next, self.depth = _tokens(where), 0, 0
        self.compared: list[tuple[str, str, str | None]] = []

    def parse(self) -> Mask:
        mask = self.either()
        if self.peek().kind != "end":
            self.fail("'and', 'or' or the end")
        return mask

    def peek(self) -> Token:
        return self.tokens[self.next]

    def take(self, kind: str, *values: str) -> Token | None:
        """The next token if it is of this kind and one of these values (any, if none given), else None."""
        token = self.peek()
        if token.kind != kind or (values and token.value not in values):
            return None
        self.next += 1
        return token

    def expect(self, kind: str, *values: str) -> Token:
        return self.take(kind, *values) or self.fail(" or ".join(repr(v) for v in values) or f"a {kind}")

    def fail(self, wanted: str) -> NoReturn:
        token = self.peek()
        found = repr(token.value) if token.kind != "end" else "the end"
        raise UserError(
            "dataset.where",
            f"expected {wanted} at position {token.at}, found {found} in {self.where!r} "
            "(like: length > 100 and kind == spam)",
        )

    def either(self) -> Mask:
        mask = self.both()
        while self.take("keyword", "or"):
            mask = _combine("or_kleene", mask, self.both())
        return mask

    def both(self) -> Mask:
        mask = self.negation()
        while self.take("keyword", "and"):
            mask = _combine("and_kleene", mask, self.negation())
        return mask

    def negation(self) -> Mask:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise UserError("dataset.where", f"nested more than {_MAX_DEPTH} deep")
        try:
            if self.take("keyword", "not"):
                return _combine("invert", self.negation())
            if self.take("punct", "("):
                mask = self.either()
                self.expect("punct", ")")
                return mask
            return self.test()
        finally:
            self.depth -= 1

    def test(self) -> Mask:
        column = self.column()
        if op := self.take("op"):
            return self.comparison(column, op.value, [self.literal()])
        if self.take("keyword", "is"):
            negated = self.take("keyword", "not")
            self.expect("keyword", "null")
            self.compared.append((column, "is", None))
            return (lambda t: _call("is_valid", t.column(column))) if negated else _null_test(column)
        negated = self.take("keyword", "not")
        if not self.take("keyword", "in"):
            self.fail("'in'" if negated else "==, !=, <, <=, >, >=, 'in' or 'is'")
        mask = self.comparison(column, "==", self.literals())
        return _combine("invert", mask) if negated else mask

    def column(self) -> str:
        token = self.take("name") or self.take("word") or self.take("text") or self.take("number")
        if token is None:
            self.fail("a column")
        name = token.value if token.value in self.columns else composed(token.value)
        check_column("dataset.where", name, self.columns)
        return name

    def literal(self) -> Token:
        literal = self.take("number") or self.take("text") or self.take("word") or self.take("keyword", "in", "is")
        return literal or self.fail("a number or a text")

    def literals(self) -> list[Token]:
        closing = {"[": "]", "(": ")"}[self.expect("punct", "[", "(").value]
        literals = [self.literal()]
        while self.take("punct", ","):
            literals.append(self.literal())
        self.expect("punct", closing)
        return literals

    def comparison(self, column: str, op: str, literals: list[Token]) -> Mask:
        names = self.class_names.get(column, [])
        numbered = [_class_number(literal, names) for literal in literals]
        self.compared += [(column, op, literal.value) for literal in literals]

        def mask(table: pa.Table) -> Any:
            result = None
            for literal in numbered:
                one = _compare(table.column(column), op, literal, column)
                result = one if result is None else _call("or_kleene", result, one)
            return result

        return mask


def _class_number(literal: Token, names: list[str]) -> Token:
    if literal.kind == "number" or literal.value not in names:
        return literal
    return Token("number", str(names.index(literal.value)), literal.at)


def _compare(column: Any, op: str, literal: Token, name: str) -> Any:
    """One comparison; the literal is read as the column's type."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.cast(pa.bool_())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _compare_members(column, op, literal, name)
    if _is_text(column.type):
        return _compare_text(column, op, literal)
    if pa.types.is_decimal(column.type):
        column = column.cast(_WHOLE) if column.type.scale < 0 else column
        return _call(_KERNELS[op], column, pa.scalar(_decimal(literal, column.type, name)))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _compare_number(column, op, literal, name)
    return _call(_KERNELS[op], column, _scalar(literal, column.type, name))


def _compare_members(column: Any, op: str, literal: Token, name: str) -> Any:
    """Whether one of a list's members is so; with ``!=``, whether none of them is this one."""
    import numpy as np

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    members = _call("list_flatten", column)
    of_members = _call("fill_null", _compare(members, "==" if op == "!=" else op, literal, name), False)
    found = np.zeros(len(column), np.bool_)
    found[np.asarray(_call("list_parent_indices", column))[np.asarray(of_members)]] = True
    mask = ~np.asarray(_call("is_valid", column))
    return pa.array(~found if op == "!=" else found, mask=mask)


def _compare_text(column: Any, op: str, literal: Token) -> Any:
    as_texts = _call(_KERNELS[op], column, pa.scalar(literal.value, column.type))
    if re.match(NUMBER, literal.value) is None or (op in ("==", "!=") and literal.kind != "number"):
        return as_texts
    numeric = _call("match_substring_regex", column, pattern=NUMBER)
    as_numbers = _compare_where(numeric, _call("utf8_trim_whitespace", column), pa.float64(), op, literal)
    if _is_integral(literal):  # exactly, also beyond what a float tells apart
        integral = _call("match_substring_regex", column, pattern=_INTEGER)
        exactly = _compare_where(integral, column, pa.int64(), op, literal)
        as_numbers = _call("if_else", integral, exactly, as_numbers)
    if op in ("==", "!=") or literal.kind != "number":
        return _call("if_else", numeric, as_numbers, as_texts)
    return as_numbers


def _compare_where(chosen: Any, texts: Any, kind: pa.DataType, op: str, literal: Token) -> Any:
    numbers = _call("if_else", chosen, texts, pa.scalar(None, texts.type)).cast(kind)
    return _compare_exactly(numbers, op, _scalar(literal, kind, ""), literal)


def _compare_number(column: Any, op: str, literal: Token, name: str) -> Any:
    """As if the column were of texts: a quoted number is equal only to one that is printed like it."""
    column = shortest(column) if is_short(column.type) else column
    found = _compare_exactly(column, op, _scalar(literal, column.type, name), literal)
    if literal.kind == "number" or op not in ("==", "!=") or _is_printed(literal.value, column.type):
        return found
    return _call("if_else", _call("is_valid", column), op == "!=", pa.scalar(None, pa.bool_()))


def _compare_exactly(column: Any, op: str, scalar: pa.Scalar, literal: Token) -> Any:
    """Also where an integer lies beyond what a float tells apart."""
    if pa.types.is_floating(column.type) and pa.types.is_integer(scalar.type):
        return _compare_floats(column, op, scalar.as_py())
    try:
        return _call(_KERNELS[op], column, scalar)
    except pa.ArrowInvalid:
        return _call(_KERNELS[op], column.cast(_WHOLE), pa.scalar(Decimal(literal.value)))


def _compare_floats(column: Any, op: str, number: int) -> Any:
    """With an integer that no float may be equal to: then what is not above the float below it is less."""
    near = float(number)
    if near != number and op in ("==", "!="):
        return _call("if_else", _call("is_valid", column), op == "!=", pa.scalar(None, pa.bool_()))
    if near != number:
        op = op[0] if (near > number) == (op[0] == "<") else f"{op[0]}="
    return _call(_KERNELS[op], column, pa.scalar(near))


def _is_printed(text: str, kind: pa.DataType) -> bool:
    """Whether a number of this type is printed like this."""
    try:
        return str(int(text)) == text
    except ValueError:
        return pa.types.is_floating(kind) and repr(float(text)) == text


def _is_integral(literal: Token) -> bool:
    return re.fullmatch(r"[-+]?\d{1,18}", literal.value) is not None


def _scalar(literal: Token, kind: pa.DataType, name: str) -> pa.Scalar:
    try:
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise pa.ArrowInvalid("not comparable")
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return pa.scalar(int(literal.value) if _is_integral(literal) else float(literal.value))
        return pa.scalar(literal.value).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        raise _misfit(literal, kind, name) from None


def _decimal(literal: Token, kind: pa.DataType, name: str) -> Decimal:
    if re.match(NUMBER, literal.value):
        return Decimal(literal.value)
    raise _misfit(literal, kind, name)


def _misfit(literal: Token, kind: pa.DataType, name: str) -> UserError:
    return UserError("dataset.where", f"column {name!r} holds {kind}, not {literal.value!r}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _combine(kernel: str, *masks: Mask) -> Mask:
    return lambda table: _call(kernel, *(mask(table) for mask in masks))


def _null_test(column: str) -> Mask:
    return lambda table: _call("is_null", table.column(column))


def _call(kernel: str, *arguments: Any, **options: Any) -> Any:
    import pyarrow.compute as pc

    return getattr(pc, kernel)(*arguments, **options)
