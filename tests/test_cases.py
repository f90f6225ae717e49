"""Inputs that other programs fail on, each with what is right: one file of ``tests/cases`` a case.

A case is YAML with ``files`` (name: text), ``make`` (Python that makes other files, may be left out), and ``runs``, one
after the other in one folder. Of a run: ``command`` as users type it after ``rowmill``, ``exit`` (0 unless given),
``says`` and ``hides`` (texts that the output holds and does not hold) and ``rows`` (columns of ``outputs/NAME`` for the
``run_name=NAME`` of the command, with all their values) and ``holds`` (files written, each with texts that are in it).
"""

import shlex
from pathlib import Path

import pytest
import yaml

from runner import open_run
from runner.cli import main

CASES = sorted(Path(__file__).with_name("cases").glob("*.yaml"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_case(file, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    case = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, text in case.get("files", {}).items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    exec(case.get("make", ""), {})
    for run in case["runs"]:
        _check(run, capfd)


def _check(run, capfd):
    words = shlex.split(run["command"])
    code = main(words)
    said = "".join(capfd.readouterr())
    assert code == run.get("exit", 0), said
    for text in run.get("says", ()):
        assert text in said
    for text in ("Traceback", *run.get("hides", ())):
        assert text not in said
    for file, texts in run.get("holds", {}).items():
        for text in texts:
            assert text in Path(file).read_text(encoding="utf-8")
    if expected := run.get("rows"):
        name = next(word.partition("=")[2] for word in words if word.startswith("run_name="))
        rows = open_run(Path("outputs", name)).dataset
        assert {column: rows[column][:] for column in expected} == expected
