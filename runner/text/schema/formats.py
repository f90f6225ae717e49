"""Formats of texts as regular expressions, for grammars and for the check of a whole answer; dates as values.

Days that exist, in the years that Python has; seconds up to 59, as few readers of timestamps take a leap second, and
no more digits behind them than Arrow has. Grammars have looser rules of their own, whose answers the check would
refuse.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pyarrow as pa

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = "(?:0[1-9]|1[0-9]|2[0-8])"
_OF_YEAR = f"(?:(?:0[1-9]|1[0-2])-{_DAY}|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_DATE = f"(?:{_YEAR}-{_OF_YEAR}|{_LEAP_YEAR}-02-29)"
_HOUR, _SIXTY = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
_TIME = rf"{_HOUR}:{_SIXTY}:{_SIXTY}(?:\.[0-9]{{1,9}})?(?:[zZ]|[+-]{_HOUR}:{_SIXTY})"

_HEX = "[0-9a-fA-F]"
_UUIDS = {f"uuid{n}": f"^{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}$" for n in range(1, 9)}
_IN_FOURS = "^(?:{0}{{4}})*(?:{0}{{2}}==|{0}{{3}}=)?$"
_BASE64 = {
    **dict.fromkeys(("byte", "base64"), _IN_FOURS.format("[A-Za-z0-9+/]")),
    "base64url": _IN_FOURS.format("[A-Za-z0-9_-]"),
}

PATTERNS = {**_UUIDS, **_BASE64, "date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[tT]{_TIME}$"}


def _date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def _time(text: str) -> datetime.time:
    return _instant(f"2000-01-02T{text}").time()


def _instant(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text.upper())
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).astimezone(datetime.UTC)


# The Arrow type of each format, and what reads it: in UTC, to the microsecond; OverflowError outside of years 1 to 9999
TYPES: dict[str, pa.DataType] = {"date": pa.date32(), "time": pa.time64("us"), "date-time": pa.timestamp("us", "UTC")}
READ: dict[pa.DataType, Callable[[str], Any]] = dict(zip(TYPES.values(), (_date, _time, _instant), strict=True))
