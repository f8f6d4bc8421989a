"""Every read of the tasks page but its bars: a bounded window of rows, and counts that stay cheap."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection

from dashboard.forms.tasks import TaskFilter
from dashboard.queries import newest, shared, text
from dashboard.queries.newest import Found, Place, wanted
from dashboard.queries.usual import NEVER, After, Usual, after, all_usual
from dashboard.templatetags.words import clock
from monitor.models import NOT_ROOT, Task, TaskType, Worker
from monitor.records import ENDED, FAILURE, LOST, REJECTED, REVOKED, STARTED, STATES, WAITING

ROWS = 50
COUNTED = 10_000  # rows counted at most; beyond, "10,000+"
MATCHES = 1_000  # rows counted at most that hold a text
SORTED = 2_000  # rows that are put in an order no index keeps
LONGEST = 5_000  # newest rows that are put in the order of their runtimes
RUNNING = 10_000  # running tasks among which the oldest are looked for
CHOICES = 2.0  # seconds that one reading of the names to choose from serves
FRESH = 0.5  # seconds that a count of all tasks serves every page and region

# Ends that call for a retry. One that succeeded is run again from its own page.
RETRIED = frozenset({FAILURE, LOST, REJECTED, REVOKED})
_SHOWN = (
    *("id", "uuid", "name", "state", "worker", "queue", "args", "kwargs", "received_at", "started_at"),
    *("ended_at", "seen_at", "runtime", "wait", "retries", "eta", "known", "note"),
)
# In the order of the table, as a row is made into a task.
_ROW = tuple(f.column for f in Task._meta.concrete_fields if f.column in _SHOWN)


@dataclass(frozen=True)
class Row:
    """A task with what its history says of it."""

    task: Task
    usual: Usual | None
    ran: float | None  # seconds, so far when it runs
    pace: str
    after: After = NEVER

    @property
    def over(self) -> float:
        """How many times it has run what its name usually takes at most, or what was set for it."""
        limit = self.usual.p95 if self.usual else self.after.slow or self.after.stuck
        return (self.ran or 0.0) / limit if limit else 0.0

    @property
    def running(self) -> bool:
        return self.task.state == STARTED

    @property
    def ended(self) -> bool:
        return self.task.state in ENDED

    @property
    def tries(self) -> int:
        return self.task.retries + 1

    @property
    def action(self) -> str:
        """What can be asked for it: to revoke it, to terminate it, or to retry what ended badly."""
        if self.running:
            return "terminate"
        if self.task.state in RETRIED:
            return "retry"
        return "revoke" if self.task.state in WAITING else ""

    @property
    def how(self) -> str:
        """How its state is known, where that is not by its events."""
        return how_known(self.task)

    @property
    def text(self) -> str:
        """Arguments on one line."""
        kwargs = self.task.kwargs or ""
        return f"{self.task.args or ''} {'' if kwargs in ('{}', '') else kwargs}".strip()[:300]


def how_known(task: Task) -> str:
    """What its state was read or inferred from, where no event says so; "" where one does."""
    if task.known == "seen":
        return ""
    if task.state == REVOKED:
        # Workers write that as soon as they are told; one that restarts may run it still.
        return "by its result; no worker was seen to skip it"
    return str(task.note)


@dataclass(frozen=True)
class Window:
    """The rows shown, and the places before and after them ("" when there are none)."""

    rows: list[Row]
    older: str = ""
    newer: str = ""
    limits: str = ""  # what was not looked at


def window(asked: TaskFilter, now: float | None = None) -> Window:
    """The rows that a filter shows."""
    now = time.time() if now is None else now
    if asked.stuck or asked.sort == "over":
        return _furthest(asked, now)
    if asked.sort == "ran":
        return _longest(asked, now)
    return _newest(asked, now)


def places(asked: TaskFilter, now: float) -> object:
    """Which rows a filter shows, by their last events, off its index alone.

    Where no index has them in order the answer is unlike any other.
    """
    if asked.stuck or asked.sort or asked.q:
        return object()
    found = newest.newest(newest.KEYS, wanted(asked, now), ROWS + 1)
    return found.rows, found.on


def count(asked: TaskFilter, now: float | None = None) -> tuple[int, bool]:
    """How many match, and whether there may be more than were counted."""
    now = time.time() if now is None else now
    if asked.stuck:
        return len(_stuck(asked, now)), False
    if not asked.narrowed:
        counts = state_counts()
        total = min(sum(counts.values()), COUNTED + 1)
    else:
        total = newest.count(wanted(asked, now), COUNTED + 1)
    return min(total, COUNTED), total > COUNTED


def state_counts() -> dict[str, int]:
    """Tasks in each state, each counted to COUNTED at most, from the index alone; as of FRESH seconds ago."""
    return shared.reading("task states", FRESH, _state_counts)


def _state_counts() -> dict[str, int]:
    table = connection.ops.quote_name(Task._meta.db_table)
    one = "(SELECT COUNT(*) FROM (SELECT 1 FROM {} WHERE state = %s LIMIT {}) AS s{})"
    counts = ", ".join(one.format(table, COUNTED + 1, n) for n in range(len(STATES)))
    with connection.cursor() as cursor:
        # The names are ours, the values are parameters.
        cursor.execute(f"SELECT {counts}", list(STATES))
        row = cursor.fetchone()
    return dict(zip(STATES, row or [0] * len(STATES), strict=True))


def stuck_count() -> int:
    """Running tasks far over their usual, as of FRESH seconds ago."""
    return shared.reading("stuck tasks", FRESH, _stuck_count)


def _stuck_count() -> int:
    now = time.time()
    running = Task.objects.filter(state=STARTED, started_at__isnull=False)
    paces = (
        after(name).pace(max(0.0, now - began))
        for name, began in running.order_by("started_at").values_list("name", "started_at")[:SORTED]
        if began is not None
    )
    return sum(pace == "stuck" for pace in paces)


def choices() -> dict[str, list[str]]:
    """Names to choose from: task names, workers and queues that are known, newest first, bounded."""
    return shared.reading("task choices", CHOICES, _choices)


def _choices() -> dict[str, list[str]]:
    names = TaskType.objects.order_by("-last_seen_at").values_list("name", flat=True)[:200]
    workers = Worker.objects.filter(is_beat=False).values_list("hostname", "queues")[:500]
    queues = {q for _, held in workers for q in held or [] if isinstance(q, str)}
    return {
        "names": [n for n in names if n],
        "workers": [hostname for hostname, _ in workers],
        "queues": sorted(queues)[:200],
    }


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
    limit = after(task.name)
    pace = limit.pace(ran) if ran is not None and task.state == STARTED else ""
    return Row(task, known, ran, pace, limit)


def mentions(uuid: str) -> int:
    """How many tasks name this one as their parent or root, though it was not seen itself."""
    children = Task.objects.filter(parent_id=uuid).values("pk")[:ROWS].count()
    return children or Task.objects.filter(NOT_ROOT, root_id=uuid).values("pk")[:ROWS].count()


def _newest(asked: TaskFilter, now: float) -> Window:
    found = _found(_ROW, asked, now, ROWS + 1)
    rows = found.rows
    if asked.after:
        more, rows = len(rows) > ROWS, rows[-ROWS:]
        older, newer = bool(rows), more
    else:
        older, rows = len(rows) > ROWS, rows[:ROWS]
        newer = asked.before is not None
    tasks = tasks_of(rows)
    first, last = (tasks[0], tasks[-1]) if tasks else (None, None)
    on = _place_of(last) if older and last else found.on
    return Window(
        rows_of(tasks, now),
        asked.query(before=_written(on)) if on else "",
        asked.query(after=_written(_place_of(first))) if newer and first else "",
        _limits(asked, found),
    )


def _found(columns: Sequence[str], asked: TaskFilter, now: float, most: int) -> Found:
    want = wanted(asked, now)
    return text.find(columns, asked.q, want, most) if asked.q else newest.newest(columns, want, most)


def _unpaged(asked: TaskFilter) -> TaskFilter:
    return replace(asked, before=None, after=None)


def _limits(asked: TaskFilter, found: Found) -> str:
    """What was not looked at, "" when all was."""
    if isinstance(found, text.Read):
        if text.sought(asked.q) is None:
            return "That text has no letter and no digit, so there is nothing to look for."
        if found.behind is not None:
            since = f"since {clock(found.behind)} UTC " if found.behind > 0 else ""
            return (
                f"The words of tasks {since}are still being indexed: "
                f"of those the newest {text.UNINDEXED:,} were searched."
            )
        if found.on is not None:
            return "Nothing more among the newest; “Older” goes on from there."
    elif found.on is not None:
        return f"Of the newest {newest.STRETCH:,} that match one of the filters; “Older” goes on from there."
    return ""


def tasks_of(rows: Iterable[tuple[Any, ...]]) -> list[Task]:
    """Tasks with the columns of ``_ROW`` alone."""
    return [Task.from_db(connection.alias, _ROW, row) for row in rows]


def _place_of(task: Task) -> Place:
    return (task.seen_at, task.pk)


def _written(place: Place) -> str:
    return f"{place[0]!r}_{place[1]}"


def _longest(asked: TaskFilter, now: float) -> Window:
    """Of the newest that match, since no index keeps the order of runtimes."""
    columns = ("seen_at", "id", "runtime", "started_at")
    rows = _found(columns, _unpaged(asked), now, MATCHES if asked.q else LONGEST).rows
    if set(asked.states) == {STARTED}:
        rows.sort(key=lambda row: (row[3] is None, row[3], row[1]))
    else:
        rows.sort(key=lambda row: (row[2] is None, -(row[2] or 0.0), -row[1]))
    start = (asked.page - 1) * ROWS
    chosen = rows[start : start + ROWS]
    return _paged(asked, rows_of(_by_key(chosen), now), len(rows) > start + ROWS)


def _by_key(rows: Sequence[tuple[Any, ...]]) -> list[Task]:
    """The tasks of (seen_at, id, ...) in that order; the time finds the row where ids have no index."""
    terms = " OR ".join(["(seen_at = %s AND id = %s)"] * len(rows))
    if not rows:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(_ROW)} FROM {newest.TABLE} WHERE {terms}",  # noqa: S608 - our own names
            [value for row in rows for value in row[:2]],
        )
        tasks = {task.pk: task for task in tasks_of(cursor.fetchall())}
    return [tasks[row[1]] for row in rows if row[1] in tasks]


def _furthest(asked: TaskFilter, now: float) -> Window:
    rows = _stuck(asked, now) if asked.stuck else _running(asked, now)
    rows.sort(key=lambda row: -row.over)
    start = (asked.page - 1) * ROWS
    return _paged(asked, rows[start : start + ROWS], len(rows) > start + ROWS)


def _paged(asked: TaskFilter, rows: list[Row], more: bool) -> Window:
    older = asked.query(page=str(asked.page + 1)) if more else ""
    newer = asked.query(page=str(asked.page - 1)) if asked.page > 1 else ""
    return Window(rows, older, newer)


def _running(asked: TaskFilter, now: float) -> list[Row]:
    """Running tasks that match, the oldest SORTED of them: who runs longest is who may be stuck."""
    if asked.states and STARTED not in asked.states:
        return []
    asked = replace(_unpaged(asked), states=(STARTED,))
    tasks = tasks_of(_found(_ROW, asked, now, MATCHES if asked.q else RUNNING).rows)
    tasks.sort(key=lambda task: (task.started_at is None, task.started_at))
    return rows_of(tasks[:SORTED], now)


def stuck(asked: TaskFilter, now: float) -> tuple[list[Row], bool]:
    """Running tasks far over their usual, and whether all that run were looked at."""
    running = _running(asked, now)
    return [row for row in running if row.pace == "stuck"], len(running) < SORTED


def _stuck(asked: TaskFilter, now: float) -> list[Row]:
    return [row for row in _running(asked, now) if row.pace == "stuck"]
