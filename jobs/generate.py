"""The job ``generate``: one free completion a row, or several."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from runner.structure import Structure
from runner.types import Columns, Request, Row, Steps, UserError


@dataclass
class Generate:
    """Generate text. With ``samples`` over 1, ``text`` is a list of that many completions, each drawn on its own.

    At temperature 0 the samples are equal, and computed once. A row of which one sample fails is in error.
    """

    samples: int = 1
    structure: Structure | None = field(default=None, init=False)  # of an answer, set by the run
    raw: bool = field(default=False, init=False)  # whether the text is kept beside the columns made of it

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or isinstance(self.samples, bool) or self.samples < 1:
            raise UserError(f"job.samples={self.samples}: it must be a whole number, at least 1")

    def schema(self) -> pa.Schema:
        """``text``, or a column for each property of ``output.schema``; lists of them with ``samples`` over 1."""
        fields = self.structure.fields() if self.structure else []
        if not fields or (self.raw and "text" not in [field.name for field in fields]):
            fields = [*fields, pa.field("text", pa.string())]
        return pa.schema([(f.name, f.type if self.samples == 1 else pa.list_(f.type)) for f in fields])

    def steps(self, row: Row) -> Steps:
        """``samples`` independent requests."""
        answers = yield [Request() for _ in range(self.samples)]
        found = [self._columns(answer.text) for answer in answers]
        return found[0] if self.samples == 1 else {name: [one[name] for one in found] for name in self.schema().names}

    def _columns(self, text: str) -> Columns:
        columns = self.structure.values(text) if self.structure else {"text": text}
        return {"text": text, **columns} if self.raw else columns
