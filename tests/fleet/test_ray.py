"""Seats on a Ray cluster of three nodes on this machine; skipped where Ray is not installed."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import runner
from runner.engine.fake import DELAY
from runner.fleet import fleet
from runner.fleet.ray.connect import connect
from runner.types import UserError
from tests.support import runs
from tests.support.fleets import seats, select, wait_for_seats

pytest.importorskip("ray")

ROWS = 400
QUICK = {  # a node that is gone is found out soon
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    DELAY: "0.02",
}


def processes(address):
    """The processes of the cluster at this address."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if address in words and "pytest" not in words:
            found.append(words.replace("\0", " "))
    return found


@pytest.fixture(scope="module")
def cluster():
    """A head without seats and two nodes with one each; no process of it may outlive its end."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            found.nodes = [found.add_node(num_cpus=1, resources={"mlx": 1}) for _ in range(2)]
            address = found.address
            yield found
        finally:
            found.shutdown()
    until = time.monotonic() + 60
    while (left := processes(address)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left


@pytest.fixture(autouse=True)
def folder(folder):
    runs.write_rows(ROWS)


def words(*more):
    return runs.overrides("output.shard_rows=64", *more)


def run_alone():
    """A run in this process, which needs no time for its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DELAY, "0")
        runner.run(words("run_name=alone"))


def test_shards_are_those_of_one_process_and_both_nodes_took_part(cluster, monkeypatch):
    wait_for_seats(monkeypatch, 2)
    run_alone()
    runner.run(words("run_name=fleet", "fleet=ray", f"fleet.address={cluster.address}"))
    assert runs.shards("fleet") == runs.shards("alone")
    answers = [one["answers"] for one in seats()]
    assert len(answers) == 2 and min(answers) > 0 and sum(answers) == ROWS
    assert all(one["pid"] != os.getpid() for one in seats())


def test_there_are_no_more_seats_than_asked_for(cluster):
    runner.run(words("run_name=fleet", "fleet=ray", f"fleet.address={cluster.address}", "fleet.seats=1"))
    assert [one["answers"] for one in seats()] == [ROWS]


def test_a_node_that_is_removed_costs_its_rows_in_flight_only_and_one_that_is_added_takes_part(cluster, monkeypatch):
    runs.write_rows(2000)
    run_alone()
    steps = []

    def step(self, original=fleet.Fleet.step):
        steps.append(len(self.membership.at_work()))
        if len(steps) == 5:
            cluster.remove_node(cluster.nodes.pop(0), allow_graceful=False)
        if len(steps) == 20:
            cluster.nodes.append(cluster.add_node(num_cpus=1, resources={"mlx": 1}))
        return original(self)

    monkeypatch.setattr(fleet.Fleet, "step", step)
    runner.run(words("run_name=fleet", "fleet=ray", f"fleet.address={cluster.address}", "fleet.grace_s=5"))
    assert runs.shards("fleet") == runs.shards("alone")
    assert len([one for one in seats() if one["answers"]]) >= 2
    assert [row["error"] for row in runs.rows_of("fleet")] == [None] * 2000
    assert select("SELECT max(json_array_length(rows)) FROM deaths")[0][0] in (None, *range(20))


def test_what_ray_says_of_a_process_that_died_is_one_line_of_ours_and_no_lack_of_memory(
    cluster, monkeypatch, capfd, caplog
):
    killed = []

    def step(self, original=fleet.Fleet.step):
        here = next(iter(self.membership.at_work()), None)
        if here is not None and not killed:
            killed.append(here.handshake.pid)
            relay = int(Path(f"/proc/{here.handshake.pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(relay, signal.SIGKILL)
        return original(self)

    monkeypatch.setattr(fleet.Fleet, "step", step)
    runner.run(words("run_name=fleet", "fleet=ray", f"fleet.address={cluster.address}"))
    assert "raylet" not in "".join(capfd.readouterr())
    assert caplog.text.count("died because Ray's process there has died") == 1
    assert [one["memory_deaths"] for one in seats() if one["deaths"]] == [0]


@pytest.mark.parametrize("greeting", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_an_address_without_a_cluster_is_one_line_at_once_whatever_listens_there(greeting, capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)

        server.close() if greeting is None else threading.Thread(target=greet).start()
        with pytest.raises(UserError, match=f"^fleet.address={address}: no Ray cluster answers there ") as raised:
            connect(address)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 3
    assert capfd.readouterr().err == ""


def test_another_version_is_told_before_ray_tries_to_join(cluster, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray goes on trying for a while"))
    # Takes a private name: another version of Ray beside this one would be 200 MB.
    monkeypatch.setattr(ray._private.utils, "compute_version_info", lambda: ("2.99.0", "3.12.99"))
    with pytest.raises(UserError, match=r"this machine Ray 2\.99\.0 and Python 3\.12\.99: they must be the same"):
        connect(cluster.address)


def test_a_token_that_was_not_copied_is_one_line_and_no_death_of_the_process(cluster, tmp_path):
    environment = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    given = words("run_name=fleet", "fleet=ray", f"fleet.address={cluster.address}")
    done = runs.rowmill("run", *given, env=environment)
    assert done.returncode == 3 and "does not know this machine's token" in done.stderr and "died" not in done.stderr
