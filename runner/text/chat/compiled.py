"""Jinja templates that are compiled once, and filled in with as little as possible for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context


class Compiled:
    """A template of an environment. ``fixed``: the variables that are the same each time, but where others are given.

    Raises jinja2.TemplateError for a source that cannot be parsed.
    """

    def __init__(
        self, environment: jinja2.Environment, source: str | nodes.Template, fixed: Mapping[str, Any] | None = None
    ) -> None:
        self._template = environment.from_string(source)
        self._concat = environment.concat
        self._fixed = {**self._template.globals, **(fixed or {})}
        self._template.globals = {}  # each context makes a set of them, which only templates in files need
        self._idle: Context | None = None  # making one takes longer than filling in a short template

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises what the template does."""
        context, self._idle = self._idle or self._template.new_context(), None
        context.parent = {**self._fixed, **variables}
        text = self._concat(self._template.root_render_func(context))
        context.vars.clear()  # what the template has set
        context.exported_vars.clear()
        self._idle = context
        return text
