"""Mailboxes, as mail programs export them, and documents whose names tell what they are."""

import gzip
import mailbox

import pytest

from runner.cli import main
from runner.data.conf import DatasetConf
from runner.data.load import kind_of
from runner.data.readers import READERS
from runner.data.readers.documents import SUFFIXES, archives
from runner.data.source import open_source
from runner.types import UnreadableRow

HEAD = "From: Ann <a@x.org>\nSubject: {}\n\n"
BODIES = [
    "From today on we meet at 10:30 on Monday, 3 May 2027\nSee you\n",
    "Deadline: May\n\nFrom Ann, with love\n",
    "> From quotations\nno line feed at the end",
    "From \nFrom - \n",
]


def texts(path):
    rows = open_source(DatasetConf(kind="documents", path=str(path))).rows()
    return {row["file"]: row.why if isinstance(row, UnreadableRow) else row["text"] for row in rows}


def test_the_mails_of_a_mailbox_are_the_rows_that_they_are_as_files(tmp_path):
    (tmp_path / "files").mkdir()
    box = mailbox.mbox(tmp_path / "in.mbox")
    for number, body in enumerate(BODIES, 1):
        mail = HEAD.format(number) + body
        (tmp_path / "files" / f"{number}.eml").write_text(mail)
        box.add(mail)
    box.close()
    alone = list(texts(tmp_path / "files").values())
    assert alone[1] == f"{HEAD.format(2)}{BODIES[1]}".strip()
    assert texts(tmp_path / "in.mbox") == {f"in.mbox#{number}": text for number, text in enumerate(alone, 1)}
    packed = tmp_path / "in.mbox.gz"
    packed.write_bytes(gzip.compress((tmp_path / "in.mbox").read_bytes()))
    assert list(texts(packed).values()) == alone


@pytest.mark.parametrize(
    "begins", ["From - Tue Dec 01 05:20:38 2026", "From ", "From 17@xxx Tue Dec 01 05:20:38 +0000 2026"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mailboxes_of_several_programs(tmp_path, begins, end):
    mails = [f"{begins}\n{HEAD.format(number)}{body}\n\n" for number, body in enumerate(("one", "two"))]
    (tmp_path / "in.mbox").write_text("".join(mails), newline=end)
    found = list(texts(tmp_path / "in.mbox").values())
    assert found == [(HEAD.format(number) + body) for number, body in enumerate(("one", "two"))]


def test_a_mailbox_is_a_folder_where_apples_mail_exports_it_and_one_of_a_folders_files(tmp_path):
    box = f"From a@x Tue Dec 01 05:20:38 2026\n{HEAD.format(1)}one\n"
    (tmp_path / "Archive.mbox").mkdir()
    (tmp_path / "Archive.mbox" / "mbox").write_text(box + box)
    (tmp_path / "empty.mbox").touch()
    (tmp_path / "note.txt").write_text("a note")
    assert list(texts(tmp_path)) == ["Archive.mbox/mbox#1", "Archive.mbox/mbox#2", "note.txt"]
    assert list(texts(tmp_path / "Archive.mbox")) == ["mbox#1", "mbox#2"]


def test_what_of_a_mailbox_is_no_mail_is_an_error_of_its_own_row(tmp_path, monkeypatch):
    box = f"no mail\n\nFrom a@x Tue Dec 01 05:20:38 2026\n{HEAD.format(1)}one\n"
    (tmp_path / "a.mbox").write_text(box)
    (tmp_path / "b.mbox.gz").write_bytes(gzip.compress(box.encode())[:-30])
    found = texts(tmp_path)
    assert found["a.mbox#1"] == "ValueError: it is no mail: it has no headers"
    assert found["a.mbox#2"] == f"{HEAD.format(1)}one"
    assert "OSError: the gzip data end too early" in found.values()
    monkeypatch.setattr(archives, "MOST_BYTES", 20)
    assert texts(tmp_path / "a.mbox") == {
        "a.mbox#1": found["a.mbox#1"],
        "a.mbox#2": "ValueError: it has more than 20 bytes",
    }


def test_a_name_tells_that_a_file_is_a_document(tmp_path, folder, capsys):
    tables = {suffix for kind, reader in READERS.items() if kind != "documents" for suffix in reader.suffixes}
    assert {*READERS["documents"].suffixes} == {*SUFFIXES} - tables
    assert kind_of("in.mbox.gz") == kind_of("a.PDF") == "documents"
    mail = tmp_path / "a.eml"
    mail.write_text(HEAD.format(1) + "one")
    assert main(["init", str(mail)]) == 0
    assert "a.eml: 1 row; job generate on column 'text'" in capsys.readouterr().out
    words = ["engine.backend=fake", "job=generate", f"dataset.path={mail}", "prompt.user={{ text }}", "run_name=x"]
    assert main(["run", *words]) == 0
