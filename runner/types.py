"""The nouns of a run and the seams between its modules.

A *row* of the data set becomes one or more *requests*; a request becomes a *sequence* of token ids; the engine
turns a sequence into a *completion*; the job turns completions into the row's output columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
SEED_ROW = "seed_row"  # the column of a job with attempts that says which row of the data set each was made from
SPARE_TOKENS = 8  # where a text meets its prompt, tokens may fall otherwise than in it alone

Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = dict[str, Any]


class UnreadableRow(dict[str, Any]):
    """A row that its source could not read: it ends with the error ``why``, no job is asked."""

    def __init__(self, row: Row, why: str) -> None:
        super().__init__(row)
        self.why = why


class UserError(Exception):
    """The configuration, the input or the run directory is at fault: one line that says what would be right.

    ``exit_code`` is 2 for bad configuration or input, 3 for what the model or the machine cannot do.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


class RowError(Exception):
    """One row cannot be finished; the message becomes its ``error`` column, counted by what stands before its colon.

    A job raises it, and is given it at its ``yield`` when one of the answers failed: ``completions`` are then all of
    them, in order, those that failed with ``error`` set. A job that can do without may catch it and go on.
    """

    def __init__(self, message: str = "", completions: Iterable[Completion] = ()):
        super().__init__(message)
        self.completions = tuple(completions)


class RejectedError(RowError):
    """An attempt is not good enough; the message reads ``filter: why``, ``columns`` are what it came to."""

    def __init__(self, message: str, columns: Columns):
        super().__init__(message)
        self.columns = columns


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    ``temperature`` 0 is greedy. Otherwise logits are divided by it, then cut to the ``top_k`` likeliest (0: all), to
    the smallest set holding ``top_p`` of the mass (1: all), to tokens at least ``min_p`` times as likely as the
    likeliest (0: all), and one of the rest is drawn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class Request:
    """What a job asks of the model for a row.

    The prompt is ``variables`` put into the run's prompt template, or ``messages`` ({"role", "content"}) instead of
    the template. With ``choices`` (surface texts) nothing is generated: each choice is scored as the continuation,
    to its end or, without ``whole``, up to the token by which it differs from all others.
    ``max_tokens``, ``sampling`` and ``seed`` default to the run's; None means the default. By default every request
    has draws of its own; those with the same prompt, sampling and ``seed`` are given the same answer.

    ``mean_logprob`` asks for the completion's value of that name, which is computed for those that ask only.
    ``top_logprobs`` asks for the completion's ``tokens``, each with as many alternatives (0: none); None: not asked.

    ``grammar``: rules that the answer must follow in place of the run's (``runner.text.structure.Structure.body``).

    ``retry`` marks a question asked again because its last answer would not do; the row's ``usage`` counts them.

    Raises ValueError for ``max_tokens`` below 1, for no choices, and for an empty one.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] | None = None
    choices: tuple[str, ...] | None = None
    whole: bool = True
    max_tokens: int | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    mean_logprob: bool = False
    top_logprobs: int | None = None
    grammar: str | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} in a request: it must be at least 1")
        if self.choices is not None and not (self.choices and all(self.choices)):
            raise ValueError(f"choices={self.choices} in a request: they must be texts, at least one, none empty")


@dataclass(frozen=True)
class Completion:
    """The model's answer to one request; what the checkpoint keeps of it.

    ``finish_reason``: ``stop`` (an end token or stop text), ``length`` (``max_tokens`` reached), ``choice`` (scored),
    ``error`` (``error`` says why, the rest is empty). ``logprobs[i]`` is the natural-log probability of choice i as the
    continuation of the prompt, summed over its tokens. ``mean_logprob`` is that of a generated token before the
    temperature, averaged over the answer with its end token; None unless asked for. ``reasoning`` is what the model
    thought before its answer, where its tokens tell the two apart; ``length`` with an empty ``text`` then means that it
    never came to one. Token counts are of model tokens; ``cached_tokens`` is how many of ``prompt_tokens`` were served
    from an already computed prefix.

    ``tokens``, None unless asked for, are those of ``text``: ``token`` (its text), ``logprob`` (before temperature),
    ``bytes`` (None where they are not known) and ``top_logprobs``, the likeliest tokens there with the same fields.
    """

    text: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    mean_logprob: float | None = None
    error: str | None = None
    reasoning: str | None = None
    tokens: tuple[Mapping[str, Any], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for storage."""
        return {name: v for name, v in vars(self).items() if v != _NOTHING_SAID[name]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Completion:
        """The inverse of ``to_json``."""
        fields = dict(record)
        if fields.get("logprobs") is not None:
            fields["logprobs"] = tuple(fields["logprobs"])
        if fields.get("tokens") is not None:
            fields["tokens"] = tuple(fields["tokens"])
        return cls(**fields)


_NOTHING_SAID: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Completion)}

# A job's generator for one row: yields one request or a list of independent ones, receives the completion or the list
# of completions in the same order, returns the row's output columns. When one of them failed, RowError is raised at the
# ``yield`` instead.
Steps: TypeAlias = Generator[Request | list[Request], Any, Columns]


@dataclass(frozen=True)
class Setting:
    """What a job may know of its run before the first row; the same in all sessions of a run.

    ``context`` is how many tokens the model takes, prompt and answer together (None: not known), ``max_tokens`` those
    of an answer unless a request says otherwise. ``count`` gives the number of tokens of each of some texts,
    ``prompt_tokens`` that of a request's prompt for the first row.
    """

    source: Source
    seed: int
    max_tokens: int
    context: int | None
    count: Callable[[list[str]], list[int]]
    prompt_tokens: Callable[[Request], int]

    def room(self, request: Request) -> int | None:
        """How many tokens the model's context has left for texts in this request, some to spare; None: not known."""
        if self.context is None:
            return None
        return self.context - self.prompt_tokens(request) - self.max_tokens - SPARE_TOKENS


@runtime_checkable
class Job(Protocol):
    """What is done with each row. ``steps`` is pure: no clock, no unseeded randomness, so that it can be replayed.

    A method ``open(setting: Setting)`` is called once before the first row, ahead of the model's weights, if the job
    has one; it may raise UserError. ``variables()`` names what the job puts into prompts beside the row's columns.
    """

    def steps(self, row: Row) -> Steps:
        """Yield requests, return the output columns named in ``schema``; raise RowError for a row that fails."""
        ...

    def schema(self) -> pa.Schema:
        """Names and Arrow types of the output columns, all nullable."""
        ...


class Attempts(Protocol):
    """What a job makes rows from where it has no data set to go through: its method ``attempts()`` returns them.

    The run's rows are then the first ``target`` attempts that are accepted, of at most ``most``. Decisions are made in
    the order of the attempts; attempt n is begun when n - ``ahead`` is decided upon. With a column ``seed_row`` the
    data set's columns can be joined to the output.
    """

    target: int
    most: int
    ahead: int

    def row(self, number: int) -> Row:
        """An attempt's row; it may depend on the decisions up to ``number - ahead``, and on no later ones."""
        ...

    def judge(self, number: int, columns: Columns) -> str | None:
        """Decide upon the next attempt that ended without an error: why it is rejected, None if it is accepted."""
        ...


@dataclass
class Sequence:
    """One request as the engine sees it: token ids, never text; plain data, which another process may compute.

    ``key`` names it (unique among the sequences in flight). ``draw_seed`` fixes its random draws: the same tokens,
    sampling and draw_seed give the same completion. ``choices`` are token ids to score instead of generating.
    ``boundaries`` are ascending token counts, each < len(tokens), at which a KV snapshot is worth keeping; the planner
    fills them in. ``grammar`` (Lark, in llguidance's dialect) is what the generated tokens must follow.
    """

    key: tuple[int, int]
    tokens: list[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    draw_seed: int = 0
    choices: tuple[tuple[int, ...], ...] | None = None
    mean_logprob: bool = False
    top_logprobs: int | None = None
    boundaries: tuple[int, ...] = ()
    grammar: str | None = None


class Scored(NamedTuple):
    """A generated token's log-probability before the temperature, and the likeliest tokens there with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """The engine's answer to one sequence; see Completion for the fields. ``tokens`` excludes the end token.

    ``scored`` has an entry for each of ``tokens`` if the sequence has ``top_logprobs``.
    """

    key: tuple[int, int]
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "stop"
    cached_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    mean_logprob: float | None = None
    error: str | None = None
    scored: tuple[Scored, ...] | None = None


class Costs(NamedTuple):
    """What sharing a prefix costs, in prompt tokens that the same model could compute alone in that time.

    ``snapshot`` once, a short forward pass of its own; ``level`` for every token computed behind it, one more part of
    attention to merge. Engines measure it.
    """

    snapshot: float = 64.0
    level: float = 0.02


class Gauge(NamedTuple):
    """What an engine takes: sequences in its latest step, how many it can hold, bytes of memory; None: not known."""

    slots: int | None = None
    slots_total: int | None = None
    memory_bytes: int | None = None


@dataclass
class Work:
    """What an engine has done: tokens of answers and of prompts computed, prompt tokens that a shared prefix spared
    (``cached``) or that attention computed in vain (``padded``), how many of its ``slots`` held sequences (``lanes``),
    both summed over its steps, the seconds spent on the model, and the tokens of answers that a grammar ``forced``.
    """

    decoded: int = 0
    prefilled: int = 0
    cached: int = 0
    padded: int = 0
    lanes: int = 0
    slots: int = 0
    model_s: float = 0.0
    forced: int = 0

    def __iadd__(self, other: Work) -> Work:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class Engine(Protocol):
    """A batch of sequences being answered by one resident model."""

    @property
    def work(self) -> Work:
        """What was done so far."""
        ...

    @property
    def costs(self) -> Costs:
        """What sharing a prefix costs here: the planner decides by it."""
        ...

    @property
    def batch_size(self) -> int:
        """How many sequences are computed at once, at present."""
        ...

    def gauge(self) -> Gauge:
        """What the engine takes now, as far as it knows."""
        ...

    def room(self) -> int:
        """How many more sequences could be added now (0: call ``step``)."""
        ...

    def add(self, sequences: list[Sequence]) -> None:
        """Let these sequences join the batch. A sequence that can never fit comes back from ``step`` with an error."""
        ...

    def step(self) -> list[Generation]:
        """Advance the batch by at least one forward pass; return the sequences that ended, in any order."""
        ...

    def close(self) -> None:
        """Finish nothing, free the device."""
        ...


class Source(Protocol):
    """The rows of a data set by position."""

    fingerprint: str
    column_names: list[str]

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int | None = None) -> Iterator[Row]:
        """Rows [start, stop), or all from ``start`` on, in order, as Python values."""
        ...

    def stored_place(self, row: int) -> int:
        """The row's place in the data set as it is stored, whichever rows were chosen in whatever order."""
        ...

    def table(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """These columns of rows [start, stop), with their own Arrow types."""
        ...
