"""Arrow as it lies on the disk: its files, folders written by ``save_to_disk``, and data sets of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.layout import check_layout
from runner.data.load import hash_files, hash_json, local_paths, stamps
from runner.data.readers import Loaded, Stamps
from runner.data.readers.table import aligned, common_schema, map_arrow, refuse_other_formats, refuse_twice
from runner.disk import file_sha256
from runner.models.hub import reachable
from runner.types import UserError
from runner.words import did_you_mean, first_line

if TYPE_CHECKING:
    import datasets
    import numpy as np


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """Arrow files, or a folder written by ``save_to_disk`` (or by a run of ours)."""
    paths = local_paths(path, "arrow", offline, folders=True)
    mapped = stamps(paths)
    if paths[0].is_dir():
        return _read_saved(paths[0], conf.split, mapped)
    tables = []
    for file in paths:
        refuse_other_formats(file, "arrow")
        tables.append(map_arrow(file))
        refuse_twice(file, tables[-1].column_names)
        if len(paths) > 1:  # whose cells are converted where types differ
            check_layout(tables[-1], str(file))
    return Loaded(_concatenated(paths, tables), hash_files(paths), mapped=mapped)


def _read_saved(path: Path, split: str, mapped: Stamps) -> Loaded:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError("dataset.path", f"is not a folder written by save_to_disk: {error}", file=path) from None
    except Exception as error:  # of the JSON files beside the rows, in which anything may stand
        raise UserError(
            "dataset.path",
            f"cannot be read by datasets {datasets.__version__}: {first_line(error) or type(error).__name__}; "
            "it is damaged, or was written by a newer version",
            file=path,
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise UserError("dataset.split", f"no split {split!r}{did_you_mean(split, list(loaded))}")
        loaded = loaded[split]
    files = [file["filename"] for file in loaded.cache_files]
    contents = hash_json(*(file_sha256(Path(file)) for file in files))
    return Loaded(_arrow_of(loaded), contents, _order_of(loaded), mapped)


def _concatenated(paths: list[Path], tables: list[pa.Table]) -> pa.Table:
    by_path = dict(zip(paths, tables, strict=True))
    schema = common_schema(paths, [table.schema for table in tables], lambda path, name: by_path[path][name].chunks)
    batches = (aligned(batch, schema) for table in tables for batch in table.to_batches())
    return tables[0] if len(tables) == 1 else pa.Table.from_batches(batches, schema)


def read_hub(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """A data set of the hub, from its cache where the hub cannot be reached."""
    import datasets

    cached = not reachable(str(conf.path), offline)
    folder = Path(path).expanduser()
    where = _cache_of(folder) if folder.is_dir() else None
    try:
        with _offline(cached):
            loaded = datasets.load_dataset(
                conf.path, name=conf.subset, split=conf.split, revision=conf.revision, cache_dir=where
            )
    except Exception as error:  # the hub client raises many kinds; each means that the data set cannot be loaded
        what = f"{conf.path} (subset {conf.subset}, split {conf.split}, revision {conf.revision})"
        hint = "run once with a network and without offline" if offline else "check the name and the network"
        place = "cache" if cached else "hub"
        raise UserError("dataset.path", f"cannot load {what} from the {place}: {first_line(error)}; {hint}") from error
    content = hash_files([Path(file["filename"]) for file in loaded.cache_files]) if where else loaded._fingerprint
    identity = hash_json(conf.path, conf.subset, conf.split, conf.revision, content)
    return Loaded(_arrow_of(loaded), identity, _order_of(loaded))


@contextmanager
def _offline(really: bool) -> Iterator[None]:
    """Keep the clients from asking the hub meanwhile; later runs of this process may ask it again."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if really:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _cache_of(folder: Path) -> str:
    """Where datasets keeps a copy of a folder on this machine as it is now: alone, it takes a changed one for known."""
    import datasets

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / hash_json(str(folder.resolve()), *found))


def _arrow_of(loaded: datasets.Dataset) -> pa.Table:
    table = loaded.data.table
    return table.replace_schema_metadata(loaded.features.arrow_schema.metadata)


def _order_of(loaded: datasets.Dataset) -> np.ndarray | None:
    return None if loaded._indices is None else loaded._indices.column(0).to_numpy().astype("int64")
