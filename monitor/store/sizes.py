"""What history costs: bytes and rows of each table, and what retention removes next, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from monitor import models
from monitor.records import STARTED, STATES
from monitor.store import partitions, rollups
from monitor.store.pruning import CONTROLS_KEPT_DAYS, DAY, FAILURES, Retention

COUNTED = 200_000  # rows of a table that is counted; of a larger one the page gets an estimate
SAMPLES, SAMPLE = 100, 200  # how often, and how many ids each time
MOST_DUE = 100_000  # rows past their time that are counted
_TASKS = f'"{models.Task._meta.db_table}"'

# What a table is called, and the column (or SQL) that says how old a row is.
_TABLES: tuple[tuple[str, type[Model], str], ...] = (
    ("tasks", models.Task, "first_seen_at"),
    ("counts over time", models.Rollup, "start"),
    ("task names", models.TaskType, "first_seen_at"),
    ("workers", models.Worker, "first_seen_at"),
    ("gaps", models.Gap, "started_at"),
    ("control records", models.ControlRecord, "at"),
)
_WIDTHS = {10: "10 seconds", 60: "minute", 3600: "hour", 86_400: "day"}


@dataclass(frozen=True, slots=True)
class Table:
    """``exact``: counted, not estimated. ``size``: bytes with indexes, None when the database cannot say."""

    name: str
    rows: int
    exact: bool
    size: int | None
    oldest: float | None  # Unix seconds


@dataclass(frozen=True, slots=True)
class Removal:
    """One rule of retention: ``kept`` in seconds (None: by count), ``next_at`` when the oldest such row goes.

    ``due``: rows past their time right now; ``more``: there are more than that.
    """

    what: str
    rule: str
    kept: float | None
    next_at: float | None
    due: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """``total``: bytes of the whole database. ``partitions``: days in tables of their own, on PostgreSQL."""

    vendor: str
    total: int
    tables: list[Table]
    removals: list[Removal]
    bytes_per_task: float | None
    partitions: int = 0


def sizes(retention: Retention, now: float) -> Sizes:
    """As of ``now``, Unix seconds. On millions of rows this takes tenths of a second; share the answer."""
    with connection.cursor() as cursor:
        parts = partitions.partitions(cursor) if partitions.partitioned() else []
        total = _total(cursor)
        tables = [_table(cursor, name, model, age, parts) for name, model, age in _TABLES]
        tasks = tables[0]
        removals = [
            *_ended(cursor, retention, now),
            _counted(retention, tasks),
            *_slices(cursor, now),
            _controls(cursor, retention, now),
        ]
        size = tasks.size
        if size is None and tasks.rows:
            # SQLite cannot say, and tasks are by far most of it.
            size = total
        return Sizes(
            _vendor(cursor),
            total,
            tables,
            removals,
            size / tasks.rows if size and tasks.rows >= 1000 else None,
            sum(part.day is not None for part in parts),
        )


def _vendor(cursor: CursorWrapper) -> str:
    if connection.vendor == "sqlite":
        return f"SQLite {_one(cursor, 'SELECT sqlite_version()')}"
    return f"PostgreSQL {str(_one(cursor, 'SHOW server_version')).split()[0]}"


def _total(cursor: CursorWrapper) -> int:
    if connection.vendor != "sqlite":
        return int(_one(cursor, "SELECT pg_database_size(current_database())"))
    pages = _one(cursor, "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    return int(pages) + (log.stat().st_size if log.exists() else 0)


def _table(
    cursor: CursorWrapper, name: str, model: type[Model], age: str, parts: list[partitions.Partition]
) -> Table:
    table = model._meta.db_table
    if model is models.Task:
        # By the index of the last event: near enough, and no reading of millions.
        age = "seen_at"
    oldest = _one(cursor, f'SELECT MIN("{age}") FROM "{table}"')  # noqa: S608 - our own columns
    if model is models.Task and parts:
        rows, exact = sum(part.count for part in parts), all(part.exact for part in parts)
        size: int | None = sum(part.size for part in parts)
    else:
        rows, exact = _rows(cursor, table)
        size = _size(cursor, table)
    return Table(name, rows, exact, size, None if oldest is None else float(oldest))


def _rows(cursor: CursorWrapper, table: str) -> tuple[int, bool]:
    """How many, and whether that is exact."""
    few = _one(cursor, f'SELECT COUNT(*) FROM (SELECT 1 FROM "{table}" LIMIT {COUNTED + 1}) AS few')  # noqa: S608
    if few <= COUNTED:
        return int(few), True
    if connection.vendor == "sqlite":
        return _sampled(cursor, table), False
    return int(_one(cursor, "SELECT reltuples FROM pg_class WHERE oid = %s::regclass", table)), False


def _sampled(cursor: CursorWrapper, table: str) -> int:
    """SQLite keeps no count, and updates use up ids too: how densely ids are used, in samples all over."""
    first = int(_one(cursor, f'SELECT MIN(id) FROM "{table}"'))  # noqa: S608 - our own table
    last = int(_one(cursor, f'SELECT MAX(id) FROM "{table}"'))  # noqa: S608 - our own table
    step = max(SAMPLE, (last + 1 - first) // SAMPLES)
    begins = range(first, last + 1, step)
    found = sum(
        int(_one(cursor, f'SELECT COUNT(*) FROM "{table}" WHERE id >= %s AND id < %s', at, at + SAMPLE))  # noqa: S608
        for at in begins
    )
    return round(found / (len(begins) * SAMPLE) * (last + 1 - first))


def _size(cursor: CursorWrapper, table: str) -> int | None:
    if connection.vendor != "sqlite":
        return int(_one(cursor, "SELECT pg_total_relation_size(%s::regclass)", table))
    return None


def _ended(cursor: CursorWrapper, retention: Retention, now: float) -> list[Removal]:
    removals = []
    for what, states in (
        ("tasks", [state for state in STATES if state not in FAILURES and state != STARTED]),
        ("failed and lost tasks", sorted(FAILURES)),
    ):
        kept = retention.kept(states[0])
        oldest = [
            at
            for state in states
            if (at := _one(cursor, f"SELECT MIN(seen_at) FROM {_TASKS} WHERE state = %s", state)) is not None  # noqa: S608
        ]
        due = 0
        for state in states:
            due += _due(
                cursor,
                f"{_TASKS} WHERE state = %s AND seen_at < %s AND (eta IS NULL OR eta < %s)",
                state,
                now - kept,
                now,
            )
        rule = f"{_days(kept)} after they were last heard of, unless they run or wait for their time"
        removals.append(_removal(what, rule, kept, min(oldest, default=None), due))
    return removals


def _counted(retention: Retention, tasks: Table) -> Removal:
    rule = f"past {retention.rows:,} tasks, the oldest first"
    return Removal("tasks past the count", rule, None, None, max(0, tasks.rows - retention.rows))


def _slices(cursor: CursorWrapper, now: float) -> list[Removal]:
    table = f'"{models.Rollup._meta.db_table}"'
    removals = []
    for width, kept in rollups.KEPT_SECONDS.items():
        oldest = _one(cursor, f"SELECT MIN(start) FROM {table} WHERE width = %s", width)  # noqa: S608 - ours
        due = _due(cursor, f"{table} WHERE width = %s AND start < %s", width, int(now - kept))
        removals.append(_removal(f"counts per {_WIDTHS[width]}", f"after {_days(kept)}", kept, oldest, due))
    return removals


def _controls(cursor: CursorWrapper, retention: Retention, now: float) -> Removal:
    kept = max(retention.days, CONTROLS_KEPT_DAYS) * DAY
    table = f'"{models.ControlRecord._meta.db_table}"'
    oldest = _one(cursor, f'SELECT MIN("at") FROM {table}')  # noqa: S608 - our own table
    due = _due(cursor, f'{table} WHERE "at" < %s', now - kept)
    return _removal("control records", f"after {_days(kept)}", kept, oldest, due)


def _removal(what: str, rule: str, kept: float, oldest: float | None, due: int) -> Removal:
    next_at = None if oldest is None else float(oldest) + kept
    return Removal(what, rule, kept, next_at, min(due, MOST_DUE), due > MOST_DUE)


def _due(cursor: CursorWrapper, rest: str, *values: object) -> int:
    some = f"SELECT COUNT(*) FROM (SELECT 1 FROM {rest} LIMIT {MOST_DUE + 1}) AS due"  # noqa: S608 - ours
    return int(_one(cursor, some, *values))


def _days(seconds: float) -> str:
    if seconds < 2 * DAY:
        return f"{seconds / 3600:g} hours"
    return f"{seconds / DAY:g} days"


def _one(cursor: CursorWrapper, query: str, *values: Any) -> Any:
    cursor.execute(query, values)
    return cursor.fetchone()[0]
