"""``rowmill report``: the morning report as one HTML file."""

from __future__ import annotations

import argparse

from runner.commands import EXIT_OK
from runner.commands.arguments import add_run_dir

HELP = "write report.html: what came out, how far to trust it, how the run went"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)


def main(options: argparse.Namespace) -> int:
    from runner.report import write_report

    print(write_report(options.run_dir))
    return EXIT_OK
