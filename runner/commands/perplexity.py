"""``rowmill perplexity``: how surprised a model, or several variants of it, is by a text."""

from __future__ import annotations

import argparse

from runner.commands import EXIT_OK
from runner.commands.arguments import add_overrides

HELP = "perplexity of a text under a model, or under several in one table; resumes like a run"
EPILOG = """keys:
  dataset=text dataset.path=FILE               or any data set with a column of texts: perplexity.column=NAME
  perplexity.window=4096 perplexity.stride=4096 perplexity.max_tokens=100000 (null: all)
  'perplexity.separator=\\n'                    rows are lines of one document; null: documents, joined by the end token
  model=NAME|model.path=... engine.batch_size=N run_name=NAME output.dir=outputs resume=auto|force
  -m model=gpt_oss_20b_q8g64,gpt_oss_20b_q6g32 several variants in one table, with what they differ from the first
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--multirun", action="store_true", help="one variant for each value of KEY=A,B,C")
    parser.add_argument("--self-check", action="store_true", help="compare a batch with forward passes one by one")
    add_overrides(parser, EPILOG)


def main(options: argparse.Namespace) -> int:
    from jobs.perplexity_table import as_text
    from runner.interrupt import stop_on_signals
    from runner.perplexing import run_perplexities

    with stop_on_signals() as stop:
        variants, checks, files = run_perplexities(
            options.overrides, options.config_dir, options.multirun, options.self_check, stop
        )
    if options.json:
        print(files["json"].read_text(encoding="utf-8"), end="")
        return EXIT_OK
    for check in checks:
        print(
            f"self-check of {check.windows} windows, {check.tokens:,} tokens: perplexity {check.batched:.4f} in a "
            f"batch, {check.single:.4f} one by one; largest difference of a token {check.largest:.1e} nats"
        )
    print(f"{as_text(variants)}\nwritten to {', '.join(str(path) for path in files.values())}")
    return EXIT_OK
