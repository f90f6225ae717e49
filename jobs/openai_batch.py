"""The job ``openai_batch``: the requests of an OpenAI batch file, each with its own messages and parameters.

What a parameter means is set down in the API reference of "Create chat completion". A parameter that cannot be
honoured makes its row an error with the API's code for it, never an answer to something else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from runner.data.readers.openai_batch import invalid_value, read_messages
from runner.keys import check_keys, key
from runner.text.spelling import up_to
from runner.text.structure import JSON_OBJECT, StructureConf, read_structure
from runner.types import Columns, Completion, Request, Row, RowError, Sampling, Steps, UserError

_NO_EFFECT = {
    *("model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls", "stream_options"),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # values at which a parameter that is not supported changes nothing
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
_SCHEMA = "body.response_format.json_schema.schema"
_TOKEN = [("token", pa.string()), ("logprob", pa.float64()), ("bytes", pa.list_(pa.int16()))]
_LOGPROBS = pa.list_(pa.struct([*_TOKEN, ("top_logprobs", pa.list_(pa.struct(_TOKEN)))]))
_CHOICE = pa.struct([("text", pa.string()), ("finish_reason", pa.string()), ("logprobs", _LOGPROBS)])


@dataclass
class OpenAIBatch:
    """Answer the requests of an OpenAI batch file, unchanged.

        rowmill run dataset=openai_batch dataset.path=requests.jsonl run_name=batch
        rowmill export outputs/batch results.jsonl --format openai-batch

    The results look as the API writes them. Requests that fail, or need what is not supported here (tools, images,
    penalties), go to ``results.errors.jsonl`` with the API's error codes. Without ``max_completion_tokens`` or
    ``max_tokens`` an answer has at most ``engine.max_tokens``. ``model`` and parameters that do not change an answer
    (``user``, ``metadata``, ...) are ignored. ``logprobs`` and ``top_logprobs`` (up to 20) return the log-probabilities
    of an answer's tokens and of the likeliest alternatives, before the temperature and without the reasoning.
    """

    temperature: float = key(1.0, least=0, most=2)
    top_p: float = key(1.0, least=0, most=1)

    def __post_init__(self) -> None:
        check_keys(self, "job.")
        if self.top_p == 0:
            raise UserError("job.top_p", "it must be above 0", value=self.top_p)

    def schema(self) -> pa.Schema:
        """The output columns.

        Columns:
            text: The first answer.
            choices: All ``n`` answers with their finish reasons and, if asked for, log-probabilities.
        """
        return pa.schema([("text", pa.string()), ("choices", pa.list_(_CHOICE))])

    def steps(self, row: Row) -> Steps:
        """A request for each of the ``n`` choices."""
        if row["problem"] is not None:
            raise RowError.read(row["problem"])
        body = {name: value for name, value in json.loads(row["body"]).items() if value is not None}
        _check_names(body)
        stop = _stop(body)
        answers = yield self._requests(body)
        choices = [_cut(answer, stop) for answer in answers]
        return {"text": choices[0]["text"], "choices": choices}

    def _requests(self, body: Mapping[str, Any]) -> list[Request]:
        limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        seed = _integer(body, "seed", None, -(2**63), 2**63 - 1)
        request = Request(
            messages=tuple(read_messages(body.get("messages"))),
            max_tokens=_integer(body, limit, None, 1, 2**31 - 1),
            sampling=self._sampling(body),
            seed=seed,
            grammar=_grammar(body.get("response_format")),
            top_logprobs=_top_logprobs(body),
        )
        count = _integer(body, "n", 1, 1, 128) or 1
        if seed is None:
            return [request] * count
        return [dataclasses.replace(request, seed=seed + (choice << 64)) for choice in range(count)]  # draws apart

    def _sampling(self, body: Mapping[str, Any]) -> Sampling:
        top_p = _number(body, "top_p", self.top_p, 0, 1)
        if top_p == 0:
            raise invalid_value("top_p", "it must be above 0 and at most 1", top_p)
        return Sampling(
            temperature=_number(body, "temperature", self.temperature, 0, 2),
            top_p=top_p,
            top_k=max(0, _integer(body, "top_k", 0, -1, 2**31 - 1) or 0),  # vLLM's own, -1 is off
            min_p=_number(body, "min_p", 0.0, 0, 1),
        )


_READ = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop"}
_READ |= {"response_format", "logprobs", "top_logprobs"}


def _check_names(body: Mapping[str, Any]) -> None:
    """RowError for parameters that are unknown or that would change the answer in ways not offered here."""
    for name, value in body.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise RowError("unsupported_parameter", f"body.{name} is not supported: {json.dumps(value)[:100]}")
        elif name not in _READ and name not in _NO_EFFECT:
            raise RowError("unknown_parameter", f"body.{name} is not a known parameter")


def _grammar(wanted: Any) -> str | None:
    """The rules of a JSON answer; None for text."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return JSON_OBJECT
    if kind != "json_schema":
        raise invalid_value("response_format.type", "it must be text, json_object or json_schema", kind)
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise invalid_value("response_format.json_schema", "it must be an object with name and schema", inner)
    return _schema_grammar(json.dumps(schema))


@lru_cache(maxsize=256)
def _schema_grammar(schema: str) -> str:
    try:
        structure = read_structure(StructureConf(schema=json.loads(schema)), StructureConf(), [])
    except UserError as error:
        raise RowError(
            "invalid_value", str(error.at(_SCHEMA + (error.key or "").removeprefix("output.schema")))
        ) from None
    assert structure is not None
    return structure.body


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    """How many alternatives to each token are wanted; None without ``logprobs``."""
    wanted = body.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise invalid_value("logprobs", "it must be true or false", wanted)
    count = _integer(body, "top_logprobs", 0, 0, 20) or 0
    if count and not wanted:
        raise invalid_value("top_logprobs", "it needs logprobs to be true", count)
    return count if wanted else None


def _stop(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 4 or not all(isinstance(text, str) and text for text in stop):
        raise invalid_value("stop", "it must be a text or a list of up to four, none empty", stop)
    return stop


def _cut(answer: Completion, stop: list[str]) -> Columns:
    """The answer up to the first stop text."""
    ends = [at for at in map(answer.text.find, stop) if at >= 0]
    reason = "stop" if ends else answer.finish_reason
    text = answer.text[: min(ends, default=None)]
    tokens = answer.tokens
    if tokens is not None:
        tokens = up_to(tokens, text) if ends else tuple(tokens)
    return {"text": text, "finish_reason": reason, "logprobs": tokens}


def _integer(body: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    value = body.get(name, default)
    if value is not default and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
        raise invalid_value(name, f"it must be a whole number from {least} to {most}", value)
    return value


def _number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise invalid_value(name, f"it must be a number from {least:g} to {most:g}", value)
    return float(value)
