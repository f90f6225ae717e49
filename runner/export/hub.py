"""A run as a data set on the Hugging Face hub: Parquet files and a card that says how they were made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from runner.data.conf import DatasetConf
from runner.export.annotate import model_name
from runner.export.select import Selection
from runner.types import UserError
from runner.words import first_line

HUB = "hub:"
FILE_BYTES = 500 << 20  # of Arrow data in one Parquet file
_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def push(target: str, selection: Selection, *, public: bool, overwrite: bool) -> int:
    """Upload to ``hub:owner/name``, private unless ``public``; how many rows.

    An existing repository is replaced only with ``overwrite``. UserError if the hub refuses, and if the repository
    is public already without ``public``.
    """
    name = target.removeprefix(HUB)
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{target}: write hub:OWNER/NAME")
    with tempfile.TemporaryDirectory(prefix="rowmill-") as temporary:
        folder = Path(temporary)
        rows, schema = _write(folder / "data", selection)
        (folder / "README.md").write_text(card(name, selection, rows, schema), encoding="utf-8")
        try:
            _upload(name, folder, public=public, overwrite=overwrite)
        except UserError:
            raise
        except Exception as error:  # the hub client raises many kinds; each means that nothing was uploaded
            raise UserError(f"{target} cannot be written: {first_line(error)}; `hf auth login` gives access") from error
    return rows


def _upload(name: str, folder: Path, *, public: bool, overwrite: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    if api.repo_exists(name, repo_type="dataset"):
        if not overwrite:
            raise UserError(f"hub:{name} exists: --overwrite replaces its data; nothing was uploaded")
        if not public and not api.dataset_info(name).private:
            raise UserError(
                f"hub:{name} is public: --public confirms that anyone may read the data; nothing was uploaded"
            )
    else:
        api.create_repo(name, repo_type="dataset", private=not public)
    api.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        commit_message="Upload with rowmill",
        delete_patterns=["data/*.parquet"],
    )


def _write(folder: Path, selection: Selection) -> tuple[int, pa.Schema]:
    import pyarrow.parquet as pq

    folder.mkdir()
    rows, schema, parts = 0, None, 0
    for tables in _parts(selection.gathered()):
        writer = None
        for table in tables:
            schema = table.schema
            writer = writer or pq.ParquetWriter(folder / f"part-{parts}", schema, compression="zstd")
            writer.write_table(table)
            rows += len(table)
        if writer is not None:
            writer.close()
            parts += 1
    for number in range(parts):
        (folder / f"part-{number}").rename(folder / f"train-{number:05d}-of-{parts:05d}.parquet")
    return rows, schema


def _parts(tables: Iterator[pa.Table]) -> Iterator[Iterator[pa.Table]]:
    """The tables in groups of some FILE_BYTES; each group has to be read before the next one."""
    ended = False

    def part() -> Iterator[pa.Table]:
        nonlocal ended
        size = 0
        for table in tables:
            yield table
            size += table.nbytes
            if size >= FILE_BYTES:
                return
        ended = True

    while not ended:
        yield part()


def card(name: str, selection: Selection, rows: int, schema: pa.Schema) -> str:
    """The data set card; it names files without their folders."""
    run = selection.run
    size = next((text for limit, text in _SIZES if rows < limit), "n>1M")
    front = {
        "pretty_name": name.partition("/")[2],
        "size_categories": [size],
        "tags": ["rowmill", "llm-generated"],
        "configs": [{"config_name": "default", "data_files": "data/*.parquet"}],
    }
    columns = "\n".join(f"| `{field.name}` | {field.type} |" for field in schema)
    facts = "\n".join(f"| {what} | {value} |" for what, value in _facts(selection, rows))
    prompt = run.config.get("prompt") or {}
    prompts = "".join(
        f"## {title}\n\n````\n{prompt[key]}\n````\n\n"
        for key, title in (("system", "System prompt"), ("user", "Prompt"))
        if prompt.get(key)
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name.partition('/')[2]}\n\n"
        f"{_made(prompt)}\n\n"
        f"| | |\n| --- | --- |\n{facts}\n\n{prompts}## Columns\n\n| Column | Type |\n| --- | --- |\n{columns}\n"
    )


def _made(prompt: Mapping[str, Any]) -> str:
    if not prompt:
        return "Measured with rowmill on a language model, which wrote none of it."
    return "Written by a language model, row by row, with rowmill. Nobody has checked the answers."


def _facts(selection: Selection, rows: int) -> Iterator[tuple[str, Any]]:
    run, where = selection.run, selection.where
    config, status = run.config, run.status
    data, engine = config["dataset"], config["engine"]
    yield "rows", f"{rows:,}" + (f" (where `{where}`)" if where else "")
    whole = "in the input" if run.is_row_by_row else "in the run"
    yield "of", f"{status['rows']:,} {whole}, {status['errors']:,} with an error"
    yield "job", f"`{run.identity['job'].get('_target_', '')}`"
    yield "model", f"`{model_name(run)}`" + (f" at {rev}" if (rev := config["model"].get("revision")) else "")
    if decided := str(selection.decision):
        yield "labels", f"decided anew: {decided}"
    yield "input", _input(DatasetConf.of(data))
    if "prompt" in config:
        left_out = [key for key in ("top_k", "min_p") if engine.get(key)]
        sampling = ("temperature", "top_p", *left_out, "max_tokens")
        yield "sampling", ", ".join(f"{key} {engine[key]}" for key in sampling)
        yield "seed", config["seed"]
        yield "date", config["date"]


def _input(data: DatasetConf) -> str:
    if data.target:
        return f"`{data.target}` (own reader)"
    return f"`{data.path if data.kind == 'hub' else Path(data.display_name).name}` ({data.kind})"
