"""Python processes that have their imports already: forks of one that waits for what to do.

A start of ``rowmill run`` takes 1.5 s of processor time before its first row, and of those forks 0.1 s. They are
processes like others: with descriptors, a folder and an environment of their own, with signals as a program has them.
What a fork would not show is started as always: another interpreter's switches, variables that libraries read when
they are imported, terminals.
"""

# Of ``subprocess.Popen`` the private methods are taken by which it meets the system: there is no other place between.
import atexit
import fcntl
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

PROGRAM = [sys.executable, "-m", "runner.cli"]
INSTALLED = [str(Path(sys.executable).with_name("rowmill"))]
CODE = [sys.executable, "-P", "-c"]
MEASURED = [[sys.executable, "-m", f"jobs.benchmark.{name}"] for name in ("measure", "card")]
EARLY = ("HF_", "HOME", "LANG", "LC_", "LD_", "OMP_", "OPENBLAS_", "PYTHONPATH", "XDG_")  # read by imports
MOST_BYTES = 200_000  # of a message
INHERITED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)  # a shell has what it starts in the background ignore some
STATUS = 4  # bytes of a process id and of how it ended


class Popen(subprocess.Popen):
    """``subprocess.Popen``, whose processes come from a fork where that makes no difference."""

    server = "a"

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        pipes, group, session = rest[3:9], rest[-1], rest[-2]
        environment = dict(os.environ if env is None else env)
        if preexec_fn or session or rest[2] or not can_fork(args) or not server(self.server).knows(environment):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        ends = [own if end == -1 else end for own, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        asked = {"args": list(map(str, args)), "cwd": str(cwd or Path.cwd()), "env": environment, "group": group}
        asked["ignored"] = [int(number) for number in INHERITED if signal.getsignal(number) == signal.SIG_IGN]
        self._status = server(self.server).start({**asked, "targets": [0, 1, 2, *pass_fds]}, [*ends, *pass_fds])
        self.pid = int.from_bytes(_exactly(self._status, STATUS), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _try_wait(self, wait_flags):
        if not hasattr(self, "_status"):
            return super()._try_wait(wait_flags)
        self._status.setblocking(not wait_flags)
        try:
            status = _exactly(self._status, STATUS)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        return self.pid, int.from_bytes(status, "big")

    def _internal_poll(self, _deadstate=None, **given):
        if not hasattr(self, "_status"):
            return super()._internal_poll(_deadstate, **given)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


class Forked(subprocess.Popen):
    """The same in a fork: its own children are its forks."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        if not can_fork(args):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        pipes = rest[3:9]
        ends = [own if end == -1 else end for own, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        asked = {"args": list(map(str, args)), "cwd": cwd or Path.cwd(), "env": env and dict(env), "group": rest[-1]}
        asked["ignored"] = [number for number in INHERITED if signal.getsignal(number) == signal.SIG_IGN]
        self.pid = os.fork()
        if not self.pid:
            become({**asked, "targets": [0, 1, 2, *pass_fds]}, [*ends, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)


def can_fork(args):
    if sys.platform != "linux" or not isinstance(args, list):
        return False
    return args[:3] in (PROGRAM, CODE, *MEASURED) or args[:1] == INSTALLED


class Server:
    """The process that waits, seen from the tests."""

    def __init__(self):
        self.environment = {name: value for name, value in os.environ.items() if name != "MLX_DISABLE_COMPILE"}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        with theirs:
            command = [sys.executable, "-m", "tests.support.starts", str(theirs.fileno())]
            nothing = dict.fromkeys(("stdin", "stdout"), subprocess.DEVNULL)
            root = Path(__file__).parents[2]
            self._process = subprocess.Popen(
                command, cwd=root, env=self.environment, pass_fds=[theirs.fileno()], **nothing
            )
        atexit.register(self.end)

    def knows(self, environment):
        """Whether what its libraries have read of the environment when they were imported is the same."""
        return _read_early(environment) == _read_early(self.environment)

    def start(self, asked, descriptors):
        """Start a process; a socket that tells its id and, later, how it ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], [theirs.fileno(), *descriptors])
        return ours

    def end(self):
        self._socket.close()
        self._process.wait()


_servers = {}


def server(name):
    """The server of this process by that name; two differ in what is random in an interpreter, as the order of sets."""
    if (os.getpid(), name) not in _servers:
        _servers[os.getpid(), name] = Server()
    return _servers[os.getpid(), name]


def _read_early(environment):
    return {name: value for name, value in environment.items() if name.startswith(EARLY)}


def _exactly(stream, size):
    data = stream.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise EOFError("the process that forks has died")
    return data


# In the process that waits


def serve(connection):
    """Fork for each message. A fork of its own waits for what it has started, so that this one never has to."""
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, MOST_BYTES, 16)
        if not message:
            return
        asked = json.loads(message)
        prepare(asked["args"])
        gc.freeze()  # each run ends with a collection
        if not os.fork():
            keep(asked, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def prepare(args):
    """Import what such processes need."""
    if any(word.startswith("model.path=") for word in args):
        from transformers import AutoTokenizer  # noqa: F401


def keep(asked, descriptors):
    """Start what is asked for, tell its id, wait for it, tell how it ended."""
    status, *ends = descriptors
    pid = os.fork()
    if not pid:
        become(asked, ends)
    for end in ends:
        os.close(end)
    os.write(status, pid.to_bytes(STATUS, "big"))
    how = os.waitpid(pid, 0)[1]
    with suppress(OSError):  # nobody may wait for it
        os.write(status, how.to_bytes(STATUS, "big"))
    os._exit(0)


def become(asked, descriptors):
    """This fork is from now on the process that was asked for, and ends as one."""
    code = 1
    try:
        surround(asked, descriptors)
        code = status_of(lambda: work(asked["args"]))
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()  # private; a fork that went back to its beginning would wait for messages there
    finally:
        os._exit(code)


def surround(asked, descriptors):
    """Descriptors, folder, environment and signals as a program finds them at its start."""
    if asked["group"] is not None and asked["group"] >= 0:
        os.setpgid(0, asked["group"])
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 500) for one in descriptors]
    for one, target in zip(high, asked["targets"], strict=True):
        os.dup2(one, target, inheritable=True)
    kept = sorted(asked["targets"])
    for before, after in zip(kept, [*kept[1:], 4096], strict=True):
        os.closerange(before + 1, after)
    os.chdir(asked["cwd"])
    if asked["env"] is not None:
        os.environ.clear()
        os.environ.update(asked["env"])
        tempfile.tempdir = None
    encoding = os.environ.get("PYTHONIOENCODING")
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in INHERITED:
        signal.signal(number, signal.SIG_IGN if number in asked["ignored"] else signal.SIG_DFL)
    if signal.SIGINT not in asked["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python begins
    signal.set_wakeup_fd(-1)
    atexit._clear()  # what the process that waits had to do at its end
    subprocess.Popen = Forked


def work(args):
    if args[:3] == CODE:
        sys.argv = ["-c", *args[4:]]
        exec(args[3], {"__name__": "__main__"})
        return 0
    if args[:3] in MEASURED:
        sys.argv = args[2:]
        runpy.run_module(args[2], run_name="__main__")
        return 0
    from runner import cli

    name, words = (args[0], args[1:]) if args[:1] == INSTALLED else (cli.__file__, args[3:])
    sys.path[0] = str(Path.cwd())
    sys.argv = [name.replace("__init__", "__main__"), *words]
    return cli.main()


def status_of(work):
    """What the process ends with, as an interpreter has it."""
    try:
        code = work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code or 0


if __name__ == "__main__":
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import pandas  # noqa: F401, Arrow imports it for its first table

    import runner.cli.run
    import runner.cli.worker
    import runner.fleet.local
    import runner.session.session  # noqa: F401
    from runner.config.load import load_config

    for job in (["job=generate"], ["job=label", "job.labels=[a,b]"]):
        load_config(["engine.backend=fake", *job, "dataset=csv", "dataset.path=x", "prompt.user=x"])
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
