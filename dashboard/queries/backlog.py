"""What waits, per queue, as far as events tell: sent or reserved and not yet started."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.queries import shared, workers
from dashboard.queries.workers import Fleet, span

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


def current() -> Backlog:
    """As of now, shared for a moment between the regions and pages that ask."""
    return shared.reading("backlog", workers.FRESH, lambda: backlog(workers.current()))


def backlog(fleet: Fleet) -> Backlog:
    """Queues with waiting tasks, with recent ones, and those that online workers consume."""
    waiting = fleet.waiting
    oldest = {queue: span(since, fleet.now) for queue, since in waiting.oldest.items()}
    seen = fleet.recent
    names = {*waiting.queues, *seen.finished, *(name for w in fleet.workers if w.online for name in w.queues)}
    queues = [
        QueueView(
            name,
            waiting.queues.get(name, 0),
            oldest.get(name),
            seen.finished.get(name, 0) / seen.span,
            seen.entered.get(name, 0),
            seen.left.get(name, 0),
            waiting.more,
        )
        for name in names
    ]
    queues.sort(key=lambda q: (-q.waiting, -q.rate, q.name))
    return Backlog(queues[:MOST_QUEUES], sum(waiting.queues.values()), waiting.more)
