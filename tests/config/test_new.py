"""`rowmill new job NAME`: its files work as they are."""

import sys
from pathlib import Path

import pytest

from runner.cli import main
from tests.support import runs


def test_the_starter_passes_its_own_test_and_runs(folder, capsys):
    assert main(["new", "job", "mail_triage"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "my_conf/mail_triage.py",
        "my_conf/job/mail_triage.yaml",
        "my_conf/prompt/mail_triage.yaml",
        "my_conf/test_mail_triage.py",
    ]
    assert "class MailTriage:" in Path("my_conf/mail_triage.py").read_text()
    Path("FILE.csv").write_text("text\nhello\n")
    typed = said[4].removeprefix("try it:   rowmill ").split()
    assert main([*typed, "engine.backend=fake", "job.words=3"]) == 0
    done = runs.ended([sys.executable, "-m", "pytest", "-q", "my_conf"], env={"PYTEST_ADDOPTS": ""})
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_nothing_is_overwritten(folder, capsys):
    (folder / "own" / "job").mkdir(parents=True)
    (folder / "own" / "job" / "triage.yaml").write_text("mine")
    assert main(["new", "job", "triage", "--config-dir", "own"]) == 2
    assert "own/job/triage.yaml exists" in capsys.readouterr().err
    assert (folder / "own" / "job" / "triage.yaml").read_text() == "mine"
    assert not (folder / "own" / "triage.py").exists()


@pytest.mark.parametrize("name", ["my-job", "3d", "class", "Job", "a.b", "", "../x", "ümlaut"])
def test_a_name_has_to_be_a_modules(folder, capsys, name):
    assert main(["new", "job", name]) == 2
    assert "cannot name a Python module" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["json", "numpy", "runner", "jobs"])
def test_a_name_that_python_takes_for_something_else(folder, capsys, name):
    assert main(["new", "job", name]) == 2
    assert f"such as my_{name}" in capsys.readouterr().err
