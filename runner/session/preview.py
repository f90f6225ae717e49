"""What a run would do, before any weights load: its prompts, what they share, the memory and time they need."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from runner.checkpoint.growth.extend import other_run
from runner.config.load import Config
from runner.results.run import Run
from runner.results.show_preview import ExamplesCost, Preview, show_preview
from runner.sequences import Sequence
from runner.session.identity import growth, identity
from runner.session.pieces import choices, parts
from runner.session.preflight import estimate, refusal
from runner.session.prepare import Prepared, prepare
from runner.session.sample import Looked, answer_tokens, lengths, look, plan_prefixes
from runner.signals import Stop
from runner.types import UserError

BINS = 10  # of the histogram of prompt lengths


def preview(
    config: Config, show: bool, trial: int = 0, stop: Stop | None = None, ready: Prepared | None = None
) -> Preview:
    """The figures of a run that is yet to come; with ``show`` they are also printed, after the first prompts.

    Loads no weights, takes no lease, writes nothing into the run directory, unless so many rows are to be computed in a
    ``trial``, which the run then keeps; ``stop`` may end it. Raises UserError like the run itself, and when not one of
    the rows sampled yields a prompt. ``ready``: the run, if it is prepared already.
    """
    if config.conf.resume == "force":  # or not, the time is that of the run with this name
        config = replace(config, conf=replace(config.conf, resume="auto"))
    ready = ready or prepare(config)
    looked = look(ready)
    if not looked.sequences:
        reason = looked.errors[0] if looked.errors else "the job asks nothing about them"
        raise UserError(f"none of the {looked.rows:,} rows sampled yields a prompt: {reason}")
    shared = plan_prefixes(looked.sequences)
    figures = _figures(ready, looked, shared)
    if trial:
        from runner.session.trial import foretell, run_trial

        own = [len(one.tokens) - one.shared_tokens for one in looked.sequences]
        figures["time"] = foretell(run_trial(ready, trial, stop or Stop()), own) or _recorded(ready)[0]
    if show:
        show_preview(figures)
    return figures


def _figures(ready: Prepared, looked: Looked, shared: int) -> Preview:
    engine = ready.config.conf.engine
    lengths = [len(sequence.tokens) for sequence in looked.sequences]
    context = ready.context
    time, differing = _recorded(ready)
    needed = [len(sequence.tokens) + answer_tokens(sequence) for sequence in looked.sequences]
    return {
        "rows": ready.rows,
        "rows_looked_at": looked.rows,
        "requests": len(lengths),
        "unusable_rows": len(looked.errors),
        "unusable": looked.errors[0] if looked.errors else None,
        "prompt_tokens": {
            "min": min(lengths),
            "median": statistics.median(lengths),
            "mean": statistics.fmean(lengths),
            "max": max(lengths),
        },
        "lengths": histogram(lengths),
        "shared_share": shared / sum(lengths),
        "examples": _examples(ready, sum(lengths) - shared, lengths),
        "choices": choices(ready, looked.sequences[0]),
        "max_tokens": max(sequence.max_tokens for sequence in looked.sequences) or engine.max_tokens,
        "context": context,
        "too_long": sum(tokens > context for tokens in needed) if context else 0,
        "memory": _memory(ready, looked.sequences),
        "time": time,
        "differs": differing,
        "path": str(ready.run_dir),
        "prompts": [parts(ready, *pair) for pair in zip(looked.texts, looked.sequences, strict=False)],
        "fake": ready.folder is None,
    }


def _examples(ready: Prepared, computed: int, lengths: list[int]) -> ExamplesCost | None:
    """What examples for each row cost: the tokens of a prompt, and those that are computed, with them and without."""
    examples = ready.prompter.examples
    if examples is None:
        return None
    ready.prompter.take_examples(None)
    bare = look(ready).sequences
    ready.prompter.take_examples(examples)
    shared = plan_prefixes(bare)
    without = [len(one.tokens) for one in bare]
    return {
        "select": str(examples.conf.select),
        "k": examples.conf.k,
        "among": len(examples.shots),
        "tokens": statistics.fmean(lengths),
        "computed": computed / len(lengths),
        "tokens_without": statistics.fmean(without),
        "computed_without": (sum(without) - shared) / len(without),
    }


def histogram(lengths: list[int]) -> list[tuple[int, int, int]]:
    """At most BINS bins of equal width: the least and the greatest length in each, and how many there are."""
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // BINS)
    counts = Counter((length - low) // width for length in lengths)
    bins = range((high - low) // width + 1)
    return [(low + at * width, min(high, low + (at + 1) * width - 1), counts[at]) for at in bins]


def _memory(ready: Prepared, sequences: list[Sequence]) -> dict[str, Any] | None:
    """``runner.session.preflight.Needs``, and ``refusal``; None where no device is known."""
    if ready.folder is None or ready.device is None:
        return None
    needs = estimate(ready.folder, ready.model_config, ready.device, ready.config.conf.engine, lengths(sequences))
    why = refusal(needs, ready.config.conf.model, ready.folder, ready.model_config, ready.device.kind)
    return {**asdict(needs), "line": needs.summary(), "refusal": why}


def _recorded(ready: Prepared) -> tuple[dict[str, Any] | None, list[str]]:
    """What the run of this name has shown so far, None if it has not finished a row; and what makes it another run."""
    if not (ready.run_dir / "run.db").is_file():
        return None, []
    earlier = Run(ready.run_dir)
    new = {**earlier.identity, **json.loads(json.dumps(identity(ready))), "rows": ready.rows}
    differing, status = other_run(earlier.identity, new, growth(ready)), earlier.status
    if differing or not status["rows_per_s"]:
        return None, differing
    left = max(0, ready.rows - status["finished"])
    return {"rows_per_s": status["rows_per_s"], "left": left, "seconds": left / status["rows_per_s"]}, []
