"""The table of tasks on PostgreSQL: one partition a day, and one for whatever has no day of its own.

Making and dropping a partition locks the table for a moment. Whoever waits for that lock longer than
``LOCK_WAIT`` gives way to the readers and is to try again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from monitor import models
from monitor.store import rows

DAY = 86_400
AHEAD = 2  # days made before they come
LOCK_WAIT = "1s"
COUNTED = 8 * 2**20  # bytes of a partition that is counted row by row; a larger one is estimated

TABLE = models.Task._meta.db_table
DEFAULT = f"{TABLE}_default"
_COLUMNS = ", ".join(f'"{name}"' for name in ("id", *rows.TASK_COLUMNS))
_NOT_AVAILABLE = "55P03"

Fence = Callable[[CursorWrapper], None] | None


class Busy(Exception):
    """Readers hold the table; it is to be tried again."""


@dataclass(frozen=True, slots=True)
class Partition:
    """``day``: days since 1970, None of the default one. ``exact``: ``count`` is counted, not estimated."""

    name: str
    day: int | None
    count: int
    exact: bool
    size: int  # bytes, with indexes


def partitioned() -> bool:
    return connection.vendor == "postgresql"


def name_of(day: int) -> str:
    return f"{TABLE}_{datetime.fromtimestamp(day * DAY, UTC):%Y%m%d}"


def days(cursor: CursorWrapper) -> list[int]:
    """The days that have a partition, oldest first."""
    return sorted(day for name in _names(cursor) if (day := _day(name)) is not None)


def partitions(cursor: CursorWrapper) -> list[Partition]:
    """All of them with their sizes, oldest first, the default one at the end."""
    cursor.execute(
        "SELECT relname, relpages, reltuples, pg_relation_size(c.oid), pg_total_relation_size(c.oid), "
        "pg_stat_get_live_tuples(c.oid), current_setting('block_size')::int "
        "FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s::regclass",
        [TABLE],
    )
    found = []
    for name, pages, tuples, size, total, live, block in cursor.fetchall():
        exact = size <= COUNTED
        if exact:
            cursor.execute(f'SELECT COUNT(*) FROM "{name}"')  # noqa: S608 - from the catalogue
            count = cursor.fetchone()[0]
        elif pages > 0 and tuples > 0:
            count = int(tuples / pages * (size / block))  # as the planner does
        else:
            count = live
        found.append(Partition(name, _day(name), int(count), exact, int(total)))
    return sorted(found, key=lambda p: (p.day is None, p.day or 0))


def prepare(now: float, fence: Fence = None) -> list[int]:
    """Partitions for today and the days to come, as far as they are missing; the days that were made.

    Raises Busy.
    """
    today = int(now // DAY)
    with connection.cursor() as cursor:
        have = set(days(cursor))
    missing = [day for day in range(today, today + AHEAD + 1) if day not in have]
    for day in missing:
        with _locking(fence) as cursor:
            _make(cursor, day)
    return missing


def drop(day: int, keep: str, values: list[Any], fence: Fence = None) -> int:
    """The day's partition goes; its rows WHERE ``keep`` stay, in the default one. Raises Busy.

    Returns how many stayed. One transaction: who reads sees all of the day or what stayed of it.
    """
    name = name_of(day)
    with _locking(fence) as cursor:
        cursor.execute(f'ALTER TABLE "{TABLE}" DETACH PARTITION "{name}"')
        cursor.execute(
            f'INSERT INTO "{TABLE}" ({_COLUMNS}) SELECT {_COLUMNS} FROM "{name}" WHERE {keep}',  # noqa: S608 - ours
            values,
        )
        kept = int(cursor.rowcount)
        cursor.execute(f'DROP TABLE "{name}"')
    return kept


def _make(cursor: CursorWrapper, day: int) -> None:
    """Rows of that day that came before their partition move into it."""
    name = name_of(day)
    cursor.execute(f'LOCK TABLE "{DEFAULT}" IN ACCESS EXCLUSIVE MODE')
    cursor.execute(f'CREATE TABLE "{name}" (LIKE "{TABLE}" INCLUDING DEFAULTS)')
    cursor.execute(
        f'WITH early AS (DELETE FROM "{DEFAULT}" WHERE day = %s RETURNING {_COLUMNS}) '  # noqa: S608 - ours
        f'INSERT INTO "{name}" ({_COLUMNS}) SELECT {_COLUMNS} FROM early',
        [day],
    )
    cursor.execute(
        f'ALTER TABLE "{TABLE}" ATTACH PARTITION "{name}" FOR VALUES FROM ({day:d}) TO ({day + 1:d})'
    )


@contextmanager
def _locking(fence: Fence) -> Iterator[CursorWrapper]:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if fence is not None:
                fence(cursor)
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
            yield cursor
            cursor.execute("SET LOCAL lock_timeout = DEFAULT")
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != _NOT_AVAILABLE:
            raise
        raise Busy(f"The table of tasks was in use for {LOCK_WAIT}; its partitions wait.") from error


def _names(cursor: CursorWrapper) -> list[str]:
    cursor.execute(
        "SELECT relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s::regclass",
        [TABLE],
    )
    return [row[0] for row in cursor.fetchall()]


def _day(name: str) -> int | None:
    date = name.removeprefix(f"{TABLE}_")
    if len(date) != 8 or not date.isdigit():
        return None
    return int(datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC).timestamp() // DAY)
