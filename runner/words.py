"""Words for people: parts of sentences that several messages share."""

from __future__ import annotations

from difflib import get_close_matches


def did_you_mean(name: str, valid: list[str], shown: int = 12) -> str:
    """``: did you mean 'x'? valid: 'x', 'y'`` for the end of an error message."""
    close = get_close_matches(name, valid, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    rest = f" and {len(valid) - shown} more" if len(valid) > shown else ""
    return f"{guess}; valid: {', '.join(valid[:shown])}{rest}" if valid else guess
