"""The job ``summarize``: summaries of documents of any length, from summaries of their parts.

Modules:
split  Long texts in pieces of so many tokens, cut at paragraphs, else sentences, lines, words, characters.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from jobs.summarize.split import Piece, split
from runner.data.conf import check_column
from runner.keys import check_keys, key
from runner.text.scripts import count_words, first_words, sentences, words
from runner.types import (
    TOO_LONG,
    Columns,
    Completion,
    Example,
    Request,
    Row,
    RowError,
    Sampling,
    Setting,
    Steps,
    UserError,
)

if TYPE_CHECKING:
    from runner.data.source import DataSource
    from runner.results.run import Run
    from runner.text.prompter import Prompter

METHODS = ("map_reduce", "refine", "stuff")
CHUNK_TOKENS = 2000  # where the model's context leaves so many
WAVE = 256  # chunks asked about together: bounds what waits of one document
TOO_WORDY = 1.2  # times ``target_words``
COPIED_WORDS = 20  # that stand together in the input are a copy
RETRY = Sampling(temperature=0.7, top_p=0.95)  # the same question again must be able to get another answer
_TITLE = re.compile(r"\A\s*Summary:\s*")  # which the prompt ends with, and small models say again
_PARTS = pa.list_(pa.struct([("level", pa.int32()), ("text", pa.string())]))


class Summary(NamedTuple):
    """A text and what is wrong with it: empty, a copy, cut; None if nothing is."""

    text: str
    flaw: str | None = None


Asking = Generator[Request | list[Request], Any, Any]


@dataclass
class Summarize:
    """Summarise documents of any length.

        rowmill run job=summarize dataset=csv dataset.path=mail.csv job.target_words=20 run_name=short

    A document longer than ``job.chunk_tokens`` is split between paragraphs, or else sentences.
    ``job.method=map_reduce`` summarises its chunks, then merges up to ``job.fan_in`` summaries at a time until one is
    left; ``refine`` goes through the chunks in order and improves one summary; ``stuff`` never splits, and a document
    that exceeds the model's context becomes an error. A kill in the middle of a book loses only
    the requests in progress.

    A summary that is empty or copies its input is requested again, up to ``job.retries`` times. One that is more than a
    fifth longer than ``job.target_words`` is shortened by the model, or else cut after a sentence. What is still wrong
    is in the column ``flaw``.

    ``dataset=documents dataset.path=FOLDER`` reads text, Markdown, HTML and PDF files. ``dataset=aclsum`` is 250 papers
    with reference summaries. If ``dataset.gold`` names a column of references, the run ends with ROUGE-1, 2 and L and
    their intervals, which needs ``pip install -e '.[summarize]'``.

    The template finds ``step`` (whole, part, merge, refine or shorten), ``passage`` (what to summarise), ``summary``
    (so far, with refine), ``words`` (the target), ``part`` and ``parts`` (the chunk's number, and how many there are).
    """

    column: str = "text"
    method: str = key("map_reduce", among=METHODS)
    chunk_tokens: int | None = None
    overlap_tokens: int = key(0, least=0)
    fan_in: int = key(8, least=2)
    target_words: int = key(100, least=1)
    retries: int = key(1, least=0)
    intermediate: bool = False

    def __post_init__(self) -> None:
        check_keys(self, "job.")

    def check_source(self, source: DataSource, prompter: Prompter) -> None:
        """Ask for the package that compares summaries with gold ones before there are any, not after."""
        if source.conf.gold:
            from runner.results.rouge import need_rouge

            need_rouge(source.conf.gold)

    def open(self, setting: Setting) -> None:
        """Fix the chunks' length; UserError where chunks, answers and the model's context do not go together."""
        check_column("job.column", self.column, setting.source.column_names)
        room = setting.room(Request(self.variables()))
        if room is not None and self.method == "refine":
            room -= setting.max_tokens  # the summary so far
        if room is not None and room < 1:
            raise UserError(
                "engine.max_tokens", f"{_context(setting)} leaves no room for a document", value=setting.max_tokens
            )
        self._limit = self.chunk_tokens or min(CHUNK_TOKENS, room or CHUNK_TOKENS)
        if room is not None and self._limit > room:
            raise UserError(
                "job.chunk_tokens", f"{_context(setting)} leaves {room} tokens for a chunk", value=self._limit
            )
        least = 2 * max(setting.max_tokens, self.overlap_tokens)
        if self.method != "stuff" and self._limit < least:
            raise UserError(
                "job.chunk_tokens",
                f"a chunk must have room for two answers of engine.max_tokens"
                f"={setting.max_tokens} and two overlaps: at least {least} tokens",
                value=self._limit,
            )
        if self.method == "stuff":
            self._limit = room or self._limit
        self._count = setting.count

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return {"step": "whole", "passage": "", "summary": "", "words": self.target_words, "part": 1, "parts": 1}

    def example(self, row: Row, gold: Any) -> Example | None:
        """A document with its reference."""
        text = row.get(self.column)
        return Example(str(gold), {**self.variables(), "passage": text}) if isinstance(text, str) else None

    def figures(self, run: Run, source: DataSource) -> dict[str, Any]:
        """How near the summaries are to the gold ones, where there are any."""
        if not source.conf.gold:
            return {}
        from runner.results.rouge import evaluate_summaries

        return {"rouge": evaluate_summaries(run, source)}

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            summary: The summary.
            flaw: What is wrong with the summary: empty, a copy, or cut to its length; null if nothing is.
            chunks: The number of chunks that the document was split into.
            levels: How many requests built on one another.
            tokens: The length of the document in tokens.
            flawed_parts: The number of intermediate summaries with a flaw.
            parts: With ``intermediate=true``: the summaries of the parts.
        """
        names = ("chunks", "levels", "tokens", "flawed_parts")
        fields = [("summary", pa.string()), ("flaw", pa.string()), *((name, pa.int32()) for name in names)]
        return pa.schema([*fields, *([("parts", _PARTS)] if self.intermediate else [])])

    def steps(self, row: Row) -> Steps:
        """The chunks' requests, and those that build on their answers."""
        text = row[self.column]
        if not isinstance(text, str) or not text.strip():
            raise RowError("empty document", f"column {self.column} has no text")
        chunks = split(text, self._limit, 0 if self.method == "stuff" else self.overlap_tokens, self._count)
        tokens = sum(chunk.tokens for chunk in chunks)
        if len(chunks) > 1 and self.method == "stuff":
            raise RowError(TOO_LONG, f"{tokens:,} tokens, but job.method=stuff takes at most {self._limit:,}")
        levels: list[list[Summary]] = []
        yield from (self._refine if self.method == "refine" else self._map_reduce)(chunks, levels)
        final = yield from self._keep_length(levels[-1][-1])
        return self._columns(final, levels, len(chunks), tokens)

    def _map_reduce(self, chunks: list[Piece], levels: list[list[Summary]]) -> Asking:
        step = "part" if len(chunks) > 1 else "whole"
        levels.append((yield from self._summaries(step, [chunk.text for chunk in chunks])))
        while len(levels[-1]) > 1:
            *groups, last = self._groups([one for one in levels[-1] if one.text])
            alone = last if len(last) == 1 else []  # goes up a level as it is
            merged = [*groups, *([] if alone else [last])]
            texts = ["\n\n".join(one.text for one in group) for group in merged]
            levels.append([*(yield from self._summaries("merge", texts)), *alone])

    def _summaries(self, step: str, texts: list[str]) -> Asking:
        """A summary of each text, some hundred requests at a time."""
        summaries: list[Summary] = []
        for start in range(0, len(texts), WAVE):
            asked = [
                {"step": step, "passage": text, "part": part, "parts": len(texts)}
                for part, text in enumerate(texts[start : start + WAVE], start + 1)
            ]
            summaries += yield from self._ask(asked)
        return summaries

    def _refine(self, chunks: list[Piece], levels: list[list[Summary]]) -> Asking:
        summary = Summary("")
        for part, chunk in enumerate(chunks, 1):
            step = "refine" if summary.text else "part" if len(chunks) > 1 else "whole"
            place = {"part": part, "parts": len(chunks)}
            (better,) = yield from self._ask([{"step": step, "passage": chunk.text, "summary": summary.text, **place}])
            summary = better if better.text else summary
            levels.append([summary])

    def _ask(self, asked: list[dict[str, Any]]) -> Asking:
        """A summary for each question, asked again where it is empty or a copy."""
        answers = yield [self._request(variables) for variables in asked]
        summaries = [_read(answer, variables) for answer, variables in zip(answers, asked, strict=True)]
        for _ in range(self.retries):
            flawed = [at for at, summary in enumerate(summaries) if summary.flaw]
            if not flawed:
                break
            answers = yield [self._request(asked[at], RETRY) for at in flawed]
            for at, answer in zip(flawed, answers, strict=True):
                again = _read(answer, asked[at])
                summaries[at] = again if again.text else summaries[at]
        return summaries

    def _request(self, variables: dict[str, Any], sampling: Sampling | None = None) -> Request:
        return Request({**self.variables(), **variables}, sampling=sampling, retry=sampling is not None)

    def _groups(self, summaries: list[Summary]) -> list[list[Summary]]:
        """Neighbouring summaries, two to ``fan_in`` that fit into a chunk; the last one may stay alone."""
        if not summaries:
            raise RowError("no summary", "the model's answers to all parts are empty")
        most = -(-len(summaries) // -(-len(summaries) // self.fan_in))  # as even as fan_in allows
        groups: list[list[Summary]] = [[]]
        filled = 0
        for summary, tokens in zip(summaries, self._count([one.text for one in summaries]), strict=True):
            if len(groups[-1]) == most or (len(groups[-1]) >= 2 and filled + tokens > self._limit):
                groups.append([])
                filled = 0
            groups[-1].append(summary)
            filled += tokens
        return groups

    def _keep_length(self, summary: Summary) -> Asking:
        most = int(TOO_WORDY * self.target_words)
        if count_words(summary.text) <= most:
            return summary
        answer = yield self._request({"step": "shorten", "passage": summary.text}, RETRY)
        shorter = _read(answer, {"passage": summary.text})
        best = shorter if 0 < count_words(shorter.text) < count_words(summary.text) else summary
        if count_words(best.text) <= most:
            return best
        return Summary(_cut(best.text, most), summary.flaw or f"cut to {most} words")

    def _columns(self, final: Summary, levels: list[list[Summary]], chunks: int, tokens: int) -> Columns:
        parts = [(number, one) for number, level in enumerate(levels[:-1], 1) for one in level]
        columns = {
            "summary": final.text or None,
            "flaw": final.flaw,
            "chunks": chunks,
            "levels": len(levels),
            "tokens": tokens,
            "flawed_parts": sum(one.flaw is not None for _, one in parts),
        }
        kept = {"parts": [{"level": number, "text": one.text} for number, one in parts]}
        return columns | (kept if self.intermediate else {})


def flaw_of(summary: str, source: str) -> str | None:
    """``empty``, ``copy`` (all of the source's words, or 20 words and more that stand in it one after another)."""
    said, given = words(summary), words(source)
    if not said:
        return "empty"
    stands = f" {' '.join(said)} " in f" {' '.join(given)} "
    return "copy" if stands and (len(said) >= COPIED_WORDS or len(said) == len(given)) else None


def _read(answer: Completion, variables: dict[str, Any]) -> Summary:
    text = _TITLE.sub("", answer.text).strip()
    if answer.finish_reason == "length":
        whole = "".join(sentences(text)[:-1]).strip()
        text = whole or text
    flaw = flaw_of(text, variables["passage"])
    return Summary("" if flaw == "empty" else text, flaw)


def _cut(text: str, most: int) -> str:
    """The first sentences, or words of the first one, that have at most so many words."""
    kept = ""
    for sentence in sentences(text):
        if count_words(kept + sentence) > most:
            break
        kept += sentence
    return kept.strip() or first_words(text, most)


def _context(setting: Setting) -> str:
    return f"the context of {setting.context} tokens, less the prompt and engine.max_tokens={setting.max_tokens},"
