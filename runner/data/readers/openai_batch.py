"""OpenAI batch files in: every line is a request, or what is wrong with that line.

The format is that of the Batch API's input file, one JSON object a line: ``custom_id`` (a text, unique in the file),
``method`` POST, ``url`` /v1/chat/completions or /v1/completions, at OpenAI's addresses or Azure's, ``body`` (an
object). Each line that is not blank becomes one row; ``problem`` is null or ``code: message`` with the API's own error
codes where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from runner.data.conf import DatasetConf
from runner.data.readers import Loaded
from runner.data.readers.raw.encodings import lines
from runner.data.readers.table import read_batches
from runner.types import RowError, UserError

_ENDPOINTS = ("/chat/completions", "/completions")  # how their addresses end, whichever host and deployment
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
SCHEMA = pa.schema(
    [
        ("custom_id", pa.string()),
        ("line", pa.int64()),  # from 1, within its file
        ("method", pa.string()),
        ("url", pa.string()),
        ("body", pa.string()),  # JSON
        ("problem", pa.string()),
    ]
)
_ALONG = ("name", "reasoning_content", "reasoning")  # what chat templates may read of a message, beside its text
_BATCH_ROWS = 1000
_CODES = ("invalid_value", "missing_required_parameter", "unsupported_parameter", "unknown_parameter")
_PLAIN = "[].$_"  # in the names of parameters


def read(conf: DatasetConf, path: str, offline: bool) -> Loaded:
    """The requests of batch files."""
    return read_batches(conf, path, offline, lambda paths: read_batch_file(paths, conf.encoding))


def read_batch_file(paths: list[Path], encoding: str = "utf-8") -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The requests of all files. UserError if a file is damaged, or no line of the first ones is a JSON object."""

    def batches() -> Iterator[pa.RecordBatch]:
        rows = _rows(paths, encoding)
        while some := list(islice(rows, _BATCH_ROWS)):
            if all(row["body"] is None and row["custom_id"] is None for row in some):
                raise UserError("dataset.path", f"is not an OpenAI batch file: {some[0]['problem']}", file=paths[0])
            yield pa.RecordBatch.from_pylist(some, schema=SCHEMA)

    return SCHEMA, batches()


def _rows(paths: list[Path], encoding: str) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()  # hashes of the ids: a million take about 60 MB
    for path, number, line in lines(paths, encoding):
        if line.isspace():
            continue
        row = _row(path, number, line)
        custom_id = hash(row["custom_id"])
        if row["custom_id"] is not None and custom_id in seen and row["problem"] is None:
            row["problem"] = f"duplicate_custom_id: custom_id {row['custom_id']!r} occurs in an earlier line, too"
        seen.add(custom_id)
        yield row


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {"line": number}
    try:
        request = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        return row | {"problem": f"invalid_json_line: {path.name} line {number} is not JSON: {error}"}
    if not isinstance(request, dict):
        found = type(request).__name__
        return row | {"problem": f"invalid_json_line: {path.name} line {number} is not a JSON object but {found}"}
    for name in ("custom_id", "method", "url"):
        row[name] = _clean(request[name]) if isinstance(request.get(name), str) else None
    body = request.get("body")
    row["body"] = _clean(json.dumps(body, ensure_ascii=False)) if isinstance(body, dict) else None
    return row | {"problem": _problem(row, f"{path.name} line {number}")}


def _problem(row: dict[str, Any], place: str) -> str | None:
    if not row["custom_id"]:
        return f"missing_required_parameter: custom_id of {place} must be a text: it ties a result to its request"
    if row["method"] != "POST":
        return f"invalid_method: method is {row['method']!r}, it must be POST"
    if endpoint(row["url"] or "") is None:
        return f"invalid_url: url is {row['url']!r}, it must end with {' or '.join(_ENDPOINTS)}"
    return None if row["body"] is not None else "missing_required_parameter: body must be an object"


def endpoint(url: str) -> str | None:
    """Which of the two things a request asks for: ``chat`` or ``text``."""
    place = url.partition("?")[0].rstrip("/")
    found = next((ending for ending in _ENDPOINTS if place.endswith(ending)), None)
    return None if found is None else "chat" if found == _ENDPOINTS[0] else "text"


def _clean(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_messages(messages: Any) -> list[dict[str, str]]:
    """The messages of a body with plain texts and the roles of chat templates; RowError for what is not supported."""
    if messages is None:
        raise refusal("missing_required_parameter", "messages", "it is not set")
    if not isinstance(messages, list) or not messages:
        raise invalid_value("messages", "it must be a list of messages, at least one", messages)
    return [_message(f"messages[{at}]", message) for at, message in enumerate(messages)]


def _message(name: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise invalid_value(name, "it must be an object with role and content", message)
    missing = next((part for part in ("role", "content") if part not in message), None)
    if missing is not None:
        raise refusal("missing_required_parameter", f"{name}.{missing}", "it is not set")
    role = message["role"]
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid_value(f"{name}.role", f"it can be {', '.join(_ROLES)}", role)
    for part in ("tool_calls", "function_call", "audio", "refusal"):
        if message.get(part):
            raise refusal("unsupported_parameter", f"{name}.{part}", "it is not supported")
    more = {part: message[part] for part in _ALONG if isinstance(message.get(part), str)}
    return {"role": _ROLES[role], "content": _content(f"{name}.content", message["content"]), **more}


def _content(name: str, content: Any) -> str:
    """A text, or text parts joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid_value(name, "it must be a text or a list of text parts", content)
    texts = []
    for at, part in enumerate(content):
        if isinstance(part, dict) and part.get("type") not in ("text", None):
            raise refusal("unsupported_parameter", f"{name}[{at}].type", f"only text is read, not {part['type']!r}")
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise invalid_value(f"{name}[{at}]", "it must be an object with type and text", part)
        texts.append(part["text"])
    return "".join(texts)


def is_one_prompt(prompt: Any) -> bool:
    """Whether a request for text has one prompt, a text or token ids, and no list of them."""
    return isinstance(prompt, str) or (
        isinstance(prompt, list) and not any(isinstance(one, str | list) for one in prompt)
    )


def invalid_value(name: str, expected: str, value: Any) -> RowError:
    """The error of a row whose body holds a value that is not what is ``expected``."""
    return refusal("invalid_value", name, f"{expected}, not {json.dumps(value)[:100]}")


def refusal(code: str, param: str, why: str) -> RowError:
    """The error of a row whose request is to blame: the API's code and the parameter are its kind."""
    return RowError(f"{code} {quote(param, safe=_PLAIN)}", why)


def refused(kind: str) -> tuple[str, str | None] | None:
    """The code and the parameter of such an error (earlier runs kept the code alone); None for other kinds."""
    code, _, param = kind.partition(" ")
    return (code, unquote(param) or None) if code in _CODES else None
