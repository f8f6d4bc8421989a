"""The engine's connection and its rounds: gaps, who is asked how often, what their answers rebuild."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from monitor import models
from monitor.records import Settled
from tests.conftest import never, wait_until
from tests.spoken import HOST, Watch, answer, event, feed, heartbeat, life, state_of, until_state
from tests.spoken import watch as watch


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
