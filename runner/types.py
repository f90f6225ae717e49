"""The nouns of a run and the seams between its modules.

A *row* of the data set becomes one or more *requests*; a request becomes a *sequence* of token ids; the engine
turns a sequence into a *completion*; the job turns completions into the row's output columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, overload, runtime_checkable

from runner.words import open_words, remedy

if TYPE_CHECKING:
    import pyarrow as pa

EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
SEED_ROW = "seed_row"  # the column of a job with attempts that says which row of the data set each was made from
TOO_LONG = "too long"  # the kind of error of a row that exceeds the context or the memory for KV
CHAT_REFUSED = "the model's chat template refuses the messages"  # the kind of error of such a row
EMPTY_PROMPT = "empty prompt"
UNKNOWN_TOKEN = "unknown token"
BAD_GRAMMAR = "grammar"  # of a row whose grammar does not compile, or exceeds its limits
SPARE_TOKENS = 8  # a text may take other tokens where it meets its prompt

Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = dict[str, Any]


_UNSAID = object()


class UnreadableRow(dict[str, Any]):
    """A row that its source could not read: ``why`` is its error, and no job sees it."""

    def __init__(self, row: Row, why: str) -> None:
        super().__init__(row)
        self.why = why


class UserError(Exception):
    """The configuration, the input or the run directory is at fault: one line that says what would be right.

    ``UserError(key, text)`` blames a key of the configuration, ``UserError(text)`` something else. The line reads
    ``key=value: text``, without a ``value`` ``key: text``, and ``key is not set`` where the text goes on like that.
    ``file`` is the file that the text is about, which comes before it.
    """

    @overload
    def __init__(self, text: str, /, *, file: object = None, exit_code: int | None = None) -> None: ...

    @overload
    def __init__(
        self, key: str, text: str, /, *, value: object = ..., file: object = None, exit_code: int | None = None
    ) -> None: ...

    def __init__(self, *words: str, value: object = _UNSAID, file: object = None, exit_code: int | None = None) -> None:
        super().__init__(*words)
        *keys, self.text = words
        self.key = keys[0] if keys else None
        self.value, self.file, self._exit_code = value, file, exit_code

    @property
    def exit_code(self) -> int:
        """2 for bad configuration or input, 3 for what the model or the machine cannot do.

        The error that this one was raised from tells whether the machine failed.
        """
        if isinstance(self.__cause__, UserError) and self._exit_code is None:
            return self.__cause__.exit_code
        return self._exit_code or (EXIT_CANNOT_RUN if self._remedy() else EXIT_USAGE)

    def _remedy(self) -> str | None:
        return remedy(self.__cause__) if self._exit_code is None else None

    def at(self, key: str) -> UserError:
        """The same, with another key to blame."""
        return self._with([key, self.text], self.file)

    def adding(self, more: str) -> UserError:
        """The same, with more to say at the end."""
        return self._with([*self.args[:-1], self.text + more], self.file)

    def of(self, file: object) -> UserError:
        """The same, of another file or of the same under another name."""
        return self._with(self.args, file)

    def _with(self, words: Iterable[str], file: object) -> UserError:
        return UserError(*words, value=self.value, file=file, exit_code=self.exit_code)

    def __str__(self) -> str:
        value = "" if self.value is _UNSAID else f"={self.value}"
        sign = " " if self.file is None and self.text.startswith("is not ") else ": "
        text = self.text if self.file is None else f"{self.file} {self.text}"
        said = text if self.key is None else f"{self.key}{value}{sign}{text}"
        return open_words(f"{said}; {found}" if (found := self._remedy()) else said)


class RowError(Exception):
    """One row cannot be finished: ``kind: detail`` becomes its ``error`` column, and errors are counted by kind.

    A job raises it, and gets it at its ``yield`` when one of the answers failed: ``completions`` are then all of them,
    in order, those that failed with ``error`` set. A job that can do without the answer may catch it and go on.
    """

    def __init__(self, kind: str = "", detail: str = "", *, completions: Iterable[Completion] = ()) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail, self.completions = kind, detail, tuple(completions)

    @classmethod
    def read(cls, error: str, completions: Iterable[Completion] = ()) -> RowError:
        """The error whose text an ``error`` column or a completion holds."""
        kind, _, detail = error.partition(": ")
        return cls(kind, detail, completions=completions)


class RejectedError(RowError):
    """An attempt is not good enough: the ``filter`` that rejected it, why, and the ``columns`` that it returned."""

    def __init__(self, filter: str, why: str, columns: Columns) -> None:
        super().__init__(filter, why)
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


GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """What a job asks of the model for a row.

    The prompt is ``variables`` put into the run's prompt template, or ``messages`` ({"role", "content"}) instead of
    the template, or ``raw``, a text or token ids to be continued. ``template_kwargs`` are variables of the model's chat
    template, before those of the run. ``stop``: texts that end the answer beside the run's. With ``choices`` (surface
    texts) nothing is generated: each choice is scored as the continuation, to its end or, without ``whole``, up to the
    token by which it differs from all others. With ``cut``, of many choices those whose beginning makes them unlikely
    are not scored at all (-inf). ``top_choices``: only so many of the likeliest come back one by one (None: all).
    ``max_tokens``, ``sampling`` and ``seed`` default to the run's; None means the default. By default every request
    has draws of its own; those with the same prompt, sampling and ``seed`` are given the same answer.

    ``mean_logprob`` asks for the completion's value of that name, which is computed on request only.
    ``top_logprobs`` asks for the completion's ``tokens``, each with as many alternatives (0: none); None: not asked.
    ``grammar``: rules that the answer must follow in place of the run's (``runner.text.structure.Structure.body``).

    ``retry`` marks a question asked again because its last answer would not do; the row's ``usage`` counts them.
    ``once``: it is not to be asked again, whatever the answer; ``max_tokens`` is then a limit that holds.
    ``later``: some that the row may ask afterwards; what all prompts begin with is held for them, if memory lasts.

    Raises ValueError for ``max_tokens`` below 1, for no choices, and for an empty one.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] | None = None
    choices: tuple[str, ...] | None = None
    whole: bool = True
    cut: bool = False
    top_choices: int | None = None
    max_tokens: int | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    mean_logprob: bool = False
    top_logprobs: int | None = None
    grammar: str | None = None
    retry: bool = False
    once: bool = False
    raw: str | tuple[int, ...] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    later: tuple[Request, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} in a request: it must be at least 1")
        if self.choices is not None and not (self.choices and all(self.choices)):
            raise ValueError(f"choices={self.choices} in a request: they must be texts, at least one, none empty")


@dataclass  # not frozen, which makes one three times as slowly
class Completion:
    """The model's answer to one request; what the checkpoint keeps of it. Nobody changes one.

    ``finish_reason``: ``stop`` (an end token or stop text), ``length`` (``max_tokens`` reached), ``choice`` (scored),
    ``error`` (``error`` says why, the rest is empty). ``logprobs[i]`` is the natural-log probability of choice i as the
    continuation of the prompt, summed over its tokens. With ``top_choices`` there are (i, log-probability) of the
    ``likeliest`` instead, likeliest first, and the logarithm of all ``others``' probabilities together.
    ``mean_logprob`` is that of a generated token before the temperature, averaged over the answer with its end token;
    None unless asked for. ``reasoning`` is what the model thought before its answer, where its tokens tell the two
    apart; ``length`` with an empty ``text`` then means that it never got that far. Token counts are of model tokens;
    ``cached_tokens`` is how many of ``prompt_tokens`` were served from an already computed prefix.

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
    likeliest: tuple[tuple[int, float], ...] | None = None
    others: float | None = None

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
        if fields.get("likeliest") is not None:
            fields["likeliest"] = tuple((int(place), score) for place, score in fields["likeliest"])
        return cls(**fields)


_NOTHING_SAID: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Completion)}


@dataclass(frozen=True)
class Example:
    """A row with its right answer, as the model would write it, for a few-shot example; see a job's ``example``.

    An answer that depends on the request is a function of its variables; several questions about the row are a list of
    variables and answers. ``variables`` are the job's own for this row. ``group``: what ``select=balanced`` takes as
    many of; the answer if it is not given.
    """

    answer: str | Callable[[Mapping[str, Any]], str] | Sequence[tuple[Mapping[str, Any], str]]
    variables: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None


# A job's generator for one row: yields one request or a list of independent ones, receives the completion or the list
# of completions in the same order, returns the row's output columns. When one of them failed, RowError is raised at the
# ``yield`` instead.
Steps: TypeAlias = Generator[Request | list[Request], Any, Columns]


@dataclass(frozen=True)
class Setting:
    """What a job may know about its run before the first row; the same in all sessions of a run.

    ``context`` is how many tokens the model takes, prompt and answer together (None: not known), ``max_tokens`` how
    many an answer may have unless a request says otherwise. ``count`` gives the number of tokens of each text in a
    list, ``prompt_tokens`` that of a request's prompt for the first row.
    """

    source: Source
    seed: int
    max_tokens: int
    context: int | None
    count: Callable[[list[str]], list[int]]
    prompt_tokens: Callable[[Request], int]

    def room(self, request: Request) -> int | None:
        """How many tokens of the context are left for texts in this request, less a few to spare; None: not known."""
        if self.context is None:
            return None
        return self.context - self.prompt_tokens(request) - self.max_tokens - SPARE_TOKENS


@runtime_checkable
class Job(Protocol):
    """What is done with each row. ``steps`` is pure: no clock, no unseeded randomness, so that it can be replayed.

    A method ``open(setting: Setting)`` is called once before the first row, ahead of the model's weights, if the job
    has one; it may raise UserError. ``variables()`` names what the job puts into prompts besides the row's columns.
    """

    def steps(self, row: Row) -> Steps:
        """Yield requests, return the output columns named in ``schema``; raise RowError for a row that fails."""
        ...

    def schema(self) -> pa.Schema:
        """Names and Arrow types of the output columns, all nullable."""
        ...


class Attempts(Protocol):
    """Where a job's rows come from if it goes through no data set: its method ``attempts()`` returns them.

    The run's rows are then the first ``target`` attempts that are accepted, of at most ``most``. Decisions are made in
    the order of the attempts; attempt n begins once n - ``ahead`` has been decided. With a column ``seed_row`` the
    data set's columns can be joined to the output.
    """

    target: int
    most: int
    ahead: int

    def row(self, number: int) -> Row:
        """An attempt's row; it may depend on the decisions up to ``number - ahead``, and on no later ones."""
        ...

    def judge(self, number: int, columns: Columns) -> str | None:
        """Decide on the next attempt that ended without an error: why it is rejected, None if it is accepted."""
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
