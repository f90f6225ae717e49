"""What a power cut takes: at most what was committed after the last sync, and never the run itself.

Runs in a process whose calls are written down; then, many times, the power is cut somewhere in them: what was synced is
there, of the rest any part, in any order, torn anywhere. Each such disk is given to the same command line.
"""

import json
import random
import shutil

import pytest

from runner.config.load import load_config
from runner.engine.fake import FakeEngine
from runner.session.session import run_session
from runner.signals import Stop
from tests.support import disks, runs

ROWS = 16
WORDS = ["engine.backend=fake", "engine.batch_size=2", "engine.window=8", "output.shard_rows=4", "run_name=run"]
WORDS += ["dataset=csv", "dataset.path=rows.csv", "output.report=false"]
JOBS = {
    "label": ["job=label", "job.labels=[good,bad]", "job.prior=content_free", "prompt.user='Good or bad? {{ text }}'"],
    "generate": ["job=generate", "prompt.user='{{ text }}'", "engine.temperature=1"],
    "summarize": ["job=summarize", "job.chunk_tokens=200", "job.overlap_tokens=0", "engine.max_tokens=40"],
    "synthesize": ["job=synthesize", "job.target=16", "job.ahead=4", "job.filters.near=null"],
}
KINDS = [(job, durability) for job in JOBS for durability in ("process", "power")]
RECORD = """
import json, os, sys, time
from runner import disk, run
from runner.checkpoint import database, store
from runner.engine.fake import FakeEngine

disk.SYNC_SECONDS = 0.002  # as often in this short run as in a long one
root, kinds = sys.argv[1], json.loads(sys.argv[2])
steps = [0]


def connect(*given, original=database.connect, **named):
    connection = original(*given, **named)
    connection.execute("PRAGMA wal_autocheckpoint = 30")
    return connection


def record(self, completions=(), *given, original=store.Store.record, **named):
    completions = list(completions)
    original(self, completions, *given, **named)
    os.write(notes, json.dumps([one[:2] for one in completions]).encode())


def step(self, original=FakeEngine.step):
    steps[0] += 1
    if steps[0] == 5:
        raise KeyboardInterrupt
    time.sleep(0.001)
    return original(self)


database.connect, store.Store.record, FakeEngine.step = connect, record, step
for name, words in kinds.items():
    os.mkdir(f"{root}/{name}")
    notes = os.open(f"{root}/{name}.notes", os.O_WRONLY | os.O_CREAT)
    steps[0] = 0
    try:
        run([*words, f"output.dir={root}/{name}/outputs"])
        raise SystemExit("it was to be interrupted")
    except KeyboardInterrupt:
        pass
    run([*words, f"output.dir={root}/{name}/outputs"])
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of the runs, and their calls."""
    folder = tmp_path_factory.mktemp("power")
    library = disks.build(folder)
    root = folder / "disk"
    root.mkdir()
    lines = [f"{i},{' '.join(f'word{i}x{j}' for j in range(50))}.\n" for i in range(ROWS)]
    (folder / "rows.csv").write_text("id,text\n" + "".join(lines))
    kinds = {f"{job}-{how}": [*WORDS, *JOBS[job], f"checkpoint.durability={how}"] for job, how in KINDS}
    env = {**disks.preloading(library, root, folder / "log"), "ROWMILL_CACHE": str(folder / "cache")}
    done = runs.python(RECORD, str(root), json.dumps(kinds), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder, list(disks.read_log(folder / "log"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("job", "durability"), KINDS)
def test_after_a_power_cut_at_any_moment_the_same_command_resumes(
    recorded, tmp_path, monkeypatch, slow, job, durability
):
    folder, calls = recorded
    kind = f"{job}-{durability}"
    monkeypatch.chdir(folder)
    whole = runs.shards("run", folder / "disk" / kind / "outputs")
    root = str(folder / "disk" / kind)
    ours = [at for at, call in enumerate(calls) if call.path.startswith(root)]
    chance = random.Random(kind)
    computed = []

    def step(self, original=FakeEngine.step):
        answered = original(self)
        computed.extend(one.key for one in answered)
        return answered

    monkeypatch.setattr(FakeEngine, "step", step)
    place = tmp_path / "after"
    words = [*WORDS, *JOBS[job], f"checkpoint.durability={durability}", f"output.dir={place / 'outputs'}"]
    config = load_config(words)
    for number, cut in enumerate(disks.cuts(calls, ours[0], ours[-1] + 1, 250 if slow else 7, chance)):
        disk = disks.Disk(calls, root, cut)
        disk.state(chance, place)
        left = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        computed.clear()
        try:
            assert run_session(config, Stop())["state"] == "finished"
        except Exception as error:
            pytest.fail(f"cut {number}, after call {cut}, left {left}: {type(error).__name__}: {error}")
        assert runs.shards("run", place / "outputs") == whole, (number, cut)
        assert promised(calls, disk, root, durability).isdisjoint(computed), (number, cut)
        shutil.rmtree(place)


def promised(calls, disk, root, durability):
    """The answers that must be there: recorded before the last sync of the log or, with ``power``, before the cut."""
    last = disk.until if durability == "power" else disk.synced(f"{root}/outputs/run/run.db-wal")
    found, notes = set(), None
    for call in calls[: max(0, last)]:
        if call.kind == "O" and call.path == f"{root}.notes":
            notes = call.serial
        elif call.kind == "W" and call.serial == notes:
            found |= {tuple(key) for key in json.loads(call.data)}
    return found


@pytest.mark.parametrize("is_sure", [True, False])
def test_the_files_of_a_renamed_folder_lie_under_its_old_name_or_its_new_one(tmp_path, is_sure):
    calls = [("M", 0, 0, "/r/new.tmp", b""), ("O", 1, 0, "/r/new.tmp/a", b""), ("W", 1, 0, "/r/new.tmp/a", b"1")]
    calls += [("S", 1, 0, "", b""), ("E", 1, 0, "", b""), ("O", 2, 0, "/r/new.tmp", b""), ("S", 2, 0, "", b"")]
    calls += [("E", 2, 0, "", b""), ("O", 3, 0, "/r", b""), ("S", 3, 0, "", b""), ("E", 3, 0, "", b"")]
    calls += [("R", 0, 0, "/r/new.tmp", b"/r/new"), *([("S", 3, 0, "", b""), ("E", 3, 0, "", b"")] if is_sure else [])]
    calls += [("O", 4, 0, "/r/new/b", b"")]
    disk = disks.Disk([disks.Call(*call) for call in calls], "/r", len(calls))
    seen = set()
    for seed in range(40):
        disk.state(random.Random(seed), tmp_path / str(seed))
        (found,) = (tmp_path / str(seed)).iterdir()
        assert (found / "a").read_bytes() == b"1"
        seen |= {found.name, *([f"{found.name}/b"] if (found / "b").exists() else [])}
    assert seen >= ({"new", "new/b"} if is_sure else {"new", "new/b", "new.tmp"})
    assert not is_sure or "new.tmp" not in seen
