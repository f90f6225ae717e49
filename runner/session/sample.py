"""Some rows of a run looked at before it begins: what the job asks about them first, and how much they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from runner.loop.plan import Plan
from runner.loop.requests import Defaults, sequence_of
from runner.sequences import Sequence
from runner.session.prepare import Prepared
from runner.types import Request, Row, RowError

Length = tuple[int, int]  # tokens of a prompt and its answer, those of them in a prefix that is stored once
SHOWN = 3  # prompts
PLACES, ROWS_A_PLACE = 8, 256  # the rows looked at: from several places, for data sets are often sorted


@dataclass
class Looked:
    """The first requests of some rows. ``texts`` are those of the first few prompts."""

    rows: int = 0
    sequences: list[Sequence] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def look(ready: Prepared, rows_a_place: int = ROWS_A_PLACE) -> Looked:
    """Ask the job about rows from several places, and render what it asks first."""
    looked = Looked()
    asked: list[tuple[int, int, Request, Row]] = []
    for index, row in _rows(ready, rows_a_place):
        looked.rows += 1
        try:
            first = next(ready.job.steps(row), None)
        except Exception as error:  # in a run, too, whatever a job raises concerns its row only
            looked.errors.append(str(error) if isinstance(error, RowError) else f"{type(error).__name__}: {error}")
            continue
        requests = [first] if isinstance(first, Request) else list(first or [])
        asked += [(index, number, request, row) for number, request in enumerate(requests)]
    engine = ready.config.conf.engine
    defaults = Defaults(engine.max_tokens, engine.sampling(), ready.config.conf.seed, known=ready.known_tokens)
    prompts = ready.prompter.render_many([(request, row) for _, _, request, row in asked])
    for (index, number, request, row), tokens in zip(asked, prompts, strict=True):
        try:
            origin = ready.source.stored_place(index) if ready.attempts is None else index
            sequence = sequence_of((index, number), origin, request, tokens, defaults, ready.prompter.continuations)
        except RowError as error:
            looked.errors.append(str(error))
            continue
        looked.sequences.append(sequence)
        if len(looked.texts) < SHOWN:
            looked.texts.append(ready.prompter.text(request, row))
    return looked


def _rows(ready: Prepared, rows_a_place: int) -> Iterator[tuple[int, Row]]:
    rows = len(ready.source)
    if ready.attempts is not None:
        numbers = range(min(ready.attempts.ahead, ready.attempts.most, rows_a_place))
        yield from ((number, ready.attempts.row(number)) for number in numbers)
        return
    if rows <= PLACES * rows_a_place:
        yield from enumerate(ready.source.rows(0))
        return
    for place in range(PLACES):
        start = place * (rows - rows_a_place) // (PLACES - 1)
        yield from enumerate(islice(ready.source.rows(start), rows_a_place), start)


def plan_prefixes(sequences: list[Sequence]) -> int:
    """Set the sequences' boundaries as the run would; the prompt tokens that a cache will serve.

    Of identical requests without draws one is computed, the others' prompts count as served.
    """
    plan = Plan()
    computed: dict[tuple[int, ...], Sequence] = {}
    served = 0
    for sequence in sequences:
        tokens = tuple(sequence.tokens)
        if tokens in computed and sequence.sampling.temperature <= 0:
            served += len(tokens)
        else:
            computed[tokens] = sequence
            plan.add([sequence])
    plan.take(len(sequences))
    for sequence in sequences:
        sequence.boundaries = computed[tuple(sequence.tokens)].boundaries
    return served + plan.shareable


def answer_tokens(sequence: Sequence) -> int:
    """The most tokens that an answer to it takes: generated, or of its longest choice."""
    return sequence.max_tokens if sequence.choices is None else max(map(len, sequence.choices))


def lengths(sequences: list[Sequence]) -> list[Length]:
    """What the sequences' caches hold, for ``runner.session.preflight``."""
    return [(len(one.tokens) + answer_tokens(one), one.shared_tokens) for one in sequences]
