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

Modules:
comparison  One comparison of a filter: a column's cells with a literal, read as the column's type.
tokens      A filter's text in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pyarrow as pa

from runner.data.conf import check_column
from runner.data.where.comparison import call, compare
from runner.data.where.tokens import Token, tokens_of
from runner.types import UserError
from runner.words import composed

Mask = Callable[[pa.Table], Any]

_MAX_DEPTH = 100


class NoRowsError(UserError):
    """No row matches the filter."""


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


class _Parser:
    """Recursive descent over the tokens; ``or`` binds weakest, then ``and``, then ``not``."""

    def __init__(self, where: str, columns: list[str], class_names: Mapping[str, list[str]]) -> None:
        self.where, self.columns, self.class_names = where, columns, class_names
        self.tokens, self.next, self.depth = tokens_of(where), 0, 0
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
            "(for example: length > 100 and kind == spam)",
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
            test = "is_valid" if self.take("keyword", "not") else "is_null"
            self.expect("keyword", "null")
            self.compared.append((column, "is", None))
            return lambda table: call(test, table.column(column))
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
                one = compare(table.column(column), op, literal, column)
                result = one if result is None else call("or_kleene", result, one)
            return result

        return mask


def _class_number(literal: Token, names: list[str]) -> Token:
    if literal.kind == "number" or literal.value not in names:
        return literal
    return Token("number", str(names.index(literal.value)), literal.at)


def _combine(kernel: str, *masks: Mask) -> Mask:
    return lambda table: call(kernel, *(mask(table) for mask in masks))
