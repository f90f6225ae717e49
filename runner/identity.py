"""Whether a run directory belongs to the run that wants to resume it, and if not, what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.types import UserError

_SHOWN = 60


def check_identity(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UserError with a line ``key: old -> new`` for each value that differs (both as JSON gives them back)."""
    if old == new:
        return
    lines = "\n".join(f"  {line}" for line in difference(old, new))
    raise UserError(
        f"{run_dir} belongs to a different run:\n{lines}\n"
        "choose another run_name, or resume=force to start anew in a fresh directory beside it"
    )


def difference(old: Any, new: Any, key: str = "") -> list[str]:
    """A line ``dotted.key: old -> new`` for each leaf that differs; long texts are cut to where they part."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        pairs = [(name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [f"{key}: {_show(old, new)} -> {_show(new, old)}"]
    return [line for name, a, b in pairs for line in difference(a, b, f"{key}.{name}".lstrip("."))]


class _Absent:
    pass


_ABSENT = _Absent()


def _show(value: Any, other: Any) -> str:
    if value is _ABSENT:
        return "(none)"
    text, against = (json.dumps(v, ensure_ascii=False, default=str) for v in (value, other))
    if len(text) <= _SHOWN:
        return text
    part = next(
        (i for i, (a, b) in enumerate(zip(text, against, strict=False)) if a != b), min(len(text), len(against))
    )
    start = min(max(0, part - _SHOWN // 3), len(text) - _SHOWN)
    end = start + _SHOWN
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
