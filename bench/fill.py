"""Fills a database with as many stored tasks as asked, as an Umbel that watched a shop would have them.

``python -m bench.fill FOLDER --tasks 1000000`` makes ``FOLDER/umbel.sqlite3`` (or fills ``--database URL``).
A pool of tasks is made in Python, through the records that the engine itself writes; the database multiplies
it, each copy with its own id, times and order number. Indexes come after the rows: that is quicker.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import say

if TYPE_CHECKING:
    from monitor.records import TaskRecord

POOL = 20_000  # different tasks; the rest are copies of them
SPAN = 14 * 86_400.0  # seconds that the tasks are spread over
NEWEST = 300.0  # seconds at the end that the unfinished ones have to themselves
SHORT = 26 * 3600.0  # seconds that the finest counts are kept
NAMES = 40
WORKERS = 12
QUEUES = ("default", "mail", "image", "report", "search", "billing")
OPEN = {"PENDING": 1_000, "RECEIVED": 300, "STARTED": 96, "RETRY": 40}  # unfinished ones, the newest
ENDS = (("SUCCESS", 0.945), ("FAILURE", 0.04), ("REVOKED", 0.01), ("REJECTED", 0.003), ("LOST", 0.002))
TOWNS = ("Aarhus", "Bergen", "Coimbra", "Dresden", "Evora", "Fulda", "Ghent", "Hamar", "Imola", "Jena")
FAULTS = ("ValueError('no such order @n')", "TimeoutError('gateway silent for 30 s')", "KeyError('sku-@n')")
TRACE = (
    'Traceback (most recent call last):\n  File "/srv/shop/tasks.py", line 41, in {0}\n    run(order)\n'
    '  File "/srv/shop/orders.py", line 108, in run\n    raise {1}\n{1}\n'
)
# Stand-ins in the texts of the pool, each replaced in its copies.
SENT, RECEIVED, STARTED, ENDED = 1111111111.1, 2222222222.2, 3333333333.3, 4444444444.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="the data folder of an Umbel; made when it is not there")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--database", default="", help="a PostgreSQL URL in place of SQLite in the folder")
    parser.add_argument("--span", type=float, default=SPAN, help="seconds that the tasks are spread over")
    parser.add_argument("--no-search", action="store_true", help="leaves the search index to the engine")
    asked = parser.parse_args()
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
    """So many tasks up to ``now`` (default: the clock), with their names, workers and rollups."""
    now = time.time() if now is None else now
    pool = _pool(random.Random(seed))
    finished = count - sum(OPEN.values())
    with _quickly():
        start, step = now - span, (span - NEWEST) / max(finished, 1)
        _multiply(pool, finished, start, step)
        say("  tasks")
        _open(random.Random(seed + 1), now)
        _workers(now)
        _types(pool, finished, now, span)
        _rollups(pool, finished, start, step)
        say("  rollups")
    if search:
        _words(finished)


def _words(finished: int) -> None:
    """The index of words: the finished tasks at once, in their order; the engine's own way for the rest."""
    from django.db import connection

    from monitor.models import Task
    from monitor.store import search

    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            last = Task.objects.order_by("id").values_list("id", flat=True)[finished - 1]
            # Few large parts in place of many small ones that are merged again and again.
            cursor.execute(
                f"INSERT INTO {search.INDEX} ({search.INDEX}, rank) VALUES ('hashsize', 100000000)"
            )
            cursor.execute("PRAGMA synchronous = OFF")
            cursor.execute("BEGIN")
            cursor.execute(
                f"INSERT INTO {search.INDEX} (rowid, text, task) SELECT CAST(seen_at * 1000000 AS integer), "
                f"{search.text_of()}, id FROM {search.TABLE} WHERE id <= %s ORDER BY id",
                [last],
            )
            cursor.execute(
                "INSERT INTO monitor_searched (place, task) SELECT CAST(seen_at * 1000000 AS integer), id "
                f"FROM {search.TABLE} WHERE id <= %s ORDER BY id",
                [last],
            )
            cursor.execute(
                "UPDATE monitor_searchmark SET (at, task, place) = (SELECT seen_at, id, "
                f"CAST(seen_at * 1000000 AS integer) FROM {search.TABLE} WHERE id = %s)",
                [last],
            )
            cursor.execute("COMMIT")
            cursor.execute(f"INSERT INTO {search.INDEX} ({search.INDEX}, rank) VALUES ('hashsize', 1048576)")
    while search.index_some(20_000, time.time()):
        pass
    say("  words")


# The pool


def _pool(dice: random.Random) -> list[TaskRecord]:
    return [_ended(dice, n) for n in range(POOL)]


def _ended(dice: random.Random, n: int) -> TaskRecord:
    """A finished task, its times relative: ``ended_at`` is 0, the others lie before."""
    from monitor.records import Attempt, Mark, TaskRecord

    name, queue, worker, typical = _kind(dice)
    state = dice.choices([s for s, _ in ENDS], [w for _, w in ENDS])[0]
    runtime = round(typical * dice.lognormvariate(0, 0.5), 6) if state in ("SUCCESS", "FAILURE") else None
    wait = round(dice.expovariate(4), 6)
    pid, clock = 1000 + dice.randrange(64), dice.randrange(10**6, 10**8)
    record = TaskRecord(
        uuid="",
        name=name,
        state=state,
        worker=worker,
        queue=queue,
        routing_key=queue,
        args=f"(@n, '{dice.choice(TOWNS)}', {dice.randrange(1, 9)})",
        kwargs=json.dumps({"sku": f"sku-{dice.randrange(5000)}", "gift": dice.random() < 0.1}).replace(
            '"', "'"
        ),
        retries=1 if dice.random() < 0.03 else 0,
        sender="web@shop",
        runtime=runtime,
        wait=wait,
        sent_at=-(runtime or 0.0) - wait,
        received_at=-(runtime or 0.0) - wait / 2,
        started_at=-(runtime or 0.0) if runtime is not None else None,
        ended_at=0.0,
    )
    if state == "SUCCESS":
        record.result = f"{{'order': @n, 'town': '{dice.choice(TOWNS)}', 'sent': True}}"
    elif state == "FAILURE":
        record.exception = dice.choice(FAULTS)
        record.exception_type = record.exception.partition("(")[0]
        record.traceback = TRACE.format(name.rpartition(".")[2], record.exception)
    elif state == "LOST":
        record.known, record.note = "inferred", "end not seen"
    last = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "revoked", "REJECTED": "rejected"}
    record.marks = [
        Mark("sent", "web@shop", 77, clock, SENT, SENT, {"queue": queue}),
        Mark("received", worker, pid, clock + 2, RECEIVED, RECEIVED),
        Mark("started", worker, pid, clock + 3, STARTED, STARTED),
        Mark(last.get(state, "lost"), worker, pid, clock + 9, ENDED, ENDED, {"runtime": runtime}),
    ]
    record.attempts = [Attempt(0, worker, state, RECEIVED, STARTED, ENDED, runtime=runtime)]
    return record


def _kind(dice: random.Random) -> tuple[str, str, str, float]:
    """Name, queue, worker and typical runtime: few names have most of the tasks."""
    rank = min(int(dice.paretovariate(0.9)) - 1, NAMES - 1)
    queue = QUEUES[rank % len(QUEUES)]
    name = (
        f"shop.{queue}.{('send', 'build', 'check', 'sync', 'prune', 'score', 'merge')[rank // len(QUEUES)]}"
    )
    return name, queue, f"{queue}-{dice.randrange(WORKERS // len(QUEUES))}@shop", 0.05 * 1.35 ** (rank % 17)


# The rows


def _multiply(pool: list[TaskRecord], count: int, start: float, step: float) -> None:
    """Copy n of the pool's tasks (n % POOL) ends at ``start + n * step``."""
    from django.db import connection

    from monitor.models import Task
    from monitor.store import rows

    columns = [c for c in rows.TASK_COLUMNS if c in {f.column for f in Task._meta.fields}]
    made = [dict(zip(rows.TASK_COLUMNS, rows.task_row(record), strict=True)) for record in pool]
    with connection.cursor() as cursor:
        types = ", ".join(f"{c} {_type(c)}" for c in columns)
        cursor.execute(f"CREATE TEMPORARY TABLE fill_pool (k INTEGER PRIMARY KEY, {types})")
        places = ", ".join(["%s"] * (len(columns) + 1))
        cursor.executemany(
            f"INSERT INTO fill_pool VALUES ({places})",
            [(k, *(one[c] for c in columns)) for k, one in enumerate(made)],
        )
        chosen = ", ".join(_copied(c) for c in columns)
        query = (
            f"INSERT INTO monitor_task ({', '.join(columns)}) SELECT {chosen} FROM "
            "(SELECT p.*, k + %s AS n, %s + (k + %s) * %s AS t FROM fill_pool p "
            "WHERE k < %s ORDER BY k) AS p"
        )
        for first in range(0, count, POOL):
            cursor.execute(query, [first, start, first, step, min(POOL, count - first)])
        cursor.execute("DROP TABLE fill_pool")


_TIMES = ("sent_at", "received_at", "started_at", "ended_at")


def _type(column: str) -> str:
    if column in (*_TIMES, "eta", "expires", "first_seen_at", "seen_at", "runtime", "wait"):
        return "double precision"
    if column in ("terminated", "expired"):
        return "boolean"
    return "integer" if column in ("retries", "day") else "text"


def _copied(column: str) -> str:
    """The SQL of a column of copy ``n``, whose last event was at ``t``."""
    from django.db import connection

    postgres = connection.vendor == "postgresql"
    if column == "uuid":
        # Ascending, so that the unique index grows at its end.
        if postgres:
            return "lpad(to_hex((n * 429) %% 4294967296), 8, '0') || substr(gen_random_uuid()::text, 9)"
        tail = "lower(hex(randomblob(6)))"
        start = "(n * 429) %% 4294967296, n %% 65536, k %% 4096, n %% 4096"
        return f"printf('%%08x-%%04x-4%%03x-a%%03x-', {start}) || {tail}"
    if column in _TIMES:
        return f"t + {column}"
    if column == "first_seen_at":
        return "t + sent_at"
    if column == "seen_at":
        return "t"
    if column == "day":
        return (
            "CAST((t + sent_at) / 86400 AS INTEGER)"
            if not postgres
            else "floor((t + sent_at) / 86400)::integer"
        )
    if column in ("args", "result", "exception", "traceback"):
        return f"replace({column}, '@n', CAST(n + 1000000 AS text))"
    if column in ("marks", "attempts"):
        text = column
        ends = ("t + sent_at", "t + received_at", "t + started_at", "t")
        for stand_in, at in zip((SENT, RECEIVED, STARTED, ENDED), ends, strict=True):
            number = f"round(CAST({at} AS numeric), 4)::text" if postgres else f"printf('%%.4f', {at})"
            text = f"replace({text}, '{stand_in}', COALESCE({number}, '0'))"
        return f"CAST({text} AS jsonb)" if postgres else text
    return column


def _open(dice: random.Random, now: float) -> None:
    """Tasks without an end, of the last minutes."""
    from monitor.deltas import Delta
    from monitor.records import Mark
    from monitor.store import Store

    records = []
    for state, count in OPEN.items():
        for _ in range(count):
            record = _ended(dice, 0)
            at = now - dice.random() * (NEWEST - 1)
            record.uuid = f"{dice.getrandbits(32):08x}-0000-4000-a000-{dice.getrandbits(48):012x}"
            record.args = (record.args or "").replace("@n", str(dice.randrange(10**6)))
            record.state, record.known, record.note = state, "seen", ""
            record.result = record.exception = record.traceback = None
            record.exception_type, record.ended_at, record.runtime, record.attempts = "", None, None, []
            record.sent_at, record.first_seen_at, record.seen_at = at - 0.2, at - 0.2, at
            record.received_at = at - 0.1 if state != "PENDING" else None
            record.started_at = at if state in ("STARTED", "RETRY") else None
            if state == "PENDING":
                record.worker = ""
            if "day" in type(record).__struct_fields__:
                record.day = int(record.first_seen_at // 86_400)
            record.marks = [Mark("sent", "web@shop", 77, 1, at - 0.2, at - 0.2, {"queue": record.queue})]
            records.append(record)
    records.sort(key=lambda record: record.seen_at)
    Store().write([Delta(record) for record in records], now)


def _workers(now: float) -> None:
    from monitor.deltas import Delta
    from monitor.records import WorkerRecord
    from monitor.store import Store

    records = [
        WorkerRecord(
            hostname=f"{queue}-{k}@shop", status="online", pid=100 + k, pool="prefork", size=8, busy=8,
            processed=10**6, prefetch=32, queues=[queue], software="py-celery 5.7.0", system="Linux",
            load=[1.0, 0.9, 0.8], heartbeat_at=now, drift=0.0, clock=10**8, online_at=now - SPAN,
            events_on=True, first_seen_at=now - SPAN,
        )
        for queue in QUEUES
        for k in range(WORKERS // len(QUEUES))
    ]  # fmt: skip
    Store().write([Delta(record) for record in records], now)


def _types(pool: list[TaskRecord], count: int, now: float, span: float) -> None:
    """Each name's lifetime: runs, failures and the histogram of its successes, as its copies have them."""
    from monitor import rates
    from monitor.deltas import Delta
    from monitor.records import TaskType
    from monitor.store import Store
    from monitor.store.backlog import added

    types: dict[str, TaskType] = {}
    for k, record in enumerate(pool):
        copies = count // POOL + (k < count % POOL)
        if record.state not in ("SUCCESS", "FAILURE") or not copies:
            continue
        kind = types.setdefault(
            record.name, TaskType(record.name, first_seen_at=now - span, last_seen_at=now)
        )
        if record.state == "FAILURE":
            kind.failures += copies
        else:
            kind.runs += copies
            rates.add(kind.histogram, record.runtime or 0.0, copies)
    Store().write([Delta(added(TaskType(kind.name), kind)) for kind in types.values()], now)


def _rollups(pool: list[TaskRecord], count: int, start: float, step: float) -> None:
    """Counts of every minute by all, name, worker and queue, as if each task had lived within one minute.

    The hours and days are made of them by the store itself, in time.
    """
    from django.db import connection, transaction

    from monitor import rates
    from monitor.models import Rollup
    from monitor.store import rows

    column = {"SUCCESS": 2, "FAILURE": 3, "REVOKED": 5, "REJECTED": 6, "LOST": 7}
    kinds = [
        (
            (("all", ""), ("name", r.name), ("worker", r.worker), ("queue", r.queue)),
            column[r.state],
            rates.bucket(r.runtime) if r.state == "SUCCESS" and r.runtime is not None else None,
            rates.bucket(r.wait or 0.0),
        )
        for r in pool
    ]
    names = tuple(str(f.column) for f in Rollup._meta.concrete_fields if f.column != "id")
    query = (
        f"INSERT INTO {Rollup._meta.db_table} ({', '.join(connection.ops.quote_name(n) for n in names)}) "
        f"VALUES ({', '.join(['%s'] * len(names))})"
    )
    order = ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "lost")

    def row(width: int, by: str, key: str, at: int, counts: list[int], runs: Any, waits: Any) -> list[Any]:
        one: dict[str, Any] = dict(zip(order, counts, strict=True))
        one |= {"width": width, "by": by, "key": key, "start": at, "writes": 1}
        one |= {"runtime": rows.text(runs), "wait": rows.text(waits)}
        return [one[name] for name in names]

    def minutes() -> Iterator[list[Any]]:
        n = 0
        while n < count:
            minute = int((start + n * step) // 60) * 60
            end = min(count, max(n + 1, math.ceil((minute + 60 - start) / step)))
            found: dict[tuple[str, str], tuple[list[int], dict[int, int], dict[int, int]]] = {}
            for k in range(n, end):
                keys, ended, ran, waited = kinds[k % POOL]
                for key in keys:
                    if key not in found:
                        found[key] = ([0] * 8, {}, {})
                    counts, runs, waits = found[key]
                    counts[0] += 1
                    counts[ended] += 1
                    waits[waited] = waits.get(waited, 0) + 1
                    if ran is not None:
                        counts[1] += 1
                        runs[ran] = runs.get(ran, 0) + 1
            for key, (counts, runs, waits) in found.items():
                yield row(60, *key, minute, counts, runs, waits)
            if minute > start + count * step - SHORT:
                yield row(10, "all", "", minute, found["all", ""][0], {}, {})
            n = end

    made = minutes()
    with transaction.atomic(), connection.cursor() as cursor:
        while some := list(islice(made, 5_000)):
            cursor.executemany(query, some)


@contextmanager
def _quickly() -> Iterator[None]:
    """Without indexes that can wait, and without care for a power cut: the file is thrown away after one."""
    from django.db import connection

    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = OFF")
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.execute("PRAGMA cache_size = -1000000")
        cursor.execute("PRAGMA threads = 2")
        cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'monitor_task' "
            "AND sql IS NOT NULL"
        )
        indexes: list[Any] = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f'DROP INDEX "{name}"')
        try:
            yield
        finally:
            for _, sql in indexes:
                cursor.execute(sql)
            say("  indexes")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")


if __name__ == "__main__":
    main()
