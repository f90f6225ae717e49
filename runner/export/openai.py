"""Results as the OpenAI Batch API writes them: a file of responses and one of errors, an object a request.

The objects are those of the API reference: "The request output object" of the Batch API, "The chat completion object",
and the error object of a refused request. Ids follow from the run and the row: the same export has the same ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from runner.data.readers import holds_requests
from runner.data.readers.openai_batch import endpoint, is_one_prompt, refused
from runner.export.annotate import model_name
from runner.export.files import STDOUT, Fresh
from runner.export.select import Selection, position_column
from runner.plain import to_json
from runner.results.run import Run
from runner.types import BAD_GRAMMAR, CHAT_REFUSED, EMPTY_PROMPT, TOO_LONG, UNKNOWN_TOKEN, RowError, UserError

_NEEDED = ("choices", "usage", "error")
_BLAMED = {  # errors of the engine and the prompt that the request is to blame for: the API's code, the parameter
    TOO_LONG: ("context_length_exceeded", "messages"),
    CHAT_REFUSED: ("invalid_value", "messages"),
    EMPTY_PROMPT: ("invalid_value", "messages"),
    UNKNOWN_TOKEN: ("invalid_value", "prompt"),
    BAD_GRAMMAR: ("invalid_value", "response_format"),
}


def write_openai_batch(target: str, selection: Selection, *, overwrite: bool) -> tuple[int, int]:
    """The results in ``target``, the errors, if there are any, in NAME.errors.jsonl; how many of each."""
    if target == STDOUT:
        raise UserError("--format", "it writes two files, so it needs a file name", value="openai-batch")
    run = selection.run
    if not holds_requests(run.config["dataset"]):
        raise UserError("--format", f"{run.path} was not made from dataset=openai_batch", value="openai-batch")
    selection.join = True
    failed = errors_file(target)
    if failed.exists() and not overwrite:
        raise UserError(f"{failed} exists: --overwrite replaces it; nothing was written")
    counts = [0, 0]
    name = model_name(run)
    with Fresh(overwrite=overwrite) as fresh:
        results = fresh.opened(target)
        errors = None
        for row in _rows(selection):
            record = _record(run, row, name)
            if row["error"] is not None:
                errors = errors or fresh.opened(str(failed))
            file = results if row["error"] is None else errors
            assert file is not None
            file.write(to_json(record).encode() + b"\n")
            counts[row["error"] is not None] += 1
    if not counts[1]:
        failed.unlink(missing_ok=True)  # of an earlier export
    return counts[0], counts[1]


def errors_file(target: str) -> Path:
    """Where the errors go: out.errors.jsonl for out.jsonl, out.errors.jsonl.gz for out.jsonl.gz."""
    path = Path(target)
    stem, dot, suffixes = path.name.partition(".")
    return path.with_name(f"{stem}.errors{dot}{suffixes}")


def _rows(selection: Selection) -> Iterator[dict[str, Any]]:
    for table in selection.tables():
        missing = [name for name in _NEEDED if name not in table.column_names]
        if missing:
            raise UserError(f"--format openai-batch: {selection.run.path} has no column {missing[0]}: job=openai_batch")
        place = position_column(selection.run)
        yield from ({**row, "row": row[place]} for row in table.to_pylist())


def _record(run: Run, row: dict[str, Any], model: str) -> dict[str, Any]:
    name = hashlib.blake2b(f"{run.identity} {row['row']}".encode(), digest_size=12).hexdigest()
    record: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": row["custom_id"] or ""}
    if row["error"] is None:
        answer = _completion if endpoint(row["url"]) == "chat" else _text_completion
        response = {"status_code": 200, "request_id": f"req_{name}", "body": answer(run, row, name, model)}
        return record | {"response": response, "error": None}
    failed = RowError.read(row["error"])
    if row["problem"] is not None:
        return record | {"response": None, "error": {"code": failed.kind, "message": failed.detail}}
    status, error = _refusal(failed, endpoint(row["url"]) == "chat")
    return record | {
        "response": {"status_code": status, "request_id": f"req_{name}", "body": {"error": error}},
        "error": None,
    }


def _completion(run: Run, row: dict[str, Any], name: str, model: str) -> dict[str, Any]:
    choices = [
        {"message": {"role": "assistant", "content": choice["text"], "refusal": None}, "logprobs": _logprobs(choice)}
        for choice in row["choices"]
    ]
    head = {"id": f"chatcmpl-{name}", "object": "chat.completion"}
    return head | _rest(run, row, model, choices)


def _text_completion(run: Run, row: dict[str, Any], name: str, model: str) -> dict[str, Any]:
    asked = json.loads(row["body"])["prompt"]
    choices = [{"text": choice["text"], "logprobs": _text_logprobs(choice)} for choice in row["choices"]]
    head = {"id": f"cmpl-{name}", "object": "text_completion"}
    return head | _rest(run, row, model, choices, 1 if is_one_prompt(asked) else len(asked))


def _rest(run: Run, row: dict[str, Any], model: str, choices: list[dict[str, Any]], prompts: int = 1) -> dict[str, Any]:
    """What both endpoints answer alike; each of ``choices`` comes without its place and its end."""
    return {
        "created": int(run.begun),
        "model": model,
        "choices": [
            {"index": index, **choice, "finish_reason": answer["finish_reason"]}
            for index, (choice, answer) in enumerate(zip(choices, row["choices"], strict=True))
        ],
        "usage": _usage(row["usage"], len(choices), prompts),
        "system_fingerprint": _fingerprint(run),
    }


def _fingerprint(run: Run) -> str:
    return f"rowmill-{run.identity['dataset']['fingerprint'][:12]}"


def _text_logprobs(choice: dict[str, Any]) -> dict[str, Any] | None:
    tokens = choice.get("logprobs")
    if tokens is None:
        return None
    names = [one["token"] for one in tokens]
    return {
        "tokens": names,
        "token_logprobs": [one["logprob"] for one in tokens],
        "top_logprobs": [{other["token"]: other["logprob"] for other in one["top_logprobs"]} for one in tokens],
        "text_offset": [0, *accumulate(map(len, names))][: len(names)],
    }


def _logprobs(choice: dict[str, Any]) -> dict[str, Any] | None:
    tokens = choice.get("logprobs")  # a run made before there were any has none
    return None if tokens is None else {"content": tokens, "refusal": None}


def _usage(usage: dict[str, Any], choices: int, prompts: int = 1) -> dict[str, Any]:
    """The API counts each prompt once, however many choices there are, and however often one was asked for again."""
    asked = choices + (usage.get("retries") or 0)
    prompt, cached = (usage[name] * prompts // asked for name in ("prompt_tokens", "cached_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": prompt + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _refusal(error: RowError, is_chat: bool) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the error object for a row's error; what no request is to blame for is a 500."""
    found = _BLAMED.get(error.kind) or refused(error.kind)
    if found is None:
        return 500, {"message": str(error), "type": "server_error", "param": None, "code": None}
    code, param = found
    message = error.detail
    if error.kind in _BLAMED:
        message = str(error)
        param = "prompt" if param == "messages" and not is_chat else param
    return 400, {"message": message, "type": "invalid_request_error", "param": param, "code": code}
