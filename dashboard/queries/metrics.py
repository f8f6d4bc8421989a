"""What ``/metrics`` tells, read from history: the same from every web process, whichever runs the engine.

Everything is bounded before it is read: workers, pairs of worker and task name, and rows that are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
from django.db.models import Count

from dashboard.queries import feed, tasks
from dashboard.queries.waiting import Waiting, waiting
from monitor import models, rates
from monitor.records import RECEIVED, STARTED, FeedRecord

WORKERS = 20_000  # rows read
PAIRS = 4_000  # rows of worker and task name; the engine counts 1,000 apart, and those of the gone go
ROWS = 20_000  # of tasks that wait or run, the newest
WINDOW = 24 * 3600.0  # seconds over which blind time is told

Pair = tuple[str, str]  # worker, task name

# The counts of a pair by the event that made them, in Flower's words. Lost is Umbel's own.
EVENTS = {
    "received": "task-received",
    "started": "task-started",
    "succeeded": "task-succeeded",
    "failed": "task-failed",
    "retried": "task-retried",
    "revoked": "task-revoked",
    "rejected": "task-rejected",
}
# Upper bounds in seconds: those of Prometheus's clients, as Flower has them.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


@dataclass(frozen=True)
class Runtimes:
    """A histogram as Prometheus has it: cumulative counts up to each bound and to all, and the sum."""

    cumulative: list[tuple[str, int]]
    total: float


@dataclass(frozen=True)
class Snapshot:
    """Everything at one moment."""

    feed: FeedRecord
    at: float | None  # when the engine last told
    events: dict[tuple[str, str, str], float] = field(default_factory=dict)  # worker, type, task
    runtimes: dict[Pair, Runtimes] = field(default_factory=dict)
    prefetched: dict[Pair, float] = field(default_factory=dict)
    prefetch_time: dict[Pair, float] = field(default_factory=dict)
    online: dict[str, bool | None] = field(default_factory=dict)
    executing: dict[str, float] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    missed: dict[str, float] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=lambda: Waiting({}, {}, {}, False))
    stuck: int = 0  # running tasks, of the oldest
    blind: float = 0.0  # seconds of the window
    gaps: int = 0
    blind_now: bool = False


def snapshot(now: float | None = None) -> Snapshot:
    """Reads it all; some 20 queries' worth of rows at most, each by an index."""
    now = time.time() if now is None else now
    fresh = feed.freshness(now)
    rows = list(
        models.Worker.objects.filter(is_beat=False)
        .order_by("hostname")
        .values_list("hostname", "status", "busy", "missed")[:WORKERS]
    )
    known = {hostname for hostname, *_ in rows}
    events, runtimes = _pairs(known)
    prefetched, prefetch_time = _waiting(known, now)
    # A pair that was told keeps being told: Flower's gauges stay at zero, and alerts rely on that.
    for worker, _, name in events:
        prefetched.setdefault((worker, name), 0.0)
        prefetch_time.setdefault((worker, name), 0.0)
    blind, gaps, blind_now = _blind(now)
    counted: dict[str, int] = {"online": 0, "offline": 0, "unknown": 0}
    for _, status, *_ in rows:
        counted[status] = counted.get(status, 0) + 1
    return Snapshot(
        feed=fresh.feed,
        at=fresh.at,
        events=events,
        runtimes=runtimes,
        prefetched=prefetched,
        prefetch_time=prefetch_time,
        online={hostname: _online(status) for hostname, status, *_ in rows},
        executing={
            hostname: float(busy or 0) if status == "online" else 0.0
            for hostname, status, busy, _ in rows
            if status != "unknown"
        },
        workers=counted,
        missed={hostname: float(missed) for hostname, *_, missed in rows if missed},
        states=tasks.state_counts(),
        waiting=waiting(now),
        stuck=tasks.stuck_count(),
        blind=blind,
        gaps=gaps,
        blind_now=blind_now,
    )


def _online(status: str) -> bool | None:
    """None while the broker is silent: nobody can know, and a dead worker is never told as online."""
    return {"online": True, "offline": False}.get(status)


def _pairs(known: set[str]) -> tuple[dict[tuple[str, str, str], float], dict[Pair, Runtimes]]:
    """Lifetime counts and runtimes by worker and task name, the first seen first: an order that stays."""
    rows = models.Rollup.objects.filter(width=0, by="pair").order_by("id")
    events: dict[tuple[str, str, str], float] = {}
    runtimes: dict[Pair, Runtimes] = {}
    columns = tuple(EVENTS)
    for key, runtime, *counts in rows.values_list("key", "runtime", *columns)[:PAIRS].iterator(2_000):
        worker, _, name = key.partition("\n")
        if worker not in known and worker != "other":
            continue
        for column, count in zip(columns, counts, strict=True):
            if count:
                events[worker, EVENTS[column], name] = float(count)
        if runtime:
            runtimes[worker, name] = cumulative(runtime)
    return events, runtimes


def cumulative(histogram: Mapping[str, int] | Mapping[int, int]) -> Runtimes:
    """Kept buckets as Prometheus's: each falls on the side of a bound where its middle is (within 2.7 %)."""
    counts = [0] * (len(BOUNDS) + 1)
    total = 0.0
    for key, count in histogram.items():
        place, middle = _place(key)
        counts[place] += count
        total += middle * count
    shown, seen = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        seen += count
        shown.append((bound, seen))
    return Runtimes(shown, total)


@lru_cache(4_096)
def _place(bucket: str | int) -> tuple[int, float]:
    middle = rates.value(int(bucket))
    return next((i for i, bound in enumerate(BOUNDS) if middle <= bound), len(BOUNDS)), middle


def _waiting(known: set[str], now: float) -> tuple[dict[Pair, float], dict[Pair, float]]:
    """Tasks received and not started, without those held for an ETA; and how long the last started waited."""
    held: dict[Pair, float] = {}
    waiting = models.Task.objects.filter(state=RECEIVED, eta=None).exclude(worker="")
    newest = waiting.order_by("-seen_at").values("pk")[:ROWS]
    counted = (
        models.Task.objects.filter(pk__in=newest)
        .order_by()
        .values_list("worker", "name")
        .annotate(n=Count("pk"))
    )
    for worker, name, count in counted:
        if worker in known:
            held[worker, name] = float(count)
    waits: dict[Pair, float] = {}
    running = models.Task.objects.filter(state=STARTED, eta=None).order_by("-seen_at")
    for worker, name, received, started in running.values_list("worker", "name", "received_at", "started_at")[
        :ROWS
    ]:
        if worker in known and received is not None and started is not None:
            waits.setdefault((worker, name), max(0.0, started - received))
    return held, waits


def _blind(now: float) -> tuple[float, int, bool]:
    """Seconds of the last day without ears, in how many gaps, and whether one is open."""
    begin = now - WINDOW
    gaps = [
        (max(start, begin), now if end is None else end, end is None)
        for start, end in models.Gap.objects.order_by("-started_at").values_list("started_at", "ended_at")[
            :10_000
        ]
        if end is None or end > begin
    ]
    return sum(max(0.0, end - start) for start, end, _ in gaps), len(gaps), any(o for *_, o in gaps)


def numbers(record: FeedRecord) -> dict[str, float]:
    """Every number of the feed that has no family of its own, by its field: what the engine adds is told."""
    found = {}
    for name, value in msgspec.structs.asdict(record).items():
        if name not in TOLD and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


# Fields of the feed that families of their own tell.
TOLD = frozenset(
    {"since", "started_at", "last_event_at", "lag", "rate", "workers_online", "workers_known", "tasks_live"}
) | {"store_failures", "store_pending", "worst_drift", "silent", "output_waiting", "output_limit"}
TOLD |= {"output_cuts", "shed_level", "shed_highest", "waiting"}
