"""The seats of a run's fleets: who they were, what they did, how they died."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from runner.checkpoint.database import Writer
from runner.checkpoint.deaths import Death, Deaths, add_death
from runner.words import count_of


class Seats:
    """The seats of one session, for the checkpoint's only writer. ``deaths``: those of the run, kept up to date."""

    def __init__(self, writer: Writer, session: int, deaths: Deaths) -> None:
        self._writer, self._session, self.deaths = writer, session, deaths

    def join(self, name: str, facts: Mapping[str, Any]) -> int:
        """Record a seat; its number, which its answers bear."""
        values = (self._session, name, json.dumps(facts))
        query = "INSERT INTO seats (session, name, facts) VALUES (?, ?, ?)"
        with self._writer.commit():
            return int(self._writer.connection.execute(query, values).lastrowid or 0)

    def note(self, facts: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Record what is known of seats now, beside what was."""
        values = [(json.dumps(known), seat) for seat, known in facts]
        query = "UPDATE seats SET facts = json_patch(facts, ?) WHERE seat = ?"
        with self._writer.commit():
            self._writer.connection.executemany(query, values)

    def note_death(self, rows: Collection[int], why: str) -> None:
        """Record that a seat died while it computed these rows."""
        with self._writer.commit():
            add_death(self._writer.connection, Death(self._session, why), rows)  # its memory is its own matter
        self.deaths.rows.update(rows)
        self.deaths.why.update(dict.fromkeys(rows, why))

    def told(self) -> str:
        """Who computed the session, as a notice ends; "" without a fleet."""
        query = "SELECT json_extract(facts, '$.answers'), json_extract(facts, '$.deaths') FROM seats WHERE session = ?"
        found = self._writer.connection.execute(query, (self._session,)).fetchall()
        computed, died = sum(bool(answers) for answers, _ in found), sum(deaths or 0 for _, deaths in found)
        deaths = f", with {count_of(died, 'death')} among them" if died else ""
        return f", by {count_of(computed, 'seat')}{deaths}" if computed else ""

    def memory_deaths(self, name: str) -> int:
        """How often a seat of this name ran out of memory, in all sessions."""
        query = "SELECT sum(json_extract(facts, '$.memory_deaths')) FROM seats WHERE name = ?"
        return int(self._writer.connection.execute(query, (name,)).fetchone()[0] or 0)


def read_seats(connection: sqlite3.Connection, *, counted: bool = True) -> list[dict[str, Any]]:
    """A run's seats in the order of their joining: ``seat``, ``session``, ``name``, ``answers`` and their facts.

    ``run_answers`` is how many the run has, also those of sessions without a fleet, ``answers_share`` a seat's part.
    ``counted``: look at every answer. Otherwise a seat's number is the one noted last, up to a second before the end of
    a session that was killed, and the run's counts answers that were forgotten. ``is_latest``: in the latest session.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'seats'").fetchone():
        return []  # an earlier version's
    seats = connection.execute("SELECT seat, session, name, facts FROM seats ORDER BY seat").fetchall()
    if not seats:
        return []
    found = [
        {"seat": seat, "session": session, "name": name, "answers": 0, **json.loads(facts or "{}")}
        for seat, session, name, facts in seats
    ]
    (latest,) = connection.execute("SELECT max(session) FROM sessions").fetchone()
    (whole,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM completions").fetchone()
    if counted:
        given = dict(connection.execute("SELECT seat, count(*) FROM completions GROUP BY seat"))
        whole = sum(given.values())
        for one in found:
            one["answers"] = given.get(one["seat"], 0)
    whole = max(whole, sum(one["answers"] for one in found))  # some are noted before they are on disk
    for one in found:
        one["is_latest"] = one["session"] == latest
        one["run_answers"], one["answers_share"] = whole, one["answers"] / (whole or 1)
    return found
