"""What goes from history, and when: tasks by age and by count, counts by the width of their slice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from monitor import models
from monitor.records import FAILURE, LOST, STARTED, STATES
from monitor.store import pairs, partitions, rollups
from monitor.store.partitions import Fence

DAY = 86_400.0
SLICE = 1_000
CONTROLS_KEPT_DAYS = 365  # at least
# Kept longer than other tasks.
FAILURES = frozenset({FAILURE, LOST})

# Rows at most, whatever names are made up on the broker; the oldest of these go first.
MOST_ROWS: list[tuple[type[Model], str, int]] = [
    (models.TaskType, "1 = 1 ORDER BY last_seen_at", 20_000),
    (models.Rollup, "\"by\" NOT IN ('all', 'pair') ORDER BY start", 5_000_000),
    (models.Worker, "status = 'offline' ORDER BY COALESCE(heartbeat_at, first_seen_at)", 10_000),
]
COUNTING = 0.005  # of the time may go into counting a table
AT_ONCE = 0.005  # seconds: a count that takes less may be taken each time

_TASKS = f'"{models.Task._meta.db_table}"'
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long tasks stay after they were last heard of, and how many stay at most."""

    days: float = 14.0
    rows: int = 10_000_000
    failures_days: float = 90.0  # never shorter than ``days``

    def kept(self, state: str) -> float:
        """Seconds that a task in this state stays."""
        return max(self.days, self.failures_days if state in FAILURES else 0.0) * DAY


class Pruning:
    """Removes by ``retention``; remembers how many there are, since counting millions takes long."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self._counts: dict[type[Model], _Count] = {}

    def prune(self, now: float, fence: Fence = None) -> int:
        """One slice of what is past its time, at most 1,000 rows a table; call again while it returns 1,000.

        Returns the largest number of rows that one table lost. A task that runs, or waits for an ETA in the
        future, outlives its age. On PostgreSQL whole days go at once, and do not count.
        """
        if partitions.partitioned():
            self._days(now, fence)
        with transaction.atomic(), connection.cursor() as cursor:
            if fence is not None:
                fence(cursor)
            rollups.widen(cursor, now)
            pairs.forget(cursor, now)
            old = now - self.retention.days * DAY
            counted = now - rollups.KEPT_SECONDS[60]
            controls = now - max(self.retention.days, CONTROLS_KEPT_DAYS) * DAY
            lost = [
                self._old_tasks(cursor, now),
                self._excess_tasks(cursor, now),
                *(
                    _delete(cursor, models.Rollup, "width = %s AND start < %s", [width, int(now - kept)])
                    for width, kept in rollups.KEPT_SECONDS.items()
                ),
                _delete(
                    cursor,
                    models.Worker,
                    "status = 'offline' AND COALESCE(heartbeat_at, first_seen_at) < %s",
                    [old],
                ),
                _delete(cursor, models.TaskType, "last_seen_at < %s", [min(old, counted)]),
                _delete(cursor, models.Gap, "ended_at < %s", [min(old, counted)]),
                _delete(cursor, models.SentTask, "at < %s", [controls]),
                _delete(cursor, models.StandingRevoke, "since < %s", [controls]),
                _delete(cursor, models.StandingStamp, "until < %s", [controls]),
                _delete(cursor, models.Ladder, "ended_at < %s", [controls]),
                _delete(cursor, models.ControlRecord, f"at < %s{_unnamed()}", [controls]),
                *(self._excess(cursor, model, oldest, most) for model, oldest, most in MOST_ROWS),
            ]
        return max(lost)

    def _days(self, now: float, fence: Fence) -> None:
        """Partitions for the days to come; those of days past their time go, with all that need not stay."""
        try:
            partitions.prepare(now, fence)
            with connection.cursor() as cursor:
                parts = partitions.partitions(cursor)
            total, today = sum(part.count for part in parts), int(now // DAY)
            for part in parts:
                if part.day is None or part.day >= today:
                    break
                aged = (part.day + 1) * DAY + self.retention.days * DAY <= now
                if not aged and total - part.count < self.retention.rows:
                    break
                keep, values = self._staying(now, aged)
                kept = partitions.drop(part.day, keep, values, fence)
                total -= part.count - kept
                log.info("day pruned", partition=part.name, rows=part.count - kept, kept=kept)
        except partitions.Busy as busy:
            log.info("partitions wait", reason=str(busy))

    def _staying(self, now: float, aged: bool) -> tuple[str, list[Any]]:
        """What stays of a day that goes; of one that goes by count, not what is merely young."""
        parts = ["state = %s", "eta >= %s"]
        values: list[Any] = [STARTED, now]
        for state in STATES if aged else sorted(FAILURES):
            parts.append("state = %s AND seen_at >= %s")
            values += [state, now - self.retention.kept(state)]
        return " OR ".join(f"({part})" for part in parts), values

    def _old_tasks(self, cursor: CursorWrapper, now: float) -> int:
        # State by state, since the index by time alone holds the failures that stay in front.
        queries: list[str] = []
        values: list[list[Any]] = []
        for state in STATES:
            if state != STARTED:
                queries.append("state = %s AND seen_at < %s AND (eta IS NULL OR eta < %s)")
                values.append([state, now - self.retention.kept(state), now])
        return self._delete_tasks(cursor, queries, values, SLICE, now)

    def _excess_tasks(self, cursor: CursorWrapper, now: float) -> int:
        if partitions.partitioned():
            parts = partitions.partitions(cursor)
            if any(part.day is not None and part.day < int(now // DAY) and part.count for part in parts):
                return 0  # whole days go
            excess = sum(part.count for part in parts) - self.retention.rows
        else:
            excess = self._count(cursor, models.Task) - self.retention.rows
        if excess <= 0:
            return 0
        each: list[list[Any]] = [[state] for state in STATES]
        return self._delete_tasks(cursor, ["state = %s"] * len(each), each, min(excess, SLICE), now)

    def _delete_tasks(
        self,
        cursor: CursorWrapper,
        wheres: Sequence[str],
        values: Sequence[list[Any]],
        most: int,
        now: float,
    ) -> int:
        """The oldest of these, one condition a state; an age counts against how long such a task stays."""
        parts: list[str] = []
        flat: list[Any] = []
        for at, (where, of_state) in enumerate(zip(wheres, values, strict=True)):
            parts.append(
                f"SELECT * FROM (SELECT id, uuid, day, (%s - seen_at) / %s AS age FROM {_TASKS} "  # noqa: S608
                f"WHERE {where} ORDER BY seen_at LIMIT %s) AS part{at}"
            )
            flat += [now, self.retention.kept(str(of_state[0])), *of_state, most]
        oldest = f"{' UNION ALL '.join(parts)} ORDER BY age DESC LIMIT %s"
        # PostgreSQL has no index by id: ids are not what its partitions are found by.
        key = "uuid, day" if partitions.partitioned() else "id"
        cursor.execute(
            f"DELETE FROM {_TASKS} WHERE ({key}) IN (SELECT {key} FROM ({oldest}) AS oldest)",  # noqa: S608
            [*flat, most],
        )
        gone = int(cursor.rowcount)
        if models.Task in self._counts:
            self._counts[models.Task].less(gone)
        return gone

    def _excess(self, cursor: CursorWrapper, model: type[Model], oldest: str, most: int) -> int:
        excess = self._count(cursor, model) - most
        if excess <= 0:
            return 0
        gone = _delete(cursor, model, oldest, [], min(excess, SLICE))
        self._counts[model].less(gone)
        return gone

    def _count(self, cursor: CursorWrapper, model: type[Model]) -> int:
        return self._counts.setdefault(model, _Count(model)).now(cursor)


class _Count:
    """Rows of a table. Between two countings only what goes is known: too low at times, never too high."""

    def __init__(self, model: type[Model]) -> None:
        self._table = f'"{model._meta.db_table}"'
        self._rows = 0
        self._again_at = float("-inf")

    def now(self, cursor: CursorWrapper) -> int:
        began = time.monotonic()
        if began >= self._again_at:
            cursor.execute(f"SELECT COUNT(*) FROM {self._table}")  # noqa: S608 - our own table
            self._rows = int(cursor.fetchone()[0])
            took = time.monotonic() - began
            self._again_at = began + took / COUNTING if took > AT_ONCE else began
        return self._rows

    def less(self, gone: int) -> None:
        self._rows -= gone


def _unnamed() -> str:
    """A control record outlives what names it."""
    table = models.ControlRecord._meta.db_table
    return "".join(
        f' AND NOT EXISTS (SELECT 1 FROM "{relation.related_model._meta.db_table}" AS naming'  # noqa: S608 - ours
        f' WHERE naming."{relation.field.column}" = "{table}".id)'
        for relation in models.ControlRecord._meta.related_objects
    )


def _delete(
    cursor: CursorWrapper, model: type[Model], where: str, values: list[Any], most: int = SLICE
) -> int:
    table = f'"{model._meta.db_table}"'
    cursor.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} LIMIT %s)",  # noqa: S608 - ours
        [*values, most],
    )
    return int(cursor.rowcount)
