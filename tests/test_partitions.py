"""Tasks on PostgreSQL: COPY and merge, a partition a day. ``test_postgresql`` runs these on a real server."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from django.db import DataError, connection, connections, transaction

from monitor import models
from monitor.records import Mark, TaskRecord
from monitor.store import DAY, Store, partitions, postgres, rows

pytestmark = pytest.mark.django_db
HERE = connection.vendor == "postgresql"  # else there is nothing to test

NOW = 1_790_000_000.0
TODAY = int(NOW // DAY)


def task(uuid: str, state: str = "SUCCESS", days: float = 0.0, **fields: object) -> TaskRecord:
    at = NOW - days * DAY
    known = {"first_seen_at": at, "seen_at": at, "state": state, "day": int(at // DAY)}
    return TaskRecord(uuid, **(known | fields))  # type: ignore[arg-type]


def write(store: Store, *records: TaskRecord, now: float = NOW) -> None:
    store.write(records, now)


def homes() -> dict[str, str]:
    """Where each task lives."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT uuid, tableoid::regclass::text FROM monitor_task")
        return dict(cursor.fetchall())


def copied(*batch: rows.Row) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        postgres.write_tasks(cursor, batch)


def upserted(*batch: rows.Row) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for row in batch:
            postgres.write_tasks(cursor, [row])


def stored() -> list[TaskRecord]:
    with connection.cursor() as cursor:
        cursor.execute(rows.select(models.Task, rows.TASK_COLUMNS, "ORDER BY uuid"))
        return [rows.task_of(row) for row in cursor.fetchall()]


def _key(record: TaskRecord) -> tuple[str, str, float]:
    return (record.uuid, record.state, record.seen_at)


NASTY = [
    'quote " and \\ backslash',
    "line\nbreak\r\nand\ttab \b \f \x01\x1f \x7f",
    "\\n \\\\n \\u0041 \\t \\.",
    "\\.\n\\.",
    "null",
    '"null"',
    "",
    ",",
    '"],\n["',
    "]\n[",
    "é 漢字 🌻 \u2028",
    "ends in \\",
]


class TestCopy:
    __test__ = HERE

    @pytest.mark.parametrize("column", ["args", "traceback", "name", "note"])
    def test_every_text_comes_back_as_it_was(self, column: str) -> None:
        records = [task(f"{n:02}", **{column: text}) for n, text in enumerate(NASTY)]
        copied(*map(rows.task_row, records))
        assert stored() == records

    def test_it_merges_as_upserts_do(self) -> None:
        rng = random.Random(11)
        choices: dict[str, list[object]] = {
            "name": ["", "shop.pay"], "queue": ["", "q"], "args": [None, "(1,)"], "sent_at": [None, 5.5],
            "root_id": [None, "r"], "first_seen_at": [NOW, NOW - 5], "seen_at": [NOW, NOW + 5],
            "result": [None, "'x'"], "state": ["STARTED", "SUCCESS"], "retries": [0, 2],
            "expired": [True, False], "runtime": [None, 0.1], "day": [TODAY], "sender": ["", "gen@h"],
            "marks": [[], [Mark("sent", "g", 1, 2, NOW, NOW, {"queue": 'a"b\n'})]],
        }  # fmt: skip
        batches = [
            [
                rows.task_row(
                    TaskRecord(f"t{n}", **{field: rng.choice(of) for field, of in choices.items()})  # type: ignore[arg-type]
                )
                for n in rng.sample(range(30), 20)
            ]
            for _ in range(6)
        ]
        for batch in batches:
            copied(*batch)
        by_copy = stored()
        models.Task.objects.all().delete()
        for batch in batches:
            upserted(*batch)
        assert by_copy == stored()

    def test_a_task_twice_in_a_batch_ends_as_its_last(self) -> None:
        batch = [task(f"t{n}") for n in range(20)]
        copied(*map(rows.task_row, [*batch, task("t3", "FAILURE"), task("t3", "LOST")]))
        assert {r.uuid: r.state for r in stored()}["t3"] == "LOST"
        assert len(stored()) == 20

    def test_a_value_the_database_refuses_costs_nothing_but_itself(self) -> None:
        batch = [task(f"t{n}") for n in range(20)]
        with pytest.raises(DataError):
            copied(*map(rows.task_row, [*batch, task("bad", args="n\0ul")]))
        store = Store()
        write(store, *batch, task("bad", args="n\0ul"), task("worse", args="\ud800"))
        assert len(stored()) == 22
        assert store.refused == 0

    def test_a_rolled_back_batch_leaves_nothing_behind_for_the_next(self) -> None:
        batch = list(map(rows.task_row, [task(f"t{n}") for n in range(20)]))
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            copied(*batch)
            raise ZeroDivisionError
        copied(*batch)
        copied(*batch)
        assert len(stored()) == 20


class TestDays:
    __test__ = HERE

    def test_today_and_the_next_days_have_their_partitions(self) -> None:
        assert partitions.prepare(NOW) == [TODAY, TODAY + 1, TODAY + 2]
        assert partitions.prepare(NOW) == []
        assert partitions.prepare(NOW + DAY) == [TODAY + 3]
        write(Store(), task("now"), task("old", days=40), task("no day", day=0), task("later", days=-9))
        assert homes() == {
            "now": "monitor_task_20260921",
            "old": "monitor_task_default",
            "no day": "monitor_task_default",
            "later": "monitor_task_default",
        }

    def test_what_came_before_its_partition_moves_in(self) -> None:
        store = Store()
        write(store, *(task(f"t{n}") for n in range(20)), task("old", days=3))
        ids = dict(models.Task.objects.values_list("uuid", "id"))
        partitions.prepare(NOW)
        assert set(homes().values()) == {"monitor_task_20260921", "monitor_task_default"}
        assert dict(models.Task.objects.values_list("uuid", "id")) == ids
        write(store, task("t3", "FAILURE"))
        assert {r.uuid: r.state for r in store.load(["t3", "old"])} == {"t3": "FAILURE", "old": "SUCCESS"}

    def test_a_day_past_its_time_goes_in_one_piece_and_what_must_stay_stays(self) -> None:
        store = Store(retention_days=14, retention_failures_days=90)
        past = NOW - 20 * DAY
        partitions.prepare(past)
        write(
            store,
            *(task(f"done {n}", days=20) for n in range(20)),
            task("failed", "FAILURE", 20),
            task("runs", "STARTED", 20),
            task("waits", "RECEIVED", 20, eta=NOW + 60),
            task("ended late", days=20, seen_at=NOW - 3 * DAY),
        )
        whole = set(map(_key, stored()))
        store.prune(NOW)
        assert homes() == dict.fromkeys(["failed", "runs", "waits", "ended late"], "monitor_task_default")
        assert set(map(_key, stored())) <= whole
        with connection.cursor() as cursor:
            assert partitions.days(cursor) == [TODAY, TODAY + 1, TODAY + 2]
        # They are merged where they are now.
        write(store, task("runs", "SUCCESS", 20, seen_at=NOW))
        assert homes()["runs"] == "monitor_task_default"
        store.prune(NOW + 15 * DAY)
        assert set(homes()) == {"failed"}

    def test_too_many_rows_cost_the_oldest_day(self) -> None:
        store = Store(retention_rows=25, retention_failures_days=90)
        for days in (3, 2, 1, 0):
            partitions.prepare(NOW - days * DAY)
            write(store, *(task(f"{days} {n}", days=days) for n in range(10)))
        write(store, task("failed", "FAILURE", 3))
        store.prune(NOW)
        # One row above would not be worth a day.
        assert {uuid[0] for uuid in homes()} == {"2", "1", "0", "f"}
        assert homes()["failed"] == "monitor_task_default"

    def test_a_single_day_with_too_many_rows_is_cut(self) -> None:
        store = Store(retention_rows=5)
        partitions.prepare(NOW)
        write(store, *(task(f"t{n}", seen_at=NOW + n) for n in range(20)))
        assert store.prune(NOW) == 15
        assert set(homes()) == {"t15", "t16", "t17", "t18", "t19"}

    def test_large_partitions_are_estimated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partitions, "COUNTED", 0)
        partitions.prepare(NOW)
        write(Store(), *(task(f"t{n}") for n in range(500)))
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE monitor_task")
            found = {part.day: part for part in partitions.partitions(cursor)}
        assert found[TODAY].count == pytest.approx(500, rel=0.1)
        assert not found[TODAY].exact
        assert found[TODAY].size > 0


@pytest.fixture
def reader() -> Iterator[threading.Event]:
    """Another connection that reads the table in a transaction until the event is set."""
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        try:
            with transaction.atomic():
                models.Task.objects.count()
                reading.set()
                done.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(10)
    yield done
    done.set()
    thread.join(10)


@pytest.mark.django_db(transaction=True)
class TestLocks:
    __test__ = HERE

    def test_who_reads_is_not_held_up_and_the_day_goes_later(
        self, reader: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(partitions, "LOCK_WAIT", "100ms")
        with pytest.raises(partitions.Busy, match="in use for 100ms"):
            partitions.prepare(NOW)
        write(Store(), *(task(f"t{n}") for n in range(20)))
        Store().prune(NOW)
        assert set(homes().values()) == {"monitor_task_default"}
        reader.set()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join(10)
        try:
            Store().prune(NOW)
            assert set(homes().values()) == {"monitor_task_20260921"}
        finally:
            with connection.cursor() as cursor:
                for day in partitions.days(cursor):
                    cursor.execute(f'DROP TABLE "{partitions.name_of(day)}"')
