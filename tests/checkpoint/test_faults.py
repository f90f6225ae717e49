"""What a run survives: kills between any two steps of a commit, full disks, damaged files, changed input.

Each fault is put into a real process; the run is then resumed and compared with one that nothing happened to.
"""

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import textwrap
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from runner import cli, run
from runner.checkpoint.deaths import read_flight
from runner.engine.fake import FakeEngine
from runner.results.status import read_status
from runner.types import UserError
from runner.words import count_of
from tests.support import runs
from tests.support.runs import rows_of, shards

ROWS = 30


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(folder, cache):
    write_rows()


def write_rows(word="text"):
    runs.write_rows(ROWS, word + " number {:02d}")


def overrides(name="run", **more):
    """The words of a run; ``__`` stands for the dot in a key."""
    words = [f"{key.replace('__', '.')}={value}" for key, value in more.items()]
    return runs.overrides("output.shard_rows=8", f"run_name={name}", *words)


def database(name="run"):
    return sqlite3.connect(f"outputs/{name}/run.db", isolation_level=None)


def interrupted(steps=4, name="run", **more):
    runs.interrupt(overrides(name, **more), after=steps)


# Kills between any two steps of a commit

KILLS = """
import gc, json, os, signal, sqlite3, sys
from pathlib import Path
from runner.checkpoint import database, store
from runner.checkpoint.shards import columns as shards
from runner.cli import main
from runner.engine.fake import FakeEngine

points = json.loads(sys.argv[1])
# A kill between two steps of a commit needs the steps themselves; one that was renamed would never be reached.
steps = {database: "connect", store.Store: "start _seal_complete", shards: "table", Path: "replace"}
gone = [name for owner, names in steps.items() for name in names.split() if not hasattr(owner, name)]
assert not gone, f"where the kills come was renamed: {gone}"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_statement(start, count):
    if start == "INSERT INTO staged":
        session.HOLD_S = 0.0  # in each commit

    def opened(run_dir, original=database.connect, **how):
        connection = original(run_dir, **how)
        left = [count]

        def seen(statement):
            if statement.lstrip().startswith(start):
                left[0] -= 1
                if not left[0]:
                    die()
        store.Store.start = lambda self, gauge=None, start=store.Store.start: (
            start(self, gauge), connection.set_trace_callback(seen))
        return connection
    database.connect = opened


def at_rename(name, after):
    def replaced(self, target, original=Path.replace):
        if Path(target).name == name and not after:
            die()
        done = original(self, target)
        if Path(target).name == name:
            die()
        return done
    Path.replace = replaced


def between_record_and_seal():
    store.Store._seal_complete = lambda self, candidates, original=store.Store._seal_complete: (
        die() if [*candidates] not in ([], [0]) else original(self, candidates))


def while_writing():
    shards.table = lambda *a: die()


def noting_what_is_computed(name):
    notes = os.open(f"{name}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def step(self, original=FakeEngine.step):
        answered = original(self)
        os.write(notes, "".join(f"{g.key[0]}\\n" for g in answered).encode())
        return answered
    FakeEngine.step = step


def in_a_child(name, prepare):
    pid = os.fork()
    if not pid:
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        noting_what_is_computed(name)
        prepare()
        os._exit(main(["run", *sys.argv[2:], f"run_name={name}"]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def committed(name):
    with sqlite3.connect(f"outputs/{name}/run.db") as connection:
        return connection.execute("SELECT row, rowid, body FROM completions ORDER BY row").fetchall()


from runner.config.load import load_config
from runner.session import session  # before the forks, to be fast
load_config(sys.argv[2:])
gc.freeze()  # each run ends with a collection
told = {"whole": [in_a_child("whole", lambda: None), 0, 0, 0]}
for name, point in points.items():
    killed = in_a_child(name, lambda: globals()[point[0]](*point[1:]))
    before = committed(name)
    at = len(Path(f"{name}.notes").read_text().split())
    code = in_a_child(name, lambda: None)
    again = {int(row) for row in Path(f"{name}.notes").read_text().split()[at:]}
    told[name] = [killed, code, set(before) <= set(committed(name)), len(again & {row for row, *_ in before})]
print(json.dumps(told))
"""
POINTS = {
    "before-record": ["at_statement", "INSERT INTO completions", 5],
    "completions-recorded": ["at_statement", "INSERT INTO staged", 5],
    "before-commit": ["at_statement", "COMMIT", 3],
    "recorded-not-finished": ["at_statement", "BEGIN", 3],
    "finished-not-sealed": ["between_record_and_seal"],
    "shard-half-written": ["while_writing"],
    "shard-written": ["at_rename", "data-00001.arrow", False],
    "shard-renamed": ["at_rename", "data-00001.arrow", True],
    "in-the-shard's-transaction": ["at_statement", "DELETE FROM staged", 2],
    "shard-recorded": ["at_rename", "state.json", False],
    "all-renamed": ["at_rename", "state.json", True],
}


def test_a_kill_between_any_two_steps_loses_nothing_and_repeats_nothing():
    words = [word for word in overrides(output__report="false") if not word.startswith("run_name")]
    done = runs.python(KILLS, json.dumps(POINTS), *words)
    assert done.returncode == 0, done.stderr + Path("log").read_text()
    told = json.loads(done.stdout)
    assert told.pop("whole")[0] == 0
    assert told == {point: [-signal.SIGKILL, 0, True, 0] for point in POINTS}, Path("log").read_text()
    whole = shards("whole")
    assert len(whole) == 4
    for point in POINTS:
        assert shards(point) == whole, point
        assert [row["id"] for row in rows_of(point)] == list(range(ROWS))


# Full and forbidden disks


def mount(*words):
    return runs.ended(["mount", *map(str, words)])


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", folder)
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    runs.ended(["umount", "-l", str(folder)])


def fill(folder, leave):
    """All but ``leave`` bytes of the disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(bytes(max(0, free - leave)))


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
@pytest.mark.parametrize(("while_", "size"), [("recording", 200), ("sealing", 20_000)])
def test_a_full_disk_ends_with_3_and_a_clear_line_and_resumes_when_there_is_room(small_disk, capsys, while_, size):
    lines = [f"{i},{i:02d},{'x' * size}\n" for i in range(ROWS)]
    Path("rows.csv").write_text("id,text,note\n" + "".join(lines))
    words = overrides(output__dir=small_disk, output__shard_rows=str(ROWS if while_ == "recording" else 8))
    fill(small_disk, 120_000 if while_ == "recording" else 300_000)
    if while_ == "recording":
        words.append("prompt.system=" + 20 * "answer ")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("runner.engine.fake.WORDS", ["w" * 4000] * 18)
            assert cli.main(["run", *words, "engine.max_tokens=9000"]) == 3
            said = capsys.readouterr().err
            (small_disk / "ballast").unlink()
            assert cli.main(["run", *words, "engine.max_tokens=9000"]) == 0
    else:
        words.append("output.keep=[id,note]")
        assert cli.main(["run", *words]) == 3
        said = capsys.readouterr().err
        (small_disk / "ballast").unlink()
        assert cli.main(["run", *words]) == 0
    assert "is full" in said and "make room, then run the same command again to resume" in said
    assert "Traceback" not in said
    assert [row["id"] for row in rows_of(folder=small_disk)] == list(range(ROWS))


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_disk_that_is_full_for_exports_and_reports_is_told_in_a_line(small_disk, capsys):
    run(overrides(output__dir=small_disk))
    fill(small_disk, 0)
    capsys.readouterr()
    for words in (["report"], *(["export", str(small_disk / f"out.{kind}")] for kind in ("db", "csv", "parquet"))):
        assert cli.main([words[0], str(small_disk / "run"), *words[1:]]) in (2, 3)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and ("full" in said or "No space left" in said)
    assert not list(small_disk.glob("out*"))
    assert mount("-o", "remount,ro", small_disk).returncode == 0
    assert cli.main(["report", str(small_disk / "run")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_disk_that_is_full_wherever_one_may_write_is_told_as_such(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.checkpoint.store.write_stream", refuse)
        assert cli.main(["run", *overrides()]) == 3
    assert "is full" in capsys.readouterr().err
    assert cli.main(["run", *overrides()]) == 0
    assert len(rows_of()) == ROWS


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_an_output_folder_that_cannot_be_written_is_refused(small_disk, capsys):
    if mount("-o", "remount,ro", small_disk).returncode:
        pytest.skip("file systems can be mounted by root only")
    assert cli.main(["run", *overrides(output__dir=small_disk)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rowmill:")]
    assert "Read-only file system" in line and "output.dir" in line


# Damaged files


def flip(path, at, bit=5):
    with Path(path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def refusal(**more):
    with pytest.raises(UserError) as refused:
        run(overrides(**more))
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_a_truncated_checkpoint_is_refused_and_repaired_from_the_shards(capsys):
    run(overrides("whole"))
    interrupted()
    sealed = shards()
    assert 0 < len(sealed) < 4
    file = Path("outputs/run/run.db")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "`rowmill repair outputs/run`" in refusal()
    assert cli.main(["repair", "outputs/run"]) == 0
    assert f"kept {8 * len(sealed)} rows in {count_of(len(sealed), 'shard')}, " in capsys.readouterr().out
    assert run(overrides())["state"] == "finished"
    assert shards() == shards("whole")
    assert Path("outputs/run/run.db.damaged-1").exists()


@pytest.mark.parametrize("left", [b"", b"not a database at all", None])
def test_a_checkpoint_that_is_gone_is_made_anew_from_the_shards(left):
    interrupted()
    sealed = shards()
    for file in Path("outputs/run").glob("run.db*"):
        file.unlink()
    if left is not None:
        Path("outputs/run/run.db").write_bytes(left)
    assert "rowmill repair" in refusal()
    assert shards() == sealed
    assert cli.main(["repair", "outputs/run", "--json"]) == 0
    assert run(overrides())["finished"] == ROWS
    assert sealed.items() <= shards().items()


LABELS = {
    "job": "label",
    "job.labels": "[good,bad]",
    "job.prior": "content_free",
    "prompt.user": "'Good or bad? {{ text }}'",
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("job", [{}, LABELS], ids=["generate", "label"])
def test_flipped_bits_are_found_or_do_no_harm(slow, capsys, job):
    """Whichever bit flips in run.db: the output is the same, or the run is refused and the same after repair."""
    run(overrides("whole", **job))
    interrupted(steps=5, **job)
    whole, folder = shards("whole"), Path("outputs/run")
    state = {file.name: file.read_bytes() for file in folder.iterdir()}
    with database() as connection:
        tables = "completions", "shards", "prelude" if job else "staged"
        assert all(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
    filled = [at for at, byte in enumerate(state["run.db"]) if byte]  # most of a small file is empty pages
    chance, refused = random.Random(0), 0
    for _ in range(1500 if slow else 12):
        for file in folder.iterdir():
            file.unlink()
        for name, content in state.items():
            (folder / name).write_bytes(content)
        at, bit = chance.choice(filled), chance.randrange(8)
        flip(folder / "run.db", at, bit)
        code = cli.main(["run", *overrides(**job)])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if code == 2:
            assert "`rowmill repair" in said, (at, bit, said)
            refused += 1
            assert cli.main(["repair", str(folder)]) == 0, (at, bit)
            code = cli.main(["run", *overrides(**job)])
        assert code == 0, (at, bit, capsys.readouterr().err)
        assert shards() == whole, (at, bit)
    assert refused


def test_a_flipped_bit_in_the_name_of_a_column_is_damage():
    interrupted(steps=3)
    file = Path("outputs/run/run.db")
    flip(file, file.read_bytes().index(b"progress (session") + len(b"progress (se"), 0)
    assert "its tables are not those that were written" in refusal()
    assert cli.main(["repair", "outputs/run"]) == 0
    run(overrides("whole"))
    run(overrides())
    assert shards() == shards("whole")


def test_every_answer_and_finished_row_has_a_checksum():
    interrupted(steps=3)
    with database() as connection:
        assert connection.execute("UPDATE staged SET body = body || ' '").rowcount > 0
    assert "a row of the table staged does not match its checksum" in refusal()
    assert cli.main(["repair", "outputs/run"]) == 0
    run(overrides("whole"))
    run(overrides())
    assert shards() == shards("whole")


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_shard_is_found_by_size_or_hash_and_made_again_after_saying_so(harm, caplog, monkeypatch):
    run(overrides())
    whole = shards()
    file = Path("outputs/run/data-00001.arrow")
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "flip":
        flip(file, file.stat().st_size // 2)
    else:
        file.unlink()
    monkeypatch.setattr(FakeEngine, "step", lambda self: pytest.fail("the answers are recorded"))
    with caplog.at_level("WARNING", "rowmill"):
        assert run(overrides())["state"] == "finished"
    assert "data-00001.arrow" in caplog.text and "will be rebuilt" in caplog.text
    assert shards() == whole


def test_repair_puts_a_damaged_shard_aside_and_its_rows_are_made_again(capsys):
    interrupted()
    flip("outputs/run/data-00000.arrow", Path("outputs/run/data-00000.arrow").read_bytes().index(b"prompt_tokens"))
    file = Path("outputs/run/run.db")
    file.write_bytes(file.read_bytes()[:5000])
    assert cli.main(["repair", "outputs/run"]) == 0
    run(overrides())
    assert [row["id"] for row in rows_of()] == list(range(ROWS))
    assert "data-00000.arrow is damaged" in capsys.readouterr().out
    assert Path("outputs/run/data-00000.arrow.damaged").exists()


def test_repair_leaves_out_a_table_that_lacks_a_column():
    run(overrides("whole"))
    interrupted(steps=5)
    with database() as connection:
        connection.execute("ALTER TABLE progress DROP COLUMN slots_total")
    assert cli.main(["run", *overrides()]) == 2
    assert cli.main(["repair", "outputs/run"]) == 0
    assert cli.main(["run", *overrides()]) == 0
    assert shards() == shards("whole")


def test_repair_keeps_what_the_job_found_before_the_first_row():
    run(overrides(**LABELS))
    with contextlib.closing(database()) as before:
        found = before.execute("SELECT found FROM prelude").fetchall()
        before.execute("DROP TABLE seats")
    assert cli.main(["repair", "outputs/run"]) == 0
    with contextlib.closing(database()) as after:
        assert after.execute("SELECT found FROM prelude").fetchall() == found != []


def test_repair_leaves_whole_runs_and_other_folders_as_they_are(tmp_path, capsys):
    assert cli.main(["repair", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    interrupted(steps=5)
    before = sorted(Path("outputs/run").iterdir()), Path("outputs/run/run.db").stat().st_ino
    assert cli.main(["repair", "outputs/run"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out
    assert (sorted(Path("outputs/run").iterdir()), Path("outputs/run/run.db").stat().st_ino) == before


@pytest.mark.parametrize("harm", ["cut", "garbage"])
def test_a_torn_write_ahead_log_costs_its_last_commits_only(harm):
    code = textwrap.dedent("""
        import os, signal, sys
        from runner.cli import main
        from runner.engine.fake import FakeEngine

        left = [5]


        def step(self, original=FakeEngine.step):
            left[0] -= 1
            left[0] or os.kill(os.getpid(), signal.SIGKILL)
            return original(self)
        FakeEngine.step = step
        main(["run", *sys.argv[1:]])
    """)
    assert runs.python(code, *overrides()).returncode == -signal.SIGKILL
    log = Path("outputs/run/run.db-wal")
    content = log.read_bytes()
    assert len(content) > 20_000
    log.write_bytes(content[:-3000] if harm == "cut" else content[:-3000] + os.urandom(3000))
    assert run(overrides())["finished"] == ROWS
    run(overrides("whole"))
    assert shards() == shards("whole")


# Clocks, input, hub


def test_a_clock_that_jumps_back_changes_nothing(monkeypatch):
    run(overrides("whole"))
    now = [2e9]

    def back():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    interrupted()
    figures = run(overrides())
    assert figures["state"] == "finished"
    assert figures["rows_per_s"] > 0
    assert shards() == shards("whole")


def test_input_that_changes_during_the_run_is_not_mixed_in_and_refused_at_resume():
    run(overrides("whole"))

    def step(self, original=FakeEngine.step):
        write_rows(word="other")
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeEngine, "step", step)
        run(overrides())
    assert shards() == shards("whole")
    assert "dataset.fingerprint" in refusal()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_mapped_input_that_is_written_to_during_the_run_is_refused(kind):
    path = Path("rows.arrow" if kind == "file" else "saved")
    rows = [{"id": i, "text": f"text number {i:02d}"} for i in range(ROWS)]
    datasets.Dataset.from_list(rows).save_to_disk("saved")
    (file,) = Path("saved").glob("*.arrow")
    if kind == "file":
        file = file.rename(path)
    before = file.read_bytes()
    words = {"dataset": "arrow", "dataset.path": path, "engine.window": "8", "output.shard_rows": "4"}
    run(overrides("whole", **words))
    taken = []

    def step(self, original=FakeEngine.step):
        taken.append(1)
        if len(taken) == 3:
            file.write_bytes(before.replace(b"text number", b"TEXT NUMBER"))  # the same file, another content
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeEngine, "step", step)
        assert "was written to during the run" in refusal(**words)
    assert 0 < read_status(Path("outputs/run"))["finished"] < ROWS
    assert "dataset.fingerprint" in refusal(**words)
    file.write_bytes(before)
    assert run(overrides(**words))["state"] == "finished"
    assert shards() == shards("whole")


def test_input_that_is_mapped_and_cut_short_during_the_run_is_refused(start):
    table = pa.table({"id": list(range(ROWS)), "text": [f"{i} " + 20_000 * "x" for i in range(ROWS)]})
    with pa.OSFile("rows.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    words = overrides(dataset="arrow", dataset__path="rows.arrow", engine__window="2", engine__batch_size="1")
    process = start(runs.command("run", *words), delay=0.1)
    while process.poll() is None and not read_flight(Path("outputs/run")).done:
        time.sleep(0.02)
    os.truncate("rows.arrow", 5000)
    code, _, errors = runs.outcome(process)
    assert code == 2, errors
    assert "rows.arrow" in errors.splitlines()[-1] or "dataset.fingerprint" in errors
    assert "Traceback" not in errors
    assert read_status(Path("outputs/run"))["finished"] < ROWS


@pytest.fixture
def silent_hub(tmp_path, monkeypatch):
    """The environment of processes whose hub takes connections and says nothing; its caches lie in ``hub``."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "hub")}
        unset = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE")
        for name in unset:
            monkeypatch.delenv(name, raising=False)
        yield hub | {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}


def test_a_hub_that_never_answers_ends_with_a_line_and_offline_works_from_the_cache(tmp_path, silent_hub):
    code = "import sys; from runner.models.resolve import resolve; print(resolve('own/er', offline=len(sys.argv) > 1))"
    code = f"from runner.types import UserError\ntry:\n  {code}\nexcept UserError as e:\n  sys.exit(f'told: {{e}}')"
    asked = runs.python(code, env=silent_hub)
    assert asked.stderr.splitlines()[-1].startswith("told: model.path=own/er"), asked.stderr
    cached = tmp_path / "hub" / "hub" / "models--own--er"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text('{"model_type": "llama"}')
    (cached / "snapshots" / "abc" / "model.safetensors").touch()
    found = runs.python(code, "offline", env=silent_hub)
    assert found.stdout.strip().endswith("snapshots/abc"), found.stderr


def test_a_hub_that_never_gives_a_data_set_ends_with_a_line_and_the_cache_serves(tmp_path, silent_hub):
    def outcome(*more):
        words = overrides(dataset="hub", dataset__path="own/data")
        return runs.rowmill("run", "--no-supervise", *words, *more, env=silent_hub)

    refused = outcome()
    assert refused.returncode == 2
    told, line = refused.stderr.splitlines()[-2:]
    assert told == "the hub does not answer: looking for own/data in the cache"
    assert line.startswith("rowmill: dataset.path: cannot load own/data")
    assert line.endswith("check the name and the network")
    refused = outcome("offline=true")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith("run once with a network and without offline")
    cached = tmp_path / "hub" / "datasets" / "own___data" / "default" / "0.0.0" / "abc"
    cached.mkdir(parents=True)
    table = pa.table({"id": list(range(ROWS)), "text": [f"text {i}" for i in range(ROWS)]})
    with pa.OSFile(str(cached / "data-train.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    split = {"name": "train", "num_examples": ROWS, "dataset_name": "data"}
    info = {"config_name": "default", "dataset_name": "data", "splits": {"train": split}, "version": "0.0.0"}
    (cached / "dataset_info.json").write_text(json.dumps(info))
    for more in ([], ["offline=true"]):  # the same rows, so that the second finds nothing left to do
        assert (found := outcome(*more)).returncode == 0, found.stderr
    assert [row["id"] for row in rows_of()] == list(range(ROWS))


def test_no_request_to_the_hub_waits_for_ever(silent_hub):
    code = "from runner.models.hub import reachable; from huggingface_hub import get_session, constants\n"
    code += "assert not reachable('it', False)\nget_session().get(constants.ENDPOINT, timeout=None)"
    asked = runs.python(code, env=silent_hub)
    assert "ReadTimeout" in asked.stderr
