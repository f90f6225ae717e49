"""The group ``dataset`` of the configuration: which rows to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class DatasetConf:
    """Which rows to read. ``path``: a file, a pattern such as ``data/*.jsonl.gz`` (several files, in the order of their
    names), ``-`` (what is piped in), a folder (arrow, documents), a hub name (hub) or a ``wheel:`` address of a file.

    Files may be compressed with gzip, zstd, bz2 or lz4. ``table`` names a table or view of an SQLite database.
    ``subset``, ``split`` and ``revision`` apply to hub data sets (``split`` also to a saved dict of splits).
    ``gold`` names the column with the right answers; ``classes[i]`` names its value i where it holds numbers.
    ``delimiter`` (default: comma, or tab for .tsv) and ``encoding`` apply to CSV (``encoding`` to documents,
    too). ``where``: see ``runner.where``.
    """

    kind: str = "csv"
    path: str | None = None
    table: str | None = None
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    where: str | None = None
    shuffle_seed: int | None = None
    limit: int | None = None
    gold: str | None = None
    classes: list[Any] = field(default_factory=list)  # texts; Any, so that what YAML took for something else is seen
    delimiter: str | None = None
    encoding: str = "utf-8"

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> DatasetConf:
        """From plain values, such as those that a run has recorded; keys of another version are left out."""
        known = {key.name for key in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in known})

    def changed(self, **values: Any) -> DatasetConf:
        """A copy with some keys set to other values."""
        return self.of(vars(self) | values)
