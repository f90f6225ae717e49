"""The output of ``preview``: prompts with their tokens in colour, and figures."""

from __future__ import annotations

import os
import sys
from typing import Any, TypedDict

from runner.console import line, say
from runner.words import count_of, duration, escaped, listed, speed

_SHOWN_CHARS, _SHOWN_TOKENS = 3000, 700  # of a prompt's prefix, and of the rest
_BAR = 30  # columns
_TRIAL = "`rowmill preview --trial 20` with the same overrides computes 20 rows of the run"
_PREFIX, _SUFFIX, _ANSWER = ("34", "36"), ("39", "33"), "1;32"  # blue and cyan, plain and yellow, green


class PromptTokens(TypedDict):
    """How long the prompts are."""

    min: int
    median: float
    mean: float
    max: int


class Prompt(TypedDict):
    """A prompt taken apart: its text up to the last snapshot and after it, whole and by token."""

    row: int
    tokens: int
    shared_tokens: int
    prefix: str
    suffix: str
    prefix_tokens: list[str]
    suffix_tokens: list[str]
    expected: str


class ExamplesCost(TypedDict):
    """Examples chosen for each row, ``k`` ``among`` so many: the mean length of a prompt, and of what is computed of it
    because no cache serves it; the same without these examples.
    """

    select: str
    k: int
    among: int
    tokens: float
    computed: float
    tokens_without: float
    computed_without: float


class Preview(TypedDict):
    """The figures of ``rowmill preview --json``, of the first requests of ``rows_looked_at`` rows.

    ``unusable``: why the first of the ``unusable_rows`` has no prompt. ``lengths``: the prompts' histogram (least and
    greatest number of tokens, how many). ``shared_share``: of the prompt tokens, those that a cache will serve.
    ``choices``: the tokens of each label, None where text is written. ``too_long``: requests beyond the ``context``.
    ``memory``: ``runner.session.preflight.Needs`` with ``line``, and ``refusal``: why the run would be refused.
    ``differs``: lines that say why the run of this name is another one, which `rowmill run` refuses.
    """

    rows: int
    rows_looked_at: int
    requests: int
    unusable_rows: int
    unusable: str | None
    prompt_tokens: PromptTokens
    lengths: list[tuple[int, int, int]]
    shared_share: float
    examples: ExamplesCost | None
    choices: dict[str, int] | None
    max_tokens: int
    context: int | None
    too_long: int
    memory: dict[str, Any] | None
    time: dict[str, Any] | None
    differs: list[str]
    path: str
    prompts: list[Prompt]
    fake: bool


def show_preview(figures: Preview, trial: str = _TRIAL) -> None:
    """The first prompts, their tokens coloured by part on a terminal, then the figures.

    ``trial``: the command that would tell how long it takes.
    """
    for number, prompt in enumerate(figures["prompts"]):
        shared = f", of which {prompt['shared_tokens']:,} are a shared prefix" if prompt["shared_tokens"] else ""
        say(f"--- row {prompt['row']:,}: {count_of(prompt['tokens'], 'token')}{shared}")
        say(_prompt(prompt, whole=number == 0))
    say("---")
    tokens, looked = figures["prompt_tokens"], figures["rows_looked_at"]
    scope = "all of them" if looked == figures["rows"] else f"{looked:,} of them, from several places,"
    line("rows", f"{figures['rows']:,}; the figures below come from {scope} (first requests only)")
    if figures["unusable"] is not None:
        rows = count_of(figures["unusable_rows"], "row")
        line("", f"{rows} will be in error, the first with: {escaped(figures['unusable'])}")
    unit = "bytes instead of tokens (the fake engine has no tokenizer)" if figures["fake"] else "tokens"
    spread = f"{tokens['min']:,} to {tokens['max']:,}, median {tokens['median']:,.0f}, mean {tokens['mean']:,.1f}"
    line("prompt", f"{spread} {unit}")
    _histogram(figures["lengths"])
    line("cache", f"{figures['shared_share']:.1%} of the prompt tokens are shared prefixes, computed once")
    if examples := figures["examples"]:
        _show_examples(examples)
    line("answer", _answer(figures))
    if figures["too_long"]:
        line(
            "too long", f"{count_of(figures['too_long'], 'row')} will be in error: prompt and answer exceed the context"
        )
    if figures["context"]:
        line("context", f"{figures['context']:,} tokens")
    line("memory", _memory(figures["memory"], figures["fake"]))
    line("time", _time(figures["time"]) or f"unknown before a trial: {trial}")
    line("output", figures["path"])
    if figures["differs"]:
        line("", "it holds a different run, so `rowmill run` will refuse: choose another run_name or resume=force")
        for differing in figures["differs"]:
            line("", f"  {escaped(differing)}")


def _show_examples(found: ExamplesCost) -> None:
    line("examples", f"{found['k']} a prompt, {found['select']} among {count_of(found['among'], 'row')}")
    line("", f"prompts of {found['tokens']:,.0f} tokens instead of {found['tokens_without']:,.0f} without them")
    computed, without = found["computed"], found["computed_without"]
    more = f", {computed / without:.1f} times as many" if without else ""
    line("", f"of which {computed:,.0f} are computed for each row instead of {without:,.0f}{more}")


def _answer(figures: Preview) -> str:
    choices = figures["choices"]
    if choices is None:
        return f"up to {count_of(figures['max_tokens'], 'token')} of text"
    names = [f"{escaped(name)} ({count})" for name, count in choices.items()]
    return f"one of {listed(names)}; the model scores them (in brackets: tokens)"


def _memory(memory: dict[str, Any] | None, is_fake: bool) -> str:
    if memory is None and is_fake:
        return "none: engine.backend=fake has no model"
    if memory is None:
        return "each seat of the fleet holds the model's needs against what it has; see it without a fleet: fleet=none"
    a_token = f" ({memory['kv_token']:,} bytes of KV per token)" if memory["kv_token"] else ""
    return f"{memory['line']}{a_token}{', NOT ENOUGH' if memory['refusal'] else ''}"


def _time(estimate: dict[str, Any] | None) -> str | None:
    if estimate is None:
        return None
    if not estimate["left"]:
        return f"none: the run is finished (at {speed(estimate['rows_per_s'])})"
    pace = f"{duration(estimate['seconds'])} for {count_of(estimate['left'], 'row')}"
    if "trial_rows" not in estimate:
        return f"{pace} at the {speed(estimate['rows_per_s'])} so far"
    margin = estimate["margin_s"]
    known = f", give or take {duration(margin)} (95%)" if margin is not None else ", a margin needs a larger trial"
    begun = f"{count_of(estimate['trial_rows'], 'row')} took {duration(estimate['trial_s'])}, kept by the run"
    return f"{pace}{known}: {begun}"


def _histogram(bins: list[tuple[int, int, int]]) -> None:
    """Prompts by length, a bar for each bin."""
    most = max(count for _, _, count in bins)
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high, _ in bins]
    width = max(map(len, names))
    for at, (name, (_, _, count)) in enumerate(zip(names, bins, strict=True)):
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        line("lengths" if not at else "", f"{name:>{width}} {bar:<{_BAR}} {count:,}")


def _prompt(prompt: Prompt, whole: bool) -> str:
    """A prompt's tokens, each in the other colour than the one before it; without colours, its parts in brackets."""
    prefix, suffix = prompt["prefix_tokens"], prompt["suffix_tokens"]
    if not _has_colours():
        text = "".join(prefix)
        start = _cut(text) if whole or len(text) <= 50 else f"... {escaped(text[-40:])}"
        return (
            (f"[shared: {start}]" if prefix else "")
            + _cut("".join(suffix))
            + f"[answer: {escaped(prompt['expected'])}]"
        )
    dots = "" if whole or len(prefix) <= 12 else "... "
    shown = prefix if whole else prefix[-12:]
    expected = f"\x1b[{_ANSWER}m{escaped(prompt['expected'])}\x1b[0m"
    return dots + _coloured(shown, _PREFIX) + _coloured(suffix, _SUFFIX) + expected


def _has_colours() -> bool:
    """Whether the standard output is a terminal that shows them, and nobody asks it not to (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def _coloured(tokens: list[str], colours: tuple[str, str]) -> str:
    shown = tokens[:_SHOWN_TOKENS]
    rest = f" ... and {len(tokens) - len(shown):,} tokens" if len(shown) < len(tokens) else ""
    return "".join(f"\x1b[{colours[at % 2]}m{escaped(text)}\x1b[0m" for at, text in enumerate(shown)) + rest


def _cut(text: str) -> str:
    rest = len(text) - _SHOWN_CHARS
    return escaped(text[:_SHOWN_CHARS]) + (f"... and {rest:,} characters" if rest > 0 else "")
