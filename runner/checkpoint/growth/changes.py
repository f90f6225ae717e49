"""How the rows of a data set differ from those that a run has seen: by position, or by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runner.checkpoint.growth.inputs import Compared, Inputs, hashed
from runner.types import UserError
from runner.words import count_of, rows_at

_LOOKED = 1_000_000  # rows behind the first that differs, among which it is looked for
_SHARE = 0.5  # of the rows behind it that must be in order for rows to count as inserted or removed
_REMEDY = (
    "put the earlier rows back as they were, with others behind them; or name a column that identifies rows, "
    "dataset.key=COLUMN: then order may differ, too, and changed rows are computed again. Otherwise choose another "
    "run_name, or resume=force to start over in a new directory beside it"
)


class Matched(NamedTuple):
    """Rows by their keys. ``target`` [M]: where each row that the run had is now, -1 if nowhere or not known.

    ``changed``: where those are now that hold something else; ``gone``: where those were that are nowhere.
    """

    target: np.ndarray
    changed: list[int]
    gone: list[int]

    @property
    def told(self) -> list[str]:
        """What to tell of it."""
        found = []
        if self.changed:
            found.append(f"{rows_at(self.changed)} changed under the same key: computed again where the prompt differs")
        if self.gone:
            found.append(f"what was in {rows_at(self.gone)} is gone: out of the run, though the answers stay in run.db")
        return found


def match(known: Sequence[Compared], rows: int, inputs: Inputs) -> Matched:
    """Find the rows [0, ``rows``) of sealed shards among ``inputs``, which have keys."""
    assert inputs.keys is not None
    target = np.full(rows, -1)
    order = np.argsort(inputs.keys)
    ordered = inputs.keys[order]
    changed: list[int] = []
    gone: list[int] = []
    differs = any(one.whole and not one.is_same for one in known)
    hashes = hashed(inputs, 0, len(inputs)) if differs else np.empty(0)
    for one in known:
        if one.keys is None:
            continue
        at = np.minimum(np.searchsorted(ordered, one.keys), len(ordered) - 1)
        there = ordered[at] == one.keys
        now = np.where(there, order[at], -1)
        target[one.start : one.start + len(now)] = now
        gone += (one.start + np.flatnonzero(~there)).tolist()
        if one.whole and not one.is_same:
            changed += now[there][one.before[there] != hashes[now[there]]].tolist()
    return Matched(target, sorted(changed), gone)


def refusal(changed: Sequence[Compared], had: int, inputs: Inputs) -> UserError:
    """Rows that the run has answered are not what they were: which, and what to do. ``had``: how many it had."""
    what = _shift(changed, inputs) or _in_place(changed)
    if what is None:
        what = f"there are only {count_of(len(inputs), 'row')} of {had:,}"
    return UserError("resume", f"rows were not only added: {what}. To go on, {_REMEDY}", value="extend")


def _in_place(changed: Sequence[Compared]) -> str | None:
    found: list[int] = []
    for one in changed:
        same = one.before[: len(one.now)] == one.now
        found += (one.start + np.flatnonzero(~same)).tolist()
    missing = sum(len(one.before) - len(one.now) for one in changed)
    parts = [f"{rows_at(found)} changed"] if found else []
    parts += [f"the last {count_of(missing, 'row')} are gone" if missing > 1 else "the last row is gone"] * bool(
        missing
    )
    return " and ".join(parts) or None


def _shift(changed: Sequence[Compared], inputs: Inputs) -> str | None:
    """Whether rows were inserted or removed where the first one differs, told by those behind it."""
    whole = [one for one in changed if one.whole]
    if not whole or len(whole[0].now) == 0:
        return None
    first = whole[0]
    same = first.before[: len(first.now)] == first.now
    at = int(np.flatnonzero(~same)[0]) if not same.all() else len(same)
    start = first.start + at
    before = np.concatenate([first.before[at:], *(one.before for one in whole[1:])])[:_LOOKED]
    now = hashed(inputs, start, min(start + _LOOKED, len(inputs)))
    if not len(now) or not len(before):
        return None
    least = max(_in_order(before, now, len(before)), _SHARE)
    inserted, removed = _offset(now, before), _offset(before, now)
    if _in_order(before, now[inserted:], len(before)) > least:
        return f"{count_of(inserted, 'row')} inserted before row {start:,}"
    if _in_order(before[removed:], now, len(before) - removed) > least and 2 * removed < len(before):
        return f"{rows_at(range(start, start + removed))} {'are' if removed > 1 else 'is'} gone"
    return f"their order changed from row {start:,} on" if np.isin(before, now).all() else None


def _offset(longer: np.ndarray, other: np.ndarray) -> int:
    """Where the first of ``other`` stands in ``longer``; its end if nowhere."""
    found = np.flatnonzero(longer == other[0])
    return int(found[0]) if len(found) else len(longer)


def _in_order(one: np.ndarray, other: np.ndarray, rows: int) -> float:
    """Of so many rows the share that both hold in the same places."""
    length = min(len(one), len(other))
    return float(np.sum(one[:length] == other[:length])) / rows if rows else 0.0
