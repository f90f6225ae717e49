"""Answers with a structure: which configurations are taken, what columns they become, and that retries are replayed."""

import datetime
import json
from pathlib import Path

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
from runner.text.schema.check import SchemaCheck
from runner.text.schema.dialects import modern
from runner.text.structure import StructureConf, read_structure, structure_of
from runner.text.vocabulary import ByteTokenizer
from runner.types import Completion, Request, RowError, Sampling, UserError
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
    right = [text for text, reason in fake_answers(found, 10) if reason == "stop"]
    assert len(right) > 5
    for text in right:
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


def answers(schema, count=40):
    """What answers of a fake engine are, those that are valid, as parsed."""
    found = structure_of("output.schema", schema)
    texts = [text for text, reason in fake_answers(found, count) if reason == "stop" and not found.problem(text)]
    assert len(texts) > count / 3
    columns = pa.schema(found.fields())
    for text in texts:
        pa.Table.from_pylist([found.values(text)], schema=columns)
    return [json.loads(text) for text in texts]


def types(schema):
    return {field.name: str(field.type) for field in structure_of("output.schema", schema).fields()}


PROGRAMS = json.loads(Path(__file__).with_name("schemas.json").read_text())


@pytest.mark.parametrize("union", [{"discriminator": {"propertyName": "kind"}}, {}])
def test_alternatives_are_told_apart_by_their_tags_also_where_these_have_defaults(union):
    parts = {
        name: {"type": "object", "properties": {"kind": {"const": name, "default": name}, "n": {"type": "integer"}}}
        for name in ("cat", "dog")
    }
    union = {**union, "oneOf": [{"$ref": f"#/$defs/{name}"} for name in parts]}
    found = structure_of("output.schema", {"$defs": parts, "type": "object", "properties": {"pet": union}})
    answered = [text for text, reason in fake_answers(found, 20) if reason == "stop"]
    assert {json.loads(text).get("pet", {}).get("kind") for text in answered} - {None} == {"cat", "dog"}
    assert [text for text in answered if found.problem(text)] == [] and found.notes == ()
    assert found.problem('{"pet": {"n": 1}}') is not None


@pytest.mark.parametrize("mapping", [{}, {"Cat": "Cat", "Dog": "#/components/schemas/Dog"}])
def test_openapis_discriminator_tells_alternatives_apart_whose_tags_are_any_text(mapping):
    pet = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}}
    own = {"Cat": {"lives": {"type": "integer"}}, "Dog": {"barks": {"type": "boolean"}}}
    parts = {name: {"allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": own[name]}]} for name in own}
    schema = {
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in parts],
        "discriminator": {"propertyName": "kind", "mapping": mapping},
        "components": {"schemas": {"Pet": pet, **parts}},
    }
    found = structure_of("output.schema", schema)
    assert found.notes == () and found.problem('{"kind": "cow"}') is not None
    answered = [json.loads(text) for text, reason in fake_answers(found, 20) if reason == "stop"]
    assert {one["kind"] for one in answered} == {"Cat", "Dog"}
    assert all(one.keys() <= {"kind", *own[one["kind"]]} for one in answered)


def test_a_property_that_never_is_may_be_named():
    never = {"not": {}, "description": "written by zod for z.never().optional()"}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": never}, "required": ["a"]}
    assert {tuple(one) for one in answers(schema)} == {("a",)}
    assert structure_of("output.schema", schema).problem('{"a": 1, "b": 2}') is not None


def test_alternatives_that_overlap_are_told():
    found = structure_of("output.schema", {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0}]})
    assert "more than one alternative of oneOf" in found.notes[0]
    assert [text for text in ("1", "1.5", "-1") if found.problem(text)] == ["1"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_schemas_that_programs_write_are_taken(name):
    schema = PROGRAMS[name]
    found = structure_of("output.schema", schema)
    columns = pa.schema(found.fields())
    right = [text for text, reason in fake_answers(found, 12, 400) if reason == "stop" and not found.problem(text)]
    assert right or name in (
        "times",
        "special",
        "special-serialized",
        "smart",
        "zod email",
    )  # addresses that do not end
    for text in right:
        jsonschema.validate(json.loads(text), modern(schema))
        pa.Table.from_pylist([found.values(text)], schema=columns)


STATE = {"enum": ["a", "b"], "type": "string", "title": "State"}


def test_an_all_of_opens_no_other_object():
    inner = {"type": "object", "properties": {"k": {"type": "boolean"}}, "required": ["k"]}
    schema = {
        "type": "object",
        "properties": {
            "s": {"allOf": [{"$ref": "#/definitions/S"}], "default": "a", "description": "which"},
            "o": inner,
        },
        "required": ["s", "o"],
        "definitions": {"S": STATE},
    }
    for one in answers(schema):
        assert (set(one), set(one["o"])) == ({"s", "o"}, {"k"})
    assert types(schema) == {"s": "dictionary<values=string, indices=int32, ordered=0>", "o": "struct<k: bool>"}


def test_an_object_of_several_parts_has_their_properties_and_no_others():
    base = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    shared = {"definitions": {"base": base}}
    own = {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}
    several = {"allOf": [{"$ref": "#/definitions/base"}, own], **shared}
    for one in answers(several):
        assert set(one) == {"id", "b"}
    beside = {**own, "allOf": [{"$ref": "#/definitions/base"}], **shared}
    for one in answers(beside):
        assert set(one) == {"id", "b"}
    assert types(several) == types(beside) == {"id": "int64", "b": "bool"}
    choice = {**own, "anyOf": [{"$ref": "#/definitions/base"}, {"required": ["c"]}], **shared}
    assert {frozenset(one) for one in answers(choice)} == {frozenset({"b", "id"}), frozenset({"b", "c"})}
    for one in answers({**several, "unevaluatedProperties": False}):
        assert set(one) == {"id", "b"}
    alone = {
        "type": "object",
        "properties": {"x": {"$ref": "#/definitions/base"}, "y": several},
        "required": ["x", "y"],
    }
    for one in answers(alone | shared):
        assert set(one["x"]) == {"id"}


D_OR_E = {
    "anyOf": [
        {"type": "object", "properties": {"d": {"type": "integer"}}, "required": ["d"]},
        {"properties": {"e": {"type": "string", "maxLength": 3}}, "required": ["e"]},
    ]
}
K = {"type": "object", "properties": {"k": {"enum": ["x", "y"]}}, "required": ["k"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [K, D_OR_E]},
        {"allOf": [{"allOf": [D_OR_E, {"description": "either"}]}, K]},
        {**K, "allOf": [{"$ref": "#/$defs/either"}]},
        {**K, "$ref": "#/$defs/either"},
        {"allOf": [K, {"title": "a title"}], **D_OR_E},
        {"allOf": [K, D_OR_E, {"oneOf": [{"required": ["k"]}, {"required": ["z"]}]}]},
    ],
)
def test_alternatives_in_a_part_of_an_object_are_those_of_the_whole(schema):
    found = answers({**schema, "$defs": {"either": D_OR_E}})
    assert {frozenset(one) - {"k", "z"} for one in found} == {frozenset("d"), frozenset("e")}
    for one in found:
        assert isinstance(one.get("d", 0), int) and isinstance(one.get("e", ""), str)


@pytest.mark.parametrize(
    ("required", "found"),
    [
        ([["a"], ["b"]], [{"a"}, {"a", "c"}, {"b"}, {"b", "c"}]),
        ([["a"], ["b"], ["c"]], [{"a"}, {"b"}, {"c"}]),
        ([["a", "c"], ["b", "c"]], [{"a", "c"}, {"b", "c"}]),
    ],
)
def test_exactly_one_of_several_properties_is_followed_token_by_token(required, found):
    some = {"type": "object", "properties": {name: {"enum": [1, 2]} for name in "abc"}}
    schema = {**some, "oneOf": [{"required": names} for names in required]}
    assert structure_of("output.schema", schema).notes == ()
    texts = [text for text, _ in fake_answers(structure_of("output.schema", schema), 40)]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    keys = {frozenset(json.loads(text)) for text in texts}
    assert keys <= set(map(frozenset, found)) and len(keys) >= len(required)
    wider = {**some, "oneOf": [{"required": ["a", "b"]}, {"required": ["c"]}]}
    assert "more than one alternative of oneOf" in structure_of("output.schema", wider).notes[0]


def test_alternatives_beside_a_part_that_names_nothing_are_closed():
    for one in answers({"allOf": [{"description": "either"}], **D_OR_E}):
        assert one.keys() in ({"d"}, {"e"})


def test_a_column_of_which_parts_say_what_excludes_each_other_is_text():
    either = {"anyOf": [{"properties": {"b": {"type": "integer"}}, "required": ["b"]}, {"required": ["c"]}]}
    assert types({"properties": {"b": {"enum": ["p", "q"]}}, "required": ["b"], "allOf": [either]})["b"] == "string"


def test_required_properties_need_no_schema():
    assert all(set(one) == {"a"} for one in answers({"required": ["a"]}))
    assert types({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}).keys() == {"a", "b"}


def test_an_answer_that_is_null_has_no_columns_filled():
    found = structure_of("output.schema", {"type": ["object", "null"], "properties": {"a": {"type": "integer"}}})
    assert found.values("null") == {"a": None}


OTHERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "more", [{"additionalProperties": True}, {"patternProperties": {"^x": {"type": "null"}}}, {"minProperties": 3}]
)
def test_properties_beside_the_named_ones_have_a_column_where_the_schema_allows_any(more):
    found = structure(schema=OTHERS | more | {"properties": {**OTHERS["properties"], "in": OTHERS | more}})
    assert [str(field.type) for field in found.fields()][1:] == [
        "struct<a: int64, additionalProperties: string>",
        "string",
    ]
    answer = {"a": 1, "in": {"a": 2, "x": None, "xé": None}, "xy": None}
    values = found.values(json.dumps(answer))
    assert values["in"] == {"a": 2, "additionalProperties": '{"x": null, "xé": null}'}
    assert json.loads(values["additionalProperties"]) == {"xy": None}
    before = found.as_recorded({"a": "int64", "in": "struct<a: int64>"})  # by an earlier version
    assert list(before.values(json.dumps(answer))) == ["a", "in"] and before.values(json.dumps(answer))["in"] == {
        "a": 2
    }
    assert found.as_recorded({}) == found == found.as_recorded({f.name: str(f.type) for f in found.fields()})


@pytest.mark.parametrize(
    ("reference", "defined"),
    [
        ("#q", {"n": {"$anchor": "q", "type": "integer"}}),
        ("#q", {"n": {"$id": "#q", "type": "integer"}}),
        (
            "http://x.org/of.json",
            {"n": {"$id": "of.json", "$ref": "m.json"}, "m": {"$id": "m.json", "type": "integer"}},
        ),
        ("of/n.json#/$defs/q", {"n": {"$id": "of/n.json", "$defs": {"q": {"$ref": "#/$defs/m", "title": "q"}}}}),
        ("#/properties/other", {}),
    ],
)
def test_references_by_address_name_or_place_are_followed(reference, defined):
    if defined.get("n", {}).get("$defs"):
        defined["n"]["$defs"]["m"] = {"type": "integer"}
    found = structure(
        schema={
            "$id": "http://x.org/root.json",
            "properties": {"other": {"type": "integer"}, "n": {"$ref": reference}},
            "required": ["n"],
            "$defs": defined,
        }
    )
    assert str(found.fields()[1].type) == "int64" and found.values('{"n": 3}')["n"] == 3
    with pytest.raises(RowError, match="not of type 'integer'"):
        found.values('{"n": "3"}')


TREE = {"anyOf": [{"type": "string"}, {"$ref": "#/definitions/tree", "markdownDescription": "again"}]}
IN_THE_MIDDLE = {
    "type": "object",
    "properties": {
        "allow": {"type": "object", "properties": {"name": {"enum": ["x"]}, "kind": {"enum": ["k"]}}},
        "pair": {"items": [{"type": "integer"}, {"enum": ["y"]}]},
        "deny": {"$ref": "#/properties/allow/properties/name"},
        "last": {"$ref": "#/properties/pair/items/1"},
        "tree": {"$ref": "#/definitions/tree"},
    },
    "definitions": {"tree": {"additionalProperties": {**TREE, "minProperties": 1}, "type": "object", "x-example": 1}},
    "required": ["allow", "deny", "last", "tree"],
    "$schema": "https://json-schema.org/draft-07/schema",
}
IN_THE_MIDDLE["properties"]["allow"]["anyOf"] = [
    {"properties": {"name": {"$ref": "#/properties/allow/properties/name"}}, "required": ["name"]},
    {"required": ["kind"], "properties": {"kind": {"examples": "no list"}}},
]


def test_references_into_the_middle_and_words_that_mean_nothing_are_taken():
    for answer in answers(IN_THE_MIDDLE, 20):
        assert (answer["deny"], answer["last"]) == ("x", "y")
        assert answer["allow"].items() <= {"name": "x", "kind": "k"}.items()
    assert types(IN_THE_MIDDLE)["deny"] == types(IN_THE_MIDDLE)["last"]


@pytest.mark.parametrize("rest", [{"properties": {"n": True, "m": True}, "additionalProperties": False}, {}])
def test_a_property_that_an_alternative_leaves_open_is_text(rest):
    named = {"properties": {"n": {"type": "object", "properties": {"x": {"type": "integer"}}}}, "required": ["n"]}
    other = {"properties": {"m": True}, **({} if rest else {"additionalProperties": True})}
    schema = {"type": "object", **rest, "anyOf": [named, other]}
    assert types(schema)["n"] == "string"
    assert structure(schema=schema).values('{"n": 5}')["n"] == "5"


def test_the_fake_engine_ends_texts_that_need_a_mark():
    assert all(":" in one for one in answers({"type": "string", "format": "uri"}, 10))


def test_tuples_have_no_further_items():
    for schema in ({"prefixItems": [{"const": 1}]}, {"type": "array", "items": [{"const": 1}]}):
        assert all(one in ([], [1]) for one in answers(schema))
        assert types(schema) == {"value": "list<item: int64>"}
    more = {"type": "array", "prefixItems": [{"const": 1}], "items": True}
    assert types(more) == {"value": "list<item: string>"}


def test_names_that_are_listed_come_once_each():
    names = ["a", "b|c", "d.e"]
    schema = {"type": "object", "propertyNames": {"type": "string", "enum": names}, "required": names[:2]}
    found = structure_of("output.schema", {**schema, "additionalProperties": {"type": "boolean"}})
    seen = [json.loads(text) for text, reason in fake_answers(found, 20) if reason == "stop"]
    assert len(seen) == 20
    assert {tuple(one) for one in seen} == {("a", "b|c"), ("a", "b|c", "d.e")}


def test_names_that_occur_twice_are_no_answer():
    found = structure_of("output.schema", {"type": "object", "additionalProperties": {"type": "integer"}})
    assert str(found.problem('{"a": 1, "a": 2}')) == "invalid JSON: the name 'a' occurs twice in an object"


def test_numbers_fit_their_columns():
    wide = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 10**30}},
        "required": ["n"],
    }
    assert all(one["n"] < 2**63 for one in answers(wide))
    beyond = {
        "properties": {"n": {"type": "integer", "minimum": 2**60}, "e": {"enum": [10**20]}},
        "required": ["n", "e"],
    }
    assert types(beyond) == {"n": "int64", "e": "string"}
    assert all(2**60 <= one["n"] < 2**63 and one["e"] == 10**20 for one in answers(beyond))
    with pytest.raises(UserError, match="the keyword minimum: "):
        structure_of("output.schema", {"type": "integer", "minimum": 2**64})
    for own in (  # of C#, Go and Rust
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
    ):
        assert answers(own, 5)
    price = structure_of("output.schema", {"type": "number", "multipleOf": 0.01})
    assert price.problem("19.99") is None
    assert price.problem("19.995") is not None
    assert price.problem("1e999") is not None


def test_limits_of_numbers_that_grammars_cannot_count_to_are_checked():
    found = structure(schema={"type": "number", "minimum": 10**18, "exclusiveMaximum": 1e20})
    assert found.values("2e18") == {"value": 2e18}
    assert found.problem("9e17") and found.problem("1e20")


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 2**63 - 1, 2**64, 10**400, 1e300, 123456789.12345679])
def test_a_number_that_grammars_write_as_another_one_is_refused(number):
    for node in ({"const": number}, {"enum": ["a", {"b": [number]}]}):
        with pytest.raises(UserError, match=f"the keyword properties.a.{next(iter(node))}: .* the number"):
            structure_of("output.schema", {"properties": {"a": node}})
    for number in (2**53 - 1, 10**20, 0.1, 12345.678901):
        assert answers({"const": number}, 1) == [number]


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("date", ["2024-02-29"], ["2021-02-29", "2021-2-1", "2021-W01-1"]),
        ("time", ["23:59:59Z", "01:02:03.5+02:00"], ["23:59:60Z", "24:00:00Z", "10:00"]),
        ("date-time", ["2024-02-29T01:02:03Z"], ["2021-02-29T01:02:03Z", "2021-01-01", "2021-01-01T00:00:60Z"]),
        ("time", ["00:00:00.123456789z"], ["00:00:00.z", "10:00:00+24:00"]),
        ("date", ["2000-02-29", "2024-12-31"], ["1900-02-29", "2024-04-31", "0000-01-01", "2024-01-01\n"]),
        ("uuid4", ["0b1c2d3e-4f50-4a61-8b72-9c83ad94be05"], ["0b1c2d3e-4f50-1a61-8b72-9c83ad94be05", "uuid4"]),
        ("uuid7", ["0190163D-8694-739B-AEA5-966C26F8AD91"], ["0190163d-8694-739b-7ea5-966c26f8ad91", ""]),
        ("base64url", ["", "_-8=", "QUJD"], ["+/8=", "QUJ"]),
        ("byte", ["+/8=", "QQ=="], ["_-8=", "Q==="]),
        ("tel", ["anything"], []),
        ("password", ["anything"], []),
    ],
)
def test_formats_are_checked_and_those_unknown_are_annotations(form, right, wrong):
    found = structure_of("output.schema", {"type": "string", "format": form})
    assert [text for text in right + wrong if found.problem(json.dumps(text))] == wrong
    assert bool(found.notes) == (form in ("tel", "password"))


def test_a_schema_in_a_response_format_or_a_tool_is_taken_out_of_it(tmp_path):
    colour = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}}
    inner = {"name": "colour", "strict": True, "schema": colour}

    def read_schema(value):
        return read_structure(StructureConf(schema=value), NONE, [tmp_path])

    tool = {"type": "function", "function": {"name": "colour", "description": "A colour.", "parameters": colour}}
    for given in (inner, {"type": "json_schema", **inner}, {"type": "json_schema", "json_schema": inner}, tool):
        (tmp_path / "file.json").write_text(json.dumps(given))
        assert read_schema("file.json") == read_schema(given) == read_schema(colour)
    with pytest.raises(UserError, match="on and off as true and false"):
        read_schema({"name": "colour", "schema": {"enum": ["red", True]}})
    with pytest.raises(UserError, match=r"schema\.schema: it is not a keyword"):
        read_schema({"name": "colour", "schema": colour, "title": "not a wrapper"})


def test_dates_and_times_have_arrows_types_and_are_in_utc():
    day, clock, at = ({"type": "string", "format": form} for form in ("date", "time", "date-time"))
    late = {"anyOf": [day, {"type": "null"}]}
    named = {"day": day, "clock": clock, "at": at, "days": {"type": "array", "items": day}, "late": late}
    named |= {"either": {"anyOf": [day, at]}, "one": {"enum": ["2024-01-01"], "format": "date"}}
    found = structure_of("output.schema", {"type": "object", "properties": named, "required": list(named)})
    said = ["2024-02-29", "23:30:00.5-01:00", "2024-02-29t01:02:03.123456789+02:00", ["2024-01-01"], None]
    values = found.values(json.dumps(dict(zip(named, [*said, "2024-01-01", "2024-01-01"], strict=True))))
    table = pa.Table.from_pylist([values], schema=pa.schema(found.fields()))
    assert [str(kind) for kind in table.schema.types[:3]] == ["date32[day]", "time64[us]", "timestamp[us, tz=UTC]"]
    assert table.drop(["at"]).to_pylist() == [
        {
            **{"day": datetime.date(2024, 2, 29), "clock": datetime.time(0, 30, 0, 500_000)},
            **{"days": [datetime.date(2024, 1, 1)], "late": None, "either": "2024-01-01", "one": "2024-01-01"},
        }
    ]
    assert str(table["at"][0]) == "2024-02-28 23:02:03.123456+00:00"
    early = structure_of("output.schema", at).problem('"0001-01-01T00:00:00+14:00"')
    assert early is not None and "out of range" in str(early)


@pytest.mark.parametrize(
    "words",
    [
        {"format": "date"},
        {"format": "time"},
        {"format": "date-time"},
        {"format": "date", "pattern": "^20"},
        {"format": "date", "type": ["string", "null"]},
        {"format": "time", "allOf": [{"pattern": "59"}]},
        {"pattern": r"^\W\D\S[^\w][\W\d]\w$"},
    ],
)
def test_grammars_let_through_what_the_check_of_the_answer_lets_through(words):
    found = structure_of("output.schema", {"type": "string", **words})
    answered = [text for text, reason in fake_answers(found, 60) if reason == "stop"]
    assert [text for text in answered if found.problem(text)] == []
    assert len(answered) > 50


def test_what_no_text_can_be_is_said_in_a_few_words():
    with pytest.raises(UserError, match=r"the keyword format: .*no text meets it all$"):
        structure_of("output.schema", {"type": "string", "format": "date", "pattern": "^x"})


def test_what_grammars_do_not_follow_is_checked_when_the_answer_is_complete():
    tags = structure_of("output.schema", {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True})
    assert tags.problem("[1, 2]") is None
    assert "non-unique" in str(tags.problem("[1, 1]"))
    text = structure_of("output.schema", {"type": "string", "pattern": r"^(?!x)\w+\b.$"})
    assert text.problem('"ab!"') is None
    assert "does not match" in str(text.problem('"xb!"'))
    one = structure_of("output.schema", {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 5}]})
    assert one.problem("3") is None
    assert "is valid under each of" in str(one.problem("7"))


def test_the_words_of_openapi_3_0_are_understood():
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "nullable": True, "maxLength": 3, "example": "Ann"},
            "share": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1},
            "pet": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/Pet"}]},
        },
        "required": ["name", "share", "pet"],
        "components": {"schemas": {"Pet": {"type": "object", "properties": {"n": {"type": "integer"}}}}},
    }
    found = answers(schema)
    assert {None} < {one["name"] for one in found}
    assert all(0 < one["share"] <= 1 for one in found)
    assert any(one["pet"] is None for one in found)
    assert types(schema) == {"name": "string", "share": "double", "pet": "struct<n: int64>"}


def test_names_of_properties_may_have_a_schema():
    for names in ({"$ref": "#/$defs/S"}, {"pattern": "^[ab]$"}):
        schema = {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": {"type": "null"},
            "$defs": {"S": STATE},
        }
        assert {name for one in answers(schema) for name in one} <= {"a", "b"}


def test_a_pattern_that_would_take_for_ever_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr("runner.patterns.SECONDS", 1e-9)
    found = structure_of("output.schema", {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"})
    assert str(found.problem(json.dumps("a" * 60))).startswith("slow pattern: ")
    names = {"type": "object", "patternProperties": {"^([a-z]+)+[0-9]$": True}, "unevaluatedProperties": False}
    with pytest.raises(RowError, match="slow pattern"):
        SchemaCheck(names).problem({"a" * 60: 1})


def test_a_file_is_read_as_what_it_is(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_structure(StructureConf(schema=name), NONE, [tmp_path])

    assert read("tabs.json", '\ufeff{\n\t"type":\t"boolean"\n}').fields()[0].type == pa.bool_()
    dated = read("dates.yaml", "{type: string, format: date, examples: [2024-01-31], enum: [2024-01-31, no, on]}")
    assert {text for text, _ in fake_answers(dated, 30)} == {'"2024-01-31"'}
    for typed in ("007", "1.10", "12:30", "1_0"):
        assert {text for text, _ in fake_answers(read("typed.yaml", f"enum: [{typed}]"), 3)} == {f'"{typed}"'}
    api = "openapi: 3.0.3\npaths: {}\ncomponents: {schemas: {A: {$ref: '#/components/schemas/B'}, B: {type: boolean}}}"
    with pytest.raises(UserError, match=r"name one of its schemas: api.yaml#/components/schemas/A"):
        read("api.yaml", api)
    assert (
        read_structure(StructureConf(schema="api.yaml#/components/schemas/A"), NONE, [tmp_path]).fields()[0].type
        == pa.bool_()
    )
    for text, message in {
        "type: integer\nminimum: 007": "minimum: '007' is not of",
        "type: string\ntype: integer": "'type' occurs twice",
        "{": "is neither JSON nor YAML",
    }.items():
        with pytest.raises(UserError, match=message):
            read("wrong.yaml", text)
    with pytest.raises(UserError, match="is not JSON: Expecting"):
        read("wrong.json", '{"type" "string"}')


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            {"schema": {"items": {"type": "integer", "not": {"type": "number"}}, "type": "array"}},
            r"keyword items\.not: hardly any answer meets it",
        ),
        ({"schema": {"type": "array", "contains": False}}, "keyword contains: hardly any answer meets it"),
        ({"schema": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}}, "nothing but itself"),
        (
            {
                "schema": {
                    "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                    "$defs": {
                        "a": {"type": "object", "properties": {"next": {"$ref": "#/$defs/a"}}},
                        "b": {"type": "object", "properties": {"next": {"$ref": "#/$defs/b"}}},
                    },
                }
            },
            "the keyword allOf: its parts go too deep to be joined, perhaps because they refer to themselves",
        ),
        ({"schema": OTHERS | {"minProperties": 3, "maxProperties": 2}}, "keyword minProperties: hardly any answer"),
        ({"schema": OTHERS | {"minProperties": 2, "additionalProperties": False}}, "keyword minProperties: hardly any"),
        ({"schema": {"items": {"type": "strin"}}}, "the keyword items.type: 'strin' is none of object, array, "),
        ({"schema": {"properties": {"a": {"minLength": "3"}}}}, "the keyword properties.a.minLength: '3' is not of"),
        ({"schema": {"propertes": {}}}, r"output.schema.propertes: .*'properties'"),
        ({"schema": {"descriptions": "x", "type": "string"}}, r"output.schema.descriptions: .*'description'"),
        ({"schema": {"patternProperties": {"(": {}}}}, "the keyword patternProperties: missing"),
        ({"schema": {"foo": 1}}, r"output.schema.foo: it is not a keyword of JSON Schema: it must be"),
        ({"schema": {"type": "integer", "multipleOf": 10000019}}, "keyword multipleOf: it may have 4 significant"),
        (
            {"schema": {"items": {"type": "integer", "minimum": 5, "maximum": 3}, "minItems": 1}},
            r"keyword items\.m\w+: Unsat.* minimum",
        ),
        ({"schema": {"items": {"$ref": "http://x/y"}}}, r"the keyword items\.\$ref: "),
        ({"schema": {"type": "object", "propertes": {}}}, r"output.schema.propertes: .*'properties'"),
        ({"schema": {"$ref": "#/$defs/a"}}, r"there is no #/\$defs/a here"),
        (
            {"schema": {"items": {"items": {"$ref": "b.json#/x"}}}},
            r"keyword items\.items\.\$ref: there is no b\.json#/x here",
        ),
        ({"schema": {"type": "string", "pattern": "a(?"}}, "the keyword pattern: "),
        (
            {"schema": {"properties": {"a": {"pattern": "a", "maxLength": 0}}, "required": ["a"]}},
            r"properties\.a\.\w+: Uns",
        ),
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


@pytest.mark.parametrize("second", ["right", "wrong"])
def test_an_answer_that_is_not_valid_is_asked_for_again_with_other_draws(second):
    retrying = Retrying(FunctionJob(ask), 8, structured=True, reasoning=False)
    retrying.problem = lambda text: RowError("invalid answer", text) if text == "wrong" else None
    steps = retrying.steps({"text": "a"})
    (first,) = next(steps)
    (again,) = steps.send([Completion("wrong")])
    assert (first.sampling, again.sampling, again.retry) == (None, Sampling(temperature=1.0), True)
    if second == "wrong":
        with pytest.raises(RowError, match="invalid answer: wrong"):
            steps.send([Completion(second)])
    else:
        with pytest.raises(StopIteration) as returned:
            steps.send([Completion(second)])
        assert returned.value.value == {"text": "stop right"}


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


KIND = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
THEN = {"then": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}
IF = {"if": {"properties": {"kind": {"const": "a"}}}, **THEN}
ELSE = {"if": IF["if"], "else": {"required": ["y"]}}
PAIR = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "columns", "right", "wrong"),
    [
        ({"type": "string", "not": {"enum": ["n/a"]}}, ["value"], '"x"', '"n/a"'),
        ({**KIND, **IF}, ["kind", "x"], '{"kind": "a", "x": 3}', '{"kind": "a"}'),
        ({**KIND, "allOf": [IF]}, ["kind", "x"], '{"kind": "a", "x": 3}', '{"kind": "a"}'),
        ({**KIND, "allOf": [IF, ELSE]}, ["kind", "x", "y"], '{"kind": "b", "y": 3}', '{"kind": "b"}'),
        ({"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}}, ["value"], "[1, 7]", "[1, 2]"),
        ({**PAIR, "dependentRequired": {"a": ["b"]}}, ["a", "b"], '{"a": "x", "b": 1}', '{"a": "x"}'),
        ({**PAIR, "dependencies": {"a": ["b"]}}, ["a", "b"], '{"a": "x", "b": 1}', '{"a": "x"}'),
        ({**PAIR, "dependentSchemas": {"a": {"required": ["c"]}}}, ["a", "b", "c"], '{"a": "x", "c": 1}', '{"a": "x"}'),
        ({**PAIR, "minProperties": 2, "maxProperties": 2}, ["a", "b"], '{"a": "x", "b": 1}', '{"a": "x"}'),
    ],
)  # fmt: skip
def test_conditions_are_left_to_the_check_of_a_whole_answer_and_told(schema, columns, right, wrong):
    structure = read_structure(StructureConf(schema=schema), NONE, [])
    assert [field.name for field in structure.fields()] == columns
    assert structure.problem(right) is None
    assert structure.problem(wrong).kind == "invalid answer"
    assert takes(structure, right) and takes(structure, wrong)
    assert "is checked when an answer is complete" in structure.notes[0]


def takes(structure, text):
    """Whether the grammar lets a model write this."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(f"start: body\n{structure.body}"))
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()
