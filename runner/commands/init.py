"""``rowmill init``: a configuration to start from, proposed by what a data file holds."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from runner.commands import EXIT_OK

HELP = "look at a data file and write a commented configuration to start from: data set, job, prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the data: .csv .jsonl .parquet .txt .db, or a folder")
    parser.add_argument("--config-dir", metavar="DIR", default="my_conf", help="where to write (my_conf)")
    parser.add_argument("--name", metavar="NAME", help="what to call it (the file's name)")
    parser.add_argument("--table", metavar="TABLE", help="the table of an SQLite file")


def main(options: argparse.Namespace) -> int:
    from runner.starter import propose, write_starter

    found = propose(options.file, options.table)
    name, written = write_starter(options.file, Path(options.config_dir), options.name, options.table)
    gold = f", which the column {found.gold!r} tells: {', '.join(found.labels)}" if found.gold else ""
    print(f"{options.file}: {found.rows:,} rows; job {found.job} on the column {found.text!r}{gold}")
    for path in written:
        print(f"written   {path}")
    keys = f"--config-dir {shlex.quote(options.config_dir)} job={name} dataset={name}"
    print(f"look at   rowmill preview {keys}")
    print(f"run       rowmill run {keys}")
    return EXIT_OK
