r"""Templates to messages to the model's chat template to token ids; ids back to text.

There are two forms. With ``chat``, ``system`` and ``user`` become messages for the model's own chat template, and the
examples become earlier turns. Raw (``chat: false``), system, examples and row are joined into one text that the model
continues, which base models need and small ones do better with: see ``conf/prompt/movie_reviews.yaml``.

A template that names a missing column, or that has a syntax error, is refused before the model loads. A null cell makes
its row an error unless the template has a default: ``{{ text or "" }}``. A cell of a CSV file is the text that the file
shows, whatever other rows hold; where a template computes with it or compares it to a number (``{{ price * 2 }}``,
``{% if stars > 3 %}``), it is the number that it reads as. A number of a JSON file is shown as Python has it (1.10 as
1.1, 1E5 as 100000.0; in quotes it stays as written), a duration as ISO 8601 has it (P1DT2H).

On the command line a text needs quotes of its own (``'prompt.user="..."'``) only where it looks like a list, a number
or the like, or contains line breaks: in double quotes ``\n`` and ``\t`` are read as in YAML, in single quotes as they
stand. A prompt with the name of the job, or else of the data set, is used by default.

Text from cells is never read as control tokens. In chat nothing in a message is; in raw mode those that the template
itself spells out are. White space at a raw template's end moves to the front of the answers ("Sentiment: " becomes
"Sentiment:" answered by " positive"), because that is where tokenizers put it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from runner import keys, sequences
from runner.text.channels import Answer, Channels
from runner.text.chat.conversation import Conversations
from runner.text.chat.marks import Marks, map_strings, plain, unmarked
from runner.text.chat.raw import join_raw, known_ids, literal_text, without_end_spaces
from runner.text.chat.template import ChatTemplate, given_variables
from runner.text.choices import Choices
from runner.text.examples import Examples, ExamplesConf
from runner.text.spelling import spell, up_to
from runner.text.structure import StructureConf
from runner.text.templates import Template
from runner.text.vocabulary import FUSE, Vocabulary, as_vocabulary, clean, defuse, fused, plain_tail
from runner.types import CHAT_REFUSED, Request, Row, RowError, UserError

UNSET = "???"  # what Hydra calls missing
_TAIL_TOKENS = 4
_CACHED_CHOICES = 1 << 16
_NO_ANSWER = Answer("")
Message = dict[str, Any]


@dataclass
class PromptConf:
    """How a row becomes a prompt.

    ``system`` and ``user`` are Jinja2 templates over the row's columns and the job's variables. A column of any name is
    ``row["Review Text"]`` (``columns["Review Text"]`` if a column is itself called ``row``), and ``x | tojson`` is a
    value as JSON. Dollar signs stay: nothing in here is filled in from the environment.

    Attributes:
        system: The system message, or how a raw prompt begins.
        user: The user message, or the part of a raw prompt that each row adds.
        examples: Few-shot examples: for each the variables that the templates use, and ``answer``.
        examples_from: More of them, chosen from a data set.
        chat: Use the model's chat template. false: one raw text that the model continues.
        separator: What stands between the parts of a raw prompt.
        answer_prefix: What comes before each answer in a raw prompt, such as a space after "Sentiment:".
        join: Join messages that the model's chat template does not take apart: several of one role in a row, and a
            system message with the first question.
        stop: Texts that end an answer and are left out of it.
        template_kwargs: Variables for the model's chat template, such as {enable_thinking: false}.
        thinking_tags: What the model writes around its thoughts, such as [<think>, </think>], as tokens or plain text,
            where it is not among the tags that are known.
    """

    system: str | None = None
    user: str = UNSET
    examples: list[dict[str, Any]] = field(default_factory=list)
    examples_from: ExamplesConf = field(default_factory=ExamplesConf)
    chat: bool = True
    separator: str = "\n\n"
    answer_prefix: str = ""
    join: bool = keys.key(False, later=True)
    stop: list[str] = field(default_factory=list)
    template_kwargs: keys.AnyMapping = keys.key(None, later=True)
    thinking_tags: list[str] = keys.key([], later=True)
    output: StructureConf = field(default_factory=StructureConf)


class Prompter:
    """The prompts of one run. ``date`` (ISO) is what chat templates take for today.

    ``chat_template_kwargs``: further variables for the chat template, such as ``reasoning_effort``.
    ``think_tokens``: how many tokens of an answer may be thoughts. ``unread``: variables that the chat template
    does not have. Raises UserError when a template has a syntax error or the model has no chat template.
    """

    def __init__(
        self,
        conf: PromptConf,
        tokenizer: Any,
        date: str,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        think_tokens: int | None = None,
    ) -> None:
        self.conf = conf
        self.vocabulary: Vocabulary = as_vocabulary(tokenizer)
        self.end_tokens = self.vocabulary.end_tokens
        self.stop = _stop_texts(conf.stop)
        self._marks = Marks(self.vocabulary.control)
        self.channels = Channels(self.vocabulary, conf.chat, conf.thinking_tags, think_tokens)
        more = {**(chat_template_kwargs or {}), **given_variables(conf.template_kwargs, conf.chat)}
        self._chat = self._chat_template(date, more) if conf.chat else None
        self.unread = self._chat.template.unread(more) if self._chat else None
        self._system = Template("prompt.system", conf.system) if conf.system else None
        user, moved = without_end_spaces(conf.user, conf.chat)
        self._user = Template("prompt.user", "" if user == UNSET else user)
        self.answer_prefix = "" if conf.chat else moved + conf.answer_prefix
        literal = literal_text(conf.system, conf.user, conf.separator + conf.answer_prefix)
        self._fuse = self._defuse_cell if not conf.chat and self._marks.spells(literal) else None
        self.examples: Examples | None = None  # chosen for each row
        self._turns: dict[Any, list[Message]] = {}
        self._continuations: dict[Any, Choices] = {}

    @property
    def names(self) -> frozenset[str]:
        """The columns and variables that the templates use."""
        return frozenset().union(*(template.names for template in self._templates()))

    def check_templates(
        self, column_names: Iterable[str], variables: Iterable[str] = (), written: Collection[str] = ()
    ) -> None:
        """Raise UserError for a template that uses what is neither a column nor one of the job's ``variables``.

        ``written``: the columns whose cells are what a file without types shows.
        The same for an example that lacks a variable, and for a chat template that refuses system messages.
        """
        variables = set(variables)
        known = [*column_names, *variables]
        for template in self._templates():
            template.check_names(known, written)
        for number, example in enumerate(self.conf.examples):
            self._check_example(f"prompt.examples[{number}]", example, variables)
        if self.conf.chat and self.conf.answer_prefix:
            raise UserError("prompt.answer_prefix", "it applies to raw prompts only: set prompt.chat=false")
        self._check_roles()

    def refusal(self, roles: Sequence[str]) -> str | None:
        """Why the chat template does not take messages with these roles; None if it does."""
        try:
            if self._chat is not None:
                self._chat.form(tuple(roles))
        except jinja2.TemplateError as error:
            return str(error)
        return None

    def render(self, request: Request, row: Row) -> list[int]:
        """Token ids of the request's prompt; RowError when the row cannot be rendered."""
        tokens = self.render_many([(request, row)])[0]
        if isinstance(tokens, RowError):
            raise tokens
        return tokens

    def render_many(self, requests: Sequence[tuple[Request, Row]]) -> list[list[int] | RowError]:
        """Token ids of each (request, row), or why that one has none. Faster by the hundred than one by one."""
        results: list[list[int] | RowError] = []
        texts: dict[bool, dict[int, str]] = {False: {}, True: {}}
        for at, (request, row) in enumerate(requests):
            try:
                if isinstance(request.raw, tuple):
                    results.append(known_ids(request.raw, self.vocabulary.size))
                    continue
                text, marked = self._text(request, row)
            except RowError as error:
                results.append(error)
                continue
            results.append([])
            texts[marked][at] = text
        for marked, encode in ((False, self.vocabulary.encode), (True, self.vocabulary.encode_marked)):
            for at, ids in zip(texts[marked], encode(list(texts[marked].values())), strict=True):
                results[at] = ids
        return [
            self.vocabulary.bos + ids if isinstance(ids, list) and self._is_text(request) else ids
            for ids, (request, _) in zip(results, requests, strict=True)
        ]

    def _is_text(self, request: Request) -> bool:
        return isinstance(request.raw, str) or (request.raw is None and not self.conf.chat)

    def text(self, request: Request, row: Row) -> str:
        """The prompt as text, for people to look at."""
        text, marked = self._text(request, row)
        return plain(text) if marked else text

    def continuations(self, prompt: Sequence[int], choices: Sequence[str]) -> Choices:
        """Token ids of each choice as what follows the prompt; UserError for a choice without text.

        The end of the prompt and the choice are tokenised together, so that the choice's first token is the one that
        the model would have seen; if that would change the prompt's own tokens, the choice is tokenised alone.
        """
        key = (tuple(prompt[-_TAIL_TOKENS:]), tuple(choices))
        if key not in self._continuations:
            if len(self._continuations) * len(choices) >= _CACHED_CHOICES:
                self._continuations.clear()
            before = plain_tail(self.vocabulary, key[0])
            found = Choices(self._continuation(before, choice) for choice in choices)
            known = (one for one in self._continuations.values() if one == found)
            self._continuations[key] = next(known, found)  # the same object, for what is made of it
        return self._continuations[key]

    def read(self, ids: Sequence[int], sequence: sequences.Sequence) -> Answer:
        """The answer to a sequence, its reasoning separate; "" for one that is only scored."""
        if not ids:
            return _NO_ANSWER
        answer = self.channels.read(ids, sequence.tokens)
        text = answer.text if sequence.grammar is None else answer.text.removeprefix(self.answer_prefix)
        if stops := self.stops_of(sequence):
            text = text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]
        return answer if text == answer.text else answer._replace(text=text)

    def spell(
        self, generation: sequences.Generation, sequence: sequences.Sequence, text: str
    ) -> tuple[dict[str, Any], ...] | None:
        """``Completion.tokens`` of an answer that reads ``text``."""
        tokens = spell(generation, sequence.tokens, self.channels)
        return up_to(tokens, text) if tokens and self.stops_of(sequence) else tokens

    def stops_of(self, sequence: sequences.Sequence) -> tuple[str, ...]:
        """The texts that end a sequence's answer; the run's own end no answer that follows a grammar."""
        return sequence.stop if sequence.grammar is not None else self.stop + sequence.stop

    def stops(self, ids: Sequence[int], sequence: sequences.Sequence) -> bool:
        """Whether a stop text has come up in the answer; the reasoning before it is not searched."""
        text = self.channels.read(ids, sequence.tokens).text
        found = any(stop in text for stop in self.stops_of(sequence))
        return found and not self.channels.may_begin(ids, sequence.tokens)

    def _text(self, request: Request, row: Row) -> tuple[str, bool]:
        """The prompt's text, and whether its control tokens are marked: see ``runner.text.chat.marks``."""
        if request.raw is not None:
            raw = request.raw
            text = clean(raw if isinstance(raw, str) else self.vocabulary.decode(raw, control=True))
            return (unmarked(text), True) if self._marks.spells(text) else (text, False)
        messages = self._messages(request, row)
        if self._chat is None:
            return self._raw_text(messages, request)
        more = request.template_kwargs
        marked = self._marks.any_may_forge(messages) or self._marks.any_may_forge(more)
        if marked:
            messages, more = map_strings(messages, unmarked), map_strings(dict(more), unmarked)
        try:
            text = clean(self._chat.render(messages, marked, more))
        except Exception as error:  # the template is the model's: whatever it raises concerns this row only
            raise RowError(CHAT_REFUSED, str(error)) from error
        skip = self.channels.skip(plain(text) if marked else text) if request.choices else ""
        return text + (self._marks.settled(self._marks.literal(skip)) if marked else skip), marked

    def _raw_text(self, messages: list[Message], request: Request) -> tuple[str, bool]:
        text = join_raw(messages, self.conf.separator, self.answer_prefix)
        if self._fuse is not None and request.messages is None:
            return fused(text, self._marks.pattern), True
        return (unmarked(text), True) if self._marks.spells(text) else (text, False)

    def _messages(self, request: Request, row: Row) -> list[Message]:
        if request.messages is not None:
            return [map_strings(dict(message), clean) for message in request.messages]
        variables = {**row, **request.variables}
        system = [_message("system", self._system.render(variables, self._fuse, row))] if self._system else []
        examples = self._example_messages(request.variables, row)
        return [*system, *examples, _message("user", self._user.render(variables, self._fuse, row))]

    @property
    def asked(self) -> tuple[frozenset[str], frozenset[str]]:
        """The variables and columns in ``user``, and those without a default."""
        return self._user.names, self._user.needs

    def take_examples(self, examples: Examples | None) -> None:
        """Show some of these in every prompt, behind those of the configuration; None: no more."""
        self.examples = examples
        self._check_roles()

    def _example_messages(self, variables: Mapping[str, Any], row: Row) -> list[Message]:
        """Earlier turns, each rendered once if the example alone has all that the template uses."""
        fixed = enumerate(self.conf.examples)
        turns = [self._turn(at, variables, one, one, str(one.get("answer", ""))) for at, one in fixed]
        for at, shot in self.examples.choose({**row, **variables}, row) if self.examples else ():
            for number, (example, answer) in enumerate(shot.turns(variables)):
                turns.append(self._turn((at, number), variables, example, shot.row, answer))
        return [message for turn in turns for message in turn]

    def _turn(
        self, key: Any, variables: Mapping[str, Any], example: Mapping[str, Any], row: Mapping[str, Any], answer: str
    ) -> list[Message]:
        if (known := self._turns.get(key)) is not None:
            return known
        question = self._user.render({**variables, **example}, self._fuse, row)
        turn = [_message("user", question), _message("assistant", clean(answer))]
        if self._user.names <= example.keys():
            self._turns[key] = turn
        return turn

    def _continuation(self, before: tuple[int, ...], choice: str) -> tuple[int, ...]:
        if not choice:
            raise UserError("a choice is empty: every label needs a text")
        choice = clean(self.answer_prefix + choice)
        ids = self.vocabulary.encode_plain(self.vocabulary.decode(before) + choice) if before else []
        if not before or tuple(ids[: len(before)]) != before or len(ids) == len(before):
            ids, before = self.vocabulary.encode_plain(choice), ()
        if len(ids) == len(before):
            raise UserError(f"the choice {choice!r} has no tokens in this model's vocabulary")
        return tuple(ids[len(before) :])

    def _chat_template(self, date: str, variables: Mapping[str, Any]) -> Conversations:
        if self.vocabulary.chat_template is None:
            beside = "or put its chat_template.jinja into the model's folder"
            raise UserError(f"this model has no chat template: set prompt.chat=false for a raw prompt, {beside}")
        variables = {**self.vocabulary.template_variables, **variables}
        template = ChatTemplate(self.vocabulary.chat_template, date, variables, self.vocabulary.control)
        return Conversations(template, self.conf.join)

    def _check_roles(self) -> None:
        system = ["system"] if self._system else []
        examples = len(self.conf.examples) + (self.examples.conf.k if self.examples else 0)
        refusal = self.refusal([*system, *(["user", "assistant"] * examples), "user"])
        if refusal:
            blamed = "prompt.system, prompt.examples" if self._system or examples else "prompt.chat"
            raise UserError(blamed, f"the model's chat template refuses such a conversation: {refusal}")

    def _check_example(self, name: str, example: Mapping[str, Any], variables: set[str]) -> None:
        missing = sorted(self._user.needs - example.keys() - variables)
        if missing:
            raise UserError(f"{name} lacks {', '.join(missing)}, which prompt.user uses")
        if not isinstance(example.get("answer"), str | int | float) or isinstance(example.get("answer"), bool):
            raise UserError(f"{name}.answer is {example.get('answer')!r}, not a text (quote it: answer: 'yes')")

    def _templates(self) -> list[Template]:
        return [self._user, *([self._system] if self._system else [])]

    def _defuse_cell(self, text: str) -> str:
        """Raw mode with control tokens in the template: fuses on both sides keep cells from completing one."""
        return FUSE + defuse(unmarked(text), self._marks.pattern) + FUSE


def _stop_texts(stop: list[str]) -> tuple[str, ...]:
    if "" in stop:
        raise UserError("prompt.stop", "a stop text is empty, which would end every answer at once; leave it out")
    return tuple(stop)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
