"""The job ``openai_batch``: the requests of an OpenAI batch file, each with its own messages and parameters.

What a parameter means is set down in the API reference of "Create chat completion" and "Create completion". A parameter
that cannot be honoured makes its row an error with the API's code for it, never an answer to something else.

Modules:
parameters  The parameters of the API's requests: which are read, which change no answer, which cannot be honoured.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.openai_batch.parameters import (
    check_names,
    integer,
    prompts,
    sampling_of,
    stop_texts,
    structure_asked,
    template_kwargs,
    token_limit,
    top_logprobs,
)
from runner.data.readers.openai_batch import endpoint, read_messages
from runner.keys import check_keys, key
from runner.loop.retrying import redrawn
from runner.text.structure import Structure
from runner.types import GREEDY, Columns, Completion, Request, Row, RowError, Steps, UnreadableRow, UserError
from runner.words import count_of

if TYPE_CHECKING:
    from runner.data.source import DataSource
    from runner.text.prompter import Prompter

log = logging.getLogger("rowmill")

LOOKED_AT = 10_000  # requests, before the model is loaded
_TOKEN = [("token", pa.string()), ("logprob", pa.float64()), ("bytes", pa.list_(pa.int16()))]
_LOGPROBS = pa.list_(pa.struct([*_TOKEN, ("top_logprobs", pa.list_(pa.struct(_TOKEN)))]))
_CHOICE = pa.struct([("text", pa.string()), ("finish_reason", pa.string()), ("logprobs", _LOGPROBS)])
_TEXT_TOKENS = 16  # of an answer that is asked for at /v1/completions without max_tokens


@dataclass
class OpenAIBatch:
    """Answer the requests of an OpenAI batch file, unchanged.

        rowmill run dataset=openai_batch dataset.path=requests.jsonl run_name=batch
        rowmill export outputs/batch results.jsonl --format openai-batch

    The results look as the API writes them. Requests that fail, or need what is not supported here (tools, images,
    penalties), go to ``results.errors.jsonl`` with the API's error codes. Without ``max_completion_tokens`` or
    ``max_tokens`` an answer has at most ``engine.max_tokens``; a limit beyond the model's context is one at its end,
    and what was thought before the answer counts. ``model`` and parameters that do not change an answer (``user``,
    ``metadata``, ...) are ignored. ``reasoning_effort`` and ``chat_template_kwargs`` are variables of the model's chat
    template. ``logprobs`` and ``top_logprobs`` (up to 20) return the log-probabilities of an answer's tokens and of the
    likeliest alternatives, before the temperature and without the reasoning. ``/v1/completions`` continues its
    ``prompt``, as text or token ids, without a chat template; addresses may be Azure's.
    """

    temperature: float = key(1.0, least=0, most=2)
    top_p: float = key(1.0, least=0, most=1)

    def __post_init__(self) -> None:
        check_keys(self, "job.")
        if self.top_p == 0:
            raise UserError("job.top_p", "it must be above 0", value=self.top_p)

    def check_source(self, source: DataSource, prompter: Prompter) -> None:
        """Say which requests the model's chat template will refuse, before the model is loaded."""
        if "problem" not in source.column_names:
            raise UserError("dataset", "the job openai_batch answers batch files: dataset=openai_batch reads them")
        looked_at = min(LOOKED_AT, len(source))
        asked = (_roles(row) for row in source.rows(0, looked_at))
        refused = Counter(why for roles in asked if roles and (why := prompter.refusal(roles)))
        for why, count in refused.items():
            log.warning(
                "%d of the first %s would be errors: the model's chat template refuses the messages: %s",
                *(count, count_of(looked_at, "request"), why),
            )

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            text: The first answer.
            choices: All ``n`` answers with their finish reasons and, if asked for, log-probabilities.
        """
        return pa.schema([("text", pa.string()), ("choices", pa.list_(_CHOICE))])

    def steps(self, row: Row) -> Steps:
        """A request for each of the ``n`` choices, and another one for each that is not valid by its schema."""
        if row["problem"] is not None:
            raise RowError.read(row["problem"])
        body = {name: value for name, value in json.loads(row["body"]).items() if value is not None}
        is_chat = endpoint(row.get("url") or "/chat/completions") == "chat"
        check_names(body, is_chat)
        structure = structure_asked(body.get("response_format")) if is_chat else None
        requests = self._requests(body, is_chat, structure)
        answers = yield requests
        if structure is not None and not requests[0].stop:
            answers = yield from _valid(structure, requests, answers)
        choices = [_choice(answer) for answer in answers]
        return {"text": choices[0]["text"], "choices": choices}

    def _requests(self, body: Mapping[str, Any], is_chat: bool, structure: Structure | None) -> list[Request]:
        seed = integer(body, "seed", None, -(2**63), 2**63 - 1)
        request = Request(
            messages=tuple(read_messages(body.get("messages"))) if is_chat else None,
            max_tokens=token_limit(body, None if is_chat else _TEXT_TOKENS),
            sampling=sampling_of(body, self.temperature, self.top_p),
            seed=seed,
            grammar=structure.body if structure else None,
            top_logprobs=top_logprobs(body, is_chat),
            template_kwargs=template_kwargs(body),
            stop=stop_texts(body),
            once=True,
        )
        count = integer(body, "n", 1, 1, 128) or 1
        asked = [request] if is_chat else [dataclasses.replace(request, raw=text) for text in prompts(body)]
        if seed is None:
            return [one for one in asked for _ in range(count)]
        return [dataclasses.replace(one, seed=seed + (n << 64)) for one in asked for n in range(count)]  # draws apart


def _valid(
    structure: Structure, requests: list[Request], answers: list[Completion]
) -> Generator[list[Request], Any, list[Completion]]:
    """The answers, new ones in place of those that are complete but not valid; RowError if those are no better."""
    answers = list(answers)
    wrong = [at for at, answer in enumerate(answers) if _fault(structure, answer)]
    if wrong:
        again = yield [redrawn(requests[at], GREEDY) for at in wrong]
        for at, answer in zip(wrong, again, strict=True):
            if problem := _fault(structure, answer):
                raise problem
            answers[at] = answer
    return answers


def _fault(structure: Structure, answer: Completion) -> RowError | None:
    return structure.problem(answer.text) if answer.finish_reason == "stop" else None


def _roles(row: Row) -> list[str] | None:
    """The roles of a request's messages; None if it has none that can be read."""
    if isinstance(row, UnreadableRow) or row["problem"] is not None:
        return None
    try:
        return [message["role"] for message in read_messages(json.loads(row["body"]).get("messages"))]
    except RowError:
        return None


def _choice(answer: Completion) -> Columns:
    tokens = None if answer.tokens is None else tuple(answer.tokens)
    return {"text": answer.text, "finish_reason": answer.finish_reason, "logprobs": tokens}
