"""Counts to add to history: what happened per slice of time, and how long successes took, per task name."""

from __future__ import annotations

from monitor import rates
from monitor.cluster.limits import OTHER, Limits
from monitor.records import Mark, RateBucket, TaskRecord, TaskType

ALL_WIDTH, NAME_WIDTH = 10, 60  # seconds
COUNTED = frozenset({"received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "lost"})
FINAL = frozenset({"succeeded", "failed", "revoked", "rejected"})


class Tally:
    """Increments since the last drain. Time is that of receipt: senders' clocks would smear the chart."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[tuple[int, int, str], RateBucket] = {}
        self._types: dict[str, TaskType] = {}

    def count(self, row: TaskRecord, marks: list[Mark]) -> None:
        """Count marks that are new to the task. An end told twice (hard time limits do) counts once."""
        for mark in marks:
            kind = mark.kind
            if kind not in COUNTED or (kind in FINAL and _is_told(mark, row.marks)):
                continue
            self._bump(ALL_WIDTH, "", kind, mark.seen_at)
            if row.name:
                self._bump(NAME_WIDTH, self._name(row.name), kind, mark.seen_at)
                self._type(row, mark)

    def drain(self) -> list[RateBucket | TaskType]:
        drained: list[RateBucket | TaskType] = [*self._buckets.values(), *self._types.values()]
        self._buckets, self._types = {}, {}
        return drained

    def _bump(self, width: int, name: str, kind: str, at: float) -> None:
        start = int(at // width) * width
        bucket = self._buckets.get((width, start, name))
        if bucket is None:
            bucket = self._buckets[width, start, name] = RateBucket(start=start, width=width, name=name)
        setattr(bucket, kind, getattr(bucket, kind) + 1)

    def _name(self, name: str) -> str:
        if name not in self._types and len(self._types) >= self._limits.names:
            self._limits.let_go["task names"] += 1
            return OTHER
        return name

    def _type(self, row: TaskRecord, mark: Mark) -> None:
        name = self._name(row.name)
        known = self._types.get(name)
        if known is None:
            known = self._types[name] = TaskType(
                name=name, first_seen_at=mark.seen_at, last_seen_at=mark.seen_at, histogram={}
            )
        known.last_seen_at = max(known.last_seen_at, mark.seen_at)
        if mark.kind == "failed":
            known.failures += 1
        elif mark.kind == "succeeded":
            known.runs += 1
            runtime = (mark.detail or {}).get("runtime")
            if runtime is None:
                runtime = row.runtime
            if runtime is not None:
                rates.add(known.histogram, runtime)


def _is_told(mark: Mark, marks: list[Mark]) -> bool:
    # The tick before said the same.
    place = (mark.kind, mark.worker, mark.pid, mark.clock - 1)
    return mark.clock > 1 and any((m.kind, m.worker, m.pid, m.clock) == place for m in marks)
