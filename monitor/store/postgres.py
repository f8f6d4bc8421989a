"""Tasks into PostgreSQL by COPY to a temporary table and one merge: a tenth of the client's work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from django.db import connection
from django.db.backends.utils import CursorWrapper

from monitor import models
from monitor.store import rows

# Below, a COPY costs more than it spares.
FEW = 8

_STAGE = "umbel_tasks"
_TABLE = f'"{models.Task._meta.db_table}"'
_BOOLEANS = {rows.TASK_COLUMNS.index(name) for name in ("terminated", "expired")}
_NAMES = ", ".join(f'"{name}"' for name in rows.TASK_COLUMNS)
# DELETE: two batches may share a transaction.
_MAKE = (
    f"CREATE TEMP TABLE IF NOT EXISTS {_STAGE} ON COMMIT DELETE ROWS AS "  # noqa: S608 - our own columns
    f"SELECT {_NAMES} FROM {_TABLE} WITH NO DATA; DELETE FROM {_STAGE}"
)
# JSON is CSV with another escape: a row is written as JSON and read as CSV.
_COPY = f"COPY {_STAGE} ({_NAMES}) FROM STDIN (FORMAT csv, NULL 'null', QUOTE '\"', ESCAPE '\\')"
_MERGE = rows.UPSERT_PARTITIONED_TASK.replace(
    rows.UPSERT_PARTITIONED_TASK[
        rows.UPSERT_PARTITIONED_TASK.index(" VALUES ") : rows.UPSERT_PARTITIONED_TASK.index(" ON CONFLICT ")
    ],
    # One order of locks for all writers.
    f" SELECT {_NAMES} FROM {_STAGE} ORDER BY uuid",  # noqa: S608 - our own columns
)
_KNOWN = f"SELECT uuid FROM {_TABLE} WHERE uuid = ANY(%s)"  # noqa: S608 - our own table
# JSON writes control characters in letters, which CSV would keep.
_LETTERS = re.compile(rb"\\(?:[\\ntrbf]|u[0-9a-f]{4})")
_RAW = {rb"\\": rb"\\", rb"\n": b"\n", rb"\t": b"\t", rb"\r": b"\r", rb"\b": b"\b", rb"\f": b"\f"}
_encode = msgspec.json.Encoder().encode_lines


def write_tasks(cursor: CursorWrapper, batch: Sequence[rows.Row]) -> None:
    """Insert or merge rows of ``rows.TASK_COLUMNS`` (JSON as text), in the transaction of ``cursor``.

    A value that PostgreSQL refuses raises, as it does one by one, and costs the transaction.
    """
    if len(batch) < FEW:
        in_order: Sequence[Any] = sorted(map(_typed, batch), key=_uuid)
        cursor.executemany(rows.UPSERT_PARTITIONED_TASK, in_order)
        return
    for once in _rounds(batch):
        cursor.execute(_MAKE)
        with connection.wrap_database_errors, cursor.copy(_COPY) as copy:
            copy.write(_csv(once))
        cursor.execute(_MERGE)


def _typed(row: rows.Row) -> rows.Row:
    """CSV may say 0 and 1 for a boolean, a parameter may not."""
    return tuple(bool(value) if place in _BOOLEANS else value for place, value in enumerate(row))


def known(cursor: CursorWrapper, uuids: Sequence[str]) -> list[str]:
    """Those of the tasks that have a row, on any day: from the indexes alone, for one value."""
    cursor.execute(_KNOWN, [list(uuids)])
    return [uuid for (uuid,) in cursor.fetchall()]


def _uuid(row: rows.Row) -> str:
    return str(row[0])


def _csv(batch: Sequence[rows.Row]) -> bytes:
    # A line is a row; between two brackets no string can hold a raw newline.
    text = _encode(batch)[1:-2].replace(b"]\n[", b"\n")
    return _LETTERS.sub(_raw, text)


def _raw(found: re.Match[bytes]) -> bytes:
    letters = found[0]
    return _RAW.get(letters) or chr(int(letters[2:], 16)).encode()


def _rounds(batch: Sequence[rows.Row]) -> Iterable[list[rows.Row]]:
    """A merge takes each row once; a task that is there twice takes two."""
    while batch:
        once: dict[object, rows.Row] = {}
        again: list[rows.Row] = []
        for row in batch:
            if once.setdefault(row[0], row) is not row:
                again.append(row)
        yield list(once.values())
        batch = again
