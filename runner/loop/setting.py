"""What a job is told of its run before the first row."""

from __future__ import annotations

from typing import Any

from runner.config.hooks import Opens
from runner.data.source import DataSource
from runner.text.prompter import Prompter
from runner.types import Request, RowError, Setting

COUNTED_CHARS = 100_000  # tokenised together: a tokenizer takes some hundred bytes for each


def open_job(
    job: Opens | None, prompter: Prompter, source: DataSource, model_config: dict[str, Any], max_tokens: int, seed: int
) -> None:
    """Call the job's ``open``, if it has one; what it raises is a UserError."""
    if job is None:
        return
    job.open(
        Setting(
            source,
            seed,
            max_tokens,
            _context(model_config),
            lambda texts: count_tokens(prompter, texts),
            lambda request: _prompt_tokens(prompter, request, source),
        )
    )


def count_tokens(prompter: Prompter, texts: list[str]) -> list[int]:
    """The number of tokens of each text; token ids are held for some of them at a time."""
    counts: list[int] = []
    some: list[str] = []
    chars = 0
    for text in texts:
        some.append(text)
        chars += len(text)
        if chars >= COUNTED_CHARS:
            counts += map(len, prompter.vocabulary.encode(some))
            some, chars = [], 0
    return [*counts, *map(len, prompter.vocabulary.encode(some))]


def _prompt_tokens(prompter: Prompter, request: Request, source: DataSource) -> int:
    try:
        return len(prompter.render(request, next(source.rows(0, 1))))
    except RowError:  # the first row may lack something: the next ones are another matter
        return 0


def _context(model_config: dict[str, Any]) -> int | None:
    if not model_config:
        return None
    from runner.models.tensors import context_length

    return context_length(model_config)
