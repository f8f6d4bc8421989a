"""The words of every task, kept apart from the rows: made by the engine in its spare time, never in a write.

``index_some`` goes through the tasks in the order of their last event and remembers how far it came; who
searches reads the index up to there and the newer rows themselves. A task that changes comes by again.

A *place* in the index is about the time of the task's last event in microseconds, and strictly ascending:
so the index gives what is newest first, and a span of time is a span of places.

SQLite has FTS5 with a copy of the text (before 3.43 it can forget a row no other way); PostgreSQL has sets
of words under a GIN index. Both split alike: letters and digits are words, case is ignored, accents are kept.
"""

# ruff: noqa: S608 - names of our own tables and columns; every value is a parameter

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from monitor.models import Task

TEXTS = ("name", "queue", "worker", "args", "kwargs", "result", "exception")  # what is searched
LONGEST = 2_000  # characters of each that are
LONGEST_WORD = 500
SETTLED = 10.0  # seconds after which a change has been written, when no caller knows better
SECOND = 1_000_000  # places
CHUNK = 500

TABLE = Task._meta.db_table
INDEX = "monitor_search"

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the index goes: everything up to this task in the order of (seen_at, id) is in it."""

    at: float
    task: int
    place: int


def words(text: str) -> list[str]:
    """Letters and digits in small letters, as the index splits them."""
    return [word[:LONGEST_WORD] for word in _WORD.findall(text.lower())]


def mark() -> Mark | None:
    """None when this database has no index of words (an SQLite built without FTS5)."""
    if not available():
        return None
    with connection.cursor() as cursor:
        return _mark(cursor)


def available() -> bool:
    """Whether this database has the index at all."""
    known = _available.get(connection.alias)
    if known is None:
        known = _available[connection.alias] = INDEX in connection.introspection.table_names()
    return known


def forget_if_empty() -> None:
    """Without tasks there are no words: whatever comes next is new, however old its events are."""
    if INDEX not in connection.introspection.table_names() or Task.objects.exists():
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {INDEX}")
        if connection.vendor == "sqlite":
            cursor.execute("DELETE FROM monitor_searched")
        cursor.execute("UPDATE monitor_searchmark SET at = -1, task = 0, place = 0, swept = 0")


def index_some(most: int, until: float) -> int:
    """Indexes the next tasks, at most so many, with their last event not after ``until``; says how many.

    Every change heard before ``until`` must have been written: what is written later with an earlier time is
    found only once it changes again. ``SETTLED`` seconds ago is safe while nothing waits to be written.
    """
    if not available():
        return 0
    with connection.cursor() as cursor:
        waiting = bool(_next(cursor, _mark(cursor), 1, until))
    done = _index(most, until) if waiting else 0
    if done < most and connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            _sweep(cursor, most - done)
    return done


def _index(most: int, until: float) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        mark = _mark(cursor)
        rows = _next(cursor, mark, most, until)
        if not rows:
            return 0
        places: list[tuple[int, int]] = []
        place = mark.place
        for key, at in rows:
            place = max(place + 1, int(at * SECOND))
            places.append((place, key))
        _add(cursor, places)
        cursor.execute(
            "UPDATE monitor_searchmark SET at = %s, task = %s, place = %s", [rows[-1][1], rows[-1][0], place]
        )
    return len(rows)


def text_of(prefix: str = "") -> str:
    """SQL: all text of a task that is searched, in one string."""
    pieces = (f"COALESCE(SUBSTR({prefix}{column}, 1, {LONGEST}), '')" for column in TEXTS)
    return " || ' ' || ".join(pieces)


def _mark(cursor: CursorWrapper) -> Mark:
    cursor.execute("SELECT at, task, place FROM monitor_searchmark")
    return Mark(*cursor.fetchone())


def _next(cursor: CursorWrapper, mark: Mark, most: int, until: float) -> list[tuple[int, float]]:
    cursor.execute(
        f"SELECT id, seen_at FROM {TABLE} WHERE (seen_at, id) > (%s, %s) AND seen_at <= %s "
        f"ORDER BY seen_at, id LIMIT {int(most)}",
        [mark.at, mark.task, until],
    )
    return list(cursor.fetchall())


def _add(cursor: CursorWrapper, places: list[tuple[int, int]]) -> None:
    keys = [key for _, key in places]
    if connection.vendor == "postgresql":
        _add_sets(cursor, dict((key, place) for place, key in places))
        return
    texts: list[tuple[int, str, int]] = []
    where = {key: place for place, key in places}
    for some in _chunks(keys):
        marks = ", ".join(["%s"] * len(some))
        cursor.execute(f"SELECT place FROM monitor_searched WHERE task IN ({marks})", some)
        cursor.executemany(f"DELETE FROM {INDEX} WHERE rowid = %s", cursor.fetchall())
        cursor.execute(f"SELECT id, {text_of()} FROM {TABLE} WHERE id IN ({marks})", some)
        texts += [(where[key], text, key) for key, text in cursor.fetchall()]
    # Values, one row a statement: of INSERT … SELECT, FTS5 writes out a part of the index for each row.
    cursor.executemany(f"INSERT INTO {INDEX} (rowid, text, task) VALUES (%s, %s, %s)", sorted(texts))
    cursor.executemany("INSERT OR REPLACE INTO monitor_searched (place, task) VALUES (%s, %s)", places)


def _add_sets(cursor: CursorWrapper, places: dict[int, int]) -> None:
    """By uuid and day, the key of a partitioned row: dropping its partition takes no care of the index."""
    low, high = min(places.values()) / SECOND - 1, max(places.values()) / SECOND + 1
    cursor.execute(
        f"SELECT id, uuid, day, {text_of()} FROM {TABLE} WHERE seen_at BETWEEN %s AND %s AND id = ANY(%s)",
        [low, high, list(places)],
    )
    rows = [
        (places[key], key, uuid, day, sorted(set(words(text)))) for key, uuid, day, text in cursor.fetchall()
    ]
    cursor.execute(f"DELETE FROM {INDEX} WHERE uuid = ANY(%s)", [[row[2] for row in rows]])
    cursor.executemany(
        f"INSERT INTO {INDEX} (place, task, uuid, day, words) "
        "VALUES (%s, %s, %s, %s, array_to_tsvector(%s::text[]))",
        rows,
    )


def _sweep(cursor: CursorWrapper, most: int) -> None:
    """PostgreSQL drops a day's tasks at once, without a word: looks round the index for what is gone."""
    cursor.execute(
        f"SELECT MAX(place), COUNT(*) FROM (SELECT place FROM {INDEX} WHERE place > "
        f"(SELECT swept FROM monitor_searchmark) ORDER BY place LIMIT {int(most)}) AS s"
    )
    last, seen = cursor.fetchone()
    cursor.execute(
        f"DELETE FROM {INDEX} AS s WHERE place > (SELECT swept FROM monitor_searchmark) AND place <= %s "
        f"AND NOT EXISTS (SELECT 1 FROM {TABLE} AS t WHERE t.uuid = s.uuid AND t.day = s.day)",
        [last or 0],
    )
    cursor.execute("UPDATE monitor_searchmark SET swept = %s", [last if seen == most else 0])


def _chunks(values: list[Any]) -> Iterable[list[Any]]:
    return (values[k : k + CHUNK] for k in range(0, len(values), CHUNK))


_available: dict[str, bool] = {}
