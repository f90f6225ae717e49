"""Right answers: which label, or which spans, a cell of the gold column means.

A cell is a label's name or, where ``dataset.classes`` or the data set itself names its classes, the number of one. A
number may be written as 1, 1.0 or "1", a yes or no as JSON's true and false or as Python's True and False. A cell that
is no label is the only one that it differs from in nothing but case or spaces ("Positive " for ``positive``). There is
no right answer where the cell is null, blank or not a number, cannot be read, or is -1, which data sets of the hub have
for it; unless a label is called so.

Spans are a list of ``{start, end, kind}``, or of ``[start, end, kind]``, or its JSON; ``{entities: [...]}`` around it
is what spaCy writes, ``value`` around each what Label Studio does. No span is an empty list, null is no right answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from runner.data.cells import UnreadableCell, values
from runner.plain import to_json
from runner.types import UserError
from runner.words import alike, composed

_KINDS = ("kind", "label", "type", "entity_group", "entity", "tag", "labels")  # what the kind of a span is called
_NO_SPANS = "it is no list of spans such as {start: 0, end: 5, kind: person}"
_WHOLE = re.compile(r"(-?[0-9]{1,9})(\.0+)?")


def gold_name(value: Any, classes: Sequence[str], labels: Collection[str] = ()) -> str | None:
    """The label that a cell means; None for none. ``classes``: the names of 0, 1, ...; ``labels``: further ones."""
    if value is None or isinstance(value, UnreadableCell) or value != value:  # NaN
        return None
    spelled, number = _spellings(value), _whole(value)
    known = next((text for text in spelled if text in classes or text in labels), None)
    if known is not None:
        return known
    if number is not None and 0 <= number < len(classes):
        return classes[number]
    if not spelled[0].strip() or (number == -1 and (classes or labels)):
        return None
    near = alike(spelled[0], (*classes, *labels)) if classes or labels else ()
    return near[0] if len(near) == 1 else spelled[0]


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: it is null, NaN or blank, or cannot be read."""
    if value is None or isinstance(value, UnreadableCell):
        return True
    return not value.strip() if isinstance(value, str) else bool(value != value)


def gold_members(value: Any, labels: Collection[str], classes: Sequence[str] = ()) -> frozenset[str] | None:
    """The labels that a cell of several means, those that are none of ``labels`` as well; None for none known.

    A list, a text that is a JSON list, or one whose parts ``;``, ``|`` or commas separate. An empty list means that the
    row has none of the labels, an empty cell that nobody knows.
    """
    if is_missing(value):
        return None
    members = {gold_name(one, classes, labels) for one in members_of(value, labels)}
    return frozenset(name for name in members if name is not None)


def members_of(value: Any, labels: Collection[str] = ()) -> frozenset[str]:
    """The members of a list, or of a text: one of ``labels``, a JSON list, or parted by ``;``, ``|`` or commas."""
    if isinstance(value, str):
        text = value.strip()
        if text in labels:
            return frozenset([text])
        try:
            value = json.loads(text) if text.startswith("[") else re.split(_separator(text), text)
        except ValueError:
            value = re.split(_separator(text), text)
    elif not isinstance(value, list | tuple | set | frozenset):
        value = [value]
    return frozenset(name for one in value if one is not None and (name := str(one).strip()))


def _separator(text: str) -> str:
    return next((re.escape(sign) for sign in ";|" if sign in text), ",")


def gold_values(table: pa.Table, gold: str) -> list[Any]:
    """The different cells of the gold column; UserError for lists and objects."""
    import pyarrow.compute as pc

    try:
        return values(gold, pc.unique(table.column(gold)))
    except pa.ArrowException as error:
        raise UserError(
            "dataset.gold", "labels cannot be compared with a column of lists or objects", value=gold
        ) from error


def _spellings(value: Any) -> tuple[str, ...]:
    """How a label may be written that this cell means, the usual way first."""
    if isinstance(value, bool):
        return str(value).lower(), str(value)
    if isinstance(value, list | tuple | Mapping):
        return (to_json(value),)
    number = _whole(value)
    if number is None or isinstance(value, int):
        return (str(value),)
    return (value, str(number)) if isinstance(value, str) else (str(number), str(value))


def _whole(value: Any) -> int | None:
    """The whole number that a cell holds, however it is written."""
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value.strip())
        return int(found[1]) if found else None
    if isinstance(value, float | Decimal):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return int(value) if isinstance(value, int) else None


class GoldSpan(NamedTuple):
    """``text[start:end]`` is of the ``kind``."""

    start: int
    end: int
    kind: str


def gold_spans(value: Any, text: str | None = None) -> list[GoldSpan] | None:
    """The spans that a cell means, in the order of the text and each once; None for no right answer.

    ValueError for what is none: with the ``text`` also for spans outside of it, or that are not the words they say.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{_NO_SPANS}: {value!r:.80}") from None
    if isinstance(value, Mapping):
        value = value.get("entities", value.get("spans"))
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_NO_SPANS}: {value!r:.80}")
    return sorted({_span(one, text) for one in value})


def _span(one: Any, text: str | None) -> GoldSpan:
    fields: Mapping[str, Any] = {}
    if isinstance(one, Mapping):
        fields = one["value"] if isinstance(one.get("value"), Mapping) else one
        kind = next((fields[name] for name in _KINDS if fields.get(name)), None)
        found = (fields.get("start"), fields.get("end"), kind)
    else:
        found = tuple(one) if isinstance(one, list | tuple) and len(one) == 3 else (None, None, None)
    start, end, kind = found
    kind = kind[0] if isinstance(kind, list | tuple) and len(kind) == 1 else kind
    start, end = _whole(start), _whole(end)
    if start is None or end is None or not isinstance(kind, str):
        raise ValueError(f"it is no span such as {{start: 0, end: 5, kind: person}}: {one!r:.80}")
    if not 0 <= start < end:
        raise ValueError(f"a span from {start} to {end} has no characters")
    if text is not None:
        if end > len(text):
            raise ValueError(f"a span ends at {end}, and the text has {len(text)} characters")
        said = fields.get("text")
        if isinstance(said, str) and said != text[start:end]:
            raise ValueError(f"{text[start:end]!r} stands from {start} to {end}, not {said!r}")
    return GoldSpan(start, end, kind)


def names_of_classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the ``ClassLabel`` columns, which ``datasets`` keeps in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {composed(name): f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("names")}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
