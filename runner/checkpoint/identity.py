"""What a run is: its columns, and how it differs from another run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from runner.text.schema.formats import TYPES
from runner.types import UserError

_SHOWN = 60
_COLUMN = re.compile(r"(.*?): (\w+<.*>|\w+(?:[^\w:][^:]*)?)", re.DOTALL)


def check_identity(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any], hint: str = "") -> None:
    """Raise UserError with a line ``key: old -> new`` for each value that differs (both as JSON gives them back)."""
    lines = "\n".join(f"  {line}" for line in difference(*comparable(old, new)))
    if not lines:
        return
    raise UserError(
        f"{run_dir} belongs to a different run:\n{lines}\n{hint}"
        "choose another run_name, or resume=force to start over in a new directory beside it"
    )


class OutputColumns(NamedTuple):
    """A run's columns. ``kept``: the source's column for each kept one; ``job``: the job's, with their Arrow types."""

    kept: dict[str, str]
    job: dict[str, str]

    @property
    def names(self) -> list[str]:
        """All columns in the order of the output."""
        return [*self.kept, *self.job, "error", "usage"]


def column_list(fields: Iterable[Any]) -> list[str]:
    """An Arrow schema's columns as an identity holds them."""
    return [f"{field.name}: {field.type}" for field in fields]


def simple_type(name: str) -> pa.DataType | None:
    """The Arrow type that ``column_list`` gives this name; None for a list or a struct."""
    try:
        return next((kind for kind in TYPES.values() if str(kind) == name), None) or pa.type_for_alias(name)
    except ValueError:
        return None


def output_columns(identity: Mapping[str, Any]) -> OutputColumns:
    """The columns of the run with this identity, which is ``completed``."""
    kept = dict(identity["keep"])
    return OutputColumns(kept, dict(map(_name_and_type, identity["columns"][len(kept) : -2])))  # less error and usage


def _name_and_type(column: str) -> tuple[str, str]:
    """Of a column as in ``column_list``; a colon may stand in its name, and in the type of a list or a struct."""
    found = _COLUMN.fullmatch(column)
    return (found[1], found[2]) if found else (column, "")


def completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is written today: earlier ones name kept columns without the source's name for them."""
    found = dict(identity)
    if "tokens" in identity and "prompt" not in identity:  # windows of a text
        found |= {"made": True, "figures": "perplexity"}
        found["dataset"] = {key: value for key, value in identity["dataset"].items() if key != "path"}
    keep = identity.get("keep") or []
    if isinstance(keep, list):
        found["keep"] = {name: _source_name(name, identity) for name in keep}
    return found


def _source_name(name: str, identity: Mapping[str, Any]) -> str:
    """The gold column was called ``gold`` where the job has a column of its name."""
    gold = identity["dataset"].get("gold") if name == "gold" else None
    job = [_name_and_type(column)[0] for column in identity["columns"][len(identity["keep"]) :]]
    return str(gold) if gold in job else name


def comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both completed, and without the source's names where the old one does not have them."""
    named = isinstance(old.get("keep", {}), dict)
    old, new = completed(old), completed(new)
    if not named:
        old, new = ({**one, "keep": list(one["keep"])} for one in (old, new))
    return old, new


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
