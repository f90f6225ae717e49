"""One comparison of a filter: a column's cells with a literal, read as the column's type."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pyarrow as pa

from runner.data.cells import is_short, shortest
from runner.data.where.tokens import Token
from runner.text.written import NUMBER
from runner.types import UserError

_INTEGER = r"^-?\d{1,18}$"
_KERNELS = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_WHOLE = pa.decimal256(58, 0)  # holds all integers, and leaves digits for a literal's fraction


def compare(column: Any, op: str, literal: Token, name: str) -> Any:
    """A boolean for each cell of the column called ``name``, null where that is; UserError if the literal cannot be."""
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
        return call(_KERNELS[op], column, pa.scalar(_decimal(literal, column.type, name)))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _compare_number(column, op, literal, name)
    return call(_KERNELS[op], column, _scalar(literal, column.type, name))


def _compare_members(column: Any, op: str, literal: Token, name: str) -> Any:
    """Whether one of a list's members is so; with ``!=``, whether none of them is this one."""
    import numpy as np

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    members = call("list_flatten", column)
    of_members = call("fill_null", compare(members, "==" if op == "!=" else op, literal, name), False)
    found = np.zeros(len(column), np.bool_)
    found[np.asarray(call("list_parent_indices", column))[np.asarray(of_members)]] = True
    mask = ~np.asarray(call("is_valid", column))
    return pa.array(~found if op == "!=" else found, mask=mask)


def _compare_text(column: Any, op: str, literal: Token) -> Any:
    as_texts = call(_KERNELS[op], column, pa.scalar(literal.value, column.type))
    if re.match(NUMBER, literal.value) is None or (op in ("==", "!=") and literal.kind != "number"):
        return as_texts
    numeric = call("match_substring_regex", column, pattern=NUMBER)
    as_numbers = _compare_where(numeric, call("utf8_trim_whitespace", column), pa.float64(), op, literal)
    if _is_integral(literal):  # exactly, also beyond what a float tells apart
        integral = call("match_substring_regex", column, pattern=_INTEGER)
        exactly = _compare_where(integral, column, pa.int64(), op, literal)
        as_numbers = call("if_else", integral, exactly, as_numbers)
    if op in ("==", "!=") or literal.kind != "number":
        return call("if_else", numeric, as_numbers, as_texts)
    return as_numbers


def _compare_where(chosen: Any, texts: Any, kind: pa.DataType, op: str, literal: Token) -> Any:
    numbers = call("if_else", chosen, texts, pa.scalar(None, texts.type)).cast(kind)
    return _compare_exactly(numbers, op, _scalar(literal, kind, ""), literal)


def _compare_number(column: Any, op: str, literal: Token, name: str) -> Any:
    """As if the column were of texts: a quoted number is equal only to one that is printed like it."""
    column = shortest(column) if is_short(column.type) else column
    found = _compare_exactly(column, op, _scalar(literal, column.type, name), literal)
    if literal.kind == "number" or op not in ("==", "!=") or _is_printed(literal.value, column.type):
        return found
    return call("if_else", call("is_valid", column), op == "!=", pa.scalar(None, pa.bool_()))


def _compare_exactly(column: Any, op: str, scalar: pa.Scalar, literal: Token) -> Any:
    """Also where an integer lies beyond what a float tells apart."""
    if pa.types.is_floating(column.type) and pa.types.is_integer(scalar.type):
        return _compare_floats(column, op, scalar.as_py())
    try:
        return call(_KERNELS[op], column, scalar)
    except pa.ArrowInvalid:
        return call(_KERNELS[op], column.cast(_WHOLE), pa.scalar(Decimal(literal.value)))


def _compare_floats(column: Any, op: str, number: int) -> Any:
    """With an integer that no float may be equal to: then what is not above the float below it is less."""
    near = float(number)
    if near != number and op in ("==", "!="):
        return call("if_else", call("is_valid", column), op == "!=", pa.scalar(None, pa.bool_()))
    if near != number:
        op = op[0] if (near > number) == (op[0] == "<") else f"{op[0]}="
    return call(_KERNELS[op], column, pa.scalar(near))


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


def call(kernel: str, *arguments: Any, **options: Any) -> Any:
    """A compute function of Arrow's, loaded late."""
    import pyarrow.compute as pc

    return getattr(pc, kernel)(*arguments, **options)
