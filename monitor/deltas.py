"""Changes as whole records, by identity, and the topics they belong to.

A change is never a patch: the last record of an identity wins, so coalescing and loss are safe. Rollup and
TaskType alone are increments, to add.
"""

from __future__ import annotations

from collections.abc import Iterable

from monitor.records import FeedRecord, Gap, Rollup, TaskRecord, TaskType, WorkerRecord

Record = TaskRecord | WorkerRecord | FeedRecord | Gap | Rollup | TaskType

# Topics: what a region of a page listens to.
MOST_TASKS = 500  # of one message told by name
ANY_TASK = "task:*"
TASKS, WORKERS, FEED, RATES, CONTROLS = "tasks", "workers", "feed", "rates", "controls"
GAPS = "gaps"  # a span without ears begins or ends: lists show it, and no task need change for that


def identity(record: Record) -> tuple[str, object]:
    """What the record is about; two of one identity replace each other, or add up."""
    if isinstance(record, TaskRecord):
        return ("task", record.uuid)
    if isinstance(record, WorkerRecord):
        return ("worker", record.hostname)
    if isinstance(record, Rollup):
        return ("rollup", (record.width, record.by, record.key, record.start))
    if isinstance(record, TaskType):
        return ("type", record.name)
    if isinstance(record, Gap):
        return ("gap", record.started_at)
    return ("feed", 0)


def topics(records: Iterable[Record]) -> set[str]:
    """Every topic that the records touch; past ``MOST_TASKS`` tasks ``task:*`` stands for any of them."""
    touched: set[str] = set()
    tasks: set[str] = set()
    for record in records:
        if record.__class__ is TaskRecord:
            tasks.add(record.uuid)
        elif isinstance(record, WorkerRecord):
            touched |= {WORKERS, f"worker:{record.hostname}"}
        elif isinstance(record, Rollup | TaskType):
            touched.add(RATES)
        else:
            touched |= {FEED, GAPS} if isinstance(record, Gap) else {FEED}
    if tasks:
        touched.add(TASKS)
        touched.update([ANY_TASK] if len(tasks) > MOST_TASKS else [f"task:{uuid}" for uuid in tasks])
    return touched
