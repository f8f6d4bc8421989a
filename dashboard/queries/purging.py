"""What the purge of a queue would delete, and what it would not touch."""

from __future__ import annotations

from dataclasses import dataclass

from monitor import broker, control
from monitor.models import NOT_ROOT, Task, Worker
from monitor.records import RECEIVED, STARTED

SAMPLE = 200  # waiting tasks that are looked at for the workflows they belong to


@dataclass(frozen=True, slots=True)
class Hit:
    """``waiting``: messages at the broker, None when it does not say; ``problem``: why not."""

    queue: str
    waiting: int | None
    problem: str
    sampled: int  # waiting tasks known by events, at most SAMPLE
    related: int  # of them, in a workflow
    running: int  # of this queue, not touched
    reserved: int
    workers: list[str]  # that consume it


def hit(queue: str) -> Hit:
    """The broker is asked for its count; the rest is known by events."""
    waiting, problem = None, ""
    try:
        waiting = control.depth(broker.current(), queue)
    except control.Unreachable as error:
        problem = str(error)
    tasks = Task.objects.filter(queue=queue)
    pending = tasks.filter(state="PENDING").order_by("-seen_at").values_list("pk", flat=True)
    sample = list(pending[:SAMPLE])
    related = Task.objects.filter(pk__in=sample).filter(NOT_ROOT).count()
    online = Worker.objects.filter(status="online", is_beat=False).values_list("hostname", "queues")
    return Hit(
        queue,
        waiting,
        problem,
        len(sample),
        related,
        tasks.filter(state=STARTED).count(),
        tasks.filter(state=RECEIVED).count(),
        [name for name, queues in online if isinstance(queues, list) and queue in queues],
    )
