"""Figures as text for people: what ``run`` and ``status`` print on the standard output."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_HASH = re.compile(r"#sha256=[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WIDTH = 9
NOW_SECONDS = 60.0  # what "now" means of a speed


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def tell(text: str) -> None:
    """Print a line on the standard error. Where nobody takes it any more, work goes on without."""
    with muted(sys.stderr):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def muted(stream: TextIO) -> Iterator[None]:
    """Let what is written to a stream vanish, now and at the end of the process, as soon as it cannot be written."""
    try:
        yield
    except OSError:
        mute(stream)


def mute(stream: TextIO) -> None:
    """Let what is written to a stream vanish."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file of the system's
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_streams() -> None:
    """Let standard streams that are closed be the null device, so that none of our files takes their places.

    What the standard output cannot encode is printed as an escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def shown(message: str) -> str:
    """A message for people, without what only machines read in it."""
    return _HASH.sub("", message)


def own_traceback(problem: BaseException) -> str:
    """A short traceback: the last places in files that are neither rowmill's nor installed, and the error."""
    ours = tuple(str(Path(__file__).parents[1] / package) + os.sep for package in ("runner", "jobs"))
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
        show_evaluation(evaluation)
    if "diversity" in figures:
        from runner.diversity import diversity_lines

        for name, text in zip(["diverse", ""], diversity_lines(figures["diversity"]), strict=False):
            line(name, text)
    if figures.get("rouge", {}).get("rows"):
        from runner.rouge import rouge_lines

        for name, text in zip(["score", "", "", ""], rouge_lines(figures["rouge"]), strict=True):
            line(name, text)
    _show_figures(figures)
    line("output", figures["path"])
    if figures.get("report"):
        line("report", figures["report"])


def show_evaluation(found: dict[str, Any]) -> None:
    """How right a run's labels are; see ``runner.evaluate``."""
    from runner.verdict import verdict_lines

    for name, text in verdict_lines(found):
        line(name, visible(text))


def show_status(figures: dict[str, Any]) -> None:
    """A run seen from outside: how far it is and, where that can be known, how long it will take."""
    pid = f" (process {figures['pid']})" if figures.get("pid") else ""
    line("state", f"{figures['state']}{pid}")
    _show_figures(figures)
    left = figures["rows"] - figures["finished"]
    if left:
        line("left", f"{left:,} rows{_pace(left, figures)}")


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
    line("rows", f"{figures['finished']:,} of {figures['rows']:,}{errors}")
    for kind, count in list(figures["error_kinds"].items())[:5]:
        line("", f"{count:,} x {visible(kind)}")
    if rejected := figures.get("rejected"):
        taken = sum(rejected.values())
        line("rejected", f"{taken:,} of {taken + figures['finished']:,} attempts, by what took them:")
        for kind, count in rejected.items():
            line("", f"{count:,} x {visible(kind)}")
    forced = f" ({figures['forced_tokens']:,} of them forced by the grammar)" if figures["forced_tokens"] else ""
    if prompt:
        best = figures.get("best_cached_share")
        missed = None if best is None else best - figures["cached_share"]  # of sessions that came to their end
        most = "" if missed is None else f", {cached / prompt + missed:.1%} at best"
        cache = f"({cached / prompt:.1%} from cache{most})"
        line("tokens", f"{prompt:,} in prompts {cache}, {completion:,} generated{forced}")
    if seconds and figures["finished"]:
        tokens_per_s = (prompt + completion) / seconds
        share = figures.get("model_share")
        model = "" if share is None else f", {share:.0%} of the time in the model"
        line("speed", f"{figures['rows_per_s']:,.1f} rows/s, {tokens_per_s:,.0f} tokens/s{model}")
        line("time", duration(seconds))
    if figures.get("slot_occupancy") is not None:
        padding = figures["padding_share"] or 0.0
        line("batch", f"{figures['slot_occupancy']:.0%} of its slots taken, {padding:.1%} padding")


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


def line(name: str, text: str) -> None:
    say(f"{name:<{_WIDTH}}{text}")
