"""``rowmill new``: a new job as files that work at once: the class, its configuration, its prompt, its test."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path

from runner.config.starters import write_new
from runner.types import UserError

_JOB = '''"""The job `NAME`: the questions about each row, and the columns made from the answers."""

from dataclasses import dataclass

import pyarrow as pa

from rowmill import Request, RowError


@dataclass
class CLASS:
    """The fields are the keys of the configuration: `job.words=20` on the command line."""

    words: int = 20

    def schema(self):
        """The columns that every row gets, all of them nullable."""
        return pa.schema([("topic", pa.string()), ("summary", pa.string())])

    def variables(self):
        """What the prompt may use besides the columns of the data."""
        return {"question": ""}

    def steps(self, row):
        """Yield requests, receive the model's answers, return the columns. No clock, no unseeded randomness."""
        topic = yield Request({"question": "What is this about? Answer with one word."})
        if not topic.text.strip():
            raise RowError("no topic", "the answer is empty")
        question = f"Summarise what it says about {topic.text.strip()} in at most {self.words} words."
        summary = yield Request({"question": question}, max_tokens=4 * self.words)
        return {"topic": topic.text.strip(), "summary": summary.text.strip()}
'''
_CONFIG = """_target_: NAME.CLASS
words: 20 # at most, in a summary
"""
_PROMPT = """system: You answer briefly.
user: |-
  {{ text }}

  {{ question }}
"""
_TEST = '''"""The job `NAME`, without a model: once by hand, once as a run with made-up answers."""

import sys
from pathlib import Path

import pytest

from rowmill import Completion, RowError, open_run, run

HERE = Path(__file__).parent
sys.path.append(str(HERE))

from NAME import CLASS  # noqa: E402


def test_the_second_question_depends_on_the_first_answer():
    steps = CLASS(words=5).steps({"text": "a day at the sea"})
    assert "one word" in next(steps).variables["question"]
    second = steps.send(Completion(" holidays "))
    assert "about holidays in at most 5 words" in second.variables["question"]
    with pytest.raises(StopIteration) as end:
        steps.send(Completion("It was sunny."))
    assert end.value.value == {"topic": "holidays", "summary": "It was sunny."}


def test_a_row_without_a_topic_is_in_error():
    steps = CLASS().steps({"text": ""})
    next(steps)
    with pytest.raises(RowError, match="no topic"):
        steps.send(Completion(""))


def test_a_run(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a day at the sea"}\\n{"text": "rain again"}\\n')
    words = ["job=NAME", "dataset=jsonl", f"dataset.path={tmp_path}/rows.jsonl", f"output.dir={tmp_path}"]
    figures = run([*words, "engine.backend=fake"], config_dir=str(HERE))
    assert (figures["finished"], figures["errors"]) == (2, 0)
    rows = list(open_run(figures["path"]).rows())
    assert all(row["topic"] and row["summary"] for row in rows)
'''


def write_starter_job(name: str, folder: Path) -> list[Path]:
    """Write the job's files into ``folder``, a --config-dir; the files. UserError if one of them is there already."""
    _check_name(name, folder)
    class_name = "".join(part.capitalize() for part in name.split("_"))
    files = {
        folder / f"{name}.py": _JOB,
        folder / "job" / f"{name}.yaml": _CONFIG,
        folder / "prompt" / f"{name}.yaml": _PROMPT,
        folder / f"test_{name}.py": _TEST,
    }
    contents = {path: text.replace("NAME", name).replace("CLASS", class_name) for path, text in files.items()}
    write_new(folder, contents, "name")
    return list(files)


def _check_name(name: str, folder: Path) -> None:
    if not name.isidentifier() or not name.isascii() or name != name.lower() or keyword.iskeyword(name):
        raise UserError(f"{name!r} cannot name a Python module: use lower-case letters, digits and _, such as my_job")
    if not name.strip("_") or (importlib.util.find_spec(name) and not (folder / f"{name}.py").exists()):
        raise UserError(f"{name!r} is the name of an installed module: choose another one, such as my_{name}")
