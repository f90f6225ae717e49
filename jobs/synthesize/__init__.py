"""The job ``synthesize``: new rows until enough are accepted, each drawn, written, filtered and compared.

Modules:
filters  Filters of synthetic rows that look at one draft alone. A filter is a small class with ``reason(draft)``.
ordered  Filters of synthetic rows that compare a draft with what was accepted before it, in the order of the attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.synthesize import filters, ordered
from jobs.synthesize.filters import Draft
from runner.keys import check_keys, key
from runner.types import SEED_ROW, Columns, RejectedError, Request, Row, Sampling, Setting, Steps, UserError

if TYPE_CHECKING:
    from runner.data.source import DataSource
    from runner.results.run import Run

COMBINE = ("sample", "product")
LOCAL: dict[str, type] = {
    "complete": filters.Complete,
    "length": filters.Length,
    "deny": filters.Deny,
    "schema": filters.Schema,
    "language": filters.Language,
    "overlap": filters.Overlap,
}
ORDERED: dict[str, type] = {"exact": ordered.Exact, "near": ordered.Near, "balance": ordered.Balance}
ATTEMPTS_A_ROW = 10
OURS = ("text", "attempt", SEED_ROW, "score", "error", "usage")
Weights = dict[str, dict[str, float]]


@dataclass
class Synthesize:
    r"""Write new rows until enough of them are accepted.

    Each attempt takes the next row of the data set as its seed, draws a value for each attribute and some few-shot
    examples, lets the model write a text, and passes it through the filters in order. The run ends when ``target``
    rows are accepted or ``max_attempts`` are spent, and reports how many each filter rejected and how diverse the
    texts are. The same ``seed`` gives the same rows, however often the run is killed.

        rowmill run job=synthesize dataset=csv dataset.path=mail.csv job.target=20 run_name=made \
            'job.attributes={tone: {friendly: 2, cross: 1}}' 'job.filters.deny={patterns: ["(?i)as an ai"]}'
        rowmill export outputs/made rejected.jsonl --rejected

    ``--rejected`` writes the rejected attempts with their reasons; ``--join`` puts the seed row beside each new row.

    The filters near, schema and language need ``pip install -e '.[synthesize]'``; near is on by default, and
    ``job.filters.near=null`` turns it off. A filter of your own is a class with a method ``reason(draft)``, which
    returns None or why the draft is rejected: ``job.filters.NAME={_target_: module.Class}``.

    ``dataset=none`` starts from attributes and ``examples`` alone. ``prompt=synthesize_chat`` suits larger models.

    The template finds the seed row's columns, each attribute by name, ``attributes`` (all of them), ``shots`` (rows)
    and ``column``.
    """

    target: int = key(100, least=1)
    max_attempts: int | None = None
    column: str = "text"
    attributes: dict[str, Any] = field(default_factory=dict)
    combine: str = key("sample", among=COMBINE)
    shots: int = key(3, least=0)
    examples: list[dict[str, Any]] = field(default_factory=list)
    temperature: float = key(0.8, least=0)
    top_p: float = key(0.95, least=0, most=1)
    ahead: int = key(256, least=1)
    filters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keys(self, "job.")
        self.most = ATTEMPTS_A_ROW * self.target if self.max_attempts is None else self.max_attempts
        if self.most < self.target:
            raise UserError("job.max_attempts", f"it must be at least job.target={self.target}", value=self.most)
        self.weights = read_weights(self.attributes)
        chosen = {name: options for name, options in self.filters.items() if options is not None}
        self._judge = _made("judge", filters.Judge, chosen.pop("judge")) if "judge" in chosen else None
        self._ordered = {name: options for name, options in chosen.items() if name in ORDERED}
        self._make_ordered()
        self._local = {name: _made(name, _local_class(name, o), o) for name, o in chosen.items() if name not in ORDERED}

    def open(self, setting: Setting) -> None:
        """Check what the data set must have for this."""
        known = list(self.examples[0]) if self.examples else setting.source.column_names
        if self.shots and self.column not in known and len(setting.source) > 1:
            raise UserError(
                "job.column", f"the examples have no such column; they have {', '.join(known)}", value=self.column
            )
        self._setting = setting

    def attempts(self) -> Synthesis:
        """A new start, before the first attempt."""
        return Synthesis(self, self._setting, self._make_ordered())

    def variables(self) -> dict[str, Any]:
        """What the prompt template sees beside the seed row's columns."""
        first = {name: next(iter(values)) for name, values in self.weights.items()}
        return {**first, "attributes": first, "shots": [], "column": self.column}

    def made_from(self, columns: Columns) -> dict[str, Any]:
        """The prompt's variables behind a row that was made, without its few-shot examples: for training data."""
        return {"attributes": {name: columns[name] for name in self.weights}, "shots": [], "column": self.column}

    def figures(self, run: Run, source: DataSource) -> dict[str, Any]:
        """How different the texts are."""
        from runner.results.diversity import diversity

        return {"diversity": diversity(run)}

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            text: The text.
            the attributes: The value drawn for each attribute.
            score: With the filter judge: the model's score of the text.
            attempt: The number of the attempt.
            seed_row: The number of the row of the data set that the attempt started from.
        """
        fields = [("text", pa.string()), *((name, pa.string()) for name in self.weights)]
        fields += [("score", pa.float64())] if self._judge else []
        return pa.schema([*fields, ("attempt", pa.int64()), (SEED_ROW, pa.int64())])

    def steps(self, row: Row) -> Steps:
        """The text and, if it passes the filters that look at it alone, the judge's question."""
        answer = yield Request(sampling=Sampling(self.temperature, self.top_p))
        draft = Draft(answer.text.strip(), row, answer.finish_reason)
        columns: Columns = {"text": draft.text, **row["attributes"], "attempt": row["attempt"], SEED_ROW: row[SEED_ROW]}
        if not draft.text:
            raise RejectedError("empty", "there is no text", columns)
        for name, one in self._local.items():
            if (why := one.reason(draft)) is not None:
                raise RejectedError(name, why, columns)
        if self._judge:
            columns["score"] = score = self._judge.score((yield self._judge.request(draft)).logprobs)
            if score < self._judge.least:
                raise RejectedError("judge", f"{score:.2f} of {self._judge.scale}", columns)
        return columns

    def _make_ordered(self) -> dict[str, Any]:
        made = {name: _made(name, ORDERED[name], options) for name, options in self._ordered.items()}
        if "balance" in made:
            _named("balance", lambda: made["balance"].set_shares(self.weights, self.target))
        return made


class Synthesis:
    """The attempts of one run, see ``runner.types.Attempts``. Memory: what exact and near keep of accepted texts."""

    def __init__(self, job: Synthesize, setting: Setting, ordered: dict[str, Any]) -> None:
        self.target, self.most, self.ahead = job.target, job.most, job.ahead
        self._job, self._source, self._seed = job, setting.source, setting.seed
        self._ordered = ordered
        self._combinations = list(product(*job.weights.values())) if job.combine == "product" else []
        self._seeded = False

    def row(self, number: int) -> Row:
        """The seed row's columns, the attributes drawn, and the few-shot examples drawn."""
        chance = Random(f"{self._seed} {number}")
        seed = number % len(self._source)
        attributes = self._attributes(number, chance)
        shots = self._shots(seed, chance)
        more = {"attributes": attributes, "shots": shots, "column": self._job.column, "attempt": number, SEED_ROW: seed}
        return {**self._source_row(seed), **attributes, **more}

    def judge(self, number: int, columns: Columns) -> str | None:
        """Compare with what was accepted before."""
        if not self._seeded:
            self._compare_with_seeds()
        for name, one in self._ordered.items():
            if (why := one.reason(columns)) is not None:
                return f"{name}: {why}"
        for one in self._ordered.values():
            one.keep(number, columns)
        return None

    def _attributes(self, number: int, chance: Random) -> dict[str, str]:
        balance = self._ordered.get("balance")
        full = balance.full(max(0, number - self.ahead + 1)) if balance else frozenset()
        weights = self._job.weights
        if self._combinations:
            turns = self._combinations[number % len(self._combinations) :] + self._combinations
            drawn = (dict(zip(weights, turn, strict=True)) for turn in turns)
            return next(values for values in drawn if full.isdisjoint(values.items()))
        return {name: _draw(values, {v for n, v in full if n == name}, chance) for name, values in weights.items()}

    def _shots(self, seed: int, chance: Random) -> list[Row]:
        job = self._job
        pool = len(job.examples) or len(self._source)
        taken: set[int] = set() if job.examples else {seed}
        shots: list[Row] = []
        while len(shots) < job.shots and len(taken) < pool:
            place = int(chance.random() * pool)
            if place not in taken:
                taken.add(place)
                shot = job.examples[place] if job.examples else self._source_row(place)
                shots += [shot] if str(shot.get(job.column) or "").strip() else []
        return shots

    def _source_row(self, place: int) -> Row:
        return next(self._source.rows(place, place + 1))

    def _compare_with_seeds(self) -> None:
        self._seeded = True
        rows = [*self._job.examples, *(self._source.rows(0) if self._job.column in self._source.column_names else ())]
        texts = [text for row in rows if isinstance(text := row.get(self._job.column), str)]
        for one in self._ordered.values():
            one.seed(texts)


def read_weights(attributes: Mapping[str, Any]) -> Weights:
    """Each attribute's values with their weights; UserError for what is no list of texts and no mapping to numbers."""
    weights: Weights = {}
    for name, values in attributes.items():
        if name in OURS:
            raise UserError("job.attributes", f"{name!r} is an output column already: choose another name")
        given = values if isinstance(values, Mapping) else dict.fromkeys(values, 1) if isinstance(values, list) else {}
        if not given or not all(_is_weight(weight) for weight in given.values()):
            raise UserError(f"job.attributes.{name}={values}: it must be a list of values or {{value: weight, ...}}")
        if wrong := [value for value in given if not isinstance(value, str)]:
            raise UserError(f"job.attributes.{name}: YAML does not read {wrong[0]!r} as text; put it in quotes")
        weights[str(name)] = {str(value): float(weight) for value, weight in given.items()}
    return weights


def _is_weight(weight: Any) -> bool:
    return isinstance(weight, int | float) and not isinstance(weight, bool) and weight > 0


def _draw(values: Mapping[str, float], full: set[str], chance: Random) -> str:
    left = {value: weight for value, weight in values.items() if value not in full} or values
    at = chance.random() * sum(left.values())
    for value, weight in left.items():
        at -= weight
        if at < 0:
            return value
    return value


def _local_class(name: str, options: Any) -> type:
    target = options.get("_target_") if isinstance(options, Mapping) else None
    if target is not None:
        module, _, own = str(target).rpartition(".")
        found = getattr(import_module(module), own, None)
        if not isinstance(found, type) or not callable(getattr(found, "reason", None)):
            raise UserError(
                f"job.filters.{name}._target_", "it must be a class with a method reason(draft)", value=target
            )
        return found
    if name not in LOCAL:
        known = ", ".join([*LOCAL, "judge", *ORDERED])
        raise UserError(f"job.filters.{name}: there is no such filter; available: {known}, or _target_ for your own")
    return LOCAL[name]


def _made(name: str, kind: type, options: Any) -> Any:
    if not isinstance(options, Mapping):
        raise UserError(f"job.filters.{name}={options}: it must be {{option: value}}, {{}} or null for off")
    values = {key: value for key, value in options.items() if key != "_target_"}

    def make() -> Any:
        signature(kind).bind(**values)  # says what is wrong without naming the class
        return kind(**values)

    return _named(name, make)


def _named(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        raise error.at(f"job.filters.{name}.{error.key}" if error.key else f"job.filters.{name}") from error
    except TypeError as error:
        raise UserError(f"job.filters.{name}", str(error)) from error
