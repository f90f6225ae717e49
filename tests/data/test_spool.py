"""Rows piped in: run, killed, resumed with and without the pipe."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runner.data import stdin
from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.types import UserError
from tests.support import runs

WORDS = ["job=generate", "dataset=jsonl", "dataset.path=-", "prompt.user={{ text }}", "run_name=piped"]
WORDS += ["engine.backend=fake", "engine.batch_size=1", "output.shard_rows=10"]
LINES = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(40)).encode()
PACKED = gzip.compress(LINES)


@pytest.fixture
def rowmill(tmp_path):
    keywords = {"cwd": tmp_path, "env": {"ROWMILL_CACHE": str(tmp_path / "cache")}, "text": False}
    return lambda *words, piped=b"": runs.rowmill(*words, input=piped, **keywords)


def rows(folder):
    import datasets

    return [row["text"] for row in datasets.load_from_disk(str(folder / "outputs" / "piped"))]


def test_a_killed_run_is_resumed_with_nothing_piped_in(rowmill, start, tmp_path):
    process = start(runs.command("run", *WORDS), delay=0.05, cwd=tmp_path, stdin=subprocess.PIPE, text=False)
    process.stdin.write(PACKED)
    process.stdin.close()
    while not (tmp_path / "outputs" / "piped" / "data-00000.arrow").exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "outputs" / "piped" / "stdin").read_bytes() == PACKED
    resumed = rowmill("run", *WORDS)
    assert resumed.returncode == 0, resumed.stderr
    assert b"the standard input is empty: reusing the rows that the earlier session kept" in resumed.stderr
    assert len(rows(tmp_path)) == 40


def test_the_same_rows_piped_in_again_resume_and_others_do_not(rowmill, tmp_path):
    assert rowmill("run", *WORDS, piped=LINES).returncode == 0
    again = rowmill("run", *WORDS, piped=LINES)
    assert again.returncode == 0
    assert b"all 40 rows were finished before" in again.stderr
    other = rowmill("run", *WORDS, piped=LINES + LINES)
    assert other.returncode == 2
    assert b"belongs to a different run" in other.stderr
    assert not list((tmp_path / "cache" / "stdin").iterdir())


def test_mistakes_name_the_standard_input(rowmill):
    nothing = rowmill("run", *WORDS)
    assert nothing.returncode == 2
    assert nothing.stderr == b"rowmill: dataset.path=-: it reads the standard input, but nothing is piped in\n"
    wrong = rowmill("preview", *WORDS, piped=b'{"text": 1}\nnope\n')
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"rowmill: dataset.path: the standard input line 2 is not JSON")
    assert len(wrong.stderr.splitlines()) == 1
    encoding = rowmill("preview", *WORDS, "dataset.kind=csv", "dataset.encoding=klingon", piped=b"text\nhello\n")
    assert encoding.stderr.startswith(b"rowmill: dataset.encoding=klingon: it is not a known encoding")


@pytest.mark.parametrize(
    ("kind", "piped", "said"),
    [
        ("csv", b"a,b\n1,2,3\n", "line 2 has 3 cells, the header has 2"),
        ("csv", b"a,a\n1,2\n", "has more than one column named 'a'"),
        ("csv", b"\x1f\x8bxx", "cannot be read as csv"),
        ("text", b"a\n\xff\n", "line 2 is not utf-8"),
        ("parquet", b"PAR1 and no more", "is not a readable Parquet file"),
        ("sqlite", b"hello", "cannot be read as an SQLite database"),
        ("arrow", b"ARROW1", "cannot be read as arrow"),
        ("openai_batch", b'{"a": 1}', "is not an OpenAI batch file"),
        ("documents", b"hello", "holds no documents"),
        ("aclsum", b"hello", "is not the folder `dataset`"),
    ],
)
@pytest.mark.parametrize("pipe", ["-", "fifo"])
def test_each_reader_names_the_pipe_and_not_the_file_that_its_rows_were_kept_in(
    tmp_path, monkeypatch, cache, kind, piped, said, pipe
):
    monkeypatch.chdir(tmp_path)
    if pipe == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    else:
        os.mkfifo(pipe)
        threading.Thread(target=Path(pipe).write_bytes, args=(piped,)).start()
    with pytest.raises(UserError) as refused:
        open_source(DatasetConf(kind=kind, path=pipe))
    assert f"{'the standard input' if pipe == '-' else pipe} {said}" in str(refused.value)
    assert str(cache) not in str(refused.value)


def test_a_notebook_has_no_pipe(monkeypatch, tmp_path):
    class Stdin:
        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdin", Stdin())
    (tmp_path / "stdin").write_bytes(LINES)
    assert stdin.spooled(tmp_path).read_bytes() == LINES
