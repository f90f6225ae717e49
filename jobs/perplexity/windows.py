"""A text cut into windows of tokens.

A text of N tokens is cut into windows of at most ``window`` tokens, the next one beginning ``stride`` later. A window
scores the tokens that no window before it held, given those before them in it; its first token has nothing before it,
or the token that begins every text, and is scored by nobody unless an earlier window did. With ``context`` so many
tokens of each window are not scored, and a shorter last window is left out. Perplexity is the exponential of the mean
negative log-likelihood (in nats) of the scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs.perplexity.conf import PerplexityConf
from runner.data.cells import shown
from runner.data.source import DataSource
from runner.text.vocabulary import Vocabulary, clean
from runner.types import UserError
from runner.words import count_of, did_you_mean

READ_ROWS = 1000
_DOCUMENTS = {
    None: "documents",
    "lines": "lines with their ends",
    "blank_lines": "paragraphs between blank lines",
    "files": "whole files",
    "wikitext": "articles with their headings",
}


class Window(NamedTuple):
    """Tokens [``begin``, ``end``) of the text, of which the last ``scored`` are scored."""

    begin: int
    end: int
    scored: int


def text_column(source: DataSource, asked: str | None) -> str:
    """The column with the documents. Raises UserError."""
    t = pa.types
    tests = (t.is_string, t.is_large_string, t.is_string_view)
    texts = [str(field.name) for field in source.schema if any(test(field.type) for test in tests)]
    if asked is not None:
        if asked not in texts:
            raise UserError("perplexity.column", f"no column of texts{did_you_mean(asked, texts)}", value=asked)
        return asked
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        if texts:
            raise UserError("perplexity.column", f"is not set: it names one of {', '.join(texts)}")
        raise UserError("dataset.path", f"no column of texts among {', '.join(source.schema.names)}")
    return texts[0]


def read_tokens(source: DataSource, column: str, vocabulary: Vocabulary, end: int, conf: PerplexityConf) -> np.ndarray:
    """The text's token ids [N], at most ``max_tokens``; documents without a word in them are left out.

    Reads no further than it must. Raises UserError for a text of less than two tokens.
    """
    pieces: list[np.ndarray] = []
    total, most = 0, conf.max_tokens or 1 << 62
    for texts in _documents(source, column, conf.separator):
        for ids in vocabulary.encode(texts):
            pieces.append(np.array([*ids, end] if conf.separator is None else ids, np.int32))
            total += len(pieces[-1])
        if total > most:
            break
    tokens = np.concatenate(pieces)[:most] if pieces else np.zeros(0, np.int32)
    if conf.separator is None and total <= most:
        tokens = tokens[:-1]  # the end token stands between documents
    if len(tokens) < 2:
        raise UserError("dataset.path", f"column {column!r} holds {count_of(len(tokens), 'token')}: nothing to measure")
    return tokens


def leading_tokens(tokenizer: Any, vocabulary: Vocabulary, asked: bool | None) -> list[int]:
    """What each window begins with: the token that begins a text, if it is ``asked`` for or the tokenizer adds it."""
    if asked is False:
        return []
    if asked and not vocabulary.bos and tokenizer.bos_token_id is None:
        raise UserError("perplexity.bos", "this model has no token that begins a text", value="true")
    return vocabulary.bos or ([int(tokenizer.bos_token_id)] if asked else [])


def spans(conf: PerplexityConf, tokens: int, bos: int) -> tuple[list[Window], int]:
    """The windows over a text, each behind ``bos`` tokens, and the stride. Raises UserError if there is none."""
    own = max(2, conf.window - bos)
    stride = min(conf.step, own) if conf.context is None else conf.step
    found = cut_windows(tokens, own, stride, None if conf.context is None else max(0, conf.context - bos))
    if not found:
        raise UserError("perplexity.window", f"the text has {tokens:,} tokens: no whole window", value=conf.window)
    return found, stride


def method(conf: PerplexityConf, document: str | None, stride: int, beginning: list[str]) -> str:
    """How the text was cut and scored, in words; ``beginning``: what each window begins with."""
    joined = "the end token" if conf.separator is None else repr(conf.separator) if conf.separator else "nothing"
    begin = (
        f"each beginning with {' '.join(beginning)}, which is not scored"
        if beginning
        else "without a token at the beginning"
    )
    whole = "windows" if conf.context is None else "whole windows"
    first = "token of each is" if conf.context == 1 else f"{conf.context or 0:,} tokens of each are"
    context = "" if conf.context is None else f"; the first {first} context only"
    cut = f"{whole} of {conf.window:,} tokens every {stride:,}, {begin}{context}"
    return f"{_DOCUMENTS[document]} joined by {joined}; {cut}"


def _documents(source: DataSource, column: str, separator: str | None) -> Iterator[list[str]]:
    """Documents, some at a time; all rows as one with a ``separator``."""
    if separator is not None:
        yield [clean(separator.join(_cell(row[column]) for row in source.rows()))]
        return
    for start in range(0, len(source), READ_ROWS):
        table = source.table(start, start + READ_ROWS, [column])
        yield [clean(text) for text in map(_cell, shown(table.column(0))) if text.strip()]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else ""


def cut_windows(tokens: int, window: int, stride: int, context: int | None = None) -> list[Window]:
    """The windows over a text, in order; none scores nothing. ``context``: how many tokens of each are not scored; all
    are whole ones then.
    """
    found, covered = [], 0
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        if context is not None and end - begin < window:
            break
        scored = min(end - covered, end - begin - (1 if context is None else context))
        if scored > 0:
            found.append(Window(begin, end, scored))
        covered = end
        if end == tokens:
            break
    return found
