"""Compressed files and patterns: the same rows as one plain file has, and mistakes that name their file."""

import bz2
import datetime
import gzip
import json
import lzma
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from runner.data.cells import shown
from runner.data.conf import DatasetConf
from runner.data.readers import table
from runner.data.source import open_source
from runner.types import UserError

ROWS = [{"id": i, "text": f"row {i}"} for i in range(30)]
CSV = "id,text\n" + "".join(f"{r['id']},{r['text']}\n" for r in ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
PACKERS = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress, "bz2": bz2.compress, "xz": lzma.compress}


def rows(path, kind, **conf):
    return list(open_source(DatasetConf(kind=kind, path=str(path), **conf)).rows(0))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("kind", "content"), [("csv", CSV), ("jsonl", JSONL)])
def test_compression_goes_by_the_content(tmp_path, packer, named, kind, content):
    path = tmp_path / (f"data.{kind}.{packer}" if named else "data")
    path.write_bytes(PACKERS[packer](content.encode()))
    assert rows(path, kind) == ROWS


@pytest.mark.parametrize("packer", PACKERS)
def test_texts_pages_and_mails_that_are_compressed_are_documents(tmp_path, packer, monkeypatch):
    contents = {"a.txt": "plain", "b.HTML": "<p>a page</p>", "c.eml": "From: z@x.org\n\nsaid"}
    for name, content in contents.items():
        (tmp_path / f"{name}.{packer}").write_bytes(PACKERS[packer](content.encode()))
    found = ["plain", "a page", "From: z@x.org\n\nsaid"]
    assert [row["text"] for row in rows(tmp_path, "documents")] == found
    for name, text in zip(contents, found, strict=True):
        assert rows(tmp_path / f"{name}.{packer}", "documents")[0]["text"] == text
    monkeypatch.setattr("runner.data.readers.documents.archives.MOST_BYTES", 12)
    assert [row["unreadable"] for row in rows(tmp_path, "documents")] == [
        None,
        *["ValueError: it unpacks to more than 12 bytes"] * 2,
    ]


def test_a_file_that_was_unpacked_but_not_renamed_is_read(tmp_path):
    path = tmp_path / "data.csv.gz"
    path.write_text(CSV)
    assert rows(path, "csv") == ROWS


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_that_were_joined_hold_the_rows_of_all_and_what_follows_them_is_told(tmp_path, packer, kind, caplog):
    content, pack = (CSV if kind == "csv" else JSONL).encode(), PACKERS[packer]
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc" if packer == "zst" else b""
    joined = skipped + pack(content[:50]) + skipped + pack(b"") + pack(content[50:])
    for name, more, says in [("none", b"", False), ("zeros", b"\0" * 99, False), ("other", b"\0signature", True)]:
        (tmp_path / name).write_bytes(joined + (b"" if packer == "zst" else more))
        assert rows(tmp_path / name, kind) == ROWS
        assert ("what follows the" in caplog.text) == (says and packer != "zst")
    if packer == "zst":
        (tmp_path / "more").write_bytes(joined + b"signature")
        with pytest.raises(UserError, match="something follows its compressed data that is none"):
            rows(tmp_path / "more", kind)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "text", "openai_batch"])
def test_a_file_cut_short_is_refused(tmp_path, packer, kind):
    path = tmp_path / f"data.{packer}"
    path.write_bytes(PACKERS[packer]((JSONL if kind in ("jsonl", "openai_batch") else CSV).encode() * 20)[:-30])
    with pytest.raises(UserError, match=f"data.{packer}.* (damaged|cannot be read)") as caught:
        rows(path, kind)
    assert "\n" not in str(caught.value)


def test_what_is_packed_is_looked_at_too(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(JSONL.encode()))
    with pytest.raises(UserError, match="dataset=jsonl"):
        rows(tmp_path / "a.gz", "csv")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(UserError, match="gzip-compressed: decompress it"):
        rows(tmp_path / "a.parquet.gz", "parquet")


@pytest.fixture
def parts(tmp_path):
    """The rows in three files of each kind, one of them compressed."""
    for number, part in enumerate((ROWS[:10], ROWS[10:11], ROWS[11:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"part-{number}.jsonl").write_text(lines)
        (tmp_path / f"part-{number}.csv").write_text("text,id\n" + "".join(f"{r['text']},{r['id']}\n" for r in part))
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"part-{number}.parquet")
        (tmp_path / f"part-{number}.txt").write_text("\n".join(row["text"] for row in part))
    (tmp_path / "part-1.jsonl").write_bytes(gzip.compress((tmp_path / "part-1.jsonl").read_bytes()))
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_pattern_is_all_its_files_in_the_order_of_their_names(parts, kind):
    assert rows(parts / f"part-*.{kind}", kind) == ROWS
    assert rows(parts / f"part-[02].{kind}", kind) == ROWS[:10] + ROWS[11:]
    assert rows(parts / "**" / f"part-*.{kind}", kind) == ROWS


def test_text_files_end_their_last_lines(parts):
    assert rows(parts / "*.txt", "text") == [{"text": row["text"]} for row in ROWS]


def test_large_files_of_a_pattern_are_mapped_from_the_cache(parts, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(table, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(table, "cache_file", lambda key: cache / f"{key}.arrow")
    for _ in range(2):
        assert rows(parts / "*.csv", "csv") == ROWS
        assert len(list(cache.iterdir())) == 1


def test_columns_of_several_files_take_the_type_that_holds_all(tmp_path):
    (tmp_path / "a.csv").write_text("n,only_a\n1,x\n")
    (tmp_path / "b.csv").write_text("n\n1.5\n")
    (tmp_path / "c.csv").write_text("n\n007\n")
    assert [row["n"] for row in rows(tmp_path / "[ab].csv", "csv")] == ["1", "1.5"]
    assert [row["n"] for row in rows(tmp_path / "*.csv", "csv")] == ["1", "1.5", "007"]
    assert [row["only_a"] for row in rows(tmp_path / "*.csv", "csv")] == ["x", None, None]
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"n": 1.5}\n')
    assert rows(tmp_path / "*.jsonl", "jsonl") == [{"n": 1.0}, {"n": 1.5}]


def test_a_pattern_of_arrow_files(tmp_path):
    for number, part in enumerate((ROWS[:10], ROWS[10:])):
        table = pa.Table.from_pylist(part)
        with pa.ipc.new_stream(str(tmp_path / f"data-{number}.arrow"), table.schema) as stream:
            stream.write_table(table)
    assert rows(tmp_path / "data-*.arrow", "arrow") == ROWS


def test_the_fingerprint_of_a_pattern_follows_contents_and_order(parts):
    def fingerprint(path):
        return open_source(DatasetConf(kind="jsonl", path=str(path))).fingerprint

    first = fingerprint(parts / "part-*.jsonl")
    (parts / "moved").mkdir()
    for number in range(3):
        (parts / f"part-{number}.jsonl").rename(parts / "moved" / f"x{number}.jsonl")
    assert fingerprint(parts / "moved" / "*.jsonl") == first
    (parts / "moved" / "x0.jsonl").rename(parts / "moved" / "z.jsonl")
    assert fingerprint(parts / "moved" / "*.jsonl") != first


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        ("jsonl", {"a": '{"a": 1}\n', "b": '{"a": 1}\nnope\n'}, r"/b line 2 is not JSON"),
        ("csv", {"a": "x,y\n1,2\n", "b": "x,y\n1,2\n1,2,3\n"}, r"/b line 3 has 3 cells"),
        ("csv", {"a": "x\n1\n", "b": 'x\n1\n"2\n3\n'}, r"/b line 3 opens a quote that is never closed"),
        ("csv", {"a": "x\n1\n", "b": ""}, r"/b is empty"),
        ("csv", {"a": "x\n1\n", "b": '{"x": 1}\n'}, r"/b is not csv but looks like JSON lines"),
        ("parquet", {"a": "PAR1", "b": "PAR1"}, r"/a is not a readable Parquet file"),
        ("sqlite", {"a": "x", "b": "x"}, "give one database file"),
        ("csv", {}, "no file matches the pattern"),
    ],
)
def test_mistakes_in_a_pattern_name_their_file(tmp_path, kind, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        rows(tmp_path / "[a-z]", kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ([1, None], [0.5, 2.0], "double"),
        ([1, 2], [[1], None], "string"),
        ([1, 2], ["1", "x"], "string"),
        ([{"a": 1}], [{"a": 0.5, "b": "x"}], "struct<a: double, b: string>"),
        ([Decimal("1.50")], [datetime.date(2024, 1, 31)], "string"),
        ([Decimal("1.10")], [Decimal("1.1000")], "decimal128(5, 4)"),
        ([datetime.datetime(2024, 1, 31, 10)], [datetime.date(2024, 1, 31)], "string"),
        ([datetime.timedelta(1, 2, 3)], [datetime.time(10)], "string"),
        (pa.array([0.1], pa.float32()), [0.5], "double"),
        ([b"\xff"], ["x"], "binary"),
        ([None, None], [1, 2], "int64"),
        ([2**53 + 1], [0.5], "string"),
        ([[2**53 + 1]], [[0.5]], "string"),
        (pa.array([2**64 - 1], pa.uint64()), [-1], "string"),
        ([2**60 + 1], [Decimal("1.50")], "string"),
        ([datetime.datetime(3000, 1, 1)], pa.array([1000], pa.timestamp("ns")), "string"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_cell_is_what_its_file_holds_whatever_type_other_files_give_its_column(
    tmp_path, caplog, suffix, one, other, kind
):
    for name, values in (("a", one), ("b", other)):
        table = pa.table({"n": values})
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
    source = open_source(DatasetConf(kind=suffix, path=str(tmp_path / f"*.{suffix}")))
    found = [row["n"] for row in source.rows()]
    expected = [*shown(pa.array(one)), *shown(pa.array(other))]
    assert list(map(str, found)) == list(map(str, expected))
    assert list(map(type, found)) == list(map(type, expected)) or kind.startswith("struct")
    assert str(source.schema.field("n").type) == kind
    assert ("prompts show what each row holds" in caplog.text) == (one[0] is not None)


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].csv").write_text(CSV)
    assert rows(tmp_path / "a[1].csv", "csv") == ROWS
