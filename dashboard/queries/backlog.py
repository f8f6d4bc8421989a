"""What waits, per queue, as far as events tell: sent or reserved and not yet started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dashboard.queries.workers import Fleet, span
from monitor import models
from monitor.records import PENDING, RECEIVED

MOST_WAITING = 5000  # waiting tasks read, oldest first
MOST_QUEUES = 12
LEAST, FASTER = 50, 1.2  # waiting tasks, and arrivals over departures, from which a queue is called growing


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue as seen by events."""

    name: str
    waiting: int
    oldest: float | None  # seconds
    rate: float  # finished a second
    entered: int  # in the recent span
    left: int
    more: bool  # waiting is a lower bound

    @property
    def grows(self) -> bool:
        return self.waiting >= LEAST and self.entered > self.left * FASTER and self.name != ""

    @property
    def shown(self) -> str:
        return f"{'over ' if self.more else ''}{self.waiting:,}"


@dataclass(frozen=True, slots=True)
class Backlog:
    """All queues, the fullest first."""

    queues: list[QueueView]
    waiting: int
    more: bool

    @property
    def oldest(self) -> float | None:
        return max((q.oldest for q in self.queues if q.oldest is not None), default=None)


def backlog(fleet: Fleet) -> Backlog:
    """Queues with waiting tasks, with recent ones, and those that online workers consume."""
    rows = list(
        models.Task.objects.filter(state__in=(PENDING, RECEIVED))
        .order_by("seen_at")
        .values_list("queue", "eta", "sent_at", "received_at", "first_seen_at")[:MOST_WAITING]
    )
    more = len(rows) == MOST_WAITING
    waiting: Counter[str] = Counter()
    oldest: dict[str, float] = {}
    for queue, eta, sent_at, received_at, first_seen_at in rows:
        if eta is not None and eta > fleet.now:
            continue  # scheduled: it waits for its time, not for a worker
        waiting[queue] += 1
        at = eta or sent_at or received_at or first_seen_at
        age = span(at, fleet.now)
        if age is not None:
            oldest[queue] = max(oldest.get(queue, 0.0), age)
    seen = fleet.recent
    names = {*waiting, *seen.finished, *(name for w in fleet.workers if w.online for name in w.queues)}
    queues = [
        QueueView(
            name,
            waiting[name],
            oldest.get(name),
            seen.finished.get(name, 0) / seen.span,
            seen.entered.get(name, 0),
            seen.left.get(name, 0),
            more,
        )
        for name in names
    ]
    queues.sort(key=lambda q: (-q.waiting, -q.rate, q.name))
    return Backlog(queues[:MOST_QUEUES], sum(waiting.values()), more)
