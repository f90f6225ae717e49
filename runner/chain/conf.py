"""The group ``cascade`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from runner.keys import key


@dataclass
class CascadeConf:
    """How a cascade chooses which rows the second model is asked about.

    Attributes:
        agree: The share of all rows in which the cascade is to have the label that the second model gives. The
            threshold of the first model's confidence follows from a random sample that both label. null: ``where`` of
            the second stage says which rows it is asked about.
        rows: The size of that sample. The larger it is, the fewer other rows have to be asked again.
    """

    agree: float | None = key(None, least=0.5, most=0.999)
    rows: int = key(300, least=1)
