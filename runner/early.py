"""Ctrl-C while the program's modules are loaded: one line and exit code 130, as afterwards.

Before the first line below Python itself starts, for some hundredths of a second, and would show a traceback. So the
program ``rowmill`` (runner/cli/shell) starts it with SIGINT blocked, and the signal waits for the last lines below.
"""

# The module ``signal`` takes some milliseconds more, in which Ctrl-C would end in a traceback.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys


def _end(number: int, frame: object) -> None:
    os.write(2, b"\nrowmill: interrupted\n")
    os._exit(130)


def raise_again() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, as Python has it, also if it comes where Python would drop it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = _repeat


def _repeat(dropped: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more, a moment after the callback, as those of garbage, that was interrupted."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)
        return
    import threading

    threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()


def hold() -> None:
    """From now on Ctrl-C waits for the program that this process becomes by ``exec``, if that is this one again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def ignore() -> None:
    """From now on nothing is left to interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_folder, _slash, _name = sys.argv[0].rpartition("/") if sys.argv else ("", "", "")
if _name in ("rowmill", "python-rowmill") or sys.argv[:1] == ["-m"]:  # this is the program, and no other
    sys.argv[0] = _folder + _slash + _name.removeprefix("python-")
    signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
