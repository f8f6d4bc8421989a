"""What goes from history, and what is kept in its place."""

from __future__ import annotations

import random

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from monitor import models
from monitor.deltas import Record
from monitor.records import Rollup, TaskRecord
from monitor.store import DAY, Store, partitions, pruning, rollups, sizes

NOW = 1_790_000_000.0
HOUR = 3600
MIDNIGHT = int(NOW // 86_400) * 86_400


def task(uuid: str, state: str = "SUCCESS", days: float = 0.0, **fields: object) -> TaskRecord:
    at = NOW - days * DAY
    return TaskRecord(uuid, **({"first_seen_at": at, "seen_at": at, "state": state} | fields))  # type: ignore[arg-type]


def write(store: Store, *records: Record) -> None:
    store.write(records, NOW)


def left() -> set[str]:
    return set(models.Task.objects.values_list("uuid", flat=True))


@pytest.mark.django_db
class TestTasks:
    def test_failures_and_lost_tasks_outlive_the_rest(self) -> None:
        store = Store(retention_days=14, retention_failures_days=90)
        for state in ("SUCCESS", "FAILURE", "LOST", "REVOKED", "RETRY"):
            write(store, task(f"{state} 15", state, 15), task(f"{state} 91", state, 91))
        store.prune(NOW)
        assert left() == {"FAILURE 15", "LOST 15"}

    def test_failures_never_go_before_the_rest(self) -> None:
        store = Store(retention_days=14, retention_failures_days=1)
        write(store, task("failed", "FAILURE", 13), task("done", days=13), task("old", "FAILURE", 15))
        store.prune(NOW)
        assert left() == {"failed", "done"}

    def test_past_the_count_ages_weigh_as_much_as_the_time_a_task_is_kept(self) -> None:
        store = Store(retention_days=10, retention_rows=4, retention_failures_days=100)
        write(
            store,
            # A failure of twenty days is at a fifth of its time, a success of three at nearly a third.
            *(task(f"failed {days}", "FAILURE", days) for days in (0.5, 20, 40)),
            *(task(f"done {days}", days=days) for days in (1, 3, 5)),
        )
        assert store.prune(NOW) == 2
        assert left() == {"failed 0.5", "failed 20", "done 1", "done 3"}

    def test_a_storm_of_failures_does_not_drive_all_else_out(self) -> None:
        store = Store(retention_days=10, retention_rows=20, retention_failures_days=90)
        write(store, *(task(f"failed {n}", "FAILURE", 1 + n / 1000) for n in range(100)))
        write(store, *(task(f"done {n}", days=n / 100) for n in range(10)))
        store.prune(NOW)
        assert len(left()) == 20
        assert {f"done {n}" for n in range(10)} <= left()

    def test_a_count_that_takes_long_is_taken_seldom_and_never_too_high(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pruning, "AT_ONCE", 0.0)
        monkeypatch.setattr(pruning, "COUNTING", 1e-9)
        store = Store(retention_rows=5)
        write(store, *(task(f"early {n}", days=1) for n in range(8)))
        store.prune(NOW)
        assert len(left()) == 5
        write(store, *(task(f"late {n}") for n in range(3)), task("late 0", note="an update"))
        with CaptureQueriesContext(connection) as queries:
            store.prune(NOW)
        if not partitions.partitioned():  # which keep their own statistics
            assert not [
                q for q in queries if "COUNT(*)" in q["sql"] and models.Task._meta.db_table in q["sql"]
            ]
            assert len(left()) == 8
        Store(retention_rows=5).prune(NOW)
        assert len(left()) == 5
        assert {"late 0", "late 1", "late 2"} <= left()


def made_up(rng: random.Random, start: int) -> Rollup:
    by = rng.choice(["all", "name", "worker", "queue"])
    counts = {name: rng.randrange(5) for name in rollups.COUNTS}
    histograms = {name: {rng.randrange(-9, 9): rng.randrange(1, 9)} for name in ("runtime", "wait")}
    return Rollup(60, by, "" if by == "all" else rng.choice("ab"), start, **counts, **histograms)


def held(width: int) -> dict[tuple[str, str, int], tuple[object, ...]]:
    names = (*rollups.COUNTS, "runtime", "wait")
    found = models.Rollup.objects.filter(width=width).values_list("by", "key", "start", *names)
    return {tuple(row[:3]): tuple(row[3:]) for row in found}


def widen(now: float = NOW) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        return rollups.widen(cursor, now)


@pytest.mark.django_db
class TestRollups:
    def test_hours_and_days_are_the_sums_of_their_minutes(self) -> None:
        rng = random.Random(3)
        yesterday = MIDNIGHT - 86_400
        minutes = [made_up(rng, yesterday + 60 * rng.randrange(1440)) for _ in range(600)]
        write(Store(), *rollups.coalesced([*minutes, *(Rollup(60, "all", "", m.start, 1) for m in minutes)]))
        while widen():
            pass
        expected = {}
        for width in (3600, 86_400):
            moved = [
                Rollup(width, by, key, start - start % width, *row[:8], *map(_numbered, row[8:]))
                for (by, key, start), row in held(60).items()
            ]
            expected[width] = {
                (r.by, r.key, r.start): (
                    *(getattr(r, name) for name in rollups.COUNTS),
                    _lettered(r.runtime),
                    _lettered(r.wait),
                )
                for r in rollups.coalesced(moved)
            }
        assert held(3600) == expected[3600]
        assert held(86_400) == expected[86_400]

    def test_what_is_not_over_waits_and_what_came_late_is_added(self) -> None:
        store = Store()
        hour = int(NOW // HOUR) * HOUR
        write(store, Rollup(60, "all", "", hour, 7), Rollup(60, "all", "", hour - 60, 5))
        assert (widen(), widen()) == (1, 0)
        write(store, Rollup(60, "all", "", hour - 120, 1), Rollup(60, "name", "a", hour - 120, 1))
        assert (widen(), widen()) == (1, 0)
        assert {key: row[0] for key, row in held(3600).items()} == {
            ("all", "", hour - HOUR): 6,
            ("name", "a", hour - HOUR): 1,
        }

    def test_each_width_has_its_time(self) -> None:
        store = Store()
        for width, kept in rollups.KEPT_SECONDS.items():
            for age in (kept + 2 * width, kept - 2 * width):
                write(store, Rollup(width, "queue", "a", int(NOW - age) // width * width))
        store.prune(NOW)
        assert models.Rollup.objects.count() == len(rollups.KEPT_SECONDS)
        assert rollups.KEPT_SECONDS[3600] >= 366 * 86_400


@pytest.mark.django_db
def test_a_control_record_goes_with_what_it_sent_and_never_before_a_revoke_that_names_it() -> None:
    store = Store()

    def record(days: float) -> models.ControlRecord:
        return models.ControlRecord.objects.create(
            at=NOW - days * DAY, username="a", role="admin", command="send_task"
        )

    old, named, young = record(400), record(400), record(300)
    for one in (old, young):
        models.SentTask.objects.create(uuid=f"t{one.at}", record=one, at=one.at)
        models.StandingRevoke.objects.create(uuid=f"r{one.at}", record=one, since=one.at)
        models.StandingStamp.objects.create(
            header="x", value=f"{one.at}", record=one, since=one.at, until=one.at + DAY
        )
        for ended_at in (one.at, None):
            models.Ladder.objects.create(
                uuid=f"t{one.at}{ended_at}", wait=10, since=one.at, due_at=one.at, ended_at=ended_at
            )
    models.StandingRevoke.objects.create(uuid="later", record=named, since=NOW - DAY)
    still = record(400)
    models.StandingStamp.objects.create(
        header="x", value="still", record=still, since=NOW - 400 * DAY, until=NOW + DAY
    )
    store.prune(NOW)
    assert set(models.ControlRecord.objects.all()) == {named, young, still}
    assert models.StandingStamp.objects.count() == 2
    # Steps that are over go too; those of a task that is still being ended stay.
    assert models.Ladder.objects.filter(ended_at=None).count() == 2
    assert models.Ladder.objects.exclude(ended_at=None).get().ended_at == young.at
    assert models.SentTask.objects.get().record == young
    assert models.StandingRevoke.objects.count() == 2


def _numbered(histogram: object) -> dict[int, int]:
    assert isinstance(histogram, dict)
    return {int(bucket): count for bucket, count in histogram.items()}


def _lettered(histogram: dict[int, int]) -> dict[str, int]:
    return {str(bucket): count for bucket, count in histogram.items()}


@pytest.mark.django_db
class TestSizes:
    def test_it_says_what_is_there_and_what_goes_next(self) -> None:
        store = Store(retention_days=14, retention_rows=1, retention_failures_days=90)
        write(store, task("done", days=10), task("past", days=20), task("failed", "FAILURE", 20))
        write(store, task("runs", "STARTED", 400), Rollup(60, "all", "", int(NOW) - 60, 1))
        models.ControlRecord.objects.create(at=NOW - DAY, username="a", role="admin", command="revoke")
        found = sizes.sizes(store.retention, NOW)
        tables = {table.name: table for table in found.tables}
        assert (tables["tasks"].rows, tables["tasks"].exact) == (4, True)
        assert tables["tasks"].oldest == NOW - 400 * DAY
        assert tables["gaps"].oldest is None
        assert found.total > 10_000
        assert found.vendor.split()[0] in ("SQLite", "PostgreSQL")
        removals = {removal.what: removal for removal in found.removals}
        assert (removals["tasks"].due, removals["tasks"].next_at) == (1, NOW - 6 * DAY)
        assert (removals["failed and lost tasks"].due, removals["tasks past the count"].due) == (0, 3)
        assert removals["failed and lost tasks"].next_at == NOW + 70 * DAY
        assert removals["control records"].next_at == NOW + 364 * DAY
        assert "14 days" in removals["tasks"].rule
        assert removals["counts per minute"].kept == 8 * DAY

    def test_a_large_table_is_estimated_from_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store()
        write(store, *(task(f"t{n}", days=1 - n / 900) for n in range(900)))
        # Updates use up ids, and what went leaves holes.
        write(store, *(task(f"t{n}", "FAILURE") for n in range(900)))
        write(store, *(task(f"u{n}") for n in range(400)))
        models.Task.objects.filter(uuid__startswith="t1").delete()
        count = models.Task.objects.count()
        if partitions.partitioned():
            monkeypatch.setattr(partitions, "COUNTED", 0)
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE monitor_task")
        monkeypatch.setattr(sizes, "COUNTED", 10)
        monkeypatch.setattr(sizes, "SAMPLE", 20)
        table = sizes.sizes(store.retention, NOW).tables[0]
        assert not table.exact
        assert table.rows == pytest.approx(count, rel=0.3)
