"""The job ``generate``: one free completion a row, or several."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from runner.keys import check_keys, key
from runner.text.structure import Structure
from runner.types import Columns, Request, Row, Steps


@dataclass
class Generate:
    r"""Generate text, or JSON that follows a schema.

        rowmill run job=generate dataset=csv dataset.path=mail.csv 'output.choices=[urgent, "not urgent"]' \
            'prompt.user=Is this mail urgent? Mail: {{ text }}' run_name=urgency

    ``output.schema`` (a JSON Schema), ``output.regex`` or ``output.choices`` determine what every answer looks like; a
    prompt's own file may contain the same under ``output:``. Unless the schema says otherwise, objects have only the
    properties that it names, and integers fit into 53 bits. An answer cut off at ``engine.max_tokens`` is requested
    once more with twice the room; after that the row is an error. Models that think first (gpt-oss, ``<think>`` tags)
    do so freely.

    With ``job.samples`` above 1 every column is a list with one entry per completion; set ``engine.temperature``, since
    at 0 all of them are equal. If one sample fails, the row is an error.
    """

    samples: int = key(1, least=1)
    structure: Structure | None = field(default=None, init=False)  # of an answer
    raw: bool = field(default=False, init=False)  # whether the text is kept beside the columns made of it

    def __post_init__(self) -> None:
        check_keys(self, "job.")

    def take_structure(self, structure: Structure | None, raw: bool) -> None:
        """Let answers look like this, and their columns follow from it."""
        self.structure, self.raw = structure, raw

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            text: The completion; absent with a schema unless ``output.raw=true``.
            the schema's properties: With ``output.schema``: a typed column for each. Objects become structs, arrays
                lists, enums dictionary-encoded texts, and the formats date, time and date-time what they say, in UTC.
            additionalProperties: The properties that the schema allows beside those that it names, as JSON text; absent
                where it allows none, and beside them in each struct.
        """
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
