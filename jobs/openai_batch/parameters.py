"""The parameters of the API's requests: which are read, which change no answer, which cannot be honoured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from runner.data.readers.openai_batch import invalid_value, is_one_prompt, refusal
from runner.text.chat.template import no_variable
from runner.text.structure import Structure, structure_of
from runner.types import Sampling, UserError

_READ = {
    *("temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "max_tokens", "logprobs"),
    *("max_completion_tokens", "response_format", "top_logprobs", "reasoning_effort", "chat_template_kwargs"),
}
_NO_EFFECT = {  # on the answer
    *("model", "messages", "prompt", "user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls", "stream_options", "prediction"),
    *("priority", "request_id", "cache_salt", "include_reasoning"),
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # values at which a parameter that is not supported changes nothing
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (True, False),
}
_ELSEWHERE = {  # parameters that change an answer at the other of the two addresses only
    True: ("prompt",),
    False: ("messages", "response_format", "top_logprobs", "reasoning_effort", "chat_template_kwargs"),
}
_INSTEAD = {  # of what has no neutral value
    "audio": "answers are texts",
    "web_search_options": "nothing is searched",
    "data_sources": "nothing is searched",
    "guided_json": "response_format takes a JSON Schema",
    "guided_regex": "output.regex of a run takes a regular expression",
    "guided_choice": "output.choices of a run takes choices",
    "guided_grammar": "response_format takes a JSON Schema",
    "structured_outputs": "response_format takes a JSON Schema",
}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_MOST_TOKENS = 2**31 - 1
_SCHEMA = "response_format.json_schema.schema"


def check_names(body: Mapping[str, Any], chat: bool) -> None:
    """RowError for parameters that are unknown or that would change the answer in ways not offered here."""
    for name, value in body.items():
        if name in _ELSEWHERE[chat]:
            here, there = ("/chat/completions", "/completions")[:: 1 if chat else -1]
            raise refusal("unsupported_parameter", name, f"it is a parameter of {there}, not of {here}")
        if name in _INSTEAD:
            raise refusal("unsupported_parameter", name, f"it is not supported: {_INSTEAD[name]}")
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise refusal("unsupported_parameter", name, f"it is not supported: {json.dumps(value)[:100]}")
        elif name not in _READ and name not in _NO_EFFECT:
            raise refusal("unknown_parameter", name, "it is not a known parameter")


def structure_asked(wanted: Any) -> Structure | None:
    """What a ``response_format`` makes of an answer; None for text."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise invalid_value("response_format", "it must be an object with a type", wanted)
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return _schema_structure('{"type": "object"}')
    if kind != "json_schema":
        raise invalid_value("response_format.type", "it must be text, json_object or json_schema", kind)
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise invalid_value("response_format.json_schema", "it must be an object with name and schema", inner)
    return _schema_structure(json.dumps(schema))


@lru_cache(maxsize=256)
def _schema_structure(schema: str) -> Structure:
    try:
        return structure_of(_SCHEMA, json.loads(schema))
    except UserError as error:
        where = (error.key or "").removeprefix(_SCHEMA).lstrip(".")
        raise refusal("invalid_value", _SCHEMA, f"{where}: {error.text}".removeprefix(": ")) from None


def template_kwargs(body: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the chat template that a request sets."""
    more = body.get("chat_template_kwargs", {})
    if not isinstance(more, dict):
        raise invalid_value("chat_template_kwargs", "it must be an object", more)
    if wrong := no_variable(more):
        raise invalid_value("chat_template_kwargs", wrong, more)
    effort = body.get("reasoning_effort")
    if effort is None:
        return more
    if effort not in _EFFORTS:
        raise invalid_value("reasoning_effort", f"it must be one of {', '.join(_EFFORTS)}", effort)
    return {"reasoning_effort": effort, **more}


def top_logprobs(body: Mapping[str, Any], chat: bool) -> int | None:
    """How many alternatives to each token are wanted; None without ``logprobs``."""
    if not chat:
        return integer(body, "logprobs", None, 0, 5)
    wanted = body.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise invalid_value("logprobs", "it must be true or false", wanted)
    count = integer(body, "top_logprobs", 0, 0, 20) or 0
    if count and not wanted:
        raise invalid_value("top_logprobs", "it needs logprobs to be true", count)
    return count if wanted else None


def stop_texts(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that end an answer."""
    stop = body.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 4 or not all(isinstance(text, str) and text for text in stop):
        raise invalid_value("stop", "it must be a text or a list of up to four, none empty", stop)
    return tuple(stop)


def prompts(body: Mapping[str, Any]) -> list[str | tuple[int, ...]]:
    """The prompts of a request for text, as texts or token ids."""
    asked = body.get("prompt")
    if asked is None:
        raise refusal("missing_required_parameter", "prompt", "it is not set")
    found = asked if isinstance(asked, list) and not is_one_prompt(asked) else [asked]
    if not found or not all(one and (isinstance(one, str) or _are_ids(one)) for one in found):
        raise invalid_value("prompt", "it must be a text, a list of token ids, or a list of these, none empty", asked)
    return [one if isinstance(one, str) else tuple(one) for one in found]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(id, int) and not isinstance(id, bool) for id in value)


def sampling_of(body: Mapping[str, Any], temperature: float, top_p: float) -> Sampling:
    """How tokens are drawn; ``temperature`` and ``top_p`` where the request does not say."""
    share = number(body, "top_p", top_p, 0, 1)
    if share == 0:
        raise invalid_value("top_p", "it must be above 0 and at most 1", share)
    return Sampling(
        temperature=number(body, "temperature", temperature, 0, 2),
        top_p=share,
        top_k=max(0, integer(body, "top_k", 0, -1, 2**31 - 1) or 0),  # vLLM's own, -1 is off
        min_p=number(body, "min_p", 0.0, 0, 1),
    )


def token_limit(body: Mapping[str, Any], default: int | None) -> int | None:
    """The most tokens of an answer; one beyond what there can be is no limit."""
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked = integer(body, name, default, 1)
    return None if asked is None else min(asked, _MOST_TOKENS)


def integer(body: Mapping[str, Any], name: str, default: int | None, least: int, most: float = math.inf) -> int | None:
    """A whole number within bounds; RowError for any other value."""
    value = body.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not default and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
        bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
        raise invalid_value(name, f"it must be a whole number {bounds}", value)
    return value


def number(body: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """A number within bounds; RowError for any other value."""
    value = body.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise invalid_value(name, f"it must be a number from {least:g} to {most:g}", value)
    return float(value)
