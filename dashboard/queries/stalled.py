"""Workers that are online and work nothing, as the engine judged them: in words, with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from dashboard.queries.feed import Freshness
from dashboard.queries.workers import WorkerView
from dashboard.templatetags.words import duration_text, plain
from monitor.records import Stalled

RESIZES = ("prefork", "gevent", "eventlet")  # kinds of pool that can be grown


def by_worker(fresh: Freshness) -> Mapping[str, Stalled]:
    """By hostname; nothing while Umbel does not hear, since they may work by now."""
    return {one.hostname: one for one in fresh.feed.stalled} if fresh.live else {}


def words(stall: Stalled, now: float) -> str:
    """What waits, and for how long nothing was begun."""
    for_long = duration_text(max(0.0, now - stall.since))
    if not stall.queue:
        tasks = "1 reserved task" if stall.waiting == 1 else f"{stall.waiting:,} reserved tasks"
        return f"It holds {tasks} and has begun none for {for_long}."
    what = "task" if stall.by_events else "message"
    waits = f"1 {what} waits" if stall.waiting == 1 else f"{stall.waiting:,} {what}s wait"
    known = ", by events," if stall.by_events else ""
    return f"{waits} in {plain(stall.queue)}{known} and it has begun none for {for_long}."


def remedy(worker: WorkerView) -> str:
    """What brings it back."""
    if worker.size != 0:
        return "Its consumer did not come back: restart the worker."
    if worker.row.autoscale_max is not None:
        return "Its autoscaler keeps no process: raise its limits, or restart the worker."
    return "Grow its pool by one." if worker.row.pool in RESIZES else "Restart the worker."
