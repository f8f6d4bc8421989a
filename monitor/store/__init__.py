"""History: batches of changes into the database and records back out, for the engine's writer thread.

Everything here blocks, and belongs in a thread of its own. One batch is one transaction: a batch that
fails leaves nothing, so the caller may try it again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.backends.utils import CursorWrapper

from monitor import models
from monitor.deltas import Record
from monitor.records import (
    ENDED,
    STATES,
    FeedRecord,
    Gap,
    Rollup,
    Started,
    TaskRecord,
    TaskType,
    WorkerRecord,
)
from monitor.store import postgres, rows, sqlite
from monitor.store.backlog import Backlog, added
from monitor.store.pruning import DAY, SLICE, Pruning, Retention
from monitor.store.rollups import Rollups
from monitor.store.rows import task_record, worker_record

__all__ = ["DAY", "SLICE", "Backlog", "Retention", "Store", "task_record", "worker_record"]

_CHUNK = 500
# Tasks at most whose starts are read again after a restart.
STARTS = 200_000
# What a database says of a value it cannot hold, in place of a fault that passes.
_BAD_VALUES = (DataError, IntegrityError, InterfaceError, UnicodeError, OverflowError, ValueError, TypeError)

T = TypeVar("T")


class Store:
    """Tasks, workers, counts, gaps and the feed; tasks by age and up to a count, failures longer."""

    task_record = staticmethod(task_record)
    worker_record = staticmethod(worker_record)

    def __init__(
        self,
        retention_days: float = 14.0,
        retention_rows: int = 10_000_000,
        retention_failures_days: float = 90.0,
    ) -> None:
        self.retention = Retention(retention_days, retention_rows, retention_failures_days)
        self._pruning = Pruning(self.retention)
        # Called first in each transaction that writes; raises ``engine.leader.Deposed`` when another leads.
        self.fence: Callable[[CursorWrapper], None] | None = None
        # Records that the database refused even when cleaned.
        self.refused = 0
        # The transaction of a write that failed and may yet have been committed; '' if there is none.
        self.doubtful = ""
        self._transaction = self._mark = ""
        self._rollups = Rollups()

    def write(self, records: Sequence[Record], now: float) -> None:
        """All of the batch in one transaction, or nothing.

        A value that the database refuses (NUL, a lone surrogate, a number too large) costs at most its own
        record, counted in ``refused``; every other error is the caller's to retry.
        """
        self.doubtful = self._transaction = ""
        _reconnect()
        try:
            try:
                with transaction.atomic():
                    self._write(records, now)
            except _BAD_VALUES:
                if connection.connection is None or not connection.is_usable():
                    raise
                self._write_one_by_one([rows.cleaned(record) for record in records], now)
        except (OperationalError, InterfaceError):
            self.doubtful = self._transaction
            raise

    def was_written(self) -> bool:
        """Whether the doubtful write was committed after all: a server that dies may have done so unanswered.

        Counts are added up, so it must not be written twice. Its transaction's number alone proves nothing: a
        server that was killed gives those anew that it had not written down.
        """
        _reconnect()
        with connection.cursor() as cursor:
            cursor.execute(rows.WRITE_OF, [self.doubtful])
            status, mark = cursor.fetchone()
        if status == "in progress":
            raise OperationalError("The server is still at the last write, whose connection was lost.")
        self.doubtful = ""
        return bool(status == "committed" and mark == self._mark)

    def write_feed(self, feed: FeedRecord, now: float) -> None:
        self.write([feed], now)

    def load(self, uuids: Iterable[str]) -> list[TaskRecord]:
        """Those of the tasks that are known."""
        found = []
        _reconnect()
        with connection.cursor() as cursor:
            # Most are new: what the index alone can say comes first.
            uuids = (postgres if connection.vendor == "postgresql" else sqlite).known(cursor, list(uuids))
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

    def starts(self, since: float) -> list[Started]:
        """Task starts of tasks heard of since then, the newest tasks first."""
        query = rows.select(
            models.Task, ("uuid", "marks"), "WHERE seen_at >= %s ORDER BY seen_at DESC LIMIT %s"
        )
        found = _fetch(query, [since, STARTS])
        return [
            Started(mark.worker, mark.pid, mark.clock, uuid)
            for uuid, marks in found
            for mark in rows.marks_of(marks)
            if mark.kind == "started"
        ]

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

        Returns the largest number of rows that one table lost; see ``Pruning`` for what goes when.
        """
        _reconnect()
        return self._pruning.prune(now, self.fence)

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
            if connection.vendor == "postgresql":
                self._mark = secrets.token_hex(8)
                cursor.execute(rows.MARK_WRITE, [now, self._mark])
                (self._transaction,) = cursor.fetchone()
            tasks = [rows.task_row(r) for r in kinds.get(TaskRecord, ())]
            if tasks:
                (postgres if connection.vendor == "postgresql" else sqlite).write_tasks(cursor, tasks)
            for query, batch in (
                (rows.UPSERT_WORKER, [rows.worker_row(r) for r in kinds.get(WorkerRecord, ())]),
                (rows.UPSERT_GAP, [astuple(r) for r in kinds.get(Gap, ())]),
                (rows.UPSERT_FEED, [(1, now, rows.text(r)) for r in kinds.get(FeedRecord, ())]),
            ):
                if batch:
                    # One order of locks for all writers.
                    cursor.executemany(query, sorted(batch, key=lambda row: row[0]))
            if Rollup in kinds:
                self._rollups.add(cursor, kinds[Rollup])
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


def _fetch(query: str, values: Sequence[str | float]) -> list[rows.Row]:
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
