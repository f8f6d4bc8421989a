"""How long a task name usually runs, from its history; nothing is called usual under 30 runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.models import TaskType

LEAST_RUNS = 30
STUCK_TIMES = 3  # times the p99


@dataclass(frozen=True, slots=True)
class Usual:
    """Seconds below which 5, 50, 95 and 99 of 100 successful runs lie, and how many runs that is from."""

    p5: float
    p50: float
    p95: float
    p99: float
    runs: int

    def pace(self, ran: float | None) -> str:
        """Of a running task: "stuck", "slow", or nothing worth a word."""
        if ran is None:
            return ""
        return "stuck" if ran > STUCK_TIMES * self.p99 else "slow" if ran > self.p95 else ""


def usual(name: str) -> Usual | None:
    """Of one task name; None when it has not run often enough to say."""
    return usuals([name]).get(name)


def usuals(names: Iterable[str]) -> dict[str, Usual]:
    """Of many names, in one query; names without enough runs are left out."""
    rows = TaskType.objects.filter(name__in=set(names), runs__gte=LEAST_RUNS, p50__gt=0)
    found = rows.values_list("name", "runs", "p50", "p95", "p99")
    return {name: _usual(runs, p50, p95, p99) for name, runs, p50, p95, p99 in found}


def _usual(runs: int, p50: float, p95: float | None, p99: float | None) -> Usual:
    high = max(p95 or p50, p50)
    # Runtimes are about log-normal: the low edge mirrors the high one.
    return Usual(p50 * p50 / high, p50, high, max(p99 or high, high), runs)
