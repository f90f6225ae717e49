"""The command line: a word, then Hydra overrides or a run directory. Heavy packages load late."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from runner.show import show_run, show_status, shown
from runner.types import UserError

EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (0 fine, 1 rows in error, 2 wrong input, 3 cannot run here, 130 interrupted)."""
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    _log_to_stderr()
    try:
        return int(options.command(options))
    except UserError as error:
        print(f"rowmill: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\nrowmill: {stop}" if str(stop) else "\nrowmill: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


class StderrHandler(logging.Handler):
    """Log lines for people, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message."""
        line = shown(record.getMessage())
        bars = sys.modules.get("tqdm")
        if bars is None:
            print(line, file=sys.stderr)
        else:
            bars.tqdm.write(line, file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("rowmill")
    log.setLevel(logging.DEBUG)  # run.log keeps it all
    handler = StderrHandler(logging.INFO)
    log.handlers[:] = [*(old for old in log.handlers if not isinstance(old, StderrHandler)), handler]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"rowmill: {message}; see {self.prog} --help\n")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Options may stand between overrides, which argparse alone does not read."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    wrong = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if wrong:
        own = "; overrides are KEY=VALUE without dashes" if hasattr(options, "overrides") else ""
        parser.error(f"unknown argument {wrong[0]}{own}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rowmill", description="Put a prompt through every row of a data set.")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(command=lambda options: _version(options, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "run, or resume what was interrupted: the same command line resumes"),
        ("preview", _preview, "show the first prompts, their lengths and what they share; loads no weights"),
        (
            "benchmark",
            _benchmark,
            "measure how fast the model goes through prompts here, and against mlx-lm's own ways",
        ),
    ):
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=BENCHMARK_EPILOG if name == "benchmark" else EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
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


BENCHMARK_EPILOG = """keys:
  benchmark.workload=shared|unique|documents   benchmark.n=64 benchmark.prefix=600 benchmark.suffix=60
  benchmark.output=16 (0: score two labels)    benchmark.documents=8 benchmark.questions=8
  benchmark.against=[mlx_lm.generate,mlx_lm.batch_generate,mlx_lm.batch_generate+prefix]
  benchmark.batch_sizes=[1,8,32] benchmark.repeat=3 model=NAME|model.path=... engine.backend=auto output.dir=outputs
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
        show_run(figures)
    return EXIT_ROW_ERRORS if figures["errors"] else EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from runner.status import read_status

    figures = read_status(options.run_dir)
    if options.json:
        print(json.dumps(figures))
    else:
        show_status(figures)
    return EXIT_OK


def _preview(options: argparse.Namespace) -> int:
    from runner.config import load_config
    from runner.preview import preview

    figures = preview(load_config(options.overrides, options.config_dir), show=not options.json)
    if options.json:
        print(json.dumps(figures))
    return EXIT_OK


def _benchmark(options: argparse.Namespace) -> int:
    from jobs.benchmark import table, to_json
    from runner.benchmarking import run_benchmark

    measured, path = run_benchmark(options.overrides, options.config_dir)
    print(to_json(measured) if options.json else f"{table(measured)}\nwritten to {path}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
