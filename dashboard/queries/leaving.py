"""What a worker leaves behind that shuts down or stops consuming: what runs, what it holds, which queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.queries import worker as held
from dashboard.queries.workers import MOST_RESERVED, Running, WorkerView
from monitor import models
from monitor.records import RECEIVED, STARTED


@dataclass(frozen=True, slots=True)
class Leaving:
    """As Umbel knows it now."""

    running: list[Running]  # longest first
    reserved: int
    scheduled: int  # held for their ETA
    alone: list[str]  # queues that no other worker consumes

    @property
    def longest(self) -> float | None:
        """Seconds that the one which runs longest has run."""
        return max((task.elapsed for task in self.running), default=None)

    @property
    def left(self) -> float | None:
        """Seconds until all are done as they usually are; None when one has no past, or is past its usual."""
        spans = [task.usual.p95 - task.elapsed if task.usual else -1.0 for task in self.running]
        return max(spans) if spans and min(spans) > 0 else None


@dataclass(frozen=True, slots=True)
class Together:
    """What several workers leave behind that go at once, by events."""

    running: int
    reserved: int
    scheduled: int
    alone: list[str]


def together(hostnames: Sequence[str], now: float) -> Together:
    """Of workers that shut down or stop consuming together; alone is what none but they consume."""
    tasks = models.Task.objects.filter(worker__in=hostnames)
    waiting = tasks.filter(state=RECEIVED)
    later = waiting.filter(eta__gt=now).count()
    listed = models.Worker.objects.filter(hostname__in=hostnames).values_list("queues", flat=True)
    queues = sorted({str(queue) for found in listed if isinstance(found, list) for queue in found})
    return Together(
        tasks.filter(state=STARTED).count(), waiting.count() - later, later, alone(hostnames, queues)
    )


def leaving(view: WorkerView) -> Leaving:
    """All of it."""
    running = [slot.task for slot in view.slots if slot.task and not slot.task.lost]
    waiting = models.Task.objects.filter(state=RECEIVED, worker=view.hostname)
    later = waiting.filter(eta__gt=view.now)[:MOST_RESERVED].count()
    _, scheduled = held.scheduled(view)
    return Leaving(
        running, max(0, view.reserved - later), max(later, scheduled), alone([view.hostname], view.queues)
    )


def alone(hostnames: Sequence[str], queues: list[str]) -> list[str]:
    """Those of these queues that no other worker consumes, as far as the others said what they do."""
    others = (
        models.Worker.objects.exclude(hostname__in=hostnames).exclude(status="offline").filter(is_beat=False)
    )
    found = others.values_list("queues", flat=True)
    consumed = {str(queue) for listed in found if isinstance(listed, list) for queue in listed}
    return [queue for queue in queues if queue not in consumed]
