"""Cells that Python cannot hold, and files that refer to what they do not hold."""

import datetime
import json
import struct
from decimal import Decimal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data.cells import UnreadableCell, records, shown, values
from runner.data.conf import DatasetConf
from runner.data.gold import gold_name
from runner.data.source import open_source
from runner.text.templates import Template
from runner.types import RowError, UserError

BAD = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 1, 3)), pa.py_buffer(b"a\xff\xfe")]
)
UNHELD = {
    "date": pa.array([0, 10**7], pa.date32()),
    "negative date": pa.array([0, -(10**7)], pa.date32()),
    "fraction of a day": pa.array([0, 1], pa.date64()),
    "time stamp": pa.array([0, 2**50], pa.timestamp("s")),
    "duration": pa.array([0, 2**50], pa.duration("s")),
    "nanosecond": pa.array([0, 1], pa.time64("ns")),
    "time past midnight": pa.array([0, 100_000], pa.time32("s")),
    "bytes": BAD,
    "large": BAD.cast(pa.large_binary()).view(pa.large_string()),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1]), BAD),
    "list": pa.ListArray.from_arrays([0, 1, 2], BAD),
    "struct": pa.StructArray.from_arrays([BAD], ["x"]),
    "map": pa.MapArray.from_arrays([0, 1, 2], pa.array(["k", "k"]), BAD),
}


@pytest.mark.parametrize("column", UNHELD.values(), ids=UNHELD.keys())
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_cell_that_python_cannot_hold_fails_only_where_it_is_used(tmp_path, kind, column):
    if kind == "parquet" and pa.types.is_date64(column.type):
        pytest.skip("Parquet files hold whole days")
    table = pa.table({"text": ["a", "b"], "odd": column})
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    template, other = Template("prompt.user", "{{ odd }}"), Template("prompt.user", "{{ text }}")
    first, second = open_source(DatasetConf(kind=kind, path=str(path))).rows()
    assert (other.render(first), other.render(second)) == ("a", "b")
    template.render(first)
    with pytest.raises(RowError, match="unreadable: column 'odd': "):
        template.render(second)


def test_bytes_that_are_text_uuids_and_small_booleans_are_printed_as_what_they_are(tmp_path):
    one = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\0" * 15 + b"\5"] * 2, pa.binary(16)))
    yes = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8()))
    table = pa.table({"b": [b"gr\xc3\xb6\xc3\x9fe", b"a\xff"], "u": one, "y": yes})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = open_source(DatasetConf(kind="parquet", path=str(tmp_path / "a.parquet"))).rows()
    template = Template("prompt.user", "{{ b | upper }} {{ u }} {{ y }} {{ row.b | tojson }}")
    assert template.render(first) == f'GRÖSSE 00000000-0000-0000-0000-{5:012} True "größe"'
    with pytest.raises(RowError, match="these bytes are no UTF-8 text"):
        template.render(second)
    assert Template("prompt.user", "{{ b | tojson }}").render(second) == '"Yf8="'


SHORT = pa.array([0.1, 16777217.0, -0.0, 3.4e38, None], pa.float32())
FRACTIONS = {
    "float32": (SHORT, ["0.1", "16777216.0", "-0.0", "3.4e+38", None]),
    "float16": (pa.array(np.array([0.1, 65504, 6e-8], np.float16)), ["0.1", "65504.0", "6e-08"]),
    "list": (pa.array([[0.1, None], [], None], pa.list_(pa.float32())), ["[0.1, None]", "[]", None]),
    "fixed": (pa.array([[0.1, 2], None], pa.list_(pa.float32(), 2)), ["[0.1, 2.0]", None]),
    "struct": (
        pa.array([{"a": 0.1, "b": 0.1}, None], pa.struct([("a", pa.float32()), ("b", pa.float64())])),
        ["{'a': 0.1, 'b': 0.1}", None],
    ),
    "map": (pa.array([[("a", 0.1)], [], None], pa.map_(pa.string(), pa.float32())), ["[('a', 0.1)]", "[]", None]),
    "dictionary": (SHORT.dictionary_encode(), ["0.1", "16777216.0", "-0.0", "3.4e+38", None]),
    "decimal": (pa.array([Decimal("1.10"), Decimal("1E-7")], pa.decimal128(12, 7)), ["1.1000000", "0.0000001"]),
    "thousands": (pa.array([Decimal("12E3"), None], pa.decimal128(5, -3)), ["12000", None]),
    "duration": (pa.array([93784, -5, 0, None], pa.duration("s")), ["P1DT2H3M4S", "-PT5S", "PT0S", None]),
    "short duration": (pa.array([1_500_000_001, 10**9], pa.duration("ns")), ["PT1.500000001S", "PT1S"]),
    "interval": (pa.array([pa.MonthDayNano([14, -3, 10**9]), pa.MonthDayNano([0, 0, 0])]), ["P14M-3DT1S", "PT0S"]),
    "durations": (pa.array([[60]], pa.list_(pa.duration("s"))), ["['PT1M']"]),
    "parts": (
        pa.array([{"a": datetime.date(2024, 2, 29), "b": [Decimal("1E-7")], "c": 1}]),
        ["{'a': '2024-02-29', 'b': ['0.0000001'], 'c': 1}"],
    ),
}


@pytest.mark.parametrize(("column", "printed"), FRACTIONS.values(), ids=FRACTIONS.keys())
def test_a_fraction_is_printed_as_the_shortest_that_its_bits_stand_for_and_without_powers_of_ten(
    tmp_path, column, printed
):
    with pa.ipc.new_file(tmp_path / "a.arrow", pa.schema([("x", column.type)])) as file:
        file.write_table(pa.table({"x": column}))
    template = Template("prompt.user", "{{ x if x is not none else '-' }}")
    rows = open_source(DatasetConf(kind="arrow", path=str(tmp_path / "a.arrow"))).rows()
    assert [template.render(row) for row in rows] == [text or "-" for text in printed]
    assert shown(column) == values("x", column)


def test_what_python_cannot_hold_is_spelled_for_people():
    assert shown(UNHELD["date"]) == [datetime.date(1970, 1, 1), "29349-01-26"]
    assert shown(UNHELD["nanosecond"]) == [datetime.time(), "00:00:00.000000001"]
    assert records(pa.table({"a": UNHELD["list"]})) == [{"a": ["a"]}, {"a": ["\ufffd\ufffd"]}]
    zone = pa.array([0, None], pa.timestamp("us", "Mars/Base"))
    assert shown(zone) == ["1970-01-01 00:00:00.000000Z", None]
    assert values("zone", zone)[0].why == "column 'zone': the time zone 'Mars/Base' is not known"


@pytest.mark.parametrize(
    "use", [str, repr, bool, len, list, hash, int, lambda c: c == 1, lambda c: c.year, lambda c: c[0], lambda c: 1 + c]
)
def test_no_use_of_an_unreadable_cell_goes_unnoticed(use):
    with pytest.raises(RowError, match="unreadable: why"):
        use(UnreadableCell("why"))


def test_kept_columns_are_written_byte_for_byte(tmp_path):
    from runner.data.kept import choose

    path = tmp_path / "rows.arrow"
    table = pa.table({"text": ["a", "b"], **UNHELD})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    source = open_source(DatasetConf(kind="arrow", path=str(path)))
    kept = choose(None, source, pa.schema([])).table(0, 2)
    assert kept["bytes"].cast(pa.binary()).to_pylist() == [b"a", b"\xff\xfe"]
    assert kept["date"].cast(pa.int32()).to_pylist() == [0, 10**7]


# Files that refer to what they do not hold


def damaged(path, array, old, new):
    """An Arrow file of the array in which these integers of its buffers are others."""
    schema = pa.schema([("text", pa.string()), ("odd", array.type)])
    batch = pa.record_batch([pa.array(["x"] * len(array)), array], schema=schema)
    with pa.ipc.new_file(path, schema) as file:
        file.write_batch(batch)
    content = path.read_bytes()
    old, new = (struct.pack(f"<{len(numbers)}i", *numbers) for numbers in (old, new))
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


LISTS = pa.ListArray.from_arrays(pa.array([0, 13, 17], pa.int32()), pa.array([7] * 17))
DAMAGED = {
    "text": (pa.array(["z" * 13, "zzzz"]), (0, 13, 17), (0, 1 << 30, 17)),
    "last text": (pa.array(["z" * 13, "zzzz"]), (0, 13, 17), (0, 13, 1 << 20)),
    "binary": (pa.array([b"z" * 13, b"zzzz"]), (0, 13, 17), (0, -13, 17)),
    "list": (LISTS, (0, 13, 17), (0, 1 << 30, 17)),
    "struct": (pa.StructArray.from_arrays([pa.array(["z" * 13, "zzzz"])], ["x"]), (0, 13, 17), (0, 1 << 30, 17)),
    "dictionary": (
        pa.DictionaryArray.from_arrays(pa.array([3, 1, 2, 0, 3], pa.int32()), pa.array(list("abcd"))),
        (3, 1, 2, 0, 3),
        (3, 1, 2, 99, 3),
    ),
    "view": (pa.array(["z" * 33], pa.string_view()), (33, 0x7A7A7A7A), (1 << 30, 0x7A7A7A7A)),
}


@pytest.mark.parametrize("case", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_file_that_refers_to_what_it_does_not_hold_is_refused_naming_the_column(tmp_path, case):
    path = tmp_path / "rows.arrow"
    damaged(path, *case)
    with pytest.raises(UserError, match=r"rows.arrow is damaged: column 'odd' refers beyond what it holds") as caught:
        open_source(DatasetConf(kind="arrow", path=str(path)))
    assert caught.value.exit_code == 2
    with pa.ipc.new_file(tmp_path / "other.arrow", pa.schema([("odd", pa.float64())])) as file:
        file.write_table(pa.table({"odd": [0.5]}))
    with pytest.raises(UserError, match=r"rows.arrow is damaged: column 'odd'"):
        open_source(DatasetConf(kind="arrow", path=str(tmp_path / "*.arrow")))


def test_a_damaged_saved_data_set_is_refused_naming_the_column(tmp_path):
    datasets.Dataset.from_dict({"text": ["z" * 13, "zzzz"]}).save_to_disk(str(tmp_path / "ds"))
    (file,) = (tmp_path / "ds").glob("*.arrow")
    content = file.read_bytes()
    old = struct.pack("<3i", 0, 13, 17)
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, struct.pack("<3i", 0, 1 << 30, 17)))
    with pytest.raises(UserError, match="column 'text' refers beyond what it holds"):
        open_source(DatasetConf(kind="arrow", path=str(tmp_path / "ds")))


# Right answers


@pytest.mark.parametrize(
    ("value", "classes", "labels", "name"),
    [
        (1.0, ["neg", "pos"], [], "pos"),
        ("1.0", ["neg", "pos"], [], "pos"),
        (Decimal("0.00"), ["neg", "pos"], [], "neg"),
        (True, ["neg", "pos"], [], "pos"),
        (True, [], ["true", "false"], "true"),
        (False, [], ["True", "False"], "False"),
        (True, [], [], "true"),
        (1.0, [], ["0", "1"], "1"),
        (1.0, [], ["0.0", "1.0"], "1.0"),
        (1.5, [], ["1.5"], "1.5"),
        (-1, ["neg", "pos"], [], None),
        (-1.0, [], ["neg", "pos"], None),
        (-1, [], ["-1", "0", "1"], "-1"),
        ("", ["neg", "pos"], [], None),
        (float("nan"), ["neg", "pos"], [], None),
        (float("inf"), ["neg", "pos"], [], "inf"),
        (2, ["neg", "pos"], [], "2"),
        ("1", ["1", "2"], [], "1"),
        (UnreadableCell("why"), ["neg", "pos"], [], None),
        ("Positive ", [], ["positive", "negative"], "positive"),
        ("very  GOOD\u00a0", [], ["very good", "good"], "very good"),
        (" 1", ["neg", "pos"], [], "pos"),
        (" POS", ["neg", "pos"], [], "pos"),
        ("Us", [], ["US", "us"], "Us"),
        ("US", [], ["US", "us"], "US"),
        ("Positive ", [], [], "Positive "),
        ("  ", [], ["positive"], None),
    ],
)
def test_a_gold_cell_means_a_label_however_it_is_written(value, classes, labels, name):
    assert gold_name(value, classes, labels) == name


# Types that Arrow reads but cannot take rows of


def test_views_runs_and_lists_of_nulls_can_be_shuffled_filtered_and_kept(tmp_path):
    from runner.data.kept import choose

    views = pa.array(["a", "a text of more than twelve bytes"], pa.string_view())
    columns = {
        "view": views,
        "views": pa.ListArray.from_arrays([0, 1, 2], views),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array(["x", "y"])),
        "coded": pa.RunEndEncodedArray.from_arrays([1, 2], pa.array(["x", "y"]).dictionary_encode()),
        "listed": pa.RunEndEncodedArray.from_arrays([1, 3, 4], pa.array([[1], [2], []])).slice(2, 2),
        "nulls": pa.array([[None, None], []], pa.list_(pa.null())),
    }
    table = pa.table(columns)
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table)
    conf = DatasetConf(kind="arrow", path=str(tmp_path / "rows.arrow"))
    assert list(open_source(conf).rows()) == table.to_pylist()
    assert list(open_source(conf.changed(where="runs == y")).rows()) == table.to_pylist()[1:]
    assert len(list(open_source(conf.changed(shuffle_seed=1)).rows())) == 2
    assert list(choose(None, open_source(conf), pa.schema([])).columns) == list(columns)


def test_a_feature_type_of_a_newer_datasets_is_left_out_of_the_output(tmp_path):
    from runner.data.kept import choose

    features = {"text": {"dtype": "string", "_type": "Value"}, "tags": {"_type": "Tensor9"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"text": ["a"], "tags": [["x"]]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "rows.parquet")
    source = open_source(DatasetConf(kind="parquet", path=str(tmp_path / "rows.parquet")))
    schema = choose(None, source, pa.schema([])).schema()
    assert set(datasets.Features.from_arrow_schema(schema)) == {"text", "tags"}


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("f == 0.1", [0]),
        ("f > 0.1", [1]),
        ("fs == 0.2", [1]),
        ("h in [0.1]", [0]),
        ("d > 1.105", [1]),
        ("d == '1.10'", [0]),
        ("k >= 2000", [1]),
        ("u > 5", [1]),
        ("big > 9007199254740992.5", [1]),
        ("t >= 9007199254740993", [1]),
        ("t < 9007199254740993", [0]),
        ("x < 9007199254740993", [0, 1]),
        ("x >= 9007199254740992 and x < 9007199254740993", [1]),
        ("x != 9007199254740993", [0, 1]),
    ],
)
def test_a_filter_compares_numbers_of_any_type_as_they_are_printed(tmp_path, where, rows):
    columns = {
        "f": pa.array([0.1, 0.2], pa.float32()),
        "fs": pa.array([[0.1], [0.1, 0.2]], pa.list_(pa.float32())),
        "h": pa.array(np.array([0.1, 0.2], np.float16)),
        "d": pa.array([Decimal("1.10"), Decimal("1.11")], pa.decimal128(10, 2)),
        "k": pa.array([Decimal("1E3"), Decimal("2E3")], pa.decimal128(5, -3)),
        "u": pa.array([5, 2**64 - 1], pa.uint64()),
        "big": pa.array([2**53, 2**53 + 1]),
        "t": pa.array(["1.5", "9007199254740993"]),
        "x": pa.array([1.5, 2.0**53]),
    }
    with pa.ipc.new_file(tmp_path / "a.arrow", pa.table(columns).schema) as file:
        file.write_table(pa.table(columns))
    source = open_source(DatasetConf(kind="arrow", path=str(tmp_path / "a.arrow"), where=where))
    assert [columns["u"].to_pylist().index(row["u"]) for row in source.rows()] == rows
