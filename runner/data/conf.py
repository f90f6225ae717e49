"""The group ``dataset`` of the configuration: which rows to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from runner import keys
from runner.types import UserError
from runner.words import did_you_mean

STDIN = "-"  # the path that means the standard input


def check_column(key: str, name: str, columns: list[str]) -> None:
    """UserError for ``key``, which names a column, if none of a data set's ``columns`` has the name."""
    if name not in columns:
        raise UserError(key, f"no column {name!r}{did_you_mean(name, columns)}")


@dataclass
class DatasetConf:
    """Which rows to read.

    ``dataset._target_`` names a reader of your own, ``module.Class``; the fields of the class are then keys, too.

    Attributes:
        kind: The reader; ``dataset=NAME`` sets it.
        path: A file, a pattern such as ``data/*.jsonl.gz`` (read in the order of the names), ``-`` for what is piped
            in, a folder (arrow, documents), the name of a data set on the hub, or a ``wheel:`` address of a file.
        table: The table or view of a database, the sheet of a workbook; with ``dataset=run`` a stage of a chain.
        split: The split of a hub data set or of a saved dictionary of splits.
        subset: The subset of a hub data set.
        revision: The commit, tag or branch of a hub data set.
        where: A filter over columns, such as ``stars > 3 and text is not null``; see ``rowmill help dataset``.
        shuffle_seed: Shuffle the rows with this seed. null: in the order they are stored.
        limit: Read only this many rows, after filtering and shuffling. null: all. With a larger one, a run goes on.
        key: The column that identifies a row, such as an id. With ``resume=extend`` the order may then differ, too, and
            rows whose contents changed are computed again; see ``rowmill help resume``. A row's draws depend on its
            key instead of its place.
        gold: The column with the right answers.
        classes: Names for the values 0, 1, 2, ... of a gold column of numbers.
        delimiter: What separates the cells of a CSV file. null: a comma, or a tab for .tsv.
        document: What a row of a text file is. null: a line without its end. ``lines``: a line with its end (a blank
            one is empty), ``blank_lines``: what stands between blank lines, ``files``: a file as it is, ``wikitext``:
            an article with its heading, ``= Title =``. But for ``files``, lines end with a line feed alone.
        encoding: The character encoding of CSV, JSON and text files, and of documents.
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
    key: str | None = keys.key(None, later=True)
    gold: str | None = None
    classes: list[Any] = field(default_factory=list)  # texts; Any, to see what YAML took for something else
    delimiter: str | None = None
    document: str | None = keys.key(None, later=True)
    encoding: str = "utf-8"

    @staticmethod
    def identifying(plain: Mapping[str, Any]) -> dict[str, Any]:
        """What tells data sets apart beside their contents."""
        return {name: value for name, value in keys.said(DatasetConf, plain).items() if name != "path"}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> DatasetConf:
        """From plain values, such as a run records; keys of other versions are left out."""
        known = {key.name for key in fields(cls)}
        conf = cls(**{name: value for name, value in plain.items() if name in known})
        if "_target_" in plain:
            vars(conf).update({name: value for name, value in plain.items() if name not in known})
        return conf

    @property
    def own(self) -> dict[str, Any]:
        """``_target_`` and the keys of the class that it names; empty where rowmill's own readers read."""
        known = {key.name for key in fields(self)}
        return {name: value for name, value in vars(self).items() if name not in known}

    @property
    def target(self) -> str | None:
        """The user's own reader, as ``module.Class``."""
        return self.own.get("_target_")

    @property
    def display_name(self) -> str:
        """What is read, for people: the class or the path, without the hash of a ``wheel:`` address."""
        if self.path == STDIN and not self.target:
            return "the standard input"
        return self.target or re.sub(r"#sha256=.*", "", str(self.path))

    def changed(self, **values: Any) -> DatasetConf:
        """A copy with some keys set to other values."""
        return self.of(vars(self) | values)
