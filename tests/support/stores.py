"""A small run directory, opened as a run opens it."""

import hashlib

import datasets
import pyarrow as pa

from runner.checkpoint.records import Output, Usage
from runner.checkpoint.store import Store

JOB = pa.schema([("label", pa.string()), ("score", pa.float32()), ("count", pa.int32())])
KEEP = pa.schema([("id", pa.int64()), ("text", pa.string())])
SEED = -(2**63) + 7
USAGE = Usage(10, 8, 2, "stop", 1, SEED)


def kept(start, stop):
    return pa.table({"text": [f"text {i}" for i in range(start, stop)], "id": pa.array(range(start, stop), pa.int64())})


def open_store(path, identity=None, *, rows=10, shard_rows=4, schema=JOB, keep=KEEP, kept=kept, **more):
    identity = {"model": "tiny"} if identity is None else identity
    return Store.open(path, identity, rows=rows, shard_rows=shard_rows, schema=schema, keep=keep, kept=kept, **more)


def output(row, **columns):
    return Output(row, {"label": f"label {row}", "score": row / 7, "count": row, **columns}, None, USAGE)


def shard_bytes(path):
    return {p.name: p.read_bytes() for p in sorted(path.glob("data-*"))}


def finish_all(path, **more):
    with open_store(path, **more) as store:
        for span in list(store.unfinished()):
            store.finish([output(row) for row in span])


def load(path):
    return datasets.load_from_disk(str(path))


def digest(text):
    return hashlib.sha256(text.encode()).digest()
