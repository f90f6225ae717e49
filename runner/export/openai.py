"""Results as the OpenAI Batch API writes them: a file of responses and one of errors, an object a request.

The objects are those of the API reference: "The request output object" of the Batch API, "The chat completion object",
and the error object of a refused request. Ids follow from the run and the row: the same export has the same ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.data.readers import holds_requests
from runner.export.annotate import model_name
from runner.export.files import STDOUT, opened
from runner.export.select import Selection
from runner.plain import to_json
from runner.results.run import Run
from runner.types import TOO_LONG, RowError, UserError

_NEEDED = ("choices", "usage", "error")
_PARAM = re.compile(r"body\.([\w.\[\]]+)")
_CONTEXT_EXCEEDED = "context_length_exceeded"


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
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(opened(target, overwrite=overwrite))
        errors = None
        for row in _rows(selection):
            record = _record(run, row, name)
            if row["error"] is not None:
                errors = errors or stack.enter_context(opened(str(failed), overwrite=overwrite))
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
        yield from table.to_pylist()


def _record(run: Run, row: dict[str, Any], model: str) -> dict[str, Any]:
    name = hashlib.blake2b(f"{run.identity} {row['row']}".encode(), digest_size=12).hexdigest()
    record: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": row["custom_id"] or ""}
    if row["error"] is None:
        response = {"status_code": 200, "request_id": f"req_{name}", "body": _completion(run, row, name, model)}
        return record | {"response": response, "error": None}
    failed = RowError.read(row["error"])
    if row["problem"] is not None:
        return record | {"response": None, "error": {"code": failed.kind, "message": failed.detail}}
    status, error = _refusal(failed.kind, failed.detail)
    return record | {
        "response": {"status_code": status, "request_id": f"req_{name}", "body": {"error": error}},
        "error": None,
    }


def _completion(run: Run, row: dict[str, Any], name: str, model: str) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice["text"], "refusal": None},
            "logprobs": _logprobs(choice),
            "finish_reason": choice["finish_reason"],
        }
        for index, choice in enumerate(row["choices"])
    ]
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": int(run.begun),
        "model": model,
        "choices": choices,
        "usage": _usage(row["usage"], len(choices)),
        "system_fingerprint": f"rowmill-{run.identity['dataset']['fingerprint'][:12]}",
    }


def _logprobs(choice: dict[str, Any]) -> dict[str, Any] | None:
    tokens = choice.get("logprobs")  # a run made before there were any has none
    return None if tokens is None else {"content": tokens, "refusal": None}


def _usage(usage: dict[str, Any], choices: int) -> dict[str, Any]:
    """The API counts the prompt once, however many choices there are."""
    prompt, cached = usage["prompt_tokens"] // choices, usage["cached_tokens"] // choices
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": prompt + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _refusal(code: str, message: str) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the error object for a row's error; what no request is to blame for is a 500."""
    param = found[1] if (found := _PARAM.match(message)) else None
    if code == TOO_LONG:
        code, param = _CONTEXT_EXCEEDED, "messages"
    if param is None:
        return 500, {"message": f"{code}: {message}".strip(": "), "type": "server_error", "param": None, "code": None}
    return 400, {"message": message, "type": "invalid_request_error", "param": param, "code": code}
