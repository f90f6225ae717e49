"""``rowmill status``: how far a run is."""

from __future__ import annotations

import argparse
import json

from runner.commands import EXIT_OK
from runner.commands.arguments import add_json, add_run_dir
from runner.show import show_status

HELP = "how far a run is; works while it runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    from runner.status import read_status

    figures = read_status(options.run_dir)
    if options.json:
        print(json.dumps(figures))
    else:
        show_status(figures)
    return EXIT_OK
