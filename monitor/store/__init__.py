"""History: batches of changes into the database and records back out, for the engine's writer thread.

Everything here blocks, and belongs in a thread of its own. One batch is one transaction: a batch that
fails leaves nothing, so the caller may try it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from django.db import DataError, IntegrityError, InterfaceError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from monitor import models
from monitor.deltas import Delta
from monitor.records import (
    ENDED,
    STARTED,
    STATES,
    FeedRecord,
    Gap,
    RateBucket,
    Rollup,
    TaskRecord,
    TaskType,
    WorkerRecord,
)
from monitor.store import rows
from monitor.store.backlog import Backlog, added
from monitor.store.rollups import Rollups, rollup_of
from monitor.store.rows import task_record, worker_record

__all__ = ["Backlog", "Store", "task_record", "worker_record"]

DAY = 86_400.0
SLICE = 1_000
# Seconds that counts are kept, by width of their bucket in seconds.
RATES_KEPT = {10: 26 * 3600.0, 60: 31 * DAY}
CONTROLS_KEPT_DAYS = 365  # at least

# Rows at most, whatever names are made up on the broker; the oldest of these go first.
MOST_ROWS: list[tuple[type[Model], str, int]] = [
    (models.TaskType, "1 = 1 ORDER BY last_seen_at", 20_000),
    (models.Rollup, "\"by\" <> 'all' ORDER BY start", 2_000_000),
    (models.Worker, "status = 'offline' ORDER BY COALESCE(heartbeat_at, first_seen_at)", 10_000),
]

_CHUNK = 500
# What a database says of a value it cannot hold, in place of a fault that passes.
_BAD_VALUES = (DataError, IntegrityError, InterfaceError, UnicodeError, OverflowError, ValueError, TypeError)

T = TypeVar("T")


class Store:
    """Tasks, workers, counts, gaps and the feed; tasks by age and up to ``retention_rows``."""

    task_record = staticmethod(task_record)
    worker_record = staticmethod(worker_record)

    def __init__(self, retention_days: float = 14.0, retention_rows: int = 1_000_000) -> None:
        self.retention_days = retention_days
        self.retention_rows = retention_rows
        # Called first in each transaction that writes; raises ``engine.leader.Deposed`` when another leads.
        self.fence: Callable[[CursorWrapper], None] | None = None
        # Records that the database refused even when cleaned.
        self.refused = 0
        self._rollups = Rollups()

    def write(self, deltas: Sequence[Delta], now: float) -> None:
        """All of the batch in one transaction, or nothing.

        A value that the database refuses (NUL, a lone surrogate, a number too large) costs at most its own
        record, counted in ``refused``; every other error is the caller's to retry.
        """
        records = [delta.record for delta in deltas]
        _reconnect()
        try:
            with transaction.atomic():
                self._write(records, now)
        except _BAD_VALUES:
            if connection.connection is None or not connection.is_usable():
                raise
            self._write_one_by_one([rows.cleaned(record) for record in records], now)

    def write_feed(self, feed: FeedRecord, now: float) -> None:
        self.write([Delta(feed)], now)

    def load(self, uuids: Iterable[str]) -> list[TaskRecord]:
        """Those of the tasks that are known."""
        found = []
        for chunk in _chunks(uuids, _CHUNK):
            places = ", ".join(["%s"] * len(chunk))
            query = rows.select(models.Task, rows.TASK_COLUMNS, f"WHERE uuid IN ({places})")
            found += [rows.task_of(row) for row in _fetch(query, chunk)]
        return found

    def open_tasks(self, limit: int = 10_000) -> list[TaskRecord]:
        """Tasks without an end, newest first."""
        unfinished = [state for state in STATES if state not in ENDED]
        places = ", ".join(["%s"] * len(unfinished))
        query = rows.select(
            models.Task, rows.TASK_COLUMNS, f"WHERE state IN ({places}) ORDER BY seen_at DESC LIMIT %s"
        )
        return [rows.task_of(row) for row in _fetch(query, [*unfinished, limit])]

    def workers(self, limit: int = 5_000) -> list[WorkerRecord]:
        """Workers, the last heard of first."""
        order = "ORDER BY COALESCE(heartbeat_at, first_seen_at) DESC LIMIT %s"
        query = rows.select(models.Worker, rows.WORKER_COLUMNS, order)
        return [rows.worker_of(row) for row in _fetch(query, [limit])]

    def open_gaps(self) -> list[Gap]:
        """Gaps whose end was never written: Umbel stopped while it was not listening."""
        columns = Gap.__struct_fields__
        query = rows.select(models.Gap, columns, "WHERE ended_at IS NULL ORDER BY started_at LIMIT 100")
        return [Gap(*row) for row in _fetch(query, [])]

    def last_feed(self) -> float | None:
        """When the feed was last written: until then Umbel was running."""
        row = models.Feed.objects.filter(pk=1).values_list("at").first()
        return row[0] if row else None

    def prune(self, now: float) -> int:
        """One slice of what is past its time, at most 1,000 rows a table; call again while it returns 1,000.

        Returns the largest number of rows that one table lost. A task that runs, or waits for an ETA in the
        future, outlives its age. Control records stay for a year at least.
        """
        old = now - self.retention_days * DAY
        kept_controls = now - max(self.retention_days, CONTROLS_KEPT_DAYS) * DAY
        _reconnect()
        with transaction.atomic(), connection.cursor() as cursor:
            if self.fence is not None:
                self.fence(cursor)
            lost = [
                _delete(
                    cursor,
                    models.Task,
                    "seen_at < %s AND state <> %s AND (eta IS NULL OR eta < %s) ORDER BY seen_at",
                    [old, STARTED, now],
                ),
                *(
                    _delete(cursor, models.Rollup, "width = %s AND start < %s", [width, int(now - kept)])
                    for width, kept in RATES_KEPT.items()
                ),
                _delete(
                    cursor,
                    models.Worker,
                    "status = 'offline' AND COALESCE(heartbeat_at, first_seen_at) < %s",
                    [old],
                ),
                _delete(cursor, models.TaskType, "last_seen_at < %s", [min(old, now - RATES_KEPT[60])]),
                _delete(cursor, models.Gap, "ended_at < %s", [min(old, now - RATES_KEPT[60])]),
                _delete(cursor, models.ControlRecord, "at < %s", [kept_controls]),
                _prune_to(cursor, models.Task, "1 = 1 ORDER BY seen_at", self.retention_rows),
                *(_prune_to(cursor, model, oldest, most) for model, oldest, most in MOST_ROWS),
            ]
        return max(lost)

    def close(self) -> None:
        """Give back this thread's connection."""
        connections.close_all()

    def _write(self, records: Sequence[object], now: float) -> None:
        kinds: dict[type, list[Any]] = {}
        for record in records:
            kinds.setdefault(type(record), []).append(record)
        astuple = msgspec.structs.astuple
        with connection.cursor() as cursor:
            if self.fence is not None:
                self.fence(cursor)
            for query, batch in (
                (rows.upsert_task(connection.vendor), [rows.task_row(r) for r in kinds.get(TaskRecord, ())]),
                (rows.UPSERT_WORKER, [rows.worker_row(r) for r in kinds.get(WorkerRecord, ())]),
                (rows.UPSERT_GAP, [astuple(r) for r in kinds.get(Gap, ())]),
                (rows.UPSERT_FEED, [(1, now, rows.text(r)) for r in kinds.get(FeedRecord, ())]),
            ):
                if batch:
                    # One order of locks for all writers.
                    cursor.executemany(query, sorted(batch, key=lambda row: row[0]))
            if RateBucket in kinds or Rollup in kinds:
                increments = [*map(rollup_of, kinds.get(RateBucket, ())), *kinds.get(Rollup, ())]
                self._rollups.add(cursor, increments)
            if TaskType in kinds:
                _add_types(cursor, sorted(kinds[TaskType], key=lambda r: r.name))

    def _write_one_by_one(self, records: Sequence[object], now: float) -> None:
        refused = 0
        with transaction.atomic():
            for record in records:
                try:
                    with transaction.atomic():
                        self._write([record], now)
                except _BAD_VALUES:
                    refused += 1
        self.refused += refused


def _add_types(cursor: CursorWrapper, increments: Sequence[TaskType]) -> None:
    """Counts add up; histograms are merged here, under the lock that the first statement takes."""
    nothing = [rows.type_row(TaskType(r.name, first_seen_at=r.first_seen_at)) for r in increments]
    cursor.executemany(rows.INSERT_TYPE, nothing)
    locked = " FOR UPDATE" if connection.features.has_select_for_update else ""
    stored: dict[str, TaskType] = {}
    for chunk in _chunks([r.name for r in increments], _CHUNK):
        places = ", ".join(["%s"] * len(chunk))
        query = rows.select(
            models.TaskType, rows.TYPE_COLUMNS, f"WHERE name IN ({places}) ORDER BY name{locked}"
        )
        cursor.execute(query, chunk)
        stored |= {row[0]: rows.type_of(row) for row in cursor.fetchall()}
    for increment in increments:
        stored[increment.name] = added(stored[increment.name], increment)
    cursor.executemany(rows.UPSERT_TYPE, [rows.type_row(r) for r in stored.values()])


def _prune_to(cursor: CursorWrapper, model: type[Model], oldest: str, most: int) -> int:
    cursor.execute(f'SELECT COUNT(*) FROM "{model._meta.db_table}"')  # noqa: S608 - our own table
    excess = int(cursor.fetchone()[0]) - most
    return _delete(cursor, model, oldest, [], min(excess, SLICE)) if excess > 0 else 0


def _delete(
    cursor: CursorWrapper, model: type[Model], where: str, values: list[Any], most: int = SLICE
) -> int:
    table = f'"{model._meta.db_table}"'
    cursor.execute(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} LIMIT %s)",  # noqa: S608 - ours
        [*values, most],
    )
    return int(cursor.rowcount)


def _fetch(query: str, values: Sequence[str | int]) -> list[rows.Row]:
    _reconnect()
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


def _reconnect() -> None:
    """A connection that failed and is dead makes room for a new one."""
    if connection.errors_occurred and not connection.in_atomic_block:
        if connection.is_usable():
            connection.errors_occurred = False
        else:
            connection.close()


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    waiting = iter(values)
    while chunk := list(islice(waiting, size)):
        yield chunk
