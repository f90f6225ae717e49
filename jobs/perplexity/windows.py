"""A text cut into windows, and how surprised a model is by each of their tokens.

A text of N tokens is cut into windows of at most ``window`` tokens, the next one beginning ``stride`` later. A window
scores the tokens that no window before it held, given those before them in it; its first token has nothing before it,
or the token that begins every text, and is scored by nobody unless an earlier window did. Perplexity is the exponential
of the mean negative log-likelihood (in nats) of the scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jobs.perplexity.conf import PerplexityConf
from runner.data.cells import shown
from runner.data.source import DataSource
from runner.results.perplexity import exp
from runner.text.vocabulary import Vocabulary, clean
from runner.types import UserError
from runner.words import did_you_mean

SCORE_BYTES = {"cpu": 128 << 20, "metal": 512 << 20, "cuda": 2 << 30}  # of float32 logits held at once
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
    import pyarrow as pa

    texts = [str(field.name) for field in source.schema if pa.types.is_string(field.type) or _is_large(field.type)]
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


def _is_large(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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
        raise UserError("dataset.path", f"column {column!r} holds {len(tokens)} tokens: nothing to measure")
    return tokens


def leading_tokens(tokenizer: Any, vocabulary: Vocabulary, asked: bool | None) -> list[int]:
    """What each window begins with: the token that begins a text, if it is ``asked`` for or the tokenizer adds it."""
    if asked is False:
        return []
    if asked and not vocabulary.bos and tokenizer.bos_token_id is None:
        raise UserError("perplexity.bos", "this model has no token that begins a text", value="true")
    return vocabulary.bos or ([int(tokenizer.bos_token_id)] if asked else [])


def method(conf: PerplexityConf, document: str | None, stride: int, beginning: list[str]) -> str:
    """How the text was cut and scored, in words; ``beginning``: what each window begins with."""
    joined = "the end token" if conf.separator is None else repr(conf.separator) if conf.separator else "nothing"
    begin = (
        f"each beginning with {' '.join(beginning)}, which is not scored"
        if beginning
        else "without a token at the beginning"
    )
    return f"{_DOCUMENTS[document]} joined by {joined}; windows of {conf.window:,} tokens every {stride:,}, {begin}"


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


def cut_windows(tokens: int, window: int, stride: int) -> list[Window]:
    """The windows over a text, in order; none scores nothing."""
    found, covered = [], 0
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        scored = min(end - covered, end - begin - 1)
        if scored > 0:
            found.append(Window(begin, end, scored))
        covered = end
        if end == tokens:
            break
    return found


def chunk_tokens(kind: str, config: dict[str, Any], sequences: int) -> int:
    """How many tokens of ``sequences`` go through the model at once, for a device (cpu, metal, cuda)."""
    width = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 1 << 18
    return max(16, SCORE_BYTES[kind] // (4 * int(width) * sequences))


def losses(
    model: Any, batches: list[np.ndarray], streams: list[Any], chunk: int, beat: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """Negative log-likelihoods of tokens[:, 1:] for token ids [B, L] each: float32 [B, L - 1].

    Batches run side by side, one on each stream. The text goes through the model ``chunk`` tokens at a time behind KV
    caches, so that the logits of no more are held; they are float32 when they are normalised. ``beat`` is called after
    each chunk.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches = [make_prompt_cache(model) for _ in batches]
    results: list[list[Any]] = [[] for _ in batches]
    for at in range(0, max(batch.shape[1] for batch in batches) - 1, chunk):
        for batch, cache, stream, result in zip(batches, caches, streams, results, strict=False):
            stop = min(at + chunk, batch.shape[1] - 1)
            if at < stop:
                with mx.stream(stream):
                    logits = model(mx.array(batch[:, at:stop]), cache=cache)
                    result.append(loss(logits, mx.array(batch[:, at + 1 : stop + 1])))
        mx.eval([result[-1] for result in results], [layer.state for cache in caches for layer in cache])
        beat()
    return [np.concatenate([np.array(part) for part in result], axis=1) for result in results]


def loss(logits: Any, targets: Any) -> Any:
    """Negative log-likelihoods [B, T] of ``targets`` [B, T] under ``logits`` [B, T, V], in float32."""
    import mlx.core as mx

    from runner.engine.sampling import normaliser

    logits = logits.astype(mx.float32)
    return normaliser(logits) - mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def exact_loss(logits: Any, targets: np.ndarray) -> np.ndarray:
    """What ``loss`` is in float64, by NumPy alone: [T] of ``targets`` [T] under ``logits`` [T, V]."""
    import mlx.core as mx

    found = np.empty(len(targets))
    for place, target in enumerate(targets):  # one after the other: all of them would take twice the memory again
        row = np.array(logits[place].astype(mx.float32)).astype(np.float64)
        found[place] = np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
    return found


class Check(NamedTuple):
    """A batch against forward passes one by one. ``largest``: difference of a token's log-likelihood, in nats;
    ``mean``: of the windows' means. Both perplexities are over the same tokens.
    """

    windows: int
    tokens: int
    batched: float
    single: float
    largest: float
    mean: float


def self_check(model: Any, batches: list[np.ndarray], streams: list[Any], chunk: int) -> Check:
    """Compare ``losses`` with a forward pass for each window, without caches, chunks, batches or streams, whose logits
    NumPy normalises in float64.

    Windows are cut so that a pass holds no more logits than a chunk of all batches does.
    """
    import mlx.core as mx

    most = max(2, chunk * sum(len(batch) for batch in batches))
    batches = [batch[:, :most] for batch in batches]
    batched = [row for part in losses(model, batches, streams, chunk) for row in part]
    single = []
    for row in (row for batch in batches for row in batch):
        single.append(exact_loss(model(mx.array(row[None, :-1]))[0], row[1:]))
    differences = [a.astype(np.float64) - b for a, b in zip(batched, single, strict=True)]
    return Check(
        len(single),
        sum(map(len, single)),
        exp(float(np.concatenate(batched).mean(dtype=np.float64))),
        exp(float(np.concatenate(single).mean(dtype=np.float64))),
        max(float(np.abs(one).max()) for one in differences),
        max(abs(float(one.mean())) for one in differences),
    )
