"""A run goes on after its process died, hung or ran out of memory, and the row that is to blame is put aside.

Real processes, real signals; the fake engine dies as models do (ROWMILL_FAKE_FAULT).
"""

import fcntl
import json
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from pathlib import Path

import datasets
import pytest

from runner.checkpoint.deaths import Flight, read_flight
from runner.machine.facts import boot_id
from runner.night import supervisor
from runner.night.guard import GuardedEngine
from runner.night.supervisor import opened_for
from runner.results.status import read_status
from runner.sequences import Gauge, Generation, Sequence
from tests.support import runs
from tests.support.jobs import own_job, write_own_job
from tests.support.runs import finished, outcome, rows_of
from tests.support.world import CountingEngine

ROWS = 24


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder, cache):
    write_rows(ROWS)


def write_rows(count):
    runs.write_rows(count, "text number <{}>")


@pytest.fixture
def start(start):
    return lambda *more, **options: start(runs.command("run", *runs.overrides(*more)), **options)


def run(*more, **options):
    done = runs.rowmill("run", *runs.overrides(*more), **options)
    return done.returncode, done.stdout, done.stderr


def asked(query):
    with sqlite3.connect("file:outputs/run/run.db?mode=ro", uri=True) as database:
        return database.execute(query).fetchall()


def deaths():
    found = asked("SELECT session, why, memory, rows FROM deaths")
    return [(session, why, bool(memory), json.loads(rows)) for session, why, memory, rows in found]


def wait_for(process, rows):
    while process.poll() is None and finished() < rows:
        time.sleep(0.02)
    return read_status(Path("outputs/run"))["pid"]


def is_alive(pid):
    """Whether it runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not Path("/proc/self").exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_row_that_aborts_the_process_is_run_alone_and_quarantined_at_its_third_death():
    code, said, errors = run("--json", fault="abort:<6>")
    assert code == 1, errors
    assert json.loads(said)["finished"] == ROWS
    rows = rows_of()
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert [row["id"] for row in rows if row["error"]] == [6]
    assert rows[6]["error"] == (
        "quarantined: the process died 3 times while this row was computed, the last time of SIGABRT"
    )
    (*first, one), (*second, two), (*third, three) = deaths()
    assert [first, second, third] == [[number, "of SIGABRT", False] for number in (1, 2, 3)]
    assert 6 in one and len(one) == 4 and one == two
    assert three == [6]
    assert [why for (why,) in asked("SELECT why FROM sessions")] == ["died of SIGABRT"] * 3 + ["finished"]
    assert errors.count("starting it again") == 3
    assert "died of SIGABRT, with 4 rows in progress" in Path("outputs/run/run.log").read_text()


def test_lack_of_memory_makes_batches_smaller_and_is_recorded():
    code, _, errors = run(fault="oom:2")
    assert code == 0, errors
    assert "Insufficient Memory" in errors  # what the libraries say still reaches the user
    assert [(why, memory) for _, why, memory, _ in deaths()] == [("of SIGABRT, as when memory runs out", True)]
    assert "batches and KV caches take 70% of their size" in Path("outputs/run/run.log").read_text()
    assert not [row for row in rows_of() if row["error"]]


@pytest.mark.parametrize(
    ("before", "now", "status", "said", "ran_out"),
    [
        (3, 4, -signal.SIGKILL, "", True),
        (3, 4, 128 + signal.SIGKILL, "", True),
        (3, 3, -signal.SIGKILL, "", False),  # by somebody else
        (None, None, -signal.SIGKILL, "", True),  # a kernel that does not count, as that of macOS
        (3, 3, -signal.SIGKILL, "std::bad_alloc", True),
        (3, 4, -signal.SIGABRT, "", False),
    ],
)
def test_sigkill_is_lack_of_memory_only_if_the_kernel_may_have_sent_it(before, now, status, said, ran_out, monkeypatch):
    monkeypatch.setattr(supervisor, "oom_kills", lambda: now)
    assert supervisor.ran_out(status, said, before) is ran_out


@pytest.mark.skipif(sys.platform != "linux", reason="where the kernel counts whom it kills for memory")
@pytest.mark.parametrize("fleet", [[], ["fleet=local", "fleet.seats=1"]])
def test_a_kill_by_hand_makes_no_batches_smaller(fleet, start):
    process = start(*fleet, delay=0.1)
    wait_for(process, 4)
    here = read_status(Path("outputs/run"))
    os.kill(here["seats"][0]["pid"] if fleet else here["pid"], signal.SIGKILL)
    code, _, errors = outcome(process)
    assert code == 0, errors
    assert asked("SELECT sum(memory), count(*) FROM deaths") == [(0, 1)] and "of their size" not in errors


@pytest.mark.parametrize(
    ("how", "said", "why"),
    [
        ("raise", "RuntimeError: a fault was asked for", "died once, of an exception"),
        ("exit", "", "died once, with exit code 1"),  # which says of a run's own end that rows have errors
    ],
)
def test_an_exception_that_nobody_caught_and_a_library_that_exits_are_deaths_too(how, said, why):
    code, _, errors = run("engine.max_restarts=0", fault=f"{how}:text")
    assert code == 3
    assert said in errors
    assert why in errors


def test_a_process_that_stalls_again_and_again_ends_with_3_and_the_line_that_goes_on():
    code, _, errors = run("engine.stall_minutes=0.01", "engine.max_restarts=0", fault="hang:text")
    assert code == 3
    assert "died once, because it stalled: no step in 0.01" in errors
    assert finished() == 0
    resume = errors.strip().splitlines()[-1]
    assert resume.startswith("rowmill run engine.backend=fake")
    assert run()[0] == 0


JUDGED = """
    def figures(self, run, source):
        return evaluate.label_evaluation(run, source)
"""
OWN = own_job('{"label": "even" if int(row["id"]) % 2 == 0 else "unheard of"}', '[("label", pa.string())]', JUDGED)
FAILING = {"raises": "raise KeyError('no such figure')", "kills": "os.abort()", "exits": "os._exit(9)"}
FAILING["is interrupted"] = "raise KeyboardInterrupt"


@pytest.mark.parametrize("how", FAILING)
def test_figures_that_fail_after_the_last_row_change_neither_exit_code_nor_starts_nor_rows(how):
    fail = f"def fail(*all): {FAILING[how]}\nevaluate.evaluate_labels = fail\n"
    spoilt = f"import os\nfrom runner.results import evaluate\n{fail}"
    write_own_job(spoilt + OWN)
    code, said, errors = run("--config-dir", "mine", "dataset.gold=id", "job=own")
    assert code == 0, errors
    assert asked("SELECT session, why FROM sessions") == [(1, "finished")]
    assert [row["label"] for row in rows_of()] == ["even", "unheard of"] * (ROWS // 2)
    assert "starting it again" not in errors
    assert "rowmill run --config-dir mine engine.backend=fake" in errors
    assert (f"{ROWS} of {ROWS}, no errors" in said) is (how in ("raises", "is interrupted"))


def test_a_library_that_crashes_when_an_interpreter_ends_has_no_say_in_how_a_run_ended(tmp_path):
    spoilt = "import atexit, os, pathlib\natexit.register(pathlib.Path('ended').touch)\n"
    spoilt += "class Library:\n    def __del__(self, abort=os.abort):\n        abort()\nlibrary = Library()\n"
    write_own_job(spoilt + own_job())
    code, said, errors = run("--config-dir", "mine", "job=own", env={"XDG_CACHE_HOME": str(tmp_path)})  # and no fork
    assert code == 0 and f"{ROWS} of {ROWS}, no errors" in said and "died" not in errors
    assert Path("ended").exists()


def test_a_model_that_never_loads_ends_with_3():
    # The patience with a model that loads is an hour, and no key: a constant of the supervisor's own.
    code = "import sys; from runner.night import supervisor; supervisor._LOADING_SECONDS = 0.5\n"
    code += "sys.exit(supervisor.supervise(['run'], sys.argv[1:]))"
    words = runs.overrides("engine.stall_minutes=0.001", "engine.max_restarts=0")
    done = runs.python(code, *words, fault="load")
    assert done.returncode == 3, done.stderr
    assert "because it stalled: nothing came into its engine" in done.stderr


def test_a_run_that_cannot_go_on_after_a_death_is_told(start):
    process = start("notify.command='echo $ROWMILL_MESSAGE >> told'", delay=0.2)
    worker = wait_for(process, 4)
    Path("rows.csv").write_text("id,text\n1,other\n")
    os.kill(worker, signal.SIGKILL)
    code, _, said = outcome(process)
    assert code == 2, said
    assert "dataset.fingerprint" in said
    assert Path("told").read_text().startswith("run failed: its process died, and the run could not go on")


def test_a_fresh_run_that_dies_goes_on_in_the_folder_it_made():
    Path("outputs/run").mkdir(parents=True)
    code, _, errors = run("resume=force", fault="oom:2")
    assert code == 0, errors
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["run", "run-2"]
    assert len(datasets.load_from_disk("outputs/run-2")) == ROWS


def test_who_kills_the_supervisor_ends_the_worker_and_blames_no_row(start):
    process = start(delay=0.2)
    worker = wait_for(process, 4)
    assert worker != process.pid
    process.kill()
    process.wait()
    while is_alive(worker):
        time.sleep(0.01)
    code, _, errors = run()
    assert code == 0, errors
    assert deaths() == []
    assert len(asked("SELECT * FROM sessions")) == 2


@pytest.mark.skipif(boot_id() is None, reason="the system does not tell one start of the machine from another")
def test_a_row_that_takes_the_whole_machine_down_is_put_aside_too():
    for times in range(3):
        assert run("--no-supervise", fault="abort:<6>")[0] == -signal.SIGABRT
        assert len(deaths()) == times
        with sqlite3.connect("outputs/run/run.db") as database:  # as if the machine had been started anew
            old = "UPDATE sessions SET provenance = json_set(provenance, '$.machine.boot', 'old') WHERE ended IS NULL"
            assert database.execute(old).rowcount == 1
    assert Path("outputs/run/run.lock").read_text().strip().isdigit()  # of a process that is long gone
    code, _, errors = run("--no-supervise", fault="abort:<6>")
    assert code == 1, errors
    assert [(why, rows == [6]) for _, why, _, rows in deaths()] == [
        ("when the machine went down", False),
        ("when the machine went down", False),
        ("when the machine went down", True),
    ]
    assert [row["id"] for row in rows_of() if row["error"]] == [6]


def test_a_stopped_worker_has_not_stalled(start):
    process = start("engine.stall_minutes=0.02", delay=0.1)
    worker = wait_for(process, 4)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(2)
    os.kill(worker, signal.SIGCONT)
    assert outcome(process)[0] == 0
    assert deaths() == []


def test_ctrl_z_stops_the_worker_too(start):
    process = start("engine.stall_minutes=0.02", delay=0.1)
    worker = wait_for(process, 4)
    process.send_signal(signal.SIGTSTP)
    time.sleep(0.5)
    before = finished()
    time.sleep(2)
    assert finished() == before < ROWS
    process.send_signal(signal.SIGCONT)
    assert outcome(process)[0] == 0
    assert deaths() == []
    assert not is_alive(worker)


@pytest.mark.parametrize("under", ["a shell", "nohup"])
def test_a_closed_terminal_ends_a_run_resumably_and_one_under_nohup_goes_on(start, under):
    terminal, ours = pty.openpty()

    def begin():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if under == "nohup":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(delay=0.3, stdin=ours, stdout=ours, stderr=ours, preexec_fn=begin)
    os.close(ours)
    wait_for(process, 4)
    os.close(terminal)
    assert process.wait(timeout=runs.SECONDS) == (0 if under == "nohup" else 130)
    ((why,),) = asked("SELECT why FROM sessions")
    assert why == ("finished" if under == "nohup" else "interrupted")
    assert ("interrupted by SIGHUP" in Path("outputs/run/run.log").read_text()) is (under != "nohup")
    assert run()[0] == 0
    assert len(rows_of()) == ROWS


def test_without_a_supervisor_a_death_is_a_death():
    code, _, errors = run("--no-supervise", fault="abort:<6>")
    assert code == -signal.SIGABRT
    assert "starting it again" not in errors


def test_a_wrong_configuration_is_told_once():
    code, _, errors = run("engine.top_k=-1")
    assert (code, errors) == (2, "rowmill: engine.top_k=-1: it must be at least 0\n")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_of_the_worker_lose_nothing_and_repeat_nothing(slow, start):
    """200 SIGKILLs over 5,000 rows at full length; every commit stays, every row comes once."""
    rows, kills = (5000, 200) if slow else (120, 3)
    write_rows(rows)
    process = start("engine.max_restarts=1000", "output.shard_rows=50", delay=0.1)
    chance, done, killed = random.Random(0), {}, 0
    while killed < kills and process.poll() is None:
        worker = wait_for(process, len(done) + chance.randint(1, max(1, rows // (2 * kills))))
        time.sleep(chance.uniform(0, 0.05))
        if not worker or not is_alive(worker):
            continue
        os.kill(worker, signal.SIGKILL)
        killed += 1
        while is_alive(worker):
            time.sleep(0.005)
        now = dict(asked("SELECT row, rowid || ' ' || body FROM completions"))
        assert done.items() <= now.items()  # committed completions stay where they are
        done = now
    assert outcome(process)[0] == 0
    assert killed == kills
    assert [row["id"] for row in rows_of()] == list(range(rows))
    assert len(asked("SELECT DISTINCT row FROM completions")) == len(asked("SELECT row FROM completions")) == rows
    for (blamed,) in asked("SELECT rows FROM deaths"):
        assert len(json.loads(blamed)) <= 4


# The engine's wrapper


def sequence(row, text="a"):
    return Sequence((row, 0), list(f"{text} {row}".encode()), 8)


def guarded(tmp_path, engine, **apart):
    return GuardedEngine(lambda: engine, Flight(tmp_path, 7), **apart)


def test_what_is_in_the_engine_stands_on_disk_before_the_step(tmp_path):
    seen = []

    class Looking(CountingEngine):
        def step(self):
            seen.append(read_flight(tmp_path))
            return super().step()

    engine = guarded(tmp_path, Looking(2))
    engine.add([sequence(5), sequence(3)])
    engine.step()
    engine.add([sequence(8)])
    engine.step()
    assert [(flight.session, flight.rows, flight.done, flight.working) for flight in seen] == [
        (7, (3, 5), 0, True),
        (7, (8,), 2, True),
    ]
    engine.close()
    assert not read_flight(tmp_path).working


def test_rows_whose_mere_adding_kills_are_on_disk_before(tmp_path):
    seen = []

    class Looking(CountingEngine):
        def add(self, sequences):
            seen.append((read_flight(tmp_path).rows, sorted(one.key[0] for one in sequences)))
            super().add(sequences)

    engine = guarded(tmp_path, Looking(3))
    engine.add([sequence(5)])
    engine.add([sequence(3)])
    assert engine.room() == 1
    engine.step()
    engine.release()
    engine.add([sequence(8)])
    engine.step()
    assert [added for _, added in seen if added] == [[3, 5], [8]]
    assert all(rows == tuple(added) for rows, added in seen if added)


def test_a_release_gives_all_of_a_models_memory_back(tmp_path, tiny_model_folder, cpu):
    import mlx.core as mx

    from runner.engine import weights
    from runner.engine.conf import EngineConf
    from runner.engine.open import batch_engine
    from runner.machine.device import Device

    device = Device("cpu", "here", None, 10**9)

    def opened():
        model, _ = weights.load(tiny_model_folder, device)
        return batch_engine(model, device, EngineConf(memory_gb=1.0))

    def taken():
        return mx.get_active_memory() + mx.get_cache_memory()

    mx.clear_cache()
    before = taken()
    engine = GuardedEngine(opened, Flight(tmp_path, 7))
    engine.add([sequence(1)])
    assert not engine.step()
    assert taken() > before + 50_000
    engine.release()
    assert taken() < before + 10_000
    while not (answered := engine.step()):
        pass
    assert [one.key for one in answered] == [(1, 0)]


def test_loading_a_model_counts_as_work(tmp_path):
    flight = Flight(tmp_path, 7)
    seen = []
    GuardedEngine(lambda: seen.append(read_flight(tmp_path).working) or CountingEngine(2), flight)
    assert seen == [True]


def test_rows_to_be_run_alone_come_last_and_one_by_one(tmp_path):
    steps = []

    class Noting(CountingEngine):
        def step(self):
            steps.append([one.key[0] for one in self.waiting])
            return super().step()

    engine = guarded(tmp_path, Noting(4), alone={1, 2})
    engine.add([sequence(row) for row in range(4)])
    answered = []
    while len(answered) < 4:
        answered += engine.step()
    assert steps == [[0, 3], [1], [2]]


def test_quarantined_rows_and_those_that_ask_the_same_are_answered_with_the_error(tmp_path):
    inner = CountingEngine(4)
    engine = guarded(tmp_path, inner, alone={1}, quarantined={1: "quarantined: why"})
    engine.add([sequence(1), Sequence((2, 0), sequence(1).tokens, 8), sequence(3)])
    answers = {generation.key[0]: generation for generation in engine.step()}
    assert answers[1] == Generation((1, 0), finish_reason="error", error="quarantined: why")
    assert answers[2].error == "quarantined: why"
    assert answers[3].error is None
    assert [one.key[0] for one in inner.computed] == [3]


def test_a_released_engine_is_opened_again_with_what_was_in_it(tmp_path):
    opened = []

    def open_engine():
        opened.append(CountingEngine(2))
        return opened[-1]

    engine = GuardedEngine(open_engine, Flight(tmp_path, 1))
    engine.add([sequence(0), sequence(1), sequence(2)])
    first = engine.step()
    engine.release()
    assert not opened[0].waiting
    assert {g.key[0] for g in [*first, *engine.step()]} == {0, 1, 2}
    assert len(opened) == 2


def test_nothing_is_added_while_memory_is_short(tmp_path):
    taken = [50]

    class Measured(CountingEngine):
        def gauge(self):
            return Gauge(memory_bytes=taken[0])

    engine = GuardedEngine(lambda: Measured(4), Flight(tmp_path, 1), watermark=100)
    engine.add([sequence(0)])
    assert engine.room() == 3
    taken[0] = 101
    assert engine.room() == 0
    engine.step()
    assert engine.room() == 4  # the engine is empty: nothing else will free memory


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hours_of_work_and_restarts_take_no_more_memory(slow, start, tiny_model_folder, capsys):
    """30 minutes of the tiny model, its process killed every minute, at full length."""
    minutes, every_s = (30, 60) if slow else (0, 0.5)
    write_rows(1_000_000)
    model = ["engine.backend=cpu", f"model.path={tiny_model_folder}", "prompt.chat=false", "engine.max_tokens=4"]
    process = start(*model, "engine.max_restarts=9", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    supervisors, workers, worker = [], [], 0
    ends = time.monotonic() + 60 * minutes
    while time.monotonic() < ends or len(workers) < 2:
        while worker == (worker := wait_for(process, finished() + 20)):  # nothing is finished while a run is opened
            time.sleep(0.02)
        time.sleep(every_s)
        supervisors.append(resident_mb(process.pid))
        workers.append(resident_mb(worker))
        os.kill(worker, signal.SIGKILL)
        while is_alive(worker):
            time.sleep(0.05)
    with capsys.disabled():
        print(f"\nsupervisor {supervisors[0]} to {supervisors[-1]} MB, worker {workers[0]} to {workers[-1]} MB")
    assert supervisors[-1] - supervisors[0] < 10
    assert workers[-1] - workers[0] < 100


def resident_mb(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def test_an_unreadable_flight_blames_nobody(tmp_path):
    assert read_flight(tmp_path).rows == ()
    (tmp_path / "run.flight").write_bytes(b"\x01" * 20)
    assert read_flight(tmp_path).rows == ()


def test_a_run_gets_what_a_shell_has_opened_for_it():
    mine, others = os.pipe()
    os.close(others)
    assert opened_for(["run", f"dataset.path=/dev/fd/{mine}", f"dataset.gold=/dev/fd/{others}", "a=3"]) == {mine}
    os.close(mine)
