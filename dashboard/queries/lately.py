"""What people have just done: for the toasts of others, and the page of the task or worker it is about."""

from __future__ import annotations

import time

from dashboard.queries.audit import OWN, Asked, Shown, matching, names_of
from monitor.acts.models import ActTarget
from monitor.models import ControlRecord

LATELY = 20.0  # seconds in which an act is news
MOST = 5
DAY = 24 * 3600.0
# Notes are told where they stand, and changes of users to admins alone.
_QUIET = tuple(name for name in OWN if not name.startswith("threshold"))


def others(now: float | None = None) -> list[Shown]:
    """Acts of people that were not refused, newest first. Umbel's own (a revoke sent again) are no news."""
    now = time.time() if now is None else now
    records = ControlRecord.objects.filter(at__gt=now - LATELY, user__isnull=False)
    records = records.exclude(effect="refused").exclude(command__in=_QUIET)
    # What is done to many is told as one, by the act itself.
    batches = ActTarget.objects.filter(batch__in=records.values("pk")).values("batch")
    found = list(records.exclude(pk__in=batches).order_by("-at")[:MOST])
    names = names_of([r.targets[0] for r in found if len(r.targets) == 1])
    return [Shown(r, names.get(r.targets[0], "") if r.targets else "") for r in found]


def on(target: str, now: float | None = None) -> list[Shown]:
    """The last commands of a day that named this task or worker, newest first."""
    now = time.time() if now is None else now
    records = matching(Asked(target=target)).filter(at__gt=now - DAY).exclude(command__in=tuple(OWN))
    return [Shown(r) for r in records[:MOST]]
