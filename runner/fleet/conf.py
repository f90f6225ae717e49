r"""The group ``fleet`` of the configuration.

A run can be computed by several *seats*, processes with the model each, on one machine or on many. The machine on which
it was started reads the data and writes the run's folder; the others only compute. What comes out is the same, and a
run that was begun on one machine can be resumed on three, and back: only ``fleet=`` changes.

For several GPUs of one machine, one word is enough, and nothing has to be installed: ``rowmill run ... fleet=local``.

Several machines are a Ray cluster. First the token: whoever reaches a port of Ray can run any program on all of its
machines. After ``pip install -e '.[ray]'`` on all of them, on one of them, once:

    ray get-auth-token --generate

This writes ``~/.ray/auth_token``. Copy the file to the same place on the other machines, and say in each shell from
which Ray or rowmill is started, on all machines:

    export RAY_AUTH_MODE=token

All machines need the same versions of rowmill, MLX, Ray and Python (3.12.4 and 3.12.5 are not the same), and the
model: a hub id, or a folder at the same path. Linux machines with NVIDIA GPUs, each GPU a seat, the first one being
10.0.0.5:

    ray start --head --port=6379 --disable-usage-stats     # on 10.0.0.5
    ray start --address=10.0.0.5:6379                      # on each of the others

Macs, and Linux machines without a GPU. The last option of the first line leaves the memory to the model; names that end
in .local do not work, so addresses are given:

    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1             # on all of them, Macs only
    ray start --head --port=6379 --node-ip-address=10.0.0.5 --resources='{"mlx": 1}' --object-store-memory=100000000
    ray start --address=10.0.0.5:6379 --node-ip-address=10.0.0.6 --resources='{"mlx": 1}'

Then, on any of them, ``rowmill run ... fleet=ray``; ``rowmill fleet RUN`` shows who computes what. Machines may join
and leave while it runs. One that dies, sleeps or is cut off costs the rows that it was computing, and
those are computed elsewhere. ``ray stop`` on each machine ends the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.keys import key


@dataclass
class FleetConf:
    """Where a run is computed: in one process, or by several seats, each a process with the model.

    Nothing here changes what is written. A run can be resumed with another fleet, or with none.

    Attributes:
        kind: none computes on this machine in one process; local has several seats on this machine; ray has seats on
            the nodes of a Ray cluster, which may join and leave while it runs.
        address: The cluster: auto for one that runs on this machine or is joined by it, else its head's host and port.
            Where auto finds none, the GPUs of this machine are the seats.
        seats: The number of seats at most. null: one for each GPU, and one for a node without any. Seats of fleet=local
            that have one device together have its memory in equal parts; engine.memory_gb is what each may take.
        same_device: Take no seats whose chip is another than that of the first one.
        grace_s: If a seat gives no sign of life for so many seconds, its rows go to others.
    """

    kind: str = key("none", among=("none", "local", "ray"))
    address: str = "auto"
    seats: int | None = key(None, least=1)
    same_device: bool = False
    grace_s: float = key(60.0, least=1)
