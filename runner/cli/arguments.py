"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from runner.config.groups import group_files

if TYPE_CHECKING:
    from runner.results.quality.rescore.decision import Decision


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_overrides(parser: argparse.ArgumentParser, epilog: str) -> None:
    """Hydra overrides, ``--config-dir`` and ``--json``; ``epilog`` lists the keys, its line breaks kept."""
    parser.epilog = epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with groups of your own: job/NAME.yaml, ...")
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration overrides")


def add_no_supervise(parser: argparse.ArgumentParser) -> None:
    """``--no-supervise``."""
    once = "keep the model in this process, for debuggers; nothing restarts it if it dies"
    parser.add_argument("--no-supervise", action="store_true", help=once)


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """The folder of a run."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run, such as outputs/mail")


def add_decision(parser: argparse.ArgumentParser) -> None:
    """How labels are decided anew from the log-probabilities on disk."""
    group = parser.add_argument_group("labels decided anew (job.method=choice; nothing is asked again)")
    group.add_argument("--no-prior", action="store_true", help="without the prior that the run measured")
    group.add_argument("--temperature", metavar="T", type=float, help="of the confidences; 1 undoes a calibration")
    group.add_argument(
        "--threshold", metavar="P", type=float, help="no label below this confidence or, of several, probability"
    )


def decision_of(options: argparse.Namespace) -> Decision:
    """What the options of ``add_decision`` say."""
    from runner.results.quality.rescore.decision import Decision

    return Decision(not options.no_prior, options.temperature, options.threshold)


_KEYS = {
    "job": """\
job.labels=[a,b] job.method=choice|generate job.votes=5 job.prior=batch (label)
job.samples=3; output.schema=FILE (JSON Schema) or output.regex constrain answers (generate)
job.target_words=100 job.method=map_reduce|refine|stuff (summarize)
job.target=500 'job.attributes={tone: [warm, dry]}' dataset=none without seed rows (synthesize)""",
    "dataset": """\
dataset.path=FILE|"data/*.csv.gz"|- (standard input) dataset.table=TABLE
dataset.gold=COLUMN dataset.limit=N dataset.where='stars > 3' dataset.shuffle_seed=0""",
    "prompt": "prompt.user='... {{ column }} ...' prompt.system=... prompt.chat=false",
    "model": "or model.path=FOLDER|FILE.gguf|HUB/ID",
    "fleet": "fleet.seats=N fleet.address=HOST:PORT (see rowmill help fleet)",
    "engine": "engine.max_tokens=256 engine.temperature=0 engine.batch_size=32 engine.backend=auto|fake",
}


def run_keys() -> str:
    """What ``run`` and ``preview`` can be given: the groups with their files, and the keys used most."""
    lines = ["groups (NAME is a file in conf/ or in --config-dir):"]
    for group, keys in _KEYS.items():
        names = " ".join(name for name in group_files(group) if name != "default")
        more = [*textwrap.wrap(names, 88), *keys.splitlines()]
        lines += [f"  {f'{group}=NAME' if not at else '':<14}{text}" for at, text in enumerate(more)]
    lines.append(
        "keys: run_name=NAME output.dir=DIR output.keep=[COLUMN,...] seed=0 offline=true\n"
        "      resume=auto|errors|extend|force"
    )
    return "\n".join(lines)
