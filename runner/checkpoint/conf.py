"""The group ``checkpoint`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from runner.keys import key


@dataclass
class CheckpointConf:
    """How safely answers are stored.

    Attributes:
        durability: process survives any death of the process; power also survives a power cut, because every commit
            waits for the disk. After a power cut with process, the last commits may have to be computed again.
    """

    durability: str = key("process", among=("process", "power"))
