"""A run pauses and goes on as its schedule says, keeps the machine awake and tells its user, on a machine made up."""

import contextlib
import datetime
import http.server
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner import run
from runner.checkpoint.shards import unsealed
from runner.config.load import load_config
from runner.engine.fake import FakeEngine
from runner.night import awake, night
from runner.night.awake import Awake
from runner.night.notify import NotifyConf, notify
from runner.night.power import ThisMachine
from runner.night.schedule import Gate, Schedule, ScheduleConf
from runner.results.status import read_status
from runner.session import session
from runner.signals import Stop
from runner.types import UserError
from tests.support import fleets, runs

ROWS = 12


class FakeMachine:
    """Time passes only by sleeping, and by ``step_s`` with every look at the clock."""

    def __init__(self, clock="21:00", battery=lambda s: False, load=lambda s: 0.0, step_s=0.0):
        self.start = datetime.datetime.fromisoformat(f"2026-01-31T{clock}")
        self.seconds, self.step_s = 0.0, step_s
        self.battery, self.others = battery, load
        self.slept = 0.0

    def now(self):
        return self.start + datetime.timedelta(seconds=self.seconds)

    def monotonic(self):
        self.seconds += self.step_s
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds
        self.slept += seconds

    def on_battery(self):
        return self.battery(self.seconds)

    def load(self):
        return self.others(self.seconds)


def gate(machine, stop=None, **keys):
    stop = stop or Stop()
    told = []
    made = Gate(Schedule(ScheduleConf(**keys)), machine, 0.0, stop.is_asked, stop.ask, lambda *what: told.append(what))
    return made, told


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder, cache):
    runs.write_rows(ROWS, "text {:02d}")


def overrides(*more):
    return runs.overrides("engine.batch_size=2", *more)


@pytest.fixture
def on(monkeypatch):
    """Let runs believe that they are on this machine."""

    def believe(machine):
        monkeypatch.setattr(night, "ThisMachine", lambda: machine)
        return machine

    return believe


# The gate


@pytest.mark.parametrize(
    ("window", "clock", "waits_h"),
    [
        ("22:00-07:00", "21:00", 1),
        ("22:00-07:00", "23:59", 0),
        ("22:00-07:00", "06:59", 0),
        ("22:00-07:00", "07:00", 15),
        ("09:00-17:00", "21:00", 12),
        ("09:00-17:00", "12:00", 0),
    ],
)
def test_a_window_is_waited_for(window, clock, waits_h):
    machine = FakeMachine(clock)
    made, told = gate(machine, window=window)
    assert made.wait()
    assert machine.slept / 3600 == pytest.approx(waits_h, abs=0.01)
    assert [paused for paused, _ in told] == ([True, False] if waits_h else [])


def test_a_clock_that_is_set_back_only_moves_the_window():
    machine = FakeMachine("23:00")
    made, _ = gate(machine, window="22:00-07:00")
    assert made.wait()
    machine.start -= datetime.timedelta(hours=2)
    machine.seconds += 10
    assert made.wait()
    assert machine.slept == pytest.approx(3600, abs=15)


def test_battery_and_load_pause_and_are_looked_at_every_few_seconds_only():
    looks = []
    machine = FakeMachine(battery=lambda s: looks.append(s) or 100 < s < 200, load=lambda s: 3.0 if s < 50 else 0.5)
    made, told = gate(machine, on_battery="pause", max_load=2.0)
    for _ in range(300):
        made.wait()
        machine.seconds += 1
    assert [why for paused, why in told if paused] == [
        ("load", "other programs keep 3.0 CPU cores busy"),
        ("battery", "on battery power"),
    ]
    assert made.paused_s == pytest.approx(50 + 100, abs=12)
    assert len(looks) < 100


def test_a_long_pause_gives_the_models_memory_back_once_and_beats_all_the_time():
    machine = FakeMachine("21:00")
    made, _ = gate(machine, window="22:00-07:00", release_after="10m")
    beats, released = [], []
    made.wait(lambda: beats.append(machine.seconds), lambda: released.append(machine.seconds))
    assert released == [pytest.approx(600, abs=2)]
    assert len(beats) > 3000


def test_stop_after_counts_from_the_first_process_and_ends_pauses_too():
    stop = Stop()
    machine = FakeMachine("21:00")
    made, _ = gate(machine, stop, window="22:00-07:00", stop_after="30m")
    assert not made.wait()
    assert stop.asked and made.is_over
    assert machine.slept == pytest.approx(1800, abs=6)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("window", "22-7", "22:00-07:00"),
        ("window", "25:00-07:00", "22:00-07:00"),
        ("window", "07:00-07:00", "different"),
        ("stop_after", "8 hours", "8h"),
        ("release_after", "", "10m|8h"),
        ("on_battery", "stop", "run, pause"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_before_anything_starts(key, value, hint):
    with pytest.raises(UserError, match=f"schedule.{key}=.*({hint})"):
        load_config(overrides(f"schedule.{key}='{value}'"))


def test_a_webhook_that_is_no_address_is_refused():
    with pytest.raises(UserError, match=r"^notify\.webhook: it must be an address"):
        load_config(overrides("notify.webhook=example"))


# Whole runs


def test_a_run_waits_for_its_window_before_the_model_is_loaded(on, monkeypatch):
    machine = on(FakeMachine("21:30"))
    opened = []
    original = session.open_engine
    monkeypatch.setattr(session, "open_engine", lambda *given: opened.append(machine.slept) or original(*given))
    assert run(overrides("schedule.window=22:00-07:00"))["finished"] == ROWS
    assert opened == [pytest.approx(1800, abs=6)]


def test_a_run_pauses_in_the_middle_frees_the_model_and_goes_on(on, monkeypatch, caplog):
    machine = on(FakeMachine("06:59:50", step_s=1.0))
    opened, shown = [], {}

    def sleep(seconds, original=machine.sleep):
        original(seconds)
        if machine.slept in (0.5, 8000):
            shown[machine.slept] = read_status(Path("outputs/run"))["finished"]

    monkeypatch.setattr(machine, "sleep", sleep)
    monkeypatch.setattr(session, "HOLD_S", 100)
    monkeypatch.setattr(unsealed, "time", SimpleNamespace(monotonic=lambda: machine.seconds))
    original = session.open_engine
    monkeypatch.setattr(session, "open_engine", lambda *given: opened.append(original(*given)) or opened[-1])
    with caplog.at_level("INFO", "rowmill"):
        figures = run(overrides("schedule.window=22:00-07:00", "notify.command='echo $ROWMILL_EVENT >> told'"))
    assert figures["finished"] == ROWS
    assert machine.slept > 9000
    assert len(opened) == 2
    assert "paused: outside schedule.window=22:00-07:00" in caplog.text
    assert Path("told").read_text().split() == ["paused", "resumed", "finished"]
    assert figures["active_s"] < 60  # a pause is no work
    assert 0 < shown[0.5] < shown[8000] < ROWS  # those that are finished come to be seen, too


def test_a_window_that_closes_lets_all_seats_end_their_step_and_give_their_memory_back(on, monkeypatch):
    runs.write_rows(200, "text {:02d}")
    run(overrides("run_name=alone"))
    machine = on(FakeMachine("06:59:50", step_s=1.0))
    transport = fleets.install(monkeypatch, {"a": [{"delay_s": 0.02}], "b": [{"delay_s": 0.02}]})
    words = overrides("run_name=fleet", "fleet=local", "schedule.window=22:00-07:00")
    assert run(words)["finished"] == 200
    assert machine.slept > 9000
    for (link,) in transport.links.values():
        assert [method for method, _ in link.calls].count("release") == 1
    assert runs.shards("fleet") == runs.shards("alone")
    assert fleets.select("SELECT * FROM deaths") == []


def test_a_fleet_whose_time_is_over_ends_resumably(on, monkeypatch):
    from runner import cli

    runs.write_rows(200, "text {:02d}")
    run(overrides("run_name=alone"))
    on(FakeMachine(step_s=2.0))
    fleets.install(monkeypatch, {"a": [{"delay_s": 0.02}], "b": [{"delay_s": 0.02}]})
    words = overrides("run_name=fleet", "fleet=local")
    assert cli.main(["run", *words, "schedule.stop_after=8s"]) == 130
    (kept,) = fleets.select("SELECT count(*) FROM completions")[0]
    assert kept < 200
    fleets.install(monkeypatch, {"a": [{}]})
    assert run(words)["finished"] == 200
    assert runs.shards("fleet") == runs.shards("alone")


def test_stop_after_ends_a_run_as_ctrl_c_does(on, capsys):
    from runner import cli

    on(FakeMachine(step_s=2.0))
    assert (
        cli.main(["run", *overrides("schedule.stop_after=10s", "notify.command='echo $ROWMILL_EVENT >> told'")]) == 130
    )
    assert "rowmill run engine.backend=fake" in capsys.readouterr().err
    assert Path("told").read_text().split() == ["stopped"]
    assert run(overrides())["finished"] == ROWS  # the schedule does not belong to what the run is


def test_failures_are_told_too(on, monkeypatch):
    on(FakeMachine())

    def fail(self):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(FakeEngine, "step", fail)
    with pytest.raises(RuntimeError):
        run(overrides("notify.command='echo $ROWMILL_MESSAGE >> told'"))
    assert "run failed: the device is gone" in Path("told").read_text()


def test_the_supervisor_tells_when_it_gives_up():
    words = overrides("engine.max_restarts=0", "notify.command='echo $ROWMILL_EVENT >> told'")
    assert runs.rowmill("run", *words, fault="abort:text").returncode == 3
    assert Path("told").read_text() == "failed\n"


# Notices and sleep


def test_a_webhook_gets_json():
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        notify(NotifyConf(webhook=f"http://127.0.0.1:{server.server_port}/x"), "paused", "why", "outputs/run")
    assert got == [{"event": "paused", "message": "why", "run": "outputs/run"}]


def test_who_cannot_be_told_is_logged_and_no_more(caplog):
    with caplog.at_level("WARNING", "rowmill"):
        notify(NotifyConf("exit 7", "http://127.0.0.1:1/x"), "finished", "", "")
    assert "notify.command" in caplog.text
    assert "notify.webhook" in caplog.text


def test_a_webhook_that_answers_anything_is_logged_and_no_more(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(9999)
                connection.sendall(b"no HTTP\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for webhook, problem in ((address, "no HTTP"), ("http://a b/", "control characters"), ("http://a:b/", "port")):
            with caplog.at_level("WARNING", "rowmill"):
                notify(NotifyConf(webhook=webhook), "finished", "", "")
            assert problem in caplog.text


@pytest.mark.parametrize(
    ("platform", "found", "begins"),
    [
        ("darwin", None, ["caffeinate", "-i", "-w", "7"]),
        ("linux", None, None),
        ("linux", "/bin/x", ["systemd-inhibit", "--what=idle:sleep"]),
    ],
)
def test_sleep_is_held_off_by_the_systems_own_program(monkeypatch, platform, found, begins):
    monkeypatch.setattr(awake.sys, "platform", platform)
    monkeypatch.setattr(awake.shutil, "which", lambda name: found)
    # Which program it is shows only where it is installed.
    command = awake._command(7)
    assert (command and command[: len(begins)]) == begins


def test_the_program_runs_while_it_is_held_and_not_longer(monkeypatch):
    # A program that every machine has, and the process that it is.
    monkeypatch.setattr(awake, "_command", lambda pid: ["sleep", "60"])
    with Awake() as held:
        held.hold()
        pid = held._holder.pid
        os.kill(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        pytest.fail("it still runs")
    with Awake(wanted=False) as held:
        assert held._holder is None


def test_this_machine_answers():
    machine = ThisMachine()
    assert machine.on_battery() in (True, False)
    assert 0 <= machine.load() < 10_000
    assert abs(machine.now() - datetime.datetime.now()) < datetime.timedelta(minutes=1)
