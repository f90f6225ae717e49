"""Seats on this machine: child processes, each at the other end of a pipe."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runner.fleet.handshake import host, opened, opening
from runner.fleet.protocol import Failed, GoneError, Spec, packed
from runner.fleet.seat import Seat
from runner.machine.facts import oom_kills
from runner.night.supervisor import ran_out, why_it_died

_START = "import json, sys; spec = json.loads(sys.argv[1]); sys.path[:] = spec['path']; \
import runner.fleet.local; runner.fleet.local.serve(spec['pipe'])"
_TAIL_BYTES = 8192
_ENDING_S = 5.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalTransport:
    """So many seats on this machine. ``environments``: what each has beside ours, such as which GPU it sees."""

    def __init__(self, seats: int, environments: Iterable[Mapping[str, str]] = ()) -> None:
        given = list(itertools.islice(itertools.cycle([*environments] or [{}]), seats))
        self._environments = {f"{host()}:{number}": one for number, one in enumerate(given, 1)}
        self._answered = threading.Condition()

    def places(self) -> list[str]:
        """See Transport."""
        return list(self._environments)

    def is_taken(self, place: str) -> bool:
        """See Transport."""
        return False

    def open(self, place: str, spec: Spec) -> LocalLink:
        """See Transport."""
        environment = self._environments[place]
        everyone = list(self._environments.values())
        sharing = len(everyone) if spec.engine.backend == "cpu" else everyone.count(environment)
        spec = spec._replace(sharing=sharing)
        return LocalLink(SeatProcess(opening(spec), {**os.environ, **environment}), self._answered)

    def wait(self, links: Iterable[LocalLink], timeout: float) -> list[LocalLink]:
        """See Transport."""
        links = list(links)
        with self._answered:
            self._answered.wait_for(lambda: any(link.answer is not None for link in links), timeout)
            return [link for link in links if link.answer is not None]

    def close(self) -> None:
        """See Transport."""


class LocalLink:
    """A seat's process, to which a thread talks: one that is stopped or hangs in the middle of that stops nobody."""

    def __init__(self, seat: SeatProcess, answered: threading.Condition) -> None:
        self.process = seat.process
        self.answer: bytes | GoneError | None = None
        self._seat, self._answered = seat, answered
        self._calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> None:
        """See Link."""
        self._calls.put(packed((method, arguments)))

    def take(self) -> Any:
        """See Link."""
        answer, self.answer = self.answer, None
        if isinstance(answer, GoneError):
            raise answer
        return pickle.loads(answer or b"")

    def kill(self) -> None:
        """See Link."""
        self._calls.put(None)
        self._seat.kill()
        self._thread.join(_ENDING_S)
        self._seat.close()

    def _talk(self) -> None:
        while (call := self._calls.get()) is not None:
            answer: bytes | GoneError
            try:
                answer = self._seat.answer(call)
            except GoneError as error:
                answer = error
            with self._answered:
                self.answer = answer
                self._answered.notify_all()


class SeatProcess:
    """A child process of its own process group: no signal from the terminal reaches it. ``first``: see ``opening``.

    GoneError if it cannot be started.
    """

    def __init__(self, first: bytes, environment: Mapping[str, str]) -> None:
        try:
            self._start(environment)
        except OSError as error:
            raise GoneError(f"because no process can be started ({error})") from error
        with contextlib.suppress(OSError):  # it has died: ``answer`` tells how
            self._pipe.send_bytes(first)

    def answer(self, call: bytes) -> bytes:
        """What the seat answers to a packed call. GoneError if it will not."""
        try:
            self._pipe.send_bytes(call)
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise self._end() from None

    def kill(self) -> None:
        """End the process; may be repeated."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Close what led to it."""
        self._pipe.close()
        self._said.close()

    def _start(self, environment: Mapping[str, str]) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._oom_kills = oom_kills()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        start = json.dumps({"path": sys.path, "pipe": theirs.fileno()})
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, start],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                process_group=0,
                env=environment,
            )

    def _end(self) -> GoneError:
        try:
            status = self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return GoneError("because its pipe broke")
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = self._said.read().decode(errors="replace")
        memory = ran_out(status, tail, self._oom_kills)
        return GoneError(why_it_died(status, memory), memory=memory)


def serve(descriptor: int) -> None:
    """The seat's process: answer calls until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        spec = opened(pipe.recv_bytes())
        seat = None if isinstance(spec, Failed) else Seat(spec)
        while True:
            method, arguments = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(packed(getattr(seat, method)(*arguments) if seat else spec))
    os._exit(0)  # whatever its model is at


def local_gpus() -> list[dict[str, str]]:
    """The environments of seats on this machine, one for each NVIDIA GPU; none without."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [{VISIBLE: name} for name in named.split(",") if name.strip()]
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    return [{VISIBLE: str(number)} for number in range(len(found))]
