"""What is usual for a task name: its runtimes so far; and from when on a run of it is slow or stuck."""

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
TOPIC = "thresholds"  # people have set one, or taken it back


@dataclass(frozen=True, slots=True)
class Usual:
    """Runtimes of a task name in seconds."""

    p50: float
    p95: float
    p99: float
    runs: int


@dataclass(frozen=True, slots=True)
class After:
    """Seconds after which a run of a name is slow, and stuck; None: neither its past nor anybody says."""

    slow: float | None
    stuck: float | None
    slow_is_set: bool = False  # by a person, in place of what its past says
    stuck_is_set: bool = False
    by: str = ""  # who set it, and when
    at: float | None = None

    def pace(self, seconds: float) -> str:
        """How a run that has taken so long compares: "", slow or stuck."""
        if self.stuck is not None and seconds > self.stuck:
            return "stuck"
        return "slow" if self.slow is not None and seconds > self.slow else ""

    @property
    def is_set(self) -> bool:
        return self.slow_is_set or self.stuck_is_set


NEVER = After(None, None)


def usual(name: str) -> Usual | None:
    """None when the name has fewer than ``ENOUGH`` runs: then nothing is usual yet."""
    return all_usual().get(name)


def after(name: str) -> After:
    """What people have set for the name; what they have not, by its past: p95, and three times p99."""
    known = all_usual().get(name)
    given = _set.get(name)
    if given is None:
        return NEVER if known is None else After(known.p95, known.p99 * STUCK)
    slow, stuck, by, at = given
    return After(
        slow if slow is not None else known.p95 if known else None,
        stuck if stuck is not None else known.p99 * STUCK if known else None,
        slow is not None,
        stuck is not None,
        by,
        at,
    )


def all_usual() -> Mapping[str, Usual]:
    """Every name with enough runs, read again after two seconds, with what people have set."""
    global _read_at, _known, _set  # noqa: PLW0603 (one cache a process)
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
            given = models.Threshold.objects.order_by("-at").values_list(
                "name", "slow", "stuck", "username", "at"
            )
            _set = {name: (slow, stuck, by, at) for name, slow, stuck, by, at in given[:MOST]}
            _read_at = time.monotonic()
        return _known


def forget() -> None:
    """Reads the table at the next call."""
    global _read_at  # noqa: PLW0603
    _read_at = float("-inf")


_lock = threading.Lock()
_read_at = float("-inf")
_known: Mapping[str, Usual] = {}
_set: Mapping[str, tuple[float | None, float | None, str, float]] = {}
