"""Every read of the tasks page: a bounded window of rows, counts that stay cheap, and the bars over time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from django.db import connection
from django.db.models import F, Q, QuerySet

from dashboard.forms.tasks import SPANS, TaskFilter
from dashboard.queries.usual import Usual, all_usual
from monitor.models import Task, TaskType, Worker
from monitor.records import STARTED, STATES, WAITING

ROWS = 50
COUNTED = 10_000  # rows counted at most; beyond, "10,000+"
SEARCHED = 20_000  # newest rows that a text is looked for in
SORTED = 2_000  # rows that are put in an order no index keeps
BARS = 60

_ROW = (
    *("id", "uuid", "name", "state", "worker", "queue", "args", "kwargs", "received_at", "started_at"),
    *("ended_at", "seen_at", "runtime", "wait", "retries", "eta", "known", "note"),
)


@dataclass(frozen=True)
class Row:
    """A task with what its history says of it."""

    task: Task
    usual: Usual | None
    ran: float | None  # seconds, so far when it runs
    pace: str

    @property
    def running(self) -> bool:
        return self.task.state == STARTED

    @property
    def tries(self) -> int:
        return self.task.retries + 1

    @property
    def action(self) -> str:
        """What can be asked for it: revoke while it waits, terminate while it runs."""
        if self.running:
            return "terminate"
        return "revoke" if self.task.state in WAITING else ""

    @property
    def text(self) -> str:
        """Arguments on one line."""
        kwargs = self.task.kwargs or ""
        return f"{self.task.args or ''} {'' if kwargs in ('{}', '') else kwargs}".strip()[:300]


@dataclass(frozen=True)
class Window:
    """The rows shown, and the places before and after them ("" when there are none)."""

    rows: list[Row]
    older: str = ""
    newer: str = ""
    note: str = ""


def window(asked: TaskFilter, now: float | None = None) -> Window:
    """The rows that a filter shows."""
    now = time.time() if now is None else now
    if asked.stuck or asked.sort == "over":
        return _furthest(asked, now)
    if asked.sort == "ran":
        return _longest(asked, now)
    return _newest(asked, now)


def matching(asked: TaskFilter, now: float) -> QuerySet[Task]:
    """Unordered rows that match all but ``stuck``."""
    tasks = Task.objects.all()
    if asked.states:
        tasks = tasks.filter(state__in=asked.states)
    if asked.name:
        tasks = tasks.filter(_named(asked.name))
    if asked.worker:
        tasks = tasks.filter(worker=asked.worker)
    if asked.queue:
        tasks = tasks.filter(queue=asked.queue)
    since = now - SPANS[asked.span] if asked.span else asked.since
    if since is not None:
        tasks = tasks.filter(seen_at__gte=since)
    if asked.until is not None:
        tasks = tasks.filter(seen_at__lte=asked.until)
    if asked.q:
        newest = tasks.order_by("-seen_at", "-id").values("pk")[:SEARCHED]
        fields = ("args", "kwargs", "result", "exception", "uuid")
        text = reduce(or_, (Q(**{f"{name}__icontains": asked.q}) for name in fields))
        tasks = Task.objects.filter(text, pk__in=newest)
    return tasks


def count(asked: TaskFilter, now: float | None = None) -> int:
    """How many match; COUNTED + 1 means more than COUNTED."""
    now = time.time() if now is None else now
    if asked.stuck:
        return len(_stuck(asked, now))
    return matching(asked, now).order_by().values("pk")[: COUNTED + 1].count()


def state_counts() -> dict[str, int]:
    """Tasks in each state, each counted to COUNTED at most, from the index alone."""
    table = connection.ops.quote_name(Task._meta.db_table)
    one = "(SELECT COUNT(*) FROM (SELECT 1 FROM {} WHERE state = %s LIMIT {}) AS s{})"
    counts = ", ".join(one.format(table, COUNTED + 1, n) for n in range(len(STATES)))
    with connection.cursor() as cursor:
        # The names are ours, the values are parameters.
        cursor.execute(f"SELECT {counts}", list(STATES))
        row = cursor.fetchone()
    return dict(zip(STATES, row or [0] * len(STATES), strict=True))


def stuck_count(now: float | None = None) -> int:
    """Running tasks far over their usual."""
    return len(_stuck(TaskFilter(), time.time() if now is None else now))


def choices() -> dict[str, list[str]]:
    """Names to choose from: task names, workers and queues that are known, newest first, bounded."""
    names = TaskType.objects.order_by("-last_seen_at").values_list("name", flat=True)[:200]
    workers = Worker.objects.filter(is_beat=False).values_list("hostname", "queues")[:500]
    queues = {q for _, held in workers for q in held or [] if isinstance(q, str)}
    return {
        "names": [n for n in names if n],
        "workers": [hostname for hostname, _ in workers],
        "queues": sorted(queues)[:200],
    }


def over_time(
    asked: TaskFilter, now: float | None = None
) -> tuple[list[tuple[str, list[float]]], list[float]]:
    """Matches by state in BARS stretches of time, and the ends of the axis; of the newest SEARCHED rows."""
    now = time.time() if now is None else now
    begin = now - SPANS.get(asked.span, 900.0)
    end = now
    if asked.since is not None or asked.until is not None:
        end = min(asked.until or now, now)
        begin = asked.since if asked.since is not None else end - 900.0
    width = max((end - begin) / BARS, 1e-3)
    rows = matching(asked, now).filter(seen_at__gte=begin, seen_at__lte=end).order_by("-seen_at")
    counted: dict[str, list[float]] = {}
    for state, at in rows.values_list("state", "seen_at")[:SEARCHED]:
        bars = counted.setdefault(state, [0.0] * BARS)
        bars[min(BARS - 1, int((at - begin) / width))] += 1
    order = ("SUCCESS", "STARTED", "RECEIVED", "PENDING", "REVOKED", "REJECTED", "LOST", "RETRY", "FAILURE")
    return [(state, counted[state]) for state in order if state in counted], [begin, end]


def rows_of(tasks: Sequence[Task], now: float) -> list[Row]:
    """With their usual runtimes."""
    return [row_of(task, now) for task in tasks]


def row_of(task: Task, now: float) -> Row:
    """One task beside its usual."""
    known = all_usual().get(task.name)
    ran = task.runtime
    if task.state == STARTED:
        ran = max(0.0, now - task.started_at) if task.started_at is not None else None
    elif ran is None and task.started_at is not None and task.ended_at is not None:
        ran = max(0.0, task.ended_at - task.started_at)
    pace = known.pace(ran) if known and ran is not None and task.state == STARTED else ""
    return Row(task, known, ran, pace)


def mentions(uuid: str) -> int:
    """How many tasks name this one as their parent or root, though it was not seen itself."""
    children = Task.objects.filter(parent_id=uuid).values("pk")[:ROWS].count()
    return children or Task.objects.filter(root_id=uuid).values("pk")[:ROWS].count()


def _named(pattern: str) -> Q:
    bare = pattern.strip("*")
    if pattern.startswith("*"):
        return Q(name__icontains=bare)
    return Q(name__startswith=bare) if pattern.endswith("*") else Q(name=pattern)


def _newest(asked: TaskFilter, now: float) -> Window:
    tasks = matching(asked, now).only(*_ROW)
    if asked.after:
        at, key = asked.after
        tasks = tasks.filter(Q(seen_at__gt=at) | Q(seen_at=at, id__gt=key))
        found = list(tasks.order_by("seen_at", "id")[: ROWS + 1])
        more, found = len(found) > ROWS, found[:ROWS][::-1]
        older, newer = bool(found), more
    else:
        if asked.before:
            at, key = asked.before
            tasks = tasks.filter(Q(seen_at__lt=at) | Q(seen_at=at, id__lt=key))
        found = list(tasks.order_by("-seen_at", "-id")[: ROWS + 1])
        older, found = len(found) > ROWS, found[:ROWS]
        newer = asked.before is not None
    first, last = (found[0], found[-1]) if found else (None, None)
    return Window(
        rows_of(found, now),
        asked.query(before=_place(last)) if older and last else "",
        asked.query(after=_place(first)) if newer and first else "",
    )


def _place(task: Task) -> str:
    return f"{task.seen_at!r}_{task.pk}"


def _longest(asked: TaskFilter, now: float) -> Window:
    newest = matching(asked, now).order_by("-seen_at").values("pk")[:COUNTED]
    tasks = Task.objects.filter(pk__in=newest).only(*_ROW)
    if set(asked.states) == {STARTED}:
        tasks = tasks.order_by(F("started_at").asc(nulls_last=True), "id")
    else:
        tasks = tasks.order_by(F("runtime").desc(nulls_last=True), "-id")
    start = (asked.page - 1) * ROWS
    found = list(tasks[start : start + ROWS + 1])
    note = f"Longest first, of the newest {COUNTED:,} that match."
    return _paged(asked, rows_of(found[:ROWS], now), len(found) > ROWS, note)


def _furthest(asked: TaskFilter, now: float) -> Window:
    rows = _stuck(asked, now) if asked.stuck else _running(asked, now)
    rows.sort(key=lambda row: -((row.ran or 0) / row.usual.p95 if row.usual else 0))
    start = (asked.page - 1) * ROWS
    note = "Running tasks, furthest over their usual runtime first. Stuck means longer than 3 × its p99."
    return _paged(asked, rows[start : start + ROWS], len(rows) > start + ROWS, note)


def _paged(asked: TaskFilter, rows: list[Row], more: bool, note: str) -> Window:
    older = asked.query(page=str(asked.page + 1)) if more else ""
    newer = asked.query(page=str(asked.page - 1)) if asked.page > 1 else ""
    return Window(rows, older, newer, note)


def _running(asked: TaskFilter, now: float) -> list[Row]:
    """Running tasks that match, the oldest SORTED of them: who runs longest is who may be stuck."""
    tasks = matching(asked, now).filter(state=STARTED).only(*_ROW)
    return rows_of(list(tasks.order_by(F("started_at").asc(nulls_last=True))[:SORTED]), now)


def _stuck(asked: TaskFilter, now: float) -> list[Row]:
    return [row for row in _running(asked, now) if row.pace == "stuck"]
