"""What the leader's engine looks after on workers, once a second: restarts, shrinks that wait, drains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, connections

from monitor.control.commands import Barred, Perform, nobody_barred
from monitor.control.workers import draining, drifting, waiting
from monitor.models import Drain, WaitingShrink

PRUNE_EVERY = 3600.0
KEPT = 90 * 86_400.0  # seconds that drains and shrinks which are over stay; the log keeps their commands


@dataclass(slots=True)
class Tender:
    """``look`` runs in a thread of the engine that leads. Without ``perform`` it sends nothing."""

    perform: Perform | None
    clock: Callable[[], float] = time.time
    barred: Barred = nobody_barred
    _pruned_at: float = 0.0

    def look(self) -> int:
        """One look; how many shrinks and drains are under way."""
        try:
            now = self.clock()
            left = draining.settle(now)
            for worker in drifting.follow(now):
                waiting.tell(worker)
            if now - self._pruned_at > PRUNE_EVERY:
                self._pruned_at = now
                drifting.prune(now)
                Drain.objects.filter(ended_at__lt=now - KEPT).delete()
                WaitingShrink.objects.filter(ended_at__lt=now - KEPT).delete()
            return left + (waiting.look(self.perform, now, self.barred) if self.perform is not None else 0)
        except DatabaseError:
            connections.close_all()
            raise
