"""Seats as real processes of this machine: killed, stopped, deadly rows, the driver's own death, real models."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runner
from runner.cli import main
from runner.engine.conf import EngineConf
from runner.fleet import fleet, handshake, local, membership, seat
from runner.fleet.local import LocalLink, LocalTransport
from runner.fleet.protocol import GoneError, Sender, Spec, packed
from runner.models.recipes import ModelConf
from runner.night import power
from runner.results.status import read_status
from runner.sequences import Sequence
from tests.support import runs
from tests.support.fleets import ROWS, seats, select, wait_for_seats, words

pytestmark = pytest.mark.usefixtures("slow_rows")


@pytest.fixture
def expected(monkeypatch):
    """The shards of a run by one process."""
    runner.run(runs.overrides("output.shard_rows=64", "run_name=alone"))
    return runs.shards("alone")


def at_answers(monkeypatch, moments):
    """Call each of these functions with the Fleet once so many answers were handed on."""
    left, handed = sorted(moments.items()), []

    def step(self, original=fleet.Fleet.step):
        while left and len(handed) >= left[0][0]:
            left.pop(0)[1](self)
        ended = original(self)
        handed.extend(ended)
        return ended

    monkeypatch.setattr(fleet.Fleet, "step", step)


def send(number):
    def to_first(self):
        link = next(member.link for member in self.membership.at_work() if isinstance(member.link, LocalLink))
        os.kill(link.process.pid, number)

    return to_first


def test_sigkill_of_seats_at_many_moments_loses_nothing_and_repeats_nothing(expected, monkeypatch, slow):
    chance = random.Random(0)
    for attempt in range(12 if slow else 2):
        with monkeypatch.context() as patch:
            at_answers(patch, {chance.randrange(ROWS - 40): send(signal.SIGKILL) for _ in range(2)})
            name = f"killed-{attempt}"
            runner.run(words(f"run_name={name}"))
        assert runs.shards(name) == expected
        assert sum(one["deaths"] for one in seats(name)) >= 1
        assert select("SELECT count(*) FROM completions", name) == [(ROWS,)]
        assert all("SIGKILL" in why for (why,) in select("SELECT why FROM deaths", name))


def test_a_stopped_seat_costs_its_rows_in_flight_only(expected, monkeypatch):
    at_answers(monkeypatch, {40: send(signal.SIGSTOP)})
    runner.run(words("run_name=fleet", "fleet.grace_s=1"))
    assert runs.shards("fleet") == expected
    assert select("SELECT * FROM deaths") == []


def test_a_deadly_row_is_an_error_row_at_its_third_death_and_all_others_are_finished(monkeypatch):
    monkeypatch.setenv("ROWMILL_FAKE_FAULT", "abort:number 77")
    figures = runner.run(words("run_name=fleet"))
    errors = {row["id"]: row["error"] for row in runs.rows_of("fleet") if row["error"]}
    assert list(errors) == [77]
    assert errors[77].startswith("quarantined: the process died 3 times while this row was computed")
    assert "SIGABRT" in errors[77] and figures["finished"] == ROWS
    counts = [json.loads(rows) for (rows,) in select("SELECT rows FROM deaths")]
    assert len(counts) == 3 and all(77 in rows for rows in counts) and counts[-1] == [77]


def test_a_seat_of_another_version_is_left_out_before_it_reads_what_it_may_not_understand(monkeypatch, capfd):
    versions = {"rowmill": "9.0", "wire": 99}
    monkeypatch.setattr(local, "opening", lambda spec: packed((versions, b"which only 9.0 can read")))
    assert main(["run", *words("run_name=fleet", "fleet.seats=1")]) == 3
    said = capfd.readouterr().err
    assert len(re.findall(r"1 is left out: its rowmill differs from the driver's: [0-9.]+ is not 9.0\n", said)) == 1


def test_a_seat_that_can_never_work_is_left_out_and_none_left_is_exit_code_3(monkeypatch, capfd):
    monkeypatch.setenv("ROWMILL_FAKE_FAULT", "raise:text")
    code = main(["run", *words("run_name=fleet", "engine.max_restarts=1")])
    said = capfd.readouterr().err
    assert code == 3
    assert "no seat is left: " in said and "a fault was asked for" in said and "Traceback" not in said


def test_no_seat_outlives_a_killed_driver_and_the_same_line_resumes(expected, tmp_path):
    command = [*runs.command("run", *words("run_name=fleet")), "--no-supervise"]
    process = subprocess.Popen(command, **runs.settings(delay=0.05))
    while runs.finished("fleet") < 40:
        time.sleep(0.05)
    pids = [one["pid"] for one in seats()]
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    if sys.platform == "linux":
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    before = dict(select("SELECT row, body FROM completions"))
    runner.run(words("run_name=fleet"))
    assert runs.shards("fleet") == expected
    assert before.items() <= dict(select("SELECT row, body FROM completions")).items()
    assert select("SELECT * FROM deaths") == []


def test_a_driver_that_is_killed_is_started_again_and_makes_no_batches_smaller(expected):
    command = runs.command("run", *words("run_name=fleet"))
    process = subprocess.Popen(command, **runs.settings(delay=0.05))
    while runs.finished("fleet") < 40:
        time.sleep(0.05)
    os.kill(read_status("outputs/fleet")["pid"], signal.SIGKILL)
    code, _, said = runs.outcome(process)
    assert code == 0 and runs.shards("fleet") == expected
    assert "the run's process died of SIGKILL" in said and "of their size" not in said
    assert select("SELECT sum(memory) FROM deaths") == [(0,)]


def test_the_driver_never_imports_mlx(tiny_model_folder, tmp_path):
    given = ["job=generate", "dataset=csv", "dataset.path=rows.csv", "dataset.limit=8", "prompt.user='{{ text }}'"]
    given += ["prompt.chat=false", f"model.path={tiny_model_folder}", "engine.backend=cpu", "engine.max_tokens=3"]
    given += ["output.report=false"]
    code = """
        import sys, runner
        figures = runner.run([*sys.argv[1:], "fleet=local", "fleet.seats=1", "run_name=fleet"])
        print(figures["finished"], [name for name in sys.modules if name.split(".")[0] in ("mlx", "mlx_lm")])
    """
    done = runs.python(__import__("textwrap").dedent(code), *given)
    assert done.stdout.split("\n")[0] == "8 []", done.stderr
    assert "PyTorch" not in done.stderr


def on_two_seats_and_alone(given):
    """Pairs of the rows of two labelling runs that must have the same labels and confidences."""
    runner.run([*given, "run_name=alone"])
    runner.run([*given, "run_name=fleet", "fleet=local", "fleet.seats=2"])
    assert min(one["answers"] for one in seats()) > 0
    pairs = list(zip(runs.rows_of("fleet"), runs.rows_of("alone"), strict=True))
    for mine, other in pairs:
        assert (mine["id"], mine["label"], mine["error"]) == (other["id"], other["label"], None)
        assert mine["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
    return pairs


def test_labels_and_confidences_of_a_real_model_are_those_of_one_process(tiny_model_folder, monkeypatch):
    wait_for_seats(monkeypatch, 2)
    given = ["job=label", "job.labels=[a,ab,q,x]", "dataset=csv", "dataset.path=rows.csv", "prompt.chat=false"]
    given += ["prompt.user='Which letter? {{ text }}'", f"model.path={tiny_model_folder}", "engine.backend=cpu"]
    given += ["engine.batch_size=4", "dataset.limit=60", "output.report=false"]
    for mine, other in on_two_seats_and_alone(given):
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.slow
def test_many_rows_over_three_seats_have_the_shards_of_one_process(slow, monkeypatch):
    monkeypatch.setenv("ROWMILL_FAKE_DELAY", "0")
    runs.write_rows(200_000 if slow else 4000)
    given = ["output.shard_rows=1000", "engine.batch_size=256"]
    runner.run(runs.overrides(*given, "run_name=alone"))
    at_answers(monkeypatch, {1000: send(signal.SIGKILL)})
    runner.run(words(*given, "run_name=fleet", "fleet.seats=3"))
    assert runs.shards("fleet") == runs.shards("alone")


def test_a_seat_forgets_what_it_has_not_begun_when_it_is_asked_to(monkeypatch):
    monkeypatch.setenv("ROWMILL_FAKE_DELAY", "0.2")
    one = seat.Seat(Spec(ModelConf(), EngineConf(backend="fake", batch_size=2), keep_awake=False))
    one.handshake(10)
    asks = Sender().asks_of([Sequence((row, 0), [row + 1], 3) for row in range(8)])
    before = one.turn(1, asks, 10, 0, 1)
    turn = one.turn(2, [], 10, 10, 8, 3)
    assert turn.back == [(7, 0), (6, 0), (5, 0)]
    ended = [*before.ended, *turn.ended, *one.turn(3, [], 10, 10, 8).ended]
    assert [answer.key[0] for answer in ended] == [0, 1, 2, 3, 4]
    assert one.turn(4, [], 10, 10, 8).ended == []  # at once: it has nothing
    one.release()


def test_a_fleet_that_has_had_no_seat_yet_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(membership.UserError, match=r"pip install -e '.\[ray\]'"):
        runner.run(words("run_name=fleet", "fleet=ray"))


def test_a_seat_that_stops_before_it_reads_a_call_larger_than_its_pipe_stops_nobody():
    transport = LocalTransport(1)
    (place,) = transport.places()
    link = transport.open(place, Spec(ModelConf(), EngineConf(backend="fake"), keep_awake=False))
    link.call("handshake", 60.0)
    assert transport.wait([link], 60) == [link] and link.take().pid == link.process.pid
    os.kill(link.process.pid, signal.SIGSTOP)
    link.call("turn", 1, Sender().asks_of([Sequence((0, 0), [7] * 4_000_000, 1)]), 1.0, 0.0, 1)
    assert transport.wait([link], 0.1) == []
    link.kill()
    assert transport.wait([link], 60) == [link]
    with pytest.raises(GoneError, match="SIGKILL"):
        link.take()


@pytest.mark.parametrize(
    ("seats", "gpus", "backend", "sharing"),
    [
        (2, [], "auto", [2, 2]),
        (2, ["0", "1"], "auto", [1, 1]),
        (3, ["0", "1"], "auto", [2, 1, 2]),
        (2, ["0", "1"], "cpu", [2, 2]),
        (1, ["0", "1"], "auto", [1]),
    ],
)
def test_seats_have_a_gpu_each_and_share_its_memory_where_there_are_more_of_them(
    seats, gpus, backend, sharing, monkeypatch
):
    opened = []

    class Nothing:
        process = None

        def __init__(self, first, environment):
            opened.append((handshake.opened(first).sharing, environment.get("GPU")))

        def answer(self, call):
            raise GoneError("of nothing")

        def kill(self): ...

        close = kill

    monkeypatch.setattr(local, "SeatProcess", Nothing)
    transport = LocalTransport(seats, [{"GPU": name} for name in gpus])
    for place in transport.places():
        transport.open(place, Spec(ModelConf(), EngineConf(backend=backend))).kill()
    expected = [gpus[at % len(gpus)] if gpus else None for at in range(seats)]
    assert opened == list(zip(sharing, expected, strict=True))


@pytest.mark.parametrize(("pid", "own"), [(7, True), (8, False)])
def test_a_schedule_takes_no_seat_for_another_program(pid, own, monkeypatch):
    """Nor one that Ray started on this machine, which is no child of the driver."""
    parent = os.getpid() if own else 1
    monkeypatch.setattr(power.os, "getloadavg", lambda: (4.0, 4.0, 4.0))
    clock, taken = iter([0.0, 0.0, 3600.0]), iter(["0:00.00", "4:00:00"])
    monkeypatch.setattr(power.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(power, "output", lambda *words: f"{pid} {parent} {next(taken)}\n 9 1 99:00:00\n")
    machine = power.ThisMachine()
    machine.helpers = lambda: [8]
    assert machine.load() == 4.0
    assert machine.load() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("clock", "seconds"), [("00:00:07", 7), ("1-02:03:04", 93784), ("123:04.56", 7384.56)])
def test_times_of_processes_are_read_as_linux_and_macos_write_them(clock, seconds):
    # Takes a private name: what ps says cannot be chosen from outside.
    assert power._seconds(clock) == pytest.approx(seconds)


def test_a_notice_at_the_end_says_how_many_seats_computed_the_run_and_how_often_they_died(monkeypatch, tmp_path):
    at_answers(monkeypatch, {40: send(signal.SIGKILL)})
    notice = f"notify.command='echo $ROWMILL_MESSAGE > {tmp_path}/notice'"
    runner.run(words("run_name=fleet", notice))
    said = (tmp_path / "notice").read_text()
    assert said == "fleet finished: all 300 rows are finished, by 2 seats, with 1 death among them\n"


@pytest.mark.slow
def test_labels_and_confidences_of_smollm2_are_those_of_one_process(monkeypatch, slow):
    if not slow:
        pytest.skip("loads SmolLM2 three times")
    wait_for_seats(monkeypatch, 2)
    given = ["job=label", "job.labels=[ham,spam]", "dataset=csv", "dataset.path=rows.csv", "dataset.limit=24"]
    given += ["prompt.user='Ham or spam? {{ text }}'", "engine.backend=cpu", "engine.batch_size=4"]
    on_two_seats_and_alone(given)
