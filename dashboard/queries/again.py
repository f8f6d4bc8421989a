"""Whether a task ran twice, or will be handed out again: for its page."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.queries import redelivery
from dashboard.queries.feed import freshness
from dashboard.queries.redelivery import Forecast
from dashboard.queries.task import acks_late
from dashboard.templatetags.words import plain
from monitor.cluster.twice import twice
from monitor.models import Task, Worker
from monitor.records import RECEIVED, STARTED
from monitor.store import task_record


@dataclass(frozen=True)
class Ran:
    """Two starts of one attempt."""

    first: str  # worker
    second: str
    first_at: float
    second_at: float
    together: bool

    @property
    def where(self) -> str:
        if self.first == self.second:
            return f"twice on {plain(self.first)}"
        return f"on {plain(self.first)} and on {plain(self.second)}"


@dataclass(frozen=True)
class Again:
    """What is known of one task; either may be None."""

    ran: Ran | None
    ahead: Forecast | None


def again(uuid: str, now: float) -> Again | None:
    """None when the task is not known."""
    task = Task.objects.filter(uuid=uuid).defer("traceback", "result").first()
    if task is None:
        return None
    return Again(_ran(task), _ahead(task, now))


def _ran(task: Task) -> Ran | None:
    if len(task.attempts) < 2:
        return None
    pair = twice(task_record(task))
    if pair is None:
        return None
    first, second, together = pair
    return Ran(first.worker, second.worker, first.started_at or 0.0, second.started_at or 0.0, together)


def _ahead(task: Task, now: float) -> Forecast | None:
    if task.state not in (RECEIVED, STARTED):
        return None
    worker = Worker.objects.filter(hostname=task.worker).first()
    late = acks_late(worker, task.name)
    transport = freshness(now).feed.transport
    return redelivery.forecast(task, worker.details if worker else None, now, transport=transport, late=late)
