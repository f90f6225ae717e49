"""More rows for a run: what it has is verified, what is new becomes unfinished, and no answer is deleted.

A shard whose input rows are what they were stays. Rows of other shards are made again from the recorded answers: each
answer belongs to its request, so that rows whose prompt has changed are asked again, and no others.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runner.checkpoint.growth.changes import match, refusal
from runner.checkpoint.growth.inputs import Inputs, compared
from runner.checkpoint.identity import comparable, difference, output_columns
from runner.checkpoint.records import PRELUDE, read_prelude, with_crc
from runner.types import UserError
from runner.words import count_of

log = logging.getLogger("rowmill")
_PLACE = ("kind", "table", "split", "subset", "revision", "delimiter", "encoding", "limit", "fingerprint")
_ADDED = "if rows were added to the data, the same command with resume=extend computes these alone; otherwise "
_FIRST = (
    "what the job found in its rows before the first answer would be another with more rows: resume=extend keeps it, "
)
_DRAWN = "with engine.temperature above 0 a row's draws depend on dataset.key, which has to be there from the start: "
_KNOWN = "its rows are known by dataset.key: name the same column, "
_BATCH = 10_000


@dataclass(frozen=True)
class Growth:
    """How a run may get more rows than it has. ``inputs``: the rows that it would have now.

    ``extends``: whether ``resume=extend`` was asked for; None: it cannot be. ``take_over`` is called in the transaction
    that takes them in.
    """

    inputs: Inputs
    extends: bool | None = False
    take_over: Callable[[], None] = lambda: None

    @property
    def recorded(self) -> Inputs | None:
        """The rows whose hashes are worth recording."""
        return None if self.extends is None else self.inputs


@dataclass
class Plan:
    """What becomes of a run's parts. ``kept``: the shards that stay. ``placed``: those whose rows are where they were.

    ``replays``: whether rows that are finished, but in no shard yet, are made again. ``target``: of a run with keys,
    where each row of its shards is now, -1 if nowhere or not known. ``told``: what to tell.
    """

    kept: set[int] = field(default_factory=set)
    placed: set[int] = field(default_factory=set)
    replays: bool = True
    target: np.ndarray | None = None
    told: list[str] = field(default_factory=list)


def let_grow(
    connection: sqlite3.Connection,
    run_dir: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    growth: Growth,
    commit: Callable[[], AbstractContextManager[None]],
) -> str | None:
    """Give the run these rows, and return None; if they make it another run, a hint for its refusal.

    Raises UserError if ``resume=extend`` was asked for and rows that the run has are not what they were.
    """
    prelude = read_prelude(connection)
    if _differs_in_limit(old, new, growth.inputs):
        if old["rows"] > new["rows"]:
            return _grow_only(old)
        if prelude and not growth.extends:
            return _FIRST
        whole, left = divmod(old["rows"], old["shard_rows"])
        plan = Plan(set(range(whole + (left > 0 and old["rows"] == new["rows"]))), replays=False)
    elif beside := beside_rows(old, new):
        is_key = growth.extends and [line.partition(":")[0] for line in beside] == ["dataset.key"]
        return "" if not is_key else _DRAWN if new["dataset"].get("key") else _KNOWN
    elif not growth.extends:
        return "" if growth.extends is None else _ADDED
    else:
        plan = _plan(connection, run_dir, old, new, growth.inputs, prelude or {})
    with commit():
        _apply(connection, old, new, plan)
        growth.take_over()
    if growth.extends:
        _tell(old, new, plan, prelude)
    return None


def other_run(old: Mapping[str, Any], new: Mapping[str, Any], growth: Growth | None) -> list[str]:
    """What makes it another run, whether or not its rows are what they were; see ``difference``."""
    if growth is not None and old["rows"] <= new["rows"] and _differs_in_limit(old, new, growth.inputs):
        return []
    return beside_rows(old, new) if growth is not None and growth.extends else difference(*comparable(old, new))


def beside_rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What tells two runs apart beside the rows and columns of their data sets; see ``difference``."""
    old, new = comparable(old, new)
    before, now = old.get("dataset", {}), new.get("dataset", {})
    place = {name: before[name] for name in _PLACE if name in before}
    if "key" not in before and not new.get("engine", {}).get("temperature"):
        now = {name: value for name, value in now.items() if name != "key"}
    same: dict[str, Any] = {name: old[name] for name in ("rows", "keep") if name in old}
    if output_columns(old).job == output_columns(new).job:
        same["columns"] = old["columns"]
    return difference(old, {**new, "dataset": {**now, **place}, **same})


def _differs_in_limit(old: Mapping[str, Any], new: Mapping[str, Any], inputs: Inputs) -> bool:
    limit = old.get("dataset", {}).get("limit")
    dataset = {**new.get("dataset", {}), "limit": limit, "fingerprint": inputs.fingerprint_of(old["rows"])}
    return not difference(*comparable(old, {**new, "dataset": dataset, "rows": old["rows"]}))


def _grow_only(old: Mapping[str, Any]) -> str:
    return f"a run's rows only grow: give dataset.limit={old['rows']} or more, "


def _plan(
    connection: sqlite3.Connection,
    run_dir: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    inputs: Inputs,
    prelude: Mapping[str, Any],
) -> Plan:
    kept, key = output_columns(comparable(old, new)[0]).kept, new["dataset"].get("key")
    plan, known, replayed = Plan(), [], 0
    for one in compared(connection, run_dir, old["shard_rows"], kept, inputs, key):
        number = one.shard.shard
        if one.is_same and one.whole:
            plan.placed.add(number)
            plan.kept |= {number} if one.shard.rows == min(old["shard_rows"], new["rows"] - one.start) else set()
        if key is not None or not one.is_same:
            known.append(one)
        replayed += one.is_same and not one.whole
    changed = [one for one in known if not one.is_same]
    if key is None and (changed or new["rows"] < old["rows"]):
        raise refusal(changed, old["rows"], inputs)
    if key is not None:
        if changed and "calibration" in prelude:
            raise UserError("dataset.key", "calibrate.rows ties this run's rows to their places: some have others now")
        matched = match(known, old["rows"], inputs)
        plan.target = matched.target
        plan.told += matched.told
    if replayed:
        plan.told.append(f"{count_of(replayed, 'shard')} without hashes of all that went in: written again")
    if new["columns"] != old["columns"]:
        plan.kept.clear()
        more, less = (_without(*pair) for pair in ((new["columns"], old["columns"]), (old["columns"], new["columns"])))
        plan.told.append(
            f"all shards are written again with other columns: {more or 'none'} (before: {less or 'none'})"
        )
    return plan


def _without(names: list[str], others: list[str]) -> str:
    return ", ".join(name for name in names if name not in others)


def _apply(connection: sqlite3.Connection, old: Mapping[str, Any], new: Mapping[str, Any], plan: Plan) -> None:
    connection.execute("UPDATE run SET identity = ?, crc = ?", with_crc(json.dumps(new)))
    sealed = [shard for (shard,) in connection.execute("SELECT shard FROM shards")]
    connection.executemany("DELETE FROM shards WHERE shard = ?", ((one,) for one in sealed if one not in plan.kept))
    if plan.replays:
        connection.execute("DELETE FROM staged")
    if plan.target is not None and _move(connection, old["shard_rows"], plan.placed, plan.target):
        connection.execute("DELETE FROM deaths")  # of rows by position
        connection.execute("DELETE FROM digests")
        connection.execute("UPDATE digested SET upto = ?, crc = ?", with_crc(0))


def _move(connection: sqlite3.Connection, shard_rows: int, placed: set[int], target: np.ndarray) -> int:
    """Bring answers to where their rows are now; how many were moved.

    All but those of ``placed`` shards first get numbers below those of any row. There those stay whose rows are gone
    or not known: a request that is the same finds them by its digest.
    """
    first, last = connection.execute("SELECT coalesce(min(row), 0), coalesce(max(row), -1) FROM completions").fetchone()
    base, moved = min(first, PRELUDE) - 1, 0
    for shard in range(last // shard_rows + 1):
        if shard not in placed:
            moved += _renumber(connection, shard * shard_rows, (shard + 1) * shard_rows, lambda row: base - row)
    if moved:

        def place(row: int) -> int:
            now = int(target[base - row])
            return now if now >= 0 else row

        _renumber(connection, base - len(target) + 1, base + 1, place)
    return moved


def _renumber(connection: sqlite3.Connection, start: int, stop: int, number_of: Callable[[int], int]) -> int:
    """Give the answers of rows [start, stop) to other rows; how many there were."""
    change, count = "UPDATE completions SET row = ?, crc = ? WHERE row = ? AND number = ?", 0
    query = "SELECT row, number, digest, body FROM completions WHERE row >= ? AND row < ?"
    for at in range(start, stop, _BATCH):
        found = connection.execute(query, (at, min(at + _BATCH, stop))).fetchall()
        values = [(row, number, with_crc(number_of(row), number, *rest)) for row, number, *rest in found]
        connection.executemany(change, ((new[0], new[-1], row, number) for row, number, new in values))
        count += len(found)
    return count


def _tell(old: Mapping[str, Any], new: Mapping[str, Any], plan: Plan, prelude: Mapping[str, Any] | None) -> None:
    added = new["rows"] - old["rows"]
    log.info("resume=extend: %s", f"{old['rows']:,} rows became {new['rows']:,}" if added else "as many rows as before")
    for line in plan.told:
        log.warning("resume=extend: %s", line)
    if prelude and added:
        log.warning(
            "resume=extend: what was found before the first answer stays that of the first %d rows", old["rows"]
        )
