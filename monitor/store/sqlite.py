"""Tasks into SQLite: many rows a statement, and nothing bound that is not known.

A statement runs without Python's lock, so one for many rows leaves the reader alone for longer; and binding
a NULL costs Python's sqlite3 as much as five texts, so rows that know the same go together with the rest
written out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from operator import is_
from typing import Any

import msgspec
from django.db import connection
from django.db.backends.utils import CursorWrapper

from monitor import models
from monitor.store import rows

MANY, SOME = 32, 8  # rows of one statement

_TABLE = f'"{models.Task._meta.db_table}"'
_HEAD, _, _REST = rows.UPSERT_TASK.partition(" VALUES ")
_MERGE = _REST[_REST.index(" ON CONFLICT ") :]
# The list comes as one value, and the index alone answers: most tasks are new.
_KNOWN = f"SELECT t.uuid FROM json_each(?) AS wanted CROSS JOIN {_TABLE} AS t ON t.uuid = wanted.value"  # noqa: S608
_encode = msgspec.json.Encoder().encode
Known = tuple[bool, ...]
ALL_BOUND: Known = (False,) * len(rows.TASK_COLUMNS)


def write_tasks(cursor: CursorWrapper, batch: Sequence[rows.Row]) -> None:
    """Insert or merge rows of ``rows.TASK_COLUMNS``, in the transaction of ``cursor``."""
    raw: Any = cursor.cursor
    alike: dict[Known, list[rows.Row]] = {}
    if len(batch) >= MANY:
        for row in batch:
            unknown = tuple(map(is_, row, repeat(None)))
            group = alike.get(unknown)
            if group is None:
                alike[unknown] = [row]
            else:
                group.append(row)
    else:
        alike[ALL_BOUND] = list(batch)
    rest: list[rows.Row] = []
    with connection.wrap_database_errors:
        # Not Django's execute: it would rewrite the statement each time.
        for unknown, group in alike.items():
            whole = len(group) // MANY * MANY
            for at in range(0, whole, MANY):
                values = [value for row in group[at : at + MANY] for value in row if value is not None]
                sqlite3.Cursor.execute(raw, _upsert(unknown, MANY), values)
            rest += group[whole:]
        # Few statements in all: Python keeps 128 prepared, and these are long.
        at = 0
        for size in (MANY, SOME, 1):
            while len(rest) - at >= size:
                values = [value for row in rest[at : at + size] for value in row]
                sqlite3.Cursor.execute(raw, _upsert(ALL_BOUND, size), values)
                at += size


def known(cursor: CursorWrapper, uuids: Sequence[str]) -> list[str]:
    """Those of the tasks that have a row."""
    raw: Any = cursor.cursor
    with connection.wrap_database_errors:
        sqlite3.Cursor.execute(raw, _KNOWN, [_encode(uuids).decode()])
        return [uuid for (uuid,) in raw.fetchall()]


@lru_cache(maxsize=64)
def _upsert(unknown: Known, size: int) -> str:
    place = "(" + ", ".join("NULL" if is_unknown else "?" for is_unknown in unknown) + ")"
    return f"{_HEAD} VALUES {', '.join([place] * size)}{_MERGE}"
