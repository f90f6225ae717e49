"""The job ``generate``: one free completion a row, or several."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from runner.types import Request, Row, Steps, UserError


@dataclass
class Generate:
    """Generate text. With ``samples`` over 1, ``text`` is a list of that many completions, each drawn on its own.

    At temperature 0 the samples are equal, and computed once. A row of which one sample fails is in error.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or isinstance(self.samples, bool) or self.samples < 1:
            raise UserError(f"job.samples={self.samples}: it must be a whole number, at least 1")

    def schema(self) -> pa.Schema:
        """``text``: a string, or a list of strings."""
        return pa.schema([("text", pa.string() if self.samples == 1 else pa.list_(pa.string()))])

    def steps(self, row: Row) -> Steps:
        """``samples`` independent requests."""
        answers = yield [Request() for _ in range(self.samples)]
        texts = [answer.text for answer in answers]
        return {"text": texts[0] if self.samples == 1 else texts}
