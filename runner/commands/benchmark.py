"""``rowmill benchmark``: how fast the model is here, alone and against others."""

from __future__ import annotations

import argparse

from runner.commands import EXIT_OK
from runner.commands.arguments import add_overrides

HELP = "measure how fast the model goes through prompts here, and against mlx-lm's own ways and llama.cpp"
EPILOG = """keys:
  benchmark.workload=card                      a model card's line, for responses of benchmark.response=2048 tokens
  benchmark.workload=shared|unique|documents   benchmark.n=64 benchmark.prefix=600 benchmark.suffix=60
  benchmark.output=16 (0: score two labels)    benchmark.documents=8 benchmark.questions=8
  benchmark.against=[mlx_lm.generate,mlx_lm.batch_generate,mlx_lm.batch_generate+prefix,llama.cpp]
  benchmark.workload=run benchmark.run_dir=outputs/NAME   the prompts of a run that there was
  benchmark.batch_sizes=[1,8,32] benchmark.repeat=3 model=NAME|model.path=... engine.backend=auto output.dir=outputs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, EPILOG)


def main(options: argparse.Namespace) -> int:
    from jobs.benchmark import table, to_json
    from jobs.card import Card
    from runner.benchmarking import run_benchmark

    measured, path = run_benchmark(options.overrides, options.config_dir)
    if isinstance(measured, Card):
        print(path.read_text() if options.json else f"{measured.line()}\nwritten to {path}")
        return EXIT_OK
    print(to_json(measured) if options.json else f"{table(measured)}\nwritten to {path}")
    return EXIT_OK
