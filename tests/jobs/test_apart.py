import os

import pytest

from jobs.benchmark.apart import apart
from runner.types import UserError

CHILD = """
from jobs.benchmark.apart import tell
from runner.types import UserError

def measure(task):
    if task["way"] == "refuse":
        raise UserError("no room", exit_code=3)
    return {"seconds": 1 / task["speed"]}

print("what a library prints")
tell(measure)
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / "measuring.py").write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    return lambda **task: apart("measuring", "the engine", task, environment)


def test_a_child_measures(child):
    assert child(way="measure", speed=4) == {"seconds": 0.25}


def test_what_a_child_refuses_costs_one_line(child, capfd):
    with pytest.raises(UserError, match=r"^the engine: no room$") as raised:
        child(way="refuse")
    assert raised.value.exit_code == 3
    assert capfd.readouterr().err == ""


def test_a_child_that_breaks_says_so(child):
    with pytest.raises(UserError, match="the engine ended with exit code 1") as raised:
        child(way="measure", speed=0)
    assert raised.value.exit_code == 3
