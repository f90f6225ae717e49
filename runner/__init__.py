"""rowmill: put a prompt through every row of a data set with one local LLM, resumably.

    row ---- job.steps(row) ----> request ---- template, tokenizer ----> sequence (token ids)
                                                                            |
            window: the rows read ahead, their sequences sorted so that neighbours share a prefix
                                                                            |
       snapshot of the prefix  <----  batch: prefill of each suffix, then decode, on one resident model
       (computed once, stored once)                                         |
                                                                       completion
                                                                            |
       shard (data-00007.arrow) <-- finished rows <-- job <-- checkpoint (run.db): recorded before anyone acts on it

Durability: an answer is committed to the checkpoint before its job sees it. A shard (a fixed range of rows) is written
beside its place, synced, renamed, and only then recorded. Whenever a run dies, what is on disk is consistent, and no
row is lost or doubled.

Determinism: decoding is greedy by default. With a temperature, a row's draws depend on ``seed``, its place in the data
set as stored and the number of the question, but not on ``where``, ``shuffle_seed``, ``limit`` or the rows that share
its batch. The date that chat templates print is fixed when a run begins, so that a prompt is still the same after
midnight. Floating-point sums do depend on the shape of a batch: near-ties can fall either way on another machine or
with another batch size.

From Python, ``run`` computes and ``open_run`` reads, also while a run is at work or after it was interrupted.

Modules:
bare        Bare words: what stands without quotes, in YAML or on a command line, kept as typed until its key is known.
cache       The cache folder; what appears in it appears by rename: whole, or not at all.
chain       Runs that read runs: one as the data of the next, several stages in one file, cascades.
checkpoint  The only truth about a run: what is committed in SQLite, and the Arrow shards that follow from it.
cli         The command line: a word, then Hydra overrides or a run directory. Heavy packages load late.
config      From words on the command line to one typed configuration and its job.
console     The standard streams: lines for people, and what happens when nobody reads them.
custom      A user's own classes: where they may come from, what identifies them, how they are made.
data        Rows in: the files of a data set become rows by position.
disk        Files that appear whole or not at all, on the disk when they say so; locks.
early       Ctrl-C while the program's modules are loaded: one line and exit code 130, as afterwards.
engine      Token ids to token ids: one resident model, a batch of sequences, a prefix stored once.
export      Runs out: tables, hub data sets, pre-annotations, training data, results as the OpenAI API writes them.
fleet       One run on many machines: seats, each a process with the model, and a driver that dispatches and keeps.
keys        The values that a configuration key takes, stated where the key is declared.
loop        A row's way through a run: requests, the plan, the batch, the answers. No MLX in here.
machine     This machine: its device and memory, its linear algebra, the versions that run on it.
models      A model's files on this disk: found, fetched, converted from GGUF, measured.
night       A night's run beside its user: when it works, what keeps the machine awake, whom it notifies.
patterns    Regular expressions of users, which no text keeps busy for good.
plain       Values of any kind as JSON, the same in prompts, exports and reports.
report      The morning report: one HTML file on a run, its results and how far to trust them.
results     What came out of a run, read without disturbing it: rows, status, evaluation, comparison, for people.
rowmill     rowmill: put a prompt through every row of a data set with one local LLM, resumably.
runs        What many runs have in common: a table of them, answers that they share.
sequences   The engine's side of a run: sequences in, generations out, and the engine between them.
session     One session of a run: checked, opened, worked, ended.
signals     Ctrl-C, SIGTERM and their like: an end after the step in flight while the loop works, at once otherwise.
stages      Several runs in one command: a chain's stages, checked and computed one after the other.
text        Text to token ids and back: templates, vocabularies, and what an answer may look like.
types       The nouns of a run and the seams between its modules.
words       Words for people: parts of sentences that several messages share.
"""

from __future__ import annotations

import runner.early  # noqa: F401 first: for Ctrl-C while the rest is loaded

# isort: split
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.night.link import Link
    from runner.results.run import Run

__version__ = "0.1.0"


def run(overrides: Sequence[str] = (), config_dir: str | None = None) -> dict[str, Any]:
    """Run or resume what the Hydra overrides describe; the figures of ``rowmill status --json`` and ``path``.

    All of it happens in this process: nothing restarts it if it dies, unlike ``rowmill run``. In the main thread SIGINT
    and SIGTERM end the run after the step in flight; their handlers are restored. With a model, mlx-lm's attention and
    gated activations are replaced in every loaded module (in ``sys.modules``) and stay so; they hand whatever does not
    belong to a run on to mlx-lm. Raises UserError for a wrong configuration or input, KeyboardInterrupt once an
    interrupted run is safe on the disk.

    >>> import rowmill
    >>> figures = rowmill.run(["job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=mail.csv",
    ...                        'prompt.user=Ham or spam? {{ text }}', "run_name=doc", "engine.backend=fake"])
    >>> figures["finished"], figures["errors"], figures["path"]
    (4, 0, 'outputs/doc')
    """
    return run_linked(overrides, config_dir, None)


def run_linked(overrides: Sequence[str], config_dir: str | None, link: Link | None) -> dict[str, Any]:
    """``run`` for a supervisor's worker."""
    from runner.signals import stop_on_signals

    with stop_on_signals() as stop:
        if link:
            link.report(ready=True)
        from runner.stages.conf import load_chain

        if chain := load_chain(overrides, config_dir):
            from runner.stages.chain import run_chain

            return run_chain(chain, stop, link)
        from runner.config.load import load_config
        from runner.session.session import run_session

        return run_session(load_config(overrides, config_dir), stop, link)


def open_run(path: str | os.PathLike[str]) -> Run:
    """The folder of a run or a chain, running, interrupted or finished, for reading; UserError if it is none.

    >>> import rowmill
    >>> run = rowmill.open_run("outputs/doc")
    >>> run.status["state"], run.status["finished"]
    ('finished', 4)
    >>> run.dataset.column_names
    ['id', 'text', 'kind', 'label', 'confidence', 'probabilities', 'error', 'usage']
    >>> run.errors
    []
    >>> run.config["job"]["labels"]
    ['ham', 'spam']
    >>> [row["kind"] for row in run.rows() if row["label"]]
    ['spam', 'ham', 'spam', 'ham']
    """
    from pathlib import Path

    from runner.chain.folder import open_folder

    return open_folder(Path(path))
