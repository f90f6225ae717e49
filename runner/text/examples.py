r"""Few-shot examples: which rows with right answers a row's prompt shows before its own question.

``prompt.examples`` in a prompt's file are the same in every prompt. ``prompt.examples_from`` takes them from a data set
with right answers, by default the run's own and its column ``dataset.gold``:

    rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv dataset.gold=kind \
        'prompt.user=Ham or spam? {{ text }}' prompt.examples_from.select=balanced prompt.examples_from.k=2 \
        run_name=shown

``select=random`` draws the same examples for all rows, and so does ``select=balanced``, with as many of each answer:
prompts share them as one prefix, which is computed once. ``select=nearest`` finds for each row, by BM25, the examples
with the most words in common, the nearest last. Prompts then share little, and all of their tokens are computed.
``groups=20`` is between the two: 20 rows are drawn, and each row is shown the examples of the nearest of them, so that
there are 20 prefixes. ``rowmill preview`` shows what each costs.

A row is never shown to itself: neither the row nor another one with the same text, whatever its spaces and case, is
among its examples. The choice depends on the seed, the examples' data and the row, but not on other rows or on
``dataset.limit``. The job decides what answers look like: the label, the lines of spans, otherwise the text or JSON of
the column. With several questions, those that have a column ``gold`` are asked about every example; the examples stand
before the row's text, which the questions still share.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.keys import key
from runner.text.scripts import words
from runner.types import Row

if TYPE_CHECKING:
    import numpy as np

SELECTS = ("nearest", "random", "balanced")


@dataclass
class ExamplesConf:
    """Few-shot examples from a data set with right answers; see ``rowmill help examples``.

    Attributes:
        select: nearest by BM25, random, or balanced: as many of each answer. null: none.
        k: How many examples a prompt shows.
        groups: With nearest: so many different sets of examples, each shared by the rows that are nearest to it. null:
            each row has its own.
        path: A file or other data set, as in ``dataset.path``. null: the run's own rows.
        kind: Its reader, as in ``dataset.kind``. null: by the file's name.
        table: The table of an SQLite database.
        split: The split of a hub data set or of a saved dictionary of splits.
        subset: The subset of a hub data set.
        where: A filter, as in ``dataset.where``.
        limit: Choose among so many of its rows, the first ones.
        gold: The column with the right answers. null: ``dataset.gold``.
    """

    select: str | None = key(None, among=SELECTS)
    k: int = key(4, least=1)
    groups: int | None = key(None, least=1)
    path: str | None = None
    kind: str | None = None
    table: str | None = None
    split: str = "train"
    subset: str | None = None
    where: str | None = None
    limit: int = key(10_000, least=1)
    gold: str | None = None


class Shot(NamedTuple):
    """An example: its row, the job's ``variables`` for it, and its answer. ``group``: what is balanced."""

    row: Mapping[str, Any]
    variables: Mapping[str, Any]
    answer: str | Callable[[Mapping[str, Any]], str] | Sequence[tuple[Mapping[str, Any], str]]
    group: str

    def turns(self, asked: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
        """What is shown to a request with the variables ``asked``: those of a question, and the answer."""
        columns = {name: cell for name, cell in self.row.items() if name not in asked}
        if isinstance(self.answer, str):
            several: Sequence[tuple[Mapping[str, Any], str]] = [({}, self.answer)]
        else:
            several = [({}, self.answer(asked))] if callable(self.answer) else self.answer
        for own, answer in several:
            yield {**columns, **self.variables, **own}, answer


@dataclass(frozen=True)
class Examples:
    """The examples among which a row's are chosen. ``shown``: the variables whose texts are compared.

    ``columns``: those of the data set, by which a row of it is known again.
    """

    shots: Sequence[Shot]
    conf: ExamplesConf
    seed: int
    shown: Sequence[str]
    columns: Sequence[str]
    fingerprint: str = ""

    def choose(self, variables: Mapping[str, Any], row: Row) -> list[tuple[int, Shot]]:
        """A row's examples, with their numbers, in the order in which they are shown; fewer where there are too few.

        ``variables``: what the template sees of the row.
        """
        text = shown_text(variables, self.shown)
        hidden = {self._of_text.get(plain_text(text)), self._of_row.get(_identity(row, self.columns))}
        if self.conf.select == "nearest":
            found = list(islice((at for at in self._ranking(text) if at not in hidden), self.conf.k))[::-1]
        else:
            found = self._same_for_all(hidden)
        return [(at, self.shots[at]) for at in found]

    def _same_for_all(self, hidden: Collection[int | None]) -> list[int]:
        """The first ones drawn; one that is the row itself gives its place to another, if there is one of its group."""
        found, rest = self._drawn[: self.conf.k], [at for at in self._drawn[self.conf.k :] if at not in hidden]
        for place, at in enumerate(found):
            if at in hidden and rest:
                alike = (one for one in rest if self.shots[one].group == self.shots[at].group)
                found[place] = next(alike, rest[0]) if self.conf.select == "balanced" else rest[0]
                rest.remove(found[place])
        return [at for at in found if at not in hidden]

    def _ranking(self, text: str) -> Iterable[int]:
        if self.conf.groups is None:
            return self._index.ranking(text)
        return self._of_anchor[next(iter(self._anchors.ranking(text)))]

    @cached_property
    def _texts(self) -> list[str]:
        return [shown_text({**shot.row, **shot.variables}, self.shown) for shot in self.shots]

    @cached_property
    def _of_text(self) -> dict[str, int]:
        return {plain_text(text): at for at, text in enumerate(self._texts)}

    @cached_property
    def _of_row(self) -> dict[str | None, int]:
        return {_identity(shot.row, self.columns): at for at, shot in enumerate(self.shots)}

    @cached_property
    def _drawn(self) -> list[int]:
        """All examples in the order in which they are taken."""
        drawn = random.Random(f"{self.seed}/examples").sample(range(len(self.shots)), len(self.shots))
        if self.conf.select == "random":
            return drawn
        by_group: dict[str, list[int]] = defaultdict(list)
        for at in drawn:
            by_group[self.shots[at].group].append(at)
        return [at for turn in zip_longest(*by_group.values()) for at in turn if at is not None]

    @cached_property
    def _index(self) -> Index:
        return Index(self._texts)

    @cached_property
    def _anchors(self) -> Index:
        return Index([self._texts[at] for at in self._anchor_rows])

    @cached_property
    def _anchor_rows(self) -> list[int]:
        count = min(self.conf.groups or 1, len(self.shots))
        return sorted(random.Random(f"{self.seed}/groups").sample(range(len(self.shots)), count))

    @cached_property
    def _of_anchor(self) -> list[list[int]]:
        """For each anchor the examples nearest to it, and those that stand in where a row is among them."""
        most = self.conf.k + 2  # a row may have the text of one example, and be another
        return [list(islice(self._index.ranking(self._texts[at]), most)) for at in self._anchor_rows]


class Index:
    """Texts that are ranked by how near they are to another one, by BM25 over their words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = [words(text) for text in texts]
        self._has_words = any(self._words)

    @cached_property
    def _model(self) -> Any:
        from bm25s import BM25

        model = BM25()
        model.index(self._words, show_progress=False)
        return model

    def ranking(self, text: str) -> Iterator[int]:
        """The numbers of the texts, the nearest first; of equally near ones the first."""
        asked = words(text)
        if not asked or not self._has_words:
            return iter(range(len(self._words)))
        scores: np.ndarray = self._model.get_scores(asked)
        return iter((-scores).argsort(kind="stable").tolist())


def shown_text(variables: Mapping[str, Any], names: Iterable[str]) -> str:
    """The texts that are compared, as one."""
    return "\n".join(str(variables[name]) for name in names if variables.get(name) is not None)


def plain_text(text: str) -> str:
    """What texts are the same by."""
    return " ".join(text.casefold().split())


def _identity(row: Mapping[str, Any], columns: Collection[str]) -> str | None:
    """A row's cells as one text; None for a row of another data set."""
    return repr([row[name] for name in columns]) if all(name in row for name in columns) else None
