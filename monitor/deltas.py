"""Changes as whole records, coalesced by identity, and the topics they belong to.

A delta is never a patch: the last one wins, so coalescing and loss are safe.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from monitor.records import FeedRecord, Gap, Rollup, TaskRecord, TaskType, WorkerRecord

Record = TaskRecord | WorkerRecord | FeedRecord | Gap | Rollup | TaskType

# Topics: what a region of a page listens to.
MOST_TASKS = 500  # of one message told by name
ANY_TASK = "task:*"
TASKS, WORKERS, FEED, RATES, CONTROLS = "tasks", "workers", "feed", "rates", "controls"
GAPS = "gaps"  # a span without ears begins or ends: lists show it, and no task need change for that


class Delta(msgspec.Struct, frozen=True, gc=False):
    """One changed record; Rollup and TaskType counts are increments to add, all others are whole."""

    record: Record

    @property
    def key(self) -> tuple[str, object]:
        r = self.record
        if isinstance(r, TaskRecord):
            return ("task", r.uuid)
        if isinstance(r, WorkerRecord):
            return ("worker", r.hostname)
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
        if isinstance(r, Rollup | TaskType):
            return (RATES,)
        return (FEED, GAPS) if isinstance(r, Gap) else (FEED,)


def topics(deltas: Iterable[Delta]) -> set[str]:
    """Every topic that the deltas touch; past ``MOST_TASKS`` tasks ``task:*`` stands for any of them."""
    touched: set[str] = set()
    tasks: set[str] = set()
    for delta in deltas:
        record = delta.record
        if isinstance(record, TaskRecord):
            tasks.add(record.uuid)
        else:
            touched.update(delta.topics)
    if tasks:
        touched.add(TASKS)
        touched.update([ANY_TASK] if len(tasks) > MOST_TASKS else [f"task:{uuid}" for uuid in tasks])
    return touched
