"""Which columns of the data a run keeps, and under what names."""

import json
from pathlib import Path

import pytest

from runner import open_run, run
from runner.cli import main
from runner.data import kept
from runner.data.kept import numbered
from runner.types import UserError

FAKE = ["engine.backend=fake", "prompt.user={{ text }}"]
ROW = {"text": "hello", "label": "a", "error": "x", "usage": 1, "n": "m"}


@pytest.fixture(autouse=True)
def folder(folder):
    Path("d.jsonl").write_text("".join(json.dumps(ROW | {"text": f"{ROW['text']} {i}"}) + "\n" for i in range(3)))


def made(name, *words):
    data = ["dataset=jsonl", "dataset.path=d.jsonl"] if not any(word.startswith("dataset=") for word in words) else []
    run([*FAKE, *data, *words, f"run_name={name}"])
    return list(open_run(f"outputs/{name}").rows())


def test_columns_whose_names_are_taken_are_kept_under_others(caplog):
    caplog.set_level("INFO", "rowmill")
    row = made("a", "job=generate")[0]
    assert list(row) == ["row", "input_text", "label", "input_error", "input_usage", "n", "text", "error", "usage"]
    assert (row["input_text"], row["input_error"], row["input_usage"]) == ("hello 0", "x", 1)
    assert "text as input_text, error as input_error, usage as input_usage" in caplog.text
    schema = "{type: object, properties: {n: {type: integer}, label: {type: string}}, required: [n, label]}"
    row = made("b", "job=generate", f"output.schema={schema}")[0]
    assert (row["input_n"], row["input_label"], row["text"]) == ("m", "a", "hello 0")
    assert isinstance(row["n"], int)


def test_a_chain_of_runs_keeps_every_column():
    before = made("a", "job=generate")
    after = made("b", "job=label", "job.labels=[a,b]", "dataset=arrow", "dataset.path=outputs/a", "dataset.gold=label")
    for old, new in zip(before, after, strict=True):
        names = {"error": "input_error_2", "usage": "input_usage_2", "label": "gold"}
        assert {name: new[names.get(name, name)] for name in old} == old
    third = made("c", "job=label", "job.labels=[a,b]", "dataset=arrow", "dataset.path=outputs/b")
    assert third[0]["input_label"] == after[0]["label"]


def test_columns_that_are_asked_for_are_kept_under_others_too():
    row = made("a", "job=generate", "output.keep=[text,n]")[0]
    assert list(row) == ["row", "input_text", "n", "text", "error", "usage"]
    with pytest.raises(UserError, match=r"output\.keep: the column 'n' is listed twice"):
        made("b", "job=generate", "output.keep=[n,n]")


def test_a_run_of_an_earlier_version_goes_on_without_them(monkeypatch):
    choose = kept.choose

    def as_before(wanted, source, job, before=None):
        found = choose(wanted, source, job, before)
        return kept.Kept(source, {output: name for output, name in found.columns.items() if output == name})

    monkeypatch.setattr("runner.session.prepare.choose", as_before)
    made("a", "job=generate")
    monkeypatch.setattr("runner.session.prepare.choose", choose)
    assert main(["run", *FAKE, "job=generate", "dataset=jsonl", "dataset.path=d.jsonl", "run_name=a"]) == 0
    assert next(iter(open_run("outputs/a").rows())).keys() == {"row", "label", "n", "text", "error", "usage"}


def test_exports_have_each_column_once_and_prompts_are_made_of_the_data():
    made("a", "job=generate", "output.keep=[n]")
    made("b", "job=generate")
    for name in "ab":
        assert main(["export", f"outputs/{name}", f"{name}.jsonl", "--join"]) == 0
        assert main(["export", f"outputs/{name}", f"{name}-chat.jsonl", "--format", "chat"]) == 0
        row = json.loads(Path(f"{name}.jsonl").read_text().splitlines()[0])
        assert (row["input_text"], row["input_error"], row["label"]) == ("hello 0", "x", "a")
        chat = json.loads(Path(f"{name}-chat.jsonl").read_text().splitlines()[0])
        assert chat["messages"][0]["content"] == "hello 0"
    assert json.loads(Path("b.jsonl").read_text().splitlines()[0]).keys() >= row.keys()


def test_a_taken_name_gets_the_least_number():
    assert numbered("a", {"b"}) == "a"
    assert numbered("a", {"a", "a_2"}) == "a_3"
