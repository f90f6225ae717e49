"""The command line: a word, then Hydra overrides or a run directory. Heavy packages load late."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from runner.types import UserError

EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (0 fine, 1 rows in error, 2 wrong input, 3 cannot run here, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rowmill").setLevel(logging.INFO)
    try:
        return int(options.command(options))
    except UserError as error:
        print(f"rowmill: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\nrowmill: {stop}" if str(stop) else "\nrowmill: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rowmill", description="Put a prompt through every row of a data set.")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(command=lambda options: _version(options, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "run, or resume what was interrupted: the same command line resumes"),
        ("preview", _preview, "show the first prompts, their lengths and what they share; loads no weights"),
    ):
        added = commands.add_parser(
            name, help=text, description=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.add_argument("--config-dir", metavar="DIR", help="a folder with own groups: job/NAME.yaml, ...")
        added.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        added.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration overrides")
        added.set_defaults(command=command)
    status = commands.add_parser("status", help="how far a run is; works while it runs")
    status.add_argument("run_dir", metavar="RUN_DIR")
    status.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    status.set_defaults(command=_status)
    return parser


EPILOG = """groups (NAME is a file in conf/ or in --config-dir):
  job=label|generate        what is asked of each row; job.labels=[a,b] job.method=choice|generate
  dataset=NAME              csv jsonl parquet arrow hub text movie_reviews; dataset.path=FILE dataset.gold=COLUMN
                            dataset.limit=N dataset.where='stars > 3' dataset.shuffle_seed=0
  prompt=NAME               prompt.user='... {{ column }} ...' prompt.system=... prompt.chat=false
  model=NAME                smollm2_135m gpt_oss_20b_q6g32; or model.path=FOLDER|FILE.gguf|HUB/ID
  engine                    engine.max_tokens=256 engine.temperature=0 engine.batch_size=32 engine.backend=auto|fake
keys: run_name=NAME output.dir=DIR output.keep=[COLUMN,...] seed=0 resume=auto|force offline=true
"""


def _version(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not options.version:
        parser.print_help()
        return EXIT_USAGE
    from runner import __version__

    print(f"rowmill {__version__}")
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    from runner import run

    figures = run(options.overrides, options.config_dir)
    if options.json:
        print(json.dumps(figures))
    else:
        _tell(figures)
    return EXIT_ROW_ERRORS if figures["errors"] else EXIT_OK


def _tell(figures: dict[str, Any]) -> None:
    evaluation = figures.get("evaluation")
    if evaluation and evaluation["rows"]:
        from runner.evaluate import confusion_table

        print(f"accuracy {evaluation['accuracy']:.3f} on {evaluation['rows']:,} rows with gold labels")
        print(confusion_table(evaluation["confusion"]))
    _tell_status(figures)
    print(f"output   {figures['path']}")


def _tell_status(figures: dict[str, Any]) -> None:
    seconds = figures["active_s"] or 0.0
    prompt, cached, completion = (figures[f"{kind}_tokens"] for kind in ("prompt", "cached", "completion"))
    print(f"rows     {figures['finished']:,} of {figures['rows']:,}, {figures['errors']:,} with errors")
    for kind, count in list(figures["error_kinds"].items())[:5]:
        print(f"         {count:,} x {kind}")
    if seconds:
        print(f"speed    {figures['rows_per_s']:,.1f} rows/s, {(prompt + completion) / seconds:,.0f} tokens/s")
    if prompt:
        print(f"tokens   {prompt:,} prompt ({cached / prompt:.1%} from cache), {completion:,} generated")
    if figures["state"] != "finished":
        print(f"state    {figures['state']}")


def _status(options: argparse.Namespace) -> int:
    from runner.status import read_status

    figures = read_status(options.run_dir)
    if options.json:
        print(json.dumps(figures))
    else:
        _tell_status(figures | {"state": figures["state"]})
        left = figures["rows"] - figures["finished"]
        if left and figures["rows_per_s"]:
            print(f"left     {left:,} rows, about {_duration(left / figures['rows_per_s'])}")
    return EXIT_OK


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _preview(options: argparse.Namespace) -> int:
    from runner.config import load_config
    from runner.preview import preview

    figures = preview(load_config(options.overrides, options.config_dir), show=not options.json)
    if options.json:
        print(json.dumps(figures))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
