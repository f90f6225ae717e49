"""Whether a question is asked about a row: a filter over the answers to the questions before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from runner.data.where import compared, parse_where
from runner.text.questions.known import check_known, of_questions
from runner.text.questions.question import Question
from runner.types import Columns, UserError


class Condition:
    """``question.where`` over ``columns``, those of the questions ``before`` it. UserError for what cannot hold."""

    def __init__(self, question: Question, before: list[Question], columns: Mapping[str, pa.DataType]) -> None:
        key, where = f"{question.key}.where", question.where or ""
        try:
            parts = _parts(columns)
            looked_at = compared(where, list(parts))
            self._mask = parse_where(where, list(parts), {})
            self._parts = {name: parts[name] for name, *_ in looked_at}
            self._schema = pa.schema([(name, kind) for name, (_, kind) in self._parts.items()])
            self._holds((None,) * len(self._parts))  # a literal that does not fit its column is told now
            check_known(looked_at, of_questions(before))
        except UserError as error:
            raise UserError(key, error.text.replace("no column", "no earlier question")) from None

    @property
    def columns(self) -> set[str]:
        """Those that it looks at, or at a part of."""
        return {path[0] for path, _ in self._parts.values()}

    def holds(self, found: Columns) -> bool:
        """Whether the question is to be asked, given the answers so far; a question not asked has none."""
        return self._holds(tuple(_hashable(_at(path, found)) for path, _ in self._parts.values()))

    @lru_cache(maxsize=4096)  # noqa: B019 a run has few conditions, which live as long as it
    def _holds(self, cells: tuple[Any, ...]) -> bool:
        arrays = [pa.array([_cell(cell)], field.type) for cell, field in zip(cells, self._schema, strict=True)]
        return bool(self._mask(pa.Table.from_arrays(arrays, schema=self._schema))[0].as_py())


def _parts(columns: Mapping[str, pa.DataType]) -> dict[str, tuple[tuple[str, ...], pa.DataType]]:
    """The columns, and the parts of those that hold objects, as ``column.part``: where each lies, and its type."""
    found: dict[str, tuple[tuple[str, ...], pa.DataType]] = {name: ((name,), kind) for name, kind in columns.items()}
    left = list(found.values())
    for path, kind in left:
        if pa.types.is_struct(kind):
            inner = [((*path, field.name), field.type) for field in kind]
            left += inner
            found = {".".join(one[0]): one for one in inner} | found
    return found


def _at(path: Sequence[str], found: Any) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _hashable(cell: Any) -> Any:
    """Of an object only that there is one: a filter compares its parts."""
    return tuple(map(_hashable, cell)) if isinstance(cell, list) else frozenset() if isinstance(cell, dict) else cell


def _cell(cell: Any) -> Any:
    return list(map(_cell, cell)) if isinstance(cell, tuple) else {} if isinstance(cell, frozenset) else cell
