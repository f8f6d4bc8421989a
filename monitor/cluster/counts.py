"""What happened to some tasks in some span: how often, and how long it took."""

from __future__ import annotations

from operator import add

# In the order of a rollup's columns.
KINDS = ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "lost")


class Count:
    """So many of each kind; histograms of runtimes and waits as ``rates`` has them."""

    __slots__ = ("counts", "last_at", "runtime", "wait")

    def __init__(self) -> None:
        self.counts = [0] * len(KINDS)
        self.runtime: dict[int, int] = {}
        self.wait: dict[int, int] = {}
        self.last_at = 0.0

    def copy(self) -> Count:
        """One that goes on by itself."""
        new = Count.__new__(Count)
        new.counts, new.last_at = self.counts[:], self.last_at
        new.runtime, new.wait = self.runtime.copy(), self.wait.copy()
        return new

    def add(self, other: Count) -> None:
        self.counts = list(map(add, self.counts, other.counts))
        for mine, theirs in ((self.runtime, other.runtime), (self.wait, other.wait)):
            for bucket, count in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + count
        self.last_at = max(self.last_at, other.last_at)
