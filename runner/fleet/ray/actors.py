"""Seats behind actors of Ray, which are opened, called and ended."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pickle
import threading
import time
from collections.abc import Iterable
from typing import Any

from runner.fleet.handshake import opening
from runner.fleet.local import SeatProcess
from runner.fleet.protocol import GoneError, Spec, packed
from runner.fleet.ray.nodes import GPU, MLX, Actor, Need, actors_of, are_marked, nodes_of, seats_on
from runner.fleet.ray.quiet import undisturbed
from runner.fleet.ray.refusal import of_address, told

LOOK_S = 1.0  # between two looks for nodes
SILENT = 3  # calls of one a second, until it is not known what a head would say: one that opens a seat would hang
HEAD_CALLS = 30  # of one a second, until a head that does not answer is given up; Ray itself does so after 60 s
WAITS_S = 90.0  # for a place, until what has it is no process of ours that starts: Ray gives one 60 s
ENDING_S = 2.0  # for a seat's process to end
LEAVING_S = 10.0  # for Ray to take leave of a head, which it does for ever where that hangs
FREES_S = 10.0  # for Ray to free the place of a process that never started, where another program's task may stay


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
        self._marked = False  # and for good: a head is no seat because all others are gone for a while
        self._actors: list[Actor] = []  # of all programs, as long as some of ours start
        self._unanswered = 0  # calls of ``places`` since the head last said which nodes there are
        self._is_forgotten = False
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def places(self) -> list[str]:
        """See Transport. UserError once Ray could do no more here, without the head or its part of this machine."""
        self._unanswered += 1
        self._check()
        self._marked |= are_marked(self._nodes)
        seats = list(seats_on(self._nodes, marked=self._marked))
        self._names = {key: name for key, name in self._names.items() if key in [key for key, *_ in seats]}
        for key, host, need in seats:
            if key not in self._names:
                free = (f"{host}:{number}" for number in itertools.count(1))
                self._names[key] = next(name for name in free if name not in self._names.values())
            self._needs[self._names[key]] = need
        return list(self._names.values())

    def is_taken(self, place: str) -> bool | None:
        """See Transport."""
        if self._unanswered > SILENT:
            return None
        need, link = self._needs[place], self._links.get(place)
        nodes = [node for node in self._nodes if node.id == need.node]
        free = sum(node.free.get(need.resource, 0.0) for node in nodes)
        if link is not None and link.is_starting:
            return self._is_late(link, sum(node.total.get(need.resource, 0.0) for node in nodes), free)
        # What ours that start will take may count as free at their node.
        starting = [link for link in self._links.values() if link.need.node == need.node and link.is_starting]
        return free < need.amount * (1 + len(starting))

    def open(self, place: str, spec: Spec) -> RayLink:
        """See Transport."""
        need, before = self._needs[place], self._links.get(place)
        if before is not None and before.late_until and time.monotonic() < before.late_until:
            before.late_until = 0.0
            raise GoneError(f"because Ray gave it a place and started no process there within {WAITS_S:g} s")
        where = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(need.node, soft=False)
        takes = {"num_gpus": 1} if need.resource == GPU else {"resources": {need.resource: need.amount}}
        sharing = need.seats if need.resource == MLX or spec.engine.backend == "cpu" else 1
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
        leaving = threading.Thread(target=self._leave, daemon=True)
        with undisturbed():
            leaving.start()
            leaving.join(LEAVING_S)
        if leaving.is_alive():
            atexit.unregister(self._ray.shutdown)  # or this process would not end before the head answers

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    def _is_late(self, link: RayLink, total: float, free: float) -> bool:
        """Whether others were quicker, in the second between two looks: an actor, or a task, which Ray shows nobody."""
        need = link.need
        there = [actor for actor in self._actors if actor.node == need.node]
        if any(actor.id == link.actor_id for actor in there):
            return False
        left = total - sum(actor.takes.get(need.resource, 0.0) for actor in there)
        now = time.monotonic()
        if left < need.amount or free >= need.amount or now < link.opened + WAITS_S:
            return left < need.amount
        link.late_until = now + FREES_S  # if the place is free by then, it was this seat that had it
        return True

    def _check(self) -> None:
        if self._is_forgotten:
            what = "the cluster's head was started again and knows nothing of this run"
        elif all(node.id != self._here for node in self._nodes):
            what = "Ray on this machine has ended"
        elif self._unanswered > HEAD_CALLS:
            what = "the cluster's head does not answer any more"
        else:
            return
        raise of_address(self._address, f"{what}; once the cluster runs again, the same command goes on")

    def _look(self) -> None:
        """Ask which nodes there are, in a thread of its own: without a head there is no answer for a while."""
        while not self._is_over.wait(LOOK_S):
            try:
                nodes, starts = nodes_of(self._gcs), any(link.is_starting for link in list(self._links.values()))
                self._actors = actors_of(self._gcs) if starts else []
                self._nodes, self._unanswered = nodes, 0
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
        self.actor_id: str = actor._actor_id.hex()
        self.answer: Any = None
        self.opened = time.monotonic()
        self.is_starting = True  # Ray may not have given it its place yet
        self.late_until = 0.0  # if it is given up as late: the place was its own if it is free before that

    def call(self, method: str, *arguments: Any) -> None:
        """See Link."""
        self.answer = self._actor.answer.remote(packed((method, arguments)))

    def take(self) -> Any:
        """See Link."""
        self.is_starting = False
        try:
            said = pickle.loads(self._ray.get(self.answer))
        except self._ray.exceptions.RayError as error:
            return told(error)
        if isinstance(said, GoneError):
            raise said
        return said

    def kill(self) -> None:
        """See Link."""
        ending_s = 0.0 if self.is_starting else ENDING_S  # nothing runs as long as it waits for its place
        self.is_starting = False
        with contextlib.suppress(Exception):
            self._ray.wait([self._actor.end.remote()], timeout=ending_s)
            self._ray.kill(self._actor, no_restart=True)
