"""What each step of an event costs alone, in one thread and one process: `python -m bench.steps`.

The engine's own functions on the messages of ``bench.generator``, tick by tick, then SQLite alone with the
rows they gave: what is left for anything else under a bound. Nothing is read from a socket (``bench.ingest
--only raw`` has that), nothing waits, and no thread takes the interpreter from another, so a whole engine
costs more than their sum.
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.generator import Plan, Stream
from bench.report import median, say

RATE = 15_000.0  # events a second
TICK = 0.625  # seconds from tick to tick of an engine at that rate
START = 1_790_000_000.0
TOGETHER = 3_000  # rows of one plain transaction

PARSE, FILE, DERIVE = "parse and check", "file under tasks and workers", "derive rows, count"
ROWS, WRITE, COMMIT = "rows as values", "write them to SQLite", "commit"
BARE, UNIQUE, INDEXED = "no index at all", "their uuid unique", "all indexes"


class Clock:
    """CPU of this thread by what it was spent on, in seconds."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, step: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.spent[step] += time.thread_time() - began


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=__doc__)
    parser.add_argument("--tasks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as place:
        _django(Path(place))
        rounds = [_one(Path(place), given.tasks, given.seed + turn) for turn in range(given.rounds)]
    costs = {step: median([one[step] for one in rounds]) for step in rounds[0]}
    steps = (PARSE, FILE, DERIVE, ROWS, WRITE, COMMIT)
    say("µs of CPU an event, in Umbel's own functions:")
    for step in steps:
        say(f"  {step:<30} {costs[step]:6.1f}")
    say(f"  {'together':<30} {sum(costs[step] for step in steps):6.1f}")
    say("SQLite alone, the same rows by plain INSERTs and commits:")
    for step in (BARE, UNIQUE, INDEXED):
        say(f"  {step:<30} {costs[step]:6.1f}")
    return 0


def _django(folder: Path) -> None:
    """A migrated database of its own."""
    os.environ["UMBEL_DATA"] = str(folder)
    os.environ["UMBEL_DATABASE"] = ""
    os.environ["DJANGO_SETTINGS_MODULE"] = "dashboard.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0, interactive=False)


def _one(folder: Path, tasks: int, seed: int) -> dict[str, float]:
    """µs an event of each step."""
    from monitor.models import Task

    clock = Clock()
    stream = Stream(Plan(tasks=tasks, rate=RATE, seed=seed), START)
    Task.objects.all().delete()
    gc.collect()
    gc.disable()  # the engine's collector runs rarely, too
    batches = [list(_tick(clock, *heard)) for heard in _heard(stream)]
    gc.enable()
    _write(clock, batches)
    _plainly(clock, folder, [row for batch in batches for row in batch])
    events = stream.close().events
    return {step: seconds / events * 1e6 for step, seconds in clock.spent.items()}


def _heard(stream: Stream) -> Iterator[tuple[Any, list[bytes], float]]:
    """The messages of each tick, for one cluster."""
    from monitor.cluster import Cluster

    cluster, at = Cluster(), START
    while not stream.done:
        at += TICK
        yield cluster, [command.split(b"\r\n", 6)[6][:-2] for command in stream.upto(at)], at


def _tick(clock: Clock, cluster: Any, messages: Sequence[bytes], at: float) -> Sequence[Any]:
    """The rows that one tick gives, as values."""
    from monitor.events import decode
    from monitor.records import TaskRecord
    from monitor.store import rows

    with clock.on(PARSE):
        heard = [decode(message) for message in messages]
    with clock.on(FILE):
        for one in heard:
            cluster.apply_all(one.events, at)
    with clock.on(DERIVE):
        cluster.tick(at)
        cluster.cold()
        cluster.absorb([])  # all of them are new
        changed = cluster.drain(at, hold=True)
    with clock.on(ROWS):
        return [rows.task_row(record) for record in changed if isinstance(record, TaskRecord)]


def _write(clock: Clock, batches: Sequence[Sequence[Any]]) -> None:
    from django.db import connection, transaction

    from monitor.store import sqlite

    transaction.set_autocommit(False)
    for batch in batches:
        with clock.on(WRITE), connection.cursor() as cursor:
            sqlite.write_tasks(cursor, batch)
        with clock.on(COMMIT):
            transaction.commit()
    transaction.set_autocommit(True)


def _plainly(clock: Clock, folder: Path, values: Sequence[Any]) -> None:
    """A statement a row, and next to nothing of Python: what the table itself costs."""
    from django.db import connection

    from monitor.store.rows import TASK_COLUMNS

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT type, sql FROM sqlite_master WHERE tbl_name = 'monitor_task' AND sql IS NOT NULL"
        )
        made = cursor.fetchall()
    (table,) = [sql for kind, sql in made if kind == "table"]
    indexes = [sql for kind, sql in made if kind == "index"]
    names = ", ".join(f'"{name}"' for name in TASK_COLUMNS)
    insert = f"INSERT OR REPLACE INTO monitor_task ({names}) VALUES ({', '.join('?' * len(TASK_COLUMNS))})"
    for step, schema in (
        (BARE, [table.replace("NOT NULL UNIQUE", "NOT NULL")]),
        (UNIQUE, [table]),
        (INDEXED, [table, *indexes]),
    ):
        path = folder / "plain.sqlite3"
        path.unlink(missing_ok=True)
        own = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode = wal", "PRAGMA synchronous = normal", *schema):
            own.execute(statement)
        with clock.on(step):
            for start in range(0, len(values), TOGETHER):
                own.execute("BEGIN")
                own.executemany(insert, values[start : start + TOGETHER])
                own.execute("COMMIT")
        own.close()


if __name__ == "__main__":
    sys.exit(main())
