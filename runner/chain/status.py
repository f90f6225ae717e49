"""How far a chain is, by how far its stages are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast, get_type_hints

from runner.chain.plan import Stage
from runner.results.status import Status, rates_of


@dataclass(frozen=True)
class Progress:
    """The status of each stage's run, None for one that has not begun."""

    stages: Sequence[Stage]
    statuses: Sequence[Status | None]

    @cached_property
    def current(self) -> int | None:
        """The first stage that has something left to do; None where none has."""
        pairs = enumerate(zip(self.stages, self.statuses, strict=True))
        return next((at for at, (stage, one) in pairs if stage.rows != 0 and (one is None or not _is_done(one))), None)

    def status(self, pid: int | None, final_errors: Counter[str] | None) -> Status:
        """That of the whole chain. ``final_errors``: kinds of those in its output; None where that is not written."""
        begun = [one for one in self.statuses if one is not None]
        errors = final_errors
        if errors is None:
            errors = sum((Counter(one["error_kinds"]) for one in begun), Counter[str]())
        ended = "interrupted" if final_errors is None else "finished"
        figures: dict[str, Any] = {
            name: sum(cast(Any, one)[name] for one in begun) if kind in (int, float) else None
            for name, kind in get_type_hints(Status).items()
        }
        figures |= {
            "rows": begun[0]["rows"] if begun else 0,
            "finished": self._finished(),
            "errors": sum(errors.values()),
            "error_kinds": dict(errors.most_common()),
            "state": "running" if pid is not None else ended,
            "doing": self._doing() if pid is not None else None,
            "pid": pid,
            "started": min((one["started"] for one in begun if one["started"]), default=0.0),
            "rejected": begun[0]["rejected"] if begun else {},
            "seats": self._seats(),
            "stages": [_described(*pair) for pair in zip(self.stages, self.statuses, strict=True)],
        }
        return cast(Status, figures | rates_of(figures))

    def _finished(self) -> int:
        """Rows that no stage at work or to come may answer."""
        first, at = self.statuses[0], self.current
        if first is None or at is None:
            return first["finished"] if first else 0
        last = self.statuses[at]
        if last is None or not 0 < at == len(self.stages) - 1:
            return 0
        return first["finished"] - last["rows"] + last["finished"]

    def _seats(self) -> list[dict[str, Any]]:
        """Those of all stages; the latest are those of the stage that began last."""
        begun = [(stage.name, one) for stage, one in zip(self.stages, self.statuses, strict=True) if one is not None]
        return [
            {"stage": name, **seat, "is_latest": seat["is_latest"] and name == begun[-1][0]}
            for name, one in begun
            for seat in one["seats"]
        ]

    def _doing(self) -> str:
        """Which stage is at work, and what it does before its first row."""
        at = len(self.stages) - 1 if self.current is None else self.current
        status = self.statuses[at]
        more = f", {status['doing']}" if status is not None and status["doing"] else ""
        return f"stage {at + 1} of {len(self.stages)}, {self.stages[at].name}{more}"


def _described(stage: Stage, status: Status | None) -> dict[str, Any]:
    if status is None:
        return {"name": stage.name, "state": "finished" if stage.rows == 0 else "waiting", "rows": stage.rows}
    shown = ("state", "rows", "finished", "errors", "rows_per_s", "active_s")
    return {"name": stage.name, **{name: cast(Any, status)[name] for name in shown}}


def _is_done(status: Status) -> bool:
    return status["state"] == "finished" or status["finished"] == status["rows"]
