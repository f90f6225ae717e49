"""The job ``spans``: mentions of some kinds in each row's text, with their exact places.

Modules:
copying  Copying from a text: rules that allow nothing else, and where in the text each copy stands.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.spans.copying import NOTHING, Mention, Pieces, Span, located, read, rules
from runner.data.cells import values
from runner.data.conf import check_column
from runner.data.gold import gold_spans
from runner.keys import check_keys, key
from runner.text.labels import read_labels
from runner.text.vocabulary import clean
from runner.types import Columns, Completion, Example, Request, Row, RowError, Setting, Steps, UserError

if TYPE_CHECKING:
    from runner.data.source import DataSource
    from runner.results.run import Run
    from runner.text.prompter import Prompter

__all__ = ["Spans"]

CHECKED_ROWS = 10_000  # of the gold column, before weights load
_SPAN = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()), ("kind", pa.string())])


@dataclass
class Spans:
    r"""Find the mentions of some kinds in a text, such as names of people and places, with their exact places.

        rowmill run job=spans 'job.kinds=[person,place]' dataset=csv dataset.path=mail.csv run_name=found

    The model writes one line for each mention, ``place: New York``, and cannot write anything that does not stand in
    the row's text: ``text[start:end]`` is always the mention. Offsets count characters as Python does. All white space
    is a single space to the model, so that a mention may go on over the end of a line.

    Kinds are names or, in words that help the model, ``{name: ..., surface: ..., description: ...}``; in YAML, names
    may also map to descriptions. ``job.column`` names the column with the text. The template finds the text in
    ``passage`` and the kinds in ``kinds``; the prompt ``spans`` is used unless you write another, which must ask for
    the same lines, in the order of the text, and for ``none`` where there is nothing.

    Mentions are taken to come in the order of the text. Where the same words stand in it several times, they mean the
    first place behind the mention before, or one inside of that mention: mentions may overlap or lie in one another. No
    place is given twice for one kind. Mentions begin and end with whole words, single characters in scripts without
    spaces; ``job.whole_words=false`` lets them begin and end anywhere, as in Arabic and Hebrew, where one word may be
    several.

    If a column holds the right spans, name it in ``dataset.gold``: lists of ``{start, end, kind}`` (``label`` and
    ``type`` will do for ``kind``), also as JSON. The run then ends with precision, recall and F1 of exact and of
    partial matches, by kind as well, with 95% bootstrap intervals. ``rowmill evaluate`` computes the same later,
    ``rowmill export --format label-studio`` and ``argilla`` write spans for people to check. Small models need
    examples: ``rowmill help examples``.
    """

    kinds: Any = None
    column: str = "text"
    whole_words: bool = True
    most: int = key(50, least=1)

    def __post_init__(self) -> None:
        check_keys(self, "job.")
        self.choices = read_labels(self.kinds, "job.kinds", 1)
        self._names = {choice.surface: choice.name for choice in self.choices}
        for surface in self._names:
            if surface != " ".join(surface.split()) or ": " in surface or surface.endswith(":"):
                raise UserError("job.kinds", f"a kind's text can have no line break or colon; it is {surface!r}")
        self._end = ""
        self._max_tokens = 256

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the row's columns."""
        return {"kinds": [vars(choice) for choice in self.choices], "passage": ""}

    def open(self, setting: Setting) -> None:
        """Learn how long answers may be."""
        self._max_tokens = setting.max_tokens

    def check_source(self, source: DataSource, prompter: Prompter) -> None:
        """Learn how raw answers end; refuse a missing column, and a gold one without spans of these kinds."""
        check_column("job.column", self.column, source.column_names)
        self._end = "" if prompter.conf.chat else prompter.conf.separator
        if source.conf.gold:
            _check_gold(source, source.conf.gold, self.column, list(self._names.values()))

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            spans: The mentions in the order of the text, each with ``start``, ``end``, ``text`` and ``kind``.
        """
        return pa.schema([("spans", pa.list_(_SPAN))])

    def steps(self, row: Row) -> Steps:
        """One answer, asked for again with twice the room where it was cut off."""
        text = _text(row, self.column)
        pieces = Pieces(text, self.whole_words)
        if not pieces.words:
            return {"spans": []}
        grammar = rules(pieces, list(self._names), self.most, self._end)
        request = Request({**self.variables(), "passage": row[self.column]}, grammar=grammar)
        mentions = yield from self._ask(request, pieces)
        spans, _ = located(pieces, mentions)
        return {"spans": [self._column(text, span) for span in spans]}

    def example(self, row: Row, gold: Any) -> Example:
        """A row with its right spans, as the model would write them."""
        text = _text(row, self.column)
        spans = gold_spans(gold, text) or []
        surfaces = {name: surface for surface, name in self._names.items()}
        if unknown := [one.kind for one in spans if one.kind not in surfaces]:
            raise RowError("unknown kind", unknown[0])
        lines = [f"{surfaces[one.kind]}: {' '.join(text[one.start : one.end].split())}" for one in spans]
        kinds = ", ".join(sorted({one.kind for one in spans}))
        return Example("\n".join(lines) or NOTHING, {"passage": row[self.column]}, kinds)

    def figures(self, run: Run, source: DataSource) -> dict[str, Any]:
        """How right the spans are, where there is gold."""
        if not source.conf.gold:
            return {}
        from runner.results.evaluate import evaluate_run

        return {"evaluation": evaluate_run(run)}

    def _ask(self, request: Request, pieces: Pieces) -> Generator[Request, Completion, list[Mention]]:
        answer = yield request
        mentions = self._read(answer)
        if _is_cut(answer, pieces, mentions):
            most = 2 * (self._max_tokens)
            answer = yield replace(request, max_tokens=most, retry=True)
            mentions = self._read(answer)
            if _is_cut(answer, pieces, mentions):
                raise RowError("cut off", f"no complete answer in {most} tokens (engine.max_tokens)")
        return mentions

    def _read(self, answer: Completion) -> list[Mention]:
        lines = answer.text.split("\n")
        return read(lines[:-1] if answer.finish_reason == "length" else lines, self._names)

    def _column(self, text: str, span: Span) -> Columns:
        return {
            "start": span.start,
            "end": span.end,
            "text": text[span.start : span.end],
            "kind": self._names[span.kind],
        }


def _check_gold(source: DataSource, gold: str, column: str, kinds: list[str]) -> None:
    table = source.table(0, CHECKED_ROWS, list(dict.fromkeys([gold, column])))
    for row, (value, text) in enumerate(zip(values(gold, table[gold]), values(column, table[column]), strict=True)):
        try:
            found = gold_spans(value, text if isinstance(text, str) else None)
        except ValueError as problem:
            raise UserError("dataset.gold", f"row {row:,}: {problem}", value=gold) from problem
        if unknown := [one.kind for one in found or () if one.kind not in kinds]:
            raise UserError(
                "dataset.gold", f"the kind {unknown[0]!r} is not among job.kinds ({', '.join(kinds)})", value=gold
            )


def _text(row: Row, column: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        raise RowError("no text", f"column {column} is {'null' if text is None else f'no text: {text!r:.80}'}")
    return clean(text)


def _is_cut(answer: Completion, pieces: Pieces, mentions: Iterable[Mention]) -> bool:
    """Whether mentions may be missing; not where it went round in a circle, over places it had found before."""
    return answer.finish_reason == "length" and not located(pieces, mentions)[1]
