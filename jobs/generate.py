"""The job ``generate``: one free completion a row, or several."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from runner.types import Request, Row, RowError, Steps, UserError


@dataclass
class Generate:
    """Generate text. With ``samples`` over 1, ``text`` is a list of that many completions, each drawn on its own."""

    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"job.samples={self.samples}: it must be at least 1")

    def schema(self) -> pa.Schema:
        """``text``: a string, or a list of strings."""
        return pa.schema([("text", pa.string() if self.samples == 1 else pa.list_(pa.string()))])

    def steps(self, row: Row) -> Steps:
        """``samples`` independent requests."""
        answers = yield [Request() for _ in range(self.samples)]
        failed = [answer.error for answer in answers if answer.error]
        if failed:
            raise RowError(failed[0])
        texts = [answer.text for answer in answers]
        return {"text": texts[0] if self.samples == 1 else texts}
