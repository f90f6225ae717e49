"""Filters of synthetic rows that look at one draft alone. A filter is a small class with ``reason(draft)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

from runner.patterns import pattern
from runner.text.schema.check import SchemaCheck, read_json, schema_problem
from runner.text.schema.dialects import modern
from runner.text.scripts import count_characters, count_words, ngrams, sentences, words
from runner.text.templates import Template
from runner.types import Request, Row, UserError

_UNITS: dict[str, Callable[[str], int]] = {
    "words": count_words,
    "characters": count_characters,
    "sentences": lambda text: len(sentences(text)),
}


@dataclass(frozen=True)
class Draft:
    """A text that the model wrote for an attempt's ``row``, and how it ended."""

    text: str
    row: Row
    finish_reason: str = "stop"


class Filter(Protocol):
    """Decides upon a draft by itself; pure. Its class raises UserError for options that make no sense."""

    def reason(self, draft: Draft) -> str | None:
        """Why the draft is rejected, None if it is not."""
        ...


@dataclass
class Complete:
    """Rejects texts that were cut off at ``engine.max_tokens``."""

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        return "cut off at engine.max_tokens" if draft.finish_reason == "length" else None


@dataclass
class Length:
    """Rejects texts of fewer than ``least`` or more than ``most`` words (``unit``: words, characters or sentences)."""

    least: int = 1
    most: int | None = None
    unit: str = "words"

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise UserError("unit", f"it must be {' or '.join(_UNITS)}", value=self.unit)

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        length = _UNITS[self.unit](draft.text)
        fits = self.least <= length and (self.most is None or length <= self.most)
        return None if fits else f"{length} {self.unit}"


@dataclass
class Deny:
    """Rejects texts in which one of the regular expressions is found."""

    patterns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self._compiled = [pattern(text) for text in self.patterns]
        except (ValueError, TypeError) as error:
            raise UserError("patterns", str(error), value=self.patterns) from error

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        found = (one.search(draft.text) for one in self._compiled)
        return next((f"contains {match[0]!r:.60}" for match in found if match), None)


@dataclass
class Schema:
    """Rejects texts that are not JSON, or not valid against the JSON Schema ``schema``."""

    schema: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _need("jsonschema", "jsonschema")
        schema = modern(self.schema)
        if problem := schema_problem(schema):
            raise UserError("schema", f"it is not a JSON Schema: {problem[1]}")
        self._check = SchemaCheck(schema)

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        try:
            value = read_json(draft.text)
        except ValueError as error:
            return f"not JSON ({error})"
        return self._check.problem(value)


@dataclass
class Language:
    """Rejects texts in languages other than those in ``among`` (ISO 639-1 codes; of ``pt-BR`` only ``pt`` counts)."""

    among: list[str] = field(default_factory=lambda: ["en"])

    def __post_init__(self) -> None:
        _need("py3langid", "py3langid")
        self._codes = {code.replace("_", "-").partition("-")[0].lower() for code in self.among}

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        from py3langid import classify

        found, _ = classify(draft.text)
        return None if found in self._codes else f"its language is {found}"


@dataclass
class Overlap:
    """Rejects texts with more than the share ``most`` of their ``n``-grams of words in the few-shot examples."""

    n: int = 5
    most: float = 0.5

    def reason(self, draft: Draft) -> str | None:
        """See Filter."""
        mine = set(ngrams(words(draft.text), self.n))
        texts = [text for shot in draft.row.get("shots", []) for text in _texts(shot)]
        shown = {gram for text in texts for gram in ngrams(words(text), self.n)}
        share = len(mine & shown) / len(mine) if mine else 0.0
        return f"{share:.0%} of its {self.n}-grams are from the examples" if share > self.most else None


@dataclass
class Judge:
    """Rejects texts that the model itself scores below ``least``, from 1 to ``scale``.

    The score is the mean of the numbers 1 to ``scale``, weighted with their probabilities as the answer to ``prompt``
    (Jinja2 over the row's variables and ``text``). It becomes the column ``score``.
    """

    least: float = 3.0
    scale: int = 5
    prompt: str = (
        "How well written and natural is this text, from 1 (bad) to {{ scale }} (very good)? "
        "Answer with the number alone.\n\n{{ text }}\n\nScore: "
    )

    def __post_init__(self) -> None:
        if not 2 <= self.scale <= 9:
            raise UserError("scale", "it must be between 2 and 9", value=self.scale)
        self._template = Template("job.filters.judge.prompt", self.prompt)

    def request(self, draft: Draft) -> Request:
        """The question; its answer scores the numbers."""
        content = self._template.render({**draft.row, "text": draft.text, "scale": self.scale})
        numbers = tuple(str(number) for number in range(1, self.scale + 1))
        return Request(messages=({"role": "user", "content": content.rstrip()},), choices=numbers)

    def score(self, logprobs: tuple[float, ...]) -> float:
        """The expected number."""
        from jobs.label import normalise

        return sum(number * share for number, share in enumerate(normalise(logprobs), 1))


def _texts(shot: Any) -> list[str]:
    values = shot.values() if isinstance(shot, Mapping) else [shot]
    return [value for value in values if isinstance(value, str)]


def _need(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise UserError(f"it needs the package {package}: pip install 'rowmill[synthesize]'")
