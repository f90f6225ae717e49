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

Macs, and Linux machines without a GPU. The last option leaves the memory to the model; names that end in .local do not
work, so addresses are given:

    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1             # on all of them, Macs only
    ray start --head --port=6379 --node-ip-address=10.0.0.5 --resources='{"mlx": 1}' --object-store-memory=100000000
    ray start --address=10.0.0.5:6379 --node-ip-address=10.0.0.6 --resources='{"mlx": 1}' \
        --object-store-memory=100000000

Then, on any of them, ``rowmill run ... fleet=ray``; ``rowmill fleet RUN`` shows who computes what. Machines may join
and leave while it runs. One that dies, sleeps or is cut off costs the rows that it was computing, and
those are computed elsewhere. A seat belongs to one run: a second run takes those that are free and waits for the
others, of which ``fleet.seats=`` of the first may leave some. ``ray stop`` on each machine ends the cluster.

Before the first night, each Mac is kept from sleeping: a seat keeps its own awake (``caffeinate``) while a run lasts,
but a Mac that sleeps before that is not in the cluster. A notebook whose lid is closed sleeps all the same.

    sudo pmset -a sleep 0

The model is fetched on each machine by itself, or once and copied. User names may differ as long as ``model=`` is a hub
id; a folder has to be at the same path, such as /Users/Shared/models, as one below a home folder holds the user's name.

    rsync -a ~/.cache/huggingface/ mini2.local:.cache/huggingface/

If the firewall is on (System Settings, Network), a window asks at the first start whether python, raylet and gcs_server
may accept connections: start Ray once at that Mac's own screen, and allow it. The local network is open to what was
started in Terminal, over SSH or as a daemon; other terminals have to be allowed in Privacy & Security. Ray that was
started in Terminal may lose it when that window is closed.

For a Mac that joins whenever it is switched on, Ray is a daemon of launchd (an agent would have no local network).
Write this to /Library/LaunchDaemons/ray.plist, with your user name, path and addresses; the head's has ``--head`` and
``--port=6379`` in place of ``--address``:

    <plist version="1.0"><dict>
      <key>Label</key><string>ray</string>
      <key>UserName</key><string>anna</string>
      <key>KeepAlive</key><true/>
      <key>EnvironmentVariables</key><dict>
        <key>HOME</key><string>/Users/anna</string>
        <key>RAY_AUTH_MODE</key><string>token</string>
        <key>RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER</key><string>1</string>
      </dict>
      <key>ProgramArguments</key><array>
        <string>/Users/anna/rowmill/.venv/bin/ray</string><string>start</string><string>--block</string>
        <string>--address=10.0.0.5:6379</string><string>--node-ip-address=10.0.0.6</string>
        <string>--resources={"mlx":1}</string><string>--object-store-memory=100000000</string>
      </array>
    </dict></plist>

It starts with ``sudo launchctl bootstrap system /Library/LaunchDaemons/ray.plist`` and with the Mac from then on, and
ends with ``sudo launchctl bootout system/ray``.
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
        seats: The number of seats at most. null: one for each GPU that Ray knows and for each mlx that a node was
            started with; where there are neither, one for each node. Seats of fleet=local that have one device together
            have its memory in equal parts; engine.memory_gb is what each may take.
        same_device: Take no seats whose chip is another than that of the first one.
        grace_s: If a seat gives no sign of life for so many seconds, its rows go to others.
    """

    kind: str = key("none", among=("none", "local", "ray"))
    address: str = "auto"
    seats: int | None = key(None, least=1)
    same_device: bool = False
    grace_s: float = key(60.0, least=1)
