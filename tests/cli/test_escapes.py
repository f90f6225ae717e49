"""What cells hold is shown on a terminal as characters: it steers nothing."""

import csv
import json
import shlex
from pathlib import Path

import pytest

from runner.cli import main

EVIL = "\x1b]0;title\x07\x1b[31mred\u202etxt\u2066 a\r\x9b1mb\x00\x7f\u2028"
FORBIDDEN = set("\x07\x9b\u202e\u2066\r\x00\x7f\u2028")
DATA = "engine.backend=fake dataset=jsonl dataset.path=d.jsonl run_name=x"
RUNS = [
    f"job=generate {DATA} 'prompt.user={{{{ text }}}}'",
    f"job=label 'job.labels=[a,\"{EVIL}\"]' dataset.gold=label {DATA} 'prompt.user={{{{ text }}}}'",
    f"job=generate {DATA} 'prompt.user={{{{ {{}}[text] }}}}'",
    f"job=generate {DATA} 'prompt.user={{{{ nope }}}}'",
]
THEN = ["status outputs/x", "watch outputs/x", "evaluate outputs/x --gold label", "evaluate outputs/x --gold nope"]
THEN += ["export outputs/x y.csv --columns nope", "diff outputs/x outputs/x", "init d.jsonl", "report outputs/x"]


@pytest.mark.parametrize("run", RUNS)
def test_no_cell_steers_a_terminal(run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{EVIL}{i}", EVIL: "x", "label": EVIL if i else "a"} for i in range(3)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in (f"preview {run}", f"run {run}", *THEN):
        main(shlex.split(words))
        said = "".join(capfd.readouterr())
        assert not FORBIDDEN & set(said), words
        assert "\x1b]" not in said
        assert "\x1b[31mred" not in said
    log = Path("outputs/x/run.log")
    assert not log.is_file() or not (FORBIDDEN | {"\x1b"}) & set(log.read_text())


def test_a_spreadsheet_computes_nothing_in_a_safe_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ["=1+1", "+1", "-1+2", "@x", "\t=1", " =1", "\uff1d1", "\u200b=1", "a=b", "", "5", "'x"]
    rows = [{"=name": cell, "n": -1, "text": "x"} for cell in cells]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["run", "job=generate", *shlex.split(DATA), "prompt.user={{ n }}", "output.keep=['=name',n]"]) == 0
    assert main(["export", "outputs/x", "plain.csv"]) == 0
    assert main(["export", "outputs/x", "safe.csv", "--safe-csv"]) == 0
    plain, safe = (list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("plain.csv", "safe.csv"))
    assert [row["=name"] for row in plain] == cells
    assert [row["'=name"] for row in safe] == [
        "'=1+1",
        "'+1",
        "'-1+2",
        "'@x",
        "'\t=1",
        "' =1",
        "'\uff1d1",
        "'\u200b=1",
        *cells[8:],
    ]
    assert {row["n"] for row in safe} == {"-1"}
