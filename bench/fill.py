"""Fills a database with as many stored tasks as asked, as an Umbel that watched a shop would have them.

``python -m bench.fill FOLDER --tasks 1000000`` makes ``FOLDER/umbel.sqlite3`` (or fills ``--database URL``).
A pool of tasks is made in Python, through the records that the engine itself writes; the database multiplies
it, each copy with its own id, order number and times. Indexes come after the rows: that is quicker.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import counts, lives
from bench.report import say

if TYPE_CHECKING:
    from monitor.records import TaskRecord

POOL = 20_000  # different tasks; the rest are copies of them
SPAN = 14 * 86_400.0  # seconds that the tasks are spread over
NEWEST = 300.0  # seconds at the end that the unfinished ones have to themselves
MICRO = 1_000_000
MARKS = 7  # of a task at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="the data folder of an Umbel; made when it is not there")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--database", default="", help="a PostgreSQL URL in place of SQLite in the folder")
    parser.add_argument("--span", type=float, default=SPAN, help="seconds that the tasks are spread over")
    parser.add_argument("--no-search", action="store_true", help="leaves the search index to the engine")
    asked = parser.parse_args()
    open_tasks = sum(lives.OPEN.values())
    if asked.tasks <= open_tasks or (asked.span - NEWEST) * MICRO < 2 * asked.tasks:
        parser.error(f"{asked.tasks} tasks: more than {open_tasks}, and at most one in two microseconds.")
    ready(asked.folder, asked.database)
    began = time.monotonic()
    fill(asked.tasks, span=asked.span, search=not asked.no_search)
    say(f"{asked.tasks:,} tasks in {time.monotonic() - began:.0f} s")


def ready(folder: Path, database: str = "") -> None:
    """Django on that data folder, its tables made."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["UMBEL_DATA"] = str(folder)
    if database:
        os.environ["UMBEL_DATABASE"] = database
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def fill(
    count: int, now: float | None = None, span: float = SPAN, seed: int = 1, search: bool = True
) -> None:
    """So many tasks up to ``now`` (default: the clock), with their names, workers and counts."""
    from monitor.store import Store

    now = time.time() if now is None else now
    dice = random.Random(seed)
    newest = lives.unfinished(dice, now, NEWEST)
    finished = count - len(newest)
    pool = [lives.ended(dice) for _ in range(min(POOL, finished))]
    # All in microseconds, so that the times of a row and those within its marks are the same.
    start, step = int((now - span) * MICRO), int((span - NEWEST) * MICRO) // finished
    counting = counts.Counting(pool, newest, finished, start / MICRO, step / MICRO, now)
    with counting.meanwhile(), _quickly():
        _days(now - span, now)
        _multiply(pool, finished, start, step)
        Store().write([*newest, *lives.workers(now, now - span)], now)
        say("  tasks")
        _indexes()
        say("  indexes")
        if search:
            _words(finished)
            say("  words")
        counting.finish()
        say("  counts")


# The rows


_TIMES = ("sent_at", "received_at", "started_at", "ended_at", "first_seen_at", "seen_at")
_NUMBERED = ("args", "result", "exception", "traceback")
_TIMED = ("marks", "attempts")
_AT = re.compile(r"(?<=[,:])(?:999999\d{3}|1000000000)\.\d+(?=[,}])")  # times of the pool, in JSON


def _multiply(pool: Sequence[TaskRecord], count: int, start: int, step: int) -> None:
    """Copy n of the pool's tasks (n % its size) ends at ``start + n * step``."""
    from django.db import connection

    from monitor.models import Task
    from monitor.store import rows

    types = {str(f.column): str(f.db_type(connection)) for f in Task._meta.fields}
    types |= dict.fromkeys(_TIMES, "bigint") | dict.fromkeys((*_TIMED, "root_id"), "text")
    columns = (*rows.TASK_COLUMNS, *(f"m{n}" for n in range(MARKS)))
    declared = ", ".join(f'"{c}" {types.get(c, "bigint")}' for c in columns)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE fill_pool (k bigint PRIMARY KEY, {declared})")
        cursor.executemany(
            f"INSERT INTO fill_pool VALUES ({', '.join(['%s'] * (len(columns) + 1))})",
            [(k, *_template(record)) for k, record in enumerate(pool)],
        )
        names = ", ".join(f'"{c}"' for c in rows.TASK_COLUMNS)
        for first in range(0, count, len(pool)):
            chosen = ", ".join(_copied(c, first, start, step) for c in rows.TASK_COLUMNS)
            cursor.execute(
                f"INSERT INTO monitor_task ({names}) SELECT {chosen} FROM fill_pool "
                f"WHERE k < {count - first} ORDER BY k"
            )
        cursor.execute("DROP TABLE fill_pool")


def _template(record: TaskRecord) -> list[Any]:
    """A row of the pool: times in microseconds since the task's end, texts as formats."""
    from django.db import connection

    from monitor.store import rows

    postgres = connection.vendor == "postgresql"
    row: dict[str, Any] = dict(zip(rows.TASK_COLUMNS, rows.task_row(record), strict=True))
    row |= {c: None if row[c] is None else _micro(row[c]) for c in _TIMES}
    row |= {c: bool(row[c]) for c in ("terminated", "expired")}
    for column in (*_NUMBERED, *_TIMED):
        if row[column] is not None:
            row[column] = row[column].replace("%", "%%").replace("@n", "%s" if postgres else "%d")
    for column in _TIMED:
        row[column] = _AT.sub("%s" if postgres else "%d.%06d", row[column])
    marks = [_micro(mark.at) for mark in record.marks]
    return [*row.values(), *marks, *[None] * (MARKS - len(marks))]


def _micro(at: float) -> int:
    return round((at - lives.END) * MICRO)


def _copied(column: str, first: int, start: int, step: int) -> str:
    """The SQL of a column of the copies from ``first`` on."""
    from django.db import connection

    postgres = connection.vendor == "postgresql"
    form = "format" if postgres else "printf"
    n, at = f"(k + {first})", f"({start} + (k + {first}) * {step})"

    def times(places: range, times_each: int) -> str:
        each = [f"({at} + m{place})" for place in places]
        if postgres:
            texts = [f"{one} / {MICRO} || '.' || lpad(({one} % {MICRO})::text, 6, '0')" for one in each]
        else:
            texts = [f"{one} / {MICRO}, {one} % {MICRO}" for one in each]
        return ", ".join(text for text in texts for _ in range(times_each))

    if column in ("uuid", "root_id"):
        # Ascending, so that the unique index grows at its end.
        high, low = f"{n} * 429 % 4294967296", f"{n} % 65536"
        if postgres:
            begin = f"lpad(to_hex({high}), 8, '0') || '-' || lpad(to_hex({low}), 4, '0')"
        else:
            begin = f"printf('%08x-%04x', {high}, {low})"
        return f"{begin} || '-4b1d-a000-000000000000'"
    if column in _TIMES:
        return f"({at} + {column}) / CAST({MICRO} AS double precision)"
    if column == "day":
        return f"({at} + first_seen_at) / {86_400 * MICRO}"
    if column in _NUMBERED:
        # The number stands twice in a traceback.
        number = f"{n} + 1000000"
        return f"CASE WHEN {column} IS NOT NULL THEN {form}({column}, {number}, {number}) END"
    if column == "marks":
        few, many = (f"{form}(marks, {times(range(most), 2)})" for most in (4, MARKS))
        text = f"CASE WHEN m4 IS NULL THEN {few} ELSE {many} END"
        return f"CAST({text} AS jsonb)" if postgres else text
    if column == "attempts":
        text = f"CASE WHEN m4 IS NULL THEN attempts ELSE {form}(attempts, {times(range(1, MARKS), 1)}) END"
        return f"CAST({text} AS jsonb)" if postgres else text
    return f'"{column}"'


def _days(since: float, now: float) -> None:
    """The partitions of these days, where tasks have some."""
    from monitor.store import partitions

    if partitions.partitioned():
        for day in range(int((since - 3600) // 86_400), int(now // 86_400) + 1):
            partitions.prepare(day * 86_400.0)


# The indexes


@contextmanager
def _quickly() -> Iterator[None]:
    """SQLite without indexes that can wait, and without care for a power cut: half a file is of no use."""
    from django.db import connection

    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -1000000",
            "threads = 2",
            "ignore_check_constraints = ON",  # that JSON is JSON: of rows that the store's own code has made
        ):
            cursor.execute(f"PRAGMA {pragma}")
        # Those of few rows are quicker kept than made.
        cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'monitor_task' "
            "AND sql IS NOT NULL AND sql NOT LIKE '%% WHERE %%' ORDER BY rowid"
        )
        _LATER.extend(cursor.fetchall())
        for name, _ in _LATER:
            cursor.execute(f'DROP INDEX "{name}"')
    yield
    connection.close()
    connection.ensure_connection()  # opens the file as Umbel does, which says so in the file
    connection.close()


_LATER: list[tuple[str, str]] = []


def _indexes() -> None:
    """Those that waited, as the migrations made them."""
    from django.db import connection

    with connection.cursor() as cursor:
        for _, sql in _LATER:
            cursor.execute(sql)
    _LATER.clear()


def _words(finished: int) -> None:
    """The index of words: on SQLite the finished tasks at once, in their order; the engine's own way else."""
    from django.db import connection

    from monitor.store import search

    if connection.vendor == "sqlite" and search.available():
        place = f"CAST(seen_at * {search.SECOND} AS integer)"
        these = f"FROM {search.TABLE} WHERE id <= {finished}"
        with connection.cursor() as cursor:
            # Few large parts in place of many small ones that are merged again and again.
            for statement in (
                f"INSERT INTO {search.INDEX} ({search.INDEX}, rank) VALUES ('hashsize', 100000000)",
                f"INSERT INTO {search.INDEX} (rowid, text, task) "
                f"SELECT {place}, {search.text_of()}, id {these} ORDER BY id",
                f"INSERT INTO monitor_searched (task, place) SELECT id, {place} {these} ORDER BY id",
                "UPDATE monitor_searchmark SET (at, task, place) = "
                f"(SELECT seen_at, id, {place} FROM {search.TABLE} WHERE id = {finished})",
                f"INSERT INTO {search.INDEX} ({search.INDEX}, rank) VALUES ('hashsize', 1048576)",
            ):
                cursor.execute(statement)
    while search.index_some(20_000, time.time()):
        pass


if __name__ == "__main__":
    main()
