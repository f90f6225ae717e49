"""OpenAI batch files: a row for every line, and what is wrong with it."""

import json

import pytest

from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.types import UserError

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello \ud800world!"}], "max_tokens": 20}


def request(custom_id="request-1", **changes):
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": BODY} | changes
    return json.dumps({name: value for name, value in line.items() if value != "absent"})


def opened(tmp_path, *lines):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return open_source(DatasetConf(kind="openai_batch", path=str(path)))


def read(tmp_path, *lines):
    return list(opened(tmp_path, *lines).rows(0))


def test_requests_become_rows(tmp_path):
    first, second = read(tmp_path, request(), "", request("request-2"))
    assert (first["custom_id"], first["line"], first["problem"]) == ("request-1", 1, None)
    assert json.loads(first["body"]) == BODY | {"messages": [{"role": "user", "content": "Hello \ufffdworld!"}]}
    assert (second["custom_id"], second["line"]) == ("request-2", 3)


def test_a_request_is_the_same_one_wherever_it_stands_in_its_file(tmp_path):
    before = opened(tmp_path, request("a"), request("b")).hashes(0, 2)
    after = opened(tmp_path, "", request("new"), request("a"), request("b"))
    assert after.hashes(1, 3) == before != after.hashes(1, 3, places=True)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"custom_id": ', "invalid_json_line: requests.jsonl line 2 is not JSON"),
        (b'{"custom_id": "\xff"}\n', "invalid_json_line: requests.jsonl line 2 is not JSON"),
        ("[1]", "invalid_json_line: requests.jsonl line 2 is not a JSON object but list"),
        ("[" * 100_000, "invalid_json_line"),
        (request("request-1"), "duplicate_custom_id: custom_id 'request-1'"),
        (request(7), "missing_required_parameter: custom_id of requests.jsonl line 2 must be a text"),
        (request("absent"), "missing_required_parameter: custom_id"),
        (request("b", method="GET"), "invalid_method: method is 'GET'"),
        (request("b", url="/v1/embeddings"), "invalid_url: url is '/v1/embeddings'"),
        (request("b", url="absent"), "invalid_url: url is None"),
        (request("b", body=[]), "missing_required_parameter: body"),
    ],
)
def test_a_bad_line_is_a_row_with_its_problem(tmp_path, line, problem):
    good, bad = read(tmp_path, request(), line)
    assert good["problem"] is None
    assert bad["problem"].startswith(problem)
    assert bad["line"] == 2


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"requests.jsonl is not an OpenAI batch file: invalid_json_line: .* line 1"):
        read(tmp_path, "id,text", "1,a")
