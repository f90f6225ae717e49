"""One Jinja2 template over a row's columns: sandboxed, with missing and null columns as errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from runner.text.vocabulary import clean
from runner.types import RowError, UserError
from runner.words import did_you_mean

_UNSET = "???"
Fuse = Callable[[str], str]


class _NullError(Exception):
    """A template prints a null."""


class Template:
    """``names``: the variables that the template uses; ``needs``: those it uses without a default or a test.

    ``key`` is the configuration key that errors name. Raises UserError when the source is unset or malformed.
    """

    def __init__(self, key: str, source: str) -> None:
        if not source or source == _UNSET:
            raise UserError(f"{key} is not set: what is asked about a row, such as '{key}=\"Spam? {{{{ text }}}}\"'")
        self.key = key
        self._fuse: Fuse | None = None
        environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=self._finalize)
        del environment.globals["lipsum"], environment.filters["random"]  # a resumed run renders the same prompts
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
            self._template.globals = dict(self._template.globals)  # a chain of dicts, copied at every rendering
        except (jinja2.TemplateError, RecursionError, OverflowError, ValueError) as error:
            line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise UserError(key, f"{line}{error or type(error).__name__}") from error
        self.names = frozenset(meta.find_undeclared_variables(tree) - environment.globals.keys())
        self.needs = self.names - _optional(tree)

    def check_names(self, known: list[str]) -> None:
        """Raise UserError for a variable that is not known."""
        for name in sorted(self.needs - set(known)):
            raise UserError(self.key, f"no column {name!r}{did_you_mean(name, known)}")

    def render(self, variables: Mapping[str, Any], fuse: Fuse | None = None) -> str:
        """The text; ``fuse`` is applied to what every ``{{ }}`` prints. RowError if anything goes wrong."""
        self._fuse = fuse
        try:
            return clean(self._template.render(variables))
        except _NullError:
            nulls = sorted(name for name in self.names if variables.get(name, "") is None)
            what = f"column {', '.join(nulls)} is null" if nulls else "a value is null"
            raise RowError(self.key, what) from None
        except RowError:  # of a cell that cannot be read
            raise
        except Exception as error:  # templates compute with cells: any error concerns this row only
            raise RowError(self.key, f"{type(error).__name__}: {error}") from error

    def _finalize(self, value: Any) -> Any:
        if value is None:
            raise _NullError
        return value if self._fuse is None or isinstance(value, jinja2.Undefined) else self._fuse(str(value))


def _optional(tree: nodes.Template) -> set[str]:
    """Variables that the template tests with ``is defined`` or gives a default."""
    tests = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    filters = (f.node for f in tree.find_all(nodes.Filter) if f.name in ("default", "d"))
    return {node.name for found in (tests, filters) for node in found if isinstance(node, nodes.Name)}
