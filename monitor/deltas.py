"""Changes as whole records, coalesced by identity, and the topics they belong to.

A delta is never a patch: the last one wins, so coalescing and loss are safe.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from monitor.records import FeedRecord, Gap, RateBucket, Rollup, TaskRecord, TaskType, WorkerRecord

Record = TaskRecord | WorkerRecord | FeedRecord | Gap | RateBucket | Rollup | TaskType

# Topics: what a region of a page listens to.
TASKS, WORKERS, FEED, RATES, CONTROLS = "tasks", "workers", "feed", "rates", "controls"


class Delta(msgspec.Struct, frozen=True):
    """One changed record; Rollup and TaskType counts are increments to add, all others are whole."""

    record: Record

    @property
    def key(self) -> tuple[str, object]:
        r = self.record
        if isinstance(r, TaskRecord):
            return ("task", r.uuid)
        if isinstance(r, WorkerRecord):
            return ("worker", r.hostname)
        if isinstance(r, RateBucket):
            return ("rate", (r.width, r.start, r.name))
        if isinstance(r, Rollup):
            return ("rollup", (r.width, r.by, r.key, r.start))
        if isinstance(r, TaskType):
            return ("type", r.name)
        if isinstance(r, Gap):
            return ("gap", r.started_at)
        return ("feed", 0)

    @property
    def topics(self) -> tuple[str, ...]:
        r = self.record
        if isinstance(r, TaskRecord):
            return (TASKS, f"task:{r.uuid}")
        if isinstance(r, WorkerRecord):
            return (WORKERS, f"worker:{r.hostname}")
        if isinstance(r, RateBucket | Rollup | TaskType):
            return (RATES,)
        return (FEED,)


def topics(deltas: Iterable[Delta]) -> set[str]:
    """Every topic that the deltas touch."""
    return {topic for delta in deltas for topic in delta.topics}
