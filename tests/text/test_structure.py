"""Answers with a structure: which configurations are taken, what columns they become, and that retries are replayed."""

import json

import datasets
import jsonschema
import pyarrow as pa
import pytest

from runner import run
from runner.engine.fake import FakeEngine
from runner.loop.retrying import Retrying
from runner.sequences import Sequence
from runner.text.channels import Channels
from runner.text.grammar import AnswerGrammar
from runner.text.structure import StructureConf, read_structure
from runner.text.vocabulary import ByteTokenizer
from runner.types import Completion, Request, RowError, UserError
from tests.support.schemas import SCHEMAS
from tests.support.world import CountingEngine, FunctionJob, World

NONE = StructureConf()


def structure(**conf):
    return read_structure(StructureConf(**conf), NONE, [])


def fake_answers(found, count=3, max_tokens=2000):
    grammar = AnswerGrammar(found.body, Channels(ByteTokenizer(), True)).after([])
    engine = FakeEngine(count)
    engine.add([Sequence((i, 0), [i], max_tokens, grammar=grammar) for i in range(count)])
    return [(bytes(one.tokens).decode(), one.finish_reason) for one in engine.step()]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_followed_and_its_answers_fit_its_columns(name):
    found = structure(schema=SCHEMAS[name])
    schema = pa.schema(found.fields())
    for text, reason in fake_answers(found):
        assert reason == "stop"
        jsonschema.validate(json.loads(text), SCHEMAS[name])
        pa.Table.from_pylist([found.values(text)], schema=schema)


def test_the_columns_of_a_schema():
    found = structure(
        schema={
            "type": "object",
            "properties": {
                "a": {"type": ["string", "null"]},
                "b": {"enum": ["x", "y", None]},
                "c": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "number"}}}},
                "e": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
                "f": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "g": {"type": "object"},
                "h": {"$ref": "#/$defs/h"},
                "i": {"enum": [1, 2]},
            },
            "$defs": {"h": {"type": "object", "properties": {"h": {"$ref": "#/$defs/h"}, "n": {"type": "boolean"}}}},
        }
    )
    words = pa.dictionary(pa.int32(), pa.string())
    inner = pa.struct([("d", pa.float64())])
    types = [pa.string(), words, pa.list_(inner), pa.float64(), pa.string(), pa.string()]
    types += [pa.struct([("h", pa.string()), ("n", pa.bool_())]), pa.int64()]
    assert [(f.name, f.type) for f in found.fields()] == list(zip("abcefghi", types, strict=True))
    values = found.values('{"a": null, "c": [{"d": 1}], "f": 3, "g": {"z": 1}, "h": {"h": {"n": true}}, "more": 1}')
    assert values == {
        **dict.fromkeys("abei"),
        "c": [{"d": 1.0}],
        "f": "3",
        "g": '{"z": 1}',
        "h": {"h": '{"n": true}', "n": None},
    }


def test_what_a_schema_leaves_open_is_narrowed():
    found = structure(schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    for text, _ in fake_answers(found, 20):
        assert json.loads(text).keys() == {"n"}
        assert abs(json.loads(text)["n"]) < 2**53


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"schema": {"properties": {"a": {"items": {}, "uniqueItems": True}}}}, "keyword properties.a.uniqueItems"),
        ({"schema": {"not": {"type": "string"}}}, "keyword not is not supported"),
        ({"schema": {"type": "strin"}}, "the keyword type: Invalid type: strin"),
        (
            {"schema": {"properties": {"a": {"type": "string", "format": "tel"}}}},
            r"keyword properties\.a\.format: .*tel",
        ),
        ({"schema": {"items": {"$ref": "http://x/y"}}}, r"the keyword items\.\$ref: "),
        ({"schema": {"type": "object", "propertes": {}}}, r"output.schema.propertes: .*'properties'"),
        ({"schema": {"$ref": "#/$defs/a"}}, r"'/\$defs/a' does not exist"),
        ({"schema": {"type": "string", "pattern": "(?=a)"}}, "the keyword pattern: .*look-around"),
        ({"schema": {"properties": {"a": {"enum": [True, False]}}}}, "yes, no"),
        ({"schema": {"properties": {True: {}}}}, "YAML reads a name as True"),
        ({"schema": 3}, "it must be a JSON Schema such as"),
        ({"schema": {}}, "it must be a JSON Schema such as"),
        ({"schema": "none.json"}, "there is no such file"),
        ({"regex": "(a"}, r"output.regex=\(a: .*unclosed group"),
        ({"choices": []}, "at least one choice"),
        ({"choices": [True]}, "YAML reads a choice as True"),
        ({"choices": ["a"], "regex": "b"}, "output.choices is set, too; keep one of them"),
    ],
)
def test_mistakes_are_named_before_the_start(conf, message):
    with pytest.raises(UserError, match=message):
        structure(**conf)


def test_the_prompts_own_output_counts_where_the_run_says_nothing(tmp_path):
    (tmp_path / "s.yaml").write_text("type: boolean")
    own = StructureConf(schema="s.yaml")
    assert read_structure(NONE, own, [tmp_path]).fields()[0].type == pa.bool_()
    assert read_structure(StructureConf(choices=["a"]), own, [tmp_path]).choices == ("a",)
    assert read_structure(NONE, NONE, []) is None
    with pytest.raises(UserError, match=r"prompt\.output\.regex"):
        read_structure(NONE, StructureConf(regex="("), [])


def test_regex_and_choices():
    assert {text for text, _ in fake_answers(structure(choices=["ham", "spam"]), 30)} == {"ham", "spam"}
    assert all(len(text) == 5 and text[:2].isupper() for text, _ in fake_answers(structure(regex="[A-Z]{2}-[0-9]{2}")))


def extraction(tmp_path, name, *more):
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text\n" + "".join(f"{i},row {i}\n" for i in range(20)))
    schema = "{type: object, properties: {kind: {enum: [a, b]}, n: {type: array, items: {type: integer}, maxItems: 3}}}"
    common = ["job=generate", "dataset=csv", f"dataset.path={rows}", "engine.backend=fake", f"output.dir={tmp_path}"]
    return run(overrides=[*common, "prompt.user={{ text }}", f"output.schema={schema}", f"run_name={name}", *more])


def test_a_run_gives_typed_columns_that_datasets_loads(tmp_path):
    assert extraction(tmp_path, "a", "output.raw=true", "output.shard_rows=7")["errors"] == 0
    loaded = datasets.load_from_disk(str(tmp_path / "a"))
    assert loaded.features["kind"].dtype == "string"
    assert loaded.features["n"].feature.dtype == "int64"
    for row in loaded:
        found = json.loads(row["text"])
        assert (row["kind"], row["n"]) == (found.get("kind"), found.get("n"))
    shard = pa.ipc.open_stream((tmp_path / "a" / "data-00000.arrow").read_bytes()).read_all()
    assert pa.types.is_dictionary(shard.schema.field("kind").type)


def test_another_schema_is_another_run(tmp_path):
    extraction(tmp_path, "a")
    extraction(tmp_path, "a")
    with pytest.raises(UserError, match=r"answers\.raw: false -> true"):
        extraction(tmp_path, "a", "output.raw=true")


class Cut(CountingEngine):
    """Answers in full only where there is room for more than ``needed`` tokens."""

    needed = 100

    def answer(self, sequence):
        generation = super().answer(sequence)
        short = sequence.max_tokens < self.needed
        return type(generation)(sequence.key, [97], "length" if short else "stop")


def ask(row):
    answer = yield Request({"text": row["text"]})
    return {"text": f"{answer.finish_reason} {answer.text}"}


def world(path, needed):
    job = Retrying(FunctionJob(ask), 64, structured=True, reasoning=True)
    engine = Cut()
    engine.needed = needed
    return World(path, list("abc"), job.steps, job.schema(), engine=engine)


def test_a_cut_answer_is_asked_for_again_with_twice_the_room(tmp_path):
    done = world(tmp_path, 100)
    output = done.run()
    assert [row["text"] for row in output] == ["stop a"] * 3
    assert [row["usage"]["retries"] for row in output] == [1] * 3
    assert sorted(one.max_tokens for one in done.engine.computed) == [64] * 3 + [128] * 3


def test_an_answer_cut_twice_is_an_error(tmp_path):
    done = world(tmp_path, 1000)
    assert {row["error"] for row in done.run()} == {"cut off: no complete answer in 128 tokens (engine.max_tokens)"}
    assert len(done.engine.computed) == 6


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_replays_the_retry(tmp_path, stop_after):
    first = world(tmp_path, 100)
    first.run(stop_after=stop_after)
    second = world(tmp_path, 100)
    assert [row["text"] for row in second.run()] == ["stop a"] * 3
    assert len(first.engine.computed) + len(second.engine.computed) == 6


@pytest.mark.parametrize("thought", ["hm", ""])
def test_a_job_may_catch_what_was_cut_twice(thought):
    def steps(row):
        try:
            yield [Request(), Request()]
        except RowError as problem:
            return {"text": str(problem), "cut": [one.error is None for one in problem.completions]}

    retrying = Retrying(FunctionJob(steps), 8, structured=False, reasoning=True).steps({})
    assert len(next(retrying)) == 2
    thinking = Completion("", "length", reasoning=thought)
    assert [one.max_tokens for one in retrying.send([Completion("fine"), thinking])] == [16]
    with pytest.raises(StopIteration) as returned:
        retrying.send([thinking])
    assert returned.value.value["cut"] == [True, False]
    assert returned.value.value["text"].startswith("cut off")
