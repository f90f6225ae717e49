"""The group ``fleet`` of the configuration."""

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
        seats: The number of seats at most. null: one for each GPU, and one for a node without any.
        same_device: Take no seats whose chip is another than that of the first one.
        grace_s: If a seat gives no sign of life for so many seconds, its rows go to others.
    """

    kind: str = key("none", among=("none", "local", "ray"))
    address: str = "auto"
    seats: int | None = key(None, least=1)
    same_device: bool = False
    grace_s: float = key(60.0, least=1)
