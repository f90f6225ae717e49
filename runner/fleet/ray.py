"""Seats on the nodes of a Ray cluster, which does all that lies between machines.

Zero restarts on purpose: the driver decides what happens to a seat that died, and to its rows.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import re
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from runner.fleet.hello import opening
from runner.fleet.local import SeatProcess
from runner.fleet.wire import Failed, GoneError, Spec, packed
from runner.night.link import NO_MEMORY
from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import first_line

log = logging.getLogger("rowmill")

SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # else a Mac's address is 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
}
_AUTO = "auto"
ANSWER_S = 10.0  # for a first sign of a cluster
_STDERR = 2
LOOK_S = 1.0  # between two looks for nodes
HEAD_CALLS = 30  # of one a second, until a head that does not answer is given up; Ray itself does so after 60 s
ENDING_S = 2.0  # for a seat's process to end
_SETTINGS, _FRAME = b"\4", 9  # how servers of HTTP/2, which gRPC goes over, begin; bytes of a frame's head
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)  # and how clients do
_MLX = "mlx"  # the resource of a node with an Apple GPU
_MISMATCH = re.compile(r"Ray: (\S+).*?Python: (\S+).*?Ray: (\S+).*?Python: (\S+)", re.DOTALL)
_BLAMELESS = re.compile(r"node (has died|was|is) |node failure|unavailable|[Oo]wner|preempt", re.IGNORECASE)
_NO_ROWMILL = re.compile(r"ModuleNotFoundError|No module named|failed to import|cannot import")
_REASON = re.compile(r"is dead because (.+?)(?:\.(?:\s|$)|\n|$)")
_NOT_REACHED = re.compile("all references to the actor were removed")  # Ray asks this process, which holds one
_SAME_TOKEN = "RAY_AUTH_MODE must be the same here as where Ray was started, with the same ~/.ray/auth_token"
_HOW_REACHED = f"Ray cannot call this process from there: {_SAME_TOKEN}, and no firewall in between"
_OUT_OF_MEMORY = re.compile(r"\bOOM\b|low on memory")


def connect(address: str) -> RayTransport | None:
    """The way to a cluster; None if ``auto`` finds none. UserError if there is none at another address, or no Ray."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    place = _place_of(address)
    try:
        import ray
    except ImportError as error:
        raise UserError("fleet", "it needs Ray: pip install -e '.[ray]'", value="ray") from error
    if place is not None:
        _check_answers(address, place)
    try:
        with _undisturbed():
            ray.init(address=address, namespace="rowmill", logging_level=logging.CRITICAL, log_to_driver=False)
    except ConnectionError as error:
        if address == _AUTO:
            return None
        raise _no_answer(address, f"{first_line(error)}; where it does run, {_SAME_TOKEN}") from error
    except Exception as error:
        raise refused(address, error) from error
    return RayTransport(ray, address)


def _place_of(address: str) -> tuple[str, int] | None:
    """The host and the port; None for ``auto``. UserError for what else Ray takes: ``local`` starts a new cluster."""
    if address == _AUTO:
        return None
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 1 << 16):
        problem = "it takes auto, or the host and port of the cluster's head, such as 10.0.0.5:6379"
        raise UserError("fleet.address", problem, value=address)
    return host.strip("[]"), int(port)


def _check_answers(address: str, place: tuple[str, int]) -> None:
    """Raise UserError where nothing listens, or what is no server of gRPC: Ray itself would wait for minutes."""
    try:
        with socket.create_connection(place, ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_PREFACE)
            said = connection.recv(_FRAME)
    except OSError as error:
        raise _no_answer(address, first_line(error)) from error
    if said[3:4] != _SETTINGS:
        raise _no_answer(address, "something else listens")


def _no_answer(address: str, why: str) -> UserError:
    text = f"no Ray cluster answers there ({why})"
    return UserError("fleet.address", text, value=address, exit_code=EXIT_CANNOT_RUN)


def refused(address: str, error: Exception) -> UserError:
    """Ray's exception as one line."""
    if found := _MISMATCH.search(str(error)):
        ray, python, our_ray, our_python = (word.rstrip(".,") for word in found.groups())
        there, here = f"Ray {ray} and Python {python}", f"Ray {our_ray} and Python {our_python}"
        text = f"the cluster runs {there}, this machine {here}: they must be the same, Python to the patch level"
        return UserError("fleet.address", text, value=address, exit_code=EXIT_CANNOT_RUN)
    text = f"Ray cannot connect: {first_line(error)}"
    return UserError("fleet.address", text, value=address, exit_code=EXIT_CANNOT_RUN)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ray puts handlers of its own in place of ours, and its libraries write to the standard error as they like."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        with _unheard():
            yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: neither did Ray
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What is written to the standard error, also by libraries in C++, is lost."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # closed: so it is anyhow
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDERR)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


class RayTransport:
    """A seat on every node, or for every GPU of a node that has some that Ray knows."""

    def __init__(self, ray: Any, address: str) -> None:
        self._ray, self._address = ray, address
        self._names: dict[tuple[str, int], str] = {}  # of the seats on nodes, by node and number
        self._needs: dict[str, tuple[str, dict[str, Any]]] = {}  # the node of each name, and what a seat takes of it
        self._actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=2)(Relay)
        self._here = ray.get_runtime_context().get_node_id()
        self._nodes: list[dict[str, Any]] = ray.nodes()
        self._unanswered = 0  # calls of ``places`` since the head last said which nodes there are
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def places(self) -> list[str]:
        """See Transport. UserError once Ray could do no more here, without the head or its part of this machine."""
        self._unanswered += 1
        nodes = [node for node in self._nodes if node["Alive"]]
        ended = all(node["NodeID"] != self._here for node in nodes)
        if ended or self._unanswered > HEAD_CALLS:
            what = "Ray on this machine has ended" if ended else "the cluster's head does not answer any more"
            text = f"{what}; once it runs again, the same command goes on"
            raise UserError("fleet.address", text, value=self._address, exit_code=EXIT_CANNOT_RUN)
        seats = list(seats_on(nodes))
        self._names = {key: name for key, name in self._names.items() if key in [key for key, *_ in seats]}
        for key, host, needs in seats:
            if key not in self._names:
                free = (f"{host}:{number}" for number in itertools.count(1))
                self._names[key] = next(name for name in free if name not in self._names.values())
            self._needs[self._names[key]] = key[0], needs
        return list(self._names.values())

    def open(self, place: str, spec: Spec) -> RayLink:
        """See Transport."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node, needs = self._needs[place]
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        return RayLink(self._ray, self._actor.options(scheduling_strategy=where, **needs).remote(opening(spec)))

    def wait(self, links: Iterable[RayLink], timeout: float) -> list[RayLink]:
        """See Transport."""
        by_answer = {link.answer: link for link in links}
        answers = list(by_answer)
        ready, _ = self._ray.wait(answers, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        return [by_answer[answer] for answer in ready]

    def close(self) -> None:
        """See Transport."""
        self._is_over.set()
        with contextlib.suppress(Exception), _undisturbed():
            self._ray.shutdown()

    def _look(self) -> None:
        """Ask which nodes there are, in a thread of its own: without a head there is no answer for minutes."""
        while not self._is_over.wait(LOOK_S):
            with contextlib.suppress(Exception):
                self._nodes, self._unanswered = self._ray.nodes(), 0


class Relay:
    """An actor that hands calls on to a seat, whose process Ray is kept out of: its threads would delay steps."""

    def __init__(self, first: bytes) -> None:
        self._seat = SeatProcess(first, os.environ)

    def answer(self, call: bytes) -> bytes:
        """What the seat answers, or how it ended."""
        try:
            return self._seat.answer(call)
        except GoneError as error:
            return packed(error)

    def end(self) -> None:
        """End the seat's process, whatever it is at."""
        self._seat.kill()


class RayLink:
    """A seat behind an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.answer: Any = None

    def call(self, method: str, *arguments: Any) -> None:
        """See Link."""
        self.answer = self._actor.answer.remote(packed((method, arguments)))

    def take(self) -> Any:
        """See Link."""
        try:
            said = pickle.loads(self._ray.get(self.answer))
        except self._ray.exceptions.RayError as error:
            return _told(error)
        if isinstance(said, GoneError):
            raise said
        return said

    def kill(self) -> None:
        """See Link."""
        with contextlib.suppress(Exception):
            self._ray.wait([self._actor.end.remote()], timeout=ENDING_S)
            self._ray.kill(self._actor, no_restart=True)


def _told(error: Exception) -> Failed:
    """What Ray says of a seat that is gone. GoneError unless it can never be otherwise."""
    said = str(error)
    if _NOT_REACHED.search(said) and "never ran" in said:
        return Failed(_HOW_REACHED, is_final=True)
    if _NO_ROWMILL.search(said):
        return Failed(f"rowmill cannot be imported there: {_last_line(said)}", is_final=True)
    memory = bool(_OUT_OF_MEMORY.search(said) or NO_MEMORY.search(said))
    is_blameless = not memory and (bool(_BLAMELESS.search(said)) or type(error).__name__ == "ActorUnavailableError")
    if is_blameless:
        raise GoneError("because its node is gone", is_blameless=True)
    raise GoneError("because memory ran out" if memory else _why(said), memory=memory)


def _why(said: str) -> str:
    """The reason that Ray gives, up to the details."""
    found = _REASON.search(said)
    return f"because {found[1]}" if found else f"of what Ray calls: {_last_line(said)}"


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1].strip()


def seats_on(nodes: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, int], str, dict[str, Any]]]:
    """The seats there can be on these nodes: node and number, host, what it takes of the node."""
    marked = any(node["Resources"].get(name) for node in nodes for name in ("GPU", _MLX))
    for node in nodes:
        resources = node["Resources"]
        count = 0 if marked else 1
        needs: dict[str, Any] = {}
        if resources.get("GPU"):
            count, needs = int(resources["GPU"]), {"num_gpus": 1}
        elif resources.get(_MLX):
            count, needs = int(resources[_MLX]), {"resources": {_MLX: 1}}
        host = str(node["NodeManagerHostname"]).partition(".")[0]
        for number in range(count):
            yield (str(node["NodeID"]), number), host, needs
