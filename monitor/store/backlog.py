"""What waits to be written: records coalesced by identity, bounded, for the engine's loop alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monitor import rates
from monitor.deltas import Record, identity
from monitor.records import Rollup, TaskRecord, TaskType
from monitor.store import rollups


class Backlog:
    """Records between a drain and the commit that holds them.

    Whole records replace each other, increments add up. Past ``limit`` records the oldest task is let go
    (then the oldest count) and counted in ``let_go``: what is written later of that task is whole again.
    """

    def __init__(self, limit: int = 50_000) -> None:
        self.limit = limit
        self.let_go = 0
        self._tasks: dict[str, TaskRecord] = {}
        self._rest: dict[object, Record] = {}
        self._taken: list[Record] = []

    def __len__(self) -> int:
        return len(self._tasks) + len(self._rest) + len(self._taken)

    def add(self, records: Iterable[Record]) -> None:
        tasks, rest = self._tasks, self._rest
        for record in records:
            if record.__class__ is TaskRecord:
                tasks[record.uuid] = record
                continue
            key = identity(record)
            older = rest.get(key)
            rest[key] = record if older is None else coalesced(older, record)
        self._bound()

    def take(self, most: int = 5_000) -> list[Record]:
        """The next batch, oldest first; ``done`` or ``put_back`` ends it."""
        if not self._taken:
            if len(self._rest) + len(self._tasks) <= most:
                self._taken = [*self._rest.values(), *self._tasks.values()]
                self._rest, self._tasks = {}, {}
            for home in (self._rest, self._tasks):
                for key in list(home)[: most - len(self._taken)]:
                    self._taken.append(home.pop(key))  # type: ignore[call-overload]
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
        for record in (*self._taken, *(self._tasks[uuid] for uuid in wanted if uuid in self._tasks)):
            if isinstance(record, TaskRecord) and record.uuid in wanted:
                found[record.uuid] = record
        return found

    def _bound(self) -> None:
        while len(self) > self.limit and (self._tasks or self._rest):
            home: dict[Any, Any] = self._tasks or self._rest
            del home[next(iter(home))]
            self.let_go += 1


def coalesced(older: Record, newer: Record) -> Record:
    """Two records of one identity as one."""
    if isinstance(older, Rollup) and isinstance(newer, Rollup):
        return rollups.added(older, newer)
    if isinstance(older, TaskType) and isinstance(newer, TaskType):
        return added(older, newer)
    return newer


def added(a: TaskType, b: TaskType) -> TaskType:
    """Two stretches of one task name as one, its percentiles over both."""
    histogram = rates.merge(a.histogram, b.histogram)
    p50, p95, p99 = rates.quantiles(histogram, (0.5, 0.95, 0.99))
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
