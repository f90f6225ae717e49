"""Single system calls that fail: one line that says what it is, the right exit code, and a run that resumes.

All runs are in one process that ``tests/support/disk.c`` is preloaded into.
"""

import errno
import json

import pytest

from tests.support import disks, runs

ROWS = 16
WORDS = ["run", "engine.backend=fake", "engine.batch_size=2", "engine.window=8", "output.shard_rows=4", "run_name=run"]
WORDS += ["job=generate", "prompt.user='{{ text }}'", "dataset=csv", "dataset.path=disk/rows.csv"]
DRIVER = """
import contextlib, ctypes, gc, hashlib, io, json, os, shutil, sys
from pathlib import Path
from runner import cli, disk
from runner.checkpoint import database
from runner.config import load

shim = ctypes.CDLL(None)
disk.SYNC_SECONDS = 0.001
root, words, faults = sys.argv[1], *map(json.loads, sys.argv[2:])


def connect(*given, original=database.connect, **named):
    connection = original(*given, **named)
    connection.execute("PRAGMA wal_autocheckpoint = 6")
    return connection


def outcome():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli.main(words)
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return code, said.getvalue()


database.connect = connect
words = [*words, f"output.dir={root}/outputs"]
config = load.load_config(words[1:])
gc.freeze()  # each run ends with a collection
load.load_config = lambda *given: config  # composed once: that takes longer than a run
told = []
for call, path, nth, error, sticky in [[None] * 5, *faults]:
    config.conf.output.report = path == "report.html"
    if call:
        shim.shim_fault(call.encode(), path.encode(), nth, error, sticky)
    code, said = outcome()
    fired = shim.shim_fired() if call else 0
    shim.shim_fault(b"", b"", 0, 0, 0)
    again, said_again = outcome() if call else (0, "")
    files = sorted(Path(root, "outputs", "run").glob("data-*.arrow"))
    shards = [hashlib.sha256(one.read_bytes()).hexdigest() for one in files]
    told.append([code, said, fired, again, said_again, shards])
    shutil.rmtree(f"{root}/outputs")
print(json.dumps(told))
"""
# An error, the exit code, and what is said of it.
FULL, QUOTA = (errno.ENOSPC, 3, "the disk is full"), (errno.EDQUOT, 3, "the disk quota is used up")
FAILING, LOST = (errno.EIO, 3, "the disk is failing"), (errno.ESTALE, 3, "the network share has lost it")
MANY = (errno.EMFILE, 3, "too many files are open")
FORBIDDEN, READ_ONLY = (errno.EACCES, 2, "Permission denied"), (errno.EROFS, 2, "Read-only file system")
ALL = [FULL, QUOTA, FAILING, LOST, MANY, FORBIDDEN, READ_ONLY]
# The call, the file, which of its calls is the first to fail, and whether all behind it do.
CREATING = [("create", file, 1, True) for file in ("run.db-wal", "data-00000.arrow.tmp", "run.lock")]
WRITING = [("write", "/run", nth, True) for nth in (1, 40)] + [("sync", "/run", nth, True) for nth in (1, 9)]
FAULTS = [
    *[("create", "run.db.tmp", 1, True, *error) for error in ALL],
    *[(*call, *error) for call in CREATING for error in (FULL, MANY, FORBIDDEN)],
    *[(*call, *error) for call in WRITING for error in (FULL, QUOTA, LOST)],
    *[("rename", file, 1, True, *error) for file in ("run.db", "data-0") for error in (FAILING, FORBIDDEN)],
    *[("write", "run.db.tmp", nth, False, *FULL) for nth in (5, 18)],
    *[("open", "run.db", nth, True, *MANY) for nth in (1, 4)],
    *[("mkdir", "/outputs", 1, True, *error) for error in (FULL, LOST, FORBIDDEN)],
    *[("read", "run.db", nth, True, *FAILING) for nth in (3, 12)],
    ("read", "run.db", 12, False, errno.EIO, 3, "could not be read at first"),
    *[("write", "run.db-wal", 9, False, error, 3, "for a moment") for error in (errno.EDQUOT, errno.EIO, errno.ESTALE)],
    *[
        (call, "run.log", 1, True, error[0], 0, "log")
        for call in ("create", "write")
        for error in (FAILING, LOST, FULL)
    ],
    *[("open", "rows.csv", 1, True, *error) for error in (LOST, MANY, FORBIDDEN)],
    ("read", "rows.csv", 2, True, errno.EIO, 3, "the disk is failing"),
    *[("create", "report.html", 1, True, error[0], 0, "no report: ") for error in (FULL, FAILING, FORBIDDEN)],
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    library = disks.build(folder)
    (folder / "disk").mkdir()
    (folder / "disk" / "rows.csv").write_text("id,text\n" + "".join(f"{i},text number {i}\n" for i in range(ROWS)))
    faults = [[*fault[:3], fault[4], fault[3]] for fault in FAULTS]
    env = {**disks.preloading(library, folder / "disk"), "ROWMILL_CACHE": str(folder / "cache")}
    done = runs.python(DRIVER, str(folder / "disk"), json.dumps(WORDS), json.dumps(faults), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault[0]}-{fault[1]}-{fault[2]}-{errno.errorcode[fault[4]]}"
)
def test_a_failing_call_ends_a_run_with_one_line_that_says_what_it_is_and_the_run_resumes(outcomes, fault):
    whole, *told = outcomes
    code, said, fired, again, said_again, shards = told[FAULTS.index(fault)]
    assert fired
    assert (code, again) == (fault[5], 0), said + said_again
    assert shards == whole[-1]
    assert "Traceback" not in said
    if code:
        (line,) = [line for line in said.splitlines() if line.startswith("rowmill:")]
        assert fault[6] in line
        assert code == 2 or line.removesuffix(" to resume").endswith("run the same command again")
    else:
        assert fault[6] in said
