"""Tables of SQLite databases: rows, types, order, and every mistake in one line."""

import sqlite3
from contextlib import closing

import pytest

from runner.data.cells import UnreadableCell, shown
from runner.data.conf import DatasetConf
from runner.data.readers import sqlite, table
from runner.data.source import open_source
from runner.types import UserError


@pytest.fixture
def database(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.executescript(
        """
        CREATE TABLE mail (id INTEGER PRIMARY KEY, text TEXT, stars REAL, mixed, raw BLOB);
        INSERT INTO mail VALUES (3, 'third', 1.5, 'x', x'00ff'), (1, 'first', 2, 7, NULL), (2, NULL, NULL, 2.5, NULL);
        CREATE TABLE [odd "name"] (a);
        INSERT INTO [odd "name"] VALUES (1);
        CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
        INSERT INTO keyed VALUES ('b', 1), ('a', 2);
        CREATE TABLE empty (a);
        CREATE TABLE blobs (a); INSERT INTO blobs VALUES (x'00'), ('text');
        CREATE VIEW short AS SELECT id, text FROM mail WHERE stars > 0;
        """
    )
    connection.close()
    return tmp_path / "x.db"


def source(path, table=None, **conf):
    return open_source(DatasetConf(kind="sqlite", path=str(path), table=table, **conf))


def test_a_table_in_the_order_of_its_rowids(database):
    rows = list(source(database, "mail").rows(0))
    assert rows[0] == {"id": 1, "text": "first", "stars": 2.0, "mixed": 7, "raw": None}
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["mixed"] for row in rows] == [7, 2.5, "x"]
    assert rows[2]["raw"] == b"\x00\xff"


def test_views_odd_names_and_tables_without_rowids(database):
    assert [row["id"] for row in source(database, "short").rows(0)] == [1, 3]
    assert list(source(database, 'odd "name"').rows(0)) == [{"a": 1}]
    assert [row["k"] for row in source(database, "keyed").rows(0)] == ["a", "b"]
    assert len(source(database, "MAIL", where="stars > 1.5")) == 1


def test_the_only_table_needs_no_name(tmp_path):
    connection = sqlite3.connect(tmp_path / "one.db")
    connection.executescript("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES (5)")
    connection.close()
    assert list(source(tmp_path / "one.db").rows(0)) == [{"a": 5}]


def test_the_fingerprint_is_that_of_the_table(database):
    first = source(database, "mail").fingerprint
    connection = sqlite3.connect(database)
    connection.execute("INSERT INTO keyed VALUES ('c', 3)")
    connection.commit()
    assert source(database, "mail").fingerprint == first
    connection.execute("UPDATE mail SET text = 'second' WHERE id = 2")
    connection.commit()
    connection.close()
    assert source(database, "mail").fingerprint != first


def test_a_database_that_another_program_writes_to(database):
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO mail (id, text) VALUES (9, 'in the log')")
    assert [row["text"] for row in source(database, "mail").rows(3)] == ["in the log"]
    writer.close()


def test_large_tables_are_mapped(database, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(sqlite, "cache_file", lambda key: tmp_path / "cache" / f"{key}.arrow")
    assert len(source(database, "mail")) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert table.map_arrow(next((tmp_path / "cache").iterdir())).num_rows == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"dataset.table: .*x.db has blobs, empty, keyed, mail, odd.*: name one of them"),
        ("mial", r"no table 'mial' \(did you mean 'mail'\?\)"),
        ("empty", "x.db table empty has no rows: empty data set"),
    ],
)
def test_a_wrong_table_is_named(database, table, message):
    with pytest.raises(UserError, match=message) as caught:
        source(database, table)
    assert "\n" not in str(caught.value)


def test_what_is_no_database(tmp_path, database):
    (tmp_path / "a.db").write_text("id,text\n" * 500)
    with pytest.raises(UserError, match=r"a.db cannot be read as an SQLite database"):
        source(tmp_path / "a.db", "t")
    with pytest.raises(UserError, match="no such file"):
        source(tmp_path / "b.db", "t")
    with pytest.raises(UserError, match="dataset=sqlite"):
        open_source(DatasetConf(kind="csv", path=str(database)))
    with pytest.raises(UserError, match=r"dataset.table=t: it applies to sqlite, excel and run only"):
        open_source(DatasetConf(kind="csv", path=str(database), table="t"))
    damaged = database.read_bytes()
    (tmp_path / "c.db").write_bytes(damaged[:5000] + b"\xff" * 4000)
    with pytest.raises(UserError, match=r"c.db"):
        source(tmp_path / "c.db", "mail")


@pytest.mark.parametrize(
    ("cells", "kind", "last"),
    [
        (["CAST(x'61ff' AS TEXT)"], "string", "a\ufffd"),
        (["'a'", "CAST(x'ff' AS TEXT)"], "string", "\ufffd"),
        (["1", "x'ff'"], "string", "\ufffd"),
        (["1", "0.5", "x'61'"], "string", "a"),
        (["x'61'", "x'ff'"], "binary", b"\xff"),
    ],
)
def test_a_blob_beside_other_values_or_a_text_that_is_no_utf8_concerns_those_who_use_it(tmp_path, cells, kind, last):
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        for cell in cells:
            connection.execute(f"INSERT INTO t VALUES ({cell}, 'fine')")
        connection.commit()
    data = source(tmp_path / "x.db", "t")
    assert str(data.schema.field("a").type) == kind
    rows = list(data.rows())
    assert [row["b"] for row in rows] == ["fine"] * len(cells)
    assert shown(data.table(0, len(cells), ["a"])["a"])[-1] == last
    values = {"'a'": "a", "1": 1, "0.5": 0.5, "x'61'": b"a"}
    assert [row["a"] for row in rows[:-1]] == [values[cell] for cell in cells[:-1]]
    assert isinstance(rows[-1]["a"], UnreadableCell) == ("\ufffd" in str(last))
