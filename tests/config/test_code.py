"""Promises of runner/custom/code.py: a job's code is part of what a run is, and what runs is what lies on the disk."""

import sys
from pathlib import Path

import pytest

from runner import run
from runner.types import UserError
from tests.support.jobs import own_job

ROWS = "text\na\nb\nc\n"
JOB = "import wording\n" + own_job('{"text": wording.END + answer.text}')


@pytest.fixture(autouse=True)
def _folder(folder):
    Path("rows.csv").write_text(ROWS)
    write("own", JOB)


def write(folder, job, end="!"):
    Path(folder, "job").mkdir(parents=True, exist_ok=True)
    Path(folder, "job", "shout.yaml").write_text("_target_: shout.Own\n")
    Path(folder, "shout.py").write_text(job)
    Path(folder, "wording.py").write_text(f"END = {end!r}\n")


def shout(name, folder="own", *more):
    words = ["job=shout", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}", "engine.backend=fake"]
    return run([*words, f"run_name={name}", *more], folder)


def texts(path):
    import pyarrow as pa

    return pa.ipc.open_stream(Path(path, "data-00000.arrow").read_bytes()).read_all()["text"].to_pylist()


def test_a_run_whose_job_has_other_code_is_refused_and_the_file_named():
    shout("one")
    shout("one")
    write("own", JOB.replace("END +", "END + '?' +"))
    with pytest.raises(UserError, match=r'code\.shout\.py: "\w+" -> "\w+"') as refusal:
        shout("one")
    assert "wording" not in str(refusal.value)
    write("own", JOB, end="!!")
    with pytest.raises(UserError, match=r"code\.wording\.py: "):
        shout("one")


def test_a_job_edited_between_two_runs_of_one_process_runs_as_edited():
    shout("one")
    write("own", JOB, end="??")
    shout("two")
    assert [text[:2] for text in texts("outputs/two")] == ["??"] * 3


def test_each_folder_has_its_own_modules():
    write("other", JOB, end="#")
    shout("one")
    shout("two", "other")
    assert {text[0] for text in texts("outputs/one")} == {"!"}
    assert {text[0] for text in texts("outputs/two")} == {"#"}


def test_rowmills_own_jobs_are_known_by_what_they_ask():
    words = ["job=label", "job.labels=[a,b]", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}"]
    figures = run([*words, "engine.backend=fake"])
    from runner.config.load import load_config
    from runner.session.identity import identity
    from runner.session.prepare import prepare

    assert identity(prepare(load_config([*words, "engine.backend=fake"])))["code"] == {}
    assert figures["state"] == "finished"


def test_a_packages_modules_and_relative_imports_are_found():
    from runner.custom.code import job_code

    for name, text in {"__init__": "", "job": "from .deep import part\nfrom . import near\n", "near": ""}.items():
        Path("pack").mkdir(exist_ok=True)
        Path("pack", f"{name}.py").write_text(text)
    Path("pack/deep").mkdir()
    Path("pack/deep/__init__.py").write_text("def late():\n    import loose\n")
    Path("pack/deep/part.py").touch()
    Path("loose.py").write_text("import os, numpy, runner.types")
    sys.path.insert(0, ".")
    try:
        import pack.job
    finally:
        sys.path.remove(".")
    pack.job.Job = type("Job", (), {"__module__": "pack.job"})
    files = [
        "loose.py",
        "pack/__init__.py",
        "pack/deep/__init__.py",
        "pack/deep/part.py",
        "pack/job.py",
        "pack/near.py",
    ]
    assert sorted(job_code({"_target_": "pack.job.Job"}, ["."])) == files


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ('["text"]', r"shout\.py\): schema\(\) returns \['text'\], not a pyarrow\.Schema"),
        ("1 / 0", r"shout\.py\): schema\(\) or variables\(\) fails: ZeroDivisionError"),
        ("sys.exit(3)", r"shout\.py\): schema\(\) or variables\(\) fails: SystemExit"),
        ('pa.schema([("text", pa.map_(pa.string(), pa.string()))])', r"shout\.py\): column 'text' has type map"),
    ],
)
def test_a_broken_schema_is_refused_and_its_file_named(schema, problem):
    write("own", "import sys\n" + JOB.replace('pa.schema([("text", pa.string())])', schema))
    with pytest.raises(UserError, match=problem) as refusal:
        shout("one")
    assert refusal.value.exit_code == 2


def test_a_job_that_exits_fails_its_row():
    write("own", "import sys\n" + JOB.replace("answer = yield", "sys.exit('done')\n        answer = yield"))
    assert shout("one")["error_kinds"] == {"SystemExit": 3}


def test_a_jobs_mistake_is_shown_with_the_place_in_its_file(capsys):
    from runner.cli import main

    write("own", JOB.replace("answer.text", "answer.txet"))
    words = ["job=shout", "dataset=csv", "dataset.path=rows.csv", "prompt.user={{ text }}", "engine.backend=fake"]
    assert main(["run", "--config-dir", "own", *words]) == 1
    shown = capsys.readouterr().err
    assert 'own/shout.py", line 14, in steps' in shown
    assert "AttributeError: 'Completion' object has no attribute 'txet'" in shown
    assert "run.log" in shown
    assert "runner/loop/task.py" not in shown
