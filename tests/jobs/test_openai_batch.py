"""Requests for the OpenAI Batch API, answered here: results and errors are what the API's own schema says."""

import json
from pathlib import Path

import jsonschema
import pytest

import runner
from jobs.openai_batch import OpenAIBatch
from runner.cli import main
from runner.types import Completion, RowError, UserError

# The objects of the public API reference (Batch API, request output; Chat, completion object; error object).
NULL_OR_TEXT = {"type": ["string", "null"]}
COUNT = {"type": "integer", "minimum": 0}
TOKEN = {
    "token": {"type": "string"},
    "logprob": {"type": "number", "maximum": 0},
    "bytes": {"type": ["array", "null"], "items": {"type": "integer", "minimum": 0, "maximum": 255}},
}
ALTERNATIVE = {"type": "object", "required": [*TOKEN], "properties": TOKEN, "additionalProperties": False}
TOPS = {"type": "array", "maxItems": 20, "items": ALTERNATIVE}
SPELT = {
    "type": "object",
    "required": [*TOKEN, "top_logprobs"],
    "properties": TOKEN | {"top_logprobs": TOPS},
    "additionalProperties": False,
}
CHOICE = {
    "type": "object",
    "required": ["index", "message", "logprobs", "finish_reason"],
    "properties": {
        "index": COUNT,
        "finish_reason": {"enum": ["stop", "length", "tool_calls", "content_filter", "function_call"]},
        "message": {
            "type": "object",
            "required": ["role", "content", "refusal"],
            "properties": {"role": {"const": "assistant"}, "content": NULL_OR_TEXT, "refusal": NULL_OR_TEXT},
        },
        "logprobs": {
            "type": ["object", "null"],
            "required": ["content", "refusal"],
            "properties": {"content": {"type": "array", "items": SPELT}},
        },
    },
}
COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string", "pattern": "^chatcmpl-"},
        "object": {"const": "chat.completion"},
        "created": COUNT,
        "model": {"type": "string", "minLength": 1},
        "choices": {"type": "array", "minItems": 1, "items": CHOICE},
        "system_fingerprint": {"type": "string"},
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            "properties": {
                "prompt_tokens": COUNT,
                "completion_tokens": COUNT,
                "total_tokens": COUNT,
                "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": COUNT}},
            },
        },
    },
}
REFUSAL = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}}
            | dict.fromkeys(("param", "code"), NULL_OR_TEXT),
        }
    },
}


def line_schema(body, status, error):
    response = {
        "type": "object",
        "required": ["status_code", "request_id", "body"],
        "additionalProperties": False,
        "properties": {"status_code": status, "request_id": {"type": "string"}, "body": body},
    }
    return {
        "type": "object",
        "required": ["id", "custom_id", "response", "error"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "pattern": "^batch_req_"},
            "custom_id": {"type": "string"},
            "response": {"anyOf": [response, {"type": "null"}]} if error else response,
            "error": {"anyOf": [error, {"type": "null"}]} if error else {"type": "null"},
        },
    }


RESULT_LINE = line_schema(COMPLETION, {"const": 200}, None)
LINE_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
}
ERROR_LINE = line_schema(REFUSAL, {"type": "integer", "minimum": 400, "maximum": 599}, LINE_ERROR)

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def request(custom_id, content="Hello world!", **body):
    """A line in the form of the example that comes with vLLM's run-batch."""
    messages = [SYSTEM, {"role": "user", "content": content}]
    body = {"model": "meta-llama/Meta-Llama-3-8B-Instruct", "messages": messages, "max_completion_tokens": 50} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path, *requests):
    lines = (line if isinstance(line, str) else json.dumps(line) for line in requests)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = ["run", "dataset=openai_batch", "dataset.path=requests.jsonl", "run_name=batch", "engine.backend=fake"]
EXPORT = ["export", "outputs/batch", "out.jsonl", "--format", "openai-batch"]


def test_the_round_trip(folder, capsys):
    write(
        "requests.jsonl",
        request("request-1"),
        request("request-2", "Another", temperature=0.7, seed=7, n=3, top_p=0.9, user="me", metadata={"a": "b"}),
        '{"custom_id": "request-3", "method": ',
        request("request-4", tools=[{"type": "function", "function": {"name": "f"}}]),
        request("request-5", temperature="hot"),
        request("request-1", "the id is taken"),
        {**request("request-7"), "url": "/v1/embeddings"},
        request("request-8", response_format={"type": "text"}, stop=["birch"], logprobs=False, presence_penalty=0),
        request("request-9", messages=[{"role": "user", "content": [{"type": "text", "text": "parts"}]}]),
    )
    assert main(RUN) == 1
    assert main(EXPORT) == 0
    assert "4 of 9 rows written to out.jsonl" in (said := capsys.readouterr().out)
    assert "5 errors written to out.errors.jsonl" in said
    results, errors = lines("out.jsonl"), lines("out.errors.jsonl")
    for result in results:
        jsonschema.validate(result, RESULT_LINE)
    for error in errors:
        jsonschema.validate(error, ERROR_LINE)
    assert [result["custom_id"] for result in results] == ["request-1", "request-2", "request-8", "request-9"]
    assert [error["custom_id"] for error in errors] == ["", "request-4", "request-5", "request-1", "request-7"]
    assert len({line["id"] for line in results + errors}) == 9
    codes = [(line["error"] or line["response"]["body"]["error"])["code"] for line in errors]
    unsupported = "unsupported_parameter"
    assert codes == ["invalid_json_line", unsupported, "invalid_value", "duplicate_custom_id", "invalid_url"]
    assert errors[0]["error"]["message"].startswith("requests.jsonl line 3 is not JSON")
    assert errors[1]["response"]["status_code"] == 400
    assert errors[1]["response"]["body"]["error"]["param"] == "tools"
    assert errors[2]["response"]["body"]["error"]["param"] == "temperature"


def test_log_probabilities_are_those_of_the_answers_tokens(folder):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    structured = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    write(
        "requests.jsonl",
        request("plain", logprobs=True),
        request("top", logprobs=True, top_logprobs=2, n=2),
        request("stop", logprobs=True, stop=["o", "e", "a"]),
        request("json", logprobs=True, top_logprobs=20, response_format=structured, max_completion_tokens=200),
        request("none", top_logprobs=0),
    )
    assert main(RUN) == 0
    assert main(EXPORT) == 0
    for line in lines("out.jsonl"):
        jsonschema.validate(line, RESULT_LINE)
        for choice in line["response"]["body"]["choices"]:
            if line["custom_id"] == "none":
                assert choice["logprobs"] is None
                continue
            spelt = choice["logprobs"]["content"]
            assert "".join(one["token"] for one in spelt) == choice["message"]["content"]
            assert bytes(byte for one in spelt for byte in one["bytes"]).decode() == choice["message"]["content"]
            count = {"top": 2, "json": 20}.get(line["custom_id"], 0)
            assert all(len(one["top_logprobs"]) == count for one in spelt)
            assert all(one["top_logprobs"][0]["logprob"] == one["logprob"] for one in spelt if count)


def test_choices_are_drawn_apart_and_the_prompt_is_counted_once(folder):
    write("requests.jsonl", request("one", seed=1), request("three", seed=1, n=3), request("again", seed=1, n=3))
    assert main(RUN) == 0
    assert main(EXPORT) == 0
    one, three, again = (line["response"]["body"] for line in lines("out.jsonl"))
    texts = [choice["message"]["content"] for choice in three["choices"]]
    assert len(set(texts)) == 3
    assert texts[0] == one["choices"][0]["message"]["content"]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["total_tokens"] == three["usage"]["prompt_tokens"] + three["usage"]["completion_tokens"]
    assert one["model"] == "fake"


def test_exports_without_errors_leave_no_error_file(folder):
    write("requests.jsonl", request("a"))
    assert main(RUN) == 0
    (folder / "out.errors.jsonl").write_text("of an earlier export")
    assert main(EXPORT) == 2
    assert main([*EXPORT, "--overwrite"]) == 0
    assert not (folder / "out.errors.jsonl").exists()
    assert main([*EXPORT[:2], "out.jsonl.gz", *EXPORT[3:], "--where", "custom_id == a"]) == 0


def test_columns_that_were_not_kept_are_read_again(folder):
    write("requests.jsonl", request("a"), "nope")
    assert main([*RUN, "output.keep=[]"]) == 1
    assert main(EXPORT) == 0
    assert [line["custom_id"] for line in lines("out.jsonl")] == ["a"]


def test_what_is_no_batch_is_refused(folder, capsys):
    (folder / "a.txt").write_text("hello\n")
    words = ["job=generate", "dataset=text", "dataset.path=a.txt", "prompt.user={{ text }}", "run_name=batch"]
    runner.run([*words, "engine.backend=fake"])
    assert main(EXPORT) == 2
    assert "was not made from dataset=openai_batch" in capsys.readouterr().err
    with pytest.raises(UserError, match="no column 'body'"):
        runner.run(["job=openai_batch", "dataset=text", "dataset.path=a.txt", "engine.backend=fake"])


def steps(body, **job):
    row = {"custom_id": "a", "problem": None, "body": json.dumps(body)}
    return OpenAIBatch(**job).steps(row)


HELLO = [{"role": "user", "content": "Hello"}]


def requests(body, **job):
    return next(steps({"messages": HELLO, **body}, **job))


def test_parameters_become_those_of_requests():
    (plain,) = requests({})
    assert plain.messages == ({"role": "user", "content": "Hello"},)
    assert (plain.sampling.temperature, plain.sampling.top_p, plain.max_tokens, plain.seed) == (1.0, 1.0, None, None)
    (greedy,) = requests({}, temperature=0.0)
    assert greedy.sampling.temperature == 0
    (full,) = requests(
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.1,
            "seed": -3,
            "max_tokens": 9,
            "model": 7,
            "n": None,
        }
    )
    assert vars(full.sampling) == {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1}
    assert (full.max_tokens, full.seed) == (9, -3)
    (newer,) = requests({"max_tokens": 9, "max_completion_tokens": 4})
    assert newer.max_tokens == 4
    (developer,) = next(steps({"messages": [{"role": "developer", "content": "Be brief."}, *HELLO]}))
    assert developer.messages[0]["role"] == "system"


def test_stop_texts_end_an_answer_and_are_left_out():
    row = steps({"messages": HELLO, "stop": ["END", "."], "n": 2})
    next(row)
    with pytest.raises(StopIteration) as returned:
        row.send([Completion("one. two END", "length"), Completion("three", "length")])
    assert returned.value.value == {
        "text": "one",
        "choices": [
            {"text": "one", "finish_reason": "stop", "logprobs": None},
            {"text": "three", "finish_reason": "length", "logprobs": None},
        ],
    }


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"messages": []}, r"invalid_value: body.messages: it must be a list"),
        ({"logprobs": 1}, r"invalid_value: body.logprobs: it must be true or false"),
        ({"logprobs": True, "top_logprobs": 21}, r"invalid_value: body.top_logprobs: .* from 0 to 20"),
        ({"top_logprobs": 2}, r"invalid_value: body.top_logprobs: it needs logprobs"),
        ({"messages": "hi"}, r"invalid_value: body.messages: it must be a list"),
        ({"messages": None}, r"missing_required_parameter: body.messages"),
        ({"messages": ["hi"]}, r"invalid_value: body.messages\[0\]: it must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"invalid_value: body.messages\[0\].role"),
        ({"messages": [{"role": [], "content": "x"}]}, r"invalid_value: body.messages\[0\].role"),
        ({"messages": [{"role": "user"}]}, r"invalid_value: body.messages\[0\].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"unsupported_parameter: .*'image_url'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"invalid_value: .*content\[0\]"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
            r"unsupported_parameter: .*tool_calls",
        ),
        ({"temperature": 3}, r"invalid_value: body.temperature: it must be a number from 0 to 2, not 3"),
        ({"temperature": True}, r"invalid_value: body.temperature"),
        ({"top_p": 0}, r"invalid_value: body.top_p"),
        ({"n": 0}, r"invalid_value: body.n"),
        ({"n": 1.5}, r"invalid_value: body.n"),
        ({"seed": "1"}, r"invalid_value: body.seed"),
        ({"max_tokens": 0}, r"invalid_value: body.max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, r"invalid_value: body.stop"),
        ({"stop": [""]}, r"invalid_value: body.stop"),
        ({"frequency_penalty": 0.5}, r"unsupported_parameter: body.frequency_penalty"),
        ({"stream": True}, r"unsupported_parameter: body.stream"),
        ({"logit_bias": {"1": 5}}, r"unsupported_parameter: body.logit_bias"),
        ({"temprature": 1}, r"unknown_parameter: body.temprature"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(body, error):
    with pytest.raises(RowError, match=error):
        next(steps({"messages": HELLO} | body))


@pytest.mark.parametrize(("key", "value"), [("temperature", 3.0), ("top_p", 0.0)])
def test_wrong_job_keys(key, value):
    with pytest.raises(UserError, match=f"job.{key}={value}"):
        OpenAIBatch(**{key: value})


def test_errors_that_are_not_the_requests_fault():
    # No run of a test makes all of these errors.
    from runner.export.openai import _refusal

    assert _refusal("too long", "9000 tokens")[1]["code"] == "context_length_exceeded"
    assert _refusal("too long", "9000 tokens")[0] == 400
    assert _refusal("killed the model", "")[0] == 500


COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer"}}}
COLOUR |= {"required": ["colour", "n"], "additionalProperties": False}


def formatted(kind, **inner):
    return {"type": kind, **inner}


def test_answers_follow_their_requests_format(folder):
    wanted = formatted("json_schema", json_schema={"name": "colour", "strict": True, "schema": COLOUR})
    write(
        "requests.jsonl",
        request("schema", response_format=wanted, max_completion_tokens=200),
        request("object", response_format=formatted("json_object"), max_completion_tokens=200),
        request("text", response_format=formatted("text")),
        request("wrong", response_format=formatted("json_schema", json_schema={"schema": {"typ": "object"}})),
    )
    assert main(RUN) == 1
    assert main(EXPORT) == 0
    choices = {line["custom_id"]: line["response"]["body"]["choices"][0] for line in lines("out.jsonl")}
    jsonschema.validate(json.loads(choices["schema"]["message"]["content"]), COLOUR)
    if choices["object"]["finish_reason"] == "stop":
        assert isinstance(json.loads(choices["object"]["message"]["content"]), dict)
    assert choices["object"]["message"]["content"].startswith("{")
    assert not choices["text"]["message"]["content"].startswith("{")
    (error,) = lines("out.errors.jsonl")
    assert error["response"]["body"]["error"]["param"].startswith("response_format.json_schema.schema")
    assert error["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("json", r"invalid_value: body.response_format.type: it must be text, json_object or json_schema"),
        (formatted("xml"), r"invalid_value: body.response_format.type"),
        (formatted("json_schema"), r"invalid_value: body.response_format.json_schema: it must be an object"),
        (
            formatted("json_schema", json_schema={"schema": "file.json"}),
            r"invalid_value: body.response_format.json_sch",
        ),
    ],
)
def test_a_format_that_cannot_be_followed(wanted, error):
    with pytest.raises(RowError, match=error):
        next(steps({"messages": HELLO, "response_format": wanted}))
