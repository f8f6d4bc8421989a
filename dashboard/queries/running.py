"""How a task that runs compares with the past of its name, and when its time limits pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashboard.queries.limits import Limits, held_as, limits
from dashboard.queries.odds import Odds, counts_of, odds
from dashboard.queries.usual import ENOUGH, After, after
from dashboard.queries.workers import span
from monitor import rates
from monitor.models import Task, TaskType, Worker
from monitor.records import STARTED


@dataclass(frozen=True, slots=True)
class Going:
    """The evidence; ``ran`` in seconds by its worker's clock, corrected by its drift. None: not known."""

    ran: float | None
    pace: str  # "", slow or stuck
    after: After  # from when on it is
    odds: Odds | None
    runs: int  # that are stored of its name, when they are too few
    limits: Limits

    @property
    def too_few(self) -> str:
        """Why nothing is said of its past."""
        if not self.runs:
            return "No run of this task name has succeeded while Umbel watched: nothing to compare with yet."
        runs = "1 run" if self.runs == 1 else f"{self.runs:,} runs"
        return f"{runs} of this task name so far: Umbel compares from {ENOUGH} on."


def going(uuid: str, now: float) -> Going | None:
    """None when it does not run."""
    fields = ("name", "state", "worker", "started_at", "seen_at")
    task = Task.objects.filter(uuid=uuid, state=STARTED).only(*fields).first()
    if task is None:
        return None
    worker = Worker.objects.filter(hostname=task.worker).first() if task.worker else None
    details = worker.details if worker is not None and isinstance(worker.details, dict) else {}
    kind = TaskType.objects.filter(name=task.name).only("histogram", "p95").first() if task.name else None
    drift = worker.drift if worker is not None and worker.drift is not None else 0.0
    # By our clock; its worker's may be wrong.
    began = None if task.started_at is None else task.started_at - drift
    ran = span(began, now)
    counts = counts_of(kind.histogram) if kind is not None else {}
    past = None
    if ran is not None and kind is not None:
        past = odds(counts, ran, kind.p95 or rates.quantile(counts, 0.95) or 0.0)
    limit = after(task.name)
    return Going(
        ran=ran,
        pace=limit.pace(ran) if ran is not None else "",
        after=limit,
        odds=past,
        runs=sum(counts.values()),
        limits=limits(
            details,
            worker.pool if worker is not None else "",
            task.name,
            held=held_as(details, uuid),
            started_at=began if ran is not None and began is not None and math.isfinite(began) else None,
            now=now,
        ),
    )
