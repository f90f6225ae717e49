"""``rowmill convert``: a model of the hub or of this disk as a quantised MLX folder."""

from __future__ import annotations

import argparse
import dataclasses
import json

from runner.commands import EXIT_OK
from runner.commands.arguments import add_overrides

HELP = "quantise a model into an MLX folder, with a card that says what was done"
EPILOG = """keys:
  model.path=openai/gpt-oss-20b|FOLDER         convert.bits=6 convert.group_size=32 convert.folder=FOLDER
  model=gpt_oss_20b_q8g64|gpt_oss_20b_q6g32|gpt_oss_20b_q5g32|gpt_oss_20b_q4g32   (base, bits and group size in one)
  model.revision=COMMIT engine.backend=auto|metal|cuda|cpu offline=true
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser, EPILOG)


def main(options: argparse.Namespace) -> int:
    from runner.converting import run_convert

    done = run_convert(options.overrides, options.config_dir)
    if options.json:
        print(json.dumps(dataclasses.asdict(done), default=str))
        return EXIT_OK
    print(f"{done.bits_per_weight:.3f} bits a weight ({done.bits} bits, groups of {done.group_size})")
    print(f"weights {done.weight_bytes / 1e9:.2f} GB, on disk {done.disk_bytes / 1e9:.2f} GB, {done.seconds:,.0f} s")
    print("kept in higher precision:")
    for kind in done.higher:
        print(f"  {kind.name}: {kind.bits:g} bits, {kind.tensors} tensors, {kind.size_bytes / 1e6:.2f} MB")
    print(f"written to {done.folder}; run it with model.path={done.folder}")
    return EXIT_OK
