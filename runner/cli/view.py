"""``rowmill status fleet watch report evaluate diff``: what has become of a run."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

from runner.cli.arguments import add_decision, add_json, add_run_dir, decision_of
from runner.types import EXIT_OK, UserError


def status_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    add_json(parser)


def status(options: argparse.Namespace) -> int:
    """Show how far a run has come; works while it is running."""
    from runner.chain.folder import open_folder
    from runner.chain.look import chain_lines
    from runner.results.show import show_status
    from runner.results.status import evaluations_of

    run = open_folder(options.run_dir)
    figures = run.status
    if options.json:
        print(json.dumps(figures | evaluations_of(run.figures, figures)))
    elif figures["errors"]:
        show_status(figures, run.failures(), chain_lines(figures))
    else:
        show_status(figures, more=chain_lines(figures))
    return EXIT_OK


def fleet_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)
    add_json(parser)


def fleet(options: argparse.Namespace) -> int:
    """Show who computed a run, or is computing it: device, speed, share, backlog, deaths, versions."""
    from runner.chain.look import read_seats
    from runner.fleet.show import show_fleet

    seats = read_seats(Path(options.run_dir))
    if options.json:
        print(json.dumps(seats))
    else:
        from rich.console import Console

        show_fleet(seats, Console())
    return EXIT_OK


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)


def watch(options: argparse.Namespace) -> int:
    """Watch a run live: speed, slots, memory, labels, errors, the latest rows. Ctrl-C stops only the watching."""
    from rich.console import Console

    from runner.chain.look import read_stage
    from runner.results.watch import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(Path(options.run_dir), Console(), read_stage)
    return EXIT_OK


def report_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_dir(parser)


def report(options: argparse.Namespace) -> int:
    """Write report.html: the results, how far to trust them, how the run went."""
    from runner.chain.folder import open_folder
    from runner.report import write_report

    print(write_report(open_folder(options.run_dir)))
    return EXIT_OK


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from runner.results.evaluate import KINDS

    add_run_dir(parser)
    parser.add_argument(
        "--gold", metavar="COLUMN", help="the right answers: a column of the output or the data (default: dataset.gold)"
    )
    parser.add_argument(
        "--column", metavar="COLUMN", help="what is judged, such as label, total or address.city (default: label)"
    )
    kinds = "default: as the job's question asks, else numbers and lists as such, all others as labels"
    parser.add_argument("--as", dest="kind", choices=KINDS, help=kinds)
    add_decision(parser)
    add_json(parser)


def evaluate(options: argparse.Namespace) -> int:
    """Compare a run's answers with correct ones, and show what another prior, temperature or threshold would give.

    Texts, enums and booleans are compared as labels (accuracy, F1, confusion), numbers by their errors and correlation,
    lists as sets (Jaccard index, micro and macro F1), levels of a scale by distance (quadratic kappa, Spearman). Works
    at any time; unfinished rows are left out. Nothing is written.
    """
    from runner.chain.folder import open_folder
    from runner.results.evaluate import evaluate_run
    from runner.results.show import show_evaluation

    found = evaluate_run(open_folder(options.run_dir), options.gold, options.column, decision_of(options), options.kind)
    if not found["rows"]:
        raise UserError(f"{options.run_dir}: no finished row has a value in {options.gold or 'its column of gold'}")
    if options.json:
        print(json.dumps(found))
    else:
        show_evaluation(found)
    return EXIT_OK


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="RUN_A", help="the folder of a run")
    parser.add_argument("b", metavar="RUN_B", help="the folder of another run")
    parser.add_argument("--by", metavar="COLUMN", help="match rows by this column of both outputs, not by position")
    parser.add_argument("--gold", metavar="COLUMN", help="the right answers, as in evaluate (default: dataset.gold)")
    parser.add_argument("--column", metavar="COLUMN", help="what is compared with them (default: label)")
    add_json(parser)


def diff(options: argparse.Namespace) -> int:
    """Compare two runs: their configuration and their rows (agreement, kappa, changed labels).

    With gold: the accuracy of both, whether the difference may be chance, which rows were put right and which broken.
    """
    from runner.chain.folder import open_folder
    from runner.results.compare import compare, show_comparison

    figures = compare(open_folder(options.a), open_folder(options.b), options.by, options.gold, options.column)
    if options.json:
        print(json.dumps(figures))
    else:
        show_comparison(figures)
    return EXIT_OK
