"""What waits to be written: deltas coalesced by identity, bounded, for the engine's loop alone."""

from __future__ import annotations

from collections.abc import Iterable

from monitor import rates
from monitor.deltas import Delta
from monitor.records import Rollup, TaskRecord, TaskType
from monitor.store import rollups


class Backlog:
    """Deltas between a drain and the commit that holds them.

    Whole records replace each other, increments add up. Past ``limit`` records the oldest task is let go
    (then the oldest count) and counted in ``let_go``: what is written later of that task is whole again.
    """

    def __init__(self, limit: int = 50_000) -> None:
        self.limit = limit
        self.let_go = 0
        self._tasks: dict[object, Delta] = {}
        self._rest: dict[object, Delta] = {}
        self._taken: list[Delta] = []

    def __len__(self) -> int:
        return len(self._tasks) + len(self._rest) + len(self._taken)

    def add(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            home = self._tasks if isinstance(delta.record, TaskRecord) else self._rest
            older = home.get(delta.key)
            home[delta.key] = delta if older is None else coalesced(older, delta)
        self._bound()

    def take(self, most: int = 5_000) -> list[Delta]:
        """The next batch, oldest first; ``done`` or ``put_back`` ends it."""
        if not self._taken:
            for home in (self._rest, self._tasks):
                for key in list(home)[: most - len(self._taken)]:
                    self._taken.append(home.pop(key))
        return self._taken

    def done(self) -> None:
        self._taken = []

    def put_back(self) -> None:
        """The batch was not written: it waits again, under whatever came since."""
        newer = [*self._rest.values(), *self._tasks.values()]
        taken, self._taken = self._taken, []
        self._rest, self._tasks = {}, {}
        self.add(taken)
        self.add(newer)

    def tasks(self, uuids: Iterable[str]) -> dict[str, TaskRecord]:
        """Records of these tasks that the database does not hold yet."""
        wanted = set(uuids)
        found: dict[str, TaskRecord] = {}
        for delta in (
            *self._taken,
            *(self._tasks[key] for u in wanted if (key := ("task", u)) in self._tasks),
        ):
            if isinstance(delta.record, TaskRecord) and delta.record.uuid in wanted:
                found[delta.record.uuid] = delta.record
        return found

    def _bound(self) -> None:
        while len(self) > self.limit and (self._tasks or self._rest):
            home = self._tasks or self._rest
            del home[next(iter(home))]
            self.let_go += 1


def coalesced(older: Delta, newer: Delta) -> Delta:
    """Two deltas of one identity as one."""
    a, b = older.record, newer.record
    if isinstance(a, Rollup) and isinstance(b, Rollup):
        return Delta(rollups.added(a, b))
    if isinstance(a, TaskType) and isinstance(b, TaskType):
        return Delta(added(a, b))
    return newer


def added(a: TaskType, b: TaskType) -> TaskType:
    """Two stretches of one task name as one, its percentiles over both."""
    histogram = rates.merge(a.histogram, b.histogram)
    p50, p95, p99 = (rates.quantile(histogram, q) for q in (0.5, 0.95, 0.99))
    return TaskType(
        name=a.name,
        runs=a.runs + b.runs,
        failures=a.failures + b.failures,
        first_seen_at=min((t for t in (a.first_seen_at, b.first_seen_at) if t), default=0.0),
        last_seen_at=max(a.last_seen_at, b.last_seen_at),
        histogram=histogram,
        p50=p50,
        p95=p95,
        p99=p99,
    )
