"""A web process of the release before meets the schema of this one; history comes through the migration."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import Sum

from tests.conftest import ROOT

BEFORE = "0002_waiting"
NOW = 1_790_000_000.0


@pytest.fixture
def old(db: None) -> Any:
    """The models as the release before has them, over the database of this one."""
    return MigrationLoader(connection).project_state(("monitor", BEFORE)).apps


class TestOldProcess:
    def test_it_writes_and_reads_tasks(self, old: Any) -> None:
        task = old.get_model("monitor", "Task")
        for n in range(5):
            task.objects.create(uuid=f"t{n}", state="SUCCESS", name="a", first_seen_at=NOW, seen_at=NOW + n)
        task.objects.filter(uuid="t3").update(state="FAILURE")
        assert task.objects.get(uuid="t3").attempts == []
        newest = task.objects.order_by("-seen_at", "-id").values_list("uuid", flat=True)
        assert list(newest[:2]) == ["t4", "t3"]
        assert task.objects.filter(root_id="r").count() == task.objects.filter(parent_id="p").count() == 0
        task.objects.filter(uuid="t0").delete()
        assert task.objects.count() == 4

    def test_it_writes_and_reads_everything_else(self, old: Any) -> None:
        made: dict[str, dict[str, Any]] = {
            "Worker": {"hostname": "a@h", "status": "online", "first_seen_at": NOW},
            "RateBucket": {"start": 60, "width": 60, "name": "a", "failed": 3},
            "TaskType": {"name": "a", "first_seen_at": NOW, "last_seen_at": NOW},
            "Feed": {"at": NOW, "data": {"connected": True}},
            "Gap": {"started_at": NOW, "reason": "x"},
            "ControlRecord": {"at": NOW, "username": "u", "role": "admin", "command": "revoke"},
        }
        for name, values in made.items():
            model = old.get_model("monitor", name)
            one = model.objects.create(**values)
            again = model.objects.get(pk=one.pk)
            assert {field: getattr(again, field) for field in values} == values, name
            again.save()
        assert old.get_model("monitor", "RateBucket").objects.aggregate(n=Sum("failed")) == {"n": 3}

    # On PostgreSQL the key of a task holds its day: an old engine is to be stopped before.
    def test_an_old_engine_on_sqlite_merges_tasks(self, old: Any) -> None:
        for state in ("STARTED", "SUCCESS"):
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO monitor_task (uuid, name, state, worker, queue, routing_key, exception_type,"
                    " first_seen_at, seen_at, retries, sender, signum, terminated, expired, known, note,"
                    " attempts, marks) VALUES ('t', 'a', %s, '', '', '', '', 1, 1, 0, '', '', 0, 0, 'seen',"
                    " '', '[]', '[]') ON CONFLICT (uuid) DO UPDATE SET state = excluded.state",
                    [state],
                )
        assert old.get_model("monitor", "Task").objects.get(uuid="t").state == "SUCCESS"


FILL = """
import django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader

def mark(n):
    return ["sent", "gen@h", 1, n, 0.5, 0.5, None]

call_command("migrate", "monitor", "0002_waiting", verbosity=0)
old = MigrationLoader(connection).project_state(("monitor", "0002_waiting")).apps
task, rate = old.get_model("monitor", "Task"), old.get_model("monitor", "RateBucket")
task.objects.bulk_create(
    task(uuid=f"t{n:04}", state="SUCCESS", first_seen_at=n, seen_at=n, root_id=f"t{n // 2 * 2:04}",
         marks=[mark(n)])
    for n in range(1000)
)
for start in (0, 60):
    rate.objects.create(width=60, start=start, name="a", failed=2)
    rate.objects.create(width=60, start=start, name="b", failed=3, succeeded=1)
    rate.objects.create(width=10, start=start, failed=5, succeeded=1)
call_command("migrate", verbosity=0)

from monitor import models
from monitor.records import TaskRecord
from monitor.store import Store

assert [t.marks for t in models.Task.objects.order_by("uuid")] == [[mark(n)] for n in range(1000)]
assert set(models.Task.objects.values_list("day", flat=True)) == {0}
kin = models.Task.objects.filter(models.NOT_ROOT, root_id="t0998").values_list("uuid", flat=True)
assert list(kin) == ["t0999"]
found = models.Rollup.objects.order_by("width", "by", "key", "start")
assert [(r.width, r.by, r.key, r.start, r.failed, r.succeeded, r.runtime) for r in found] == [
    (10, "all", "", 0, 5, 1, {}), (10, "all", "", 60, 5, 1, {}),
    (60, "all", "", 0, 5, 1, {}), (60, "all", "", 60, 5, 1, {}),
    (60, "name", "a", 0, 2, 0, {}), (60, "name", "a", 60, 2, 0, {}),
    (60, "name", "b", 0, 3, 1, {}), (60, "name", "b", 60, 3, 1, {}),
]
now = 1_790_000_000.0
store = Store(retention_days=36500)
store.prune(now)
# What was there is merged where it is, what is new goes where it belongs, and ids go on.
records = [TaskRecord(f"new{n}", first_seen_at=now, seen_at=now, day=20717) for n in range(20)]
loaded = store.load(["t0003"])
loaded[0].state = "FAILURE"
loaded[0].marks = []
store.write([*records, *loaded], now)
assert models.Task.objects.count() == 1020
assert models.Task.objects.get(uuid="t0003").state == "FAILURE"
assert models.Task.objects.values("id").distinct().count() == 1020
call_command("makemigrations", "monitor", check=True, dry_run=True, verbosity=0)
print("came through")
"""


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a product with a database of its own, of the kind that is tested."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    environment |= {"UMBEL_DATA": str(tmp_path), "DJANGO_SETTINGS_MODULE": "dashboard.settings"}
    environment["PYTHONPATH"] = str(ROOT)
    tmp_path.chmod(0o700)
    if connection.vendor == "sqlite":
        yield environment
        return
    import psycopg

    name = f"umbel_{uuid.uuid4().hex[:12]}"
    known = connection.settings_dict
    place = f"{known['USER']}@{known['HOST']}:{known['PORT']}"
    with psycopg.connect(f"postgresql://{place}/postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield environment | {"UMBEL_DATABASE": f"postgres://{place}/{name}"}
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_history_comes_through_the_migration(empty: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL], cwd=ROOT, env=empty, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("came through"), done.stdout + done.stderr
