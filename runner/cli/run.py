"""``rowmill run`` and ``rowmill preview``: what makes the rows, and what it would make of them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from runner.cli.arguments import add_no_supervise, add_overrides, run_keys
from runner.types import EXIT_CANNOT_RUN, EXIT_OK, UserError

if TYPE_CHECKING:
    from runner.stages.conf import ChainConf


def run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--multirun", action="store_true", help="one run for each value of KEY=A,B,C")
    add_overrides(parser, run_keys())
    parser.add_argument("--save", metavar="FILE", help="write what was typed to FILE.yaml instead of running it")
    add_no_supervise(parser)


def run(options: argparse.Namespace) -> int:
    """Start a run, or resume one that was interrupted: the same command resumes it."""
    if options.save is not None:
        return _save(options)
    from runner.night.link import Link
    from runner.results.show import show_run

    if options.is_program and not options.no_supervise:
        from runner.night.supervisor import supervise

        folder = ["--config-dir", options.config_dir] if options.config_dir else []
        words = ["run", *(["-m"] if options.multirun else []), *folder, *(["--json"] if options.json else [])]
        return supervise(words, options.overrides)
    if options.multirun:
        return _sweep(options)
    from runner import run_linked
    from runner.session.finish import exit_code

    figures = run_linked(options.overrides, options.config_dir, Link.current)
    if options.json:
        print(json.dumps(figures))
    else:
        from runner.chain.look import chain_lines

        show_run(figures, chain_lines(figures))
    return exit_code(figures)


def _save(options: argparse.Namespace) -> int:
    from runner.config.file import expanded, save
    from runner.config.load import load_config
    from runner.stages.conf import load_chain

    if options.multirun:
        raise UserError("--save: a file holds one run; -m goes with the file instead: rowmill run -m FILE.yaml KEY=A,B")

    def same(words: list[str]) -> dict[str, Any]:
        if chain := load_chain(words, options.config_dir):
            each = {one.stage.name: one.config.plain for one in chain.stages}
            return {"stages": [vars(one.stage) for one in chain.stages], **each}
        return load_config(words, options.config_dir).plain

    print(f"saved; to run it:\n{save(expanded(options.overrides), options.save, options.config_dir, same)}")
    return EXIT_OK


def _sweep(options: argparse.Namespace) -> int:
    from jobs.sweep import Sweep, as_table, worst
    from runner.console import say
    from runner.night.link import Link
    from runner.signals import stop_on_signals

    sweep = Sweep(options.overrides, options.config_dir)
    with stop_on_signals() as stop:
        if Link.current:
            Link.current.report(ready=True)
        swept = sweep.run(stop, Link.current)
    if options.json:
        print(json.dumps([one.as_json() for one in swept]))
    else:
        say(as_table(swept))
    return worst(swept)


def preview_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, run_keys())
    more = "compute N rows of the run with its model and estimate the time for the rest; the run keeps them"
    parser.add_argument("--trial", metavar="N", type=_rows, default=0, help=more)


def preview(options: argparse.Namespace) -> int:
    """Show the first prompts, their lengths and what they share; only --trial loads the model."""
    from runner.config.load import load_config
    from runner.session.preview import preview
    from runner.signals import stop_on_signals
    from runner.stages.conf import load_chain

    if chain := load_chain(options.overrides, options.config_dir):
        return _preview_chain(chain, options)
    config = load_config(options.overrides, options.config_dir)
    with stop_on_signals() as stop:
        figures = preview(config, show=not options.json, trial=options.trial, stop=stop)
    if options.json:
        print(json.dumps(figures))
    if why := (figures["memory"] or {}).get("refusal"):
        raise UserError(f"the model {why}", exit_code=EXIT_CANNOT_RUN)
    return EXIT_OK


def _preview_chain(chain: ChainConf, options: argparse.Namespace) -> int:
    from runner.stages.preview import preview_chain

    if options.trial:
        raise UserError(
            "--trial: it computes rows of one run, and which rows a later stage has is known only when those before it "
            "have answered: leave it out, or use `rowmill run` with dataset.limit=20, from which the same chain with "
            "more rows goes on"
        )
    stages = preview_chain(chain, show=not options.json)
    if options.json:
        print(json.dumps({"stages": stages}))
    for one in stages:
        if why := (one["memory"] or {}).get("refusal"):
            raise UserError(f"stage {one['name']}: the model {why}", exit_code=EXIT_CANNOT_RUN)
    return EXIT_OK


def _rows(typed: str) -> int:
    if not typed.isdecimal() or not int(typed):
        raise argparse.ArgumentTypeError(f"{typed}: it must be a number of rows, such as 20")
    return int(typed)
