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
from pathlib import Path
from typing import Any, NamedTuple

from runner.fleet.hello import opening, short
from runner.fleet.local import SeatProcess
from runner.fleet.wire import Failed, GoneError, Spec, packed
from runner.night.link import NO_MEMORY
from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import first_line

log = logging.getLogger("rowmill")

# Without the first, a Mac's address is 127.0.0.1.
SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_AUTO = "auto"
ANSWER_S = 10.0  # for a head to say something
_STDERR = 2
LOOK_S = 1.0  # between two looks for nodes
SILENT = 3  # calls of one a second, until it is not known what a head would say: one that opens a seat would hang
HEAD_CALLS = 30  # of one a second, until a head that does not answer is given up; Ray itself does so after 60 s
ENDING_S = 2.0  # for a seat's process to end
_SETTINGS, _FRAME = b"\4", 9  # how servers of HTTP/2, which gRPC goes over, begin; bytes of a frame's head
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)  # and how clients do
_GPU, _MLX = "GPU", "mlx"  # Ray's resource, and ours of a node with an Apple GPU
_NODE, _HEAD, _MOST = "node:", "node:__", 0.6  # every node has one of the first, and a seat more than half of that
_MISMATCH = re.compile(r"Ray: (\S+).*?Python: (\S+).*?Ray: (\S+).*?Python: (\S+)", re.DOTALL)
_BLAMELESS = re.compile(r"node (has died|was|is) |node failure|unavailable|[Oo]wner|preempt", re.IGNORECASE)
_NO_ROWMILL = re.compile(r"ModuleNotFoundError|No module named|failed to import|cannot import")
_REASON = re.compile(r"is dead because (.+?)(?:\.(?:\s|$)|\n|$)")
_NOT_REACHED = re.compile("all references to the actor were removed")  # Ray asks this process, which holds one
_NO_ANSWER = "no Ray cluster answers there"
_SAME_TOKEN = "RAY_AUTH_MODE must be the same here as where Ray was started, with the same ~/.ray/auth_token"
_HOW_REACHED = f"Ray cannot call this process from there: {_SAME_TOKEN}, and no firewall in between"
_OUT_OF_MEMORY = re.compile(r"\bOOM\b|low on memory")


def connect(address: str) -> RayTransport | None:
    """The way to a cluster; None if ``auto`` finds none. UserError if there is none at another address, or no Ray."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address != _AUTO:
        _place_of(address, address)
    try:
        import ray
    except ImportError as error:
        raise UserError("fleet", "it needs Ray: pip install -e '.[ray]'", value="ray") from error
    found, address = _found(ray._private.services) if address == _AUTO else (address, address)
    if not found:
        return None
    _check_answers(address, _place_of(found, address))
    try:
        with _undisturbed():
            ray.init(address=found, namespace="rowmill", logging_level=logging.CRITICAL, log_to_driver=False)
    except ConnectionError as error:
        raise _of_address(address, f"{_NO_ANSWER} ({first_line(error)}; where it does run, {_SAME_TOKEN})") from error
    except Exception as error:
        raise refused(address, error) from error
    return RayTransport(ray, address)


def _found(services: Any) -> tuple[str, str]:
    """What ``auto`` is, empty if nothing of Ray runs here, and both as they are shown.

    Ray also believes a file that the last cluster has left, and waits for minutes where that is gone.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        return named, f"{_AUTO} (RAY_ADDRESS={named})"
    with _unheard():
        found = services.canonicalize_bootstrap_address(_AUTO) if services.find_gcs_addresses() else ""
    return found, f"{_AUTO} ({found})"


def _place_of(address: str, shown: str) -> tuple[str, int]:
    """The host and the port. UserError for what else Ray takes: ``local`` starts a new cluster."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 1 << 16):
        problem = "it takes auto, or the host and port of the cluster's head, such as 10.0.0.5:6379"
        raise UserError("fleet.address", problem, value=shown)
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
        raise _of_address(address, f"{_NO_ANSWER} ({first_line(error)})") from error
    if said[3:4] != _SETTINGS:
        raise _of_address(address, f"{_NO_ANSWER} (something else listens)")


def _of_address(address: str, text: str) -> UserError:
    return UserError("fleet.address", text, value=address, exit_code=EXIT_CANNOT_RUN)


def refused(address: str, error: Exception) -> UserError:
    """Ray's exception as one line."""
    if found := _MISMATCH.search(str(error)):
        ray, python, our_ray, our_python = (word.rstrip(".,") for word in found.groups())
        there, here = f"Ray {ray} and Python {python}", f"Ray {our_ray} and Python {our_python}"
        same = "they must be the same, Python to the patch level"
        return _of_address(address, f"the cluster runs {there}, this machine {here}: {same}")
    return _of_address(address, f"Ray cannot connect: {first_line(error)}")


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
    try:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


class Node(NamedTuple):
    """A node that is alive: what Ray has there in all, and what nobody uses."""

    id: str
    host: str
    total: dict[str, float]
    free: dict[str, float]


class Need(NamedTuple):
    """What a seat takes of its node, where there can be ``seats``."""

    node: str
    resource: str
    amount: float
    seats: int


def nodes_of(gcs: Any) -> list[Node]:
    """The cluster's nodes. An exception where its head does not answer; ``ray.nodes`` may end the process instead."""
    usage = gcs.get_all_resource_usage(timeout=ANSWER_S).resource_usage_data.batch
    free = {node.node_id: dict(node.resources_available) for node in usage}
    return [
        Node(key.hex(), node.node_manager_hostname, dict(node.resources_total), free.get(key.binary(), {}))
        for key, node in gcs.get_all_node_info(timeout=ANSWER_S).items()
        if node.state == node.ALIVE
    ]


class RayTransport:
    """A seat on every node, or for every GPU of a node that has some that Ray knows."""

    def __init__(self, ray: Any, address: str) -> None:
        self._ray, self._address = ray, address
        self._names: dict[tuple[str, int], str] = {}  # of the seats on nodes, by node and number
        self._needs: dict[str, Need] = {}  # by name
        self._links: dict[str, RayLink] = {}  # the latest of each name
        self._actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=2)(Relay)
        self._here = ray.get_runtime_context().get_node_id()
        self._gcs = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
        self._nodes = nodes_of(self._gcs)
        self._unanswered = 0  # calls of ``places`` since the head last said which nodes there are
        self._is_forgotten = False
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def places(self) -> list[str]:
        """See Transport. UserError once Ray could do no more here, without the head or its part of this machine."""
        self._unanswered += 1
        self._check()
        seats = list(seats_on(self._nodes))
        self._names = {key: name for key, name in self._names.items() if key in [key for key, *_ in seats]}
        for key, host, need in seats:
            if key not in self._names:
                free = (f"{host}:{number}" for number in itertools.count(1))
                self._names[key] = next(name for name in free if name not in self._names.values())
            self._needs[self._names[key]] = need
        return list(self._names.values())

    def is_taken(self, place: str) -> bool | None:
        """See Transport. A seat of ours that has just been opened may count as free at its node."""
        need = self._needs[place]
        starting = [link for link in self._links.values() if link.need.node == need.node and link.is_starting]
        free = sum(node.free.get(need.resource, 0.0) for node in self._nodes if node.id == need.node)
        is_known = self._unanswered <= SILENT
        return free < need.amount * (1 + len(starting)) if is_known else None

    def open(self, place: str, spec: Spec) -> RayLink:
        """See Transport."""
        need = self._needs[place]
        where = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(need.node, soft=False)
        takes = {"num_gpus": 1} if need.resource == _GPU else {"resources": {need.resource: need.amount}}
        sharing = need.seats if need.resource == _MLX or spec.engine.backend == "cpu" else 1
        actor = self._actor.options(scheduling_strategy=where, **takes).remote(opening(spec._replace(sharing=sharing)))
        self._links[place] = RayLink(self._ray, actor, need)
        return self._links[place]

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

    def _check(self) -> None:
        if self._is_forgotten:
            what = "the cluster's head was started again and knows nothing of this run"
        elif all(node.id != self._here for node in self._nodes):
            what = "Ray on this machine has ended"
        elif self._unanswered > HEAD_CALLS:
            what = "the cluster's head does not answer any more"
        else:
            return
        raise _of_address(self._address, f"{what}; once the cluster runs again, the same command goes on")

    def _look(self) -> None:
        """Ask which nodes there are, in a thread of its own: without a head there is no answer for a while."""
        while not self._is_over.wait(LOOK_S):
            try:
                self._nodes, self._unanswered = nodes_of(self._gcs), 0
            except Exception as error:
                self._is_forgotten |= "WrongClusterID" in str(error)  # says a head that was started again


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

    def __init__(self, ray: Any, actor: Any, need: Need) -> None:
        self._ray, self._actor, self.need = ray, actor, need
        self.answer: Any = None
        self.is_starting = True  # Ray may not have given it its place yet

    def call(self, method: str, *arguments: Any) -> None:
        """See Link."""
        self.answer = self._actor.answer.remote(packed((method, arguments)))

    def take(self) -> Any:
        """See Link."""
        self.is_starting = False
        try:
            said = pickle.loads(self._ray.get(self.answer))
        except self._ray.exceptions.RayError as error:
            return _told(error)
        if isinstance(said, GoneError):
            raise said
        return said

    def kill(self) -> None:
        """See Link."""
        self.is_starting = False
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
    found = _REASON.search(said)
    why = f"because {found[1]}" if found else f"of what Ray calls: {_last_line(said)}"
    raise GoneError("because memory ran out" if memory else why, memory=memory)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1].strip()


def seats_on(nodes: list[Node]) -> Iterator[tuple[tuple[str, int], str, Need]]:
    """The seats there can be on these nodes: node and number, host, what it takes of the node."""
    marked = any(node.total.get(name) for node in nodes for name in (_GPU, _MLX))
    for node in nodes:
        count, amount = 1, _MOST
        if marked:
            resource = _GPU if node.total.get(_GPU) else _MLX
            count, amount = int(node.total.get(resource, 0)), 1.0
        else:
            resource = next(name for name in node.total if name.startswith(_NODE) and not name.startswith(_HEAD))
        for number in range(count):
            yield (node.id, number), short(node.host), Need(node.id, resource, amount, count)
