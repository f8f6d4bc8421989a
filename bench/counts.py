"""What an Umbel would have counted of the tasks that ``bench.fill`` makes: by its own tally and rollups.

Slices are as coarse from the first as they would be kept by now. On SQLite this goes on in a process and a
file of its own while the tasks are made, since it takes about as long; then the rows are moved.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitor.records import TaskRecord, TaskType

WRITTEN = 20_000  # rollups in one go
WIDEN = 6 * 3600  # seconds between two rounds of making wider slices
TABLES = ("monitor_rollup", "monitor_tasktype")


@dataclass
class Counting:
    """Copy n of a pool's tasks (n % its size) ends at ``start + n * step``; ``newest`` come after them."""

    pool: Sequence[TaskRecord]
    newest: Sequence[TaskRecord]
    count: int
    start: float
    step: float
    now: float
    _process: ForkProcess | None = field(default=None, init=False)
    _file: Path = field(default=Path(), init=False)

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Counts beside the block, which calls ``finish``. Nobody else may have the database open."""
        from django.db import connection

        if connection.vendor != "sqlite":
            yield
            return
        connection.close()
        database = Path(connection.settings_dict["NAME"])
        self._file = database.with_suffix(".counts")
        shutil.copyfile(database, self._file)
        self._process = multiprocessing.get_context("fork").Process(target=self._apart)
        self._process.start()
        try:
            yield
        finally:
            self._process.kill()
            self._process.join()
            for name in (self._file, *self._file.parent.glob(f"{self._file.name}-*")):
                name.unlink(missing_ok=True)

    def finish(self) -> None:
        """All that was counted is in the database."""
        from django.db import connection

        if self._process is None:
            self._count()
            return
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"Counting ended with {self._process.exitcode}; see above.")
        with connection.cursor() as cursor:
            cursor.execute("ATTACH %s AS counted", [str(self._file)])
            for table in TABLES:
                cursor.execute(f"INSERT INTO {table} SELECT * FROM counted.{table} ORDER BY id")
            cursor.execute("DETACH counted")

    def _apart(self) -> None:
        from django.db import connection

        connection.settings_dict["NAME"] = self._file
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous = OFF")
        self._count()
        connection.close()

    def _count(self) -> None:
        from msgspec.structs import replace

        from monitor import models
        from monitor.cluster.limits import Limits
        from monitor.cluster.tally import Tally
        from monitor.records import Rollup, TaskType
        from monitor.store import Store, rollups
        from monitor.store.backlog import added

        tally, store = Tally(Limits()), Store()
        types: dict[str, TaskType] = {}
        waiting: list[Rollup] = []
        # Each start of a plain life counts a wait, and only the first of a task has one.
        lives: list[Any] = [(replace(r), r.marks[:5] + r.marks[6:], r.marks[5:6]) for r in self.pool]
        widened = 0.0
        n = 0
        while n < self.count:
            at, width = _slice(self.start + n * self.step, self.now)
            end = min(self.count, max(n + 1, int((at + width - self.start) / self.step) + 1))
            for k in range(n, end):
                row, marks, again = lives[k % len(lives)]
                row.seen_at = at
                tally.plain(row, marks)
                if again:
                    tally.count(row, [replace(again[0], seen_at=at)])
            n = end
            for record in self.newest if n == self.count else ():
                tally.count(record, record.marks)
            for counted in tally.drain():
                if isinstance(counted, TaskType):
                    _gather(types, counted)
                elif counted.width > 10 or width == 10:
                    waiting.append(counted)
            if len(waiting) > WRITTEN or at - widened >= WIDEN:
                store.write(waiting, at)
                waiting.clear()
            if at - widened >= WIDEN:
                _widen(at)
                widened = at
        waiting += tally.pairs.drain(self.now, all_of_it=True)
        kinds = [added(TaskType(kind.name), kind) for kind in types.values()]
        store.write([*waiting, *kinds], self.now)
        _widen(self.now)
        # The minutes that hours were made of.
        models.Rollup.objects.filter(width=60, start__lt=self.now - rollups.KEPT_SECONDS[60]).delete()


def _widen(at: float) -> None:
    from django.db import connection, transaction

    from monitor.store import rollups

    with transaction.atomic(), connection.cursor() as cursor:
        while rollups.widen(cursor, at):
            pass


def _slice(at: float, now: float) -> tuple[int, int]:
    """The slice around that time, as fine as it is still kept: its start and its width, in seconds."""
    from monitor.store.rollups import KEPT_SECONDS

    for width, finer in ((3600, 60), (60, 10)):
        start = int(at // width) * width
        if start + width <= now - KEPT_SECONDS[finer]:
            return start, width
    return int(at // 10) * 10, 10


def _gather(types: dict[str, TaskType], counted: TaskType) -> None:
    from msgspec.structs import replace

    kind = types.setdefault(counted.name, replace(counted, runs=0, failures=0, histogram={}))
    kind.runs += counted.runs
    kind.failures += counted.failures
    kind.last_seen_at = counted.last_seen_at
    for bucket, count in counted.histogram.items():
        kind.histogram[bucket] = kind.histogram.get(bucket, 0) + count
