"""Where a Ray cluster has places for seats, and what is said of one that has none; needs no Ray."""

import sys
import time
from types import SimpleNamespace

import pytest

from runner.engine.conf import EngineConf
from runner.fleet import handshake
from runner.fleet.protocol import GoneError, Spec, packed
from runner.fleet.ray import actors, refusal
from runner.fleet.ray.connect import connect
from runner.fleet.ray.nodes import Need, Node, are_marked, seats_on
from runner.models.recipes import ModelConf
from runner.types import UserError


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


def test_why_ray_gave_a_seat_up_is_said():
    # By hand, since Ray's own errors need a cluster to come up.
    dead = "The actor died unexpectedly before finishing this task.\n\tclass_name: Relay\nThe actor is dead because "
    gone = dead + "all references to the actor were removed including lineage ref count.\nThe actor never ran - it was"
    assert refusal.told(RuntimeError(gone)).is_final and "RAY_AUTH_MODE" in refusal.told(RuntimeError(gone)).why
    died = dead + "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Common causes are: "
    low = "Task was killed due to the node running low on memory."
    for said, memory, why in [
        (
            died + "(1) it was killed by the OOM killer due to high memory usage",
            False,
            "Ray's process there has died, of ",
        ),
        (dead + f"its worker process has died. Worker exit detail: {low}", True, "memory ran out"),
        ("Something else\nhappened", False, "what Ray calls: happened"),
    ]:
        with pytest.raises(GoneError) as raised:
            refusal.told(RuntimeError(said))
        assert why in raised.value.why and raised.value.memory == memory and not raised.value.is_blameless


def test_a_mismatch_of_versions_is_one_line_that_names_both():
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.9\n"
        "This process on 10.0.0.2 was started with:\n    Ray: 2.61.0\n    Python: 3.11.7\n"
    )
    problem = refusal.refused("10.0.0.5:6379", RuntimeError(said))
    assert str(problem) == (
        "fleet.address=10.0.0.5:6379: the cluster runs Ray 2.60.0 and Python 3.11.9, this machine Ray 2.61.0 and "
        "Python 3.11.7: they must be the same, Python to the patch level"
    )
    assert problem.exit_code == 3


@pytest.mark.parametrize(
    "said",
    [
        "RPC error: InvalidAuthToken: Authentication token is missing or incorrect. Ensure that",
        "Token authentication is enabled but no authentication token was found.\nEnsure that",
    ],
)
def test_a_token_that_is_missing_or_another_is_one_line(said):
    problem = refusal.refused("10.0.0.5:6379", RuntimeError(said))
    assert str(problem).endswith(f": the cluster does not know this machine's token: {refusal.SAME_TOKEN}")
    assert "\n" not in str(problem) and problem.exit_code == 3


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
