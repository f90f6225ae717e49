"""Messages as a model's chat template takes them: content as text or in parts, apart or joined.

Templates differ in that without saying so, and some lose what they do not take. So each sequence of roles is tried with
words of our own before it is used: all of them must be in what the template makes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any, NamedTuple

import jinja2

from runner.text.chat.template import NOTHING, ChatTemplate

log = logging.getLogger("rowmill")

_CACHED = 4096
_BETWEEN = "\n\n"  # messages that are joined
Message = dict[str, Any]


class Form(NamedTuple):
    """``parts``: the roles whose content is a list of parts; ``joined``: 1: messages of one role, 2: the system's."""

    parts: frozenset[str] = frozenset()
    joined: int = 0


class Conversations:
    """A chat template behind the forms that it takes; ``join``: messages that it refuses apart may be joined."""

    def __init__(self, template: ChatTemplate, join: bool) -> None:
        self.template = template
        self._join = join
        self._known: dict[tuple[str, ...], Form | jinja2.TemplateError] = {}
        self._given: set[str] = set()  # variables that requests have set

    def render(self, messages: Sequence[Message], marked: bool = False, more: Mapping[str, Any] = NOTHING) -> str:
        """See ChatTemplate; ``marked``: with marks. Raises jinja2.TemplateError if no form has all the texts.

        What the template does not read of ``more`` is told once.
        """
        if new := more.keys() - self._given:
            self._given |= new
            if unread := self.template.unread(sorted(new)):
                log.warning("a request's variables: %s", unread)
        formed = formed_as(self.form(tuple([str(message.get("role")) for message in messages])), messages)
        return self.template.render_marked(formed, more) if marked else self.template.render(formed, more)

    def form(self, roles: tuple[str, ...]) -> Form:
        """The form in which the template takes messages with these roles; jinja2.TemplateError if there is none."""
        if roles not in self._known:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[roles] = self._tried(roles)
        found = self._known[roles]
        if isinstance(found, jinja2.TemplateError):
            raise found
        return found

    def _tried(self, roles: tuple[str, ...]) -> Form | jinja2.TemplateError:
        problems: list[str] = []
        for form in _forms(roles):
            problem = self._problem(roles, form)
            if problem is None and form.joined and not self._join:
                return jinja2.TemplateError(f"{problems[0]}; prompt.join=true joins such messages")
            if problem is None:
                return form
            problems.append(problem)
        return jinja2.TemplateError(problems[0])

    def _problem(self, roles: tuple[str, ...], form: Form) -> str | None:
        """Why the template does not take this form; None if it does."""
        probes = [f"probe{at}x" for at in range(len(roles))]
        messages = [{"role": role, "content": text} for role, text in zip(roles, probes, strict=True)]
        try:
            text = self.template.render(formed_as(form, messages))
        except Exception as error:  # whatever a template raises on what it does not expect
            return str(error) or type(error).__name__
        lost = next((role for role, probe in zip(roles, probes, strict=True) if probe not in text), None)
        return None if lost is None else f"it leaves out what the {lost} says"


def _forms(roles: tuple[str, ...]) -> Iterator[Form]:
    """What to try, the usual first."""
    different = list(dict.fromkeys(roles))
    for joined in range(3):
        yield Form(frozenset(), joined)
        yield Form(frozenset(different), joined)
        for count in range(1, len(different)):
            yield from (Form(frozenset(some), joined) for some in combinations(different, count))


def formed_as(form: Form, messages: Sequence[Message]) -> list[Message]:
    """The messages in a form."""
    if not any(form):
        return list(messages)
    formed = [dict(message) for message in messages]
    if form.joined:
        formed = [_joined(list(some)) for _, some in groupby(formed, key=lambda message: message.get("role"))]
    if form.joined == 2 and [message["role"] for message in formed[:2]] == ["system", "user"]:
        formed[:2] = [_joined(formed[:2]) | {"role": "user"}]
    for message in formed:
        if message.get("role") in form.parts and isinstance(message.get("content"), str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    return formed


def _joined(messages: list[Message]) -> Message:
    texts = [str(message["content"]) for message in messages if message.get("content")]
    return messages[0] | {"content": _BETWEEN.join(texts)} if len(messages) > 1 else messages[0]
