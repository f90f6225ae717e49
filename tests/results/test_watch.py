"""``watch`` shows a run as it is, running, killed or finished, and leaves it alone."""

import io
import signal

import pyarrow as pa
import pytest
from rich.console import Console

from runner.checkpoint import marks
from runner.checkpoint.records import Output
from runner.cli import main
from runner.results import watch as watching
from runner.results.watch import curve, pace_now, read_watch, watch
from runner.sequences import Gauge
from runner.types import UserError
from tests.support import runs
from tests.support.clocks import Clock, work
from tests.support.forks import Fork
from tests.support.stores import open_store, output


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("runner.checkpoint.marks.time", clock)
    return clock


def shown(path, width=100, terminal=False):
    out = io.StringIO()
    watch(path, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def listing(path):
    return {file.name: file.stat().st_mtime_ns for file in path.iterdir() if file.suffix not in (".db-shm", ".lock")}


def test_a_finished_run(tmp_path, clock):
    with open_store(tmp_path / "run", rows=60) as store:
        store.start(lambda: Gauge(6, 8, 3_000_000_000))
        work(store, clock, range(57), 2.0)
        clock.now += 2
        store.finish([Output(57, {}, "timeout: 3 s"), Output(58, {"label": "[red]\x1b[31mx\n"}), Output(59, {})])
    before = listing(tmp_path / "run")
    said = shown(tmp_path / "run")
    for part in (
        "run: finished",
        "60 of 60 rows",
        "1 error",
        "6 of 8",
        "3.00 GB",
        "timeout",
        "label 50",
        "0 restarts",
    ):
        assert part in said
    assert "[red]\\x1b[31mx" in said
    assert "\x1b" not in said
    assert listing(tmp_path / "run") == before


def test_a_running_one_is_shown_until_it_ends(tmp_path, clock, monkeypatch):
    store = open_store(tmp_path / "run", rows=60)
    work(store, clock, range(30), 2.0)
    ticks = []

    def sleep(seconds):
        ticks.append(seconds)
        if len(ticks) == 2:
            store.close()

    monkeypatch.setattr(watching.time, "sleep", sleep)
    said = shown(tmp_path / "run", terminal=True)
    assert len(ticks) == 2
    assert "run: running" in said
    assert "30.0 rows/min now" in said
    assert "run: interrupted" in said.rpartition("run: ")[1] + said.rpartition("run: ")[2]


def test_each_of_the_latest_rows_shows_its_text_beside_its_label(tmp_path, clock):
    texts = ["Dear\x1b[31m sir,\nwin a prize", "See you at noon", None]
    source = pa.table({"id": pa.array(range(3), pa.int64()), "text": texts})
    given = {"keep": source.schema, "kept": lambda start, stop: source.slice(start, stop - start)}
    with open_store(tmp_path / "run", {"keep": ["id", "text"]}, rows=3, **given) as store:
        work(store, clock, [0], 2.0)
        clock.now += 2
        store.finish([Output(1, {}, "timeout: 3 s"), output(2)])
    lines = shown(tmp_path / "run").splitlines()
    rows = [line.strip("│ ").split() for line in lines[-4:-1]]
    assert rows[0][:3] == ["2", "label:", "label"]
    assert rows[1] == ["1", "See", "you", "at", "noon", "timeout:", "3", "s"]
    assert rows[2][:9] == ["0", "Dear\\x1b[31m", "sir,", "win", "a", "prize", "label:", "label", "0"]


def test_a_killed_run(tmp_path):
    def killed():
        store = open_store(tmp_path / "run", rows=60)
        marks.EVERY_SECONDS = 0
        store.finish([output(row) for row in range(30)])
        signal.raise_signal(signal.SIGKILL)

    assert Fork(killed).wait() == -signal.SIGKILL
    said = shown(tmp_path / "run")
    assert "run: interrupted" in said
    assert "30 of 60 rows" in said
    assert "label 29" in said


def test_the_writer_is_not_disturbed(tmp_path, clock):
    with open_store(tmp_path / "run", rows=60) as store:
        for row in range(40):
            work(store, clock, [row], 2.0)
            seen = read_watch(tmp_path / "run")
            assert seen["finished"] == row + 1
            assert seen["state"] == "running"
            assert seen["latest"][0][0] == row


def test_rows_a_second_of_the_newest_session(tmp_path, clock):
    with open_store(tmp_path / "run", rows=500) as store:
        work(store, clock, range(100), 10.0)
    with open_store(tmp_path / "run", rows=500) as store:
        store.start()
        work(store, clock, range(100, 300), 2.0)
        assert pace_now(read_watch(tmp_path / "run")["marks"]) == pytest.approx(0.5)
        assert read_watch(tmp_path / "run")["rows_per_s"] == pytest.approx(300 / 1400)


def test_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="not a run directory"):
        shown(tmp_path)
    assert main(["watch", str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_curves():
    assert curve([]) == ""
    assert curve([0, 4, 8]) == " ▄█"
    assert curve([4, 4], top=8) == "▄▄"
    assert len(curve(list(range(1000)))) <= 60


def test_ctrl_c_ends_the_watching_only(tmp_path, start):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    with open_store(tmp_path / "run", rows=60):
        terminal = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
        process = start(runs.command("watch", str(tmp_path / "run")), env=terminal)
        while "running" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert runs.outcome(process)[0] == 0
        assert read_watch(tmp_path / "run")["state"] == "running"
