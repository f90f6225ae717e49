"""Chat templates: messages to the text a model was trained on, with the date pinned.

A chat template is Jinja with a few functions, listed in the ``transformers`` documentation ("Writing a chat
template"): ``raise_exception``, ``strftime_now``, ``tojson`` without escapes, loop controls and ``{% generation %}``.
It is rendered here and not by ``apply_chat_template`` because that fills in today's date, which would change the
prompts at midnight.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.types import UserError


class ChatTemplate:
    """``variables`` (special tokens, chat_template_kwargs) are what the template may use besides the messages."""

    def __init__(self, template: str, date: str, variables: Mapping[str, Any]) -> None:
        self._date = parse_date(date)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": self._strftime}
        self._variables = dict(variables)
        try:
            self._template = environment.from_string(template)
            self._template.globals = dict(self._template.globals)  # a chain of dicts, copied at every rendering
        except jinja2.TemplateError as error:
            raise UserError(f"the model's chat template cannot be parsed: {error}", exit_code=3) from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation with the beginning of the answer; jinja2.TemplateError if the template refuses it."""
        return self._template.render(messages=messages, add_generation_prompt=True, **self._variables)

    def _strftime(self, pattern: str) -> str:
        return self._date.strftime(pattern)


def parse_date(date: str) -> datetime.datetime:
    """An ISO date or time; UserError otherwise."""
    try:
        return datetime.datetime.fromisoformat(date)
    except ValueError:
        raise UserError(f"the run's date {date!r} is not an ISO date such as 2026-01-31") from None


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


class _Generation(Extension):
    """``{% generation %}`` marks the answer for training; what it holds is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 the base class's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
