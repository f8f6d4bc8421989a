"""What Umbel looks after on one worker now: a drain, a shrink that waits, what a restart made it forget."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.queries import drift
from dashboard.queries.workers import WorkerView
from monitor.control.workers import draining
from monitor.models import Drain, Drift, WaitingShrink

RECENT = 3600.0  # seconds that the end of a shrink which waited is shown


@dataclass(frozen=True, slots=True)
class Tended:
    """``idle`` of ``needed`` slots are; ``title`` and ``text`` say how it came back."""

    drain: Drain | None
    shrink: WaitingShrink | None
    ended: WaitingShrink | None
    idle: int
    needed: int
    title: str
    text: str
    back: bool

    @property
    def any(self) -> bool:
        return bool(self.drain or self.shrink or self.ended or self.back)


def tended(view: WorkerView) -> Tended:
    """As it is now."""
    shrinks = WaitingShrink.objects.filter(worker=view.hostname)
    waits = shrinks.filter(ended_at=None).first()
    ended = shrinks.filter(ended_at__gt=view.now - RECENT).order_by("-ended_at").first()
    size = view.size or 0
    needed = max(0, size - waits.to) if waits is not None else 0
    lost = list(Drift.objects.filter(worker=view.hostname, forgotten_at__isnull=False).order_by("at", "pk"))
    title, text = drift.came_back(view.hostname, view.size, lost) if lost else ("", "")
    at = max((one.forgotten_at or 0.0 for one in lost), default=0.0)
    back = bool(lost) and view.online and (view.row.inspected_at or 0.0) > at
    return Tended(
        draining.of_worker(view.hostname),
        waits,
        ended if waits is None else None,
        min(max(0, size - view.busy), needed),
        needed,
        title,
        text,
        back,
    )
