"""A clock that goes on when told to."""

from tests.support.stores import output


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def monotonic(self):
        return self.now

    time = monotonic


def work(store, clock, rows, seconds):
    """Finish rows, each after so many seconds."""
    for row in rows:
        clock.now += seconds
        store.finish([output(row)])
