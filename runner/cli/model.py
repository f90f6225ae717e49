"""``rowmill convert perplexity benchmark tune``: commands about a model rather than about a run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from runner.cli.arguments import add_no_supervise, add_overrides
from runner.config.groups import group_files
from runner.types import EXIT_OK
from runner.words import size

if TYPE_CHECKING:
    from jobs.perplexity import Measured

_CONVERT_KEYS = """keys:
  model.path=openai/gpt-oss-20b|FOLDER         convert.bits=6 convert.group_size=32 convert.folder=FOLDER
  model={recipes}   (base, bits and group size in one)
  model.revision=COMMIT engine.backend=auto|metal|cuda|cpu offline=true
"""
_PERPLEXITY_KEYS = """keys:
  dataset=text dataset.path=FILE               or any data set with a column of texts: perplexity.column=NAME
  perplexity.window=4096 perplexity.stride=N (null: no overlap) perplexity.max_tokens=100000 (null: all)
  'perplexity.separator=\\n'                    rows are lines of one document; null: documents, joined by the end token
  model=NAME|model.path=... engine.batch_size=N run_name=NAME output.dir=outputs resume=auto|force
  schedule.window=22:00-07:00 notify.command=COMMAND   as for rowmill run; see rowmill help perplexity, night
  fleet=local|ray fleet.seats=N                several GPUs or machines; see rowmill help fleet
  -m model=gpt_oss_20b_q8g64,gpt_oss_20b_q6g32 several variants in one table, each compared with the first
"""
_BENCHMARK_KEYS = """keys:
  benchmark.workload=card                      a model card's line, for responses of benchmark.response=2048 tokens
  benchmark.workload=shared|unique|documents   benchmark.n=64 benchmark.prefix=600 benchmark.suffix=60
  benchmark.output=16 (0: score two labels)    benchmark.documents=8 benchmark.questions=8
  benchmark.against=[mlx_lm.generate,mlx_lm.batch_generate,mlx_lm.batch_generate+prefix,llama.cpp]
  benchmark.workload=run benchmark.run_dir=outputs/NAME   the prompts of an earlier run
  benchmark.batch_sizes=[1,8,32] benchmark.repeat=3 model=NAME|model.path=... engine.backend=auto output.dir=outputs
"""
_TUNE_KEYS = """keys:
  tune.quick=true                              fewer sizes
  model=NAME|model.path=... engine.backend=auto|metal|cuda|cpu engine.memory_gb=N output.dir=outputs offline=true
"""


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    files = group_files("model").items()
    recipes = [name for name, file in files if "\nbase: " in file.read_text(encoding="utf-8")]
    add_overrides(parser, _CONVERT_KEYS.format(recipes="|".join(recipes)))


def convert(options: argparse.Namespace) -> int:
    """Quantise a model into an MLX folder, with a model card that says how."""
    from jobs.convert import run_convert

    done = run_convert(options.overrides, options.config_dir)
    if options.json:
        print(json.dumps(dataclasses.asdict(done), default=str))
        return EXIT_OK
    print(f"{done.bits_per_weight:.3f} bits per weight ({done.bits} bits, groups of {done.group_size})")
    print(f"weights {size(done.weight_bytes)}, on disk {size(done.disk_bytes)}, {done.seconds:,.0f} s")
    print("kept in higher precision:")
    for kind in done.higher:
        print(f"  {kind.name}: {kind.bits:g} bits, {kind.tensors} tensors, {size(kind.size_bytes)}")
    print(f"written to {done.folder}; use it with model.path={done.folder}")
    return EXIT_OK


def perplexity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--multirun", action="store_true", help="one variant for each value of KEY=A,B,C")
    parser.add_argument("--self-check", action="store_true", help="compare a batch with forward passes one by one")
    add_overrides(parser, _PERPLEXITY_KEYS)
    add_no_supervise(parser)


def perplexity(options: argparse.Namespace) -> int:
    """Measure the perplexity of a text under one model, or several in one table; resumes like a run."""
    from jobs.perplexity import Asked, run_perplexities
    from runner.night.link import Link
    from runner.signals import stop_on_signals

    asked = Asked(options.overrides, options.config_dir, options.multirun, options.self_check)
    if options.is_program and not options.no_supervise:
        from runner.night.supervisor import supervise

        return supervise(["perplexity", *asked.options, *["--json"] * options.json], options.overrides)
    with stop_on_signals() as stop:
        if Link.current:
            Link.current.report(ready=True)
        measured = run_perplexities(asked, stop, Link.current)
    if not options.json:
        _show_perplexity(measured)
    elif measured.files:
        print(measured.files["json"].read_text(encoding="utf-8"), end="")
    return EXIT_OK


def _show_perplexity(measured: Measured) -> None:
    from jobs.perplexity.table import as_text

    for check in measured.checks:
        print(
            f"self-check of {check.windows} windows, {check.tokens:,} tokens: perplexity {check.batched:.4f} in a "
            f"batch, {check.single:.4f} one by one; largest difference for a token {check.largest:.1e} nats"
        )
    if measured.files:
        print(f"{as_text(measured.variants)}\nwritten to {measured.files['txt']}, .md and .json")
    for report in measured.reports:
        print(f"report {report}")


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, _BENCHMARK_KEYS)


def benchmark(options: argparse.Namespace) -> int:
    """Measure how fast a model is on this machine, and compare it with mlx-lm's own functions and llama.cpp."""
    from jobs.benchmark import run_benchmark
    from jobs.benchmark.card import Card
    from jobs.benchmark.measure import table

    measured, path = run_benchmark(options.overrides, options.config_dir)
    shown = measured.line() if isinstance(measured, Card) else table(measured)
    print(path.read_text().rstrip() if options.json else f"{shown}\nwritten to {path}")
    return EXIT_OK


def tune_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, _TUNE_KEYS)


def tune(options: argparse.Namespace) -> int:
    """Measure which ways and sizes are fastest for a model on this machine, and keep them for later runs."""
    from jobs.tune import run_tune
    from jobs.tune.report import as_text

    sent, path = run_tune(options.overrides, options.config_dir)
    print(json.dumps(sent) if options.json else f"{as_text(sent)}\n\nwritten to {path}, which can be sent in")
    return EXIT_OK
