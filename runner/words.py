"""Words for people: parts of sentences that several messages share."""

from __future__ import annotations

import errno
import os
import re
import time
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import takewhile

_HASH = re.compile(r"#sha256=[0-9a-fA-F]{64}")
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"  # they show a text in another order than it has
_CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_DIRECTIONS}]")
MACHINE_TROUBLE = {  # by the number of a system's error: what is wrong with the machine, and what to do
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("the disk quota is used up", "make room"),
    errno.EFBIG: ("the file system takes no larger file", "move the folder to another disk"),
    errno.EIO: ("the disk is failing", "check it"),
    errno.ENODEV: ("the disk is gone", "attach it again"),
    errno.ENXIO: ("the disk is gone", "attach it again"),
    errno.ENOTCONN: ("the network share has gone", "mount the share again"),
    errno.EHOSTDOWN: ("the network share does not answer", "check it"),
    errno.ESTALE: ("the network share has lost it", "mount the share again"),
    errno.ETIMEDOUT: ("the network share does not answer", "check it"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOMEM: ("memory ran out", "close other programs"),
    errno.EBUSY: ("another program holds it", "close that program"),
}
for _name in ("EREMOTEIO", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENOMEDIUM"):  # some systems lack some
    if _number := getattr(errno, _name, None):
        MACHINE_TROUBLE[_number] = ("the disk or the network share does not answer", "check it")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
AGAIN = "run the same command again"
_SQLITE_TROUBLE = {7, 10, 13}  # no memory, the system's error, a full disk
_NEAR = 0.8  # of difflib, from which a key of another group is taken for what was meant
_NAMED = 12  # of the valid names, in a message
_withheld: dict[str, str] = {}
_LEAST_NAME = 6  # characters, of which a few are too few to tell names apart


def remedy(error: object) -> str | None:
    """What it is and what to do if an error, of the system or of SQLite, is the machine's; None if it is not."""
    if (number := number_of(error)) in MACHINE_TROUBLE:
        return f"{': '.join(MACHINE_TROUBLE[number])}, then {AGAIN}"
    return AGAIN if getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_TROUBLE else None


def number_of(error: object) -> int:
    """The number of a system's error, 0 if it is none. Arrow leaves it out where it maps a file, but not its words."""
    if not isinstance(error, OSError) or error.errno is not None:
        return getattr(error, "errno", None) or 0
    return next((number for number in MACHINE_TROUBLE if str(error).endswith(os.strerror(number))), 0)


def did_you_mean(name: str, valid: list[str], elsewhere: Iterable[str] = ()) -> str:
    """``: did you mean 'x'? valid: 'x', 'y'`` for the end of an error message.

    A dotted key ``elsewhere`` whose last part is the name, or nearly if nothing valid is, is what was meant.
    """
    close = get_close_matches(name, valid, n=1)
    if meant := _places(name, [*elsewhere], is_near=not close):
        return f": did you mean {' or '.join(meant)}?"
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{guess}; valid: {listed(valid, _NAMED)}" if valid else guess


def _places(name: str, keys: Sequence[str], is_near: bool) -> list[str]:
    """The keys called so, those that lie the least deep."""
    known = {key.rpartition(".")[2] for key in keys}
    name = name if name in known or not is_near else next(iter(get_close_matches(name, known, 1, _NEAR)), name)
    found = [key for key in keys if key.rpartition(".")[2] == name]
    return [key for key in found if key.count(".") == min(one.count(".") for one in found)]


def composed(text: str) -> str:
    """The text in Unicode's composed form: macOS and some spreadsheets write ``ö`` as an o and two dots."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def alike(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that differ from the text in nothing but case or spaces."""
    return _by_form(tuple(names)).get(_form(text), ())


@lru_cache(maxsize=64)
def _by_form(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(names):
        found[_form(name)] = (*found.get(_form(name), ()), name)
    return found


def _form(text: str) -> str:
    return " ".join(composed(text).casefold().split())


def count_of(count: int, noun: str) -> str:
    """``1 row``, ``2,000 rows``, ``0 rows``."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first ``most`` of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def rows_at(positions: Sequence[int]) -> str:
    """Rows by their positions, for people: the first five."""
    if len(positions) == 1:
        return f"row {positions[0]:,}"
    numbers = [f"{one:,}" for one in positions]
    return "rows " + (listed(numbers, 5) if len(numbers) > 5 else f"{', '.join(numbers[:-1])} and {numbers[-1]}")


def without_hashes(message: str) -> str:
    """A message for people, without the SHA-256 in ``wheel:`` addresses, which only machines read."""
    return _HASH.sub("", message)


def escaped(text: str) -> str:
    """A text with its control characters escaped: a cell may hold some that would steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def withhold(value: str, reference: str) -> None:
    """From now on show ``reference`` in place of a value that may be a secret. One of three letters is none."""
    if len(value) > 3:
        _withheld[value] = reference


def open_words(text: str) -> str:
    """A text without what is withheld. A short value may be a word like any other, so that it is looked for whole."""
    for value in sorted(_withheld, key=len, reverse=True):
        pattern = re.escape(value) if len(value) > 7 else rf"(?<!\w){re.escape(value)}(?!\w)"
        text = re.sub(pattern, lambda _, reference=_withheld[value]: reference, text)  # type: ignore[misc]
    return text


def short_names(names: Sequence[str], most: int) -> list[str]:
    """At most ``most`` characters of each name: its beginning and, of those that begin alike, where they differ."""
    cut = [name if len(name) <= most else name[: most - 1].rstrip() + "…" for name in names]
    alike: dict[str, list[int]] = {}
    for at, one in enumerate(cut):
        alike.setdefault(one, []).append(at)
    for places in alike.values():
        if len(places) > 1 and most >= _LEAST_NAME:
            pairs = zip(min(names[at] for at in places), max(names[at] for at in places), strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            head = most // 3
            rest = short_names([names[at][shared:] for at in places], most - head - 1)
            for at, end in zip(places, rest, strict=True):
                cut[at] = f"{names[at][:head].rstrip()}…{end}" if shared > head else cut[at]
    return cut


def but_colours(text: str) -> str:
    """``escaped``, apart from what sets colours, which the cells in it do not hold any more."""
    return "".join(part if at % 2 else escaped(part) for at, part in enumerate(_COLOUR.split(text)))


def duration(seconds: float) -> str:
    """``2 h 5 min``, ``5 min 12 s`` or ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def age(seconds: float) -> str:
    """How long ago something was, in its largest unit: ``12 s``, ``5 min``, ``2 h``, ``3 days``."""
    for unit, length in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            whole = int(seconds // length)
            return count_of(whole, unit) if unit == "day" else f"{whole} {unit}"
    return f"{int(seconds)} s"


def size(count: int) -> str:
    """Of a file: ``512 B``, ``3.4 kB``, ``18.30 GB``."""
    for unit, power, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if count >= power:
            return f"{count / power:,.{digits}f} {unit}"
    return f"{count} B"


def speed(a_second: float, noun: str = " rows") -> str:
    """``12.5 rows/s``, and below one row a second ``30.0 rows/min``."""
    return f"{60 * a_second:,.1f}{noun}/min" if 0 < a_second < 1 else f"{a_second:,.1f}{noun}/s"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """A table's lines: the columns with these numbers to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def clock(at: float) -> str:
    """A future time for people: ``06:12`` within half a day, ``Wed 06:12`` within some days, else the date."""
    ahead, local = at - time.time(), time.localtime(at)
    return time.strftime("%H:%M" if ahead < 43_200 else "%a %H:%M" if ahead < 518_400 else "%Y-%m-%d", local)


def first_line(error: BaseException) -> str:
    """The first line of the error's message, with the next one if it ends in a colon; its type if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]
