"""The engine over a source that the test speaks through, and a real database."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from django.db import connection

from bench.report import rss
from monitor import engine as engine_module
from monitor import models
from monitor.deltas import Record
from monitor.engine import Engine, Options, parts
from monitor.engine.rounds import CUT_AT, listed
from monitor.engine.writer import Writer
from monitor.events import Decoded, Event, event_from_dict
from monitor.records import FeedRecord, Inspection, Rollup, Settled, TaskRecord
from monitor.redact import DEFAULT
from monitor.store import Backlog, Store
from tests.conftest import never, wait_until

HOST = "w1@here"
clocks = itertools.count(1)


def event(kind: str, uuid: str = "", host: str = HOST, **fields: Any) -> Event:
    base = {"type": kind, "hostname": host, "pid": 7, "clock": next(clocks), "timestamp": time.time()}
    return event_from_dict({"uuid": uuid, **base, **fields} if uuid else base | fields)


def heartbeat(host: str = HOST, kind: str = "worker-heartbeat", **fields: Any) -> Event:
    return event(kind, host=host, freq=2.0, active=0, processed=0, **fields)


def life(uuid: str, *ends: str, name: str = "shop.pay") -> list[Event]:
    begin = [event("task-received", uuid, name=name, args="(1,)", kwargs="{}", retries=0)]
    return begin + [event(f"task-{end}", uuid) for end in ends]


class Spoken:
    """A source that says what the test tells it to."""

    def __init__(self) -> None:
        self.ready = threading.Event()

    async def run(self, on_message: Callable[..., None], on_state: Callable[..., None]) -> None:
        self._loop, self._message, self._state = asyncio.get_running_loop(), on_message, on_state
        self._stopped = asyncio.Event()
        on_state(True, "")
        self.ready.set()
        await self._stopped.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    def say(self, *events: Event, malformed: int = 0) -> None:
        decoded = Decoded(events=list(events), malformed=malformed, reasons=["not JSON"] * malformed)
        self._loop.call_soon_threadsafe(self._message, decoded, time.time())

    def state(self, connected: bool, reason: str = "") -> None:
        self._loop.call_soon_threadsafe(self._state, connected, reason)


class Workers:
    """The way to workers that answer what the test tells them to."""

    def __init__(self) -> None:
        self.answers: dict[str, Inspection] = {}
        self.beats: list[str] = []
        self.asked: list[tuple[str, bool]] = []

    def inspect_worker(self, hostname: str, timeout: float = 2.0, full: bool = False) -> Inspection | None:
        self.asked.append((hostname, full))
        answer = self.answers.get(hostname)
        return None if answer is None else msgspec.structs.replace(answer, asked_at=time.time())

    def answering(self, hostnames: Sequence[str], timeout: float = 1.0) -> set[str]:
        self.asked += [(name, False) for name in hostnames if name not in self.answers]
        return {name for name in hostnames if name in self.answers}

    def discover(self, timeout: float = 1.5) -> list[tuple[str, bool]]:
        return [(name, False) for name in self.answers] + [(name, True) for name in self.beats]


def answer(host: str = HOST, **lists: Any) -> Inspection:
    known: dict[str, Any] = {"stats": {"pid": 7, "pool": {"implementation": "prefork", "processes": [1, 2]}}}
    known |= {"active": [], "reserved": [], "scheduled": [], "revoked": [], "active_queues": []}
    return Inspection(host, 0.0, **(known | lists))


class Watch:
    """A running engine and all that the test may do to it."""

    def __init__(self, **options: Any) -> None:
        self.source, self.workers = Spoken(), Workers()
        self.results: dict[str, Settled] = {}
        self.told: list[set[str]] = []
        self.broker = SimpleNamespace(
            shown="redis://:[hidden]@h/0",
            transport="redis",
            read_results=lambda uuids: [self.results[u] for u in uuids if u in self.results],
        )
        self.options = {"store": Store(), "inspect_every": 0.3, "end_grace": 0.5} | options

    def start(self) -> Watch:
        self.engine = Engine(
            Options(
                broker=self.broker,  # type: ignore[arg-type]
                source=self.source,
                ask=self.workers,
                publish=self.tell,
                **self.options,
            )
        )
        self.engine.start()
        assert self.source.ready.wait(30)
        return self

    def tell(self, topics: Iterable[str]) -> None:
        self.told.append(set(topics))


@pytest.fixture
def watch(transactional_db: None) -> Iterator[Callable[..., Watch]]:
    started: list[Watch] = []

    def start(**options: Any) -> Watch:
        started.append(Watch(**options))
        return started[-1].start()

    yield start
    for one in started:
        assert one.engine.stop(20), "the engine did not stop"


def state_of(uuid: str) -> str | None:
    return models.Task.objects.filter(uuid=uuid).values_list("state", flat=True).first()


def feed() -> FeedRecord:
    row = models.Feed.objects.filter(pk=1).first()
    return msgspec.convert(row.data, FeedRecord) if row else FeedRecord()


def until_state(uuid: str, state: str, timeout: float = 10.0) -> models.Task:
    wait_until(lambda: state_of(uuid) == state, timeout, what=f"{uuid} {state} (is {state_of(uuid)})")
    return models.Task.objects.get(uuid=uuid)


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


class TestConnection:
    def test_a_gap_is_recorded_and_workers_are_unknown_not_offline(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        on.source.say(heartbeat(kind="worker-online"))
        wait_until(lambda: models.Worker.objects.filter(status="online").exists())
        on.source.state(False, "connection refused")
        wait_until(lambda: models.Worker.objects.filter(status="unknown").exists())
        wait_until(lambda: not feed().connected)
        assert "refused" in feed().error
        assert models.Gap.objects.get().ended_at is None
        on.workers.answers[HOST] = answer()
        on.workers.asked.clear()
        on.source.state(True)
        wait_until(lambda: models.Gap.objects.filter(ended_at__isnull=False).exists())
        wait_until(lambda: (HOST, True) in on.workers.asked, what="a thorough look after the gap")
        wait_until(lambda: feed().connected)

    def test_the_time_without_umbel_is_a_gap(self, watch: Callable[..., Watch]) -> None:
        watch().engine.stop()
        models.Gap.objects.create(started_at=5.0, reason="left open")
        models.Feed.objects.update(at=time.time() - 60)
        watch()
        wait_until(lambda: models.Gap.objects.filter(ended_at__isnull=False).count() == 2)
        assert models.Gap.objects.latest("started_at").reason == "Umbel was not running"


class TestRounds:
    def test_a_new_worker_is_looked_at_thoroughly_and_then_lightly(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        on.workers.answers[HOST] = answer()
        on.source.say(heartbeat(kind="worker-online"))
        wait_until(lambda: (HOST, False) in on.workers.asked)
        assert on.workers.asked[0] == (HOST, True)
        wait_until(lambda: models.Worker.objects.filter(size=2, pool__contains="prefork").exists())

    def test_a_silent_worker_is_not_asked_all_the_time(self, watch: Callable[..., Watch]) -> None:
        on = watch()
        on.source.say(heartbeat(kind="worker-online"))
        wait_until(lambda: on.workers.asked)
        wait_until(lambda: feed().last_event_at)
        never(lambda: len(on.workers.asked) > 1, 1.0)

    def test_beat_is_shown_as_beat(self, watch: Callable[..., Watch]) -> None:
        on = Watch()
        on.workers.beats.append("beat@here")
        on.start()
        try:
            wait_until(lambda: models.Worker.objects.filter(hostname="beat@here", is_beat=True).exists())
            assert ("beat@here", True) not in on.workers.asked
        finally:
            on.engine.stop()

    def test_running_tasks_are_rebuilt_from_what_workers_say(self, watch: Callable[..., Watch]) -> None:
        on = Watch()
        on.workers.answers[HOST] = answer(
            active=[{"id": "runs", "name": "shop.pay", "args": "[1]", "time_start": time.time() - 5}],
            scheduled=[{"eta": "2030-01-01T00:00:00+00:00", "request": {"id": "eta", "name": "shop.mail"}}],
        )
        on.start()
        try:
            until_state("runs", "STARTED")
            assert until_state("eta", "RECEIVED").eta
        finally:
            on.engine.stop()

    def test_a_running_task_that_is_nowhere_ends_as_end_not_seen(
        self, watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("monitor.engine.ends.QUIET", 0.2)
        monkeypatch.setattr("monitor.engine.SETTLE_EVERY", 0.2)
        on = watch()
        on.workers.answers[HOST] = answer(active=[{"id": "here", "name": "x"}])
        on.source.say(
            heartbeat(kind="worker-online"),
            *life("gone", "started"),
            *life("here", "started"),
            *life("read", "started"),
        )
        on.results["read"] = Settled("read", "FAILURE", exception="KeyError('x')", ended_at=time.time())
        assert until_state("read", "FAILURE").known == "inferred"
        row = until_state("gone", "LOST", timeout=15)
        assert (row.note, row.known) == ("end not seen", "inferred")
        assert state_of("here") == "STARTED"

    def test_a_running_task_of_a_worker_that_never_came_back_ends_too(
        self, watch: Callable[..., Watch]
    ) -> None:
        first = watch()
        first.source.say(heartbeat(kind="worker-online"), *life("runs", "started"), *life("held"))
        until_state("runs", "STARTED")
        until_state("held", "RECEIVED")
        first.engine.stop()
        began = time.time()
        watch(clock=lambda: began + 30 * (time.time() - began))
        assert until_state("runs", "LOST", timeout=15).note in ("worker lost", "end not seen")
        # Its message may be back in the queue: only another event or its result can tell.
        assert state_of("held") == "RECEIVED"

    def test_a_task_that_waits_in_a_queue_is_never_called_lost(
        self, watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("monitor.engine.ends.QUIET", 0.1)
        monkeypatch.setattr("monitor.engine.SETTLE_EVERY", 0.1)
        on = watch(end_grace=0.1)
        on.workers.answers[HOST] = answer()
        on.source.say(
            heartbeat(kind="worker-online"), event("task-sent", "waits", host="gen1@here", name="x")
        )
        until_state("waits", "PENDING")
        never(lambda: state_of("waits") != "PENDING", 1.5)
        on.results["waits"] = Settled("waits", "SUCCESS", result="1")
        until_state("waits", "SUCCESS", timeout=15)


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
