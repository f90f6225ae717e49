"""Figures as text for people: what ``run``, ``status`` and ``preview`` print on the standard output."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
import traceback
from pathlib import Path
from typing import Any

_HASH = re.compile(r"#sha256=[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHOWN_CHARS = 3000  # of a prompt's prefix, and of the rest
_WIDTH = 9


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def shown(message: str) -> str:
    """A message for people, without what only machines read in it."""
    return _HASH.sub("", message)


def own_traceback(problem: BaseException) -> str:
    """A short traceback: the last places in files that are neither rowmill's nor installed, and the error."""
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if not frame.filename.startswith(ours) and "site-packages" not in frame.filename
    ]
    lines = [*traceback.format_list(frames[-3:]), *traceback.format_exception_only(problem)]
    return "".join(lines).rstrip()


def show_run(figures: dict[str, Any]) -> None:
    """The end of a run: how right it is where that is known, then the figures and the output's path."""
    evaluation = figures.get("evaluation")
    if evaluation and evaluation["rows"]:
        from runner.evaluate import confusion_table

        _line("accuracy", f"{evaluation['accuracy']:.3f} on {evaluation['rows']:,} rows with a gold label")
        say(textwrap.indent(confusion_table(evaluation["confusion"]), " " * _WIDTH))
    if figures.get("rouge", {}).get("rows"):
        from runner.rouge import rouge_lines

        for name, text in zip(["score", "", "", ""], rouge_lines(figures["rouge"]), strict=True):
            _line(name, text)
    _show_figures(figures)
    _line("output", figures["path"])
    if figures.get("report"):
        _line("report", figures["report"])


def show_status(figures: dict[str, Any]) -> None:
    """A run seen from outside: how far it is and, where that can be known, how long it will take."""
    pid = f" (process {figures['pid']})" if figures.get("pid") else ""
    _line("state", f"{figures['state']}{pid}")
    _show_figures(figures)
    left = figures["rows"] - figures["finished"]
    if left:
        _line("left", f"{left:,} rows{_pace(left, figures)}")


def _pace(left: int, figures: dict[str, Any]) -> str:
    if not figures["rows_per_s"]:
        return ""
    seconds = left / figures["rows_per_s"]
    ending = f", until {clock(time.time() + seconds)}" if figures["state"] == "running" else ""
    return f", about {duration(seconds)} at this speed{ending}"


def _show_figures(figures: dict[str, Any]) -> None:
    seconds = figures["active_s"] or 0.0
    prompt, cached, completion = (figures[f"{kind}_tokens"] for kind in ("prompt", "cached", "completion"))
    errors = f", {figures['errors']:,} with an error" if figures["errors"] else ", no errors"
    _line("rows", f"{figures['finished']:,} of {figures['rows']:,}{errors}")
    for kind, count in list(figures["error_kinds"].items())[:5]:
        _line("", f"{count:,} x {visible(kind)}")
    if prompt:
        best = figures.get("best_cached_share")
        most = "" if best is None else f", {best:.1%} at best"
        _line("tokens", f"{prompt:,} in prompts ({cached / prompt:.1%} from cache{most}), {completion:,} generated")
    if seconds and figures["finished"]:
        tokens_per_s = (prompt + completion) / seconds
        share = figures.get("model_share")
        model = "" if share is None else f", {share:.0%} of the time in the model"
        _line("speed", f"{figures['rows_per_s']:,.1f} rows/s, {tokens_per_s:,.0f} tokens/s{model}")
        _line("time", duration(seconds))
    if figures.get("slot_occupancy") is not None:
        padding = figures["padding_share"] or 0.0
        _line("batch", f"{figures['slot_occupancy']:.0%} of its slots taken, {padding:.1%} padding")


def show_preview(figures: dict[str, Any]) -> None:
    """The first prompts, the shared prefix dimmed on a terminal and bracketed elsewhere, then the figures."""
    for number, prompt in enumerate(figures["prompts"]):
        shared = f", of which {prompt['shared_tokens']:,} are a shared prefix" if prompt["shared_tokens"] else ""
        say(f"--- row {prompt['row']:,}: {prompt['tokens']:,} tokens{shared}")
        say(_marked(prompt["prefix"], number) + _cut(prompt["suffix"]))
    say("---")
    tokens, looked = figures["prompt_tokens"], figures["rows_looked_at"]
    scope = "all of them" if looked == figures["rows"] else f"{looked:,} of them, from several places,"
    _line("rows", f"{figures['rows']:,}; the figures below come from {scope} (first requests only)")
    if figures["unusable_rows"]:
        _line("", f"{figures['unusable_rows']:,} will be in error, the first with: {visible(figures['unusable'])}")
    unit = "bytes stand for tokens (the fake engine has no tokenizer)" if figures["fake"] else "tokens"
    spread = f"{tokens['min']:,} to {tokens['max']:,}, median {tokens['median']:,.0f}, mean {tokens['mean']:,.1f}"
    _line("prompt", f"{spread} {unit}")
    _line("cache", f"{figures['shared_share']:.1%} of the prompt tokens are prefixes computed before")
    _line("answer", _answer(figures))
    if figures["too_long"]:
        _line("too long", f"{figures['too_long']:,} prompts with their answers exceed the context: errors")
    if figures["context"]:
        _line("context", f"{figures['context']:,} tokens")
    _line("memory", _memory(figures["memory"]))
    _line("time", _time(figures["time"]))
    _line("output", figures["path"])
    if figures["differs"]:
        _line("", "it holds a different run, so `rowmill run` will refuse: choose another run_name or resume=force")
        for line in figures["differs"]:
            _line("", f"  {visible(line)}")


def _answer(figures: dict[str, Any]) -> str:
    choices = figures["choices"]
    if choices is None:
        return f"up to {figures['max_tokens']:,} tokens of text"
    names = [f"{visible(name)} ({count})" for name, count in list(choices.items())[:20]]
    more = f" and {len(choices) - 20:,} more" if len(choices) > 20 else ""
    return f"one of {', '.join(names)}{more}: the label (its tokens), every label is scored"


def _memory(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "none: engine.backend=fake has no model"
    a_token = f" ({memory['kv_token']:,} bytes of KV a token)" if memory["kv_token"] else ""
    return f"{memory['line']}{a_token}{', TOO LITTLE for it' if memory['refusal'] else ''}"


def _time(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "unknown before a trial: run it with dataset.limit=100 run_name=trial and read its rows/s"
    if not estimate["left"]:
        return f"none: the run is finished (it did {estimate['rows_per_s']:,.1f} rows/s)"
    pace = f"at the {estimate['rows_per_s']:,.1f} rows/s so far"
    return f"{duration(estimate['seconds'])} for {estimate['left']:,} rows {pace}"


def _marked(prefix: str, number: int) -> str:
    """The shared prefix, whole the first time."""
    if not prefix:
        return ""
    text = _cut(prefix) if number == 0 else f"... {visible(prefix[-40:])}" if len(prefix) > 50 else visible(prefix)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[2m{text}\x1b[0m" if colour else f"[shared: {text}]"


def _cut(text: str) -> str:
    rest = len(text) - _SHOWN_CHARS
    return visible(text[:_SHOWN_CHARS]) + (f"... and {rest:,} characters" if rest > 0 else "")


def visible(text: str) -> str:
    """Cells may hold what would steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def duration(seconds: float) -> str:
    """``2 h 5 min``, ``5 min 12 s`` or ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def clock(at: float) -> str:
    """A time to come as people say it: ``06:12`` within half a day, ``Wed 06:12`` within some days, else the date."""
    ahead, local = at - time.time(), time.localtime(at)
    return time.strftime("%H:%M" if ahead < 43_200 else "%a %H:%M" if ahead < 518_400 else "%Y-%m-%d", local)


def _line(name: str, text: str) -> None:
    say(f"{name:<{_WIDTH}}{text}")
