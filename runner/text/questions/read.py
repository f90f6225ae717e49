"""Questions out of a job's keys, each value checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.text.labels import Choice, read_labels
from runner.text.questions.question import LABELS, MULTI, SCALE, SCHEMA, Question
from runner.types import UserError
from runner.words import did_you_mean

_KEYS = ("name", "ask", "labels", "multi", "most", "threshold", "scale", "schema", "where", "gold", "max_tokens")
_ALONE = ("multi", "most", "threshold", "scale")  # keys of the job that are a question's own where there are several
MOST_LEVELS = 101  # 0 to 100
_SCALE = "it must be [lowest, highest] in whole numbers, such as [1,5], or the levels from the lowest to the highest"
_EXAMPLE = "'job.questions=[{name: tone, labels: [good, bad]}, {name: stars, scale: [1, 5]}]'"


def read_questions(job: Mapping[str, Any]) -> list[Question]:
    """The questions of a job with these keys; of those without ``questions`` there is one, without a name. UserError.

    Nothing else about the job is looked at.
    """
    if job.get("questions") is None:
        return [_read("job", {name: job[name] for name in ("labels", *_ALONE) if name in job})]
    asked = job["questions"]
    if isinstance(asked, Mapping):
        asked = [{"name": name, **_keys(f"job.questions.{name}", keys)} for name, keys in asked.items()]
    if not isinstance(asked, list | tuple) or not asked:
        raise UserError("job.questions", f"it must be a list of at least one question, such as {_EXAMPLE}", value=asked)
    for name in _ALONE:
        if job.get(name) not in (None, False, 0.5):
            raise UserError(f"job.{name}", "with job.questions, set it in one of them", value=job[name])
    found = [_named(f"job.questions[{at}]", keys) for at, keys in enumerate(asked)]
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError("job.questions", f"the name {twice[0]!r} is given twice")
    return found


def _named(key: str, keys: Any) -> Question:
    keys = _keys(key, keys)
    if unknown := [str(name) for name in keys if name not in _KEYS]:
        raise UserError(key, f"a question has no key {unknown[0]!r}{did_you_mean(unknown[0], list(_KEYS))}")
    name = keys.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        problem = "is not set: it names the question's column" if name is None else "it must be a word, such as tone"
        raise UserError(f"{key}.name", problem, **({} if name is None else {"value": name}))
    return _read(key, keys, name)


def _keys(key: str, keys: Any) -> dict[str, Any]:
    if not isinstance(keys, Mapping):
        raise UserError(key, "it must be a question with its keys, such as {name: tone, labels: [good, bad]}")
    return dict(keys)


def _read(key: str, keys: Mapping[str, Any], name: str = "") -> Question:
    kind = _kind(key, keys, name)
    choices: tuple[Choice, ...] = ()
    values: tuple[float, ...] = ()
    if kind == SCALE:
        choices, values = _levels(f"{key}.scale", keys["scale"])
    elif kind != SCHEMA:
        choices = tuple(read_labels(keys.get("labels"), f"{key}.labels", 1 if kind == MULTI else 2))
    texts = {what: _text(f"{key}.{what}", keys.get(what)) for what in ("ask", "gold")}
    return Question(
        key,
        name,
        kind,
        choices,
        values,
        ask=texts["ask"] or name,
        where=_where(f"{key}.where", keys.get("where")),
        gold=texts["gold"],
        most=_count(f"{key}.most", keys.get("most")),
        threshold=_thresholds(f"{key}.threshold", keys.get("threshold", 0.5), [choice.name for choice in choices]),
        schema=keys.get("schema"),
        max_tokens=_count(f"{key}.max_tokens", keys.get("max_tokens")),
    )


def _kind(key: str, keys: Mapping[str, Any], name: str) -> str:
    """What the question asks for; UserError for keys that do not go together."""
    if not isinstance(keys.get("multi", False), bool):
        raise UserError(f"{key}.multi", "it must be true or false", value=keys["multi"])
    given = [what for what in (SCALE, SCHEMA) if keys.get(what) is not None]
    if name and keys.get("labels") is not None:  # a job alone has those of its data set by default
        given.insert(0, LABELS)
    if name and len(given) != 1:
        raise UserError(key, f"the question {name!r} needs one of labels, scale and schema, and has {_listed(given)}")
    kind = MULTI if keys.get("multi") else given[-1] if given else LABELS
    if kind == MULTI and given and given != [LABELS]:
        raise UserError(f"{key}.multi", f"several labels a row and a {given[-1]} are two questions", value="true")
    for what in ("most", "threshold"):
        if kind != MULTI and keys.get(what) not in (None, 0.5):
            raise UserError(f"{key}.{what}", "it is for several labels a row: add multi=true", value=keys[what])
    if kind == SCHEMA and not isinstance(keys["schema"], Mapping):
        raise UserError(f"{key}.schema", "it must be a JSON Schema such as {type: object, properties: ...}")
    if kind != SCHEMA and keys.get("max_tokens") is not None:
        raise UserError(f"{key}.max_tokens", "only answers with a schema are written", value=keys["max_tokens"])
    return kind


def _listed(names: list[str]) -> str:
    return " and ".join(names) if names else "none of them"


def _levels(key: str, scale: Any) -> tuple[tuple[Choice, ...], tuple[float, ...]]:
    """The levels and what they are worth: numbers are worth themselves, others 1, 2, ..."""
    if isinstance(scale, Mapping):
        numbers = _numbers([*scale])
        named = [f"{number:g}" for number in numbers] if numbers else [*scale]
        choices = tuple(read_labels(dict(zip(named, scale.values(), strict=True)), key))
        return choices, _worth(key, numbers, len(choices), scale)
    if not isinstance(scale, list | tuple) or len(scale) < 2:
        raise UserError(key, _SCALE, value=scale)
    numbers = _numbers(scale)
    if numbers is None:
        choices = tuple(read_labels(list(scale), key))
        return choices, _worth(key, None, len(choices), scale)
    if len(numbers) == 2 and all(number == int(number) for number in numbers):
        low, high = map(int, numbers)
        if not 0 < high - low < MOST_LEVELS:
            raise UserError(key, f"{_SCALE}; at most {MOST_LEVELS} levels", value=scale)
        numbers = [float(number) for number in range(low, high + 1)]
    values = _worth(key, numbers, len(numbers), scale)
    return tuple(Choice(f"{value:g}", f"{value:g}") for value in values), values


def _worth(key: str, numbers: list[float] | None, count: int, scale: Any) -> tuple[float, ...]:
    values = numbers or [float(at) for at in range(1, count + 1)]
    if sorted(set(values)) != values or len(values) > MOST_LEVELS:
        raise UserError(key, f"{_SCALE}; at most {MOST_LEVELS} levels", value=scale)
    return tuple(values)


def _numbers(levels: Any) -> list[float] | None:
    """The levels as numbers; None if they are not all that."""
    try:
        found = [float(level) for level in levels if not isinstance(level, bool)]
    except (TypeError, ValueError):
        return None
    finite = all(abs(number) < float("inf") for number in found)
    return found if len(found) == len(levels) and finite else None


def _text(key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip()):
        raise UserError(key, "it must be a text", value=value)
    return None if value is None else str(value)


def _count(key: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(key, "it must be a whole number, at least 1", value=value)
    return value


def _thresholds(key: str, value: Any, names: list[str]) -> Any:
    """One probability for all labels, or by label; labels that are not named keep 0.5."""
    value = 0.5 if value is None else value
    if not isinstance(value, Mapping):
        return _probability(key, value)
    for name in map(str, value):
        if name not in names:
            raise UserError(key, f"there is no label {name!r}{did_you_mean(name, names)}")
    return {str(name): _probability(f"{key}.{name}", one) for name, one in value.items()}


def _probability(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(key, "it must be a number from 0 to 1, or such numbers by label", value=value)
    return float(value)


def _where(key: str, value: Any) -> str | None:
    """The condition as a filter: {tone: bad}, {tone: [bad, mixed]} or the filter itself, as in ``dataset.where``."""
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if not isinstance(value, Mapping) or not value:
        raise UserError(key, "it must be {name of an earlier question: answer}, or a filter: 'stars <= 2'", value=value)
    tests = []
    for name, answers in value.items():
        answers = answers if isinstance(answers, list | tuple) else [answers]
        if not answers or any(not isinstance(one, str | int | float) or isinstance(one, bool) for one in answers):
            raise UserError(f"{key}.{name}", "it must be an answer, or a list of them; put it in quotes", value=answers)
        tests.append(f"`{name}` in [{', '.join(map(_literal, answers))}]")
    return " and ".join(tests)


def _literal(answer: Any) -> str:
    if not isinstance(answer, str):
        return str(answer)
    quoted = answer.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"
