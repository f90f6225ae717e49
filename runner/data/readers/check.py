"""The keys of the group ``dataset`` checked before anything is read."""

from __future__ import annotations

from runner.data.conf import DatasetConf
from runner.data.readers import READERS
from runner.data.readers.raw.encodings import is_utf8
from runner.data.readers.table import TEXTS, check_encoding
from runner.data.readers.text import DOCUMENTS
from runner.types import UserError
from runner.words import did_you_mean


def check_conf(conf: DatasetConf) -> None:
    """Raise UserError for a value that no data set has, or that does not apply to this kind."""
    if not conf.target:
        _check_kind(conf)
    if not isinstance(conf.classes, list):
        raise UserError("dataset.classes", "it must be a list, such as [ham,spam]", value=conf.classes)
    for name in conf.classes:
        if not isinstance(name, str) and (not isinstance(name, int) or isinstance(name, bool)):
            raise UserError(
                "dataset.classes", f"YAML reads a name as the {type(name).__name__} {name}; put it in quotes"
            )
    if conf.limit is not None and conf.limit < 1:
        raise UserError("dataset.limit", "it must be at least 1; null means all rows", value=conf.limit)
    if conf.shuffle_seed is not None and not 0 <= conf.shuffle_seed < 2**32:
        raise UserError("dataset.shuffle_seed", f"it must be from 0 to {2**32 - 1}", value=conf.shuffle_seed)


def _check_kind(conf: DatasetConf) -> None:
    if conf.kind not in READERS:
        raise UserError(
            "dataset.kind", f"there is no such reader{did_you_mean(conf.kind, list(READERS))}", value=conf.kind
        )
    if not conf.path and READERS[conf.kind].needs_path:
        raise UserError("dataset.path", f"is not set: it names the {conf.kind} data set to read")
    check_encoding(conf.encoding)
    if not is_utf8(conf.encoding) and conf.kind not in (*TEXTS, "documents"):
        raise UserError("dataset.encoding", f"it applies to texts only, not to {conf.kind}", value=conf.encoding)
    if conf.document is not None and conf.kind != "text":
        raise UserError("dataset.document", f"it applies to dataset=text only, not to {conf.kind}", value=conf.document)
    if conf.document is not None and conf.document not in DOCUMENTS:
        hint = did_you_mean(conf.document, list(DOCUMENTS))
        raise UserError("dataset.document", f"there is no such kind of document{hint}", value=conf.document)
    if conf.table is not None and not READERS[conf.kind].tables:
        raise UserError(
            "dataset.table", f"it applies to sqlite, excel and run only, not to {conf.kind}", value=conf.table
        )
