"""What is usual for a task name: its runtimes so far, for norm bars, slots and the words slow and stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from monitor import models

ENOUGH = 30  # successful runs before anything is called usual
STUCK = 3.0  # times its p99
FRESH = 2.0  # seconds a reading of the table serves
MOST = 5000  # task names


@dataclass(frozen=True, slots=True)
class Usual:
    """Runtimes of a task name in seconds."""

    p50: float
    p95: float
    p99: float
    runs: int

    def pace(self, seconds: float) -> str:
        """How a run that has taken so long compares: "", slow (over p95) or stuck (over three times p99)."""
        if seconds > self.p99 * STUCK:
            return "stuck"
        return "slow" if seconds > self.p95 else ""


def usual(name: str) -> Usual | None:
    """None when the name has fewer than ``ENOUGH`` runs: then nothing is usual yet."""
    return all_usual().get(name)


def all_usual() -> Mapping[str, Usual]:
    """Every name with enough runs, read again after two seconds."""
    global _read_at, _known  # noqa: PLW0603 (one cache a process)
    with _lock:
        if time.monotonic() - _read_at > FRESH:
            rows = (
                models.TaskType.objects.filter(runs__gte=ENOUGH, p50__isnull=False)
                .order_by("-last_seen_at")
                .values_list("name", "p50", "p95", "p99", "runs")[:MOST]
            )
            _known = {
                name: Usual(p50, p95 or p50, p99 or p95 or p50, runs)
                for name, p50, p95, p99, runs in rows
                if p50
            }
            _read_at = time.monotonic()
        return _known


def forget() -> None:
    """Reads the table at the next call."""
    global _read_at  # noqa: PLW0603
    _read_at = float("-inf")


_lock = threading.Lock()
_read_at = float("-inf")
_known: Mapping[str, Usual] = {}
