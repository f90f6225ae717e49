r"""The supervisor: keeps the model in a child process, watches it, and restarts it when it dies.

If only the model's process dies, nothing needs to be done: ``rowmill run`` restarts it when it aborts, runs out of
memory (with smaller batches from then on) or finishes no step within ``engine.stall_minutes``. A row that was at work
in two deaths is run alone, and becomes an error row at the third. ``--no-supervise``, and ``rowmill.run`` in Python,
keep the model in the one process.

After any other end, run the same command again. Finished rows are kept, and recorded answers are not computed again.
Ctrl-C, SIGTERM, SIGHUP (a terminal that closes; not under ``nohup``), SIGQUIT and SIGXCPU (``ulimit -t``) end a run
after the step in progress and print the command that continues it; a third signal ends it at once. If the prompt, the
data, the model or the job has changed since, the run refuses and shows what differs: use another ``run_name``, or
``resume=force``, which starts over in a fresh folder and deletes nothing. Data files may move, since only their
contents count; so do the Python files of a job or filter of your own. ``resume=errors`` tries rows with an error once
more, say on a machine with more memory: what failed is asked again, all other answers are kept.

When rows were added to the data, the same command with ``resume=extend`` computes them alone. It can be used every
time: where there are no new rows, or no run yet, it does what the command does without it.

    rowmill run job=generate dataset=csv dataset.path=mail.csv 'prompt.user=Answer this mail. Mail: {{ text }}' \
        run_name=answered resume=extend

The earlier rows are verified against hashes that each shard has of them. If some have changed, moved or gone, they are
named, and nothing is computed. With ``dataset.key=id``, a column that identifies rows, all of this is allowed: rows may
come in any order, those whose prompt changed are computed again, and those that are gone leave the output, but their
answers stay in ``run.db`` should they come back. Every kind of data set may grow, also with ``where`` and ``limit``,
but not with ``shuffle_seed``. What a job found before its first answer, a prior or a temperature, stays. The output is
that of a run that had all rows from the start, except that of several rows with the same prompt another one may be the
one that was computed (``usage.cached_tokens``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from runner.checkpoint.deaths import Death, InFlight, read_flight
from runner.machine.facts import oom_kills
from runner.night.link import EXIT_CRASHED, EXIT_NO_MEMORY, NO_MEMORY
from runner.signals import heeded
from runner.types import EXIT_CANNOT_RUN, EXIT_INTERRUPTED, EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE

_FINAL = (EXIT_OK, EXIT_ROW_ERRORS, EXIT_USAGE, EXIT_CANNOT_RUN, EXIT_INTERRUPTED)
_LOOK_SECONDS = 0.5
_TAIL_BYTES = 8192
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")
_MAX_RESTARTS = 5  # until a worker says
_LOADING_SECONDS = 3600.0  # the least patience with a model that loads, which makes no steps
_START = "import json, sys; spec = json.loads(sys.argv[1]); sys.path[:] = spec['path']; \
import runner.cli.worker; sys.exit(runner.cli.worker.main(spec))"


def supervise(arguments: list[str], overrides: list[str]) -> int:
    """Run ``rowmill`` with these arguments in a worker until it ends by itself; its exit code, or 3 after giving up.

    ``overrides`` come behind the arguments; a worker may say that others go on with what it began.
    """
    supervisor = Supervisor(arguments, overrides)
    with supervisor.signals():
        return supervisor.run()


def opened_for(arguments: list[str]) -> set[int]:
    """The descriptors that a shell has opened for a program with these arguments: ``<(zcat mail.csv.gz)`` is one."""
    named = {int(number) for argument in arguments for number in _DESCRIPTOR.findall(argument)}
    return {number for number in named if Path(f"/dev/fd/{number}").exists()}


class WorkerProcess:
    """A child process of its own process group, so that a signal reaches it once, through the supervisor."""

    def __init__(self, arguments: list[str], began: float, death: Death | None) -> None:
        is_piped = sys.stdin is not None and not sys.stdin.isatty()
        stderr = os.dup(2)
        self.reports, reports = os.pipe()
        alive, self._alive = os.pipe()
        self.errors, errors = os.pipe()
        self._oom_kills = oom_kills()
        spec = {"arguments": arguments, "argv": sys.argv, "path": sys.path, "began": began, "death": death}
        spec |= {"stderr": stderr, "reports": reports, "alive": alive}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(spec)],
            pass_fds=(stderr, reports, alive, *opened_for(arguments)),
            stdin=None if is_piped and not death else subprocess.DEVNULL,  # what was read is gone
            stderr=errors,
            process_group=0,
        )
        for descriptor in (stderr, reports, alive, errors):
            os.close(descriptor)
        self.facts: dict[str, Any] = {}
        self.tail = self._part = b""
        self.ended: str | None = None  # by the supervisor, and why
        self.is_stopped = False
        self._flight = InFlight()
        self._still_s, self._looked = 0.0, time.monotonic()

    def send(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def listen(self) -> None:
        """Take what it reports and what its libraries say, for a moment; return early when it ends."""
        readable, _, _ = select.select([self.reports, self.errors], [], [], _LOOK_SECONDS)
        if self.errors in readable:
            self._hear()
        if self.reports in readable:
            *lines, self._part = (self._part + os.read(self.reports, 65536)).split(b"\n")
            for line in lines:
                self.facts |= json.loads(line)

    def _hear(self) -> bytes:
        said = os.read(self.errors, 65536)
        self.tail = (self.tail + said)[-_TAIL_BYTES:]
        with contextlib.suppress(OSError):
            os.write(2, said)
        return said

    def poll(self) -> int | None:
        """The exit status (negative: a signal) when it has ended; notes whether it is stopped."""
        pid, status = os.waitpid(self.process.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if not pid:
            return None
        self.is_stopped = os.WIFSTOPPED(status)
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode

    def look(self) -> None:
        """Kill it if it has made no step for too long. Time in which it, we or the machine slept does not count."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * _LOOK_SECONDS), now
        flight = self.flight()
        moved = flight.beats != self._flight.beats or self.is_stopped or not flight.working
        self._still_s = 0.0 if moved else self._still_s + passed
        self._flight = flight
        stall_s = self.facts.get("stall_s") or float("inf")
        stall_s = stall_s if flight.rows else max(stall_s, _LOADING_SECONDS)
        if self._still_s > stall_s and not self.ended:
            what = "no step" if flight.rows else "nothing came into its engine"
            self.ended = f"because it stalled: {what} in {stall_s / 60:g} minutes"
            self.send(signal.SIGKILL)

    def flight(self) -> InFlight:
        """What its session has in flight; nothing before it has one."""
        flight = read_flight(self.facts["run_dir"]) if "run_dir" in self.facts else InFlight()
        return flight if flight.session == self.facts.get("session") else InFlight()

    def was_cut_off(self, status: int) -> bool:
        """Whether a library ended it with an exit code of ours, as Ray does when its cluster is gone."""
        return status in (EXIT_OK, EXIT_ROW_ERRORS) and "session" in self.facts and "ended" not in self.facts

    def close(self) -> None:
        """Take its last words."""
        while select.select([self.errors], [], [], 0)[0] and self._hear():
            pass
        for descriptor in (self.reports, self.errors, self._alive):
            os.close(descriptor)

    def death(self, status: int) -> Death:
        """How it died, for the checkpoint."""
        no_memory = ran_out(status, self.tail.decode(errors="replace"), self._oom_kills)
        why = self.ended or why_it_died(status, no_memory)
        is_for_batches = no_memory and not self.ended and self.facts.get("has_model", True)  # else seats have it
        return Death(self.facts.get("session", 0), why, is_for_batches, self.facts.get("run_dir"))


def ran_out(status: int, said: str, oom_kills_before: int | None) -> bool:
    """Whether a process with this exit status, which ``said`` this at its end, seems to have lacked memory.

    ``oom_kills_before``: ``oom_kills`` when it was started. Where the kernel does not count, it may have killed it.
    """
    is_killed = status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    may_be_kernel = is_killed and (oom_kills_before is None or oom_kills() != oom_kills_before)
    return may_be_kernel or status == EXIT_NO_MEMORY or bool(NO_MEMORY.search(said))


def why_it_died(status: int, no_memory: bool) -> str:
    """The exit status of a process that died, in words that follow "died"."""
    if status in (EXIT_CRASHED, EXIT_NO_MEMORY):
        return "because memory ran out" if no_memory else "of an exception"
    name = f"signal {-status}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
    how = f"of {name}" if status < 0 else f"with exit code {status}"
    return f"{how}, as when memory runs out" if no_memory else how


class Supervisor:
    """Workers, one after the other, for one command line."""

    def __init__(self, arguments: list[str], overrides: list[str]) -> None:
        self.arguments, self.overrides = arguments, overrides
        self.began = time.monotonic()
        self.worker: WorkerProcess | None = None
        self.reported: dict[str, Any] = {}  # by the last worker that got as far as a session
        self.asked: list[int] = []  # signals to end, not yet passed on
        self.interrupted = 0

    def run(self) -> int:
        """See ``supervise``."""
        fruitless, death = 0, None
        while True:
            self.worker = worker = WorkerProcess([*self.arguments, *self.overrides], self.began, death)
            status = self._watch(worker)
            done = worker.flight().done
            self.reported = worker.facts if "notify" in worker.facts else self.reported
            worker.close()
            self.overrides = worker.facts.get("overrides", self.overrides)
            if status in _FINAL and not worker.was_cut_off(status):
                if death and "session" not in worker.facts and status in (EXIT_USAGE, EXIT_CANNOT_RUN):
                    self._notify("its process died, and the run could not go on: see what it says")
                return status
            if status == EXIT_CRASHED and "session" not in worker.facts:
                return EXIT_CANNOT_RUN  # our own mistake, and its traceback was shown
            death = worker.death(status)
            fruitless = 1 if done else fruitless + 1
            if self.interrupted:
                _say("interrupted; what was computed is safe, and the same command resumes it")
                return EXIT_INTERRUPTED
            if "ended" in worker.facts:
                return _without_figures(worker, death)
            if fruitless > worker.facts.get("max_restarts", _MAX_RESTARTS):
                return self._give_up(worker, death, fruitless)
            _say(f"the run's process died {death.why}; starting it again")

    def _watch(self, worker: WorkerProcess) -> int:
        while (status := worker.poll()) is None:
            worker.listen()
            worker.look()
            if worker.facts.get("ready") or signal.SIGKILL in self.asked:  # one that hangs may never be
                while self.asked:
                    worker.send(self.asked.pop(0))
        return status

    def _give_up(self, worker: WorkerProcess, death: Death, times: int) -> int:
        often = f"{times} times in a row without finishing a row, the last time" if times > 1 else "once,"
        what = f"the run's process died {often} {death.why}"
        resume = worker.facts.get("resume")
        _say(f"{what}\nwhat was computed is safe. To go on:\n{resume}" if resume else what)
        self._notify(what)
        return EXIT_CANNOT_RUN

    def _notify(self, what: str) -> None:
        """Tell the user of a failure that no worker can tell of."""
        if self.reported:
            from runner.night.notify import NotifyConf, notify

            folder = self.reported["folder"]
            notify(NotifyConf(**self.reported["notify"]), "failed", f"{Path(folder).name} failed: {what}", folder)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Pass signals on to the worker."""
        handlers = {**dict.fromkeys(heeded(), self._end), signal.SIGTSTP: self._suspend}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.interrupted += 1
        self.asked.append(number if self.interrupted < 3 else signal.SIGKILL)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z, which the terminal sends to us alone: the worker stops with us, and goes on with us."""
        if self.worker:
            self.worker.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.worker:
            self.worker.send(signal.SIGCONT)


def _without_figures(worker: WorkerProcess, death: Death) -> int:
    """The exit code of a run that had ended when its worker died, computing figures."""
    _say(f"the run is finished, but the process that computed its figures died {death.why}")
    _say(f"its rows are safe. To compute the figures again:\n{worker.facts['resume']}")
    return int(worker.facts["ended"])


def _say(line: str) -> None:
    from runner.console import tell
    from runner.words import without_hashes

    tell(f"\nrowmill: {without_hashes(line)}")
