"""Seats on this machine: child processes, each at the other end of a pipe."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runner.fleet.hello import host
from runner.fleet.seat import Seat
from runner.fleet.wire import GoneError, Spec, packed
from runner.night.supervisor import ran_out, why_it_died

_START = "import json, sys; spec = json.loads(sys.argv[1]); sys.path[:] = spec['path']; \
import runner.fleet.local; runner.fleet.local.serve(spec['pipe'])"
_TAIL_BYTES = 8192
_ENDING_S = 5.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalTransport:
    """So many seats on this machine. ``environments``: what each has beside ours, such as which GPU it sees."""

    def __init__(self, seats: int, environments: Iterable[Mapping[str, str]] = ()) -> None:
        given = [*environments, *({} for _ in range(seats))][:seats]
        self._environments = {f"{host()}:{number}": one for number, one in enumerate(given, 1)}

    def places(self) -> list[str]:
        """See Transport."""
        return list(self._environments)

    def open(self, place: str, spec: Spec) -> LocalLink:
        """See Transport."""
        return LocalLink(spec, {**os.environ, **self._environments[place]})

    def wait(self, links: Iterable[LocalLink], timeout: float) -> list[LocalLink]:
        """See Transport."""
        by_pipe = {link.pipe: link for link in links}
        return [by_pipe[pipe] for pipe in multiprocessing.connection.wait(list(by_pipe), timeout)]  # type: ignore[index]

    def close(self) -> None:
        """See Transport."""


class LocalLink:
    """A child process of its own process group, so that no signal from the terminal reaches it."""

    def __init__(self, spec: Spec, environment: Mapping[str, str]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
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
        self.call("open", spec)

    def call(self, method: str, *arguments: Any) -> None:
        """See Link."""
        self.send(packed((method, arguments)))

    def take(self) -> Any:
        """See Link."""
        return pickle.loads(self.receive())

    def send(self, call: bytes) -> None:
        """A call as it goes through the pipe."""
        with contextlib.suppress(OSError):  # it has died: ``receive`` tells how
            self.pipe.send_bytes(call)

    def receive(self) -> bytes:
        """The next answer as it comes through the pipe. GoneError if there will be none."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise self._end() from None

    def kill(self) -> None:
        """See Link."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.pipe.close()
        self._said.close()

    def _end(self) -> GoneError:
        try:
            status = self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return GoneError("because its pipe broke")
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = self._said.read().decode(errors="replace")
        memory = ran_out(status, tail)
        return GoneError(why_it_died(status, memory), memory=memory)


def serve(descriptor: int) -> None:
    """The seat's process: answer calls until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe: Connection[Any, Any] = Connection(descriptor)
    seat: Seat | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pickle.loads(pipe.recv_bytes())
            if method == "open":
                seat = Seat(*arguments)
                continue
            pipe.send_bytes(packed(getattr(seat, method)(*arguments)))
    os._exit(0)  # whatever its model is at


def local_gpus() -> list[dict[str, str]]:
    """The environments of seats on this machine, one for each NVIDIA GPU; none without."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [{VISIBLE: name} for name in named.split(",") if name.strip()]
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    return [{VISIBLE: str(number)} for number in range(len(found))]
