"""``rowmill new``: files to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands import EXIT_OK

HELP = "write a working job of your own to start from: class, configuration, prompt, test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["job"], help="what to write")
    parser.add_argument("name", metavar="NAME", help="the job's name, such as triage")
    parser.add_argument("--config-dir", metavar="DIR", default="my_conf", help="where to (my_conf)")


def main(options: argparse.Namespace) -> int:
    from runner.skeleton import new_job

    folder = Path(options.config_dir)
    for path in new_job(options.name, folder):
        print(path)
    print(f"try it:   rowmill run --config-dir {folder} job={options.name} dataset=csv dataset.path=FILE.csv")
    print(f"test it:  pytest {folder}/test_{options.name}.py")
    return EXIT_OK
