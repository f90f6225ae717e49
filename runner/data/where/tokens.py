"""A filter's text in pieces."""

from __future__ import annotations

import re
from typing import NamedTuple

from runner.types import UserError

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`(?P<name>[^`]+)`|(?P<op>==|!=|<>|<=|>=|=|<|>)"""
    r"""|(?P<punct>[()\[\],])|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=[\s()\[\],=<>!]|$)"""
    r"""|(?P<word>[^\s'"`()\[\],=<>!]+))""",
    re.DOTALL,
)
_KEYWORDS = {"and", "or", "not", "in", "is", "null"}


class Token(NamedTuple):
    """A piece of the filter: ``kind`` is text, name, op, punct, number, word, keyword or end; ``at`` counts from 1."""

    kind: str
    value: str
    at: int


def tokens_of(where: str) -> list[Token]:
    """The pieces of a filter and its end; UserError at what is none."""
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
