"""Where a Ray cluster has places for seats, and what is said of one that has none; needs no Ray."""

import atexit
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from runner.engine.conf import EngineConf
from runner.fleet import handshake, member, membership, start
from runner.fleet.conf import FleetConf
from runner.fleet.protocol import GoneError, Spec, packed
from runner.fleet.ray import actors
from runner.fleet.ray.connect import connect
from runner.fleet.ray.nodes import Need, Node, are_marked, seats_on
from runner.models.recipes import ModelConf
from runner.types import UserError
from tests.support.stores import open_store


@pytest.mark.parametrize("address", ["local", "10.0.0.5", "ray://10.0.0.5:10001", "10.0.0.5:99999", ":6379", ""])
def test_an_address_without_host_and_port_is_refused_before_ray_takes_it_for_something_else(address):
    with pytest.raises(UserError, match=r"^fleet.address=.*such as 10.0.0.5:6379$"):
        connect(address)


def last_places(transport):
    while transport.places():
        time.sleep(0.001)


class Id(str):
    """A node's name as Ray has it."""

    def hex(self):
        return str(self)

    def binary(self):
        return self.encode()


class Head:
    """A cluster's head, which says what each node has free; an exception in its place is raised."""

    def __init__(self, **free):
        self.free, self.error, self.total = free, None, {"node:__internal_head__": 1.0, "node:10.0.0.5": 1.0}
        self.actors, self.opened, self.looks = {}, [], 0

    def open(self, _):
        """An actor that nothing is known of yet."""
        self.opened.append(Id(f"actor {len(self.opened)}"))
        return SimpleNamespace(_actor_id=self.opened[-1])

    async def async_get_all_actor_info(self, actor_state_name, timeout):
        self.looks += 1
        return {
            key: SimpleNamespace(node_id=Id(node), required_resources=takes)
            for key, (node, takes) in self.actors.items()
        }

    def looked(self):
        """Wait until what the cluster is like now is known."""
        wanted = self.looks + 2
        while self.looks < wanted:
            time.sleep(0.001)

    def get_all_resource_usage(self, timeout):
        if self.error:
            raise self.error
        batch = [SimpleNamespace(node_id=name.encode(), resources_available=free) for name, free in self.free.items()]
        return SimpleNamespace(resource_usage_data=SimpleNamespace(batch=batch))

    def get_all_node_info(self, timeout):
        return {
            Id(name): SimpleNamespace(
                state=0, ALIVE=0, node_manager_hostname=f"{name}.local", resources_total=self.total
            )
            for name in self.free
        }

    def transport(self):
        """The way to this cluster from its node ``here``."""
        context = SimpleNamespace(get_node_id=lambda: "here", gcs_address="10.0.0.5:6379")
        actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.open))
        module = SimpleNamespace(get_runtime_context=lambda: context, remote=lambda **_: lambda _: actor)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
        module.util, module.shutdown = SimpleNamespace(scheduling_strategies=strategies), lambda: None
        module._raylet = SimpleNamespace(GcsClient=lambda address: self)  # private: Ray has no other way to ask it
        return actors.RayTransport(module, context.gcs_address)


@pytest.mark.parametrize(
    ("free", "error", "line"),
    [
        ({"here": {}}, TimeoutError(), "the cluster's head does not answer any more"),
        ({"mac": {}}, None, "Ray on this machine has ended"),
        ({"here": {}}, RuntimeError("WrongClusterID: perhaps"), "the cluster's head was started again and knows"),
    ],
)
def test_a_cluster_without_its_head_or_this_machine_ends_the_run_before_ray_ends_the_process(
    free, error, line, monkeypatch
):
    head = Head(here={})
    monkeypatch.setattr(actors, "LOOK_S", 0.001)
    transport = head.transport()
    head.free, head.error = free, error
    with pytest.raises(UserError, match=f"^fleet.address=10.0.0.5:6379: {line}.*; once the cluster runs") as raised:
        last_places(transport)
    assert raised.value.exit_code == 3
    transport.close()


def test_nobody_waits_for_ever_for_a_head_that_hangs_neither_now_nor_at_the_end_of_the_process(monkeypatch):
    forgotten, hangs = [], threading.Event()
    monkeypatch.setattr(actors, "LEAVING_S", 0.001)
    monkeypatch.setattr(atexit, "unregister", forgotten.append)
    transport = Head(here={}).transport()
    leave = transport._ray.shutdown = lambda: hangs.wait()  # private: the double of Ray's module
    transport.close()
    assert forgotten == [leave]
    hangs.set()


@pytest.mark.parametrize(
    ("total", "taken"),
    [
        ({"mlx": 1.0}, [{"mlx": 0.0}, {"mlx": 1.0}]),
        ({"mlx": 1.0}, [{}, {"mlx": 1.0}]),
        ({}, [{"node:10.0.0.5": 0.4}, {"node:10.0.0.5": 1.0}]),
    ],
)
def test_a_seat_that_another_program_has_is_waited_for_while_others_are_opened(total, taken, monkeypatch):
    head = Head(here=taken[0], mac=taken[1])
    head.total |= total
    monkeypatch.setattr(actors, "LOOK_S", 3600.0)
    transport = head.transport()
    assert [(place, transport.is_taken(place)) for place in transport.places()] == [("here:1", True), ("mac:1", False)]


def test_seats_on_one_mac_share_its_memory_and_a_name_that_is_an_address_stays_whole(monkeypatch):
    opened = []
    monkeypatch.setattr(actors, "opening", opened.append)
    monkeypatch.setattr(actors, "LOOK_S", 3600.0)
    for total, backend in [({"mlx": 2.0}, "auto"), ({"GPU": 2.0}, "auto"), ({"GPU": 2.0}, "cpu")]:
        head = Head(here={})
        head.total |= total
        transport = head.transport()
        (place, _) = transport.places()
        transport.open(place, Spec(ModelConf(), EngineConf(backend=backend)))
    assert [spec.sharing for spec in opened] == [2, 1, 2]
    assert [handshake.short(name) for name in ("10.0.0.7", "mac.local", "")] == ["10.0.0.7", "mac", "localhost"]


def test_no_seat_is_opened_while_the_head_is_silent(monkeypatch):
    monkeypatch.setattr(actors, "LOOK_S", 3600.0)
    transport = Head(here={"node:10.0.0.5": 1.0}).transport()
    said = [transport.is_taken(place) for _ in range(actors.SILENT + 2) for place in transport.places()]
    assert said == [False] * actors.SILENT + [None, None]


def test_seats_of_ours_that_start_count_as_taken_until_they_answer(monkeypatch):
    head = Head(here={"GPU": 2.0})  # two of four are another program's
    head.total |= {"GPU": 4.0}
    monkeypatch.setattr(actors, "LOOK_S", 3600.0)
    transport = head.transport()
    assert transport.places() == ["here:1", "here:2", "here:3", "here:4"]
    links = []
    for place in transport.places():
        links += [] if transport.is_taken(place) else [transport.open(place, Spec(ModelConf(), EngineConf()))]
    assert len(links) == 2
    links[0].kill()
    assert not transport.is_taken("here:4")


@pytest.mark.parametrize(("total", "takes"), [({"GPU": 2.0}, {"GPU": 1.0}), ({}, {"node:10.0.0.5": 0.6})])
def test_a_seat_to_whose_place_another_program_was_quicker_waits_there(total, takes, monkeypatch):
    head = Head(here={**total, "node:10.0.0.5": 1.0})
    head.total |= total
    monkeypatch.setattr(actors, "LOOK_S", 0.001)
    transport = head.transport()
    places = transport.places()
    for place in places:
        transport.open(place, Spec(ModelConf(), EngineConf()))
    head.free["here"] = {}  # Ray keeps places for those of ours that are about to start
    head.looked()
    assert not any(transport.is_taken(place) for place in transport.places())
    head.actors = {Id("another's"): ("here", takes), Id("elsewhere"): ("mac", takes)}
    head.actors |= dict.fromkeys(head.opened[1:], ("here", takes))
    head.looked()
    assert [transport.is_taken(place) for place in transport.places()] == [True] + [False] * (len(places) - 1)
    transport.close()


@pytest.mark.parametrize(("free", "taken"), [({}, [False, True]), ({"node:10.0.0.5": 1.0}, [False, False])])
def test_a_seat_whose_place_a_task_has_waits_there_only_as_long_as_it_may_be_its_own_start(free, taken, monkeypatch):
    """Ray shows actors, and nobody what else has taken what a node has."""
    head, found = Head(here={"node:10.0.0.5": 1.0}), []
    monkeypatch.setattr(actors, "LOOK_S", 0.001)
    transport = head.transport()
    (place,) = transport.places()
    transport.open(place, Spec(ModelConf(), EngineConf()))
    head.free["here"] = free
    for waits_s in (3600.0, -1.0):
        monkeypatch.setattr(actors, "WAITS_S", waits_s)
        head.looked()
        found.append(transport.is_taken(place))
    head.actors[head.opened[0]] = ("here", {"node:10.0.0.5": 0.6})
    head.looked()
    assert found == taken and not transport.is_taken(place)
    transport.close()


class Stuck(Head):
    """A head that gives actors their place, and never starts a process for them."""

    def open(self, _):
        self.free["here"] = {}
        called = SimpleNamespace(remote=lambda *_: None)
        return SimpleNamespace(_actor_id=Id("ours"), answer=called, end=called)

    def transport(self):
        found = super().transport()
        found._ray.wait = lambda answers, **_: (time.sleep(0.01) or [], answers)  # private: the double of Ray's module
        found._ray.kill = lambda *_, **__: self.free.update(here={"node:10.0.0.5": 1.0})
        return found


def test_a_seat_that_ray_can_never_start_is_left_out_and_none_left_is_exit_code_3(monkeypatch, tmp_path, caplog):
    transport = Stuck(here={"node:10.0.0.5": 1.0}).transport()
    monkeypatch.setattr(start, "transport_of", lambda conf: transport)
    for module, name in [(actors, "LOOK_S"), (membership, "SEARCH_S"), (member, "_LONGEST_PAUSE_S")]:
        monkeypatch.setattr(module, name, 0.001)
    monkeypatch.setattr(actors, "WAITS_S", 0.0)
    for name in ("SILENT", "HEAD_CALLS"):
        monkeypatch.setattr(actors, name, 1_000_000)
    spec = Spec(ModelConf(), EngineConf(backend="fake", max_restarts=2), keep_awake=False)
    ours = handshake.handshake_of(None)
    line = "no seat is left: here:1: it died 3 times in a row, the last time because Ray gave it a place and started no"
    with open_store(tmp_path / "run") as store, pytest.raises(UserError, match=line) as raised:
        start.open_fleet(FleetConf(), spec, ours, store, lambda *_: True, lambda: False, lambda doing: None)
    assert raised.value.exit_code == 3 and caplog.text.count("seat here:1 died because Ray gave it a place") == 2


@pytest.mark.parametrize("frees_s", [3600.0, -1.0])
def test_a_place_that_is_free_long_after_its_seat_was_given_up_was_another_programs(frees_s, monkeypatch):
    head = Stuck(here={"node:10.0.0.5": 1.0})
    monkeypatch.setattr(actors, "LOOK_S", 0.001)
    monkeypatch.setattr(actors, "WAITS_S", 0.0)
    monkeypatch.setattr(actors, "FREES_S", frees_s)
    transport = head.transport()
    (place,) = transport.places()
    link = transport.open(place, Spec(ModelConf(), EngineConf()))
    while not transport.is_taken(place):
        time.sleep(0.001)
    link.kill()
    while transport.is_taken(place):
        time.sleep(0.001)
    if frees_s > 0:
        with pytest.raises(GoneError, match="started no process there"):
            transport.open(place, Spec(ModelConf(), EngineConf()))
    assert transport.open(place, Spec(ModelConf(), EngineConf())).is_starting
    transport.close()


@pytest.mark.parametrize(("answers", "waited_s"), [(False, 0.0), (True, actors.ENDING_S)])
def test_nobody_waits_for_the_end_of_a_seat_that_has_no_place_yet(answers, waited_s):
    waited, killed = [], []
    ended = SimpleNamespace(remote=lambda: None)
    actor = SimpleNamespace(_actor_id=Id("ours"), end=ended)
    ray = SimpleNamespace(
        get=lambda _: packed(None),
        wait=lambda _, timeout: waited.append(timeout),
        kill=lambda one, no_restart: killed.append(one),
    )
    link = actors.RayLink(ray, actor, None)
    if answers:
        link.take()
    link.kill()
    assert waited == [waited_s] and killed == [actor]


def test_a_head_is_no_seat_because_the_marked_nodes_are_gone_for_a_while(monkeypatch):
    monkeypatch.setattr(actors, "LOOK_S", 3600.0)
    transport = Head(here={}).transport()
    (head,) = transport._nodes  # Takes a private name: what is known of nodes at one moment.
    mac = head._replace(id="mac", host="mac", total={**head.total, "mlx": 1.0})
    for nodes, places in [([head, mac], ["mac:1"]), ([head], []), ([head, mac], ["mac:1"])]:
        transport._nodes = nodes
        assert transport.places() == places


def test_every_gpu_that_ray_knows_and_every_marked_mac_is_a_seat():
    def node(name, **resources):
        total = {"CPU": 8.0, "node:__internal_head__": 1.0, f"node:{name}": 1.0, **resources}
        return Node(name, f"{name}.local", total, total)

    def found(*nodes):
        return list(seats_on([*nodes], marked=are_marked([*nodes])))

    assert found(node("a"), node("b")) == [
        (("a", 0), "a", Need("a", "node:a", 0.6, 1)),
        (("b", 0), "b", Need("b", "node:b", 0.6, 1)),
    ]
    assert found(node("head"), node("mac", mlx=1.0), node("server", GPU=2.0)) == [
        (("mac", 0), "mac", Need("mac", "mlx", 1.0, 1)),
        (("server", 0), "server", Need("server", "GPU", 1.0, 2)),
        (("server", 1), "server", Need("server", "GPU", 1.0, 2)),
    ]


@pytest.mark.parametrize(
    ("environment", "running", "line"),
    [
        ({}, [], None),  # whatever a cluster of the past has left behind
        ({}, ["10.0.0.5:1"], r"^fleet.address=auto \(127.0.0.1:1\): no Ray cluster answers there "),
        (
            {"RAY_ADDRESS": "127.0.0.1:1"},
            [],
            r"^fleet.address=auto \(RAY_ADDRESS=127.0.0.1:1\): no Ray cluster answers",
        ),
        (
            {"RAY_ADDRESS": "ray://a:1"},
            [],
            r"^fleet.address=auto \(RAY_ADDRESS=ray://a:1\): it takes auto, or the host",
        ),
    ],
)
def test_auto_is_none_where_no_ray_runs_and_otherwise_a_cluster_that_has_to_answer(
    environment, running, line, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    services = SimpleNamespace(
        find_gcs_addresses=lambda: running, canonicalize_bootstrap_address=lambda address: "127.0.0.1:1"
    )
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(_private=SimpleNamespace(services=services)))
    if line is None:
        assert connect("auto") is None
        return
    with pytest.raises(UserError, match=line):
        connect("auto")
