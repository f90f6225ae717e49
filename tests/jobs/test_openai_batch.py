"""Requests for the OpenAI Batch API, answered here: results and errors are what the API's own schema says."""

import json
from pathlib import Path

import jsonschema
import pytest

import runner
from jobs.openai_batch import OpenAIBatch
from runner.cli import main
from runner.loop.requests import Defaults, digest_of, sequence_of
from runner.types import CHAT_REFUSED, TOO_LONG, Completion, Request, RowError, Sampling, UserError
from tests.support.runs import json_lines

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
    results, errors = json_lines("out.jsonl"), json_lines("out.errors.jsonl")
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
    names = [error["name"] for error in runner.open_run("outputs/batch").errors]
    assert names == ["line 3", "request-4", "request-5", "request-1", "request-7"]
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
    for line in json_lines("out.jsonl"):
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
    one, three, again = (line["response"]["body"] for line in json_lines("out.jsonl"))
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
    assert [line["custom_id"] for line in json_lines("out.jsonl")] == ["a"]


def test_what_is_no_batch_is_refused(folder, capsys):
    (folder / "a.txt").write_text("hello\n")
    words = ["job=generate", "dataset=text", "dataset.path=a.txt", "prompt.user={{ text }}", "run_name=batch"]
    runner.run([*words, "engine.backend=fake"])
    assert main(EXPORT) == 2
    assert "was not made from dataset=openai_batch" in capsys.readouterr().err
    (folder / "b.jsonl").write_text(json.dumps({"custom_id": "a", "body": {"messages": []}}) + "\n")
    for kind, file, why in (("text", "a.txt", "no column 'body'"), ("jsonl", "b.jsonl", "dataset=openai_batch reads")):
        with pytest.raises(UserError, match=why):
            runner.run(["job=openai_batch", f"dataset={kind}", f"dataset.path={file}", "engine.backend=fake"])


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
    (large,) = requests({"max_tokens": 10**15, "n": 1.0})
    assert large.max_tokens == 2**31 - 1
    (named,) = next(steps({"messages": [{"role": "user", "name": "Ann", "content": "Hi", "refusal": None}]}))
    assert named.messages == ({"role": "user", "content": "Hi", "name": "Ann"},)
    (developer,) = next(steps({"messages": [{"role": "developer", "content": "Be brief."}, *HELLO]}))
    assert developer.messages[0]["role"] == "system"


def test_what_is_no_parameter_of_text_completions_is_no_part_of_them(folder):
    row = {"custom_id": "a", "problem": None, "url": "/v1/completions"}
    for name, value in (("messages", HELLO), ("response_format", {"type": "json_object"}), ("reasoning_effort", "low")):
        with pytest.raises(RowError, match=f"unsupported_parameter {name}: it is a parameter of /chat/completions"):
            next(OpenAIBatch().steps({**row, "body": json.dumps({"prompt": "a", name: value})}))


def answered(folder, *asked, run=RUN):
    """The results of these requests and their errors, by ``custom_id``."""
    write("requests.jsonl", *asked)
    main([*run, "resume=force"])
    assert main([*EXPORT, "--overwrite"]) == 0
    errors = json_lines("out.errors.jsonl") if Path("out.errors.jsonl").exists() else []
    return [{line["custom_id"]: line["response"] for line in some} for some in (json_lines("out.jsonl"), errors)]


def test_generation_ends_at_a_requests_stop_texts(folder):
    schema = {"type": "object", "properties": {"a": {"const": "one two"}}, "required": ["a"]}
    structured = formatted("json_schema", json_schema={"name": "x", "schema": schema})
    found, _ = answered(
        folder,
        request("whole", temperature=0),
        request("cut", temperature=0, stop="r"),
        request("cut of many", temperature=0, stop=["x1", "x2", "x3", "r"], n=2, seed=1),
        request("cut in JSON", stop=["tw"], response_format=structured),
    )
    body = {name: response["body"] for name, response in found.items()}
    texts = {name: [one["message"]["content"] for one in answer["choices"]] for name, answer in body.items()}
    assert all(one["finish_reason"] == "stop" for answer in body.values() for one in answer["choices"])
    assert texts["cut"] == [texts["whole"][0].partition("r")[0]]
    assert texts["cut in JSON"] == ['{"a": "one ']
    used = {name: answer["usage"]["completion_tokens"] for name, answer in body.items()}
    assert used["cut"] == len(texts["cut"][0]) + 1 < used["whole"]
    assert used["cut of many"] == sum(
        len(text) + ("r" in text or text != texts["whole"][0]) for text in texts["cut of many"]
    )


def test_requests_with_other_stop_texts_have_other_answers():
    one, other = (requests({"stop": stop})[0] for stop in (["a"], None))
    made = [sequence_of((0, 0), 0, request, [1], Defaults(9, Sampling(), 0), None) for request in (one, other)]
    assert digest_of(made[0]) != digest_of(made[1])


def test_a_limit_beyond_the_context_is_one_at_its_end():
    defaults = Defaults(9, Sampling(), 0, context=10)
    (asked,) = requests({"max_tokens": 50})
    assert sequence_of((0, 0), 0, asked, [1] * 7, defaults, None).max_tokens == 3
    assert sequence_of((0, 0), 0, asked, [1] * 12, defaults, None).max_tokens == 1  # which the engine refuses
    assert sequence_of((0, 0), 0, Request(max_tokens=50), [1] * 7, defaults, None).max_tokens == 50


def test_a_token_that_the_model_does_not_have_is_an_error():
    """Of a tokenizer that got more tokens than the embedding has rows."""
    defaults = Defaults(9, Sampling(), 0, known=10)
    assert sequence_of((0, 0), 0, Request(), [9, 1], defaults, None).tokens == [9, 1]
    with pytest.raises(RowError, match="token 10 of its tokenizer is none of the model's 10"):
        sequence_of((0, 0), 0, Request(), [10, 1], defaults, None)
    with pytest.raises(RowError, match="token 12 of its tokenizer is none of the model's 10"):
        sequence_of((0, 0), 0, Request(choices=("a", "b")), [9], defaults, lambda *_: ((1, 12), (2,)))


def test_variables_of_the_chat_template_can_be_set_by_requests():
    (low,) = requests({"reasoning_effort": "low"})
    assert low.template_kwargs == {"reasoning_effort": "low"}
    (both,) = requests({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}})
    assert both.template_kwargs == {"reasoning_effort": "low", "enable_thinking": False}
    assert requests({})[0].template_kwargs == {}


def test_text_completions_continue_their_prompts(folder):
    def text(custom_id, **body):
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}

    found, errors = answered(
        folder,
        text("one", prompt="Once upon", temperature=0, max_tokens=400, logprobs=2),
        text("many", prompt=["a", "bcd"], n=2, seed=4),
        text("none"),
        text("wrong", prompt=[1, "a"]),
        text("ids", prompt=list(b"Once upon"), temperature=0, max_tokens=400),
        text("many ids", prompt=[[97], [98, 99, 100]], n=2, seed=4),
        text("no such id", prompt=[[97], [3000]]),
    )
    one, many = (found[name]["body"] for name in ("one", "many"))
    assert (one["object"], one["id"][:5], one["usage"]["prompt_tokens"]) == ("text_completion", "cmpl-", 9)
    (choice,) = one["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["text_offset"] == list(range(len(choice["text"])))
    assert [len(some) for some in choice["logprobs"]["top_logprobs"]] == [2] * len(choice["text"])
    assert [one["index"] for one in many["choices"]] == [0, 1, 2, 3]
    assert many["usage"]["prompt_tokens"] == 4
    assert all(len(one["text"]) <= 16 for one in many["choices"])
    assert [found[name]["body"]["choices"][0]["text"] for name in ("ids", "one")] == [choice["text"]] * 2
    totals = [found[name]["body"]["usage"]["total_tokens"] for name in ("one", "ids", "many", "many ids")]
    assert totals[0::2] == totals[1::2]
    assert [(one["status_code"], one["body"]["error"]["param"]) for one in errors.values()] == [(400, "prompt")] * 3


@pytest.mark.parametrize(
    "url",
    [
        "/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        "https://api.openai.com/v1/chat/completions",
    ],
)
def test_addresses_of_azure_are_taken(folder, url):
    found, errors = answered(folder, {**request("a"), "url": url})
    assert (list(found), errors) == (["a"], {})


def test_an_answer_that_its_schema_does_not_allow_is_asked_for_again():
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    wanted = formatted("json_schema", json_schema={"name": "x", "schema": schema})
    row = steps({"messages": HELLO, "response_format": wanted, "n": 2, "seed": 3, "temperature": 0})
    first = next(row)
    (again,) = row.send([Completion("[1]"), Completion("[1, 1]")])
    assert (again.retry, again.sampling.temperature, again.seed == first[1].seed) == (True, 1.0, False)
    with pytest.raises(StopIteration) as returned:
        row.send([Completion("[2]")])
    assert [one["text"] for one in returned.value.value["choices"]] == ["[1]", "[2]"]
    row = steps({"messages": HELLO, "response_format": wanted})
    next(row)
    row.send([Completion("[1, 1]")])
    with pytest.raises(RowError, match=r"invalid answer: .* non-unique"):
        row.send([Completion("[1, 1]")])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"messages": []}, r"invalid_value messages: it must be a list"),
        ({"logprobs": 1}, r"invalid_value logprobs: it must be true or false"),
        ({"logprobs": True, "top_logprobs": 21}, r"invalid_value top_logprobs: .* from 0 to 20"),
        ({"top_logprobs": 2}, r"invalid_value top_logprobs: it needs logprobs"),
        ({"messages": "hi"}, r"invalid_value messages: it must be a list"),
        ({"messages": None}, r"missing_required_parameter messages"),
        ({"messages": ["hi"]}, r"invalid_value messages\[0\]: it must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"invalid_value messages\[0\].role"),
        ({"messages": [{"role": [], "content": "x"}]}, r"invalid_value messages\[0\].role"),
        ({"messages": [{"role": "user"}]}, r"missing_required_parameter messages\[0\].content"),
        ({"messages": [{"content": "x"}]}, r"missing_required_parameter messages\[0\].role"),
        ({"messages": [{"role": "user", "content": None}]}, r"invalid_value messages\[0\].content"),
        ({"prompt": "x"}, r"unsupported_parameter prompt: it is a parameter of /completions, not of /chat"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"unsupported_parameter .*'image_url'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"invalid_value .*content\[0\]"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
            r"unsupported_parameter .*tool_calls",
        ),
        ({"temperature": 3}, r"invalid_value temperature: it must be a number from 0 to 2, not 3"),
        ({"temperature": True}, r"invalid_value temperature"),
        ({"top_p": 0}, r"invalid_value top_p"),
        ({"n": 0}, r"invalid_value n"),
        ({"n": 1.5}, r"invalid_value n"),
        ({"seed": "1"}, r"invalid_value seed"),
        ({"max_tokens": 0}, r"invalid_value max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, r"invalid_value stop"),
        ({"stop": [""]}, r"invalid_value stop"),
        ({"frequency_penalty": 0.5}, r"unsupported_parameter frequency_penalty"),
        ({"stream": True}, r"unsupported_parameter stream"),
        ({"logit_bias": {"1": 5}}, r"unsupported_parameter logit_bias"),
        ({"reasoning_effort": "huge"}, r"invalid_value reasoning_effort: it must be one of"),
        ({"chat_template_kwargs": 3}, r"invalid_value chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, r"invalid_value chat_template_kwargs"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, r"invalid_value chat_template_kwargs.*chat_template.jinja"),
        ({"verbosity": "low"}, r"unsupported_parameter verbosity"),
        ({"guided_json": {}}, r"unsupported_parameter guided_json: .*response_format"),
        ({"audio": {"voice": "x"}}, r"unsupported_parameter audio"),
        ({"temprature": 1}, r"unknown_parameter temprature"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(body, error):
    with pytest.raises(RowError, match=error):
        next(steps({"messages": HELLO} | body))


@pytest.mark.parametrize(("key", "value"), [("temperature", 3.0), ("top_p", 0.0)])
def test_wrong_job_keys(key, value):
    with pytest.raises(UserError, match=f"job.{key}={value}"):
        OpenAIBatch(**{key: value})


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (RowError(TOO_LONG, "9000 tokens"), 400, "context_length_exceeded", "messages"),
        (RowError(CHAT_REFUSED, "roles must alternate"), 400, "invalid_value", "messages"),
        (RowError("grammar", "fuel"), 400, "invalid_value", "response_format"),
        (RowError("invalid_value temperature", "it must be"), 400, "invalid_value", "temperature"),
        (RowError("unknown_parameter a%20b%3A", "it is not"), 400, "unknown_parameter", "a b:"),
        (RowError("invalid_value", "body.n: as earlier versions wrote it"), 400, "invalid_value", None),
        (RowError("killed the model"), 500, None, None),
        (RowError("invalid answer", "$.a: no"), 500, None, None),
    ],
)
def test_errors_that_the_request_is_to_blame_for_are_400_and_all_others_500(error, status, code, param):
    # No run of a test makes all of these errors.
    from runner.export.openai import _refusal

    found, body = _refusal(RowError.read(str(error)), True)
    assert (found, body["code"], body["param"]) == (status, code, param)
    assert body["type"] == ("invalid_request_error" if status == 400 else "server_error")


def test_a_name_with_a_colon_is_told_as_it_is(folder):
    _, errors = answered(folder, request("a", **{"my: key": 1}))
    assert errors["a"]["body"]["error"]["param"] == "my: key"


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
    choices = {line["custom_id"]: line["response"]["body"]["choices"][0] for line in json_lines("out.jsonl")}
    jsonschema.validate(json.loads(choices["schema"]["message"]["content"]), COLOUR)
    if choices["object"]["finish_reason"] == "stop":
        assert isinstance(json.loads(choices["object"]["message"]["content"]), dict)
    assert choices["object"]["message"]["content"].startswith("{")
    assert not choices["text"]["message"]["content"].startswith("{")
    (error,) = json_lines("out.errors.jsonl")
    assert error["response"]["body"]["error"]["param"].startswith("response_format.json_schema.schema")
    assert error["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("json_object", r"invalid_value response_format: it must be an object with a type"),
        (formatted("xml"), r"invalid_value response_format.type: it must be text, json_object or json_schema"),
        (formatted("json_schema"), r"invalid_value response_format.json_schema: it must be an object"),
        (
            formatted("json_schema", json_schema={"schema": "file.json"}),
            r"invalid_value response_format.json_sch",
        ),
    ],
)
def test_a_format_that_cannot_be_followed(wanted, error):
    with pytest.raises(RowError, match=error):
        next(steps({"messages": HELLO, "response_format": wanted}))
