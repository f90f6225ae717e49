"""The standard streams: lines for people, and what happens when nobody reads them."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import stat
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from runner.early import hold
from runner.words import but_colours, escaped, open_words

_WIDTH = 9  # columns of a line's name
_DRAWN = dict(zip("▁▂▃▄▅▆▇█▏…", "_.-=+*%#|~", strict=True))  # what bars are drawn with, and what stands for it


def say(text: str = "") -> None:
    """Print a line; on a terminal that was closed, nothing."""
    try:
        sys.stdout.write(but_colours(text) + "\n")
    except OSError as error:
        if not is_closed_terminal(error):
            raise
        mute(sys.stdout)


def is_closed_terminal(error: OSError) -> bool:
    """Whether printing failed because the terminal is gone, which is no failure of what was done."""
    try:
        return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def tell(text: str) -> None:
    """Print a line on the standard error. If nobody reads it any more, work goes on without it."""
    with muted(sys.stderr):
        sys.stderr.write(escaped(open_words(text)) + "\n")
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
    with contextlib.suppress(OSError, ValueError):  # a stream without a file descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_streams() -> None:
    """Let standard streams that are closed be the null device, so that none of our files takes their place.

    What they cannot encode is printed as an escape, and bars are drawn with what ASCII has.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    codecs.register_error("drawn", _drawn)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="drawn")


def _drawn(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = (
        _DRAWN.get(char) or char.encode("ascii", "backslashreplace").decode()
        for char in error.object[error.start : error.end]
    )
    return "".join(shown), error.end


def begin_in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale would have the names of files in another encoding.

    So it is with LC_ALL=C where PYTHONUTF8=0, and in locales of before UTF-8. Our files are in UTF-8 in any locale.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        hold()
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})


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


def line(name: str, text: str) -> None:
    """Print a line that begins with its name."""
    say(f"{name:<{_WIDTH}}{text}")


_warned = set[object]()


def warn_once(about: object, message: str, *values: object) -> None:
    """Log a warning, unless this process has logged one ``about`` the same."""
    if about not in _warned:
        logging.getLogger("rowmill").warning(message, *values)
    _warned.add(about)
