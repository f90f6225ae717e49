"""What lies between the driver and its seats: a call at a time goes out to a seat, and its answer comes back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from runner.fleet.wire import Spec


class Link(Protocol):
    """The way to one seat."""

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the seat, whose answer to the call before has been taken."""
        ...

    def take(self) -> Any:
        """The answer that is there. GoneError if there will be none."""
        ...

    def kill(self) -> None:
        """End the seat's process; may be repeated."""
        ...


class Transport(Protocol):
    """Where seats can be, and the ways to them."""

    def places(self) -> list[str]:
        """The names of the seats that there could be now."""
        ...

    def open(self, place: str, spec: Spec) -> Link:
        """Start a seat. GoneError if that fails at once."""
        ...

    def wait(self, links: Iterable[Any], timeout: float) -> list[Any]:
        """Those whose answers are there, as soon as there are any; none after ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """Let go of everything but the seats, which are killed one by one."""
        ...
