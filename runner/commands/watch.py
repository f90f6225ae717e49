"""``rowmill watch``: a run seen live from a second terminal."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from runner.commands import EXIT_OK
from runner.commands.arguments import add_run_dir

HELP = "watch a run live: speed, slots, memory, labels, errors, the latest rows; Ctrl-C ends the watching only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)


def main(options: argparse.Namespace) -> int:
    from rich.console import Console

    from runner.watch import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(Path(options.run_dir), Console())
    return EXIT_OK
