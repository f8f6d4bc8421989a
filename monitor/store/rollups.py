"""Counts and histograms into their rows: increments that add up exactly, within the writer's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from monitor import models, rates
from monitor.records import Rollup
from monitor.store import rows

COUNTS = ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "lost")
COLUMNS = (*Rollup.__struct_fields__, "writes")
# How long slices are kept, by their width; all in seconds.
KEPT_SECONDS = {10: 26 * 3600, 60: 8 * 86_400, 3600: 400 * 86_400, 86_400: 5 * 366 * 86_400}
# Wider slices are made of narrower ones, looked at for so long: (width, of, seconds).
WIDER = ((3600, 60, 3 * 86_400), (86_400, 3600, 10 * 86_400))
AT_ONCE = 6  # wider slices made in one go
KEPT = 800  # histograms in memory: those of the slices that still change, of a large cluster
_SIZES = (60, 8, 1)  # rows of one statement; few sizes, so that they stay prepared

T = TypeVar("T")
Key = tuple[int, str, str, int]
_Known = tuple[int, rates.Histogram, rates.Histogram]  # writes, runtime, wait
_TABLE = f'"{models.Rollup._meta.db_table}"'
_KEY = '"width", "by", "key", "start"'
_histogram = msgspec.json.Decoder(dict[int, int]).decode


class Rollups:
    """Writes increments; remembers the histograms of the rows it wrote last, so that it need not read them.

    A row counts its writes, and takes new histograms only from who knows its last ones. What is remembered
    was committed, and may be outdated without harm (another process wrote since): such a row is read again,
    under its lock.
    """

    def __init__(self) -> None:
        self._known: dict[Key, _Known] = {}

    def add(self, cursor: CursorWrapper, increments: Iterable[Rollup]) -> None:
        """All of them, in the transaction of ``cursor``."""
        waiting = {key_of(r): r for r in coalesced(increments)}
        # One order of locks for all writers.
        for keys in _chunks(sorted(waiting)):
            chunk = [waiting[key] for key in keys]
            # Lifetime counts are not remembered.
            known = None if all(width for width, *_ in keys) else self._read(cursor, chunk)
            if refused := self._write(cursor, chunk, known):
                again = [r for r in chunk if key_of(r) in refused]
                if self._write(cursor, again, self._read(cursor, again)):
                    raise RuntimeError("A rollup changed under its lock; the batch is to be written again.")

    def _write(
        self, cursor: CursorWrapper, chunk: Sequence[Rollup], known: dict[Key, _Known] | None = None
    ) -> set[Key]:
        """Keys of rows that were not as remembered, and are as they were."""
        values: list[str | int] = []
        known = self._known if known is None else known
        after: dict[Key, _Known] = {}
        for r in chunk:
            key = key_of(r)
            writes, runtime, wait = known.pop(key, (0, {}, {}))
            if r.runtime:
                runtime = rates.merge(runtime, r.runtime)
            if r.wait:
                wait = rates.merge(wait, r.wait)
            after[key] = (writes + 1, runtime, wait)
            values += (r.width, r.by, r.key, r.start, r.received, r.started, r.succeeded, r.failed)
            values += (
                r.retried,
                r.revoked,
                r.rejected,
                r.lost,
                rows.text(runtime),
                rows.text(wait),
                writes + 1,
            )
        written = _executed(cursor, _upsert(len(chunk)), values)
        # Lifetime counts have no slice: their rows may be deleted and begin anew, so none is taken as known.
        written_rows = {key: after[key] for key in written if key[0]}
        transaction.on_commit(lambda: self._remember(written_rows))
        return after.keys() - written

    def _read(self, cursor: CursorWrapper, chunk: Sequence[Rollup]) -> dict[Key, _Known]:
        """These rows as they are, locked until the end of the transaction."""
        places = ", ".join(["(%s, %s, %s, %s)"] * len(chunk))
        locked = "FOR UPDATE" if connection.features.has_select_for_update else ""
        cursor.execute(
            f"SELECT {_KEY}, runtime, wait, writes FROM {_TABLE} "  # noqa: S608 - our own columns
            f"WHERE ({_KEY}) IN (VALUES {places}) ORDER BY {_KEY} {locked}",
            [part for r in chunk for part in key_of(r)],
        )
        return {
            (width, by, key, start): (writes, _histogram(runtime), _histogram(wait))
            for width, by, key, start, runtime, wait, writes in cursor.fetchall()
        }

    def _remember(self, written: dict[Key, _Known]) -> None:
        self._known |= written
        for key in list(self._known)[: max(0, len(self._known) - KEPT)]:
            del self._known[key]


def widen(cursor: CursorWrapper, now: float) -> int:
    """Hours out of minutes and days out of hours, for those that are over; how many slices were made.

    A wider slice whose sum of all tasks is not that of its parts is made anew from all of them, so doing it
    twice, or late, or after increments that came late, ends in the same rows.
    """
    made = 0
    for width, of, back in WIDER:
        until = int(now // width) * width
        since = int((now - back) // width) * width
        parts = _sums(cursor, of, width, since, until)
        wholes = _sums(cursor, width, width, since, until)
        stale = [start for start in sorted(parts) if parts[start] != wholes.get(start)]
        for start in stale[:AT_ONCE]:
            _make(cursor, width, of, start)
            made += 1
    return made


def _sums(cursor: CursorWrapper, width: int, step: int, since: int, until: int) -> dict[int, int]:
    """Everything counted of all tasks in slices of this width, by the start of each step."""
    everything = " + ".join(COUNTS)
    cursor.execute(
        f"SELECT start - start %% %s AS at, SUM({everything}) FROM {_TABLE} "  # noqa: S608 - our own columns
        "WHERE width = %s AND \"by\" = 'all' AND \"key\" = '' AND start >= %s AND start < %s GROUP BY at",
        [step, width, since, until],
    )
    return {int(at): int(total) for at, total in cursor.fetchall()}


def _make(cursor: CursorWrapper, width: int, of: int, start: int) -> None:
    names = ", ".join(f'"{name}"' for name in Rollup.__struct_fields__)
    cursor.execute(
        f"SELECT {names} FROM {_TABLE} WHERE width = %s AND start >= %s AND start < %s",  # noqa: S608 - ours
        [of, start, start + width],
    )
    wider: dict[tuple[str, str], Rollup] = {}
    for row in cursor.fetchall():
        part = Rollup(*row[:12])
        part.runtime, part.wait = _histogram(row[12]), _histogram(row[13])
        whole = wider.setdefault((part.by, part.key), Rollup(width, part.by, part.key, start))
        wider[part.by, part.key] = added(whole, part)
    records = [wider[key] for key in sorted(wider)]
    for chunk in _chunks(records):
        values = [
            value
            for r in chunk
            for value in (*msgspec.structs.astuple(r)[:-2], rows.text(r.runtime), rows.text(r.wait), 1)
        ]
        cursor.execute(_replace(len(chunk)), values)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    at = 0
    for size in _SIZES:
        while len(items) - at >= size:
            yield items[at : at + size]
            at += size


def _executed(cursor: CursorWrapper, query: str, values: Sequence[str | int]) -> set[Key]:
    """Runs a statement of many rows; the keys that it returned."""
    if connection.vendor == "sqlite":
        # Not Django's execute: it would rewrite the statement each time.
        raw: Any = cursor.cursor
        with connection.wrap_database_errors:
            sqlite3.Cursor.execute(raw, query.replace("%s", "?"), values)
            found = raw.fetchall()
    else:
        cursor.execute(query, values)
        found = cursor.fetchall()
    return {(int(width), str(by), str(key), int(start)) for width, by, key, start in found}


def key_of(r: Rollup) -> Key:
    return (r.width, r.by, r.key, r.start)


def added(a: Rollup, b: Rollup) -> Rollup:
    """Two increments of one identity as one."""
    counts = {name: getattr(a, name) + getattr(b, name) for name in COUNTS}
    return msgspec.structs.replace(
        a, **counts, runtime=rates.merge(a.runtime, b.runtime), wait=rates.merge(a.wait, b.wait)
    )


def coalesced(increments: Iterable[Rollup]) -> Iterable[Rollup]:
    """One increment for each identity."""
    found: dict[Key, Rollup] = {}
    for r in increments:
        key = key_of(r)
        older = found.get(key)
        found[key] = r if older is None else added(older, r)
    return found.values()


@lru_cache(32)
def _upsert(count: int) -> str:
    """Counts add up; histograms are replaced, if the row is as the writer knew it."""
    adding = ", ".join(f'"{name}" = {_TABLE}."{name}" + excluded."{name}"' for name in COUNTS)
    return (
        f"{_insert(count)} DO UPDATE SET {adding}, "
        "runtime = excluded.runtime, wait = excluded.wait, writes = excluded.writes "
        f"WHERE {_TABLE}.writes = excluded.writes - 1 RETURNING {_KEY}"
    )


@lru_cache(8)
def _replace(count: int) -> str:
    new = ", ".join(f'"{name}" = excluded."{name}"' for name in (*COUNTS, "runtime", "wait"))
    return f"{_insert(count)} DO UPDATE SET {new}, writes = {_TABLE}.writes + 1"


def _insert(count: int) -> str:
    row = f"({', '.join(['%s'] * len(COLUMNS))})"
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    return f"INSERT INTO {_TABLE} ({names}) VALUES {', '.join([row] * count)} ON CONFLICT ({_KEY})"  # noqa: S608
