"""What bench.fill makes is what the product itself would have stored: schema, rows, counts and words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.cluster.derive import derive, unpacked
from monitor.records import ENDED, TaskRecord
from monitor.store import rows
from monitor.store.rollups import KEPT_SECONDS
from tests.conftest import ROOT
from tests.postgresql import Server

TASKS = 4_000
SPAN = 12 * 86_400


def run(folder: Path, *argv: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    made = subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env=env | {"UMBEL_DATA": str(folder), "DJANGO_SETTINGS_MODULE": "dashboard.settings"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fill")
    run(folder, "-m", "bench.fill", str(folder), "--tasks", str(TASKS), "--span", str(SPAN))
    return folder


@pytest.fixture
def filled(folder: Path) -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(folder / "umbel.sqlite3")
    yield opened
    opened.close()


def records(filled: sqlite3.Connection, where: str = "1 = 1") -> list[TaskRecord]:
    names = ", ".join(f'"{name}"' for name in rows.TASK_COLUMNS)
    query = f"SELECT {names} FROM monitor_task WHERE {where} ORDER BY id"
    return [rows.task_of(row) for row in filled.execute(query)]


def test_the_schema_is_that_of_the_migrations(
    folder: Path, filled: sqlite3.Connection, tmp_path: Path
) -> None:
    run(tmp_path, "manage.py", "migrate", "--verbosity", "0")
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    with sqlite3.connect(tmp_path / "umbel.sqlite3") as fresh:
        wanted = fresh.execute(query).fetchall()
    fresh.close()
    assert filled.execute(query).fetchall() == wanted
    assert filled.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert filled.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    left = {path.name.partition("-")[0] for path in folder.iterdir()}
    assert left == {"umbel.sqlite3", "secret_key"}


def test_every_row_is_what_its_marks_say(filled: sqlite3.Connection) -> None:
    found = records(filled)
    assert len(found) == len({task.uuid for task in found}) == TASKS
    for task in found:
        again = derive(
            TaskRecord(
                task.uuid,
                task.name,
                queue=task.queue,
                routing_key=task.routing_key,
                args=task.args,
                kwargs=task.kwargs,
                root_id=task.root_id,
            ),
            unpacked(task),
        )
        assert _exact(again) == _exact(task)
        # Differences of large numbers.
        assert (again.runtime, again.wait) == pytest.approx((task.runtime, task.wait), abs=1e-5)


def test_lives_are_of_every_kind(filled: sqlite3.Connection) -> None:
    states = Counter(task.state for task in records(filled))
    assert states["PENDING"] == 1_000
    assert states["SUCCESS"] > 0.9 * (TASKS - 1_436)
    assert {"FAILURE", "REVOKED", "STARTED", "RETRY", "RECEIVED"} <= states.keys()
    again = records(filled, "retries > 0 AND state = 'SUCCESS'")
    assert [attempt.state for attempt in again[0].attempts] == ["RETRY", "SUCCESS"]
    failed = records(filled, "traceback LIKE '%no such order%'")[0]
    assert failed.exception is not None
    assert "@n" not in failed.exception
    assert failed.traceback is not None
    assert failed.traceback.count(failed.exception) == 2


def test_counts_of_every_width_add_up_to_the_tasks(filled: sqlite3.Connection) -> None:
    ended = Counter(task.state for task in records(filled) if task.state in ENDED)
    now = filled.execute("SELECT MAX(heartbeat_at) FROM monitor_worker").fetchone()[0]
    wanted = (ended["SUCCESS"], ended["FAILURE"], ended["REVOKED"], ended["REJECTED"], ended["LOST"])
    sums = "SUM(succeeded), SUM(failed), SUM(revoked), SUM(rejected), SUM(lost)"
    for by in ("all", "name", "worker", "queue"):
        # Hours, and the minutes since the last whole one.
        hour = int(now // 3600) * 3600
        query = (
            f'SELECT {sums} FROM monitor_rollup WHERE "by" = ? '
            "AND (width = 3600 AND start < ? OR width = 60 AND start >= ?)"
        )
        assert filled.execute(query, (by, hour, hour)).fetchone() == wanted, by
    pairs = f"SELECT {sums} FROM monitor_rollup WHERE \"by\" = 'pair' AND width = 0"
    assert filled.execute(pairs).fetchone() == wanted
    lifetime = filled.execute("SELECT SUM(runs), SUM(failures) FROM monitor_tasktype").fetchone()
    assert lifetime == wanted[:2]


def test_counts_are_kept_as_long_as_the_store_keeps_them(filled: sqlite3.Connection) -> None:
    now = filled.execute("SELECT MAX(heartbeat_at) FROM monitor_worker").fetchone()[0]
    oldest = dict(
        filled.execute("SELECT width, MIN(start) FROM monitor_rollup WHERE width > 0 GROUP BY width")
    )
    assert set(oldest) == {10, 60, 3600, 86_400}
    for width in (10, 60):
        assert -3600 < now - KEPT_SECONDS[width] - oldest[width] < 3600
    assert now - oldest[3600] > SPAN - 7200


def test_words_are_found_by_the_products_own_search(folder: Path, filled: sqlite3.Connection) -> None:
    args = filled.execute("SELECT uuid, args FROM monitor_task WHERE state = 'SUCCESS' LIMIT 1").fetchone()
    number = args[1].strip("(").partition(",")[0]
    printed = run(folder, "-c", SEARCH, number)
    assert printed.split() == [args[0], "0"]


SEARCH = """
import sys, django
django.setup()
from dashboard.forms.tasks import TaskFilter
from dashboard.queries import newest, text
from monitor.models import Task
from monitor.store import search
found = text.find(("uuid", "seen_at", "id"), sys.argv[1], newest.wanted(TaskFilter(), 0.0), 10)
mark = search.mark()
print(*[row[0] for row in found.rows], Task.objects.filter(seen_at__gt=mark.at).count())
"""


def test_postgresql_is_filled_alike(tmp_path: Path) -> None:
    with Server() as server:
        fill = ("-m", "bench.fill", str(tmp_path), "--tasks", str(TASKS), "--span", str(SPAN))
        run(tmp_path, *fill, "--database", server.url)
        printed = run(tmp_path, "-c", COUNTS.format(server.url)).split()
    assert printed == [str(TASKS), "0", "0", "True"]


COUNTS = """
import os
os.environ["UMBEL_DATABASE"] = "{}"
import django
django.setup()
from django.db import connection
from django.db.models import Sum
from monitor.cluster.derive import derive, unpacked
from monitor.models import Rollup, Task
from monitor.records import TaskRecord
from monitor.store import rows, search
wrong = 0
for model in Task.objects.all():
    task = rows.task_record(model)
    again = derive(TaskRecord(task.uuid), unpacked(task))
    for name in ("state", "worker", "sent_at", "started_at", "ended_at", "seen_at", "result"):
        wrong += getattr(again, name) != getattr(task, name)
with connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM monitor_task_default")
    default = cursor.fetchone()[0]
hours = Rollup.objects.filter(width=3600, by="all").aggregate(n=Sum("succeeded"))["n"]
print(Task.objects.count(), wrong, default, 0 < hours <= Task.objects.filter(state="SUCCESS").count())
"""


def _exact(task: TaskRecord) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in task.__struct_fields__ if name not in ("runtime", "wait")}
    values["attempts"] = [
        (a.number, a.worker, a.state, a.received_at, a.started_at, a.ended_at, a.exception, a.note)
        for a in task.attempts
    ]
    return values
