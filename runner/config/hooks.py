"""What a job may have beside ``steps`` and ``schema``: each hook is a method that a run calls if it is there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from runner.console import own_traceback
from runner.types import Attempts, Columns, Example, Job, Row, Setting, Steps, UserError

if TYPE_CHECKING:
    from runner.config.conf import RunConf
    from runner.data.source import DataSource
    from runner.data.survey import Survey
    from runner.results.run import Run
    from runner.text.prompter import Prompter
    from runner.text.structure import Structure

ALIKE = 0.85  # of difflib, from which a name is taken for a hook's


@runtime_checkable
class Opens(Protocol):
    """A job that is told of its run before the first row, ahead of the model's weights; it may raise UserError."""

    def open(self, setting: Setting) -> None: ...


@runtime_checkable
class NamesVariables(Protocol):
    """A job that puts variables into prompts beside the row's columns: their names, or examples by name."""

    def variables(self) -> Iterable[str]: ...


@runtime_checkable
class MakesAttempts(Protocol):
    """A job that makes rows of its own."""

    def attempts(self) -> Attempts: ...


@runtime_checkable
class ChecksRun(Protocol):
    """A job that raises UserError for settings of the run that do not go with its own."""

    def check_run(self, conf: RunConf) -> None: ...


@runtime_checkable
class ChecksSource(Protocol):
    """A job that raises UserError for what the data set or the model's tokenizer cannot give it."""

    def check_source(self, source: DataSource, prompter: Prompter) -> None: ...


@runtime_checkable
class TakesStructure(Protocol):
    """A job whose columns follow from what answers must look like; called ahead of ``schema`` and ``steps``."""

    def take_structure(self, structure: Structure | None, raw: bool) -> None: ...


@runtime_checkable
class NamesChoices(Protocol):
    """A job that knows what the choices of its first request are called, in their order."""

    def choice_names(self) -> Sequence[str]: ...


@runtime_checkable
class Fingerprints(Protocol):
    """A job whose output depends on files: what they hold, in short or as values of the job's keys; None for none."""

    def fingerprint(self) -> str | dict[str, Any] | None: ...


@runtime_checkable
class MakesExamples(Protocol):
    """A job that knows how the model would write a row's right answer, which is a label's name or the cell."""

    def example(self, row: Row, gold: Any) -> Example | None: ...


@runtime_checkable
class NamesAnswers(Protocol):
    """A job whose questions have columns of right answers of their own, and in each the names of the answers, if any.

    Its ``example`` takes these cells by column in the place of one; no column means ``dataset.gold``.
    """

    def answer_columns(self) -> Mapping[str, Collection[str]] | None: ...


@runtime_checkable
class Surveys(Protocol):
    """A job that asks something before the first row, once for a run; see ``runner.loop.prelude``."""

    def prelude(self, survey: Survey) -> Steps: ...

    def begin(self, found: Columns) -> None: ...


@runtime_checkable
class MadeFrom(Protocol):
    """A job that knows the variables of the prompt behind one of its rows."""

    def made_from(self, columns: Columns) -> Mapping[str, Any]: ...


@runtime_checkable
class HasFigures(Protocol):
    """A job that says how good its rows are, once all are finished: JSON values by name. It may raise anything."""

    def figures(self, run: Run, source: DataSource) -> Mapping[str, Any]: ...


KINDS = (
    *(Opens, NamesVariables, NamesChoices, Fingerprints, MakesAttempts, ChecksRun, ChecksSource, TakesStructure),
    *(MakesExamples, NamesAnswers, Surveys, MadeFrom, HasFigures),
)  # in the order of Hooks
NAMES = tuple(name for kind in KINDS for name in vars(kind) if not name.startswith("_"))


@dataclass(frozen=True)
class Hooks:
    """The job as each of what it is, None for what it is not."""

    opens: Opens | None
    variables: NamesVariables | None
    choices: NamesChoices | None
    fingerprints: Fingerprints | None
    attempts: MakesAttempts | None
    checks_run: ChecksRun | None
    checks_source: ChecksSource | None
    structured: TakesStructure | None
    examples: MakesExamples | None
    answers: NamesAnswers | None
    surveys: Surveys | None
    made_from: MadeFrom | None
    figures: HasFigures | None

    @classmethod
    def of(cls, job: Job) -> Hooks:
        """Of the job itself, not of what is wrapped around it."""
        found: list[Any] = [job if isinstance(job, kind) else None for kind in KINDS]
        return cls(*found)


@contextmanager
def calling(hook: str) -> Iterator[None]:
    """What a job raises in one of its hooks as a UserError: starting again would not help."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise UserError(f"the job's {hook}() fails:\n{own_traceback(error)}") from error


def check_hooks(job: Job, where: str) -> None:
    """Raise UserError for a method that is nearly called like a hook, and for a hook that is no method."""
    own = [name for name in dir(type(job)) if not name.startswith("_") and callable(getattr(type(job), name))]
    fields = getattr(type(job), "__dataclass_fields__", {})
    for name in NAMES:
        if hasattr(job, name):
            if not callable(getattr(job, name)):
                raise UserError(where, f"{name} must be a method, which the run calls; call the key otherwise")
            continue
        methods = [one for one in own if one not in fields and one not in NAMES]
        swapped = [one for one in methods if sorted(one) == sorted(name)]  # which difflib finds unlike in short names
        if near := swapped or difflib.get_close_matches(name, methods, 1, ALIKE):
            raise UserError(where, f"{near[0]} is never called; did you mean {name}? If not, begin it with _")
    if hasattr(job, "prelude") and not hasattr(job, "begin"):
        raise UserError(where, "prelude(survey) needs begin(found), which is given what it found")
