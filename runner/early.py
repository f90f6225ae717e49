"""Ctrl-C while the program's modules are loaded: one line and exit code 130, as afterwards."""

# The module ``signal`` takes some milliseconds more, in which Ctrl-C would end in a traceback.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys


def _end(number: int, frame: object) -> None:
    os.write(2, b"\nrowmill: interrupted\n")
    os._exit(130)


def raise_again() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, as Python has it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """From now on nothing is left to interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if sys.argv and (sys.argv[0] == "-m" or sys.argv[0].rpartition("/")[2] == "rowmill"):  # the program, and no other
    signal.signal(signal.SIGINT, _end)
