"""Workers as the pages show them: pool slots with what runs in each, rates, and what is held or lost."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from django.db.models import Q, Value
from django.db.models.functions import Concat

from dashboard.queries import shared
from dashboard.queries import usual as history
from dashboard.queries.usual import Usual
from dashboard.queries.waiting import Waiting, waiting
from monitor import models
from monitor.records import ENDED, LOST, RECEIVED, STARTED, WAITING

MOST_RUNNING = 2000  # running tasks read for all slots
MOST_LOST = 500
MOST_RESERVED = 5000  # of one worker
MOST_RECENT = 1500  # rows behind the rates of workers and queues
RECENT = 60.0  # seconds behind the rates, less when there are more rows than that
MOST_SLOTS = 2000  # cells of one worker
KEPT = 86400.0  # seconds an offline worker stays listed
# Seconds a reading serves: of the fleet less than an eye sees, of the rates a little more.
FRESH, RATES_FRESH = 0.3, 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A task in a slot; ``elapsed`` in seconds by the worker's clock, corrected by its drift."""

    uuid: str
    name: str
    worker: str
    elapsed: float
    usual: Usual | None
    pid: int | None = None
    lost: bool = False

    @property
    def pace(self) -> str:
        return "" if self.lost else history.after(self.name).pace(self.elapsed)

    @property
    def state(self) -> str:
        """The design's name: running, slow, stuck or lost."""
        return "lost" if self.lost else self.pace or "running"

    @property
    def fill(self) -> float:
        """How much of its usual p95 has passed, 0 to 1; half full when nothing is usual yet."""
        if self.usual is None:
            return 0.5
        return min(1.0, self.elapsed / self.usual.p95) if self.usual.p95 > 0 else 1.0

    @property
    def times(self) -> float | None:
        """How many times its usual p50 it has run."""
        return self.elapsed / self.usual.p50 if self.usual and self.usual.p50 > 0 else None


@dataclass(frozen=True, slots=True)
class Slot:
    """One pool process, thread or greenlet."""

    number: int
    task: Running | None = None

    @property
    def state(self) -> str:
        return self.task.state if self.task else "idle"

    @property
    def fill(self) -> float:
        return self.task.fill if self.task else 0.0


@dataclass(frozen=True)
class Recent:
    """What moved in the last ``span`` seconds, at most ``MOST_RECENT`` tasks."""

    span: float
    done: Mapping[str, int] = field(default_factory=dict)  # by worker
    entered: Mapping[str, int] = field(default_factory=dict)  # by queue
    left: Mapping[str, int] = field(default_factory=dict)  # by queue: started or ended
    finished: Mapping[str, int] = field(default_factory=dict)  # by queue
    waits: tuple[tuple[float, float], ...] = ()  # (seen at, seconds)


@dataclass(frozen=True)
class WorkerView:
    """A worker and all that its row, tile or page shows."""

    row: models.Worker
    slots: list[Slot]
    reserved: int
    rate: float  # finished a second
    now: float

    @property
    def hostname(self) -> str:
        return self.row.hostname

    @property
    def online(self) -> bool:
        return self.row.status == "online"

    @property
    def offline(self) -> bool:
        return self.row.status == "offline"

    @property
    def size(self) -> int | None:
        return self.row.size

    @cached_property
    def busy(self) -> int:
        return sum(slot.task is not None and not slot.task.lost for slot in self.slots)

    @property
    def full(self) -> bool:
        return self.online and bool(self.size) and self.busy >= (self.size or 0)

    @cached_property
    def stuck(self) -> int:
        return sum(slot.state == "stuck" for slot in self.slots)

    @cached_property
    def lost(self) -> int:
        return sum(slot.state == "lost" for slot in self.slots)

    @property
    def silent(self) -> float | None:
        """Seconds since it was last heard of."""
        return span(self.row.heartbeat_at, self.now)

    @property
    def up(self) -> float | None:
        return None if self.offline else span(self.row.booted_at or self.row.online_at, self.now)

    @property
    def load(self) -> float | None:
        first = self.row.load[0] if isinstance(self.row.load, list) and self.row.load else None
        return first if isinstance(first, int | float) else None

    @property
    def loads(self) -> list[float]:
        return (
            [x for x in self.row.load if isinstance(x, int | float)]
            if isinstance(self.row.load, list)
            else []
        )

    @property
    def queues(self) -> list[str]:
        return [str(name) for name in self.row.queues] if isinstance(self.row.queues, list) else []

    @property
    def state(self) -> str:
        """The design's name for its glyph."""
        if self.offline:
            return "offline"
        if not self.online:
            return "unknown"
        return "stuck" if self.stuck else "succeeded"

    @property
    def word(self) -> str:
        if self.row.status == "online" and self.stuck:
            return "online, stuck task"
        return str(self.row.status)


@dataclass(frozen=True)
class Fleet:
    """Every worker, and beat apart from them."""

    workers: list[WorkerView]
    beats: list[models.Worker]
    now: float
    recent: Recent
    waiting: Waiting

    @cached_property
    def online(self) -> int:
        return sum(w.online for w in self.workers)

    @cached_property
    def busy(self) -> int:
        return sum(w.busy for w in self.workers if not w.offline)

    @cached_property
    def size(self) -> int:
        return sum(w.size or 0 for w in self.workers if not w.offline)

    @cached_property
    def reserved(self) -> int:
        return sum(w.reserved for w in self.workers if not w.offline)

    @property
    def rate(self) -> float:
        return sum(w.rate for w in self.workers)

    @property
    def running(self) -> list[Running]:
        """Every running task in a slot."""
        tasks = (slot.task for w in self.workers for slot in w.slots)
        return [task for task in tasks if task is not None and not task.lost]


def current() -> Fleet:
    """All workers as of now, shared for a moment between the regions and pages that ask."""
    return shared.reading("fleet", FRESH, fleet)


def any_worker(now: float | None = None) -> bool:
    """Whether ``fleet`` would list a worker or beat."""
    now = time.time() if now is None else now
    return any(row.status != "offline" or not _long_gone(row, now) for row in _rows())


def fleet(now: float | None = None) -> Fleet:
    """All workers: six queries, however many there are."""
    now = time.time() if now is None else now
    rows = [row for row in _rows() if row.status != "offline" or not _long_gone(row, now)]
    workers = [row for row in rows if not row.is_beat]
    seen = shared.reading("recent", RATES_FRESH, lambda: recent(now))
    waits = shared.reading("waiting", RATES_FRESH, lambda: waiting(now))
    views = _views(workers, seen, waits.reserved, now)
    return Fleet(views, [row for row in rows if row.is_beat], now, seen, waits)


def one(pk: int, now: float | None = None) -> WorkerView | None:
    """One worker with its details."""
    now = time.time() if now is None else now
    row = models.Worker.objects.filter(pk=pk).first()
    if row is None:
        return None
    seen = shared.reading("recent", RATES_FRESH, lambda: recent(now))
    held = models.Task.objects.filter(state=RECEIVED, worker=row.hostname)[:MOST_RESERVED].count()
    return _views([row], seen, {row.hostname: held}, now)[0]


def recent(now: float) -> Recent:
    """What moved last, by the index on seen_at."""
    rows = list(
        models.Task.objects.filter(seen_at__gt=now - RECENT, seen_at__lte=now + RECENT)
        .order_by("-seen_at")
        .values_list("state", "worker", "queue", "seen_at", "first_seen_at", "wait")[:MOST_RECENT]
    )
    length = max(1.0, now - rows[-1][3]) if len(rows) == MOST_RECENT else RECENT
    since = now - length
    done: Counter[str] = Counter()
    entered: Counter[str] = Counter()
    left: Counter[str] = Counter()
    finished: Counter[str] = Counter()
    waits = []
    for state, worker, queue, seen_at, first_seen_at, wait in rows:
        if state in ENDED and state != LOST:
            done[worker] += 1
            finished[queue] += 1
        if first_seen_at >= since:
            entered[queue] += 1
        if state not in WAITING:
            left[queue] += 1
            if wait is not None and 0 <= wait < 1e9:
                waits.append((seen_at, wait))
    return Recent(length, done, entered, left, finished, tuple(waits))


def span(at: float | None, now: float) -> float | None:
    """Seconds since; None for what is not known or no sensible time."""
    if at is None or not math.isfinite(at) or not 0 <= at <= now + KEPT:
        return None
    return max(0.0, now - at)


def quantile(values: Iterable[float], q: float) -> float | None:
    """By rank; None of nothing."""
    found = sorted(values)
    return found[min(len(found) - 1, int(q * len(found)))] if found else None


def _long_gone(row: models.Worker, now: float) -> bool:
    since = span(row.offline_at or row.heartbeat_at or row.first_seen_at, now)
    return since is None or since > KEPT


def _rows() -> list[models.Worker]:
    return list(models.Worker.objects.defer("details").order_by("hostname"))


def _views(
    rows: list[models.Worker], seen: Recent, reserved: Mapping[str, int], now: float
) -> list[WorkerView]:
    alone = rows[0].hostname if len(rows) == 1 else None
    running = _running(rows, now, alone)
    lost = _lost([row for row in rows if row.status == "offline"], now)
    views = []
    for row in rows:
        away = row.status == "offline"
        tasks = lost.get(row.hostname, []) if away else running.get(row.hostname, [])
        rate = 0.0 if away else seen.done.get(row.hostname, 0) / seen.span
        views.append(WorkerView(row, _slots(row, tasks), reserved.get(row.hostname, 0), rate, now))
    return views


def _running(rows: list[models.Worker], now: float, alone: str | None) -> dict[str, list[Running]]:
    drifts = {row.hostname: row.drift or 0.0 for row in rows}
    tasks = models.Task.objects.filter(state=STARTED)
    if alone is not None:
        tasks = tasks.filter(worker=alone)
    found: dict[str, list[Running]] = defaultdict(list)
    columns = tasks.order_by("-seen_at").values_list("uuid", "name", "worker", "started_at", "seen_at")
    read = list(columns[:MOST_RUNNING])
    known = {name: history.usual(name) for name in {name for _, name, *_ in read}}
    for uuid, name, worker, started_at, seen_at in read:
        drift = drifts.get(worker, 0.0)
        elapsed = span(None if started_at is None else started_at - drift, now)
        if elapsed is None:
            elapsed = span(seen_at, now) or 0.0
        found[worker].append(Running(uuid, name, worker, elapsed, known.get(name)))
    for tasks_here in found.values():
        tasks_here.sort(key=lambda task: (-task.elapsed, task.uuid))
    return found


def _lost(rows: list[models.Worker], now: float) -> dict[str, list[Running]]:
    """Tasks that ran on workers that went away."""
    if not rows:
        return {}
    since = {row.hostname: (row.heartbeat_at or row.offline_at or 0.0) - 1 for row in rows}
    found: dict[str, list[Running]] = defaultdict(list)
    # By their state: of a worker's own tasks, millions at times, few are lost, and those since it went.
    named = models.Task.objects.alias(on=Concat("worker", Value(""))).filter(on__in=since)
    tasks = named.filter(Q(state=STARTED) | Q(state=LOST, seen_at__gte=min(since.values())))
    columns = tasks.order_by("-seen_at").values_list(
        "uuid", "name", "worker", "started_at", "state", "ended_at", "seen_at"
    )
    for uuid, name, worker, started_at, state, ended_at, seen_at in columns[:MOST_LOST]:
        if state == LOST and max(ended_at or 0.0, seen_at) < since[worker]:
            continue  # of an earlier life
        elapsed = span(started_at, now) or 0.0
        found[worker].append(Running(uuid, name, worker, elapsed, None, lost=True))
    return found


def _slots(row: models.Worker, tasks: list[Running]) -> list[Slot]:
    """Idle ones last; a pool whose size is not known shows only what runs in it."""
    size = min(max(row.size or 0, len(tasks)), MOST_SLOTS)
    return [Slot(n + 1, tasks[n] if n < len(tasks) else None) for n in range(size)]
