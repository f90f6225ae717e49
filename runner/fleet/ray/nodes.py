"""The nodes of a cluster, the seats that there can be on them, and who has taken places there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

from runner.fleet.handshake import short

ANSWER_S = 10.0  # for a head to say something
GPU, MLX = "GPU", "mlx"  # Ray's resource, and ours of a node with an Apple GPU
_NODE, _HEAD, _MOST = "node:", "node:__", 0.6  # every node has one of the first, and a seat more than half of that


class Node(NamedTuple):
    """A node that is alive: what Ray has there in all, and what nobody uses."""

    id: str
    host: str
    total: dict[str, float]
    free: dict[str, float]


class Actor(NamedTuple):
    """An actor of any program that has its place: on which node, and what it takes there."""

    id: str
    node: str
    takes: dict[str, float]


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


def actors_of(gcs: Any) -> list[Actor]:
    """The cluster's actors that have their places; those that wait for one are not among them."""

    async def asked() -> Any:
        return await gcs.async_get_all_actor_info(actor_state_name="ALIVE", timeout=ANSWER_S)

    found = asyncio.run(asked())
    return [Actor(key.hex(), one.node_id.hex(), dict(one.required_resources)) for key, one in found.items()]


def are_marked(nodes: list[Node]) -> bool:
    """Whether it is said which of them are for seats: those with GPUs, or that were started with mlx."""
    return any(node.total.get(name) for node in nodes for name in (GPU, MLX))


def seats_on(nodes: list[Node], *, marked: bool) -> Iterator[tuple[tuple[str, int], str, Need]]:
    """The seats there can be on these nodes: node and number, host, what it takes of the node."""
    for node in nodes:
        count, amount = 1, _MOST
        if marked:
            resource = GPU if node.total.get(GPU) else MLX
            count, amount = int(node.total.get(resource, 0)), 1.0
        else:
            resource = next(name for name in node.total if name.startswith(_NODE) and not name.startswith(_HEAD))
        for number in range(count):
            yield (node.id, number), short(node.host), Need(node.id, resource, amount, count)
