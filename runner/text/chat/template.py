"""Chat templates: messages to the text a model was trained on, with the date pinned.

A chat template is Jinja with a few functions, listed in the ``transformers`` documentation ("Writing a chat
template"): ``raise_exception``, ``strftime_now``, ``tojson`` without escapes, loop controls and ``{% generation %}``.
It is rendered here and not by ``apply_chat_template`` because that fills in today's date, which would change the
prompts at midnight.

The template works on the messages as they are, since templates cut thoughts and look for tags. Which control tokens it
wrote itself shows in a second rendering, in which they are marked (see ``runner.text.chat.marks``) where the template
prints them, and not where it compares them with something.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from runner.text.chat.compiled import Compiled
from runner.text.chat.marks import Marks, plain
from runner.types import UserError
from runner.words import did_you_mean

_PRINTING = ("join", "default", "d", "format", "append", "insert", "extend", "replace")  # print what they are given
_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names of one thing, the usual one first
_WITH_REASONING = frozenset(_REASONING)
_STORING = (nodes.Assign, nodes.For, nodes.With, nodes.Macro)
Message = Mapping[str, Any]
_UNASKED = {"tools": None, "documents": None, "add_generation_prompt": True}  # what templates may be given, too
_OURS = {"messages", *_UNASKED} - {"tools", "documents"}  # what is filled in here
_NOT_GIVEN = {
    "messages": "messages are made from the prompt",
    "chat_template": "chat_template is the model's own; put another one into its folder as chat_template.jinja",
}
NOTHING: Mapping[str, Any] = {}


class ChatTemplate:
    """``variables`` (special tokens, chat_template_kwargs) are what the template may use besides the messages.

    ``control``: the texts of the tokenizer's control tokens.
    """

    def __init__(self, template: str, date: str, variables: Mapping[str, Any], control: Iterable[str] = ()) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self._environment.filters["tojson"] = _tojson
        self._environment.globals |= {"raise_exception": _raise, "strftime_now": parse_date(date).strftime}
        self._variables = dict(variables)
        self.marks = Marks(control)
        self._source = template
        self._marking: dict[bool, Compiled] = {}
        try:
            self._template = self._compiled(template)
        except jinja2.TemplateError as error:
            raise UserError(f"the model's chat template cannot be parsed: {error}", exit_code=3) from error

    def render(self, messages: Sequence[Message], more: Mapping[str, Any] = NOTHING) -> str:
        """The conversation with the beginning of the answer; jinja2.TemplateError if the template refuses it.

        ``more``: variables before the run's.
        """
        return _rendered(self._template, messages, more)

    def unread(self, names: Iterable[str]) -> str | None:
        """Which of these variables the template does not read, and which it has, in words; None: it reads all."""
        known = find_undeclared_variables(self._environment.parse(self._source)) - self._environment.globals.keys()
        unknown = [name for name in names if name not in known]
        if not unknown:
            return None
        others = sorted(known - _OURS - self._texts().keys())
        return f"the model's chat template does not read {', '.join(unknown)}{did_you_mean(unknown[0], others)}"

    def render_marked(self, messages: Sequence[Message], more: Mapping[str, Any] = NOTHING) -> str:
        """The same with the template's own control tokens marked; ``messages`` must hold no marks.

        Raises jinja2.TemplateError, too, if what the template wrote cannot be told from what the messages hold.
        """
        right = self.render(messages, more)
        printed = {name: self.marks.literal(value) for name, value in self._texts().items()} | dict(more)
        variables = {**more, **{_printed(name): value for name, value in printed.items()}}
        for stored in (True, False):
            try:
                text = _rendered(self._marking_template(stored), messages, variables)
            except jinja2.TemplateError:
                continue
            if plain(text) == right:
                return self.marks.settled(text)
        raise jinja2.TemplateError("the messages hold control tokens, which cannot be told from the template's own")

    def _marking_template(self, stored: bool) -> Compiled:
        """The template that marks what it prints; ``stored``: and what it keeps in variables."""
        if stored not in self._marking:
            tree = self._environment.parse(self._source)
            own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
            variables = self._texts().keys() - own
            self._marking[stored] = self._compiled(_Marking(self.marks, stored, variables).visit(tree))
        return self._marking[stored]

    def _compiled(self, source: str | nodes.Template) -> Compiled:
        return Compiled(self._environment, source, {**_UNASKED, **self._variables})

    def _texts(self) -> dict[str, str]:
        """The variables that are texts, such as ``bos_token``."""
        return {name: value for name, value in self._variables.items() if isinstance(value, str)}


class _Marking(NodeTransformer):
    """Marks the control tokens in what a template prints, and leaves alone what it compares and looks up."""

    def __init__(self, marks: Marks, stored: bool, variables: Collection[str]) -> None:
        self._marks = marks
        self._stored = stored
        self._variables = variables

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802 the base class's own form
        return nodes.TemplateData(self._marks.literal(node.data), lineno=node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        is_ours = node.ctx == "load" and node.name in self._variables
        return nodes.Name(_printed(node.name), "load", lineno=node.lineno) if is_ours else node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        return nodes.Const(self._marks.literal(node.value), lineno=node.lineno) if _is_text(node) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        node.node = self.visit(node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        node.value = self.visit(node.value)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        node.node = self.visit(node.node) if node.node is not None else None
        return self._with_arguments(node, node.name)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        if not isinstance(node.node, nodes.Getattr):
            return self._with_arguments(node, _PRINTING[0])
        node.node.node = self.visit(node.node.node)
        return self._with_arguments(node, node.node.attr)

    def _with_arguments(self, node: nodes.Call | nodes.Filter, name: str) -> nodes.Node:
        if name in _PRINTING:
            looked_for = 1 if name == "replace" else 0
            node.args[looked_for:] = [self.visit(argument) for argument in node.args[looked_for:]]
            node.kwargs = [self.visit(argument) for argument in node.kwargs]
        return node

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Leave constants in variables alone unless ``stored``."""
        if self._stored or not isinstance(node, _STORING):
            return super().generic_visit(node, *args, **kwargs)
        bodies = (child for name in ("body", "else_") for child in getattr(node, name, None) or ())
        for child in bodies:
            self.visit(child)
        return node


def given_variables(given: Any, chat: bool = True) -> dict[str, Any]:
    """``prompt.template_kwargs``. Raises UserError for what no template can be given."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise UserError("prompt.template_kwargs", "it must be {name: value, ...}", value=given)
    if given and not chat:
        raise UserError("prompt.template_kwargs", "a raw prompt has no chat template: it needs prompt.chat=true")
    if wrong := no_variable(given):
        raise UserError("prompt.template_kwargs", wrong, value=given)
    return given


def no_variable(names: Iterable[str]) -> str | None:
    """Why one of these names cannot be a variable that is given to the model's chat template; None if all can."""
    return next((_NOT_GIVEN[name] for name in names if name in _NOT_GIVEN), None)


def parse_date(date: str) -> datetime.datetime:
    """An ISO date or time; UserError otherwise."""
    try:
        return datetime.datetime.fromisoformat(date)
    except ValueError:
        raise UserError(f"the run's date {date!r} is not an ISO date such as 2026-01-31") from None


def _printed(variable: str) -> str:
    """What a variable is called where the template prints it."""
    return f"_printed_{variable}"


def _is_text(node: nodes.Const) -> bool:
    return isinstance(node.value, str)


def _rendered(template: Compiled, messages: Sequence[Message], more: Mapping[str, Any]) -> str:
    return template.render({"messages": [_as_transformers_gives(message) for message in messages], **more})


def _as_transformers_gives(message: Message) -> Message:
    """A message without what is None, its reasoning under the names that templates read."""
    if None not in message.values() and _WITH_REASONING.isdisjoint(message):
        return message
    given = {name: value for name, value in message.items() if value is not None}
    reasoning = next((given[name] for name in _REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def _raise(message: str) -> None:
    raise jinja2.TemplateError(plain(str(message)))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """``{% generation %}`` marks the answer for training; what it holds is rendered as it is, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012 the base class's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inner"), [], [], body).set_lineno(line)

    def _inner(self, caller: Any) -> str:
        return str(caller())
