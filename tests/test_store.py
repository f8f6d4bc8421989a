"""The history in the database."""

from __future__ import annotations

import msgspec
import pytest
from django.db import DatabaseError, connection

from monitor import models, rates
from monitor.deltas import Record
from monitor.records import (
    Attempt,
    FeedRecord,
    Gap,
    Mark,
    Rollup,
    TaskRecord,
    TaskType,
    WorkerRecord,
)
from monitor.store import DAY, Backlog, Store, pruning, rows, task_record, worker_record

NOW = 1_790_000_000.0


def task(uuid: str = "t1", **fields: object) -> TaskRecord:
    return TaskRecord(uuid, **({"first_seen_at": NOW, "seen_at": NOW, "state": "STARTED"} | fields))


def write(store: Store, *records: Record, now: float = NOW) -> None:
    store.write(records, now)


def full_task() -> TaskRecord:
    return task(
        name="shop.pay",
        state="RETRY",
        worker="a@h",
        queue="pay",
        routing_key="pay.now",
        args="(1,)",
        kwargs="{'a': '[hidden]'}",
        exception="KeyError('x')",
        exception_type="KeyError",
        traceback="Traceback …",
        sent_at=NOW - 3,
        received_at=NOW - 2,
        started_at=NOW - 1,
        eta=NOW + 60,
        expires=NOW + 600,
        runtime=0.25,
        wait=2.0,
        retries=1,
        root_id="r",
        parent_id="p",
        sender="gen1@h",
        terminated=True,
        attempts=[Attempt(0, worker="a@h", exception="KeyError('x')"), Attempt(1, eta=NOW + 60)],
        marks=[
            Mark("sent", "gen1@h", 7, 1, NOW - 3, NOW - 3, {"queue": "pay"}),
            Mark("retried", "a@h", 1, 5, NOW, NOW),
        ],
    )


def test_columns_are_the_fields_of_the_records() -> None:
    for record, model in rows._MODELS.items():
        columns = [f.attname for f in model._meta.get_fields() if f.name not in ("id", "writes")]
        assert set(columns) == set(record.__struct_fields__), model


@pytest.mark.django_db
class TestTasks:
    def test_a_task_comes_back_as_it_was_written(self) -> None:
        store, record = Store(), full_task()
        write(store, record)
        assert store.load(["t1", "unknown"]) == [record]
        assert task_record(models.Task.objects.get(uuid="t1")) == record

    def test_nothing_known_is_overwritten_by_unknown(self) -> None:
        store = Store()
        write(store, full_task())
        write(store, task(state="SUCCESS", first_seen_at=NOW + 9, seen_at=NOW + 9, result="3"))
        row = models.Task.objects.get()
        assert (row.name, row.args, row.queue, row.root_id, row.sender) == (
            "shop.pay",
            "(1,)",
            "pay",
            "r",
            "gen1@h",
        )
        assert (row.state, row.result, row.seen_at, row.first_seen_at) == ("SUCCESS", "3", NOW + 9, NOW)
        # What is not identity is the whole new record's word.
        assert (row.exception, row.eta, row.attempts) == (None, None, [])

    def test_what_is_learnt_later_fills_the_row(self) -> None:
        store = Store()
        write(store, task(state="SUCCESS"))
        write(store, full_task())
        assert models.Task.objects.get().name == "shop.pay"

    def test_many_more_than_a_chunk_are_loaded(self) -> None:
        store = Store()
        write(store, *(task(f"t{n}") for n in range(1_234)))
        assert len(store.load(f"t{n}" for n in range(2_000))) == 1_234

    def test_only_unfinished_tasks_are_open_newest_first(self) -> None:
        store = Store()
        write(store, task("a", seen_at=NOW - 5), task("b", state="SUCCESS"), task("c", state="PENDING"))
        write(store, task("d", state="LOST"), task("e", state="RETRY", seen_at=NOW - 9))
        assert [record.uuid for record in store.open_tasks()] == ["c", "a", "e"]
        assert len(store.open_tasks(1)) == 1

    @pytest.mark.parametrize(
        "bad",
        [
            {"args": "\ud800 lone"},
            {"name": "n\0ul" * 200},
            {"retries": 2**80},
            {"runtime": float("nan"), "first_seen_at": float("nan")},
            {"marks": [Mark("sent", "\udcff", 2**70, 1, float("inf"), 0.0, {"a": "\ud800"})]},
            {"attempts": [Attempt(2**66, exception="\ud800")]},
        ],
    )
    def test_a_value_the_database_refuses_does_not_stop_the_batch(self, bad: dict[str, object]) -> None:
        store = Store()
        write(store, task("good", name="x"), task("bad", **bad), task("c"))
        assert {r.uuid for r in store.load(["good", "bad", "c"])} == {"good", "bad", "c"}
        assert store.refused == 0

    def test_a_record_that_cannot_be_written_at_all_is_counted_and_costs_nothing_else(self) -> None:
        store = Store()
        write(store, task("good"), task("bad", state=None), Rollup(10, "all", "", 0, received=2))
        assert [r.uuid for r in store.load(["good", "bad"])] == ["good"]
        assert store.refused == 1
        assert models.Rollup.objects.get().received == 2


@pytest.mark.django_db
class TestOtherRecords:
    def test_a_worker_comes_back_as_it_was_written(self) -> None:
        record = WorkerRecord(
            "a@h",
            status="online",
            pid=3,
            queues=["celery"],
            load=[0.1, 0.2, 0.3],
            events_on=None,
            details={"stats": {"total": {"x": 1}}},
            processed=2**40,
        )
        store = Store()
        write(store, WorkerRecord("a@h", status="offline", is_beat=True))
        write(store, record)
        assert store.workers() == [record]
        assert worker_record(models.Worker.objects.get()) == record

    def test_counts_add_up(self) -> None:
        store = Store()
        for _ in range(3):
            write(
                store,
                Rollup(10, "all", "", 100, received=2, failed=1),
                Rollup(10, "name", "x", 100, succeeded=1),
            )
        everything, x = models.Rollup.objects.order_by("key")
        assert (everything.received, everything.failed, x.succeeded) == (6, 3, 3)

    def test_histograms_merge_and_their_percentiles_follow(self) -> None:
        store = Store()
        first, second = {}, {}
        for n in range(1, 51):
            rates.add(first, n / 10)
        for n in range(51, 101):
            rates.add(second, n / 10)
        write(store, TaskType("x", runs=50, failures=1, first_seen_at=NOW, last_seen_at=NOW, histogram=first))
        write(store, TaskType("x", runs=50, first_seen_at=NOW + 9, last_seen_at=NOW + 9, histogram=second))
        row = models.TaskType.objects.get()
        assert (row.runs, row.failures, row.first_seen_at, row.last_seen_at) == (100, 1, NOW, NOW + 9)
        assert row.p50 == pytest.approx(5.0, rel=0.06)
        assert row.p99 == pytest.approx(9.9, rel=0.06)
        assert sum(row.histogram.values()) == 100

    def test_a_gap_is_closed_in_its_own_row(self) -> None:
        store = Store()
        write(store, Gap(NOW, None, "broker gone"))
        assert store.open_gaps() == [Gap(NOW, None, "broker gone")]
        write(store, Gap(NOW, NOW + 5, "broker gone"))
        assert models.Gap.objects.get().ended_at == NOW + 5
        assert store.open_gaps() == []

    def test_the_feed_is_one_row(self) -> None:
        store = Store()
        store.write_feed(FeedRecord(connected=True), NOW)
        store.write_feed(FeedRecord(connected=False, error="gone"), NOW + 1)
        row = models.Feed.objects.get(pk=1)
        assert row.at == NOW + 1
        assert msgspec.convert(row.data, FeedRecord).error == "gone"


@pytest.mark.django_db
def test_a_failed_transaction_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    write(store, Rollup(10, "all", "", 100, received=1), TaskType("x", runs=1))
    monkeypatch.setattr(rows, "UPSERT_FEED", "INSERT INTO no_such_table VALUES (%s, %s, %s)")
    with pytest.raises(DatabaseError):
        write(store, task(), Rollup(10, "all", "", 100, received=1), TaskType("x", runs=1), FeedRecord())
    assert not models.Task.objects.exists()
    assert models.Rollup.objects.get().received == 1
    assert models.TaskType.objects.get().runs == 1
    monkeypatch.undo()
    write(store, task(), Rollup(10, "all", "", 100, received=1), TaskType("x", runs=1), FeedRecord())
    assert (models.Rollup.objects.get().received, models.TaskType.objects.get().runs) == (2, 2)


@pytest.mark.django_db
class TestRetention:
    def test_old_tasks_go_in_slices(self) -> None:
        store = Store(retention_days=1)
        write(store, *(task(f"old{n}", state="SUCCESS", seen_at=NOW - 2 * DAY) for n in range(1_500)))
        write(store, task("new", state="SUCCESS"))
        assert [store.prune(NOW), store.prune(NOW), store.prune(NOW)] == [1_000, 500, 0]
        assert [row.uuid for row in models.Task.objects.all()] == ["new"]

    def test_what_runs_or_waits_for_its_time_outlives_its_age(self) -> None:
        store = Store(retention_days=1)
        old = NOW - 2 * DAY
        write(
            store,
            task("runs", seen_at=old),
            task("eta", state="RECEIVED", seen_at=old, eta=NOW + DAY),
            task("past", state="RECEIVED", seen_at=old, eta=old),
        )
        store.prune(NOW)
        assert {row.uuid for row in models.Task.objects.all()} == {"runs", "eta"}

    def test_the_oldest_go_when_there_are_too_many(self) -> None:
        store = Store(retention_rows=2)
        write(store, *(task(f"t{n}", seen_at=NOW + n) for n in range(5)))
        assert store.prune(NOW) == 3
        assert {row.uuid for row in models.Task.objects.all()} == {"t3", "t4"}

    def test_counts_are_kept_as_long_as_their_width_says(self) -> None:
        store = Store()
        hour = 3600
        write(
            store,
            Rollup(10, "all", "", int(NOW - 27 * hour)),
            Rollup(10, "all", "", int(NOW - 25 * hour)),
            Rollup(60, "name", "x", int(NOW - 27 * hour)),
            Rollup(60, "name", "x", int(NOW - 32 * DAY)),
        )
        store.prune(NOW)
        assert sorted((r.width, int(NOW - r.start) // hour) for r in models.Rollup.objects.all()) == [
            (10, 25),
            (60, 27),
        ]

    def test_control_records_stay_for_a_year(self) -> None:
        for days in (20, 364, 366):
            models.ControlRecord.objects.create(
                at=NOW - days * DAY, username="a", role="operator", command="revoke"
            )
        Store(retention_days=1, retention_rows=0).prune(NOW)
        assert models.ControlRecord.objects.count() == 2
        Store(retention_days=10).prune(NOW)
        assert models.ControlRecord.objects.count() == 2

    def test_a_worker_long_gone_is_forgotten_but_not_one_that_lives(self) -> None:
        store = Store(retention_days=1)
        write(
            store,
            WorkerRecord("gone@h", status="offline", heartbeat_at=NOW - 2 * DAY),
            WorkerRecord("here@h", status="online", heartbeat_at=NOW - 2 * DAY),
        )
        store.prune(NOW)
        assert [w.hostname for w in store.workers()] == ["here@h"]


class TestBacklog:
    def test_the_last_whole_record_wins_and_increments_add_up(self) -> None:
        backlog = Backlog()
        backlog.add([task(state="RECEIVED"), Rollup(10, "all", "", 0, received=1)])
        backlog.add([task(state="SUCCESS"), Rollup(10, "all", "", 0, received=2, failed=1)])
        backlog.add([TaskType("x", runs=1, histogram={1: 1}), TaskType("x", runs=2, histogram={1: 2})])
        records = {type(d): d for d in backlog.take()}
        assert records[TaskRecord].state == "SUCCESS"
        assert (records[Rollup].received, records[Rollup].failed) == (3, 1)
        assert (records[TaskType].runs, records[TaskType].histogram) == (3, {1: 3})

    def test_a_batch_that_failed_waits_under_what_came_since(self) -> None:
        backlog = Backlog()
        backlog.add(
            [
                task("a", state="RECEIVED"),
                task("b"),
                Rollup(10, "all", "", 0, received=1),
            ]
        )
        assert len(backlog.take()) == 3
        backlog.add([task("a", state="SUCCESS"), Rollup(10, "all", "", 0, received=1)])
        assert backlog.tasks(["a", "b", "c"]).keys() == {"a", "b"}
        assert backlog.tasks(["a"])["a"].state == "SUCCESS"
        backlog.put_back()
        assert len(backlog) == 3
        records = backlog.take()
        assert [r.received for r in records if isinstance(r, Rollup)] == [2]
        assert [r.state for r in records if isinstance(r, TaskRecord)] == ["SUCCESS", "STARTED"]

    def test_what_was_written_is_gone(self) -> None:
        backlog = Backlog()
        backlog.add([task("a")])
        backlog.take()
        backlog.done()
        assert (len(backlog), backlog.take(), backlog.tasks(["a"])) == (0, [], {})

    def test_past_its_bound_the_oldest_task_is_let_go_and_counted(self) -> None:
        backlog = Backlog(limit=3)
        backlog.add([WorkerRecord("a@h"), *(task(f"t{n}") for n in range(5))])
        assert (len(backlog), backlog.let_go) == (3, 3)
        kept = backlog.take()
        assert [getattr(r, "uuid", "worker") for r in kept] == ["worker", "t3", "t4"]

    def test_a_batch_is_never_larger_than_asked(self) -> None:
        backlog = Backlog()
        backlog.add(task(f"t{n}") for n in range(10))
        assert len(backlog.take(4)) == 4
        backlog.done()
        assert len(backlog.take(100)) == 6


@pytest.mark.django_db
def test_sqlite_is_opened_with_our_pragmas() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite only")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        assert cursor.fetchone()[0] == 1


@pytest.mark.django_db
def test_names_made_up_on_the_broker_do_not_fill_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = [(model, oldest, 3) for model, oldest, _ in pruning.MOST_ROWS]
    monkeypatch.setattr(pruning, "MOST_ROWS", bounds)
    store = Store()
    for n in range(5):
        write(
            store,
            TaskType(name=f"made.up.{n}", first_seen_at=NOW, last_seen_at=NOW - n),
            Rollup(60, "name", f"made.up.{n}", int(NOW) - 60 * n),
            WorkerRecord(f"w{n}@x", status="offline", first_seen_at=NOW - n, heartbeat_at=NOW - n),
            WorkerRecord(f"here{n}@x", status="online", first_seen_at=NOW, heartbeat_at=NOW),
        )
    while store.prune(NOW):
        pass
    names = models.TaskType.objects.order_by("name").values_list("name", flat=True)
    assert list(names) == ["made.up.0", "made.up.1", "made.up.2"]
    assert models.Rollup.objects.count() == 3
    assert models.Worker.objects.filter(status="offline").count() == 0
    assert models.Worker.objects.filter(status="online").count() == 5
