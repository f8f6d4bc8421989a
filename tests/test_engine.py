"""The engine over a source that the test speaks through, and a real database: what comes in is kept."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from bench.report import rss
from monitor import engine as engine_module
from monitor import models
from monitor.deltas import Record
from monitor.engine import parts
from monitor.engine.rounds import CUT_AT, listed
from monitor.engine.writer import Writer
from monitor.records import Rollup, TaskRecord
from monitor.redact import DEFAULT
from monitor.store import Backlog
from tests.conftest import wait_until
from tests.spoken import HOST, Watch, answer, event, feed, heartbeat, life, state_of, until_state
from tests.spoken import watch as watch


class TestWriter:
    def test_what_waits_to_be_written_is_newer_than_what_is_stored(self) -> None:
        old, new = TaskRecord("a", state="STARTED"), TaskRecord("a", state="SUCCESS")
        store = SimpleNamespace(load=lambda uuids: [old, TaskRecord("b")])
        backlog = Backlog()
        backlog.add([new])
        loaded = asyncio.run(Writer(store, backlog, DEFAULT).load(["a", "b"]))  # type: ignore[arg-type]
        assert loaded is not None
        assert {r.uuid: r.state for r in loaded} == {"a": "SUCCESS", "b": "PENDING"}

    def test_a_failed_write_keeps_the_batch_waits_and_tries_again(self) -> None:
        written: list[Any] = []
        faults = [sqlite3.OperationalError("password=hunter2 disk full")]

        def write(batch: list[Record], now: float) -> None:
            if faults:
                raise faults.pop()
            written.extend(batch)

        backlog = Backlog()
        writer = Writer(SimpleNamespace(write=write, doubtful=""), backlog, DEFAULT)  # type: ignore[arg-type]

        async def story() -> None:
            backlog.add([Rollup(10, "all", "", 0, received=1), TaskRecord("a")])
            assert await writer.flush(0.0) == []
            assert (writer.failures, len(backlog)) == (1, 2)
            assert "OperationalError" in writer.error
            assert "hunter2" not in writer.error
            backlog.add([Rollup(10, "all", "", 0, received=1)])
            assert await writer.flush(0.0) == []  # not yet
            async with asyncio.timeout(15):
                while not await writer.flush(0.0):
                    await asyncio.sleep(0.01)
            assert (writer.failures, writer.error, len(backlog)) == (1, "", 0)

        asyncio.run(story())
        assert [r.received for r in written if isinstance(r, Rollup)] == [2]


def test_lists_that_may_be_cut_say_nothing_of_absence() -> None:
    assert listed(answer(active=[{"id": "a"}], scheduled=[{"eta": "", "request": {"id": "b"}}])) == {"a", "b"}
    assert listed(answer(active=None)) is None
    assert listed(answer(reserved=[{"id": str(n)} for n in range(CUT_AT)])) is None


class TestFlow:
    def test_tasks_end_up_in_the_database(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        on.source.say(heartbeat(kind="worker-online"), *life("a", "started", "succeeded"), malformed=2)
        on.source.say(*life("b", "started"))
        until_state("a", "SUCCESS")
        row = until_state("b", "STARTED")
        assert (row.name, row.worker, row.args) == ("shop.pay", HOST, "(1,)")
        wait_until(lambda: feed().accounting.received >= 8)
        assert feed().accounting.balanced
        assert feed().accounting.malformed == 2
        assert feed().connected
        assert feed().broker == "redis://:[hidden]@h/0"
        assert models.Worker.objects.get().status == "online"
        assert {"tasks", "task:a", "workers", f"worker:{HOST}", "feed"} <= set().union(*on.told)

    def test_what_is_told_can_be_read(self, watch: Callable[..., Watch]) -> None:
        """Store before publish."""
        missing: list[str] = []

        class Reader(Watch):
            def tell(self, topics: Iterable[str]) -> None:
                super().tell(topics)
                reader = sqlite3.connect(connection.settings_dict["NAME"])
                for topic in topics:
                    if topic.startswith("task:"):
                        query = "SELECT 1 FROM monitor_task WHERE uuid = ?"
                        if not reader.execute(query, [topic[5:]]).fetchone():
                            missing.append(topic)
                reader.close()

        if connection.vendor != "sqlite":
            pytest.skip("reads the SQLite file")
        on = Reader().start()
        try:
            for n in range(200):
                on.source.say(*life(f"t{n}", "started", "succeeded"))
            wait_until(lambda: models.Task.objects.filter(state="SUCCESS").count() == 200)
        finally:
            assert on.engine.stop()
        assert not missing
        assert sum(t.startswith("task:") for told in on.told for t in told) >= 200

    def test_a_late_event_of_a_task_from_another_run_lands_in_its_row(
        self, watch: Callable[..., Watch]
    ) -> None:
        first = watch()
        received, started, succeeded = life("a", "started", "succeeded")
        first.source.say(received, started)
        until_state("a", "STARTED")
        first.engine.stop()
        models.Task.objects.update(state="SUCCESS")  # as if it had ended: it is not restored
        second = watch()
        second.source.say(succeeded, started)
        wait_until(lambda: second.engine.cluster.accounting.received == 2)
        row = wait_until(lambda: models.Task.objects.filter(uuid="a", ended_at__isnull=False).first())
        assert (row.name, row.state, len(row.marks)) == ("shop.pay", "SUCCESS", 3)

    def test_words_are_indexed_while_tasks_come_all_the_time(
        self, watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "HOLD_FROM", -1.0)  # quick tasks wait for their ends
        monkeypatch.setattr(engine_module, "INDEX_BEHIND", 0.1)
        on = watch()
        numbers = itertools.count()

        def indexed() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SELECT place FROM monitor_searchmark")
                row = cursor.fetchone()
            return int(row[0]) if row else 0

        def goes_on() -> bool:
            number = next(numbers)
            on.source.say(*life(f"begun-{number}"))
            on.source.say(*life(f"ended-{number}", "started", "succeeded"))
            return on.engine.cluster.waiting > 0 and indexed() > 0

        wait_until(goes_on, 30)

    def test_stop_writes_what_was_heard(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        for n in range(3_000):
            on.source.say(*life(f"t{n}", "started", "succeeded"))
        assert on.engine.stop(20)
        assert models.Task.objects.filter(state="SUCCESS").count() == 3_000
        assert on.engine.unsaved == 0
        assert not [t for t in threading.enumerate() if t.name.startswith("umbel-writer")]

    def test_more_than_it_can_hold_is_counted_as_dropped(self, watch: Callable[..., Watch]) -> None:
        on = watch(intake_limit=10)
        on.source.say(*life("a", *["started"] * 50))
        on.source.say(*life("b", "started"))
        until_state("b", "STARTED")
        wait_until(lambda: feed().accounting.dropped == 51)
        assert feed().accounting.balanced

    def test_an_event_that_breaks_something_costs_only_itself(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        broken = event("task-received", "broken", name="shop.pay")
        broken.hostname = ["no text"]  # type: ignore[assignment]
        on.source.say(*life("a"), broken, *life("b", "started"))
        until_state("b", "STARTED")
        until_state("a", "RECEIVED")
        wait_until(lambda: feed().accounting.received == 4)
        account = feed().accounting
        assert (account.applied, account.dropped, account.balanced) == (3, 1, True)
        assert on.engine.crashes == {"apply": 1}

    def test_an_error_in_a_part_is_counted_and_shown_and_the_part_runs_again(
        self, watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on = watch()
        tick = on.engine.cluster.tick
        faults = [RuntimeError("oh")]

        def broken(now: float) -> None:
            if faults:
                raise faults.pop()
            tick(now)

        monkeypatch.setattr(on.engine.cluster, "tick", broken)
        wait_until(lambda: on.engine.crashes == {"tick": 1})
        wait_until(lambda: feed().limits.get("tick restarted") == 1)
        on.source.say(*life("a"))
        until_state("a", "RECEIVED")


@pytest.mark.skipif(connection.vendor != "sqlite", reason="locks the SQLite file")
def test_while_the_database_is_locked_the_batch_waits_and_is_told_of(watch: Callable[..., Watch]) -> None:
    on = watch()
    on.source.say(*life("a"))
    until_state("a", "RECEIVED")
    holder = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    on.source.say(*life("b", "started", "succeeded"))
    try:
        wait_until(lambda: on.engine.feed.store_error, timeout=15)
        assert "locked" in on.engine.feed.store_error
        assert on.engine.feed.store_pending >= 1
        assert state_of("b") is None
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    until_state("b", "SUCCESS", timeout=20)
    wait_until(lambda: feed().store_failures >= 1 and not feed().store_error)


def test_freed_memory_goes_back_to_the_system() -> None:
    held = [bytes(100_000) for _ in range(500)]
    keep = held[::50]  # holes, not an end that goes back by itself
    del held
    before = rss(os.getpid())
    assert parts.give_back() or sys.platform != "linux"
    assert rss(os.getpid()) <= before and keep
