"""Data sets in: every format gives the same rows, and every mistake is refused with one clear line."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.data.conf import DatasetConf
from runner.data.readers import table
from runner.data.readers.arrow import read_hub
from runner.data.source import open_source
from runner.types import Source, UserError

ROWS = [{"id": i, "text": f"row {i}, with a comma", "kind": "spam" if i % 3 else "ham"} for i in range(50)]


def source(path, kind="csv", **conf):
    return open_source(DatasetConf(kind=kind, path=str(path), **conf))


@pytest.fixture
def write(tmp_path):
    def write_bytes(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_bytes


@pytest.fixture
def mail(write):
    return write("id,text,kind\n" + "".join(f'{r["id"]},"{r["text"]}",{r["kind"]}\n' for r in ROWS), "mail.csv")


def cells(path, **conf):
    return list(source(path, **conf).rows(0))


def save_in_every_format(folder):
    import datasets

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=7)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "folder"))
    return [("jsonl", "a.jsonl"), ("jsonl", "a.jsonl.gz"), ("parquet", "a.parquet"), ("arrow", "folder")]


def test_every_format_gives_the_same_rows(tmp_path, mail):
    assert cells(mail) == ROWS
    for kind, name in save_in_every_format(tmp_path):
        data: Source = source(tmp_path / name, kind)
        assert list(data.rows(0)) == ROWS
        assert data.column_names == ["id", "text", "kind"]
        assert list(data.rows(47)) == ROWS[47:]
        assert data.table(3, 5, ["kind"]).to_pylist() == [{"kind": r["kind"]} for r in ROWS[3:5]]
        assert set(data.features) == {"id", "text", "kind"}


def test_text_is_one_row_a_line(write):
    assert cells(write("a\n\nb,c\r\nd", "a.txt"), kind="text") == [{"text": t} for t in ("a", "", "b,c", "d")]
    assert cells(write("a\r\rb", "mac.txt"), kind="text") == [{"text": t} for t in ("a", "", "b")]


def test_where_then_shuffle_then_limit(mail):
    spam = [r for r in ROWS if r["kind"] == "spam"]
    assert cells(mail, where="kind == spam") == spam
    shuffled = cells(mail, where="kind == spam", shuffle_seed=3)
    assert shuffled != spam
    assert sorted(shuffled, key=lambda r: r["id"]) == spam
    limited = source(mail, where="kind == spam", shuffle_seed=3, limit=5)
    assert list(limited.rows(0)) == shuffled[:5]
    assert limited.table(1, 99, ["id"])["id"].to_pylist() == [r["id"] for r in shuffled[1:5]]
    assert limited.table(2, 2, ["id"]).num_rows == 0
    assert "5 of 50 rows" in limited.describe()


def test_a_shuffle_gathers_over_many_batches(tmp_path):
    pq.write_table(pa.table({"n": range(25_000)}), tmp_path / "n.parquet")
    values = [r["n"] for r in source(tmp_path / "n.parquet", "parquet", shuffle_seed=1).rows(0)]
    assert sorted(values) == list(range(25_000))
    assert values[:4] != [0, 1, 2, 3]
    resumed = source(tmp_path / "n.parquet", "parquet", shuffle_seed=1).rows(24_998)
    assert [r["n"] for r in resumed] == values[24_998:]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("n > 1 and t != a", [2]),
        ("n = 0 or n <> 0", [0, 1, 2]),
        ("n is null", [3]),
        ("n is not null and not t == 'b'", [0]),
        ("id in [0, 3]", [0, 3]),
        ("id not in (0, 3)", [1, 2]),
        ("t == 7", [3]),
        ("t in [a, 7]", [0, 3]),
        ("t > 6", [3]),
        ("t != 7", [0, 1, 2]),
        ('`odd name` == "it\'s"', [1]),
        ("(n >= 2 or t == a) and not id == 9", [0, 2]),
        ("x < 0.75", [0]),
        ("id <= 1.5", [0, 1]),
    ],
)
def test_where(write, where, ids):
    path = write("id,n,t,odd name,x\n0,0,a,,0.5\n1,1,b,it's,0.75\n2,2,b,,1.25\n3,,007,,2.5\n")
    assert [r["id"] for r in cells(path, where=where)] == ids


def test_where_looks_at_parts_of_objects_and_names_them(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "of": {"n": 3, "m": {"k": "p"}}}\n{"id": 2, "of": null}\n{"id": 3}\n')
    assert [r["id"] for r in source(tmp_path / "a.jsonl", "jsonl", where="of.n > 2 and of.m.k == p").rows()] == [1]
    assert [r["id"] for r in source(tmp_path / "a.jsonl", "jsonl", where="of.m.k is null").rows()] == [2, 3]
    with pytest.raises(UserError, match=r"no column 'of\.x' .*valid: id, of, of\.n, of\.m, of\.m\.k"):
        source(tmp_path / "a.jsonl", "jsonl", where="of.x == 1")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("knid == spam", r"no column 'knid' \(did you mean 'kind'\?\); valid: id, text, kind"),
        ("kind spam", "position 6"),
        ("kind ==", "position 8"),
        ("kind == spam extra", "'and', 'or' or the end at position 14"),
        ("kind == 'spam", "position 9"),
        ("id == spam", "column 'id' holds int64, not 'spam'"),
        ("kind in spam", "position 9"),
        ("(" * 300 + "id == 1", "deep"),
        ("kind == eggs", "no row .* matches"),
        ("", "expected a column at position 1"),
    ],
)
def test_a_wrong_where_is_named(mail, where, message):
    with pytest.raises(UserError, match=message):
        source(mail, where=where)


def test_the_fingerprint_follows_the_contents_and_the_choice(mail, tmp_path, write):
    first = source(mail).fingerprint
    copy = write(mail.read_bytes(), "other.csv")
    assert source(copy).fingerprint == first
    others = {source(mail, **c).fingerprint for c in ({"limit": 3}, {"shuffle_seed": 1}, {"where": "id > 3"})}
    assert len(others | {first}) == 4
    copy.write_bytes(mail.read_bytes().replace(b"row 7", b"row 8"))
    assert source(copy).fingerprint != first


def test_numbers_stay_as_they_stand_in_the_file(write):
    path = write("a,b,c,d,e,f\n1,007,1.5,1.50,1e3,0.00001\n-2,8,2.0,2,3,0.1\n,,,,,\n")
    assert cells(path)[0] == {"a": 1, "b": "007", "c": 1.5, "d": "1.50", "e": "1e3", "f": "0.00001"}
    assert cells(path)[2] == dict.fromkeys("abcdef")


def test_only_an_empty_unquoted_cell_is_null(write):
    path = write('t,n\nNA,1\nnull,2\nNone,3\n"",4\n,5\nnan,6\n')
    assert [r["t"] for r in cells(path)] == ["NA", "null", "None", "", None, "nan"]


def test_odd_but_good_csv(write):
    path = write(b'\xef\xbb\xbf"error",\n"two\nlines, ""quoted""",a\x00b\n')
    assert cells(path) == [{"error": 'two\nlines, "quoted"', "column_2": "a\x00b"}]
    assert cells(write("a\tb\n1\tx\n", "t.tsv")) == [{"a": 1, "b": "x"}]
    assert cells(write('a,b\n\\N,"\\N"\n"x" ,y"z\n')) == [{"a": None, "b": "\\N"}, {"a": "x ", "b": 'y"z'}]
    assert cells(write(",column_1\n1,2\n")) == [{"column_1_": 1, "column_1": 2}]
    assert cells(write("a;b\n1;x\n"), delimiter=";") == [{"a": 1, "b": "x"}]
    assert cells(write("a\né\n".encode("latin-1")), encoding="latin-1") == [{"a": "é"}]
    assert cells(write("a\né\n".encode("utf-16")), encoding="utf-16") == [{"a": "é"}]
    assert cells(write(gzip.compress(b"a\n1\n"), "a.csv.gz")) == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('"he" said\tx"y\n', [('"he" said', 'x"y')]),  # nobody quotes there
        ('x\t"oh\ny\tno"\n', [("x", '"oh'), ("y", 'no"')]),
        ('"a\nb"\t"c ""d"""\n', [("a\nb", 'c "d"')]),  # Excel
        ('a\\tb\t\\N\n"c\\nd\t\\\\e"\n\\x41\\101\\\n\t\\\\N\n', [("a\tb", None), ('"c\nd', '\\e"'), ("AA\n", "\\N")]),
        ('"a ""b"""\t\\N\n"c\n d"\t"\\N"\n', [('a "b"', None), ("c\n d", "\\N")]),
    ],
    ids=["quotes", "quotes over lines", "excel", "copy", "quoted with nulls"],
)
def test_cells_between_tabs_are_read_as_the_program_that_wrote_them_means_them(write, content, rows):
    assert [tuple(row.values()) for row in cells(write("a\tb\n" + content, "t.tsv"))] == rows


def test_wide_rows_and_long_cells(write):
    names = [f"c{i}" for i in range(10_000)]
    path = write(",".join(names) + "\n" + ",".join(["1"] * 10_000) + "\n")
    assert cells(path) == [dict.fromkeys(names, 1)]
    long = "x" * (9 << 20)
    assert cells(write(f"a,b\n{long},y\nz,w\n"))[0] == {"a": long, "b": "y"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: empty data set"),
        (b"a,b\n", "no rows: empty data set"),
        (b"a,b", "no rows: empty data set"),
        (b"\n\n", "no rows: empty data set"),
        (b'a,b\n1,x\n2,"say "hi" now"\n', "line 3 has a quote inside of a cell that is not doubled"),
        (b'"a";"b"\n"1";"x"\n', "did you mean dataset.delimiter=';'?"),
        (b'a,b\n1,""x\n', "line 2 has a quote inside of a cell that is not doubled"),
        (b'a,b\n1,"x\ny"\n1,2,3\n', "line 4 has 3 cells, the header has 2"),
        (b"a,b\n1\n", "line 2 has 1 cell, the header has 2"),
        (b"a,a,b\n1,2,3\n", "more than one column named 'a'"),
        (b"a,b\n1,x\n2,\xff\n", "line 3 is not utf-8; did you mean dataset.encoding=cp1252 ."),
        ("a\nже\n".encode("cp1251"), r"cp1251 \('же'\)"),
        ("a\n日本\n".encode("cp932"), r"line 2 .* cp932 \('日本'\)"),
        ("a\nb中文\n".encode("utf-16-be"), "dataset.encoding=utf-16-be"),
        ("имя\nи\n".encode("utf-16-le"), "dataset.encoding=utf-16-le"),
        ("abc,def\nx,y\n".encode("utf-32-be"), "dataset.encoding=utf-32-be"),
        (b'a,b\n1,x\n2,"y\n3,z\n', "a quote that is never closed"),
        (b"PAR1abc", "not csv but a Parquet file: use dataset=parquet"),
        (b"PK\x03\x04abc", "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 9, r"older Office, such as .xls: save its sheet as CSV"),
        (b"7z\xbc\xaf\x27\x1cabc", "7-Zip archive: unpack it"),
        (b"\x80\x04\x95abc", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>\n<p>404</p>\n", "a web page"),
        (b"a" + b"\0" * 256 + b"ustar  \0", "a tar archive"),
        (b"\xff\xfea\x00", "utf-16"),
        (b'{"a": 1}\n', "dataset=jsonl"),
        (
            b"text;n\nx;1\n",
            r"single column 'text;n'; did you mean dataset.delimiter=';'\? If not, set",
        ),
        (b"text\tn\nx\t1\n", r"did you mean dataset.delimiter='\\t'"),
    ],
)
def test_a_bad_csv_is_refused(write, content, message):
    with pytest.raises(UserError, match=message) as caught:
        source(write(content))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_json_number_too_small_for_64_bits_is_told(write, caplog):
    path = write('{"a": 0.0}\n{"a": 0e5}\n{"a": 1e-400}\n', "a.jsonl")
    assert [row["a"] for row in source(path, kind="jsonl").rows()] == [0.0, 0.0, 0.0]
    assert "line 3: 1e-400 is too small for 64 bits and is read as 0.0" in caplog.text


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("0.12345678901234567890123", "has more digits than 64 bits hold and is read as 0.12345678901234568"),
        ("-9007199254740993.5e0", "is read as -9007199254740994.0"),
        ("0.1000000000000000055511151231257827", ""),
        ("0.30000000000000004", ""),
        ("1.00000000000000000000", ""),
        ("12345678901234567.0", "is read as 1.2345678901234568e+16"),
    ],
)
def test_a_json_number_of_which_digits_are_lost_is_told(number, told, write, caplog):
    source(write(f'{{"n": 1.5}}\n{{"n": {number}}}\n', "a.jsonl"), kind="jsonl")
    assert (f"line 2: {number}" in caplog.text) == bool(told)
    assert told in caplog.text


def test_blank_lines_that_may_be_cells_are_told(write, caplog):
    assert cells(write('\na\nx\n\n""\ny\n\n')) == [{"a": "x"}, {"a": ""}, {"a": "y"}]
    assert "1 blank line between its rows left out, the first is line 4" in caplog.text
    caplog.clear()
    assert cells(write('a\n"x\n\ny"\n\n\n')) == [{"a": "x\n\ny"}]
    assert cells(write("a,b\nx,1\n\ny,2\n")) == [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
    assert not caplog.text


@pytest.mark.parametrize("mark", ["\t", r"\t"])
def test_a_tab_may_be_written_as_its_escape(write, mark):
    assert cells(write("text\tn\nx\t1\n"), delimiter=mark) == [{"text": "x", "n": 1}]
    assert cells(write("text;n\nx\n"), delimiter=",") == [{"text;n": "x"}]


def test_jsonl_types(write):
    path = write(
        '{"a": 1, "m": 1, "d": "2024-01-01"}\n\n{"b": [1, 2], "a": 2.5, "m": "x"}\n{"s": {"k": {}}, "m": {"z": 1}}\n'
    )
    rows = cells(path, kind="jsonl")
    assert [repr(r["a"]) for r in rows] == ["1", "2.5", "None"]
    assert [r["m"] for r in rows] == [1, "x", {"z": 1}]
    assert source(path, "jsonl").table(0, 3, ["a", "m"]).to_pydict() == {
        "a": [1.0, 2.5, None],
        "m": ["1", "x", '{"z": 1}'],
    }
    assert rows[0]["d"] == "2024-01-01"
    assert rows[1]["b"] == [1, 2]
    assert rows[2]["s"] == {"k": {}}
    assert cells(write('{"a": "x\\ud800"}\n'), kind="jsonl") == [{"a": "x\ufffd"}]
    assert cells(write('{"a": 1e300, "b": 99999999999999999999}\n'), kind="jsonl")[0]["b"] == 99999999999999999999


def test_a_row_shows_the_same_whatever_other_rows_hold(write):
    rows = [
        {"a": 1, "list": ["x"], "object": {"k": 1}, "flag": True, "big": 2**53 + 1},
        {"a": 1.0, "list": "x", "object": {"k": 1.0, "other": 1}, "flag": "true", "big": 0.5},
        {"a": 2**70, "list": [None, None], "object": {"other": [1, "x"], "k": None}, "flag": 1, "big": -1},
        {"a": "1", "list": [1, "x"], "object": [], "flag": {"x": {}}, "big": "x"},
    ]
    together = cells(write("".join(json.dumps(row) + "\n" for row in rows), "a.jsonl"), kind="jsonl")
    alone = [cells(write(json.dumps(row), "b.jsonl"), kind="jsonl")[0] for row in rows]
    assert repr(together) == repr(alone) == repr(rows)
    assert together[0]["object"]["other"] is None  # a missing key reads as null, in an object as in a row


def test_names_with_nul_and_lists_of_nulls_are_read(write):
    rows = cells(write('{"a": {"": "x", "\\u0000b": null}, "n\\u0000": [null, null]}\n'), kind="jsonl")
    assert rows == [{"a": {"": "x", "\ufffdb": None}, "n\ufffd": [None, None]}]


def test_the_cell_that_makes_a_column_of_numbers_text_is_told(write, caplog):
    cells(write("n,m\n" + "1,1\n" * 40 + "NA,1\n"))
    assert "column 'n' is text because of 'NA' in row 41; 40 of its cells are numbers" in caplog.text
    assert "'m'" not in caplog.text


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_array_of_objects_reads_as_its_lines_do(write, monkeypatch, indent, size):
    rows = [
        {"a": at, "text": 'ä\n]},"' * at, "f": -1.5e-7, "deep": {"x": [True, None], "s": ""}, "last": 123456}
        for at in range(40)
    ]
    # Blocks so short that rows, names and characters are cut in two.
    monkeypatch.setattr("runner.data.readers.json._READ_BYTES", size)
    array = write("\ufeff \n" + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n", "a.json")
    lines = write("".join(json.dumps(row) + "\n" for row in rows), "a.jsonl")
    assert cells(array, kind="jsonl") == cells(lines, kind="jsonl") == rows
    assert cells(write('[{"a": "x\\ud800"}]', "b.json"), kind="jsonl") == [{"a": "x\ufffd"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2 is not a JSON object but list"),
        (b'{"a": "\xff"}\n', "line 1 is not utf-8"),
        (b'{"a": 1.5}\n{"a": [-1e400]}\n', "line 2: the number -1e400 is too large for 64 bits; in quotes"),
        (b"\n\n", "empty data set"),
        (b"{}\n", "no columns"),
        (b"[]", "empty data set"),
        (b'[{"a": 1},\n 2]', "line 2 is not a JSON object but int"),
        (b'[{"a": 1}\n{"a": 2}]', "line 2 is not JSON: expected , but found {"),
        (b'[{"a": 1},\n{"a": tru}]', "line 2 is not JSON: Expecting value"),
        (b'[{"a": 1},\n{"a": "x', "line 2 is not JSON: Unterminated string"),
        (b'[{"a": 1}', r"line 1 is not JSON: expected , but found the end"),
        (b'[{"a": 1}]\n[]', "line 2 is not JSON: something follows the array"),
        (b'[{"a": "\xff"}]', "line 1 is not utf-8; did you mean"),
    ],
)
def test_a_bad_jsonl_is_refused(write, content, message):
    with pytest.raises(UserError, match=message):
        source(write(content, "a.jsonl"), kind="jsonl")


@pytest.mark.parametrize(("names", "name"), [(["text", "text"], "'text'"), (["", ""], "''")])
def test_columns_of_the_same_name_are_refused_in_every_format(tmp_path, names, name):
    table = pa.table([pa.array(["a"]), pa.array([1])], names=names)
    pq.write_table(table, tmp_path / "t.parquet")
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    for kind in ("parquet", "arrow"):
        with pytest.raises(UserError, match=f"t.{kind} has more than one column named {name}"):
            open_source(DatasetConf(kind=kind, path=str(tmp_path / f"t.{kind}")))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "text", "parquet"])
def test_a_device_is_refused_before_it_is_read(kind):
    with pytest.raises(UserError, match="/dev/zero is neither a file nor a pipe") as refused:
        open_source(DatasetConf(kind=kind, path="/dev/zero"))
    assert refused.value.exit_code == 2


def test_a_missing_file_suggests_its_neighbours(mail):
    with pytest.raises(UserError, match=r"no such file: .*mial.csv; did you mean .*mail.csv"):
        source(mail.with_name("mial.csv"))
    with pytest.raises(UserError, match="is a folder"):
        source(mail.parent)
    with pytest.raises(UserError, match="save_to_disk"):
        source(mail.parent, "arrow")


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"gold": "knid"}, "dataset.gold: no column 'knid'"),
        ({"limit": 0}, "dataset.limit"),
        ({"shuffle_seed": -1}, "dataset.shuffle_seed"),
        ({"kind": "jsnol"}, "did you mean 'jsonl'"),
        ({"gold": "kind", "classes": ["ham", "egg"]}, "holds 'spam', which is neither a class"),
        ({"delimiter": "::"}, "dataset.delimiter"),
        ({"encoding": "klingon"}, "dataset.encoding"),
        ({"path": None}, "dataset.path is not set"),
    ],
)
def test_a_wrong_key_is_named(mail, conf, message):
    with pytest.raises(UserError, match=message):
        open_source(DatasetConf(**{"path": str(mail), **conf}))


def test_gold_names(mail, write, tmp_path):
    import datasets

    assert source(mail, gold="kind").gold_name("ham") == "ham"
    data = source(write("g\n0\n1\n"), gold="g", classes=["bad", "good"])
    assert [data.gold_name(v) for v in (0, "1", None, "good")] == ["bad", "good", None, "good"]
    features = datasets.Features({"g": datasets.ClassLabel(names=["bad", "good"])})
    datasets.Dataset.from_dict({"g": [1, 0]}, features=features).save_to_disk(str(tmp_path / "d"))
    data = source(tmp_path / "d", "arrow", gold="g", where="g == good")
    assert [data.gold_name(r["g"]) for r in data.rows(0)] == ["good"]
    assert data.features["g"].names == ["bad", "good"]


def test_large_files_are_mapped_from_a_cache_that_is_never_stale(mail, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(table, "cache_file", lambda key: tmp_path / "cache" / f"{key}.arrow")
    assert cells(mail) == ROWS
    assert cells(mail) == ROWS
    assert [p.suffixes for p in (tmp_path / "cache").iterdir()] == [[".arrow"]]
    mail.write_bytes(mail.read_bytes().replace(b"row 7", b"row X"))
    assert cells(mail)[7]["text"].startswith("row X")


def test_a_hub_data_set(monkeypatch):
    import datasets

    asked = {}

    def load_dataset(path, **options):
        asked.update(options, path=path)
        if path == "missing":
            raise FileNotFoundError("no such data set")
        return datasets.Dataset.from_list(ROWS).select([4, 2])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("runner.data.readers.arrow.reachable", lambda what, offline: not offline)
    data = source("owner/name", "hub", split="test", revision="abc")
    assert list(data.rows(0)) == [ROWS[4], ROWS[2]]
    assert asked == {"path": "owner/name", "name": None, "split": "test", "revision": "abc", "cache_dir": None}
    with pytest.raises(UserError, match=r"cannot load missing .* from the hub: no such data set"):
        source("missing", "hub")


def test_a_run_without_the_hub_keeps_no_later_one_of_its_process_from_it(monkeypatch):
    import datasets
    from huggingface_hub import constants

    seen = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    load = lambda path, **options: seen.append(constants.HF_HUB_OFFLINE) or datasets.Dataset.from_list(ROWS)  # noqa: E731
    monkeypatch.setattr(datasets, "load_dataset", load)
    read_hub(DatasetConf(kind="hub", path="owner/name"), "owner/name", offline=True)
    assert (seen, constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == ([True], False, False)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"a", b",", b"\n", b"\r", b'"', b"\x00", b"\xff", b"1", b" ", b"{", b"}", b":"])).map(
        b"".join
    ),
    st.sampled_from(["csv", "jsonl", "text", "parquet", "arrow", "sqlite", "openai_batch"]),
    st.none() | st.text(max_size=10),
)
def test_no_other_error_from_any_file(tmp_path, content, kind, where):
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    try:
        data = source(path, kind, where=where)
        assert len(list(data.rows(0))) == len(data)
    except UserError:
        pass


@pytest.mark.parametrize("kind", ["csv", "jsonl", "text", "parquet", "arrow"])
def test_more_files_than_a_process_may_open_are_read_in_turn(tmp_path, kind):
    resource = pytest.importorskip("resource")
    table = pa.table({"text": ["a"]})
    for number in range(60):
        path = tmp_path / f"{number:03}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        elif kind == "arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        else:
            path.write_text('{"text": "a"}\n' if kind == "jsonl" else "text\na\n" if kind == "csv" else "a\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cells(tmp_path / f"000.{kind}", kind=kind)  # what is imported and opened once
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 20, hard))
        assert cells(tmp_path / f"*.{kind}", kind=kind) == [{"text": "a"}] * 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
