"""Which workers are online and work nothing though tasks wait: pools shrunk to none, consumers that are gone.

Pure. A worker that rests (no heartbeat of it says that anything ran or was begun) is no trouble by itself.
It is one while something waits that it should have begun: tasks that it has reserved, or messages in a queue
that it consumes. What waits for a good reason (an ETA, a rate limit, a full prefetch window) is left out, and
where that cannot be told, nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from monitor import registered
from monitor.cluster.processes import Worker
from monitor.records import PENDING, RECEIVED, Stalled, TaskRecord

STARTING = 20.0  # seconds after its start in which a worker may not consume yet
SENT_FOR = 5.0  # seconds after which a message that was sent should have been taken by a worker at rest


@dataclass(slots=True)
class Held:
    """What waits, by events: counts of tasks."""

    due: Counter[tuple[str, str]] = field(default_factory=Counter)  # in (queue, name), with no ETA to come
    later: Counter[str] = field(default_factory=Counter)  # in a queue, with one
    reserved: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # by (worker, name), with none to come


def held(rows: Iterable[TaskRecord | None], since: float, now: float) -> Held:
    """Of the live tasks. What was heard of before ``since`` may have left its queue while nobody listened."""
    found = Held()
    for row in rows:
        if row is None:
            continue
        is_later = row.eta is not None and row.eta > now
        if row.state == PENDING and row.queue:
            if is_later:
                found.later[row.queue] += 1
            elif since <= row.seen_at <= now - SENT_FOR:
                found.due[row.queue, row.name] += 1
        elif row.state == RECEIVED and not is_later:
            found.reserved[row.worker, row.name] += 1
    return found


def rests(worker: Worker, now: float) -> bool:
    """Whether it is online and nothing runs there, and it should have begun to consume."""
    record = worker.record
    started = max(record.booted_at or 0.0, record.online_at or 0.0)
    return (
        record.status == "online"
        and not record.is_beat
        and not record.duplicate
        and worker.idle_since is not None
        and now - started >= STARTING
    )


def waits(worker: Worker, depths: Mapping[str, int | None], known: Held) -> Stalled | None:
    """What a worker at rest should have begun, as of now; None when there is nothing, or it cannot be told.

    ``depths`` by queue as the broker counts; None where it does not tell.
    """
    record, since = worker.record, worker.idle_since or 0.0
    details = record.details
    is_asked = record.inspected_at is not None and record.inspected_at >= since
    if is_asked and _items(details, "active"):
        return None  # it says itself that it works
    listed = _items(details, "reserved") if is_asked else []
    queues = [queue for queue in record.queues if depths.get(queue, 0) != 0]
    if not listed and not queues:
        return None
    limited = registered.limited(details)
    reserved = sum(str(item.get("name")) not in limited for item in listed)
    if reserved:
        return Stalled(record.hostname, since, reserved)
    if _is_full(worker, details) or _may_be_limited(worker, limited, known):
        return None
    found = []
    for queue in queues:
        depth = depths[queue]
        if depth is not None:
            found.append((depth - known.later[queue], queue, False))
        else:
            due = sum(n for (of, name), n in known.due.items() if of == queue and name not in limited)
            found.append((due, queue, True))
    waiting, queue, by_events = max(found, default=(0, "", False))
    if waiting <= 0:
        return None
    return Stalled(record.hostname, since, waiting, queue, by_events)


def _is_full(worker: Worker, details: Mapping[str, Any]) -> bool:
    """Whether tasks held for their ETA take all that it may hold: it takes no more then, and rightly."""
    later = len(_items(details, "scheduled"))
    conf = details.get("conf")
    limit = conf.get("worker_eta_task_limit") if isinstance(conf, dict) else None
    most = [n for n in (worker.record.prefetch, limit) if isinstance(n, int) and n > 0]
    return bool(most) and later >= min(most)


def _may_be_limited(worker: Worker, limited: frozenset[str], known: Held) -> bool:
    """Whether it may hold back tasks by their rate, which its answers to inspect do not list."""
    if not limited:
        return False
    if worker.record.events_on is not True:
        return True
    return any(known.reserved[worker.record.hostname, name] for name in limited)


def _items(details: Mapping[str, Any], command: str) -> list[dict[str, Any]]:
    listed = details.get(command)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
