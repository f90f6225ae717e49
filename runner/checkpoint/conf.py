"""The group ``checkpoint`` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from runner.keys import key


@dataclass
class CheckpointConf:
    """How safely answers are stored.

    Attributes:
        durability: what a power cut may take: with process the answers of the last second, which are computed again;
            with power none, for every commit waits for the disk. No death of a process takes any.
    """

    durability: str = key("process", among=("process", "power"))
